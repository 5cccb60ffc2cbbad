"""Snapshots: the rows of a feature view as of an instant, in immutable Parquet files, none visible half-written.

`<data dir>/<view>/snapshot_date=YYYY-MM-DD/<as-of>.parquet`, the as-of instant in UTC as ISO 8601 basic format. An
entity whose row the quality gate has set aside has none in it; the footer of the file names it, since it has not left.
The footer also names the features that an older definition lacked and that a run has brought in as NULL.

Those of a past day or month may be in one file, `<first as-of>--<last as-of>.parquet` in the folder of the first, with
the notes of each in its footer. The path of a snapshot names it all the same: what opens it here finds where it is.

What takes a `DataDir` or a `Snapshot` takes one in a store, too (`pipeline.base.places`), and asks that.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path, PurePath
from typing import overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.places import DataDir, Snapshot, Store, StoredSnapshot, instant_stem, local_folder
from pipeline.snapshots.changes import with_first_created
from pipeline.snapshots.exchange import alone, replace_files, sharing
from pipeline.snapshots.parquet import remove_leftovers, write_parquet
from pipeline.snapshots.store import SnapshotStore, opened

logger = logging.getLogger(__name__)

# The folder of what the shards of a run have read, until all of it is there.
PARTS = "parts"
EARLIEST, LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
# What the footer says of a snapshot; and what that of the file of a day or month says: columns and notes by instant.
Note = dict[str, list[str]]
Footer = tuple[pa.Schema, dict[datetime, Note]]
_SET_ASIDE, _LACKED, _NOTES = b"set_aside", b"lacked", b"snapshots"
_KEPT_NOTES = {_SET_ASIDE, _LACKED}
# Between the first and the last instant in the name of a file: what ISO 8601 has for an interval in names of files.
_TO = "--"
# Snapshots are for the user and the group of the runs.
_DATA_DIR_MODE = 0o750


class Replaced(PipelineError):
    """A file of snapshots that has been there is gone: others have just been put in its place."""


@overload
def snapshot_path(data_dir: Path, view: str, as_of: datetime) -> Path: ...
@overload
def snapshot_path(data_dir: DataDir, view: str, as_of: datetime) -> Snapshot: ...
def snapshot_path(data_dir: DataDir, view: str, as_of: datetime) -> Snapshot:
    """Return where the snapshot of `view` as of the instant `as_of` is kept."""
    if isinstance(data_dir, Store):
        return StoredSnapshot(data_dir / view, as_of.astimezone(UTC))
    return data_dir / view / _folder_name(as_of) / file_name(as_of)


def file_name(first: datetime, last: datetime | None = None) -> str:
    """Return the name of a file that holds rows as of the instant `first`, or of instants from it to `last`."""
    stem = instant_stem(first)
    return (stem if last is None or last == first else f"{stem}{_TO}{instant_stem(last)}") + ".parquet"


def snapshot_instant(path: Snapshot) -> datetime:
    """Return the as-of instant of the snapshot at `path`, in UTC: the inverse of `snapshot_path`."""
    return datetime.fromisoformat(path.stem)


def data_dir_of(path: Snapshot) -> DataDir:
    """Return the place of all views' snapshots in which the snapshot `path` is."""
    return path.folder.parent if isinstance(path, StoredSnapshot) else path.parents[2]


def view_of(path: Snapshot) -> str:
    """Return the view of which `path` is a snapshot."""
    return path.folder.name if isinstance(path, StoredSnapshot) else path.parts[-3]


def write_snapshot(table: pa.Table, path: Snapshot) -> int:
    """Write `table` to `path`, replacing the snapshot of this instant, and return the size of the file in bytes.

    A snapshot that is the same stays as it is, and a row whose values were there already keeps the time at which it was
    first `created`. The file of a day or month that spans the instant is taken apart. Raises `PipelineError` where the
    folder cannot be written; the previous snapshot then still stands.
    """
    if isinstance(path, StoredSnapshot):
        return _store_of(path).write(view_of(path), path.as_of, table)
    with suppress(OSError):  # the writing below says so
        path.parents[2].mkdir(_DATA_DIR_MODE, parents=True, exist_ok=True)
    while True:
        with sharing(path.parents[2]):
            held = held_at(path)
            if held is not None and is_same(held, table):
                return (file_of(path) or path).stat().st_size
            file = _file_over(path)
            if file is None:
                return write_parquet(table if held is None else with_first_created(table, held), path)
        take_apart(file)


def take_apart(file: Path) -> None:
    """Give each snapshot in `file`, that of a day or month, a file of its own again, all of them in one step.

    Raises `PipelineError` where the folder cannot be written; the file then still stands.
    """
    folder = file.parents[1]

    def write(target: Path) -> None:
        for instant in _footer_of(file)[1]:
            path = snapshot_path(folder.parent, folder.name, instant)
            if not path.exists():  # else it has been written since
                write_parquet(read_snapshot(path), target / path.relative_to(folder))

    with alone(folder.parent):
        if file.exists():  # else somebody else was faster
            replace_files(folder, [file], write)


def remove_unfinished(data_dir: DataDir) -> None:
    """Remove what runs that died have left unfinished in the data directory, a day later; stores leave nothing."""
    remove_leftovers(local_folder(data_dir), f"{PARTS}/*.parquet")
    if isinstance(data_dir, Store):
        return
    for pattern in ("*/.*-*.tmp", "*/*/.*Z-*.tmp"):
        remove_leftovers(data_dir, pattern)


@overload
def snapshots(data_dir: Path, view: str, first: datetime = ..., last: datetime = ...) -> Iterator[Path]: ...
@overload
def snapshots(data_dir: DataDir, view: str, first: datetime = ..., last: datetime = ...) -> Iterator[Snapshot]: ...
def snapshots(
    data_dir: DataDir, view: str, first: datetime = EARLIEST, last: datetime = LATEST
) -> Iterator[Path] | Iterator[Snapshot]:
    """Yield the paths of the snapshots of `view` as of `first` to `last`, both inclusive, the newest one first."""
    if isinstance(data_dir, Store):
        return (StoredSnapshot(data_dir / view, each) for each in opened(data_dir).instants(view, first, last))
    return (snapshot_path(data_dir, view, instant) for instant, _ in dated_files(data_dir, view, first, last))


def dated_files(
    data_dir: Path, view: str, first: datetime = EARLIEST, last: datetime = LATEST
) -> Iterator[tuple[datetime, Path]]:
    """Yield the instants from `first` to `last` that have a snapshot of `view`, each with its file, the newest first.

    A file of a day or month whose footer cannot be read is passed over with a warning.
    """
    for _, _, path in snapshot_files(data_dir, view, first, last):
        yield from ((instant, path) for instant in reversed(instants_in(path)) if first <= instant <= last)


def instants_in(file: Path) -> list[datetime]:
    """Return the instants of the snapshots in a file, in order; none, and a warning, where that cannot be read.

    Raises `Replaced` where the file is gone.
    """
    span = span_of(file)
    if not span or span[0] < span[1]:
        return list(_footer_of(file)[1]) if can_be_read(file) else []
    return [span[0]]


def snapshot_files(
    data_dir: Path, view: str, first: datetime = EARLIEST, last: datetime = LATEST
) -> Iterator[tuple[datetime, datetime, Path]]:
    """Yield the first and last instant of each file with snapshots of `view` as of `first` to `last`, newest first.

    A file of another name, in another folder or without a byte is none. The folder of a day is looked into only when
    its turn comes: what asks for the newest snapshot does not wait for the names of years of them.
    """
    folder, since = data_dir / view, _folder_name(first.astimezone(UTC).replace(day=1))  # there is the file of a month
    days = [day for day in folder.glob("snapshot_date=*") if since <= day.name <= _folder_name(last)]
    for day in sorted(days, reverse=True):
        found = ((*span, path) for path in day.glob("*.parquet") if (span := _span_with_bytes(path)))
        yield from (entry for entry in sorted(found, reverse=True) if entry[0] <= last and entry[1] >= first)


def is_there(path: Snapshot) -> bool:
    """Return whether there is a snapshot at `path`."""
    if isinstance(path, StoredSnapshot):
        return next(_store_of(path).instants(view_of(path), path.as_of, path.as_of), None) is not None
    return file_of(path) is not None


def _store_of(path: StoredSnapshot) -> SnapshotStore:
    return opened(path.folder.parent)


def file_of(path: Path) -> Path | None:
    """Return the file that holds the snapshot `path`, its own or that of its day or month; None if there is none."""
    if path.is_file():
        return path
    file = _file_over(path)
    return file if file and snapshot_instant(path) in instants_in(file) else None


def _file_over(path: Path) -> Path | None:
    """Return the file of a day or month that spans the instant of the snapshot `path`, None if there is none."""
    as_of, view = snapshot_instant(path), path.parents[1]
    for day in range(as_of.day, 0, -1):
        for file in (view / _folder_name(as_of.replace(day=day))).glob(f"*{_TO}*.parquet"):
            if (span := span_of(file)) and span[0] <= as_of <= span[1]:
                return file
    return None


def footer_of(schema: pa.Schema) -> Footer:
    """Return the columns that the footer of a day or month tells, and the notes of each snapshot."""
    notes = json.loads((schema.metadata or {}).get(_NOTES, b"{}"))
    return schema.remove_metadata(), dict(sorted((datetime.fromisoformat(stem), note) for stem, note in notes.items()))


def _footer_of(file: Path) -> Footer:
    """Return the columns in the file of a day or month, and the notes of each snapshot in it, in order of instants."""
    try:
        return _read_footer(file, file.stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise Replaced(f"{file} has just been replaced by others. Try again") from error


@lru_cache(maxsize=8)
def _read_footer(file: Path, _version: int) -> Footer:
    return footer_of(pq.read_schema(file))


@overload
def newest_snapshot(data_dir: Path, view: str, until: datetime | None = ...) -> Path | None: ...
@overload
def newest_snapshot(data_dir: DataDir, view: str, until: datetime | None = ...) -> Snapshot | None: ...
def newest_snapshot(data_dir: DataDir, view: str, until: datetime | None = None) -> Snapshot | None:
    """Return the snapshot of `view` with the latest as-of instant (at or before `until`), None if there is none.

    One that cannot be read is passed over with a warning.
    """
    return next(filter(can_be_read, snapshots(data_dir, view, last=until or LATEST)), None)


def snapshots_between(data_dir: DataDir, view: str, first: datetime, last: datetime) -> list[Snapshot]:
    """Return the snapshots of `view` as of `first` and later, up to `last` exclusively, in order."""
    return list(snapshots(data_dir, view, first, last - timedelta(microseconds=1)))[::-1]


def can_be_read(path: Snapshot) -> bool:
    """Return whether the footer of a snapshot can be read, which tells where the rest of it is; warn where not."""
    if isinstance(path, StoredSnapshot):
        if reason := _store_of(path).why_unreadable(view_of(path), path.as_of):
            logger.warning("passed over: the snapshot %s cannot be read: %s", path, reason)
        return not reason
    try:
        pq.read_metadata(file_of(path) or path)
    except FileNotFoundError as error:
        raise Replaced(f"{path} has just been replaced by others. Try again") from error
    except (OSError, pa.ArrowException) as error:
        logger.warning("passed over: the snapshot %s cannot be read: %s", path, first_line(error))
        return False
    return True


def is_whole(path: Path) -> bool:
    """Return whether a Parquet file ends as one does: not so a file of which only a part has been copied."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" and file.seek(-4, os.SEEK_END) > 4 and file.read() == b"PAR1"


def read_snapshot(path: Snapshot, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of one snapshot with its notes, without the partition column."""
    if isinstance(path, StoredSnapshot):
        schema = schema_of(path)
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns], schema.metadata)
        return _store_of(path).read(view_of(path), [path.as_of], wanted)
    if path.is_file() or not (file := file_of(path)):
        return pq.read_table(path, columns=columns, partitioning=None)
    rows = snapshot_dataset(path, _footer_of(file)[0]).to_table(columns)
    return rows.replace_schema_metadata(schema_of(path).metadata)


def snapshot_dataset(path: Snapshot, schema: pa.Schema) -> ds.Dataset:
    """Return the rows of one snapshot as a dataset of the columns of `schema`, NULL where it lacks one."""
    if isinstance(path, StoredSnapshot):
        return ds.dataset(_store_of(path).read(view_of(path), [path.as_of], schema))
    file = file_of(path) or path
    rows = ds.dataset([str(file)], schema, format="parquet")
    return rows if file == path else rows.filter(pc.field("event_timestamp") == pa.scalar(snapshot_instant(path)))


def open_snapshot(path: Snapshot) -> pq.ParquetFile:
    """Return one snapshot as a Parquet file, which is made in memory where it has no file for itself."""
    if isinstance(path, Path) and path.is_file():
        return pq.ParquetFile(path, pre_buffer=False)
    buffer = pa.BufferOutputStream()
    pq.write_table(read_snapshot(path), buffer, compression="zstd")
    return pq.ParquetFile(pa.BufferReader(buffer.getvalue()))


def schema_of(path: Snapshot) -> pa.Schema:
    """Return the columns of one snapshot with its notes."""
    if isinstance(path, StoredSnapshot):
        return _store_of(path).schema(view_of(path), path.as_of)
    if path.is_file() or not (file := file_of(path)):
        return pq.read_schema(path)
    schema, notes = _footer_of(file)
    return with_note(schema, notes[snapshot_instant(path)])


def with_note(schema: pa.Schema, note: Note) -> pa.Schema:
    """Return `schema` with the notes of one snapshot, as the footer of its own file has them."""
    return schema.with_metadata({key: json.dumps(each) for key, each in note.items()})


def with_notes(schema: pa.Schema, snapshots: dict[datetime, pa.Schema]) -> pa.Schema:
    """Return `schema` with the notes of all `snapshots` by instant, for the file that holds them."""
    notes = {
        instant_stem(instant): {
            key.decode(): json.loads(one.metadata[key]) for key in _KEPT_NOTES & {*(one.metadata or {})}
        }
        for instant, one in snapshots.items()
    }
    return schema.with_metadata({_NOTES: json.dumps(notes)})


def with_set_aside(snapshot: pa.Table, keys: pa.ChunkedArray) -> pa.Table:
    """Return `snapshot` with the note that the rows of the entities `keys` have been set aside."""
    noted = sorted(pc.unique(keys.drop_null()).to_pylist())
    return snapshot.replace_schema_metadata({_SET_ASIDE: json.dumps(noted)})


def set_aside_in(schema: pa.Schema) -> pa.Array:
    """Return the keys of the entities that have no row in the snapshot of `schema` because it was set aside."""
    return pa.array(json.loads((schema.metadata or {}).get(_SET_ASIDE, b"[]")), pa.string())


def with_lacked(schema: pa.Schema, features: list[str]) -> pa.Schema:
    """Return `schema` with the note that its snapshots were computed without `features`, or with another type."""
    notes = dict(schema.metadata or {})
    if _NOTES in notes:
        each = json.loads(notes[_NOTES])
        for note in each.values():
            note[_LACKED.decode()] = sorted({*note.get(_LACKED.decode(), []), *features})
        return schema.with_metadata(notes | {_NOTES: json.dumps(each)})
    return schema.with_metadata(notes | {_LACKED: json.dumps(sorted({*lacked_in(schema), *features}))})


def lacked_in(schema: pa.Schema) -> list[str]:
    """Return the features that the snapshot of `schema` was computed without."""
    return list(json.loads((schema.metadata or {}).get(_LACKED, b"[]")))


def holds(path: Snapshot, table: pa.Table) -> bool:
    """Return whether `path` holds what `table` does, whenever it was created; a damaged file does not."""
    held = held_at(path)
    return held is not None and is_same(held, table)


def held_at(path: Snapshot) -> pa.Table | None:
    """Return the rows at `path`, None where nothing is, it is damaged or its definition lacked a feature."""
    try:
        held = read_snapshot(path) if is_there(path) else None
    except (OSError, pa.ArrowException):
        return None
    return held if held is not None and "created" in held.column_names and not lacked_in(held.schema) else None


def is_same(held: pa.Table, table: pa.Table) -> bool:
    """Return whether two snapshots hold the same, whenever it was created."""
    same_notes = set_aside_in(held.schema).equals(set_aside_in(table.schema))
    return same_notes and bool(held.drop(["created"]).equals(table.drop(["created"])))


def has_snapshot_name(path: Path) -> bool:
    """Return whether `path` is called as a file of snapshots is, and in the folder of its first day."""
    return span_of(path) is not None


def span_of(path: PurePath) -> tuple[datetime, datetime] | None:
    """Return the first and last instant in the name of a file of snapshots, None where it is no such name."""
    stems = path.stem.split(_TO)
    try:
        first, last = datetime.fromisoformat(stems[0]), datetime.fromisoformat(stems[-1])
        is_one = first <= last and path.name == file_name(first, last) and path.parent.name == _folder_name(first)
    except (ValueError, OverflowError, TypeError):  # no instant, one at the end of time, one without a zone
        return None
    return (first, last) if is_one else None


def _folder_name(as_of: datetime) -> str:
    return f"snapshot_date={as_of.astimezone(UTC).date()}"


def _span_with_bytes(path: Path) -> tuple[datetime, datetime] | None:
    """Return the span of a file of snapshots, None where no such file is called so or it is empty."""
    span = span_of(path)
    try:
        return span if span and path.stat().st_size and path.is_file() else None
    except FileNotFoundError:  # gone by now
        return None

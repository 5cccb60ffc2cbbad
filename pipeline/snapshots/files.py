"""Snapshots: one immutable Parquet file per feature view and as-of instant, never visible half-written.

`<data dir>/<view>/snapshot_date=YYYY-MM-DD/<as-of>.parquet`, the as-of instant in UTC as ISO 8601 basic format. An
entity whose row the quality gate has set aside has none in it; the footer of the file names it, since it has not left.
The footer also names the features that an older definition lacked and that a run has brought in as NULL.
"""

import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.base.errors import first_line
from pipeline.snapshots.changes import with_first_created
from pipeline.snapshots.parquet import remove_leftovers, write_parquet

logger = logging.getLogger(__name__)

EARLIEST, LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_SET_ASIDE, _LACKED = b"set_aside", b"lacked"


def snapshot_path(data_dir: Path, view: str, as_of: datetime) -> Path:
    """Return where the snapshot of `view` as of the instant `as_of` is kept."""
    return data_dir / view / _folder_name(as_of) / file_name(as_of)


def file_name(as_of: datetime) -> str:
    """Return the name of a file that holds rows as of the instant `as_of`."""
    utc = as_of.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}" + (f".{utc.microsecond:06d}" if utc.microsecond else "") + "Z.parquet"


def snapshot_instant(path: Path) -> datetime:
    """Return the as-of instant of the snapshot at `path`, in UTC: the inverse of `snapshot_path`."""
    return datetime.fromisoformat(path.stem)


def write_snapshot(table: pa.Table, path: Path) -> int:
    """Write `table` to `path`, replacing what is there, and return the size of the file in bytes.

    A file that holds the same stays as it is, and a row whose values were there already keeps the time at which it was
    first `created`. Raises `PipelineError` where the folder cannot be written; the previous file then still stands.
    """
    held = _held(path)
    if held is not None:
        if _is_same(held, table):
            return path.stat().st_size
        table = with_first_created(table, held)
    return write_parquet(table, path)


def remove_unfinished(data_dir: Path) -> None:
    """Remove what runs that died have left unfinished in the data directory, a day later."""
    for pattern in ("*/.*-*.tmp", "*/*/.*Z-*.tmp"):
        remove_leftovers(data_dir, pattern)


def snapshots(data_dir: Path, view: str, first: datetime = EARLIEST, last: datetime = LATEST) -> Iterator[Path]:
    """Yield the snapshots of `view` as of `first` to `last`, both inclusive, the newest one first.

    A file of another name, in another folder or without a byte is none. The folder of a day is looked into only when
    its turn comes: what asks for the newest snapshot does not wait for the names of years of them.
    """
    for folder in sorted((data_dir / view).glob("snapshot_date=*"), reverse=True):
        if _folder_name(first) <= folder.name <= _folder_name(last):
            found = {instant: path for path in folder.glob("*.parquet") if (instant := _instant_of(path))}
            yield from (found[instant] for instant in sorted(found, reverse=True) if first <= instant <= last)


def newest_snapshot(data_dir: Path, view: str, until: datetime | None = None) -> Path | None:
    """Return the snapshot of `view` with the latest as-of instant (at or before `until`), None if there is none.

    One that cannot be read is passed over with a warning.
    """
    return next(filter(can_be_read, snapshots(data_dir, view, last=until or LATEST)), None)


def snapshots_between(data_dir: Path, view: str, first: datetime, last: datetime) -> list[Path]:
    """Return the snapshots of `view` as of `first` and later, up to `last` exclusively, in order."""
    return list(snapshots(data_dir, view, first, last - timedelta(microseconds=1)))[::-1]


def can_be_read(path: Path) -> bool:
    """Return whether the footer of a snapshot can be read, which tells where the rest of it is; warn where not."""
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        logger.warning("passed over: the snapshot %s cannot be read: %s", path, first_line(error))
        return False
    return True


def is_whole(path: Path) -> bool:
    """Return whether a Parquet file ends as one does: not so a file of which only a part has been copied."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" and file.seek(-4, os.SEEK_END) > 4 and file.read() == b"PAR1"


def read_snapshot(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of one snapshot, without the partition column."""
    return pq.read_table(path, columns=columns, partitioning=None)


def with_set_aside(snapshot: pa.Table, keys: pa.ChunkedArray) -> pa.Table:
    """Return `snapshot` with the note that the rows of the entities `keys` have been set aside."""
    noted = sorted(pc.unique(keys.drop_null()).to_pylist())
    return snapshot.replace_schema_metadata({_SET_ASIDE: json.dumps(noted)})


def set_aside_in(schema: pa.Schema) -> pa.Array:
    """Return the keys of the entities that have no row in the snapshot of `schema` because it was set aside."""
    return pa.array(json.loads((schema.metadata or {}).get(_SET_ASIDE, b"[]")), pa.string())


def with_lacked(snapshot: pa.Table, features: list[str]) -> pa.Table:
    """Return `snapshot` with the note that its definition lacked `features` too, or had them as another type."""
    notes = dict(snapshot.schema.metadata or {})
    return snapshot.replace_schema_metadata(
        notes | {_LACKED: json.dumps(sorted({*lacked_in(snapshot.schema), *features}))}
    )


def lacked_in(schema: pa.Schema) -> list[str]:
    """Return the features that the snapshot of `schema` was computed without."""
    return list(json.loads((schema.metadata or {}).get(_LACKED, b"[]")))


def holds(path: Path, table: pa.Table) -> bool:
    """Return whether `path` holds what `table` does, whenever it was created; a damaged file does not."""
    held = _held(path)
    return held is not None and _is_same(held, table)


def _held(path: Path) -> pa.Table | None:
    """Return what is at `path`, None where nothing is, it is damaged or its definition lacked a feature."""
    try:
        held = read_snapshot(path) if path.exists() else None
    except (OSError, pa.ArrowException):
        return None
    return held if held is not None and "created" in held.column_names and not lacked_in(held.schema) else None


def _is_same(held: pa.Table, table: pa.Table) -> bool:
    same_notes = set_aside_in(held.schema).equals(set_aside_in(table.schema))
    return same_notes and bool(held.drop(["created"]).equals(table.drop(["created"])))


def has_snapshot_name(path: Path) -> bool:
    """Return whether `path` is called as a snapshot is, and in the folder of its day."""
    try:
        instant = snapshot_instant(path)
        return path.name == file_name(instant) and path.parent.name == _folder_name(instant)
    except (ValueError, OverflowError):
        return False


def _folder_name(as_of: datetime) -> str:
    return f"snapshot_date={as_of.astimezone(UTC).date()}"


def _instant_of(path: Path) -> datetime | None:
    """Return the as-of instant of the snapshot at `path`, None where no snapshot has such a name or it is empty."""
    try:
        is_one = has_snapshot_name(path) and path.stat().st_size and path.is_file()
    except FileNotFoundError:  # gone by now
        return None
    return snapshot_instant(path) if is_one else None

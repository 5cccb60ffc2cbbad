"""The upkeep of a view's folder, so that all its files are snapshots, with the columns that the definition has now.

Stock Feast readers open every `*.parquet` below the folder, however deep, with the columns of the first one. A single
file that is no snapshot, or lacks a feature that a younger definition has, keeps them from reading any other. A run
moves the former into quarantine and brings the latter to the columns of now.

Years of files are not opened each time: `.definition` in the folder, which no reader takes for Parquet, tells up to
when they have been looked at, and for which columns. It is written last: without it the next run looks again.
"""

import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.base.errors import PipelineError
from pipeline.base.fault_points import fault_point
from pipeline.base.places import DataDir, Snapshot, Store, StoredSnapshot
from pipeline.base.specs import snapshot_schema
from pipeline.base.stop import raise_if_stopped
from pipeline.snapshots.exchange import MARKER, sharing
from pipeline.snapshots.files import has_snapshot_name, is_there, lacked_in, schema_of, with_lacked
from pipeline.snapshots.parquet import write_parquet
from pipeline.snapshots.quarantine import free_path
from pipeline.snapshots.store import opened

logger = logging.getLogger(__name__)

# A damaged file that is younger may still be on its way here: it is looked at once more, so much later.
_YOUNG_NS = 60 * 1_000_000_000
_LOOK_AGAIN_SECONDS = 1.0
_NAMED = 3


@dataclass
class Findings:
    """What is in the readers' way: files that are no snapshots, and snapshots without the columns of the definition.

    `unsettled` are files that cannot be opened, or that somebody is writing; `is_older` is said of a store as a whole.
    """

    strays: list[Path] = field(default_factory=list)
    older: list[Path] = field(default_factory=list)
    unsettled: list[Path] = field(default_factory=list)
    is_older: bool = False


def look(data_dir: DataDir, view: str) -> Findings:
    """Return what is in the way in the folder of `view` since it was last kept up; nothing is changed.

    Raises `OSError` where the folder cannot be read, `PipelineError` where a store cannot.
    """
    if isinstance(data_dir, Store):
        return Findings(is_older=opened(data_dir).lacks_columns(view))
    folder, schema = data_dir / view, snapshot_schema(view)
    return _look(folder, schema, _kept_up_until(folder, schema, time.time_ns())) if folder.is_dir() else Findings()


def keep_up(
    data_dir: DataDir,
    view: str,
    progress: Callable[[float], None] = lambda _: None,
    *,
    called: DataDir | None = None,
) -> None:
    """Move what is no snapshot of `view` into quarantine and bring older snapshots to the columns of the definition.

    A feature that they lack is NULL there; other values, `created` and the notes in the footer stay. A value of another
    type is cast; where one does not fit, the feature is NULL in that snapshot and a copy as it was goes to quarantine.
    What was done is logged, a line each, in which the data directory may be `called` something else; `progress` is told
    the share of the older ones. Nothing is deleted, and an interruption leaves whole files. Raises `PipelineError`
    where the folder cannot be read or written.
    """
    if isinstance(data_dir, Store):
        opened(data_dir).keep_up(view)
        return
    folder, schema = data_dir / view, snapshot_schema(view)
    if not folder.is_dir():
        return
    marker = folder / f"{MARKER}-{os.getpid()}.tmp"
    try:
        marker.write_text(described(schema))  # now, so that what comes while we look is looked at next time
        now = marker.stat().st_mtime_ns
        found = _look(folder, schema, _kept_up_until(folder, schema, now))
        being_written = _being_written(found.strays, now)
        strays = [path for path in found.strays if path not in being_written]
        misfits: dict[str, list[str]] = defaultdict(list)
        for number, path in enumerate(found.older):
            raise_if_stopped()
            progress(number / len(found.older))
            try:
                with sharing(data_dir):
                    for name in _bring_to(schema, path, data_dir, view):
                        misfits[name].append(path.stem)
            except (pa.ArrowException, KeyError):  # behind a sound footer the rows are damaged
                strays.append(path)
            except FileNotFoundError:
                continue
        moved = [path for path in strays if _move(path, data_dir, view)]
        _report(view, folder, f"{called or data_dir}/quarantine/{view}", moved, found.older, misfits)
        if found.unsettled or being_written:
            _report_unsettled(view, [*found.unsettled, *being_written])
            return
        fault_point("upkeep: done")
        marker.replace(folder / MARKER)
    except OSError as error:
        raise PipelineError(
            f"{folder} cannot be kept up: {error.strerror or error}. Check the folder, its rights and its space."
        ) from error
    finally:
        marker.unlink(missing_ok=True)


def is_of_definition(path: Snapshot, view: str) -> bool:
    """Return whether `path` is a snapshot with all features of `view`, none of them only brought in later as NULL."""
    if isinstance(path, StoredSnapshot) and not is_there(path):
        return False
    try:
        kept = schema_of(path)
    except (OSError, pa.ArrowException):
        return False
    return has_columns(kept, snapshot_schema(view)) and not lacked_in(kept)


# Looking ----------------------------------------------------------------------------------------------------------


def described(schema: pa.Schema) -> str:
    """Return the columns as the file in the folder has them, which tells up to when it has been kept up."""
    return "".join(f"{column.name} {column.type}\n" for column in schema)


def _kept_up_until(folder: Path, schema: pa.Schema, now: int) -> int:
    """Return when all files had the columns of `schema`, in ns since 1970 by the clock of the disk; 0 for never."""
    marker = folder / MARKER
    try:
        until, told = marker.stat().st_mtime_ns, marker.read_bytes()
    except FileNotFoundError:
        return 0
    # of a clock that was wrong, nothing follows
    return until if told == described(schema).encode() and until <= now else 0


def _look(folder: Path, schema: pa.Schema, since: int) -> Findings:
    found = Findings()
    for path in _files(folder, since):
        raise_if_stopped()
        try:
            kept = _columns_of(path)
        except FileNotFoundError:  # gone by now
            continue
        except OSError:
            found.unsettled.append(path)
            continue
        if kept is None or not {column.name for column in schema if not column.nullable} <= set(kept.names):
            found.strays.append(path)
        elif not has_columns(kept, schema):
            found.older.append(path)
    return found


def _files(folder: Path | str, since: int) -> Iterator[Path]:
    """Yield what readers open below `folder` and has come or changed `since`: the inode knows, whatever its mtime."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, since)
            elif entry.name.endswith(".parquet") and entry.stat(follow_symlinks=False).st_ctime_ns >= since:
                yield Path(entry.path)


def _columns_of(path: Path) -> pa.Schema | None:
    """Return the columns of a snapshot, None for what is none; raises `OSError` where it cannot be opened."""
    if not has_snapshot_name(path):
        return None
    try:
        return pq.read_schema(path)
    except pa.ArrowException:
        return None
    except OSError as error:
        if error.errno:
            raise
        return None  # Arrow's own: the footer is none


def has_columns(kept: pa.Schema, schema: pa.Schema) -> bool:
    """Return whether all columns of `schema` are kept with their types; a feature that is gone may still be there."""
    places = [kept.get_field_index(column.name) for column in schema]
    return all(
        place >= 0 and kept.field(place).type == column.type for place, column in zip(places, schema, strict=True)
    )


def _being_written(strays: Iterable[Path], now: int) -> set[Path]:
    """Return those of the damaged snapshots among `strays` that change while one looks at them."""

    def state(path: Path) -> tuple[int, ...]:
        try:
            status = path.stat()
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns

    before = {path: state(path) for path in strays if has_snapshot_name(path)}
    young = {path: seen for path, seen in before.items() if seen and now - seen[2] < _YOUNG_NS}
    if young:
        time.sleep(_LOOK_AGAIN_SECONDS)
    return {path for path, seen in young.items() if state(path) != seen}


# Putting right ----------------------------------------------------------------------------------------------------


def _bring_to(schema: pa.Schema, path: Path, data_dir: Path, view: str) -> list[str]:
    """Write the snapshots at `path` again with all columns of `schema`; return the features that do not fit their type.

    Raises `pyarrow.ArrowException` where the rows cannot be read, or have no key or time.
    """
    with _reading(), pq.ParquetFile(path) as file:
        kept = file.schema_arrow
        changed = [column for column in schema if not has_columns(kept, pa.schema([column]))]
        misfits = {column.name: kept.field(column.name).type for column in changed if not _fits(file, column)}
        if misfits:
            shutil.copy2(path, free_path(path, data_dir, view))
        # the features of now in their order, then those that are gone
        target = pa.schema([*schema, *(column for column in kept if column.name not in schema.names)], kept.metadata)
        target = with_lacked(target, [column.name for column in changed])
        lacked = {*misfits, *schema.names} - {*kept.names} | {*misfits}

        def brought() -> Iterator[pa.RecordBatch]:
            for group in range(file.num_row_groups):
                with _reading():
                    rows = file.read_row_group(group, use_threads=False)
                columns = [
                    pa.nulls(len(rows), column.type) if column.name in lacked else rows[column.name].cast(column.type)
                    for column in target
                ]
                yield from pa.table(columns, schema=target).combine_chunks().to_batches()

        write_parquet(pa.RecordBatchReader.from_batches(target, brought()), path)
    return [f"{name} was {was} and does not fit {schema.field(name).type}" for name, was in misfits.items()]


def _fits(file: pq.ParquetFile, column: pa.Field) -> bool:
    """Return whether the values of a feature fit the type of `column`; one that is not there does."""
    if column.name not in file.schema_arrow.names:
        return True
    try:
        file.read([column.name], use_threads=False)[column.name].cast(column.type)
    except pa.ArrowException:
        if not column.nullable:
            raise
        return False
    return True


@contextmanager
def _reading() -> Iterator[None]:
    """Let damaged rows raise `pyarrow.ArrowInvalid`, as other damage does, not Arrow's own `OSError`."""
    try:
        yield
    except OSError as error:
        if error.errno:
            raise
        raise pa.ArrowInvalid(str(error)) from error


def _move(path: Path, data_dir: Path, view: str) -> bool:
    """Move `path` into quarantine; return whether it was still there."""
    try:
        shutil.move(path, free_path(path, data_dir, view))
    except FileNotFoundError:
        return False
    fault_point("upkeep: moved")
    return True


def _report(
    view: str, folder: Path, place: str, moved: list[Path], older: list[Path], misfits: dict[str, list[str]]
) -> None:
    told = {"view": view}
    if moved:
        text = "%s: %d files are no snapshots, and are moved to %s: %s"
        logger.warning(
            text, view, len(moved), place, _listed(str(path.relative_to(folder)) for path in moved), extra=told
        )
    if brought := len(set(older) - set(moved)):
        text = (
            "%s: %d snapshots of an older definition have the columns of now; what they lacked is NULL until a backfill"
        )
        logger.info(text, view, brought, extra=told)
    for misfit, stems in misfits.items():
        text = "%s: %s in %d snapshots, first %s: it is NULL there, and the files as they were are in %s"
        logger.warning(text, view, misfit, len(stems), min(stems), place, extra=told)


def _report_unsettled(view: str, paths: list[Path]) -> None:
    text = "%s: %d files cannot be read or are being written, and stay: %s"
    logger.warning(text, view, len(paths), _listed(map(str, paths)), extra={"view": view})


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return ", ".join([first, *others[: _NAMED - 1]]) + (", ..." if len(others) >= _NAMED else "")

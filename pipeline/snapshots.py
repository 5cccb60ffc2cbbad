"""Snapshots: one immutable Parquet file per feature view and as-of instant, never visible half-written.

`<data dir>/<view>/snapshot_date=YYYY-MM-DD/<as-of>.parquet`, the as-of instant in UTC as ISO 8601 basic format.
"""

import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PipelineError

# A reader that goes by batches then holds a part of the file, not all of it.
ROW_GROUP_ROWS = 16_384


def snapshot_path(data_dir: Path, view: str, as_of: datetime) -> Path:
    """Return where the snapshot of `view` as of the instant `as_of` is kept."""
    utc = as_of.astimezone(UTC)
    name = f"{utc:%Y%m%dT%H%M%S}" + (f".{utc.microsecond:06d}" if utc.microsecond else "") + "Z"
    return data_dir / view / f"snapshot_date={utc:%Y-%m-%d}" / f"{name}.parquet"


def snapshot_instant(path: Path) -> datetime:
    """Return the as-of instant of the snapshot at `path`, in UTC: the inverse of `snapshot_path`."""
    return datetime.fromisoformat(path.stem)


def write_snapshot(table: pa.Table, path: Path) -> int:
    """Write `table` to `path`, replacing what is there, and return the size of the file in bytes.

    A file that holds the same rows stays as it is, and with it the time at which they were first `created`.
    The file is written and synced beside its place under a name that no reader looks for, then renamed. Raises
    `PipelineError` where the folder cannot be written; the previous file then still stands.
    """
    temporary = None
    if _holds(path, table):
        return path.stat().st_size
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP_ROWS)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise PipelineError(
            f"Snapshot {path} cannot be written: {error.strerror or error}. "
            "Check FEATURE_DATA_DIR, its rights and its space."
        ) from error
    finally:
        if temporary:
            with suppress(FileNotFoundError):
                temporary.unlink()
    return path.stat().st_size


def newest_snapshot(data_dir: Path, view: str, until: datetime | None = None) -> Path | None:
    """Return the snapshot of `view` with the latest as-of instant (at or before `until`), None if there is none."""
    files = (data_dir / view).glob("snapshot_date=*/*.parquet")
    limit = snapshot_path(data_dir, view, until) if until else None
    return max((file for file in files if limit is None or _order(file) <= _order(limit)), key=_order, default=None)


def snapshots_between(data_dir: Path, view: str, first: datetime, last: datetime) -> list[Path]:
    """Return the snapshots of `view` as of `first` and later, up to `last` exclusively, in order."""
    bounds = [_order(snapshot_path(data_dir, view, instant)) for instant in (first, last)]
    files = (data_dir / view).glob("snapshot_date=*/*.parquet")
    return sorted((file for file in files if bounds[0] <= _order(file) < bounds[1]), key=_order)


def read_snapshot(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of one snapshot, without the partition column."""
    return pq.read_table(path, columns=columns, partitioning=None)


def _holds(path: Path, table: pa.Table) -> bool:
    """Return whether `path` holds the rows of `table`, whenever they were created; a damaged file does not."""
    try:
        return path.exists() and read_snapshot(path).drop(["created"]).equals(table.drop(["created"]))
    except (OSError, pa.ArrowException, KeyError):
        return False


def _order(path: Path) -> str:
    """Return a key that sorts snapshots by instant: `20260101T000000Z` before `20260101T000000.5Z`."""
    return path.stem.removesuffix("Z")


def _sync_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

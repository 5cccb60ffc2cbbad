"""Snapshots: one immutable Parquet file per feature view and as-of instant, never visible half-written.

`<data dir>/<view>/snapshot_date=YYYY-MM-DD/<as-of>.parquet`, the as-of instant in UTC as ISO 8601 basic format. An
entity whose row the quality gate has set aside has none in it; the footer of the file names it, since it has not left.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.snapshots.parquet import remove_leftovers, write_parquet

_SET_ASIDE = b"set_aside"


def snapshot_path(data_dir: Path, view: str, as_of: datetime) -> Path:
    """Return where the snapshot of `view` as of the instant `as_of` is kept."""
    return data_dir / view / f"snapshot_date={as_of.astimezone(UTC):%Y-%m-%d}" / file_name(as_of)


def file_name(as_of: datetime) -> str:
    """Return the name of a file that holds rows as of the instant `as_of`."""
    utc = as_of.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}" + (f".{utc.microsecond:06d}" if utc.microsecond else "") + "Z.parquet"


def snapshot_instant(path: Path) -> datetime:
    """Return the as-of instant of the snapshot at `path`, in UTC: the inverse of `snapshot_path`."""
    return datetime.fromisoformat(path.stem)


def write_snapshot(table: pa.Table, path: Path) -> int:
    """Write `table` to `path`, replacing what is there, and return the size of the file in bytes.

    A file that holds the same stays as it is, and with it the time at which its rows were first `created`.
    Raises `PipelineError` where the folder cannot be written; the previous file then still stands.
    """
    return path.stat().st_size if _holds(path, table) else write_parquet(table, path)


def remove_unfinished(data_dir: Path) -> None:
    """Remove what runs that died have left unfinished in the data directory, a day later."""
    remove_leftovers(data_dir, "*/*/.*Z-*.tmp")


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


def with_set_aside(snapshot: pa.Table, keys: pa.ChunkedArray) -> pa.Table:
    """Return `snapshot` with the note that the rows of the entities `keys` have been set aside."""
    noted = sorted(pc.unique(keys.drop_null()).to_pylist())
    return snapshot.replace_schema_metadata({_SET_ASIDE: json.dumps(noted)})


def set_aside_in(schema: pa.Schema) -> pa.Array:
    """Return the keys of the entities that have no row in the snapshot of `schema` because it was set aside."""
    return pa.array(json.loads((schema.metadata or {}).get(_SET_ASIDE, b"[]")), pa.string())


def _holds(path: Path, table: pa.Table) -> bool:
    """Return whether `path` holds what `table` does, whenever it was created; a damaged file does not."""
    try:
        if not path.exists():
            return False
        held = read_snapshot(path)
        if not set_aside_in(held.schema).equals(set_aside_in(table.schema)):
            return False
        return bool(held.drop(["created"]).equals(table.drop(["created"])))
    except (OSError, pa.ArrowException, KeyError):
        return False


def _order(path: Path) -> str:
    """Return a key that sorts snapshots by instant: `20260101T000000Z` before `20260101T000000.5Z`."""
    return path.stem.removesuffix("Z")

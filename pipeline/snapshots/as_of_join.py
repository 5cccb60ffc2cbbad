"""The point-in-time join of a view's snapshots: what was known of an asset at an instant.

Snapshots are many and small, and the newest one answers most rows. So that one is looked into first, those before it
only for the rows that it leaves open, and features are read from those files alone in which a row was found.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.specs import TIMESTAMP
from pipeline.snapshots.files import EARLIEST, is_whole, snapshot_instant, snapshots

logger = logging.getLogger(__name__)

_AS_OF_JOIN, _FEATURES_OF = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("as_of_join.sql", "features_of.sql")
)
_FOUND = pa.schema(
    {
        "entity_row": pa.int64(),
        "asset_id": pa.string(),
        "event_timestamp": TIMESTAMP,
        "created": TIMESTAMP,
        "filename": pa.string(),
    }
)
# How much further back each look reaches than the one before. More opens more files for an asset that only the newest
# snapshot lacks, less looks more often for an asset that has none.
_FURTHER = 8


def as_of_join(
    rows: pa.Table, folder: Path, schema: pa.Schema, ttl: timedelta | None, *, live_snapshots: bool = False
) -> pa.Table:
    """Return the features of `schema` for `rows` (`asset_id`, `event_timestamp`), in their order.

    `folder` is that of a view's snapshots; `schema` is the view's `snapshot_schema`, maybe without some features. A
    row gets the newest snapshot of its asset at or before its instant, within the `ttl` (None: however old), with
    `live_snapshots` the newest of those `created` by then; NULLs where there is none.

    A feature that a snapshot of an older definition lacks is NULL, one of another type is cast. A file that is no
    snapshot is passed over, half a one with a warning. Raises `PipelineError` where no instant has a snapshot, none
    was created by then, a value does not fit its feature's type, or a file cannot be read.
    """
    rows = rows.select(["asset_id", "event_timestamp"]).append_column("entity_row", pa.array(np.arange(rows.num_rows)))
    files: list[str] = []
    try:
        with duckdb.connect(config={"autoinstall_known_extensions": False}) as engine:
            found = _find(engine, rows, folder, ttl, live_snapshots)
            files = found["filename"].unique().to_pylist()
            features = ds.dataset(files, schema, format="parquet")  # NULL where a file lacks a feature, or a safe cast
            for name, relation in {"entity_rows": rows, "found": found, "snapshots": features}.items():
                engine.register(name, relation)
            return engine.sql(_FEATURES_OF).to_arrow_table()
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        reason = _misfit(files, schema) or first_line(error)
        raise PipelineError(f"{folder.name}: {reason}. Check the snapshots in {folder}.") from error


def _find(
    engine: duckdb.DuckDBPyConnection, rows: pa.Table, folder: Path, ttl: timedelta | None, live_snapshots: bool
) -> pa.Table:
    """Return which snapshot serves which of `rows`, as the SQL of `as_of_join` does; none of them twice."""
    instants, at = np.unique(rows["event_timestamp"].to_numpy(), return_inverse=True)
    paths, known = _snapshots_for(instants, folder, ttl)
    # The snapshots of each instant are those from `limit` to `stop`; those from `start` on are looked into.
    stop = np.searchsorted(known, instants, side="right")
    limit = np.searchsorted(known, instants - np.timedelta64(ttl)) if ttl else np.zeros_like(stop)
    _report_instants(folder.name, instants, limit < stop)
    found, is_open, step = [_FOUND.empty_table()], (limit < stop)[at], 1
    while is_open.any():
        start = np.maximum(stop - step, limit)
        files = _whole(paths[_in_any(start, stop, np.unique(at[is_open]))])
        if files:
            oldest = pa.array(known[start[at[is_open]]]).cast(TIMESTAMP)
            engine.register("entity_rows", rows.filter(is_open).append_column("oldest", oldest))
            parameters = {"files": files, "live_snapshots": live_snapshots}
            found.append(engine.sql(_AS_OF_JOIN, params=parameters).to_arrow_table().cast(_FOUND))
            is_open[found[-1]["entity_row"].to_numpy()] = False
        stop, step = start, step * _FURTHER
        is_open &= (limit < stop)[at]
    if live_snapshots and not any(table.num_rows for table in found):
        raise PipelineError(
            f"{folder.name}: no snapshot was there yet at the instant of any row. Backfilled ones never were: join "
            "them without --live-snapshots"
        )
    return pa.concat_tables(found)


def _snapshots_for(
    instants: NDArray[np.datetime64], folder: Path, ttl: timedelta | None
) -> tuple[NDArray[np.object_], NDArray[np.datetime64]]:
    """Return the snapshots that rows at `instants` (ascending) can need and what they are as of, both ascending."""
    first, last = (instant.astype("datetime64[us]").item().replace(tzinfo=UTC) for instant in instants[[0, -1]])
    since = first - ttl if ttl and first - EARLIEST > ttl else EARLIEST
    paths = list(snapshots(folder.parent, folder.name, since, last))[::-1]
    known = pa.array([snapshot_instant(path) for path in paths], TIMESTAMP).to_numpy()
    return np.array(paths, dtype=object), known


def _report_instants(view: str, instants: NDArray[np.datetime64], is_served: NDArray[np.bool_]) -> None:
    """Raise `PipelineError` where no instant has a snapshot within the ttl, warn where only some have one."""
    if not is_served.any():
        first, last = (f"{instant.astype('datetime64[s]')}Z" for instant in instants[[0, -1]])
        raise PipelineError(
            f"{view} has no snapshot for instants between {first} and {last}: make some with "
            "`python materialize_features.py backfill`"
        )
    if not is_served.all():
        without = instants[~is_served]
        logger.warning(
            "%s: %d of %d instants have no snapshot within the ttl before them, the first %sZ: its features are NULL",
            view,
            len(without),
            len(instants),
            without[0].astype("datetime64[s]"),
        )


def _in_any(start: NDArray[np.int64], stop: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers that lie in any of the `chosen` ranges, each once."""
    edges = np.zeros(stop[-1] + 1, dtype=np.int64)
    np.add.at(edges, start[chosen], 1)
    np.add.at(edges, stop[chosen], -1)
    return np.flatnonzero(np.cumsum(edges))


def _whole(paths: NDArray[np.object_]) -> list[str]:
    """Return those of the Parquet files `paths` that are whole; warn of the others."""
    whole = [str(path) for path in paths if is_whole(path)]
    if len(whole) < len(paths):
        halves = [str(path) for path in paths if str(path) not in whole]
        logger.warning("%d snapshots are not whole and are passed over: %s", len(halves), ", ".join(halves[:3]))
    return whole


def _misfit(paths: Sequence[str], schema: pa.Schema) -> str | None:
    """Return, in words, the first feature in `paths` whose values do not fit the type in `schema`; None without one."""
    for path in paths:
        with suppress(OSError, pa.ArrowException):  # damaged otherwise
            kept = pq.read_schema(path)
            changed = [
                field for field in schema if field.name in kept.names and kept.field(field.name).type != field.type
            ]
            values = pq.read_table(path, columns=[field.name for field in changed], partitioning=None)
            for field in changed:
                try:
                    values[field.name].cast(field.type)
                except pa.ArrowException:
                    was = kept.field(field.name).type
                    return f"{field.name} is {was} in the snapshot {Path(path).stem} and does not fit {field.type}"
    return None

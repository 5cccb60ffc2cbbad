"""The point-in-time join of a view's snapshots: what was known of an asset at an instant.

Snapshots are many and small, and the newest one answers most rows. So that one is looked into first, those before it
only for the rows that it leaves open, and features are read from those files alone in which a row was found.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.places import Folder, StoredView
from pipeline.base.specs import TIMESTAMP
from pipeline.snapshots.files import EARLIEST, Replaced, dated_files, is_whole
from pipeline.snapshots.store import opened

logger = logging.getLogger(__name__)

_AS_OF_JOIN, _FEATURES_OF = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("as_of_join.sql", "features_of.sql")
)
_KEYS = pa.schema({"asset_id": pa.string(), "event_timestamp": TIMESTAMP, "created": TIMESTAMP})
_FOUND = _KEYS.insert(0, pa.field("entity_row", pa.int64()))
# How often it begins anew where files have been replaced meanwhile by that of their day or month.
_ATTEMPTS = 5
# How much further back each look reaches than the one before. More opens more files for an asset that only the newest
# snapshot lacks, less looks more often for an asset that has none.
_FURTHER = 8


def as_of_join(
    rows: pa.Table, folder: Folder, schema: pa.Schema, ttl: timedelta | None, *, live_snapshots: bool = False
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
    for _ in range(_ATTEMPTS):
        try:
            snapshots = _Snapshots.of(folder, rows["event_timestamp"].to_numpy(), ttl)
            with duckdb.connect(config={"autoinstall_known_extensions": False}) as engine:
                found = _find(engine, rows, snapshots, live_snapshots)
                features = snapshots.rows(np.isin(snapshots.known, found["event_timestamp"].to_numpy()), schema)
                for name, relation in {"entity_rows": rows, "found": found, "snapshots": features}.items():
                    engine.register(name, relation)
                return engine.sql(_FEATURES_OF).to_arrow_table()
        except Replaced:
            continue
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if snapshots.are_replaced():
                continue
            reason = snapshots.misfit(schema) or first_line(error)
            raise PipelineError(f"{folder.name}: {reason}. Check the snapshots in {folder}.") from error
    raise PipelineError(f"{folder.name}: files in {folder} are replaced all the time. Try again later.")


class _Snapshots(ABC):
    """The snapshots of a view that rows at some instants can need: what they are `known` as of, ascending."""

    def __init__(self, folder: Folder, instants: NDArray[np.datetime64], ttl: timedelta | None) -> None:
        self.folder, self.view = folder, folder.name
        self.instants, self.at = np.unique(instants, return_inverse=True)
        first, last = (each.astype("datetime64[us]").item().replace(tzinfo=UTC) for each in self.instants[[0, -1]])
        since = first - ttl if ttl and first - EARLIEST > ttl else EARLIEST
        self.known = pa.array(self.find(since, last), TIMESTAMP).to_numpy()
        # Those of each instant are the ones from `limit` to `stop`.
        self.stop = np.searchsorted(self.known, self.instants, side="right")
        self.limit = np.searchsorted(self.known, self.instants - np.timedelta64(ttl)) if ttl else 0 * self.stop

    @staticmethod
    def of(folder: Folder, instants: NDArray[np.datetime64], ttl: timedelta | None) -> "_Snapshots":
        """Return those of a folder, or of a view in a store."""
        return (_InStore if isinstance(folder, StoredView) else _InFiles)(folder, instants, ttl)

    @abstractmethod
    def find(self, first: datetime, last: datetime) -> list[datetime]:
        """Return the instants of the snapshots from `first` to `last`, in order."""

    @abstractmethod
    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_], schema: pa.Schema) -> ds.Dataset | pa.Table:
        """Return the columns of `schema` of the snapshots `chosen`: NULL where one is lacking, or a safe cast."""

    def are_replaced(self) -> bool:
        """Return whether an error may come from files that have just been replaced."""
        return False

    def misfit(self, _schema: pa.Schema) -> str | None:
        """Return, in words, which values do not fit the type in the schema; None where that is not known."""
        return None


class _InStore(_Snapshots):
    def find(self, first: datetime, last: datetime) -> list[datetime]:
        assert isinstance(self.folder, StoredView)
        self.store = opened(self.folder.parent)
        return [*self.store.instants(self.view, first, last)][::-1]

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_], schema: pa.Schema) -> pa.Table:
        instants = [each.replace(tzinfo=UTC) for each in self.known[chosen].astype("datetime64[us]").tolist()]
        return self.store.read(self.view, instants, schema)


class _InFiles(_Snapshots):
    """`opened` are the files whose rows have been asked for."""

    def find(self, first: datetime, last: datetime) -> list[datetime]:
        assert isinstance(self.folder, Path)
        dated = list(dated_files(self.folder.parent, self.view, first, last))[::-1]
        self.files = np.array([path for _, path in dated], dtype=object)
        self.opened: set[str] = set()
        return [instant for instant, _ in dated]

    def are_replaced(self) -> bool:
        return not all(path.exists() for path in set(self.files))

    def misfit(self, schema: pa.Schema) -> str | None:
        return _misfit(self.opened, schema)

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_], schema: pa.Schema) -> ds.Dataset:
        files = _whole(np.unique(self.files[chosen].astype(str)))
        self.opened.update(files)
        # of the file of a month only the row groups are read that may hold an instant
        instants = pa.array(self.known[chosen]).cast(TIMESTAMP)
        return ds.dataset(files, schema, format="parquet").filter(pc.field("event_timestamp").isin(instants))


def _find(engine: duckdb.DuckDBPyConnection, rows: pa.Table, snapshots: _Snapshots, live_snapshots: bool) -> pa.Table:
    """Return which snapshot serves which of `rows`, as the SQL of `as_of_join` does; none of them twice."""
    at, stop, limit = snapshots.at, snapshots.stop, snapshots.limit
    _report_instants(snapshots.view, snapshots.instants, limit < stop)
    found, is_open, step = [_FOUND.empty_table()], (limit < stop)[at], 1
    while is_open.any():
        start = np.maximum(stop - step, limit)  # those from here on are looked into
        oldest = pa.array(snapshots.known[start[at[is_open]]]).cast(TIMESTAMP)
        engine.register("entity_rows", rows.filter(is_open).append_column("oldest", oldest))
        engine.register("snapshots", snapshots.rows(_in_any(start, stop, np.unique(at[is_open])), _KEYS))
        found.append(engine.sql(_AS_OF_JOIN, params={"live_snapshots": live_snapshots}).to_arrow_table().cast(_FOUND))
        is_open[found[-1]["entity_row"].to_numpy()] = False
        stop, step = start, step * _FURTHER
        is_open &= (limit < stop)[at]
    if live_snapshots and not any(table.num_rows for table in found):
        raise PipelineError(
            f"{snapshots.view}: no snapshot was there yet at the instant of any row. Backfilled ones never were: join "
            "them without --live-snapshots"
        )
    return pa.concat_tables(found)


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


def _whole(paths: NDArray[np.str_]) -> list[str]:
    """Return those of the Parquet files `paths` that are whole; warn of the others."""
    whole = [str(path) for path in paths if is_whole(Path(path))]
    if len(whole) < len(paths):
        halves = [str(path) for path in paths if str(path) not in whole]
        logger.warning("%d snapshots are not whole and are passed over: %s", len(halves), ", ".join(halves[:3]))
    return whole


def _misfit(paths: Iterable[str], schema: pa.Schema) -> str | None:
    """Return, in words, the first feature in `paths` whose values do not fit the type in `schema`; None without one."""
    for path in sorted(paths):
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

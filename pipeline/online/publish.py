"""Publishing a snapshot to the online store: by the columnar Redis engine, or by Feast's own materialization."""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from feast import FeatureStore, FeatureView
from feast.feature_view import FeatureViewState
from feast.infra.online_stores.redis import RedisOnlineStoreConfig

from pipeline.base.errors import PipelineError, Unavailable, first_line
from pipeline.base.fault_points import fault_point
from pipeline.base.places import DataDir, Snapshot
from pipeline.base.retries import attempts
from pipeline.base.shard import Shard
from pipeline.base.views import ENGINE_FEAST, ENGINE_REDIS
from pipeline.online.redis import engine as redis_engine
from pipeline.online.redis.writer import Written
from pipeline.registry.feast_store import check_data_dir, registered_view, registry_error
from pipeline.snapshots.files import LATEST, newest_snapshot, open_snapshot, snapshot_instant


@dataclass
class Published:
    """What publishing a snapshot did: rows sent, rows kept because Redis has newer ones, entities removed."""

    rows: int = 0
    newer: int = 0
    removed: int = 0


def check_online_store(store: FeatureStore, engine: str) -> None:
    """Raise `PipelineError` at once where `engine` cannot publish to this online store, or Redis cannot be reached."""
    if engine == ENGINE_REDIS:
        redis_engine.check_layout(store)
    if isinstance(store.config.online_store, RedisOnlineStoreConfig):
        attempts()(redis_engine.check_connection, store)


def publish(
    store: FeatureStore,
    name: str,
    as_of: datetime,
    path: Snapshot,
    *,
    engine: str = ENGINE_REDIS,
    force: bool = False,
    replicas: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Published:
    """Make the snapshot at `path` the online values of the feature view `name`, and record that in the registry.

    With the Redis engine, entities that the view no longer has lose their values, and a row that Redis has from a
    later instant stays, unless `force`; the rows are with so many `replicas` of each Redis, too, before anything is
    removed or recorded. `progress` is told the rows done so far. Raises `PipelineError` where the
    online store fails, or has something else than a row under a key: each row then has either its old or its new
    values, how many is said, and publishing again completes it.
    """
    view = registered_view(store, name)
    if engine == ENGINE_FEAST:
        _materialize_with_feast(store, view, as_of)
        attempts()(record, store, name, as_of)
        return Published(rows=open_snapshot(path).metadata.num_rows)
    fault_point("online: before")
    written = _write(store, view, as_of, path, LATEST if force else None, replicas, progress)
    fault_point("online: written")
    removed = _remove_departed(store, view, as_of, path, force)
    _check_all_written(store, view, written)
    attempts()(record, store, name, as_of)
    fault_point("online: recorded")
    return Published(written.rows, written.newer, removed)


def publish_share(
    store: FeatureStore,
    name: str,
    as_of: datetime,
    path: Snapshot,
    shard: Shard,
    *,
    force: bool = False,
    replicas: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Published:
    """Write the rows of `shard` as `publish` does; the last one of the shards has to `complete` it."""
    view = registered_view(store, name)
    written = _write(store, view, as_of, path, LATEST if force else None, replicas, progress, shard)
    fault_point("online: share written")
    _check_all_written(store, view, written)
    return Published(written.rows, written.newer)


def complete(store: FeatureStore, name: str, as_of: datetime, path: Snapshot, *, force: bool = False) -> int:
    """Remove the entities that left and record in the registry what all shards have written; return how many left."""
    removed = _remove_departed(store, registered_view(store, name), as_of, path, force)
    attempts()(record, store, name, as_of)
    return removed


def _remove_departed(store: FeatureStore, view: FeatureView, as_of: datetime, path: Snapshot, force: bool) -> int:
    until = LATEST if force else as_of
    removed = attempts()(redis_engine.remove_departed, store, view, until, path, scan=force)
    fault_point("online: departed removed")
    return removed


def _check_all_written(store: FeatureStore, view: FeatureView, written: Written) -> None:
    if written.refused:
        names = ", ".join(redis_engine.readable_ids(store, view, written.refused))
        raise PipelineError(
            f"Redis: WRONGTYPE: another program has written the keys of {names}; {written.rows:,} rows are new, "
            f"{len(written.refused):,} cannot be read",
            "Delete these keys and run again",
        )


def put_back(store: FeatureStore, name: str, as_of: datetime, path: Snapshot, *, replicas: int = 0) -> Published:
    """Make the snapshot at `path` the online values of `name` in place of newer ones, and the registry say so.

    Whatever else is online of the view goes. Raises `PipelineError` as `publish` does; doing it again completes it.
    """
    view = registered_view(store, name)
    written = attempts()(redis_engine.write_snapshot_rows, store, view, as_of, path, over=LATEST, replicas=replicas)
    fault_point("rollback: written")
    removed = attempts()(redis_engine.remove_all_but, store, view, path)
    fault_point("rollback: others removed")
    attempts()(_record_end, store, name, as_of)
    fault_point("rollback: recorded")
    return Published(written.rows, removed=removed)


def _write(
    store: FeatureStore,
    view: FeatureView,
    as_of: datetime,
    path: Snapshot,
    over: datetime | None,
    replicas: int,
    progress: Callable[[int], None],
    shard: Shard | None = None,
) -> Written:
    """Write the rows, or the share of `shard`; where it breaks off, the error says how far the best attempt came."""
    done = 0

    def told(rows: int) -> None:
        nonlocal done
        done = max(done, rows)
        progress(rows)

    try:
        return attempts()(
            redis_engine.write_snapshot_rows,
            store,
            view,
            as_of,
            path,
            over=over,
            replicas=replicas,
            progress=told,
            shard=shard,
        )
    except PipelineError as error:
        total = open_snapshot(path).metadata.num_rows
        total = len(shard.rows_of(total)) if shard else total
        # where the connection broke, Redis may have written more than it could confirm
        some = "at least " if isinstance(error.__cause__, Unavailable) else ""
        raise PipelineError(f"{error}; {some}{done:,} of {total:,} rows are new, the others old") from error


def prune(store: FeatureStore, data_dir: DataDir, name: str) -> int:
    """Remove the online values of `name` for every entity that its newest snapshot lacks; return how many had some.

    All keys of Redis are looked through; those of other projects stay as they are. Raises `PipelineError` where there
    is no snapshot, the view is registered with another folder, the online store is not Redis, or it fails.
    """
    redis_engine.check_layout(store)
    view = registered_view(store, name)
    check_data_dir(view, data_dir)
    path = newest_snapshot(data_dir, name)
    if path is None:
        raise PipelineError(f"{name}: there is no snapshot in {data_dir / name}, so nothing tells what to keep")
    return redis_engine.remove_departed(store, view, snapshot_instant(path), path, scan=True)


def record(store: FeatureStore, name: str, as_of: datetime) -> None:
    """Record in the registry that the view is online as of `as_of`, and merge what is recorded into one interval.

    A snapshot is the whole view, so the newest one covers all before it. The Feast UI shows the interval,
    `feast materialize-incremental` starts at its end, and every feature server reads it at each refresh: a list that
    grew with the runs would slow down their answers.
    """
    view = registered_view(store, name)  # anew: an attempt before may have been recorded all the same
    recorded = view.materialization_intervals
    ttl = view.ttl or timedelta(seconds=1)
    starts, ends = zip(*recorded, strict=True) if recorded else ([as_of - ttl], [as_of])
    whole = [(min(starts), max(*ends, as_of))]
    if recorded == whole:
        return
    view.materialization_intervals, view.state = whole, FeatureViewState.AVAILABLE_ONLINE
    try:
        store.registry.apply_feature_view(view, store.project)
    except Exception as error:  # SQLAlchemy and the registry's driver each raise their own kinds
        raise registry_error(error) from error


def _record_end(store: FeatureStore, name: str, as_of: datetime) -> None:
    """Have the intervals in the registry end at `as_of`; those of publications after it are gone or cut short."""
    view = registered_view(store, name)
    intervals = [(start, min(end, as_of)) for start, end in view.materialization_intervals if start < as_of]
    view.materialization_intervals = intervals or [(as_of - (view.ttl or timedelta(seconds=1)), as_of)]
    try:
        store.registry.apply_feature_view(view, store.project)
    except Exception as error:  # SQLAlchemy and the registry's driver each raise their own kinds
        raise registry_error(error) from error
    record(store, name, as_of)  # where all of them ended earlier


def _materialize_with_feast(store: FeatureStore, view: FeatureView, as_of: datetime) -> None:
    """Run Feast's own materialization over one snapshot; it records an interval for each."""
    silent = io.StringIO()  # it prints headings and a progress bar of its own
    try:
        with (
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
            warnings.catch_warnings(action="ignore", category=DeprecationWarning),  # it calls DuckDB by old names
        ):
            store.materialize(as_of - timedelta(microseconds=1), as_of, [view.name])
    except Exception as error:  # each online store's driver raises its own kinds
        raise PipelineError(
            f"Online store: {first_line(error)}. Check that it is up and the connection string in feature_store.yaml."
        ) from error

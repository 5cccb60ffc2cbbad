"""Publishing a snapshot to the online store: by the columnar Redis engine, or by Feast's own materialization."""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from feast import FeatureStore, FeatureView
from feast.infra.online_stores.redis import RedisOnlineStoreConfig

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.fault_points import fault_point
from pipeline.base.retries import attempts
from pipeline.base.views import ENGINE_FEAST, ENGINE_REDIS
from pipeline.online.redis import engine as redis_engine
from pipeline.registry.feast_store import check_data_dir, registered_view, registry_error
from pipeline.snapshots.files import newest_snapshot, open_snapshot, snapshot_instant


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
    path: Path,
    *,
    engine: str = ENGINE_REDIS,
    progress: Callable[[int], None] = lambda _: None,
) -> Published:
    """Make the snapshot at `path` the online values of the feature view `name`, and record that in the registry.

    With the Redis engine, entities that the view no longer has lose their values, and a row that Redis has from a
    later instant stays. `progress` is told the rows done so far. Raises `PipelineError` where the online store fails;
    each row then has either its old or its new values, and publishing again completes it.
    """
    view = registered_view(store, name)
    if engine == ENGINE_FEAST:
        _materialize_with_feast(store, view, as_of)
        return Published(rows=open_snapshot(path).metadata.num_rows)
    fault_point("online: before")
    written = attempts()(redis_engine.write_snapshot_rows, store, view, as_of, path, progress=progress)
    fault_point("online: written")
    removed = attempts()(redis_engine.remove_departed, store, view, as_of, path)
    fault_point("online: departed removed")
    attempts()(record, store, name, as_of)
    fault_point("online: recorded")
    return Published(written.rows, written.newer, removed)


def prune(store: FeatureStore, data_dir: Path, name: str) -> int:
    """Remove the online values of `name` for every entity that its newest snapshot lacks; return how many had some.

    All keys of Redis are looked through; those of other projects stay as they are. Raises `PipelineError` where there
    is no snapshot, the view is registered with another folder, the online store is not a single Redis, or it fails.
    """
    redis_engine.check_layout(store)
    view = registered_view(store, name)
    check_data_dir(view, data_dir)
    path = newest_snapshot(data_dir, name)
    if path is None:
        raise PipelineError(f"{name}: there is no snapshot in {data_dir / name}, so nothing tells what to keep")
    return redis_engine.remove_departed(store, view, snapshot_instant(path), path, scan=True)


def record(store: FeatureStore, name: str, as_of: datetime) -> None:
    """Record in the registry that the view is online as of `as_of`, from where the last record ends.

    The Feast UI shows these intervals, and `feast materialize-incremental` starts at the end of the last one.
    """
    view = registered_view(store, name)  # anew: an attempt before may have been recorded all the same
    last = view.most_recent_end_time
    if last and last >= as_of:
        return
    start = last or as_of - (view.ttl or timedelta(seconds=1))
    try:
        store.registry.apply_materialization(view, store.project, start, as_of)
    except Exception as error:  # SQLAlchemy and the registry's driver each raise their own kinds
        raise registry_error(error) from error


def _materialize_with_feast(store: FeatureStore, view: FeatureView, as_of: datetime) -> None:
    """Run Feast's own materialization over one snapshot; it records the interval itself."""
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

"""Rollback: a view goes back to what was online as of an earlier instant, and stays there until somebody resumes it.

The hold is recorded before anything changes. What dies after that is done again from the start, by the same command or
by the next run, and each step of it may be: newer snapshots go to quarantine, the values of the instant replace newer
ones, what is not of that instant leaves, the registry's intervals end there.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from feast import FeatureStore

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.fault_points import fault_point
from pipeline.base.places import DataDir, Snapshot
from pipeline.base.results import ViewResult
from pipeline.base.retries import attempts, retrying_for
from pipeline.base.settings import Settings, load_settings
from pipeline.base.stop import raise_if_stopped
from pipeline.base.views import ENGINE_REDIS
from pipeline.online import publish as online
from pipeline.online.verify import verify
from pipeline.registry.feast_store import check_data_dir, open_feature_store, registered_view
from pipeline.registry.holds import Holds
from pipeline.registry.ledger import ROLLED_BACK, Run, recorded
from pipeline.registry.lock import RunLock, one_at_a_time
from pipeline.runs.lineage import ROLLBACK, told
from pipeline.snapshots.files import newest_snapshot, read_snapshot, snapshot_instant, snapshots
from pipeline.snapshots.quarantine import move_newer
from pipeline.snapshots.upkeep import keep_up

logger = logging.getLogger(__name__)

VERIFIED_ENTITIES = 100


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did: rows online now, entities whose values left, newer snapshots moved to quarantine."""

    rows: int
    removed: int
    moved: int


def rollback(view: str, as_of: datetime, reason: str | None = None, *, wait: float | None = None) -> RolledBack:
    """Put `view` back to its snapshot as of `as_of`, and hold it there: runs leave it alone until `resume`.

    `wait` is as in `one_at_a_time`. Raises `PipelineError`, with nothing changed, where there is no such snapshot, it
    is what is online, or the view or its stores are not as a run needs them; also where a step fails: the same again,
    or a run, then completes it.
    """
    settings = load_settings()
    data_dir = settings.snapshots
    with (
        retrying_for(settings.retry_seconds),
        open_feature_store() as store,
        one_at_a_time(store, wait) as lock,
    ):
        registered = registered_view(store, view)
        check_data_dir(registered, data_dir)
        online.check_online_store(store, ENGINE_REDIS)
        path = _snapshot_of(data_dir, view, as_of)
        hold = Holds(store).all().get(view)
        is_online = registered.most_recent_end_time == as_of and newest_snapshot(data_dir, view) == path
        if is_online and (hold is None or hold.is_done):
            raise PipelineError(f"{view} is online as of {as_of.isoformat()} already: nothing is rolled back")
        Holds(store).put(view, as_of, reason)
        fault_point("rollback: held")
        return _complete(store, settings, view, lock)


def finish_rollbacks(store: FeatureStore, settings: Settings, views: list[str], lock: RunLock) -> None:
    """Complete the rollbacks of `views` that have died. One that fails is logged: its view stays on hold."""
    for view, hold in attempts()(Holds(store).all).items():
        if view in views and not hold.is_done:
            try:
                _complete(store, settings, view, lock)
            except PipelineError as error:
                raise_if_stopped()
                logger.error("%s: its rollback cannot be finished: %s", view, error, extra={"view": view})


def resume(view: str, *, wait: float | None = None) -> None:
    """Let runs of `view` go on. Raises `PipelineError` where it is not on hold, or its rollback is not finished."""
    with open_feature_store() as store, one_at_a_time(store, wait):
        hold = Holds(store).all().get(view)
        if hold is None:
            raise PipelineError(f"{view} is not on hold: there is nothing to resume")
        if not hold.is_done:
            raise PipelineError(f"{view}: {hold}")
        Holds(store).release(view)


def _snapshot_of(data_dir: DataDir, view: str, as_of: datetime) -> Snapshot:
    """Return the snapshot of `view` as of exactly `as_of`, all of which can be read; raises `PipelineError` without."""
    path = next(snapshots(data_dir, view, as_of, as_of), None)
    if path is None:
        before = next(snapshots(data_dir, view, last=as_of), None)
        hint = f"the one before is {snapshot_instant(before).isoformat()}" if before else "nor any before"
        raise PipelineError(f"There is no snapshot of {view} as of {as_of.isoformat()}: {hint}")
    try:
        read_snapshot(path)
    except (OSError, pa.ArrowException) as error:
        raise PipelineError(f"The snapshot {path} cannot be read: {first_line(error)}") from error
    return path


def _complete(store: FeatureStore, settings: Settings, view: str, lock: RunLock) -> RolledBack:
    """Do what the hold of `view` says, from the start, and tell the ledger."""
    data_dir = settings.snapshots
    hold = Holds(store).all()[view]
    result = ViewResult(view, note=hold.reason)
    run = Run(hold.as_of, [view], backend_pid=lock.backend_pid, results={view: result}, succeeds_as=ROLLED_BACK)
    settings = load_settings()
    with told(ROLLBACK, run.run_id, settings, store, hold.as_of, run.results, [view]), recorded(store, run):
        path = _snapshot_of(data_dir, view, hold.as_of)
        keep_up(data_dir, view)  # the columns of now, which are the online ones
        moved = move_newer(data_dir, view, hold.as_of)
        lock.check()
        done = online.put_back(store, view, hold.as_of, path, replicas=settings.redis_wait_replicas)
        features = attempts()(verify, store, data_dir, view, sample=VERIFIED_ENTITIES)
        if wrong := sum(feature.wrong for feature in features):
            raise PipelineError(f"{view}: {wrong} values read back are not those of the snapshot {path}: run it again")
        Holds(store).finish(view)
        fault_point("rollback: done")
        result.rows, result.published = done.rows, True
    return RolledBack(done.rows, done.removed, moved)

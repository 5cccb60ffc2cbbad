"""A run with all that belongs to it: the lock of its project, its row in the ledger, its metrics."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

from feast import FeatureStore

from pipeline.base import logs
from pipeline.base.errors import PipelineError
from pipeline.base.results import ViewResult
from pipeline.base.retries import retrying_for
from pipeline.base.settings import load_settings
from pipeline.base.shard import Shard
from pipeline.base.stop import raise_if_stopped
from pipeline.base.views import ENGINE_REDIS
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Run, recorded
from pipeline.registry.lock import one_at_a_time
from pipeline.registry.rounds import joined
from pipeline.runs.lineage import MATERIALIZE, told
from pipeline.runs.metrics import measured
from pipeline.runs.one_instant import Progress, materialize
from pipeline.runs.rollback import finish_rollbacks
from pipeline.runs.shards import materialize_shard

logger = logging.getLogger(__name__)


def run_job(
    as_of: datetime,
    views: list[str],
    *,
    push: bool = True,
    engine: str = ENGINE_REDIS,
    accept_drop: bool = False,
    force: bool = False,
    wait: float | None = None,
    metrics_file: Path | None = None,
    run_id: UUID | None = None,
    shard: Shard | None = None,
    progress: Progress = lambda *_: None,
) -> list[ViewResult]:
    """Materialize `views` as of `as_of`, alone in the project, and return a result each.

    `engine`, `accept_drop` and `force` are as in `materialize`, `wait` as in `one_at_a_time`. Without `push` nothing is
    published, and a registry out of reach, which has the lock and the ledger, is only a warning. With `shard` this is
    one of several that make the run together, as in `materialize_shard`. Raises `PipelineError` where no view could
    even be tried.
    """
    run = Run(as_of, views, run_id or uuid4(), shard=str(shard) if shard else None)
    logs.tag(run_id=run.run_id, **({"shard": run.shard} if shard else {}))
    with measured(run, metrics_file):
        settings = load_settings()
        needed = push or shard is not None
        with retrying_for(settings.retry_seconds), _registry(needed=needed) as store, ExitStack() as stack:
            lock, mine = None, None
            if store and shard:
                terms = {
                    "--view": views,
                    "--no-online": not push,
                    "--accept-drop": accept_drop,
                    "--force": force,
                    "TELEMETRY_BUCKET_MINUTES": settings.telemetry_bucket_minutes,
                }
                mine = stack.enter_context(joined(store, shard, as_of, terms, wait))
                run.backend_pid = mine.lock.backend_pid
            elif store:
                lock = stack.enter_context(one_at_a_time(store, wait))
                run.backend_pid = lock.backend_pid
                if push:
                    finish_rollbacks(store, settings, views, lock)
            stack.enter_context(told(MATERIALIZE, run.run_id, settings, store, as_of, run.results, views))
            if store:
                stack.enter_context(recorded(store, run))
            if store and mine:
                return materialize_shard(
                    settings,
                    as_of,
                    views,
                    mine,
                    store=store,
                    push=push,
                    accept_drop=accept_drop,
                    force=force,
                    progress=progress,
                    results=run.results,
                )
            return materialize(
                settings,
                as_of,
                views,
                store=store,
                push=push,
                engine=engine,
                accept_drop=accept_drop,
                force=force,
                lock=lock,
                progress=progress,
                results=run.results,
            )


@contextmanager
def _registry(*, needed: bool) -> Iterator[FeatureStore | None]:
    """Yield the feature store; where it is out of reach and not `needed`, None."""
    with ExitStack() as stack:
        try:
            store = stack.enter_context(open_feature_store())
        except PipelineError as error:
            raise_if_stopped()
            if needed:
                raise
            logger.warning("without lock and ledger: %s", error)
            store = None
        yield store

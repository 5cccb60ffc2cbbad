"""Compaction of the history, by a command or, a month at a time, by each run."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from feast import FeatureStore, FeatureView

from pipeline.base.errors import PipelineError
from pipeline.base.settings import Keep, Settings
from pipeline.registry.feast_store import check_data_dir, find_view
from pipeline.snapshots.compaction import compact
from pipeline.snapshots.store import Compacted
from pipeline.snapshots.upkeep import keep_up

logger = logging.getLogger(__name__)

# What is younger is left alone by runs: late buckets arrive for three days, and history is often computed again.
RUN_LEAVES = timedelta(days=2)


def compact_all(
    settings: Settings,
    store: FeatureStore,
    views: Sequence[str],
    keep: Keep,
    progress: Callable[[str, Compacted], None] = lambda *_: None,
) -> None:
    """Make one file of the snapshots of each past day and month of `views`, and remove those that `keep` does not.

    The folder is kept up first. `progress` is told what was done, view by view. For within the lock of the project.
    Raises `PipelineError` where a view is registered with another folder, or `compact` does.
    """
    for view in views:
        registered = find_view(store, view)
        if registered:
            check_data_dir(registered, settings.snapshots)
        online = registered.most_recent_end_time if registered else None
        keep_up(settings.snapshots, view)
        progress(view, compact(settings.snapshots, view, datetime.now(UTC), keep=keep, online=online))


def compact_a_month(settings: Settings, view: str, registered: FeatureView | None) -> None:
    """Do the work of `compact_all` for one month of what a run does not leave alone; a failure is a warning.

    Nothing is removed unless the view is `registered` with this folder, so that it is known what is online.
    """
    keep, online = (settings.keep, registered.most_recent_end_time) if registered else ((), None)
    try:
        before = datetime.now(UTC) - RUN_LEAVES
        done = compact(settings.snapshots, view, before, keep=keep, online=online, months=1)
    except PipelineError as error:
        logger.warning("%s: history is not compacted: %s", view, error, extra={"view": view})
        return
    if done.before:
        logger.info("%s: %s", view, in_words(done), extra={"view": view})


def in_words(done: Compacted) -> str:
    """Return in one line what compaction of a view did."""
    removed = f", {done.removed:,} snapshots removed" if done.removed else ""
    return f"{done.before:,} files of history are {done.after:,} now{removed}"

"""Prometheus metrics of a run, in a file for the textfile collector of node-exporter.

Instants are metrics rather than ages: `time() - feature_store_view_newest_source_timestamp_seconds` is right at any
time, also when no run comes any more.
"""

import glob
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Enum, Gauge, write_to_textfile

from pipeline.base.errors import PipelineError
from pipeline.base.fault_points import fault_point
from pipeline.base.results import exit_code
from pipeline.base.stop import Stopped, asked_to_stop, at_stop
from pipeline.base.views import VIEW_NAMES
from pipeline.online.freshness import online_rows
from pipeline.registry.feast_store import find_view, open_feature_store
from pipeline.registry.ledger import INTERRUPTED, Ledger, Run
from pipeline.runs.skew import Skew
from pipeline.snapshots.parquet import remove_leftovers

logger = logging.getLogger(__name__)

VIEW_OUTCOMES = ["online", "part online", "snapshot only", "nothing written", "rejected", "on hold", "failed"]
_PREFIX = "feature_store"


@contextmanager
def measured(run: Run, path: Path | None) -> Iterator[None]:
    """Write the metrics of `run`, which happens in the block, to `path` when it ends, however it ends.

    Sets `run.exit_code`. A file that cannot be written is a warning.
    """
    started = time.monotonic()

    def write(run: Run) -> None:
        if path:
            _write(run, time.monotonic() - started, path)

    with at_stop(lambda stopped: write(replace(run, exit_code=stopped.exit_code, outcome=INTERRUPTED))):
        try:
            yield
            run.exit_code = exit_code([run.results[view] for view in run.views])
        except BaseException as error:
            ended_by = asked_to_stop() or error
            run.exit_code = ended_by.exit_code if isinstance(ended_by, PipelineError | Stopped) else 1
            raise
        finally:
            write(run)


def _write(run: Run, seconds: float, path: Path) -> None:
    registry = CollectorRegistry()
    _add_run(registry, run, seconds)
    _add_results(registry, run)
    _add_online(registry)
    _write_file(registry, path)


def write_skew(skew: Skew, path: Path) -> None:
    """Write what `skew` has measured to `path`; a file that cannot be written is a warning."""
    registry = CollectorRegistry()
    Gauge(f"{_PREFIX}_skew_finished_timestamp_seconds", "When skew was measured last.", registry=registry).set(
        time.time()
    )
    share = Gauge(
        f"{_PREFIX}_skew_ratio",
        "The share of the feature's values that were served and that the databases say otherwise of now, 0 to 1.",
        ["view", "feature"],
        registry=registry,
    )
    for feature in skew.features:
        share.labels(feature.view, feature.feature).set(round(feature.share, 4))
    _write_file(registry, path)


def _write_file(registry: CollectorRegistry, path: Path) -> None:
    try:
        remove_leftovers(path.parent, f"{glob.escape(path.name)}.[0-9]*.[0-9]*")
        fault_point("metrics: before")
        write_to_textfile(str(path), registry)
        fault_point("metrics: written")
    except OSError as error:
        logger.warning("Metrics file %s cannot be written: %s", path, error.strerror or error)


def _add_run(registry: CollectorRegistry, run: Run, seconds: float) -> None:
    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"{_PREFIX}_run_{name}", text, registry=registry).set(value)

    gauge("finished_timestamp_seconds", "When the last run ended.", time.time())
    gauge("as_of_timestamp_seconds", "The as-of instant of the last run.", run.as_of.timestamp())
    gauge("duration_seconds", "How long the last run took.", seconds)
    gauge("exit_code", "The exit code of the last run: 0 is good, 75 that another one was busy.", run.exit_code or 0)


def _add_results(registry: CollectorRegistry, run: Run) -> None:
    """Add what the last run did with each view that it was asked for."""
    outcome = Enum(
        f"{_PREFIX}_view_outcome",
        "What the last run did with the view.",
        ["view"],
        states=VIEW_OUTCOMES,
        registry=registry,
    )
    gauges = {
        attribute: Gauge(f"{_PREFIX}_view_{name}", text, ["view"], registry=registry)
        for attribute, name, text in (
            ("rows", "rows", "Rows of the view in the last run."),
            ("rejected", "rejected_rows", "Rows that the quality gate set aside in the last run."),
            ("seconds", "duration_seconds", "Time that the last run spent on the view."),
        )
    }
    inconsistent = Gauge(
        f"{_PREFIX}_view_inconsistent_values",
        "Values read back from the online store after the last publication that are not those of the snapshot.",
        ["view"],
        registry=registry,
    )
    implausible = Gauge(
        f"{_PREFIX}_view_implausible_rows",
        "Rows of the last run whose value passes but is not plausible.",
        ["view", "feature"],
        registry=registry,
    )
    for view, result in run.results.items():
        if view in run.views:
            for feature, rows in result.implausible.items():
                implausible.labels(view, feature).set(rows)
            outcome.labels(view).state(result.outcome)
            if result.compared:
                inconsistent.labels(view).set(result.inconsistent)
            for attribute, gauge in gauges.items():
                gauge.labels(view).set(getattr(result, attribute))


def _add_online(registry: CollectorRegistry) -> None:
    """Add as of when each view is online, as read back, and when it was last published.

    The latter is from the ledger: a run that fails must not hide the last good one. What cannot be read is left out.
    """
    texts = {
        "last_success_timestamp_seconds": "When the view was last published.",
        "newest_source_timestamp_seconds": "The newest fact that the values published then rest on.",
        "as_of_timestamp_seconds": "The as-of instant of the oldest online row, of a sample that is read back.",
        "missing_ratio": "The share of the entities of that sample that have no row online, 0 to 1.",
    }
    gauges = {name: Gauge(f"{_PREFIX}_view_{name}", text, ["view"], registry=registry) for name, text in texts.items()}

    def add(name: str, view: str, value: float | datetime | None) -> None:
        if value is not None:
            gauges[name].labels(view).set(value.timestamp() if isinstance(value, datetime) else value)

    try:
        with open_feature_store() as store:
            for view, publication in Ledger(store).last_publications().items():
                add("last_success_timestamp_seconds", view, publication.finished_at)
                add("newest_source_timestamp_seconds", view, publication.newest_source)
            for view in VIEW_NAMES:
                registered = find_view(store, view)
                if registered and registered.most_recent_end_time:
                    online = online_rows(store, registered)
                    add("as_of_timestamp_seconds", view, online.oldest)
                    add("missing_ratio", view, online.missing / online.asked if online.asked else None)
    except PipelineError as error:
        logger.warning("Metrics without the times of what is online: %s", error)

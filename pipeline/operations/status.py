"""How fresh the published features are, and what the last runs did."""

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from feast import FeatureStore
from rich import box
from rich.console import Group
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from pipeline.base.clock import CLOCK_TOLERANCE, duration
from pipeline.base.views import VIEW_NAMES
from pipeline.registry.feast_store import find_view, registry_engine, registry_error
from pipeline.registry.ledger import DIED, RUNNING, Ledger, PastRun, Publication
from pipeline.registry.lock import lock_holder


@dataclass(frozen=True)
class ViewAge:
    """How old the online values of a view are. `as_of` is None where it was never published."""

    view: str
    as_of: datetime | None
    newest_source: datetime | None
    age: timedelta | None
    limit: timedelta

    @property
    def verdict(self) -> str:
        """`fresh`, or what is wrong."""
        if self.age is None:
            return "never published"
        if self.age < -CLOCK_TOLERANCE:
            return "in the future"
        return "too old" if self.age > self.limit else "fresh"


@dataclass(frozen=True)
class Status:
    """The age of each view and the last runs, the latest first."""

    views: list[ViewAge]
    runs: list[PastRun]

    @property
    def is_fresh(self) -> bool:
        """Return whether every view is online and younger than its limit."""
        return all(view.verdict == "fresh" for view in self.views)

    def tables(self) -> Group:
        """Return both as tables for a terminal."""
        return Group(_views_table(self.views), _runs_table(self.runs) if self.runs else "No run has been made yet.")


def read_status(store: FeatureStore, age_limit: timedelta, last: int) -> Status:
    """Return the status of the store's project with its `last` runs; a view may be as old as `age_limit`.

    Raises `PipelineError` where the registry's database is out of reach.
    """
    now = datetime.now(UTC)
    ledger = Ledger(store)
    publications = ledger.last_publications()
    ages = [_age_of(store, view, publications.get(view), now, age_limit) for view in VIEW_NAMES]
    return Status(ages, _with_the_dead(store, ledger.last_runs(last)))


def _age_of(
    store: FeatureStore, view: str, publication: Publication | None, now: datetime, limit: timedelta
) -> ViewAge:
    registered = find_view(store, view)
    as_of = registered.most_recent_end_time if registered else None
    # The registry has the last word: the ledger lacks a run whose row could not be written.
    newest = publication.newest_source if publication and publication.as_of == as_of else None
    return ViewAge(view, as_of, newest, now - as_of if as_of else None, limit)


def busy_run(store: FeatureStore) -> tuple[bool, uuid.UUID | None]:
    """Return whether somebody holds the lock of the project, and the run in the ledger, if it is one."""
    alive = _alive(store)
    run = next((run for run in Ledger(store).last_runs(1) if run.outcome == RUNNING and run.backend_pid == alive), None)
    return alive is not None, run.run_id if run and alive is not None else None


def _with_the_dead(store: FeatureStore, runs: list[PastRun]) -> list[PastRun]:
    """Return `runs`, those as `died` that have not ended and whose session does not hold the lock any more."""
    alive = _alive(store)
    return [replace(run, outcome=DIED) if run.outcome == RUNNING and run.backend_pid != alive else run for run in runs]


def _alive(store: FeatureStore) -> int | None:
    """Return the session that holds the lock of the project."""
    try:
        with registry_engine(store).connect() as connection:
            holder = lock_holder(connection, store.project)
    except SQLAlchemyError as error:
        raise registry_error(error) from error
    return holder.backend_pid if holder else None


def _views_table(views: list[ViewAge]) -> Table:
    table = Table(title="Published features", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("view", "as of (UTC)", "newest source (UTC)", "age", "limit", "state"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in ("age", "limit") else "left")
    for view in views:
        table.add_row(
            view.view,
            _time(view.as_of),
            _time(view.newest_source),
            duration(view.age.total_seconds()) if view.age is not None else "-",
            duration(view.limit.total_seconds()),
            view.verdict,
        )
    return table


def _runs_table(runs: list[PastRun]) -> Table:
    table = Table(title="Last runs", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("run", "started (UTC)", "as of (UTC)", "seconds", "rows", "rejected"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "run" or "UTC" in heading else "right")
    table.add_column("outcome", no_wrap=True)
    table.add_column("error")
    for run in runs:
        seconds = f"{(run.finished_at - run.started_at).total_seconds():.1f}" if run.finished_at else "-"
        rows, rejected = (sum(view[name] for view in run.views.values()) for name in ("rows", "rejected"))
        table.add_row(
            str(run.run_id)[:8],
            _time(run.started_at),
            _time(run.as_of),
            seconds,
            f"{rows:,}",
            f"{rejected:,}",
            run.outcome,
            run.error,
        )
    return table


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else "-"

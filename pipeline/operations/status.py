"""How fresh the online features are, and what the last runs did."""

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from feast import FeatureStore
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from pipeline.base.clock import CLOCK_TOLERANCE, duration
from pipeline.base.errors import PipelineError
from pipeline.base.views import VIEW_NAMES
from pipeline.online.freshness import OnlineRows, online_rows
from pipeline.registry.feast_store import find_view, registry_engine, registry_error
from pipeline.registry.holds import Hold, Holds
from pipeline.registry.ledger import DIED, RUNNING, Ledger, PastRun, Publication
from pipeline.registry.lock import lock_holder


@dataclass(frozen=True)
class ViewAge:
    """How old the online values of a view are, by the oldest of the `online` rows that were looked for.

    `recorded` is as of when the registry says the view is online, `published` what the ledger has of its last
    publication. `online` is None where nobody could look, and `fault` says why.
    """

    view: str
    online: OnlineRows | None
    recorded: datetime | None
    published: Publication | None
    now: datetime
    limit: timedelta
    hold: Hold | None = None
    fault: str = ""

    @property
    def as_of(self) -> datetime | None:
        """The instant of the oldest online row, None where there is none."""
        return self.online.oldest if self.online else None

    @property
    def age(self) -> timedelta | None:
        """How long ago that is."""
        return self.now - self.as_of if self.as_of else None

    @property
    def newest_source(self) -> datetime | None:
        """The newest fact that the online values rest on, where the ledger knows it of this very instant."""
        return self.published.newest_source if self.published and self.published.as_of == self.as_of else None

    @property
    def verdict(self) -> str:
        """`fresh`, or what is wrong."""
        if self.hold:
            return "on hold"
        if self.fault:
            return "unknown"
        if self.age is None:
            return "not online" if self.recorded else "never published"
        if self.age < -CLOCK_TOLERANCE:
            return "in the future"
        if self.age > self.limit:
            return "too old"
        return "rows missing" if self.online and self.online.missing else "fresh"

    @property
    def contradictions(self) -> list[str]:
        """What the online store, the registry and the ledger say against each other, in sentences."""
        if self.fault:
            return [self.fault]
        online, said = self.online or OnlineRows(), []
        if online.missing and self.recorded:
            emptied = ": was the online store emptied?" if online.missing == online.asked else ""
            said.append(f"{online.missing} of {online.asked} entities looked for have no row online{emptied}")
        if online.oldest != online.newest:
            span = f"{_time(online.oldest)} to {_time(online.newest)}"
            said.append(f"online rows are of {span}: has a run broken off between them?")
        if online.newest and online.newest != self.recorded:
            said.append(
                f"the newest online row is of {_time(online.newest)}; the registry says {_time(self.recorded)}, "
                f"the ledger {_time(self.published.as_of if self.published else None)}"
            )
            if self.recorded and online.newest < self.recorded:
                said[-1] += ": `feast materialize-incremental` records intervals in which it has found nothing to write"
        return said


@dataclass(frozen=True)
class Status:
    """The age of each view and the last runs, the latest first."""

    views: list[ViewAge]
    runs: list[PastRun]

    @property
    def is_fresh(self) -> bool:
        """Return whether every view is online, younger than its limit and not on hold."""
        return all(view.verdict == "fresh" for view in self.views)

    def tables(self) -> Group:
        """Return both as tables for a terminal, between them what does not fit together."""
        said: list[RenderableType] = [
            Text(f"{view.view}: {text}")
            for view in self.views
            for text in [*([str(view.hold)] if view.hold else []), *view.contradictions]
        ]
        return Group(
            _views_table(self.views),
            *([*said, ""] if said else []),
            _runs_table(self.runs) if self.runs else "No run has been made yet.",
        )


def read_status(store: FeatureStore, age_limit: timedelta, last: int) -> Status:
    """Return the status of the store's project with its `last` runs; a view may be as old as `age_limit`.

    Raises `PipelineError` where the registry's database is out of reach.
    """
    now = datetime.now(UTC)
    ledger = Ledger(store)
    publications = ledger.last_publications()
    holds = Holds(store).all()
    ages = [_age_of(store, view, publications.get(view), now, age_limit) for view in VIEW_NAMES]
    return Status(
        [replace(age, hold=holds.get(age.view)) for age in ages], _with_the_dead(store, ledger.last_runs(last))
    )


def _age_of(
    store: FeatureStore, view: str, publication: Publication | None, now: datetime, limit: timedelta
) -> ViewAge:
    registered = find_view(store, view)
    recorded = registered.most_recent_end_time if registered else None
    try:
        online = online_rows(store, registered) if registered else None
    except PipelineError as error:
        # what was never published need not be found
        return ViewAge(view, None, recorded, publication, now, limit, fault=str(error) if recorded else "")
    return ViewAge(view, online, recorded, publication, now, limit)


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
    table = Table(title="Online features", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("view", "online as of (UTC)", "newest source (UTC)", "age", "limit", "state"):
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

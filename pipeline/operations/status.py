"""How fresh the online features are, and what the last runs did."""

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from feast import FeatureStore
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.base.clock import CLOCK_TOLERANCE, duration
from pipeline.base.errors import PipelineError
from pipeline.base.tables import table, to_the_minute, to_the_second
from pipeline.base.views import VIEW_NAMES
from pipeline.online.freshness import OnlineRows, online_rows
from pipeline.registry.feast_store import find_view
from pipeline.registry.holds import Hold, Holds
from pipeline.registry.ledger import DIED, RUNNING, Ledger, PastRun, Publication


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
            span = f"{to_the_second(online.oldest)} to {to_the_second(online.newest)}"
            said.append(f"online rows are of {span}: has a run broken off between them?")
        if online.newest and online.newest != self.recorded:
            said.append(
                f"the newest online row is of {to_the_second(online.newest)}; the registry says "
                f"{to_the_second(self.recorded)}, the ledger "
                f"{to_the_second(self.published.as_of if self.published else None)}"
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
            *said,
            "",
            _runs_table(self.runs) if self.runs else "No run has been made yet.",
            *[Text(f"{_short(run)}: {run.error}") for run in self.runs if run.error],
        )

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """Return both in types that JSON has."""
        return {
            "views": [
                {
                    "view": view.view,
                    "as_of": _iso(view.as_of),
                    "newest_source": _iso(view.newest_source),
                    "age_seconds": view.age.total_seconds() if view.age is not None else None,
                    "limit_seconds": view.limit.total_seconds(),
                    "state": view.verdict,
                    "contradictions": view.contradictions,
                }
                for view in self.views
            ],
            "runs": [
                {
                    "run": str(run.run_id),
                    "started": _iso(run.started_at),
                    "finished": _iso(run.finished_at),
                    "as_of": _iso(run.as_of),
                    "rows": _sum(run, "rows"),
                    "rejected": _sum(run, "rejected"),
                    "outcome": run.outcome,
                    "error": run.error,
                    **({"shard": run.shard} if run.shard else {}),
                }
                for run in self.runs
            ],
        }


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


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
        [replace(age, hold=holds.get(age.view)) for age in ages], _with_the_dead(ledger, ledger.last_runs(last))
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
    ledger = Ledger(store)
    alive = ledger.alive()
    run = next((run for run in ledger.last_runs(1) if run.outcome == RUNNING and run.backend_pid in alive), None)
    return bool(alive), run.run_id if run else None


def _with_the_dead(ledger: Ledger, runs: list[PastRun]) -> list[PastRun]:
    """Return `runs`, those as `died` that have not ended and whose session does not hold the lock any more."""
    alive = ledger.alive()
    return [
        replace(run, outcome=DIED) if run.outcome == RUNNING and run.backend_pid not in alive else run for run in runs
    ]


def _views_table(views: list[ViewAge]) -> Table:
    limit = duration(views[0].limit.total_seconds())
    made = table(
        f"Online features, at most {limit} old", "view", "online as of (UTC)", "newest source (UTC)", ">age", "state"
    )
    for view in views:
        age = duration(view.age.total_seconds()) if view.age is not None else "-"
        made.add_row(view.view, to_the_second(view.as_of), to_the_minute(view.newest_source), age, view.verdict)
    return made


def _runs_table(runs: list[PastRun]) -> Table:
    rejected = {run.run_id: _sum(run, "rejected") for run in runs}
    headings = (
        "run",
        "started (UTC)",
        "as of (UTC)",
        ">seconds",
        ">rows",
        *([">rejected"] if any(rejected.values()) else []),
    )
    made = table("Last runs", *headings, "outcome")
    for run in runs:
        seconds = f"{(run.finished_at - run.started_at).total_seconds():.1f}" if run.finished_at else "-"
        made.add_row(
            _short(run),
            to_the_minute(run.started_at),
            to_the_second(run.as_of),
            seconds,
            f"{_sum(run, 'rows'):,}",
            *([f"{rejected[run.run_id]:,}"] if any(rejected.values()) else []),
            run.outcome,
        )
    return made


def _short(run: PastRun) -> str:
    return str(run.run_id)[:8] + (f" ({run.shard})" if run.shard else "")


def _sum(run: PastRun, name: str) -> int:
    return sum(view[name] for view in run.views.values())

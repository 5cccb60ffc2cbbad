"""The report: what the kept snapshots, the ledger and the online store say of the features as of an instant."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, Field

from features.fields import WEATHER
from features.view_spec import look_up
from pipeline.base.errors import PipelineError, first_line
from pipeline.base.places import Snapshot
from pipeline.base.settings import Settings
from pipeline.base.specs import VIEWS
from pipeline.base.stop import raise_if_stopped
from pipeline.base.views import ASSETS
from pipeline.operations.report.drift import compared, histograms, numbers
from pipeline.operations.report.facts import FeatureReport, Picture, Report, ViewReport
from pipeline.operations.report.freshness import Online, freshness, on_site, on_view, online_by_site, with_sites
from pipeline.operations.report.history import Moment, course
from pipeline.operations.report.judging import (
    AGE,
    PLAUSIBLE,
    RUN,
    SET_ASIDE,
    SKEW,
    SKEW_WARNS,
    Evidence,
    Finding,
    Level,
    instant_text,
    judged,
    moved_by,
    percent,
    psi_limits,
)
from pipeline.registry.ledger import FAILED, Comparison, Ledger, PastRun, Publication
from pipeline.snapshots.files import (
    Replaced,
    newest_snapshot,
    read_snapshot,
    schema_of,
    set_aside_in,
    snapshot_instant,
    snapshots,
)

# How long before now the baseline is, and that of a feature with seasons: whole weeks, and of these a year.
BASELINE, SEASON = timedelta(days=28), timedelta(days=364)
# How much older a snapshot may be than the instant that is asked for, where there is none of it.
_SLACK = timedelta(days=14)
_LAST_RUNS = 10
_ATTEMPTS = 5


def make_report(
    settings: Settings,
    store: FeatureStore | None,
    views: Sequence[str],
    as_of: datetime,
    baseline: datetime | None = None,
) -> Report:
    """Return the report on `views` as of an instant; what is compared with is `BASELINE` before or as of `baseline`.

    Without a `store` nothing is told of runs and of what is online. Raises `PipelineError` where no view has a snapshot
    by then, or none at or before a `baseline` that was given, or one cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _Making(settings, store, as_of, baseline).report(views)
        except Replaced:
            if attempt == _ATTEMPTS - 1:
                raise
        except (OSError, pa.ArrowException, duckdb.Error) as error:
            folder = settings.snapshots
            raise PipelineError(f"A snapshot in {folder} cannot be read: {first_line(error)}") from error
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class _Snapshot:
    """The rows of a view as of an instant, and the site of each."""

    instant: datetime
    rows: pa.Table
    sites: pa.ChunkedArray

    @cached_property
    def number_of_sites(self) -> int:
        """How many sites they are."""
        return len(pc.unique(self.sites))


class _Making:
    """A report in the making."""

    def __init__(
        self, settings: Settings, store: FeatureStore | None, as_of: datetime, baseline: datetime | None
    ) -> None:
        self.settings = settings
        self.store = store
        self.as_of = as_of
        self.asked_baseline = baseline
        self.notes: list[str] = []
        self.findings: list[Finding] = []
        self.runs: list[PastRun] = []
        self.publications: dict[str, Publication] = {}
        self.comparisons: dict[str, Comparison] = {}
        self.assets: dict[datetime, pa.Table | None] = {}

    def report(self, views: Sequence[str]) -> Report:
        data_dir = self.settings.snapshots
        newest = {view: newest_snapshot(data_dir, view, until=self.as_of) for view in views}
        if not any(newest.values()):
            by_then = f"as of {instant_text(self.as_of)} or before"
            raise PipelineError(f"There is no snapshot {by_then} in {data_dir}: run first")
        if self.asked_baseline and not any(newest_snapshot(data_dir, v, until=self.asked_baseline) for v in views):
            by_then = f"as of {instant_text(self.asked_baseline)} or before"
            raise PipelineError(f"There is no snapshot {by_then} to compare with")
        self._read_ledger(views)
        made = []
        for view, path in newest.items():
            raise_if_stopped()
            if path:
                made.append(self._view(view, path))
            else:
                self.findings.append(Finding(Level.ALARM, AGE, view, f"{view} has no snapshot", weight=99))
        findings = [*self.findings, *(finding for view in made for finding in view.findings)]
        findings.sort(key=lambda each: (-each.level, -each.weight, each.view, each.feature, each.site))
        return Report(self.as_of, self.settings.age_limit, made, self.runs, findings, self.notes)

    def _read_ledger(self, views: Sequence[str]) -> None:
        if self.store is None:
            return
        try:
            ledger = Ledger(self.store)
            self.runs = [run for run in ledger.last_runs(_LAST_RUNS) if run.as_of <= self.as_of]
            self.publications = ledger.last_publications()
            self.comparisons = ledger.last_comparisons(self.as_of)
        except PipelineError as error:
            self.notes.append(f"Nothing is told of the last runs: {error}")
            return
        for view in views:
            run = next((run for run in self.runs if view in run.views), None)
            if run:
                self.findings.extend(_of_run(view, run))
            if (skew := self.comparisons.get(view)) and skew.worst_share > SKEW_WARNS:
                share = f"{percent(skew.worst_share)} of the values of {skew.worst}"
                text = f"{share} were served otherwise than they are known now"
                self.findings.append(Finding(Level.WARNING, SKEW, view, text, skew.worst, weight=skew.worst_share))
        if self.runs and self.runs[0].outcome == FAILED and not self.runs[0].views:
            self.findings.append(Finding(Level.ALARM, RUN, "", f"the last run failed: {self.runs[0].error}", weight=98))

    def _view(self, view: str, path: Snapshot) -> ViewReport:
        data_dir, instant = self.settings.snapshots, snapshot_instant(path)
        now = self._snapshot(path)
        before, year = self._baseline(view, instant), self._earlier(view, instant - SEASON)
        baseline = self._snapshot(before) if before else None
        season = self._snapshot(year) if year and not self.asked_baseline else None
        moments = course(data_dir, view, min(baseline.instant if baseline else instant, instant - BASELINE), instant)
        features = [self._feature(view, each, now, baseline, season, moments) for each in VIEWS[view].features]
        rows = with_sites(view, now.rows, now.sites)
        rows_before = with_sites(view, baseline.rows, baseline.sites) if baseline else None
        published = self.publications.get(view)
        newest_source = published.newest_source if published and published.as_of == instant else None
        fresh, sites = freshness(view, instant, rows, rows_before, self._online(view, rows), newest_source)
        set_aside = len(set_aside_in(schema_of(path)))
        findings = [each.finding for each in features if each.finding]
        findings += on_view(fresh, self.as_of, self.settings.age_limit)
        findings += [finding for site in sites for finding in on_site(site)]
        if set_aside:
            place = f"quarantine/{view}/{path.stem}.parquet"
            text = f"{set_aside:,} rows of {view} are set aside: {place} has them and the reasons"
            findings.append(Finding(Level.WARNING, SET_ASIDE, view, text, weight=1))
        return ViewReport(
            view,
            instant,
            baseline.instant if baseline else None,
            season.instant if season else None,
            fresh,
            sites,
            features,
            set_aside,
            [(at, moment.rows) for at, moment in moments.items()],
            self.comparisons.get(view),
            findings,
        )

    def _online(self, view: str, rows: pa.Table) -> Online:
        if self.store is None:
            return {}
        try:
            online = online_by_site(self.store, view, rows)
        except PipelineError as error:
            self.notes.append(f"Nothing is told of what is online of {view}: {error}")
            return {}
        if online is None:
            self.notes.append(f"{view} was never published")
        return online or {}

    def _baseline(self, view: str, instant: datetime) -> Snapshot | None:
        """Return the snapshot to compare with, where there is none so old the oldest one, which is noted."""
        data_dir = self.settings.snapshots
        wanted = self.asked_baseline or instant - BASELINE
        found = newest_snapshot(data_dir, view, until=wanted)
        if found is None and not self.asked_baseline:
            *_, found = snapshots(data_dir, view, last=instant)
            found = newest_snapshot(data_dir, view, until=snapshot_instant(found))
        if found is None or snapshot_instant(found) >= instant:
            self.notes.append(f"{view} is compared with nothing: no earlier snapshot is kept")
            return None
        if abs(snapshot_instant(found) - wanted) > timedelta(days=1):
            instead = f"{view} is compared with {instant_text(snapshot_instant(found))}"
            self.notes.append(f"{instead}: no snapshot as of {instant_text(wanted)} is kept")
        return found

    def _earlier(self, view: str, wanted: datetime) -> Snapshot | None:
        found = newest_snapshot(self.settings.snapshots, view, until=wanted)
        return found if found and snapshot_instant(found) > wanted - _SLACK else None

    # Features ---------------------------------------------------------------------------------------------------------

    def _feature(
        self,
        view: str,
        feature: Field,
        now: _Snapshot,
        baseline: _Snapshot | None,
        season: _Snapshot | None,
        moments: dict[datetime, Moment],
    ) -> FeatureReport:
        name, definition = feature.name, VIEWS[view]
        nulls = [(at, moment.rate(name)) for at, moment in moments.items()]
        if name not in now.rows.column_names or not now.rows.num_rows:
            return FeatureReport(view, feature, None, nulls, None)
        is_same_season = moved_by(definition, feature) == WEATHER and season is not None
        earlier = season if is_same_season else baseline
        alone = FeatureReport(view, feature, None, nulls, now.rows[name].null_count / now.rows.num_rows)
        if earlier is None or name not in earlier.rows.column_names or not earlier.rows.num_rows:
            return alone
        column, column_before = now.rows[name], earlier.rows[name]
        if column.type != column_before.type:
            self.notes.append(f"{view}: {name} is not compared, its type was {column_before.type}")
            return alone
        drift = compared(column_before, column)
        evidence = Evidence(column_before, column, drift, earlier.number_of_sites, now.number_of_sites, is_same_season)
        warns, alarms = psi_limits(definition, feature, evidence)
        picture: Picture | None = None
        quartiles: list[list[float]] = [[], []]
        if pa.types.is_primitive(column.type):
            values = [numbers(each) for each in (column_before, column)]
            (was, is_now), first, last = histograms(values)
            picture = Picture(was, is_now, first, last)
            quartiles = [np.quantile(each, (0.25, 0.5, 0.75)).tolist() if len(each) else [] for each in values]
        return replace(
            alone,
            finding=judged(definition, feature, evidence),
            null_rate_before=column_before.null_count / earlier.rows.num_rows,
            baseline=earlier.instant,
            psi=drift.psi,
            warns=warns,
            alarms=alarms,
            bins=[(label, *drift.shares(place)) for place, label in enumerate(drift.labels)],
            quartiles=quartiles[1],
            quartiles_before=quartiles[0],
            picture=picture,
        )

    def _snapshot(self, path: Snapshot) -> _Snapshot:
        instant, rows = snapshot_instant(path), read_snapshot(path)
        assets = self._assets(instant)
        if assets is None:
            return _Snapshot(instant, rows, pa.chunked_array([pa.nulls(rows.num_rows, pa.string())]))
        return _Snapshot(instant, rows, look_up(assets, "site_id", rows["asset_id"]))

    def _assets(self, instant: datetime) -> pa.Table | None:
        """Return the sites of the assets as of an instant; an asset seldom moves: if not of then, those of now."""
        if instant not in self.assets:
            data_dir = self.settings.snapshots
            path = newest_snapshot(data_dir, ASSETS, until=instant) or newest_snapshot(data_dir, ASSETS, self.as_of)
            self.assets[instant] = read_snapshot(path, ["asset_id", "site_id"]) if path else None
        return self.assets[instant]


def _of_run(view: str, run: PastRun) -> list[Finding]:
    """Return what the last run with a view says of it."""
    row, found = run.views[view], []
    if row.get("inconsistent"):
        wrong = f"{row['inconsistent']:,} of {row['compared']:,} values of {view} that were read back"
        text = f"{wrong} are not those of the snapshot, in the run as of {instant_text(run.as_of)}"
        found.append(Finding(Level.ALARM, RUN, view, text, weight=47))
    elif row.get("outcome") in ("failed", "rejected"):
        what = "failed" if row["outcome"] == "failed" else "was held back"
        text = f"{view} {what} in the run as of {instant_text(run.as_of)}"
        found.append(Finding(Level.ALARM, RUN, view, text, weight=47))
    elif row.get("outcome") == "on hold":
        found.append(Finding(Level.WARNING, RUN, view, f"{view} is on hold after a rollback", weight=5))
    for feature, rows in (row.get("implausible") or {}).items():
        if rows:
            text = f"{feature} is not plausible in {rows:,} rows of the run as of {instant_text(run.as_of)}"
            found.append(Finding(Level.WARNING, PLAUSIBLE, view, text, feature, weight=0.5))
    return found

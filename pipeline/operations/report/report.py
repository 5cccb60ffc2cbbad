"""The report: what the kept snapshots, the ledger and the online store say of the features as of an instant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, Field
from numpy.typing import NDArray

from features.fields import WEATHER
from features.view_spec import look_up
from pipeline.base.clock import duration
from pipeline.base.errors import PipelineError
from pipeline.base.settings import Settings
from pipeline.base.specs import VIEWS
from pipeline.base.stop import raise_if_stopped
from pipeline.base.views import ASSETS
from pipeline.online.freshness import SAMPLE, event_timestamps
from pipeline.operations.report.drift import compared, histograms, numbers
from pipeline.operations.report.history import Moment, course
from pipeline.operations.report.judging import (
    AGE,
    FEW,
    ONLINE,
    PLAUSIBLE,
    ROWS,
    ROWS_ALARM,
    ROWS_WARN,
    RUN,
    SET_ASIDE,
    SOURCE,
    Evidence,
    Finding,
    Level,
    judged,
    moved_by,
    percent,
    psi_limits,
)
from pipeline.registry.feast_store import find_view
from pipeline.registry.ledger import FAILED, Ledger, PastRun, Publication
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
_HOURS = {"hours": timedelta(hours=1), "days": timedelta(days=1)}


@dataclass(frozen=True)
class Picture:
    """Histograms of equal width, of the baseline and of now, over one axis from `first` to `last`."""

    before: NDArray[np.int64]
    now: NDArray[np.int64]
    first: float
    last: float


@dataclass(frozen=True)
class FeatureReport:
    """One feature: its `finding`, if there is one, its numbers, and what its pictures are made of.

    `bins` are those of the PSI: label, share of the baseline, share of now. `warns` and `alarms` are the limits of the
    PSI. `quartiles` are those of numbers. `nulls` is the course of the share of NULLs.
    """

    view: str
    definition: Field
    finding: Finding | None
    nulls: list[tuple[datetime, float | None]]
    null_rate: float | None
    null_rate_before: float | None = None
    baseline: datetime | None = None
    psi: float | None = None
    warns: float | None = None
    alarms: float | None = None
    bins: list[tuple[str, float, float]] = field(default_factory=list)
    quartiles: list[float] = field(default_factory=list)
    quartiles_before: list[float] = field(default_factory=list)
    picture: Picture | None = None

    @property
    def weight(self) -> float:
        """What of equally bad features comes first: the PSI, where all is well as a share of its limit."""
        if self.finding:
            return self.finding.weight
        return (self.psi or 0.0) / (self.alarms if self.alarms is not None and np.isfinite(self.alarms) else np.inf)

    @property
    def level(self) -> Level:
        """How bad it is."""
        return self.finding.level if self.finding else Level.FINE


@dataclass(frozen=True)
class Freshness:
    """How old a view is, or what it has of a site: its newest event, the newest source fact, what is online.

    `rows` and `rows_before` are those of the newest snapshot and of the baseline. `online` is as of the oldest of the
    `asked` rows that were looked for online, of which `missing` were not there.
    """

    view: str
    site: str
    rows: int
    rows_before: int | None
    newest_event: datetime | None
    newest_source: datetime | None = None
    online: datetime | None = None
    asked: int = 0
    missing: int = 0


@dataclass(frozen=True)
class ViewReport:
    """One view: how fresh it is as a whole and by site, its features, what was set aside; all that is wrong with it."""

    name: str
    instant: datetime
    baseline: datetime | None
    season: datetime | None
    freshness: Freshness
    sites: list[Freshness]
    features: list[FeatureReport]
    set_aside: int
    rows: list[tuple[datetime, int]]
    findings: list[Finding]


@dataclass(frozen=True)
class Report:
    """All of it: `notes` say what is not known, and why."""

    as_of: datetime
    age_limit: timedelta
    views: list[ViewReport]
    runs: list[PastRun]
    findings: list[Finding]
    notes: list[str]

    @property
    def level(self) -> Level:
        """The worst of all."""
        return max((finding.level for finding in self.findings), default=Level.FINE)

    @property
    def features(self) -> list[FeatureReport]:
        """Every feature, the worst one first."""
        found = [feature for view in self.views for feature in view.features]
        return sorted(found, key=lambda each: (-each.level, -each.weight))


def make_report(
    settings: Settings,
    store: FeatureStore | None,
    views: Sequence[str],
    as_of: datetime,
    baseline: datetime | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Return the report on `views` as of an instant; what is compared with is `BASELINE` before or as of `baseline`.

    Without a `store` nothing is told of runs and of what is online. Raises `PipelineError` where no view has a snapshot
    by then, or none at or before a `baseline` that was given.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _Making(settings, store, as_of, baseline).report(views, progress)
        except Replaced:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class _ComparedWith:
    """An earlier snapshot, and of how many sites its rows are."""

    instant: datetime
    rows: pa.Table
    sites: int


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
        self.sites: dict[datetime, pa.Table | None] = {}

    def report(self, views: Sequence[str], progress: Callable[[str], None]) -> Report:
        data_dir = self.settings.feature_data_dir
        newest = {view: newest_snapshot(data_dir, view, until=self.as_of) for view in views}
        if not any(newest.values()):
            raise PipelineError(f"There is no snapshot as of {_time(self.as_of)} or before in {data_dir}: run first")
        if self.asked_baseline and not any(newest_snapshot(data_dir, v, until=self.asked_baseline) for v in views):
            raise PipelineError(f"There is no snapshot as of {_time(self.asked_baseline)} or before to compare with")
        self._read_ledger(views)
        made = []
        for view, path in newest.items():
            raise_if_stopped()
            progress(view)
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
        except PipelineError as error:
            self.notes.append(f"Nothing is told of the last runs: {error}")
            return
        for view in views:
            run = next((run for run in self.runs if view in run.views), None)
            if run:
                self.findings.extend(_of_run(view, run))
        if self.runs and self.runs[0].outcome == FAILED and not self.runs[0].views:
            self.findings.append(Finding(Level.ALARM, RUN, "", f"the last run failed: {self.runs[0].error}", weight=98))

    def _view(self, view: str, path: Path) -> ViewReport:
        data_dir, instant = self.settings.feature_data_dir, snapshot_instant(path)
        now = read_snapshot(path)
        baseline = self._baseline(view, instant)
        before = read_snapshot(baseline) if baseline else None
        year = None if self.asked_baseline else self._earlier(view, instant - SEASON)
        season = read_snapshot(year) if year else None
        first = min(snapshot_instant(baseline) if baseline else instant, instant - BASELINE)
        moments = course(data_dir, view, first, instant)
        set_aside = len(set_aside_in(schema_of(path)))
        freshness, sites = self._freshness(view, instant, now, before, baseline)
        compared_with = self._compared_with(baseline, before), self._compared_with(year, season)
        sites_now = len(pc.unique(self._sites_of(instant, now)))
        features = [self._feature(view, each, now, sites_now, *compared_with, moments) for each in VIEWS[view].features]
        findings = [each.finding for each in features if each.finding]
        findings += _of_freshness(freshness, self.as_of, self.settings.age_limit)
        for site in sites:
            findings += _of_site(site, _source_limit(view))
        if set_aside:
            text = f"{set_aside:,} rows of {view} are set aside: quarantine/{view}/{path.name} has them and the reasons"
            findings.append(Finding(Level.WARNING, SET_ASIDE, view, text, weight=1))
        return ViewReport(
            view,
            instant,
            snapshot_instant(baseline) if baseline else None,
            snapshot_instant(year) if year else None,
            freshness,
            sites,
            features,
            set_aside,
            [(at, moment.rows) for at, moment in moments.items()],
            findings,
        )

    def _baseline(self, view: str, instant: datetime) -> Path | None:
        """Return the snapshot to compare with, where there is none so old the oldest one, which is noted."""
        data_dir = self.settings.feature_data_dir
        wanted = self.asked_baseline or instant - BASELINE
        found = newest_snapshot(data_dir, view, until=wanted)
        if found is None and not self.asked_baseline:
            *_, found = snapshots(data_dir, view, last=instant)
            found = newest_snapshot(data_dir, view, until=snapshot_instant(found))
        if found is None or snapshot_instant(found) >= instant:
            self.notes.append(f"{view} is compared with nothing: no earlier snapshot is kept")
            return None
        if abs(snapshot_instant(found) - wanted) > timedelta(days=1):
            self.notes.append(
                f"{view} is compared with {_time(snapshot_instant(found))}: no snapshot as of {_time(wanted)} is kept"
            )
        return found

    def _earlier(self, view: str, wanted: datetime) -> Path | None:
        found = newest_snapshot(self.settings.feature_data_dir, view, until=wanted)
        return found if found and snapshot_instant(found) > wanted - _SLACK else None

    # Features ---------------------------------------------------------------------------------------------------------

    def _feature(
        self,
        view: str,
        feature: Field,
        now: pa.Table,
        sites_now: int,
        baseline: "_ComparedWith | None",
        season: "_ComparedWith | None",
        moments: dict[datetime, Moment],
    ) -> FeatureReport:
        name, definition = feature.name, VIEWS[view]
        nulls = [(at, moment.rate(name)) for at, moment in moments.items()]
        if name not in now.column_names or not now.num_rows:
            return FeatureReport(view, feature, None, nulls, None)
        is_same_season = moved_by(definition, feature) == WEATHER and season is not None
        earlier = season if is_same_season else baseline
        alone = FeatureReport(view, feature, None, nulls, now[name].null_count / now.num_rows)
        if earlier is None or name not in earlier.rows.column_names or not earlier.rows.num_rows:
            return alone
        column, column_before = now[name], earlier.rows[name]
        if column.type != column_before.type:
            self.notes.append(f"{view}: {name} is not compared, its type was {column_before.type}")
            return alone
        drift = compared(column_before, column)
        evidence = Evidence(column_before, column, drift, earlier.sites, sites_now, is_same_season)
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

    def _compared_with(self, path: Path | None, rows: pa.Table | None) -> "_ComparedWith | None":
        if path is None or rows is None:
            return None
        instant = snapshot_instant(path)
        return _ComparedWith(instant, rows, len(pc.unique(self._sites_of(instant, rows))))

    def _sites_of(self, instant: datetime, rows: pa.Table) -> pa.ChunkedArray:
        """Return the site of each row as of an instant, by the newest assets' snapshot of then; NULL where unknown."""
        if instant not in self.sites:
            until = (instant, self.as_of)  # an asset seldom moves: where there is none of then, that of now
            found = (newest_snapshot(self.settings.feature_data_dir, ASSETS, until=each) for each in until)
            path = next(filter(None, found), None)
            self.sites[instant] = read_snapshot(path, ["asset_id", "site_id"]) if path else None
        assets = self.sites[instant]
        if assets is None:
            return pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
        return look_up(assets, "site_id", rows["asset_id"])

    # Freshness --------------------------------------------------------------------------------------------------------

    def _freshness(
        self, view: str, instant: datetime, now: pa.Table, before: pa.Table | None, baseline: Path | None
    ) -> tuple[Freshness, list[Freshness]]:
        """Return how fresh a view is as a whole, and by site."""
        rows = pa.table({"site": pc.fill_null(self._sites_of(instant, now), "")})
        aggregates = [("site", "count")]
        if source := _source_feature(view):
            rows = rows.append_column("source", now[source.name])
            aggregates.append(("source", "min"))
        by_site = {row["site"]: row for row in rows.group_by("site").aggregate(aggregates).to_pylist()}
        was: dict[str, int] = {}
        if before is not None and baseline:
            sites_before = pc.fill_null(self._sites_of(snapshot_instant(baseline), before), "")
            was = {count["values"]: count["counts"] for count in pc.value_counts(sites_before).to_pylist()}
        online = self._online(view, now["asset_id"], rows["site"])

        def newest_source(age: float | None) -> datetime | None:
            return instant - age * _HOURS[source.tags["unit"]] if source and age is not None else None

        sites = [
            Freshness(
                view,
                site,
                by_site[site]["site_count"] if site in by_site else 0,
                was.get(site, 0) if before is not None else None,
                instant if site in by_site else None,
                newest_source(by_site[site].get("source_min")) if site in by_site else None,
                *_of_online(online.get(site, [])),
            )
            for site in sorted({*by_site, *was})
        ]
        newest = max((site.newest_source for site in sites if site.newest_source), default=None)
        if not newest and (published := self.publications.get(view)) and published.as_of == instant:
            newest = published.newest_source
        everything = [stamp for stamps in online.values() for stamp in stamps]
        whole = Freshness(
            view,
            "",
            now.num_rows,
            before.num_rows if before is not None else None,
            instant,
            newest,
            *_of_online(everything),
        )
        return whole, sites

    def _online(self, view: str, ids: pa.ChunkedArray, sites: pa.ChunkedArray) -> dict[str, list[datetime | None]]:
        """Return by site as of when some of its assets are online, for each that was looked for."""
        if self.store is None:
            return {}
        try:
            registered = find_view(self.store, view)
            if registered is None or not registered.most_recent_end_time:
                self.notes.append(f"{view} was never published")
                return {}
            order = np.random.default_rng().permutation(len(ids))
            mixed = pa.table({"asset_id": ids.take(order), "site": sites.take(order)})
            each = max(FEW, SAMPLE // max(len(pc.unique(sites)), 1))
            number = np.zeros(len(order), dtype=np.int64)  # of each asset among those of its site
            codes = np.asarray(mixed["site"].combine_chunks().dictionary_encode().indices)
            by_code = np.argsort(codes, kind="stable")
            starts = np.flatnonzero(np.r_[True, np.diff(codes[by_code]) != 0]) if len(codes) else np.empty(0, dtype=int)
            number[by_code] = np.arange(len(codes)) - np.repeat(starts, np.diff(np.r_[starts, len(codes)]))
            chosen = mixed.filter(pa.array(number < each))
            stamps = event_timestamps(self.store, registered, chosen["asset_id"].to_pylist())
        except PipelineError as error:
            self.notes.append(f"Nothing is told of what is online of {view}: {error}")
            return {}
        found: dict[str, list[datetime | None]] = {}
        for site, stamp in zip(chosen["site"].to_pylist(), stamps, strict=True):
            found.setdefault(site, []).append(stamp)
        return found


def _of_online(stamps: list[datetime | None]) -> tuple[datetime | None, int, int]:
    known = [stamp for stamp in stamps if stamp]
    return min(known, default=None), len(stamps), len(stamps) - len(known)


def _source_feature(view: str) -> Field | None:
    """Return the feature that is the time since the newest fact of an asset, where the view has one."""
    return next((each for each in VIEWS[view].features if "source_limit_hours" in each.tags), None)


def _source_limit(view: str) -> timedelta:
    source = _source_feature(view)
    hours = float(source.tags["source_limit_hours"]) if source else np.inf
    return timedelta(hours=hours) if np.isfinite(hours) else timedelta.max


def _of_freshness(view: Freshness, as_of: datetime, limit: timedelta) -> list[Finding]:
    """Return what is wrong with a view as a whole."""
    found, name = [], view.view
    age = as_of - (view.newest_event or as_of)
    if age > limit:
        said = f"the newest snapshot of {name} is {_age(age)} old: runs fail, or do not come"
        found.append(Finding(Level.ALARM, AGE, name, said, weight=50))
    if view.online and as_of - view.online > limit and view.online < (view.newest_event or as_of):
        said = f"what is online of {name} is {_age(as_of - view.online)} old, its newest snapshot {_age(age)}"
        found.append(Finding(Level.ALARM, ONLINE, name, said, weight=49))
    if view.missing:
        said = f"{view.missing:,} of {view.asked:,} assets of {name} that were looked for are not online"
        found.append(Finding(Level.ALARM, ONLINE, name, said, weight=48))
    if view.rows_before is not None and (loss := view.rows_before - view.rows) >= FEW:
        share = loss / view.rows_before
        if share >= ROWS_WARN:
            said = f"{name} has {view.rows:,} rows, {view.rows_before:,} before: {percent(share)} are gone"
            level = Level.ALARM if share >= ROWS_ALARM else Level.WARNING
            found.append(Finding(level, ROWS, name, said, weight=20 + share))
    return found


def _of_site(site: Freshness, limit: timedelta) -> list[Finding]:
    """Return what is wrong with a view at one site."""
    name, of = site.view, f"site {site.site or 'unknown'}"
    if site.rows_before and not site.rows and site.rows_before >= FEW:
        said = f"{name} has no row of {of} any more, {site.rows_before:,} before"
        return [Finding(Level.ALARM, ROWS, name, said, site=site.site, weight=19)]
    found = []
    if site.rows_before and (loss := site.rows_before - site.rows) >= FEW and loss >= ROWS_ALARM * site.rows_before:
        said = f"{name} has {site.rows:,} rows of {of}, {site.rows_before:,} before"
        found.append(Finding(Level.WARNING, ROWS, name, said, site=site.site, weight=10 + loss / site.rows_before))
    if site.newest_source and site.newest_event and (age := site.newest_event - site.newest_source) > limit / 2:
        level = Level.ALARM if age > limit else Level.WARNING
        said = f"the newest data of {of} in {name} is {_age(age)} old"
        found.append(Finding(level, SOURCE, name, said, site=site.site, weight=15))
    return found


def _of_run(view: str, run: PastRun) -> list[Finding]:
    """Return what the last run with a view says of it."""
    row, found = run.views[view], []
    if row.get("outcome") in ("failed", "rejected"):
        what = "failed" if row["outcome"] == "failed" else "was held back"
        found.append(Finding(Level.ALARM, RUN, view, f"{view} {what} in the run as of {_time(run.as_of)}", weight=47))
    elif row.get("outcome") == "on hold":
        found.append(Finding(Level.WARNING, RUN, view, f"{view} is on hold after a rollback", weight=5))
    for feature, rows in (row.get("implausible") or {}).items():
        if rows:
            text = f"{feature} is not plausible in {rows:,} rows of the run as of {_time(run.as_of)}"
            found.append(Finding(Level.WARNING, PLAUSIBLE, view, text, feature, weight=0.5))
    return found


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _age(age: timedelta) -> str:
    return duration(age.total_seconds())


# As JSON --------------------------------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """Return the report in types that JSON has; instants are ISO 8601 in UTC, ages in seconds."""
    return {
        "as_of": _time(report.as_of),
        "level": report.level.name.lower(),
        "findings": [_finding_as_json(each) for each in report.findings],
        "notes": report.notes,
        "views": [_view_as_json(view, report.as_of) for view in report.views],
        "runs": [
            {
                "run_id": str(run.run_id),
                "as_of": _time(run.as_of),
                "started_at": _time(run.started_at),
                "outcome": run.outcome,
                "error": run.error,
                "views": {
                    view: {name: row.get(name) for name in ("outcome", "rows", "rejected", "implausible")}
                    for view, row in run.views.items()
                },
            }
            for run in report.runs
        ],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    fields = {"view": finding.view, "feature": finding.feature, "site": finding.site}
    said = {"level": finding.level.name.lower(), "kind": finding.kind, "text": finding.text}
    return said | {name: value for name, value in fields.items() if value}


def _view_as_json(view: ViewReport, as_of: datetime) -> dict[str, Any]:
    return {
        "view": view.name,
        "as_of": _time(view.instant),
        "baseline": view.baseline and _time(view.baseline),
        "same_season": view.season and _time(view.season),
        "set_aside": view.set_aside,
        "rows_course": [[_time(at), rows] for at, rows in view.rows],
        "freshness": _freshness_as_json(view.freshness, as_of),
        "sites": [{"site": site.site or None} | _freshness_as_json(site, as_of) for site in view.sites],
        "features": [_feature_as_json(feature) for feature in view.features],
    }


def _freshness_as_json(each: Freshness, as_of: datetime) -> dict[str, Any]:
    ages = {
        f"{name}_age_seconds": None if at is None else (as_of - at).total_seconds()
        for name, at in (("event", each.newest_event), ("source", each.newest_source), ("online", each.online))
    }
    names = ("rows", "rows_before", "asked", "missing")
    return {name: getattr(each, name) for name in names} | ages


def _feature_as_json(feature: FeatureReport) -> dict[str, Any]:
    limits = {name: getattr(feature, name) for name in ("warns", "alarms")}
    names = ("psi", "null_rate", "null_rate_before", "quartiles", "quartiles_before")
    return {
        "feature": feature.definition.name,
        "unit": feature.definition.tags["unit"],
        "level": feature.level.name.lower(),
        "baseline": feature.baseline and _time(feature.baseline),
        **{name: getattr(feature, name) for name in names},
        # no limit is no number in JSON
        **{
            f"psi_{name}": limit if limit is not None and np.isfinite(limit) else None for name, limit in limits.items()
        },
        "bins": [dict(zip(("bin", "before", "now"), each, strict=True)) for each in feature.bins],
        "null_course": [[_time(at), rate] for at, rate in feature.nulls],
    }

"""What a report consists of, whoever tells it: as a table, a page, JSON or metrics."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from feast import Field
from numpy.typing import NDArray

from pipeline.base.tables import to_the_minute
from pipeline.operations.report.judging import Finding, Level, percent
from pipeline.registry.ledger import Comparison, PastRun


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
    """One view: how fresh it is as a whole and by site, its features, what was set aside; all that is wrong with it.

    `skew` is what the last comparison of what was served with what is known now has found.
    """

    name: str
    instant: datetime
    baseline: datetime | None
    season: datetime | None
    freshness: Freshness
    sites: list[Freshness]
    features: list[FeatureReport]
    set_aside: int
    rows: list[tuple[datetime, int]]
    skew: Comparison | None
    findings: list[Finding]

    @property
    def skew_text(self) -> str:
        """The skew in a sentence, empty where it was never measured."""
        if not (skew := self.skew):
            return ""
        share = percent(skew.differ / skew.values if skew.values else 0.0)
        most = f", most of {skew.worst}: {percent(skew.worst_share)}" if skew.differ else ""
        return f"{self.name}: {share} of what was served until {to_the_minute(skew.as_of)} differs now{most}"


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

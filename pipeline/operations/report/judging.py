"""What a report finds wrong with a feature, in a sentence: the limits, and what they take into account."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, Field

from features.fields import ARRIVAL, GRID, NOTHING, TIME, UNKNOWN, WEATHER
from pipeline.operations.report.drift import NEW, NULL, OTHERS, Drift, named, numbers

# The usual limits of the PSI; a feature's tags may have others.
PSI_WARNS, PSI_ALARMS = 0.2, 0.3
# How much the share of NULLs may rise where it depends on nothing that comes and goes.
NULLS_WARN, NULLS_ALARM = 0.05, 0.1
# How much of the rows may be gone, of a view; of a site that is a warning, unless it has none any more.
ROWS_WARN, ROWS_ALARM = 0.05, 0.2
# A late bucket moves every mean of its window a little, an edit one asset: more than half of the values is neither.
SKEW_WARNS = 0.5
# An asset or two more or less are a change, not a failure, whatever share of a small fleet they are.
FEW = 3
# So many times the width of its baseline a median has to go for a leap: that of a wrong unit, not of a hot day.
_LEAP = 2
# A value that more than this share has had may well be the only one for a while. Below, as rarely as this by chance.
_MOSTLY = 0.75
_RARELY = 1e-4


# What a finding is about: the last runs, the age of a view or of a site's facts, online rows, rows that are gone or set
# aside, NULLs, distributions, values that are not plausible, and such that are known otherwise than they were served.
RUN, AGE, SOURCE, ONLINE, ROWS, SET_ASIDE, NULLS, DRIFT, PLAUSIBLE, SKEW = KINDS = (
    "run",
    "age",
    "source",
    "online",
    "rows",
    "set aside",
    "nulls",
    "drift",
    "plausible",
    "skew",
)


class Level(IntEnum):
    """How bad a finding is."""

    FINE = 0
    WARNING = 1
    ALARM = 2


@dataclass(frozen=True)
class Finding:
    """What is wrong with a view, a feature or a site of it, in a sentence; the larger `weight` comes first.

    `kind` is one of `KINDS`.
    """

    level: Level
    kind: str
    view: str
    text: str
    feature: str = ""
    site: str = ""
    weight: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """A feature now and at its baseline: the columns, their drift, and of how many sites they are.

    `is_same_season` says that the baseline is a year old, as that of a feature that weather moves should be.
    """

    before: pa.ChunkedArray
    now: pa.ChunkedArray
    drift: Drift
    sites_before: int
    sites_now: int
    is_same_season: bool


def moved_by(view: FeatureView, field: Field) -> str:
    """Return what moves a feature while nothing is wrong, as its tags or those of its view say."""
    return str(field.tags.get("moves_with") or view.tags.get("moves_with", NOTHING))


def psi_limits(view: FeatureView, field: Field, evidence: Evidence) -> tuple[float, float]:
    """Return above which PSI there is a warning, and an alarm; both are at least what chance alone makes.

    Weather moves all assets of a site together: there the sites count as independent values. A year ago it was the same
    season; where no such snapshot is kept, there is only a warning. What else moves is not judged by it.
    """
    tags, moves = field.tags, moved_by(view, field)
    if moves in (GRID, TIME, ARRIVAL):
        return math.inf, math.inf
    if moves == WEATHER:
        chance = evidence.drift.of_chance(evidence.sites_before, evidence.sites_now)
    else:
        chance = evidence.drift.of_chance(len(evidence.before), len(evidence.now))
    warns = max(float(tags.get("psi_warns", PSI_WARNS)), chance)
    alarms = max(float(tags.get("psi_alarms", PSI_ALARMS)), chance)
    return warns, math.inf if moves == WEATHER and not evidence.is_same_season else alarms


def judged(view: FeatureView, field: Field, evidence: Evidence) -> Finding | None:
    """Return the worst finding on a feature, None where all is well."""
    findings = list(_findings(view, field, evidence))
    return max(findings, key=lambda finding: finding.level, default=None)  # of equals the first


def _findings(view: FeatureView, field: Field, evidence: Evidence) -> Iterator[Finding]:
    before, now, drift = evidence.before, evidence.now, evidence.drift
    if not (len(before) and len(now)):
        return

    def finding(level: Level, text: str, kind: str = DRIFT, weight: float = drift.psi) -> Finding:
        return Finding(level, kind, view.name, text, field.name, weight=weight)

    was, is_now = before.null_count / len(before), now.null_count / len(now)
    rise = is_now - was
    if field.tags["null"] == UNKNOWN and rise >= NULLS_WARN and rise * len(now) >= FEW:
        level = Level.ALARM if rise >= NULLS_ALARM else Level.WARNING
        yield finding(level, _of_assets(field.name, "NULL", is_now, was), NULLS, max(rise, drift.psi))
    known, known_before, moves = now.drop_null(), before.drop_null(), moved_by(view, field)
    if not (len(known) and len(known_before)) or moves == ARRIVAL:
        return
    independent = evidence.sites_now if moves == WEATHER else len(known)
    # the frequency of a grid is the same everywhere
    if moves != GRID and (constant := _constant(known, known_before, independent)):
        yield finding(Level.ALARM, f"{field.name} is {constant}")
    if leap := _leap(field, known, known_before):
        yield finding(Level.ALARM, leap)
    warns, alarms = psi_limits(view, field, evidence)
    if drift.psi >= warns:
        level = Level.ALARM if drift.psi >= alarms else Level.WARNING
        yield finding(level, _shift(field, evidence))


def _constant(now: pa.ChunkedArray, before: pa.ChunkedArray, independent: int) -> str:
    """Return that all values are one and the same, where that cannot be chance."""
    values = pc.unique(now)
    if len(values) > 1 or len(now) < FEW:
        return ""
    different = len(pc.unique(before))
    share = pc.sum(pc.equal(before, values[0])).as_py() / len(before)
    if different < 2 or share > _MOSTLY or share**independent >= _RARELY:
        return ""
    return f"{named(values[0].as_py())} in every asset that has one; there were {different:,} different values before"


def _leap(field: Field, now: pa.ChunkedArray, before: pa.ChunkedArray) -> str:
    """Return that the median of numbers is far out of all that there was before, as with a wrong unit."""
    if not pa.types.is_primitive(now.type) or len(now) < FEW:
        return ""
    values = numbers(before)
    lowest, highest = float(values.min()), float(values.max())
    was, is_now = float(np.median(values)), float(np.median(numbers(now)))
    leap = abs(is_now - was)
    if leap <= _LEAP * (highest - lowest) or leap <= max(abs(was), abs(is_now)) / 2:
        return ""
    extremes = f"{named(lowest)} to {named(highest)}"
    return f"the median of {field.name} is {with_unit(is_now, field)}, {named(was)} before, when all were {extremes}"


def _shift(field: Field, evidence: Evidence) -> str:
    """Return in a sentence what has changed most."""
    drift = evidence.drift
    place = drift.main_cause
    was, is_now = drift.shares(place)
    label = drift.labels[place]
    if label == NULL:
        return _of_assets(field.name, NULL, is_now, was)
    if label == NEW:
        fresh = evidence.now.filter(pc.invert(pc.is_in(evidence.now, value_set=pc.unique(evidence.before))))
        counts = pc.value_counts(fresh.drop_null())
        value = counts.field("values")[int(np.argmax(counts.field("counts").to_numpy()))].as_py()
        share = f"{percent(is_now)} of assets"
        return f"{field.name} has a value that it never had before in {share}, such as {named(value)}"
    if NEW in drift.labels:  # a bin per value
        return _of_assets(field.name, "a rarer value" if label == OTHERS else label, is_now, was)
    quarters = [
        [named(float(value)) for value in np.quantile(numbers(column), (0.25, 0.75))]
        for column in (evidence.now, evidence.before)
    ]
    (low, high), (low_before, high_before) = quarters
    if quarters[0] == quarters[1]:
        return _of_assets(field.name, label, is_now, was)
    unit = unit_of(field)
    return f"the middle half of {field.name} is {low} to {high}{unit}, {low_before} to {high_before} before"


def _of_assets(name: str, value: str, is_now: float, was: float) -> str:
    return f"{name} is {value} in {percent(is_now)} of assets, {percent(was)} before"


def instant_text(instant: datetime) -> str:
    """Return an instant in UTC as ISO 8601."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def percent(share: float) -> str:
    """Return a share as people write it: 25 %, 0.4 %."""
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def unit_of(field: Field) -> str:
    """Return the unit of a feature with a blank before it, nothing for a plain number or a text."""
    unit = field.tags["unit"]
    return "" if unit in ("1", "text", "count") else f" {unit.removeprefix('points ')}"


def with_unit(value: float, field: Field) -> str:
    """Return a value of a feature with its unit."""
    return f"{named(value)}{unit_of(field)}"

"""The report as one HTML page that needs nothing else: no network, no file beside it."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from pipeline.base.clock import duration
from pipeline.base.errors import PipelineError
from pipeline.base.tables import to_the_minute
from pipeline.operations.report.drift import named
from pipeline.operations.report.facts import FeatureReport, Report
from pipeline.operations.report.judging import Level, percent, unit_of
from pipeline.registry.ledger import PastRun

# The sizes of the pictures, in units of their own.
_WIDTH, _HEIGHT, _LOW = 240, 60, 32
# Up to here, the picture of the NULLs is not as high as it could be.
_FEW_NULLS = 0.1
# So many bins of a text are named, those that moved most.
_NAMED = 3
_MOST_TEXT = 40


class Shape(NamedTuple):
    """What is drawn of a feature: two paths over one axis with the texts at its ends, and the course of its NULLs."""

    before: str
    now: str
    first: str
    last: str
    nulls: str
    most_nulls: str


class Row(NamedTuple):
    """A feature as the page shows it. `rank` is its place, the worst first."""

    rank: int
    name: str
    view: str
    level: str
    sentence: str
    meaning: str
    psi: float
    psi_text: str
    limit: str
    nulls: float
    nulls_text: str
    quartiles: str
    moved: list[str]
    baseline: str
    shape: Shape


def write_page(report: Report, path: Path) -> None:
    """Write the page to `path`, in place of what is there; raises `PipelineError` where that cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(page(report), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PipelineError(f"{path} cannot be written: {error.strerror or error}") from error


def page(report: Report) -> str:
    """Return the text of the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["time"] = to_the_minute
    environment.filters["age"] = partial(_age, report.as_of)
    environment.filters["implausible"] = _implausible
    return environment.get_template("page.html.jinja").render(
        report=report,
        level=report.level.name.lower(),
        alarms=[each for each in report.findings if each.level == Level.ALARM],
        warnings=[each for each in report.findings if each.level == Level.WARNING],
        rows=[_row(rank, feature) for rank, feature in enumerate(report.features)],
        width=_WIDTH,
        height=_HEIGHT,
        low=_LOW,
    )


def _row(rank: int, feature: FeatureReport) -> Row:
    definition = feature.definition
    return Row(
        rank=rank,
        name=definition.name,
        view=feature.view,
        level=feature.level.name.lower(),
        sentence=feature.finding.text if feature.finding else "",
        meaning=definition.description,
        psi=feature.psi or 0.0,
        psi_text="" if feature.psi is None else f"{feature.psi:.2f}",
        limit=_limit(feature),
        nulls=feature.null_rate or 0.0,
        nulls_text=_nulls(feature),
        quartiles=_quartiles(feature),
        moved=_moved(feature),
        baseline="" if feature.baseline is None else to_the_minute(feature.baseline),
        shape=_shape(feature),
    )


def _limit(feature: FeatureReport) -> str:
    if feature.alarms is None or feature.warns is None:
        return "compared with nothing"
    if np.isfinite(feature.alarms):
        return f"alarms at {feature.alarms:.2f}"
    return f"warns at {feature.warns:.2f}" if np.isfinite(feature.warns) else "not judged by it"


def _nulls(feature: FeatureReport) -> str:
    if feature.null_rate is None:
        return "no rows"
    before = "" if feature.null_rate_before is None else f", {percent(feature.null_rate_before)} before"
    return f"{percent(feature.null_rate)}{before}"


def _quartiles(feature: FeatureReport) -> str:
    if not (feature.quartiles and feature.quartiles_before):
        return ""
    now, before = (" · ".join(named(value) for value in each) for each in (feature.quartiles, feature.quartiles_before))
    return f"{now}{unit_of(feature.definition)}, before {before}"


def _moved(feature: FeatureReport) -> list[str]:
    """Return the bins of a text, those that have moved most first, in words."""
    if feature.picture:
        return []
    moved = sorted(feature.bins, key=lambda each: -abs(each[2] - each[1]))
    return [f"{_short(label)}: {percent(now)}, {percent(before)} before" for label, before, now in moved[:_NAMED]]


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"


def _shape(feature: FeatureReport) -> Shape:
    if feature.picture:
        before, now = (each / max(each.sum(), 1) for each in (feature.picture.before, feature.picture.now))
        first, last = named(feature.picture.first), named(feature.picture.last)
    else:
        before, now = (np.array([each[place] for each in feature.bins], dtype=float) for place in (1, 2))
        first, last = (_short(feature.bins[0][0]), _short(feature.bins[-1][0])) if feature.bins else ("", "")
    top = max([*before, *now], default=0.0)
    rates = [rate for _, rate in feature.nulls if rate is not None]
    most = max(rates, default=0.0)
    return Shape(_bars(before, top), _bars(now, top), first, last, _course(feature.nulls, most), percent(most))


def _bars(shares: NDArray[np.float64], top: float) -> str:
    """Return the path of a histogram of equal width; a value that is there at all can be seen."""
    if not top:
        return ""
    width = _WIDTH / len(shares)
    heights = np.where(shares > 0, np.maximum(np.round(shares / top * _HEIGHT), 1), 0).astype(int)
    bars = [f"M{place * width:.0f} {_HEIGHT}v-{h}h{width:.0f}v{h}z" for place, h in enumerate(heights) if h]
    return "".join(bars)


def _course(nulls: Sequence[tuple[datetime, float | None]], most: float) -> str:
    """Return the path of the shares of NULLs over time, empty where there are none; a few are a low line."""
    known = [(at, rate) for at, rate in nulls if rate is not None]
    if len(known) < 2 or not most:
        return ""
    top = max(most, _FEW_NULLS)
    first, span = known[0][0], (known[-1][0] - known[0][0]).total_seconds()
    points = [
        f"{(at - first).total_seconds() / span * _WIDTH:.0f} {_LOW - rate / top * (_LOW - 2):.0f}" for at, rate in known
    ]
    return "M" + "L".join(points)


def _implausible(run: PastRun) -> int:
    """Return how many rows of a run had a value that is not plausible."""
    return sum(sum((row.get("implausible") or {}).values()) for row in run.views.values())


def _age(as_of: datetime, moment: datetime | None) -> str:
    return duration((as_of - moment).total_seconds()) if moment else "-"

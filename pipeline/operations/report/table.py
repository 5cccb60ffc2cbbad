"""The report for a terminal: what is wrong, in sentences, then the views, the features that moved most, the runs."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.base.clock import duration
from pipeline.base.tables import to_the_second
from pipeline.operations.report.facts import FeatureReport, Report
from pipeline.operations.report.judging import Level, percent

# So many features are listed where nothing is wrong with more of them.
_FEATURES = 10
_STYLES = {Level.FINE: "", Level.WARNING: "yellow", Level.ALARM: "bold red"}


def tables(report: Report) -> Group:
    """Return the report as texts and tables of 80 columns or a little more."""
    return Group(*_parts(report))


def _parts(report: Report) -> Iterator[RenderableType]:
    alarms, warnings = (sum(each.level == level for each in report.findings) for level in (Level.ALARM, Level.WARNING))
    yield Text(f"Features as of {to_the_second(report.as_of)} UTC: {alarms} alarms, {warnings} warnings", "bold")
    for finding in report.findings:
        yield Text(f"{finding.level.name.lower():<8}", _STYLES[finding.level]).append(finding.text, "default")
    for note in report.notes:
        yield Text(f"note    {note}", "dim")
    for view in report.views:
        if view.skew_text:
            yield Text(f"skew    {view.skew_text}")
    yield ""
    yield _views(report)
    yield _features(report.features)


def _views(report: Report) -> Table:
    table = _table("Views", ("view", "rows", "before", "set aside", "event", "source", "online"), left=("view",))
    for view in report.views:
        fresh = view.freshness
        stamps = (fresh.newest_event, fresh.newest_source, fresh.online)
        ages = [duration((report.as_of - at).total_seconds()) if at else "-" for at in stamps]
        before = "-" if fresh.rows_before is None else f"{fresh.rows_before:,}"
        table.add_row(view.name, f"{fresh.rows:,}", before, f"{view.set_aside:,}", *ages)
    table.caption = "Ages of the newest snapshot, of the newest source fact in it, and of what is online."
    table.caption_justify = "left"
    return table


def _features(features: list[FeatureReport]) -> Table:
    shown = [each for each in features if each.level] or features[:_FEATURES]
    shown += [each for each in features if each not in shown][: max(_FEATURES - len(shown), 0)]
    table = _table(
        "Features, the worst first", ("feature", "PSI", "alarms at", "NULL", "before", ""), left=("feature", "")
    )
    for each in shown:
        table.add_row(
            each.definition.name,
            _number(each.psi),
            _number(each.alarms),
            "-" if each.null_rate is None else percent(each.null_rate),
            "-" if each.null_rate_before is None else percent(each.null_rate_before),
            "" if not each.level else each.level.name.lower(),
            style=_STYLES[each.level],
        )
    return table


def _table(title: str, headings: tuple[str, ...], left: tuple[str, ...]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="left" if heading in left else "right")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or value == float("inf") else f"{value:.2f}"

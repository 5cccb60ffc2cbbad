"""`skew`: what was served against what the databases say now."""

import json
from datetime import datetime
from pathlib import Path

import click

from pipeline.commands import options


@click.command(short_help="Compare what was served with what the databases say now.")
@options.instant_option("--start", "First instant: date or ISO 8601.", required=True)
@options.instant_option("--end", "End of the instants, exclusive.", required=True)
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="N instants at random; by default all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write Prometheus metrics here, for the textfile collector of node-exporter.",
)
@options.views_option
@options.timeout_option()
@options.log_format_option
@options.quiet_option
def skew(
    start: datetime,
    end: datetime,
    sample: int | None,
    as_json: bool,
    metrics_file: Path | None,
    views: list[str],
    quiet: bool,
) -> None:
    """Compute kept live snapshots again as of their instants, and count the values that differ now.

    Per feature: the share of values that differ, and the median of the differences between numbers, in its unit.
    Nothing is written but a row in the ledger of runs, for `report`.

    \b
    Example:
      python materialize_features.py skew --start 2026-01-01 --end 2026-02-01 --sample 20
    """
    from pipeline.base.errors import WrongOption
    from pipeline.base.settings import load_settings
    from pipeline.base.tables import table
    from pipeline.commands.console import Console
    from pipeline.runs.metrics import write_skew
    from pipeline.runs.skew import measure_skew

    if start >= end:
        raise WrongOption(f"--start {start.isoformat()} is not before --end {end.isoformat()}")
    console = Console(views, quiet=quiet)
    with console.backfill_progress() as progress:
        result = measure_skew(load_settings(), views, start, end, sample=sample, progress=progress)
    result.record()
    if metrics_file:
        write_skew(result, metrics_file)
    if as_json:
        features = [feature.as_json() for feature in result.features]
        click.echo(json.dumps({"instants": len(result.live), "features": features}, indent=2))
        return
    for view in dict.fromkeys(feature.view for feature in result.features):
        title = f"{view}: served and now, {len(result.live):,} instants"
        made = table(title, "feature", ">values", ">differ", ">typical", "unit")
        of_view = [feature for feature in result.features if feature.view == view]
        for feature in of_view:
            typical = "-" if feature.typical is None else f"{feature.typical:.3g}"
            made.add_row(feature.feature, f"{feature.values:,}", f"{feature.share:.2%}", typical, feature.unit)
        console.answer(made, title, features=[feature.as_json() for feature in of_view])

"""`training-set`: join entity rows with their features and the label."""

from datetime import datetime, timedelta
from pathlib import Path

import click

from pipeline.commands import options

EXAMPLES = """
\b
Examples:
  python materialize_features.py training-set --start 2025-01-01 --end 2025-12-24 --output training.parquet
  python materialize_features.py training-set --entities rows.parquet --output training.parquet
"""


@click.command("training-set", epilog=EXAMPLES, short_help="Write a labelled training set of all features.")
@options.instant_option("--start", "First instant of all assets: date or ISO 8601.")
@options.instant_option("--end", "End of the instants, exclusive.")
@click.option("--every", callback=options.step, default="7d", show_default=True, help="Step, in hours or days.")
@click.option(
    "--entities",
    type=click.Path(path_type=Path),
    help="Parquet file of asset_id, event_timestamp and what else is kept: these rows, not all from --start to --end.",
)
@click.option(
    "--service", default="predictive_maintenance_v1", show_default=True, metavar="NAME", help="Which features to join."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Parquet file to write.")
@click.option(
    "--live-snapshots",
    is_flag=True,
    help="Take a snapshot only from when it was created; right for scheduled runs, not for backfilled snapshots.",
)
@options.timeout_option()
@options.log_format_option
@options.quiet_option
def training_set(
    start: datetime | None,
    end: datetime | None,
    every: timedelta,
    entities: Path | None,
    service: str,
    output: Path,
    live_snapshots: bool,
    quiet: bool,
) -> None:
    """Join entity rows with the features of a service as of each instant and the label failure_within_7d."""
    rows: Path | tuple[datetime, datetime, timedelta]
    if entities and not (start or end):
        rows = entities
    elif start and end and not entities:
        rows = start, end, every
    else:
        raise click.UsageError("Give --start and --end, or --entities.")
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.runs.training import write_training_set

    console = Console([], quiet=quiet)
    summary = write_training_set(load_settings(), output, rows, service=service, live_snapshots=live_snapshots)
    console.report(summary.table())

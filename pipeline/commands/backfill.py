"""`backfill`: write the snapshots of past instants."""

import sys
from datetime import datetime, timedelta

import click

from pipeline.commands import options

EXAMPLES = """
\b
Examples:
  python materialize_features.py backfill --start 2025-01-01 --end 2026-01-01
  python materialize_features.py backfill --start 2025-01-01 --end 2025-02-01 --every 6h --view work_order_features
"""


@click.command(epilog=EXAMPLES, short_help="Write the snapshots of past instants.")
@options.instant_option("--start", "First instant: date or ISO 8601.", required=True)
@options.instant_option("--end", "End of the instants, exclusive.", required=True)
@click.option(
    "--every", callback=options.step, default="1d", show_default=True, help="Step: days, or hours that divide 24."
)
@options.views_option
@click.option("--overwrite", is_flag=True, help="Write snapshots again that are there already.")
@options.timeout_option()
@options.log_format_option
@options.quiet_option
def backfill(start: datetime, end: datetime, every: timedelta, views: list[str], overwrite: bool, quiet: bool) -> None:
    """Write a snapshot of each view as of each instant; nothing is published. An interrupted backfill continues."""
    from pipeline.base.results import REJECTED
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.runs.backfill import backfill as write_backfill
    from pipeline.runs.backfill import instants_between

    console = Console(views, quiet=quiet)
    instants = instants_between(start, end, every)
    settings = load_settings()
    with console.backfill_progress() as progress:
        result = write_backfill(settings, instants, views, overwrite=overwrite, progress=progress)
    set_aside = f", {result.set_aside:,} set aside" if result.set_aside else ""
    again = f" ({result.renewed} again, damaged or of an older definition)" if result.renewed else ""
    console.report(
        f"{result.written} instants written{again}, {result.present} already there: "
        f"{result.rows:,} rows{set_aside}, {result.bytes:,} bytes"
    )
    if result.rejected:
        sys.exit(REJECTED)

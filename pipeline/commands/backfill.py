"""`backfill`: write the snapshots of past instants."""

import sys
from datetime import UTC, datetime, timedelta

import click

from pipeline.commands import options

EXAMPLES = """
\b
Examples:
  python materialize_features.py backfill --start 2025-01-01 --end 2026-01-01
  python materialize_features.py backfill --start 2025-01-01 --end 2025-02-01 --every 6h --view work_order_features
  python materialize_features.py backfill --revise 3d         late telemetry and edited rows of the last 3 d
"""


@click.command(epilog=EXAMPLES, short_help="Write the snapshots of past instants.")
@options.instant_option("--start", "First instant: date or ISO 8601.")
@options.instant_option("--end", "End of the instants, exclusive.")
@click.option(
    "--every", callback=options.step, default="1d", show_default=True, help="Step: days, or hours that divide 24."
)
@options.views_option
@click.option("--overwrite", is_flag=True, help="Write snapshots again that are there already.")
@click.option(
    "--revise",
    callback=options.step,
    metavar="STEP",
    help="Compute the snapshots there are of so long, up to --end or now, again; replace what has changed: 3d.",
)
@options.timeout_option()
@options.log_format_option
@options.quiet_option
def backfill(
    start: datetime | None,
    end: datetime | None,
    every: timedelta,
    views: list[str],
    overwrite: bool,
    revise: timedelta | None,
    quiet: bool,
) -> None:
    """Write a snapshot of each view as of each instant; nothing is published. An interrupted backfill continues."""
    if (revise and (start or overwrite)) or not (revise or (start and end)):
        raise click.UsageError("Give --start and --end, or --revise without --start and --overwrite.")
    from pipeline.base.results import REJECTED
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.runs.backfill import backfill as write_backfill
    from pipeline.runs.backfill import instants_between
    from pipeline.runs.backfill import revise as write_revision

    console = Console(views, quiet=quiet)
    instants = instants_between(start, end, every) if start and end else []
    settings = load_settings()
    with console.backfill_progress() as progress:
        if revise:
            last = end or datetime.now(UTC)
            result = write_revision(settings, max(last - revise, options.EARLIEST), last, views, progress)
        else:
            result = write_backfill(settings, instants, views, overwrite=overwrite, progress=progress)
    set_aside = f", {result.set_aside:,} set aside" if result.set_aside else ""
    again = f" ({result.renewed} again, damaged or of an older definition)" if result.renewed else ""
    done = (
        f"{result.written} instants computed again, {result.revised} snapshots replaced"
        if revise
        else f"{result.written} instants written{again}, {result.present} already there"
    )
    console.report(f"{done}: {result.rows:,} rows{set_aside}, {result.bytes:,} bytes")
    if result.rejected:
        sys.exit(REJECTED)

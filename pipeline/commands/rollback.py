"""`rollback`: put a view back to an earlier instant, and hold it there."""

from datetime import datetime

import click

from pipeline.commands import options

EXAMPLES = """
\b
Examples:
  python materialize_features.py rollback --view telemetry_features --to 2026-01-01T06:00:00Z --reason "wrong meters"
  python materialize_features.py rollback --view telemetry_features --resume
"""


@click.command(epilog=EXAMPLES, short_help="Put a view back to an earlier instant, and hold it there.")
@click.option("--view", required=True, callback=options.one_view, metavar="NAME", help="The view.")
@options.instant_option("--to", "The instant, of which there is a snapshot.")
@click.option("--reason", metavar="TEXT", help="Why, for the ledger and whoever looks at the status.")
@click.option("--resume", is_flag=True, help="Let runs of the view go on.")
@options.wait_option
@options.timeout_option()
@options.log_format_option
def rollback(view: str, to: datetime | None, reason: str | None, resume: bool, wait: float | None) -> None:
    """Make the snapshot of an instant the online values again; newer ones go to quarantine.

    Runs leave the view alone from then on, exit code 3, until --resume. docs/rollback.md.
    """
    if (to is None) != resume or (resume and reason):
        raise click.UsageError("Give --to, with or without --reason, or --resume.")
    from pipeline.commands.console import Console
    from pipeline.runs import rollback as runs

    console = Console([view], quiet=False)
    if to is None:
        runs.resume(view, wait=wait)
        console.report(f"{view}: the next run publishes it again")
        return
    done = runs.rollback(view, to, reason, wait=wait)
    console.report(
        f"{view} is online as of {to.isoformat()}: {done.rows:,} rows, {done.removed:,} entities left, "
        f"{done.moved} newer snapshots are in quarantine. Runs leave it alone until --resume."
    )

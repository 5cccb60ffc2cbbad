"""`status`: the age of each view's online values and the last runs."""

import sys

import click

from pipeline.commands import options


@click.command(short_help="Show the last runs and the age of each view.")
@click.option("--last", type=click.IntRange(min=1), default=10, show_default=True, help="How many runs to show.")
@options.log_format_option
def status(last: int) -> None:
    """Show the age of each view's online values and the last runs.

    The age is that of the oldest row of a sample that is read back through Feast; where the registry or the ledger say
    something else, that is named. Exit code 1 when rows are missing online, or older than two runs of the schedule
    (SCHEDULE_MINUTES), or a view is on hold.

    \b
    Example:
      python materialize_features.py status --last 24
    """
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.operations.status import read_status
    from pipeline.registry.feast_store import open_feature_store

    console = Console([], quiet=False)
    settings = load_settings()
    with open_feature_store() as store:
        result = read_status(store, settings.age_limit, last)
    console.answer(result.tables(), "status", **result.as_json())
    if not result.is_fresh:
        sys.exit(1)

"""`compact`: put the snapshots of past days and months into one file each, and remove those kept long enough."""

import click

from pipeline.base.settings import Keep, parsed_keep
from pipeline.commands import options

EXAMPLES = """
\b
Examples:
  python materialize_features.py compact
  python materialize_features.py compact --keep 1h:90d,1d:730d    hourly for 90 d, daily for two years
"""


def _keep(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Keep | None:
    try:
        return None if text is None else parsed_keep(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(epilog=EXAMPLES, short_help="Put past snapshots into files of days and months.")
@options.views_option
@click.option(
    "--keep",
    callback=_keep,
    metavar="STEP:AGE,...",
    help="Remove for good what is denser or older, e.g. 1h:90d,1d:730d; by default as KEEP_SNAPSHOTS says, or nothing.",
)
@options.wait_option
@options.timeout_option()
@options.log_format_option
@options.quiet_option
def compact(views: list[str], keep: Keep | None, wait: float | None, quiet: bool) -> None:
    """Make one file of the snapshots of each past day and month; rows and values stay. It takes its turn with runs.

    A run does it for what is older than two days, a month at a time.
    """
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.registry.feast_store import open_feature_store
    from pipeline.registry.lock import one_at_a_time
    from pipeline.runs.compact import compact_all, in_words

    console = Console([], quiet=quiet)
    settings = load_settings()
    keep = settings.keep if keep is None else keep
    with open_feature_store() as store, one_at_a_time(store, wait):
        compact_all(settings, store, views, keep, lambda view, done: console.report(f"{view}: {in_words(done)}"))

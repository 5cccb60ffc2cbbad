#!/usr/bin/env python
"""Materialize the features of dCMMS: extract as of one instant, keep snapshots, publish the newest values."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

# Works from any working directory, and when another program runs this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))

VIEW_NAMES = ("asset_features", "work_order_features", "telemetry_features")

EXAMPLES = """
\b
Examples:
  python materialize_features.py                              all views as of now, snapshot and Redis
  python materialize_features.py --as-of 2026-01-01T00:00:00Z as of another instant
  python materialize_features.py --view telemetry_features --no-online
  python materialize_features.py --dry-run                    read everything, write nothing

\b
Exit codes: 0 all that was asked is done; 1 some view, or everything, failed; 2 wrong options.
"""


class DefaultCommandGroup(click.Group):
    """A group whose options without a command belong to `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=DefaultCommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXAMPLES,
)
def cli() -> None:
    """Materialize the features of dCMMS. Without a command: `run`."""


def parse_as_of(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime:
    """Return the as-of instant in UTC: by default now, in whole seconds."""
    now = datetime.now(UTC)
    if text is None:
        return now.replace(microsecond=0)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise click.ClickException(f"--as-of {text} is no ISO 8601 instant such as 2026-01-01T00:00:00Z") from None
    if instant.tzinfo is None:
        raise click.ClickException(f"--as-of {text} has no time zone: write {instant.isoformat()}Z for UTC")
    if instant > now:
        raise click.ClickException(
            f"--as-of {text} is in the future: features are known up to {now:%Y-%m-%dT%H:%M:%SZ}"
        )
    return instant.astimezone(UTC)


def parse_views(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> list[str]:
    """Return the asked views, by default all, each once."""
    for name in names:
        if name not in VIEW_NAMES:
            raise click.ClickException(f"--view {name} is unknown: the views are {', '.join(VIEW_NAMES)}")
    return [name for name in VIEW_NAMES if not names or name in names]


@cli.command(epilog=EXAMPLES)
@click.option("--as-of", callback=parse_as_of, metavar="INSTANT", help="ISO 8601 with zone; by default now.")
@click.option(
    "--view", "views", multiple=True, callback=parse_views, metavar="NAME", help="Repeatable; by default all."
)
@click.option("--no-online", is_flag=True, help="Write snapshots only, leave the online store alone.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
@click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def run(as_of: datetime, views: list[str], no_online: bool, dry_run: bool, quiet: bool) -> None:
    """Extract the views as of one instant, write their snapshots and publish them."""
    # Feast takes seconds to import: only when it is needed.
    from pipeline.config import load_settings
    from pipeline.console import Console
    from pipeline.errors import PipelineError
    from pipeline.run import materialize

    console = Console(views, quiet=quiet)
    try:
        settings = load_settings()
        with console.progress() as progress:
            results = materialize(settings, as_of, views, push=not no_online, dry_run=dry_run, progress=progress)
    except PipelineError as error:
        raise click.ClickException(str(error)) from None
    console.summary(results, as_of)
    if any(result.error for result in results):
        sys.exit(1)


if __name__ == "__main__":
    cli()

"""`python -m dev`: the local stack, the demo fleet and the demos. Works on this checkout's stack only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click
import psycopg2
from clickhouse_connect.driver.exceptions import ClickHouseError

from dev.servers import PortTaken, ServerError
from dev.stack import LocalStack


class DevGroup(click.Group):
    """A click group that turns the errors that a person can act on into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a bug still shows its stack trace."""
        try:
            return super().invoke(ctx)
        except (PortTaken, ServerError, psycopg2.Error, ClickHouseError) as error:
            raise click.ClickException(str(error).strip().splitlines()[0]) from error


@click.group(cls=DevGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The local stack and the demo fleet: for development, never for production.

    \b
    Examples:
      python -m dev up                               PostgreSQL, Redis and .env
      python -m dev load --assets 200 --days 120     another fleet instead of the demo's
      python -m dev demo                             the whole path, once
      python -m dev down                             stop the servers, keep the data
    """


@main.command()
def up() -> None:
    """Start PostgreSQL and Redis on 127.0.0.1 and write .env."""
    stack = LocalStack()
    started = stack.up()
    click.echo(f"started: {', '.join(started)}" if started else "already up")
    for line in [*stack.summary(), "stop with   make down"]:
        click.echo(line)


@main.command()
def down() -> None:
    """Stop what `up` started; the data stays in .local/."""
    stopped = LocalStack().down()
    click.echo(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@main.command(short_help="Load a demo fleet in place of what is there.")
@click.option("--assets", type=click.IntRange(min=12), default=60, show_default=True, help="How many.")
@click.option("--days", type=click.IntRange(min=14), default=400, show_default=True, help="Days of history.")
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed gives the same fleet.")
@click.option(
    "--end",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]),
    default="2026-01-01",
    show_default=True,
    help="End of the history, UTC.",
)
@click.option(
    "--variant",
    type=click.Choice(["n", "t"]),
    default="n",
    show_default=True,
    help="dCMMS schema: n = migrations only (naive timestamps), t = init script (timestamptz).",
)
def load(assets: int, days: int, seed: int, end: datetime, variant: str) -> None:
    """Load a demo fleet into the local stack, in place of what is there.

    \b
    Examples:
      python -m dev load
      python -m dev load --assets 500 --days 120 --seed 1 --variant t
    """
    from dev.demo import FleetParameters, load_fleet
    from dev.steps import run_step

    stack = LocalStack()
    if not stack.postgres.is_running():
        raise click.ClickException("the local stack is not up: make up")
    parameters = FleetParameters(assets, days, seed, end.replace(tzinfo=UTC), variant)
    run_step(f"load {assets} assets, {days} days", lambda: load_fleet(stack, parameters))


@main.command(short_help="Show the whole path on the demo fleet.")
def demo() -> None:
    """Show the whole path: databases, `feast apply`, materialization, feature server, REST."""
    from dev.demo import run_demo

    run_demo()


@main.command("demo-wind", short_help="Show the whole path on a real wind farm.")
def demo_wind() -> None:
    """The same path with real SCADA data of the La Haute Borne wind farm."""
    from dev import wind

    wind.demo()


@main.command(short_help="Make the pictures of docs/watching.md.")
def pictures() -> None:
    """Make docs/report-*.png of the demo fleet and docs/ui-*.png of Feast's pages, by a chromium that is installed."""
    from dev.pages import write_pictures
    from dev.stack import REPOSITORY

    for path in write_pictures(REPOSITORY / "docs"):
        click.echo(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size:,} bytes")


@main.command(short_help="Hold the newest snapshots to their contracts.")
def contracts() -> None:
    """Hold the newest snapshots, where the settings have them, to docs/contracts; exit code 1 if one breaks a rule."""
    import sys

    from dev.contracts import check_snapshots

    if not check_snapshots():
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m dev")

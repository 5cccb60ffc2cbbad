#!/usr/bin/env python
"""Materialize the features of dCMMS: extract as of one instant, keep snapshots, publish the newest values."""

import math
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

# Works from any working directory, and when another program runs this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from pipeline.base import logs
from pipeline.base.errors import PipelineError, redacted
from pipeline.base.stop import set_time_limit, stoppable
from pipeline.base.views import ENGINE_REDIS, ENGINES, VIEW_NAMES

EXAMPLES = """
\b
Examples:
  python materialize_features.py                              all views as of now, snapshot and Redis
  python materialize_features.py --as-of 2026-01-01T00:00:00Z as of another instant
  python materialize_features.py --view telemetry_features --no-online
  python materialize_features.py --dry-run                    read everything, write nothing
  python materialize_features.py status                       the last runs and the age of each view
  python materialize_features.py doctor                       what is wrong with settings, servers, rights

\b
Exit codes: 0 all that was asked is done; 1 some view, or everything, failed; 2 nothing failed, but the quality gate
rejected a view; 64 wrong options; 75 another run is busy; 124 --timeout; 130 Ctrl-C; 143 SIGTERM.
"""


class DefaultCommandGroup(click.Group):
    """A group whose options without a command belong to `run`, and whose commands stop cleanly."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with usage_errors():
            return super().make_context(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        logs.choose_format("text")
        with stoppable(say):
            try:
                with usage_errors():
                    return super().invoke(ctx)
            except click.ClickException as error:
                if not logs.are_json():
                    raise
                logs.logger.error(error.format_message())
                ctx.exit(error.exit_code)
            except (click.exceptions.Exit, click.Abort):
                raise
            except Exception:  # a bug; a library may have put a password into its message
                if logs.are_json():  # the stack trace, too, belongs on one line then
                    logs.logger.exception("unexpected error")
                else:
                    click.echo(redacted(traceback.format_exc()), err=True, nl=False)
                ctx.exit(1)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Let wrong options end with EX_USAGE: click's 2 is that of a rejected view."""
    try:
        yield
    except click.UsageError as error:
        error.exit_code = os.EX_USAGE
        raise


def say(message: str) -> None:
    """Write one line to standard error, as the log lines look."""
    if logs.are_json():
        logs.logger.error(message)
    else:
        click.echo(message, err=True)


def failure(error: PipelineError) -> click.ClickException:
    """Return `error` as click ends a command by it."""
    exception = click.ClickException(str(error))
    exception.exit_code = error.exit_code
    return exception


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


# Eager: the messages about the other options look like it.
log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    is_eager=True,
    expose_value=False,
    callback=lambda _ctx, _param, name: logs.choose_format(name),
    help="json: one object per line on standard error, in place of the table, too.",
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    expose_value=False,
    callback=lambda _ctx, _param, seconds: seconds and set_time_limit(seconds),
    help="Stop after so long, exit code 124; by default never.",
)

wait_option = click.option(
    "--wait",
    is_flag=False,
    flag_value=math.inf,
    type=click.FloatRange(min=0),
    metavar="[SECONDS]",
    help="Wait for another run to end, so long or until it does; without it, exit code 75 at once.",
)


@cli.command(epilog=EXAMPLES)
@click.option("--as-of", callback=parse_as_of, metavar="INSTANT", help="ISO 8601 with zone; by default now.")
@click.option(
    "--view", "views", multiple=True, callback=parse_views, metavar="NAME", help="Repeatable; by default all."
)
@click.option("--no-online", is_flag=True, help="Write snapshots only, leave the online store alone.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=ENGINE_REDIS,
    show_default=True,
    help="How to publish: redis writes Redis's bytes itself; feast is Feast's own, for every online store.",
)
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
@click.option("--accept-drop", is_flag=True, help="Let views have fewer rows and known values than before.")
@wait_option
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write Prometheus metrics here, for node-exporter's textfile collector: NAME.prom.",
)
@timeout_option
@log_format_option
@click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def run(
    as_of: datetime,
    views: list[str],
    no_online: bool,
    engine: str,
    dry_run: bool,
    accept_drop: bool,
    wait: float | None,
    metrics_file: Path | None,
    quiet: bool,
) -> None:
    """Extract the views as of one instant, write their snapshots and publish them."""
    # Feast takes seconds to import: only when it is needed.
    from pipeline.base.results import exit_code
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.runs.job import run_job
    from pipeline.runs.one_instant import materialize

    console = Console(views, quiet=quiet)
    try:
        with console.progress() as progress:
            if dry_run:
                results = materialize(
                    load_settings(), as_of, views, dry_run=True, accept_drop=accept_drop, progress=progress
                )
            else:
                results = run_job(
                    as_of,
                    views,
                    push=not no_online,
                    engine=engine,
                    accept_drop=accept_drop,
                    wait=wait,
                    metrics_file=metrics_file,
                    progress=progress,
                )
    except PipelineError as error:
        raise failure(error) from None
    console.summary(results, as_of)
    if code := exit_code(results):
        sys.exit(code)


def parse_instant(_ctx: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    """Return a date as its midnight in UTC, or an instant with a zone, in UTC."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise click.ClickException(f"{param.opts[0]} {text} is no date such as 2026-01-01 and no instant") from None
    if len(text) <= len("2026-01-01"):
        return instant.replace(tzinfo=UTC)
    if instant.tzinfo is None:
        raise click.ClickException(f"{param.opts[0]} {text} has no time zone: write {instant.isoformat()}Z for UTC")
    return instant.astimezone(UTC)


def parse_step(_ctx: click.Context, param: click.Parameter, text: str) -> timedelta:
    """Return a whole number of hours or days such as 12h or 7d."""
    match = re.fullmatch(r"([1-9]\d{0,4})([hd])", text)
    if not match:
        raise click.ClickException(f"{param.opts[0]} {text} is no whole number of hours or days such as 12h or 7d")
    return timedelta(hours=int(match[1]) * (24 if match[2] == "d" else 1))


BACKFILL_EXAMPLES = """
\b
Examples:
  python materialize_features.py backfill --start 2025-01-01 --end 2026-01-01
  python materialize_features.py backfill --start 2025-01-01 --end 2025-02-01 --every 6h --view work_order_features
"""


@cli.command(epilog=BACKFILL_EXAMPLES, short_help="Write the snapshots of past instants.")
@click.option(
    "--start", callback=parse_instant, required=True, metavar="INSTANT", help="First instant: date or ISO 8601."
)
@click.option("--end", callback=parse_instant, required=True, metavar="INSTANT", help="End of the instants, exclusive.")
@click.option(
    "--every", callback=parse_step, default="1d", show_default=True, help="Step: days, or hours that divide 24."
)
@click.option(
    "--view", "views", multiple=True, callback=parse_views, metavar="NAME", help="Repeatable; by default all."
)
@click.option("--overwrite", is_flag=True, help="Write snapshots again that are there already.")
@timeout_option
@log_format_option
@click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def backfill(start: datetime, end: datetime, every: timedelta, views: list[str], overwrite: bool, quiet: bool) -> None:
    """Write a snapshot of each view as of each instant; nothing is published. An interrupted backfill continues."""
    from pipeline.base.results import REJECTED
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.runs.backfill import backfill as write_backfill
    from pipeline.runs.backfill import instants_between

    console = Console(views, quiet=quiet)
    try:
        instants = instants_between(start, end, every)
        settings = load_settings()
        with console.backfill_progress() as progress:
            result = write_backfill(settings, instants, views, overwrite=overwrite, progress=progress)
    except PipelineError as error:
        raise failure(error) from None
    console.report(
        f"{result.written} instants written, {result.present} already there: "
        f"{result.rows:,} rows, {result.bytes:,} bytes"
    )
    if result.rejected:
        sys.exit(REJECTED)


TRAINING_EXAMPLES = """
\b
Examples:
  python materialize_features.py training-set --start 2025-01-01 --end 2025-12-24 --output training.parquet
  python materialize_features.py training-set --entities rows.parquet --output training.parquet
"""


@cli.command("training-set", epilog=TRAINING_EXAMPLES, short_help="Write a labelled training set of all features.")
@click.option(
    "--start", callback=parse_instant, metavar="INSTANT", help="First instant of all assets: date or ISO 8601."
)
@click.option("--end", callback=parse_instant, metavar="INSTANT", help="End of the instants, exclusive.")
@click.option("--every", callback=parse_step, default="7d", show_default=True, help="Step, in hours or days.")
@click.option(
    "--entities",
    type=click.Path(path_type=Path),
    help="Parquet file of asset_id, event_timestamp and what else is kept: these rows, not all from --start to --end.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Parquet file to write.")
@click.option(
    "--live-snapshots",
    is_flag=True,
    help="Take a snapshot only from when it was created; right for scheduled runs, not for backfilled snapshots.",
)
@timeout_option
@log_format_option
@click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def training_set(
    start: datetime | None,
    end: datetime | None,
    every: timedelta,
    entities: Path | None,
    output: Path,
    live_snapshots: bool,
    quiet: bool,
) -> None:
    """Join entity rows with their features as of each instant and the label failure_within_7d."""
    if bool(entities) == bool(start or end) or bool(start) != bool(end):
        raise click.UsageError("Give --start and --end, or --entities.")
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.runs.training import write_training_set

    console = Console([], quiet=quiet)
    try:
        summary = write_training_set(
            load_settings(),
            output,
            start=start,
            end=end,
            every=every,
            entities=entities,
            live_snapshots=live_snapshots,
        )
    except PipelineError as error:
        raise failure(error) from None
    console.report(summary.table())


@cli.command(short_help="Show the last runs and the age of each view.")
@click.option("--last", type=click.IntRange(min=1), default=10, show_default=True, help="How many runs to show.")
def status(last: int) -> None:
    """Show the age of each view's published values and the last runs.

    Exit code 1 when a view was never published or is older than two runs of the schedule (SCHEDULE_MINUTES).

    \b
    Example:
      python materialize_features.py status --last 24
    """
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.operations.status import read_status
    from pipeline.registry.feast_store import open_feature_store

    console = Console([], quiet=False)
    try:
        settings = load_settings()
        with open_feature_store() as store:
            result = read_status(store, settings.age_limit, last)
    except PipelineError as error:
        raise failure(error) from None
    console.print(result.tables())
    if not result.is_fresh:
        sys.exit(1)


@cli.command(short_help="Check settings, servers, rights, registry and disk.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="Stop after so long, exit code 124.",
)
@log_format_option
def doctor(timeout: float) -> None:
    """Check everything that a run needs, one line each, with what to do about what is wrong. Writes nothing.

    Exit code 0 when nothing fails; warnings are no failures.

    \b
    Example:
      python materialize_features.py doctor
    """
    set_time_limit(timeout)
    from pipeline.commands.console import Console
    from pipeline.operations.doctor.check import State
    from pipeline.operations.doctor.examination import examine

    console = Console([], quiet=False)
    states = []
    for check in examine():
        console.finding(check)
        states.append(check.state)
    names = {State.OK: "ok", State.WARNING: "warnings", State.FAILS: "failures"}
    counts = ", ".join(f"{name} {states.count(state)}" for state, name in names.items())
    console.report(f"{counts}: {'put right what fails' if State.FAILS in states else 'runs can start'}")
    if State.FAILS in states:
        sys.exit(1)


@cli.command("verify", short_help="Compare online values with the newest snapshots.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="N entities at random; by default all.")
@click.option(
    "--view", "views", multiple=True, callback=parse_views, metavar="NAME", help="Repeatable; by default all."
)
def verify_online(sample: int | None, views: list[str]) -> None:
    """Read the online store through Feast and count the values that are not those of the newest snapshot.

    Mismatched values differ, missing ones are only in the snapshot, extra ones only online. Exit code 1 if there are
    any.

    \b
    Example:
      python materialize_features.py verify --sample 1000
    """
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.online.verify import verify
    from pipeline.registry.feast_store import open_feature_store

    console = Console([], quiet=False)
    try:
        settings = load_settings()
        with open_feature_store() as store:
            features = [
                feature for view in views for feature in verify(store, settings.feature_data_dir, view, sample=sample)
            ]
    except PipelineError as error:
        raise failure(error) from None
    console.consistency(features)
    if any(feature.wrong for feature in features):
        sys.exit(1)


@cli.command(short_help="Remove online values of entities that left.")
@click.option(
    "--view", "views", multiple=True, callback=parse_views, metavar="NAME", help="Repeatable; by default all."
)
@wait_option
def prune(views: list[str], wait: float | None) -> None:
    """Remove the online values of entities that the newest snapshots lack, after a look at every key of Redis.

    A run does it for those that left since the last one; this finds all the others. Keys of other projects stay. It
    takes its turn with the runs.

    \b
    Example:
      python materialize_features.py prune --view telemetry_features
    """
    from pipeline.base.settings import load_settings
    from pipeline.online.publish import prune as prune_view
    from pipeline.registry.feast_store import open_feature_store
    from pipeline.registry.lock import one_at_a_time

    try:
        settings = load_settings()
        with open_feature_store() as store, one_at_a_time(store, wait):
            for view in views:
                click.echo(f"{view}: {prune_view(store, settings.feature_data_dir, view):,} entities removed")
    except PipelineError as error:
        raise failure(error) from None


@cli.command(short_help="Print the feature catalogue as Markdown.")
def catalogue() -> None:
    """Print docs/features.md as the definitions have it.

    \b
    Example:
      python materialize_features.py catalogue > docs/features.md
    """
    from pipeline.operations.catalogue import catalogue as text

    click.echo(text(), nl=False)


if __name__ == "__main__":
    cli()

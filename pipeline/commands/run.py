"""`run`: extract the views as of one instant, write their snapshots and publish them."""

import sys
from datetime import datetime
from pathlib import Path
from uuid import UUID

import click

from pipeline.base.errors import WrongOption
from pipeline.base.shard import Shard
from pipeline.base.views import ENGINE_REDIS, ENGINES
from pipeline.commands import options

EXAMPLES = """
\b
Examples:
  python materialize_features.py --as-of 2026-01-01T00:00:00Z the demo fleet, whose history ends there
  python materialize_features.py                              all views as of now, snapshot and Redis
  python materialize_features.py --view telemetry_features --no-online
  python materialize_features.py --dry-run                    read everything, write nothing
  python materialize_features.py --shard 2/3 --as-of 2026-01-01T00:00:00Z   one of three that make one run
  python materialize_features.py status                       the last runs and the age of each view
  python materialize_features.py doctor                       what is wrong with settings, servers, rights

\b
Exit codes: 0 all that was asked is done; 1 some view, or everything, failed; 2 nothing failed, but the quality gate
rejected a view; 3 neither, but a view that was rolled back is on hold; 64 wrong options; 75 another run is busy;
124 --timeout; 130 Ctrl-C; 143 SIGTERM.
"""


@click.command(epilog=EXAMPLES)
@click.option("--as-of", callback=options.as_of, metavar="INSTANT", help="ISO 8601 with zone; by default now.")
@options.views_option
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
@options.wait_option
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write Prometheus metrics here, for node-exporter's textfile collector: NAME.prom.",
)
@click.option("--force", is_flag=True, help="Publish over online values that are not older.")
@click.option(
    "--shard",
    callback=options.shard,
    metavar="I/N",
    help="Be shard I of N that make the run together, on one host or many; each needs the same --as-of.",
)
@click.option("--run-id", type=click.UUID, help="The id of the run in the ledger; by default a new one.")
@options.timeout_option()
@options.log_format_option
@options.log_file_option
@options.quiet_option
def run(
    as_of: datetime,
    views: list[str],
    no_online: bool,
    engine: str,
    dry_run: bool,
    accept_drop: bool,
    force: bool,
    wait: float | None,
    metrics_file: Path | None,
    shard: Shard | None,
    run_id: UUID | None,
    quiet: bool,
) -> None:
    """Extract the views as of one instant, write their snapshots and publish them."""
    if shard:
        _check_shard(engine, dry_run)
    from pipeline.base.results import exit_code
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.runs.job import run_job
    from pipeline.runs.one_instant import materialize

    console = Console(views, quiet=quiet)
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
                force=force,
                wait=wait,
                metrics_file=metrics_file,
                run_id=run_id,
                shard=shard,
                progress=progress,
            )
    console.summary(results, as_of)
    if code := exit_code(results):
        sys.exit(code)


def _check_shard(engine: str, dry_run: bool) -> None:
    """Raise `WrongOption` where there is no run in shards with these options."""
    source = click.get_current_context().get_parameter_source("as_of")
    if source == click.core.ParameterSource.DEFAULT:
        raise WrongOption("--shard needs --as-of: the same instant for all shards")
    if dry_run or engine != ENGINE_REDIS:
        raise WrongOption(f"--shard goes without {'--dry-run' if dry_run else f'--engine {engine}'}")

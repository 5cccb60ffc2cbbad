"""`report`: what is old, missing or drifting in the features."""

import json
import logging
import sys
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import click

from pipeline.base import logs
from pipeline.commands import options

logger = logging.getLogger("pipeline")

EXAMPLES = """
\b
Examples:
  python materialize_features.py report
  python materialize_features.py report --html report.html --metrics-file report.prom
  python materialize_features.py report --as-of 2026-01-01T00:00:00Z --baseline 2025-10-01
"""


@click.command(epilog=EXAMPLES, short_help="Watch the features: age, NULLs, drift.")
@click.option("--as-of", callback=options.as_of, metavar="INSTANT", help="ISO 8601 with a zone; by default now.")
@options.instant_option("--baseline", "Compare with the snapshot of then or before; by default of 28 d before.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the tables.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page that needs nothing else.")
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write Prometheus metrics here, for the textfile collector of node-exporter.",
)
@options.views_option
@options.timeout_option()
@options.log_format_option
@options.quiet_option
def report(
    as_of: datetime,
    baseline: datetime | None,
    as_json: bool,
    html: Path | None,
    metrics_file: Path | None,
    views: list[str],
    quiet: bool,
) -> None:
    """Say how old each view is, by site, where NULLs rise and which distributions drift. Writes nothing to the stores.

    It reads the kept snapshots, and where the registry and the online store are in reach, the last runs and what is
    online. Exit code 1 if anything is alarming: docs/watching.md says what is.
    """
    from pipeline.base.errors import PipelineError, WrongOption
    from pipeline.base.settings import load_settings
    from pipeline.commands.console import Console
    from pipeline.operations.report.in_json import as_json as in_json
    from pipeline.operations.report.judging import Level
    from pipeline.operations.report.metrics import write_metrics
    from pipeline.operations.report.page import write_page
    from pipeline.operations.report.report import make_report
    from pipeline.operations.report.table import tables
    from pipeline.registry.feast_store import open_feature_store

    if baseline and baseline >= as_of:
        raise WrongOption(f"--baseline {baseline.isoformat()} is not before --as-of {as_of.isoformat()}")
    console = Console(views, quiet=quiet)
    settings = load_settings()
    with ExitStack() as stack:
        store, fault = None, ""
        try:
            store = stack.enter_context(open_feature_store())
        except PipelineError as error:
            fault = f"Nothing is told of runs and of what is online: {error.format_message()}"
        result = make_report(settings, store, views, as_of, baseline)
        if fault:
            result.notes.append(fault)
    if html:
        write_page(result, html)
    if metrics_file:
        write_metrics(result, metrics_file)
    if as_json:
        click.echo(json.dumps(in_json(result), indent=1))
    elif quiet or logs.are_json():
        for finding in result.findings:
            logger.log(logging.ERROR if finding.level == Level.ALARM else logging.WARNING, "%s", finding.text)
    else:
        console.answer(tables(result), "report")
    if result.level == Level.ALARM:
        sys.exit(1)

"""`doctor`: check settings, servers, rights, registry and disk."""

import sys
from datetime import datetime

import click

from pipeline.commands import options


@click.command(short_help="Check settings, servers, rights, registry and disk.")
@click.option(
    "--as-of", callback=options.as_of, metavar="INSTANT", help="Check for a run as of this instant; by default now."
)
@options.timeout_option(default=120)
@options.log_format_option
def doctor(as_of: datetime) -> None:
    """Check everything that a run needs, one line each, with what to do about what is wrong. Writes nothing.

    Exit code 0 when nothing fails; warnings are no failures.

    \b
    Example:
      python materialize_features.py doctor
      python materialize_features.py doctor --as-of 2026-01-01T00:00:00Z    on the demo fleet
    """
    from pipeline.commands.console import Console
    from pipeline.operations.doctor.check import State
    from pipeline.operations.doctor.examination import examine

    console = Console([], quiet=False)
    states = []
    for check in examine(as_of):
        console.finding(check)
        states.append(check.state)
    names = {State.OK: "ok", State.WARNING: "warnings", State.FAILS: "failures"}
    counts = ", ".join(f"{name} {states.count(state)}" for state, name in names.items())
    console.report(f"{counts}: {'put right what fails' if State.FAILS in states else 'runs can start'}")
    if State.FAILS in states:
        sys.exit(1)

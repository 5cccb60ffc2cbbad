"""Steps of a demo: a title, a spinner while it runs, its duration; what it said only when it fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from pipeline.base.clock import duration

Result = TypeVar("Result")

console = Console()
_LAST_LINES = 40


@contextmanager
def _announced(title: str) -> Iterator[None]:
    """Show `title` with a spinner on a terminal, then one line with a tick or a cross and the seconds."""
    started = time.monotonic()
    mark = "[red]✗[/]"
    try:
        with console.status(title):
            yield
        mark = "[green]✓[/]"
    finally:
        console.print(f"{mark} {title} [dim]{duration(time.monotonic() - started)}[/]", highlight=False)


def run_step(title: str, work: Callable[[], Result]) -> Result:
    """Run `work`, announced by `title`, and return its result. Its exceptions pass through."""
    with _announced(title):
        return work()


def run_command(
    title: str,
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run `command` as a process, announced by `title`, and return its standard output.

    Raises `click.ClickException` with the command and the last lines of its output if it cannot be started or
    its exit code is not 0.
    """
    with _announced(title):
        try:
            done = subprocess.run(
                [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise click.ClickException(f"{command[0]} cannot be started: {error.strerror}") from error
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
            asked = " ".join(str(part) for part in command)
            raise click.ClickException(f"{asked}\nended with exit code {done.returncode}:\n{said}")
        return done.stdout

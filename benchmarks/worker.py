"""Pieces of a benchmark that run as processes of their own, for their CPU time and peak memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import click

from dev.stack import REPOSITORY


def start(module: str, task: str, environment: Mapping[str, str], *arguments: str) -> subprocess.Popen:
    """Start one of the tasks that `module` hands to `do_one_of`."""
    return subprocess.Popen(
        [sys.executable, "-m", module, task, *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment | {"PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
    )


def result(process: subprocess.Popen) -> dict:
    """Wait for a task, and return what it returns. Raises `RuntimeError` where it fails."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} failed with exit code {process.returncode}")
    return json.loads(output.splitlines()[-1])


def worker(module: str, task: str, environment: Mapping[str, str], *arguments: str) -> dict:
    """Do a task of `module` and return what it returns. Raises `RuntimeError` where it fails."""
    return result(start(module, task, environment, *arguments))


def do_one_of(tasks: Mapping[str, Callable[..., dict]]) -> None:
    """Do the task that the command line names, with its other words as arguments, and print what it returns."""

    @click.command(hidden=True)
    @click.argument("task", type=click.Choice(list(tasks)))
    @click.argument("arguments", nargs=-1)
    def main(task: str, arguments: tuple[str, ...]) -> None:
        click.echo(json.dumps(tasks[task](*arguments)))

    main()

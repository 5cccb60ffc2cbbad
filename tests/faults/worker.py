"""Runs of the command in processes that are forked from one that has imported everything: a tenth of a second each."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from materialize_features import cli
from pipeline import REPOSITORY
from pipeline.base import fault_points

# All that a run imports, early or late. None of these opens a database or starts a thread.
_PRELOADED = [
    "tests.faults.worker",
    "pipeline.base.settings",
    "pipeline.commands.console",
    "pipeline.runs.job",
    "pipeline.runs.one_instant",
    "pipeline.runs.compact",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "feast.infra.registry.sql",
    "feast.infra.online_stores.redis",
    "feast.infra.offline_stores.duckdb",
    "feast.infra.providers.local",
    "feast.infra.passthrough_provider",
]
_HANGS_AFTER_SECONDS = 120


@dataclass(frozen=True)
class Outcome:
    """How a command ended: -9 is a kill. `reached` is how often it came to each fault point."""

    exit_code: int
    seconds: float
    output: str
    reached: Mapping[str, int]


class Commands:
    """Runs `materialize_features.py` with given arguments and variables of the environment."""

    def __init__(self, log: Path) -> None:
        self._log = log
        # The server of forks starts at the first run, with this environment: it must find the modules.
        os.environ["PYTHONPATH"] = str(REPOSITORY)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def run(
        self,
        *arguments: str,
        variables: Mapping[str, str],
        kill_after: float | None = None,
        signum: signal.Signals = signal.SIGKILL,
        largest_file: int | None = None,
        clock: Callable[[], None] | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Outcome:
        """Run the command and return how it ended, sent `signum` `kill_after` seconds after its start if it was slower.

        `largest_file` is the size in bytes that its files may have, as on a full disk. `meanwhile` is called while
        it runs. Fails where it hangs.
        """
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_run, args=(arguments, dict(variables), str(self._log), largest_file, clock, sender)
        )
        self._log.write_bytes(b"")
        process.start()
        sender.close()
        # the child says when it is there: what came before is not part of a run
        receiver.recv()
        started = time.monotonic()
        if meanwhile:
            meanwhile()
        if kill_after is not None:
            process.join(max(0.0, started + kill_after - time.monotonic()))
            if process.is_alive():
                os.kill(process.pid, signum)
        process.join(_HANGS_AFTER_SECONDS)
        seconds = time.monotonic() - started
        hangs = process.is_alive()
        process.kill()
        process.join()
        reached = receiver.recv() if receiver.poll() and process.exitcode >= 0 else {}
        receiver.close()
        output = self._log.read_text(errors="replace")
        assert not hangs, f"hangs after {seconds:.0f} s:\n{output}"
        return Outcome(process.exitcode, seconds, output, reached)


def _run(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    log: str,
    largest_file: int | None,
    clock: Callable[[], None] | None,
    parent: Connection,
) -> None:
    """Be the command: its environment, its output, its signals."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(variables)
    os.chdir(REPOSITORY)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if clock:
        clock()
    parent.send("ready")
    try:
        cli.main(list(arguments), prog_name="materialize_features.py")
    finally:
        parent.send(dict(fault_points.reached))

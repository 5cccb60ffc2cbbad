"""Commands for tests: in this process, and as a process of their own that waits where the test wants it to."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
from click.testing import CliRunner, Result

from dev.servers import PostgresServer
from materialize_features import cli
from pipeline import REPOSITORY

COMMAND = "materialize_features.py"
STARTED_WITHIN_SECONDS = 150


def invoke(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, list(arguments))


@contextmanager
def process(*arguments: str, log: Path, **variables: str) -> Iterator[subprocess.Popen]:
    """Run the command as a process with the test's environment and `variables`, killed at the end of the block.

    `log` gets all that it prints.
    """
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, *arguments], cwd=REPOSITORY, env=os.environ | variables, stdout=output, stderr=output
        )
    with started:
        try:
            yield started
        finally:
            started.kill()


def wait_until(condition: Callable[[], object], processes: Mapping[str, subprocess.Popen], what: str) -> None:
    """Wait for `condition`, while the `processes` live; otherwise fail by naming `what`."""
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    while not condition():
        ended = [name for name, process in processes.items() if process.poll() is not None]
        assert not ended, f"{ended} ended before {what}"
        assert time.monotonic() < deadline, f"waited too long until {what}"
        time.sleep(0.05)


def waiting_for_a_table(server: PostgresServer) -> int:
    """Return how many commands wait for a table of dCMMS that is locked."""
    with closing(psycopg2.connect(server.admin_url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select count(*) from pg_stat_activity"
            " where application_name = 'feature_store' and wait_event_type = 'Lock'"
        )
        return cursor.fetchone()[0]

"""HTTP servers of a demo, each for the length of a block, and requests to them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dev.stack import REPOSITORY
from dev.steps import run_step

TIMEOUT_SECONDS = 60.0
#: The servers are on this machine, whatever proxy the environment names.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """A server that has been started; it answers once `wait` has returned."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def wait(self, title: str, url: str) -> None:
        """Waits until it answers on `url`, announced by `title`.

        Raises `click.ClickException` with the last lines of its output if it ends or does not answer in time.
        """
        run_step(title, lambda: self._wait(url))

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), _HTTP.open(url, timeout=2):
                return
            time.sleep(0.1)
        said = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
        raise click.ClickException(f"nothing answers on {url}; the server said:\n{said}")


@contextmanager
def started(command: Sequence[str | Path], environment: Mapping[str, str], log_path: Path) -> Iterator[Server]:
    """Runs a server for the length of the block; what it says goes to `log_path`."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: the server and its workers are stopped as one
        )
        try:
            yield Server(process, log_path)
        finally:
            _stop_group(process)


def post(url: str, body: object, headers: Mapping[str, str] | None = None) -> Any:
    """The answer to a JSON body; raises `click.ClickException` with what the server says where it refuses."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with _HTTP.open(request, timeout=10) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        said = error.read().decode()
        raise click.ClickException(f"{url} answers {error.code}: {said}") from error


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)

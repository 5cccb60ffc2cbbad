"""The world of the fault tests, made once, and their counts at the end."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.net import Net
from tests.faults.world import World, opened_world

# `make test-faults` sets it; without it a few kills and faults are enough.
LONG = "FAULT_CAMPAIGN" in os.environ
collect_ignore = [] if LONG else ["test_clock.py", "test_disk.py", "test_servers.py", "test_signals.py"]
_TALLY = pytest.StashKey[Counter]()


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Counter:
    """What came of the kills and faults, for the last lines of the output."""
    return request.config.stash.setdefault(_TALLY, Counter())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts of this process to the one that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = dict(session.config.stash.get(_TALLY, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Add the counts of a process that has ended."""
    counts = getattr(node, "workeroutput", {}).get("tally", {})
    node.config.stash.setdefault(_TALLY, Counter()).update(counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the counts. A wrong outcome and a lost snapshot have failed a test, and are counted all the same."""
    if not (counts := config.stash.get(_TALLY, None)):
        return
    terminalreporter.write_line(
        f"{counts['survived']} kills survived, {counts['killed'] - counts['survived']} snapshots lost"
    )
    outcomes = ("complete", "clear failure", "wrong")
    complete, clear, wrong = (counts[outcome] for outcome in outcomes)
    terminalreporter.write_line(
        f"{complete + clear + wrong} faults injected: {complete} complete, {clear} clear failures, {wrong} wrong"
    )


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Published snapshots of A, and real servers."""
    with opened_world(tmp_path_factory.mktemp("faults")) as world:
        yield world


@pytest.fixture(scope="session")
def net(world: World, tally: Counter) -> Iterator[Net]:
    """The same world with a proxy before each server."""
    with ExitStack() as stack:
        yield Net(world, tally, stack)

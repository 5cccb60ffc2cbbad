"""SIGTERM and Ctrl-C at any time: the command ends within 5 s, and the next run ends as if nothing had happened."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.lock import one_at_a_time
from tests.faults.net import REDIS, REGISTRY, Net
from tests.faults.proxy import TO_CLIENT, Fault
from tests.faults.worker import Outcome
from tests.faults.world import World

SEED = int(os.environ.get("FAULT_SEED", "20260311"))
STOPS = 6
WITHIN_SECONDS = 5


@pytest.mark.parametrize("number", range(STOPS))
def test_signals_at_random_times(world: World, number: int) -> None:
    signum = (signal.SIGTERM, signal.SIGINT)[number % 2]
    chance = random.Random(SEED + number)
    after = chance.uniform(0.05, world.undisturbed.seconds)
    world.restore()
    outcome = world.run("--metrics-file", str(world.metrics), kill_after=after, signum=signum)
    if outcome.exit_code:
        assert_stopped(outcome, signum, after)
    world.check_readers(world.before, world.after)
    world.check_recovery()


@contextmanager
def registry_silent(net: Net) -> Iterator[None]:
    place = net.total_bytes[REGISTRY, TO_CLIENT] // 4
    net.world.restore()
    net.proxies[REGISTRY].set(Fault(TO_CLIENT, place, "stall"))
    yield
    net.proxies[REGISTRY].set(None)


@contextmanager
def redis_away(net: Net) -> Iterator[None]:
    net.world.restore()
    net.proxies[REDIS].refuse()
    yield
    net.proxies[REDIS].listen()


@contextmanager
def lock_held(net: Net) -> Iterator[None]:
    net.world.restore()
    with open_feature_store(net.world.yaml) as store, one_at_a_time(store):
        yield


@pytest.mark.parametrize("waits", [registry_silent, redis_away, lock_held])
def test_signals_while_something_is_waited_for(net: Net, waits: Callable[[Net], contextmanager]) -> None:
    with waits(net):
        outcome = net.run("--wait", kill_after=4.0, signum=signal.SIGTERM, variables={"RETRY_SECONDS": "60"})
    assert_stopped(outcome, signal.SIGTERM, 4.0)
    net.world.check_readers(net.world.before, net.world.after)
    net.world.check_recovery()


def assert_stopped(outcome: Outcome, signum: signal.Signals, after: float) -> None:
    assert outcome.exit_code == 128 + signum, outcome.output
    assert outcome.seconds - after < WITHIN_SECONDS
    assert outcome.output.splitlines()[-1].startswith(f"Stopped by {signum.name}. ")
    assert "Traceback" not in outcome.output

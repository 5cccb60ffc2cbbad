"""A run that is killed, at any point of its way: nobody sees anything of it that is not whole, and the next one ends it."""

import os
import random
import time
from datetime import timedelta
from itertools import chain

import pytest

from pipeline.fault_points import VARIABLE
from tests.faults.world import World

# How many kills: all points and twenty random ones in `make test-faults`, a few of both otherwise.
LONG = "FAULT_CAMPAIGN" in os.environ
SEED = int(os.environ.get("FAULT_SEED", "20260311"))
RANDOM_KILLS = 20 if LONG else 1
# Of some points a few times are enough: of sent transactions the first ones, one in the midst and the last.
_SOME_TIMES = (1, 2, 9, 17, 21, 22, 44, 64, 65)
_SHORT = ("parquet: written:2", "redis: sent:9", "online: departed removed:1")


@pytest.mark.timeout(900 if LONG else 240)
def test_kills(world: World) -> None:
    points = list(chain.from_iterable(times_of(name, count) for name, count in world.undisturbed.reached.items()))
    survived = 0
    for point in points if LONG else [point for point in points if point in _SHORT]:
        killed(world, {VARIABLE: point})
        survived += 1
    moments = random.Random(SEED)
    for _ in range(RANDOM_KILLS):
        killed(world, {}, after=moments.uniform(0, world.undisturbed.seconds))
        survived += 1
    # a rejected view: its rows go into quarantine
    for point in REJECTED_POINTS if LONG else REJECTED_POINTS[1:2]:
        killed(world, {VARIABLE: point, "QUALITY_MAX_DROP": "0"})
        survived += 1
    print(f"\n{survived} kills survived, 0 snapshots lost (seed of the {RANDOM_KILLS} random ones: {SEED})")


REJECTED_POINTS = ["quality: rejected:1", "parquet: opened:1", "parquet: written:1", "parquet: renamed:1"]


def times_of(name: str, count: int) -> list[str]:
    times = _SOME_TIMES if name == "redis: sent" else range(1, count + 1)
    return [f"{name}:{time}" for time in times if time <= count]


def killed(world: World, variables: dict[str, str], after: float | None = None) -> None:
    """Kill a run, look at what is left as readers do, and run again."""
    world.restore()
    outcome = world.run("--metrics-file", str(world.metrics), variables=variables, kill_after=after)
    where = variables.get(VARIABLE) or f"after {after:.3f} s"
    try:
        assert outcome.exit_code == -9 or (after is not None and outcome.exit_code == 0), outcome.output
        world.check_readers(world.before, world.after)
        world.check_recovery()
    except AssertionError as error:
        raise AssertionError(f"killed at {where}: {error}") from error

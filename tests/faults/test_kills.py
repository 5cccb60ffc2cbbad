"""A run that is killed at any point: what readers see is whole, and the next run ends as if nothing had happened."""

import os
import random
from collections import Counter

import pytest

from pipeline.base.fault_points import VARIABLE
from pipeline.snapshots.files import snapshot_path
from tests.faults.conftest import LONG
from tests.faults.world import AFTER, A, B, World

SEED = int(os.environ.get("FAULT_SEED", "20260311"))
RANDOM_KILLS = 10 if LONG else 0
VIEW = "work_order_features"
_ROLLBACK = ("rollback", "--view", VIEW, "--to", A.isoformat())
_SHORT_ROLLBACK = ("rollback: moved:1",)
_SHORT = ("parquet: written:1", "redis: sent:1")
# Where a view is rejected, its rows go into quarantine.
_REJECTING = {"QUALITY_MAX_DROP": "0"}
_REJECTED = ("quality: rejected:1", "parquet: opened:1", "parquet: written:1", "parquet: renamed:1")


@pytest.mark.parametrize("harm", ["torn row", "lost row", "lost snapshot", "half a snapshot"])
def test_readers_would_see_harm(world: World, harm: str) -> None:
    """What the other tests look for does show."""
    world.restore()
    snapshot = world.data / next(iter(world.before.files))
    row = next(row for row in world.before.online if row in world.after.online)
    if harm == "torn row":
        both = zip(world.before.online[row], world.after.online[row], strict=True)
        world.put_field(row, next(number for number, (a, b) in enumerate(both) if a != b))
    elif harm == "lost row":
        world.remove_row(row)
    elif harm == "lost snapshot":
        snapshot.unlink()
    else:
        snapshot.write_bytes(snapshot.read_bytes()[: snapshot.stat().st_size // 2])
    with pytest.raises(AssertionError):
        world.check_readers(world.before, world.after)


@pytest.mark.timeout(1800 if LONG else 240)
def test_kills(world: World, tally: Counter) -> None:
    # Of a point that each view passes, the first, a middle and the last time.
    points = [
        f"{point}:{time}"
        for point, times in world.undisturbed.reached.items()
        for time in sorted({1, (times + 1) // 2, times})
    ]
    assert set(_SHORT) <= set(points)
    chance = random.Random(SEED)
    kills = [
        *({VARIABLE: point} for point in points if LONG or point in _SHORT),
        *(chance.uniform(0, world.undisturbed.seconds) for _ in range(RANDOM_KILLS)),
        *({VARIABLE: point} | _REJECTING for point in _REJECTED if LONG),
    ]
    wrong = []
    for kill in kills:
        tally["killed"] += 1
        try:
            survive(world, kill)
        except AssertionError as error:
            wrong.append(f"killed at {kill}: {error}")
        else:
            tally["survived"] += 1
    assert not wrong, f"seed {SEED}:\n" + "\n".join(wrong)


def survive(world: World, kill: dict[str, str] | float) -> None:
    """Kill a run at a point, or after so many seconds; look at what is left as readers do; run again."""
    world.restore()
    at_point = isinstance(kill, dict)
    options = {"variables": kill} if at_point else {"kill_after": kill}
    outcome = world.run("--metrics-file", str(world.metrics), **options)
    assert outcome.exit_code == -9 or (outcome.exit_code == 0 and not at_point), outcome.output
    world.check_readers(world.before, world.after)
    world.check_recovery()


def test_kills_of_a_rollback(world: World, tally: Counter) -> None:
    """From B back to A: a kill leaves rows of the one or the other, and the hold; again, or the next run, ends at A."""
    world.restore(AFTER)
    undisturbed = world.command(*_ROLLBACK, variables={VARIABLE: ""})
    assert undisturbed.exit_code == 0, undisturbed.output
    check_rolled_back(world)
    points = [f"{point}:1" for point in undisturbed.reached if point.startswith("rollback: ")] + ["redis: sent:2"]
    assert len(points) == 7
    for number, point in enumerate(points if LONG else _SHORT_ROLLBACK):
        tally["killed"] += 1
        world.restore(AFTER)
        assert world.command(*_ROLLBACK, variables={VARIABLE: point}).exit_code == -9
        world.check_readers(world.before, world.after)
        is_done = point == "rollback: done:1"
        again = world.run("--view", VIEW) if number % 2 or is_done else world.command(*_ROLLBACK)
        assert again.exit_code == (3 if number % 2 or is_done else 0), f"{point}: {again.output}"
        check_rolled_back(world)
        tally["survived"] += 1
    assert world.command("rollback", "--view", VIEW, "--resume").exit_code == 0
    world.check_recovery()


def check_rolled_back(world: World) -> None:
    """Fail where the view is not online as of A alone, or another view is not as of B."""
    now = world.state()
    expected = {row: values for row, values in world.before.online.items() if row[1] == VIEW}
    expected |= {row: values for row, values in world.after.online.items() if row[1] != VIEW}
    assert now.online == expected
    assert now.intervals == world.after.intervals | {VIEW: world.before.intervals[VIEW]}
    of_b = str(snapshot_path(world.data, VIEW, B).relative_to(world.data))
    assert now.snapshots().keys() == world.after.files.keys() - {of_b}
    (aside,) = (path for path in now.files if path.startswith(f"quarantine/{VIEW}/"))
    assert now.files[aside].equals(world.after.files[of_b])

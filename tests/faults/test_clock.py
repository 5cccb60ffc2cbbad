"""Clocks that are wrong or are put right: no values of the future, no lost ones, and no run that is stuck unseen."""

import re
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.base.views import VIEW_NAMES
from pipeline.snapshots.files import file_name, snapshot_path
from tests.faults.clocks import set_to, step_by
from tests.faults.net import CLEAR_FAILURE, COMPLETE, Net
from tests.faults.world import A, B, World

VIEW = "work_order_features"
HOUR = timedelta(hours=1)


@pytest.mark.parametrize("hours", [-30, 30])
def test_clock_steps_amid_a_run(net: Net, hours: int) -> None:
    world = net.world
    world.restore()
    outcome = net.run(
        "--timeout", "60", "--metrics-file", str(world.metrics), clock=partial(step_by, hours * HOUR.total_seconds())
    )
    families = text_string_to_metric_families(world.metrics.read_text())
    durations = [s.value for f in families if "duration" in f.name for s in f.samples]
    assert net.judge(outcome, f"clock by {hours} h and back") == COMPLETE
    assert len(durations) == 1 + len(VIEW_NAMES)
    assert all(0 <= seconds < 30 for seconds in durations)


def test_instant_that_the_clock_has_not_reached(net: Net) -> None:
    net.world.restore()
    outcome = net.run(clock=partial(set_to, B - HOUR))
    assert "is in the future" in outcome.output
    assert net.world.state() == net.world.before
    assert outcome.exit_code == 64
    assert net.judge(outcome, "clock behind the instant") == CLEAR_FAILURE


@pytest.mark.parametrize(
    ("behind", "exit_code", "says"),
    [
        (timedelta(minutes=2), 0, r"WARNING \w+: not published: newer values are online, of "),
        (HOUR, 1, r"ERROR \w+: not published: the snapshot \S+ is in the future"),
    ],
)
def test_clock_behind_what_is_published(net: Net, behind: timedelta, exit_code: int, says: str) -> None:
    net.world.restore()
    outcome = net.run(as_of=None, clock=partial(set_to, A - behind))
    assert outcome.exit_code == exit_code
    assert len(re.findall(says, outcome.output)) == len(VIEW_NAMES)
    state = net.world.state()
    assert (state.online, state.intervals) == (net.world.before.online, net.world.before.intervals)
    names = {path.name for path in net.world.data.rglob("*.parquet")}
    net.world.check_recovery(besides=names - {file_name(A), file_name(B)})


def test_clock_ahead_of_the_database(net: Net) -> None:
    net.world.restore()
    outcome = net.run(as_of=None, clock=partial(set_to, datetime.now(UTC) + 24 * HOUR))
    assert "is in the future by the clock of PostgreSQL dcmms_faults at 127.0.0.1:" in outcome.output
    assert net.world.state() == net.world.before
    assert net.judge(outcome, "clock ahead of PostgreSQL's") == CLEAR_FAILURE


def test_snapshot_made_again_with_an_earlier_clock(net: Net) -> None:
    """`created` then goes back; the corrected values are published all the same."""
    world = net.world
    world.restore()
    path = snapshot_path(world.data, VIEW, B)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(snapshot_path(world.data, VIEW, A), path)  # other rows, created in the future of the run
    assert net.judge(net.run(clock=partial(set_to, B + HOUR)), "created goes back") == COMPLETE


def test_snapshot_of_the_future_is_an_error_not_a_reason_to_wait(world: World) -> None:
    world.restore()
    path = snapshot_path(world.data, VIEW, datetime(2100, 1, 1, tzinfo=UTC))
    path.parent.mkdir(parents=True)
    shutil.copy(snapshot_path(world.data, VIEW, A), path)
    outcome = world.run()
    assert outcome.exit_code == 1
    assert f"{VIEW}: not published: the snapshot {path} is in the future" in outcome.output
    path.unlink()
    path.parent.rmdir()
    world.check_readers(world.before, world.after)
    world.check_recovery()

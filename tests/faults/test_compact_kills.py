"""`compact` that is killed at any point: readers find each row once, and the next `compact` does the rest."""

import shutil
from collections import Counter
from datetime import timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.base.fault_points import VARIABLE
from pipeline.snapshots.files import file_name, snapshot_path
from tests.faults.conftest import LONG
from tests.faults.world import A, World

VIEW = "work_order_features"
COMPACT = ("compact", "--view", VIEW, "--keep", "12h:9000d")
# Two days of the month before and one of this month; of their snapshots of 0, 6 and 12 o'clock the second goes.
DAYS_AGO = (31, 30, 3)
_SHORT = ("compact: linked:1", "parquet: written:2", "compact: exchanged:1", "compact: removed:2")


def rows(world: World) -> Counter:
    with duckdb.connect() as engine:
        query = "select asset_id, event_timestamp::text, days_since_last_wo from read_parquet(?)"
        return Counter(engine.execute(query, [f"{world.data / VIEW}/**/*.parquet"]).fetchall())


@pytest.mark.timeout(1800 if LONG else 240)
def test_kills_of_compact(world: World, tally: Counter) -> None:
    world.restore()
    midnight = A.replace(hour=0, minute=0, second=0, microsecond=0)
    held = pq.read_table(snapshot_path(world.data, VIEW, A), partitioning=None)
    place = held.column_names.index("event_timestamp")
    instants = [midnight - timedelta(days=days) + timedelta(hours=hour) for days in DAYS_AGO for hour in (0, 6, 12)]
    for instant in instants:
        path = snapshot_path(world.data, VIEW, instant)
        path.parent.mkdir(exist_ok=True)
        stamps = pa.repeat(pa.scalar(instant, held.schema.field(place).type), held.num_rows)
        pq.write_table(held.set_column(place, held.schema.field(place), stamps), path)
    prepared = world.data.with_name("history")
    shutil.copytree(world.data, prepared)
    before = rows(world)
    undisturbed = world.command(*COMPACT, variables={VARIABLE: ""})
    assert undisturbed.exit_code == 0, undisturbed.output
    after = rows(world)
    assert after < before
    assert set(before.values()) == set(after.values()) == {1}
    points = [f"{point}:{time}" for point, times in undisturbed.reached.items() for time in sorted({1, times})]
    assert set(_SHORT) <= set(points)
    wrong = []
    for point in points if LONG else _SHORT:
        tally["killed"] += 1
        shutil.rmtree(world.data)
        shutil.copytree(prepared, world.data)
        killed = world.command(*COMPACT, variables={VARIABLE: point})
        now = rows(world)
        again = world.command(*COMPACT)
        if (
            killed.exit_code == -9
            and after <= now <= before
            and again.exit_code == 0
            and rows(world) == after
            and not list(world.data.glob(".*.replaced"))
        ):
            tally["survived"] += 1
        else:
            wrong.append(f"killed at {point}: {killed.output}{again.output}")
    assert not wrong, "\n".join(wrong)
    world.check_recovery(besides={path.name for path in (world.data / VIEW).rglob("*.parquet")} - {file_name(A)})

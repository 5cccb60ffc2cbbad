"""The engines of C-MAPSS in dCMMS's tables."""

from datetime import timedelta
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from dev.turbofans import HOURS_PER_FLIGHT, Turbofans


def test_each_engine_has_a_bucket_for_every_hour_until_it_fails_and_none_after() -> None:
    engines = Turbofans()
    tables = list(engines.telemetry())
    assert sum(table.num_rows for table in tables) == engines.expected_telemetry_rows == 5 * 8 * 20_631
    assert pa.concat_tables(tables)["avg_value"].null_count == 0
    orders = engines.tables["work_orders"]
    failures = dict(zip(orders["asset_id"].to_pylist(), orders["created_at"].to_pylist(), strict=True))
    assert len(failures) == engines.tables["assets"].num_rows == 100
    for table in tables:
        ends = table.group_by("asset_id").aggregate([("time_bucket", "max"), ("time_bucket", "count_distinct")])
        hours = ends["time_bucket_count_distinct"]
        assert pc.sum(hours).as_py() == table.num_rows, "two buckets for an hour"
        assert (pc.min(hours).as_py(), pc.max(hours).as_py()) == (128 * HOURS_PER_FLIGHT, 362 * HOURS_PER_FLIGHT)
        last = zip(ends["asset_id"].to_pylist(), ends["time_bucket_max"].to_pylist(), strict=True)
        assert {str(UUID(bytes=key)): start + timedelta(hours=1) for key, start in last} == failures


def test_the_readings_are_those_of_the_file() -> None:
    first = {table["metric_name"][0].as_py(): table["avg_value"][0].as_py() for table in Turbofans().telemetry()}
    # Of the file's first line: 1400.60 °R, 554.36 psia, 2388.06 rpm, 521.66 pps/psi, 39.06 lbm/s.
    assert {metric: round(value, 4) for metric, value in first.items()} == {
        "temperature_c": 504.9611,
        "voltage_v": 554.36,
        "frequency_hz": 39.801,
        "power_kw": 521.66,
        "current_a": 39.06,
    }

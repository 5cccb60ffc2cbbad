"""recent_telemetry_features: hand-computed rows at the edges; what it shares with telemetry_features is tested there.

ClickHouse has one schema: everything runs with one variant of PostgreSQL.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from features.recent_telemetry_features import of_known_assets
from tests.dcmms import Dcmms, T, ago, asset_key, bucket

VIEW = "recent_telemetry_features"
HOUR = timedelta(hours=1)
QUANTITIES = {
    "power": "power_kw",
    "voltage": "voltage_v",
    "current": "current_a",
    "temperature": "temperature_c",
    "frequency": "frequency_hz",
}

pytestmark = pytest.mark.parametrize("variant", ["n"], indirect=True)

# Of an asset without measurements in the last 30 d.
NOTHING_MEASURED: dict[str, Any] = {
    "event_timestamp": T,
    **{f"rolling_{statistic}_{quantity}_1d": None for quantity in QUANTITIES for statistic in ("avg", "std")},
    "max_abs_z_1d": None,
    "power_ratio_1d_vs_30d": None,
    "temperature_shift_1d_vs_30d": None,
    "zero_power_hours_1d": None,
}


def features(row: dict[str, Any]) -> dict[str, Any]:
    """Return the instant and the features of the view: the SQL returns those of telemetry_features too."""
    return {name: row[name] for name in NOTHING_MEASURED}


def run(asset: UUID, metric: str, values: Iterable[float], end: datetime, **columns: Any) -> list[dict[str, Any]]:
    """Return hourly buckets of these averages, one after the other, of which the last ends at `end`."""
    values = list(values)
    return [
        bucket(asset, metric, end - (len(values) - number) * HOUR, value, **columns)
        for number, value in enumerate(values)
    ]


def only(dcmms: Dcmms) -> dict[str, Any]:
    (row,) = dcmms.extract(VIEW)
    return features(row)


def test_asset_that_was_silent_for_a_month_has_a_row(dcmms: Dcmms) -> None:
    dcmms.buckets(*run(asset_key(1), "power_kw", [5.0], ago(60)))
    assert only(dcmms) == NOTHING_MEASURED


def test_whole_row(dcmms: Dcmms) -> None:
    asset = asset_key(1)
    before = [8.0, 12.0] * 36
    day = [0.0, -1.0, 5.0, 40.0]
    dcmms.buckets(
        *run(asset, "power_kw", before, ago(2)),
        *run(asset, "power_kw", day, T),
        *run(asset, "temperature_c", [20.0, 22.0], ago(3)),
        *run(asset, "temperature_c", [30.0], T, stddev_value=2.0),
        *run(asset, "voltage_v", [230.0], T),
    )
    month = (720 + 44) / 76
    assert only(dcmms) == NOTHING_MEASURED | {
        "rolling_avg_power_1d": 11.0,
        "rolling_std_power_1d": pytest.approx(((0 + 1 + 25 + 1600) / 4 - 121) ** 0.5, rel=1e-6),
        "rolling_avg_voltage_1d": 230.0,
        "rolling_std_voltage_1d": 0.0,
        "rolling_avg_temperature_1d": 30.0,
        "rolling_std_temperature_1d": 2.0,
        # power: 1 from the mean 10, whose standard deviation is 2; of temperature too few buckets are before
        "max_abs_z_1d": 0.5,
        "power_ratio_1d_vs_30d": pytest.approx(11 / month, rel=1e-6),
        "temperature_shift_1d_vs_30d": 6.0,
        "zero_power_hours_1d": 2.0,
    }


def test_buckets_count_where_they_lie_whole_in_the_day_or_in_the_month_before(dcmms: Dcmms) -> None:
    """Temperatures of their own tell which buckets count; the usual ones, 0 and 2, are 72 in themselves."""
    cases = {
        ago(-1 / 24): 1e5,
        ago(hours=1, seconds=-1): 1e4,  # ends after T
        ago(hours=1): 30.0,  # the day
        ago(1): 50.0,  # its first bucket
        ago(1, seconds=1): 1e6,  # in neither: it reaches into the day
        ago(30, seconds=1): 1e7,
    }
    asset = asset_key(1)
    dcmms.buckets(
        *run(asset, "temperature_c", [0.0, 2.0] * 36, ago(1, seconds=2)),
        *(bucket(asset, "temperature_c", start, value) for start, value in cases.items()),
    )
    row = only(dcmms)
    assert row["rolling_avg_temperature_1d"] == 40.0
    assert row["max_abs_z_1d"] == 39.0
    assert row["temperature_shift_1d_vs_30d"] == pytest.approx(40 - (72 + 80 + 1e6) / 75, rel=1e-6)


@pytest.mark.parametrize(
    ("first", "expected"), [(ago(30), 3.0), (ago(30, seconds=1), None)], ids=["30 d ago", "a second earlier"]
)
def test_enough_buckets_make_a_mean_usual(dcmms: Dcmms, first: datetime, expected: float | None) -> None:
    """71 are too few; the 72nd is the first of the 30 d or lies before them."""
    asset = asset_key(1)
    dcmms.buckets(
        bucket(asset, "voltage_v", first, 8.0),
        *run(asset, "voltage_v", [12.0, 8.0] * 35 + [12.0], ago(1)),
        *run(asset, "voltage_v", [16.0], T),
    )
    assert only(dcmms)["max_abs_z_1d"] == expected


def test_largest_distance_of_the_quantities_in_either_direction(dcmms: Dcmms) -> None:
    asset = asset_key(1)
    days = {"power": 11.0, "voltage": 4.0, "current": 14.0, "temperature": 10.0, "frequency": 10.0}
    for quantity, metric in QUANTITIES.items():
        dcmms.buckets(
            *run(asset, metric, [8.0, 12.0] * 36, ago(5)),
            *run(asset, metric, [days[quantity]], T),
        )
    assert only(dcmms)["max_abs_z_1d"] == 3.0


def test_quantity_without_spread_or_without_a_day_has_no_distance(dcmms: Dcmms) -> None:
    constant, silent, varied = asset_key(1), asset_key(2), asset_key(3)
    dcmms.buckets(
        # 50.02 is no sum of powers of two: the deviation that rounding leaves is none
        *run(constant, "frequency_hz", [50.02] * 100, ago(1), count=61),
        *run(constant, "frequency_hz", [50.03], T),
        *run(silent, "frequency_hz", [8.0, 12.0] * 40, ago(1)),
        # the samples within buckets may vary where their means do not
        *run(varied, "frequency_hz", [50.0] * 72, ago(1), stddev_value=0.5),
        *run(varied, "frequency_hz", [51.0], T),
    )
    assert dcmms.column(VIEW, "max_abs_z_1d") == [None, None, 2.0]


@pytest.mark.parametrize(
    ("before", "day", "ratio"),
    [([0.0], [0.0], None), ([-4.0], [2.0], None), ([4.0], [-4.0], None), ([6.0], [-2.0], -1.0), ([6.0], [2.0], 0.5)],
)
def test_power_beside_the_month(dcmms: Dcmms, before: list[float], day: list[float], ratio: float | None) -> None:
    asset = asset_key(1)
    dcmms.buckets(*run(asset, "power_kw", before, ago(2)), *run(asset, "power_kw", day, T))
    assert only(dcmms)["power_ratio_1d_vs_30d"] == ratio


def test_ratio_that_no_float32_holds_is_null(dcmms: Dcmms) -> None:
    """2 ** 90 in a day, and a month that adds up to 2 ** -40: the ratio is beyond 2 ** 128."""
    asset = asset_key(1)
    dcmms.buckets(
        bucket(asset, "power_kw", ago(3), 1.0, count=1, sum_value=-(2.0**90)),
        bucket(asset, "power_kw", ago(2), 1.0, count=1, sum_value=2.0**-40),
        bucket(asset, "power_kw", ago(hours=1), 1.0, count=1, sum_value=2.0**90),
    )
    row = only(dcmms)
    assert (row["rolling_avg_power_1d"], row["power_ratio_1d_vs_30d"]) == (2.0**90, None)


def test_hours_at_a_standstill(dcmms: Dcmms) -> None:
    cases = {1: [0.0, -0.5, 0.001], 2: [5.0], 3: [0.0] * 24}
    for number, values in cases.items():
        dcmms.buckets(*run(asset_key(number), "power_kw", values, T))
    dcmms.buckets(*run(asset_key(4), "voltage_v", [0.0], T), *run(asset_key(4), "power_kw", [0.0], ago(1)))
    assert dcmms.column(VIEW, "zero_power_hours_1d") == [2.0, 0.0, 24.0, None]


def test_preferred_name_of_the_90_d_counts_and_copies_once(dcmms: Dcmms) -> None:
    asset = asset_key(1)
    dcmms.buckets(
        *run(asset, "voltage_v", [230.0], ago(80)),
        *run(asset, "voltage", [400.0], T),
        *run(asset, "current_a", [7.0], T),
        *run(asset, "current_a", [9.0], T, count=59),
    )
    row = only(dcmms)
    assert row["rolling_avg_voltage_1d"] is None
    assert row["rolling_avg_current_1d"] == 7.0


def test_telemetry_of_unknown_assets_is_dropped(dcmms: Dcmms) -> None:
    for number in (1, 2):
        dcmms.buckets(*run(asset_key(number), "power_kw", [5.0], T))
    telemetry = pa.Table.from_pylist(dcmms.extract(VIEW))
    known = of_known_assets(telemetry, {"asset_features": pa.table({"asset_id": [str(asset_key(2))]})})
    assert known["asset_id"].to_pylist() == [str(asset_key(2))]
    assert known.column_names == telemetry.column_names

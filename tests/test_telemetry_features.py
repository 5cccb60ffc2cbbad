"""telemetry_features: hand-computed rows at the edges.

ClickHouse has one schema. Only the tests that complete the features across both databases need PostgreSQL too, and
what they read of it does not depend on its variant: everything runs with one.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from features.telemetry_features import with_capacity_factors
from pipeline.base.specs import SPECS
from pipeline.sources import telemetry
from pipeline.sources.clickhouse import ClickHouseSource, open_clickhouse
from pipeline.sources.extract import extract_postgres
from pipeline.sources.postgres import open_postgres
from pipeline.sources.telemetry import Survey, extract_telemetry, read_telemetry, survey_telemetry
from tests.dcmms import SITE, Dcmms, T, ago, asset_key, bucket

VIEW = "telemetry_features"
HOUR = timedelta(hours=1)
RECENT = SPECS["recent_telemetry_features"].snapshot_schema.names[3:]
NAN, INFINITY = float("nan"), float("inf")

pytestmark = pytest.mark.parametrize("variant", ["n"], indirect=True)

# What the SQL returns for an asset without measurements in the last 30 d.
NOTHING_MEASURED: dict[str, Any] = {
    "event_timestamp": T,
    "rolling_avg_power_7d": None,
    "rolling_std_power_7d": None,
    "rolling_min_power_7d": None,
    "rolling_max_power_7d": None,
    "rolling_avg_power_30d": None,
    "rolling_std_power_30d": None,
    "rolling_avg_voltage_7d": None,
    "rolling_std_voltage_7d": None,
    "rolling_min_voltage_7d": None,
    "rolling_max_voltage_7d": None,
    "rolling_avg_current_7d": None,
    "rolling_std_current_7d": None,
    "rolling_avg_temperature_7d": None,
    "rolling_std_temperature_7d": None,
    "rolling_max_temperature_7d": None,
    "rolling_avg_frequency_7d": None,
    "rolling_std_frequency_7d": None,
    "anomaly_count_7d": None,
    "anomaly_count_30d": None,
    "anomaly_count_90d": 0,
    "total_generation_kwh_7d": None,
    "total_generation_kwh_30d": None,
    "avg_daily_generation_kwh": None,
    "availability_7d": None,
    "availability_30d": None,
    "telemetry_coverage_7d": None,
}
# ... but some power data before.
POWER_BEFORE = NOTHING_MEASURED | {"telemetry_coverage_7d": 0.0}


def without_recent(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row without the columns of the other view that comes from the same rows."""
    return {name: value for name, value in row.items() if name not in RECENT}


def features(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row without its key and the columns that are no features."""
    left_out = {"asset_id", "power_hours_7d", "power_hours_30d", "power_variation_1d", "newest_source_at", *RECENT}
    return {name: value for name, value in row.items() if name not in left_out}


def site_key(number: int) -> UUID:
    """Return the id of the site `number` of a test."""
    return UUID(f"00000000-0000-4000-8000-5{number:011x}")


def power(asset: UUID, starts: Iterable[datetime], value: float = 100.0, **columns: Any) -> list[dict[str, Any]]:
    """Return a bucket of power at each of `starts`."""
    return [bucket(asset, "power_kw", start, value, **columns) for start in starts]


def hourly(first: datetime, end: datetime) -> list[datetime]:
    """Return the starts of the whole hours from `first` to before `end`."""
    return [first + hours * HOUR for hours in range((end - first) // HOUR)]


def by_number(rows: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the rows by the number of their asset."""
    return {UUID(row["asset_id"]).int & 0xFFFF: row for row in rows}


def columns_of(rows: Sequence[dict[str, Any]], *names: str) -> dict[int, tuple[Any, ...]]:
    """Return some features by the number of the asset."""
    return {number: tuple(row[name] for name in names) for number, row in by_number(rows).items()}


# windows --------------------------------------------------------------------------------------------------------------


def test_buckets_count_where_they_lie_whole_in_the_window(dcmms: Dcmms) -> None:
    """Each bucket has an average and a number of anomalies of its own: the sums tell which ones count."""
    starts = {
        ago(-1 / 24): 1,
        ago(hours=1, seconds=-1): 10,  # ends one second after T
        ago(hours=1): 100,
        ago(7): 1_000,
        ago(7, seconds=1): 10_000,
        ago(30): 100_000,
        ago(30, seconds=1): 1_000_000,
        ago(90): 10_000_000,
        ago(90, seconds=1): 100_000_000,
    }
    asset = asset_key(1)
    dcmms.buckets(*(power(asset, [start], value, anomaly_count=value)[0] for start, value in starts.items()))
    assert without_recent(dcmms.row(VIEW, asset)) == {
        **NOTHING_MEASURED,
        "asset_id": str(asset),
        "rolling_avg_power_7d": 550.0,
        "rolling_std_power_7d": 450.0,
        "rolling_min_power_7d": 100.0,
        "rolling_max_power_7d": 1_000.0,
        "rolling_avg_power_30d": 111_100 / 4,
        "rolling_std_power_30d": pytest.approx(1_753_801_875**0.5),
        "anomaly_count_7d": 1_100,
        "anomaly_count_30d": 111_100,
        "anomaly_count_90d": 11_111_100,
        "total_generation_kwh_7d": 1_100.0,
        "total_generation_kwh_30d": 111_100.0,
        "avg_daily_generation_kwh": 111_100 / 4 * 24,
        "telemetry_coverage_7d": pytest.approx(2 / 168),
        "hours_since_last_telemetry": 0.0,
        "power_hours_7d": 2.0,
        "power_hours_30d": 4.0,
        "power_variation_1d": None,
        "newest_source_at": T,
    }


def test_assets_without_a_bucket_in_90_days_have_no_row(dcmms: Dcmms) -> None:
    dcmms.buckets(
        bucket(asset_key(1), "power_kw", ago(90)),
        bucket(asset_key(2), "power_kw", ago(90, seconds=1)),
        bucket(asset_key(3), "power_kw", ago(hours=1)),
        bucket(asset_key(4), "power_kw", ago(hours=1, seconds=-1)),
        bucket(asset_key(5), "power_kw", T),
        bucket(asset_key(6), "power_kw", ago(400)),
    )
    rows = columns_of(dcmms.extract(VIEW), "hours_since_last_telemetry", "anomaly_count_90d")
    assert rows == {1: (90 * 24 - 1, 0), 3: (0.0, 0)}


@pytest.mark.parametrize(
    ("as_of", "buckets_7d", "first", "hours_since"),
    [
        (T, 168, 0, 0.0),
        (T + timedelta(microseconds=1), 167, 1, 1e-6 / 3600),
        (T - timedelta(microseconds=1), 167, 0, 1 - 1e-6 / 3600),
        (T + timedelta(milliseconds=500), 167, 1, 0.5 / 3600),
        (T + timedelta(minutes=30), 167, 1, 0.5),
        (T + timedelta(minutes=59, seconds=59), 167, 1, 3599 / 3600),
    ],
    ids=["on the grid", "1 µs later", "1 µs earlier", "0.5 s later", "30 min later", "1 s before the next"],
)
def test_as_of_on_and_off_the_clock_grid(
    dcmms: Dcmms, as_of: datetime, buckets_7d: int, first: int, hours_since: float
) -> None:
    """Asset 1 has all buckets up to T, asset 2 every other one; power is 1 kW."""
    starts = hourly(ago(8), T)
    dcmms.buckets(*power(asset_key(1), starts, 1), *power(asset_key(2), starts[::2], 1))
    dcmms.buckets(bucket(asset_key(3), "voltage_v", ago(7), 690))
    rows = by_number(dcmms.extract(VIEW, as_of))
    assert rows[1]["telemetry_coverage_7d"] == 1.0
    assert rows[1]["total_generation_kwh_7d"] == buckets_7d
    assert rows[1]["hours_since_last_telemetry"] == pytest.approx(hours_since, rel=1e-6, abs=1e-9)
    assert rows[1]["event_timestamp"] == as_of
    assert rows[2]["telemetry_coverage_7d"] == pytest.approx((84 - first) / buckets_7d)
    assert rows[3]["rolling_avg_voltage_7d"] == (None if first else 690.0)


def test_several_instants_give_the_rows_of_each(dcmms: Dcmms) -> None:
    """A bucket that ends at one instant belongs to it, one that ends within the second after it to the next only."""
    as_of, offsets = T + timedelta(milliseconds=500), [0, 1, 30]
    starts = hourly(ago(33), T + HOUR)
    late = [start + timedelta(seconds=1) for start in starts]
    for number in (1, 2, 3):
        dcmms.buckets(*power(asset_key(number), starts, 10 * number), *power(asset_key(number + 3), late, 10))
    dcmms.buckets(*power(asset_key(2), [ago(1, hours=1), ago(1)], 0, anomaly_count=1, count=61))
    dcmms.buckets(bucket(asset_key(7), "active_power_kw", ago(0.5), 40), bucket(asset_key(7), "power_kw", ago(100)))
    with open_clickhouse(dcmms.settings) as source:
        rows = read_telemetry(
            source, "telemetry_features", [as_of - timedelta(days=days) for days in offsets], 3600
        ).to_pylist()
    for days in offsets:
        instant = as_of - timedelta(days=days)
        expected = dcmms.extract(VIEW, instant)
        assert by_number([row for row in rows if row["event_timestamp"] == instant]) == by_number(expected)
    assert len(rows) == 7 + 6 + 7


def test_an_asset_has_rows_at_the_instants_whose_90_days_hold_a_bucket(dcmms: Dcmms) -> None:
    """Of assets that fall silent: a bucket counts at its second of the 90th day, and not a second earlier."""
    dcmms.buckets(*power(asset_key(1), [ago(100), ago(97)]), *power(asset_key(2), [ago(100, seconds=1)]))
    back = (0, 7, 10, 11, 30)
    with open_clickhouse(dcmms.settings) as source:
        rows = read_telemetry(source, VIEW, [ago(days) for days in back], 3600).to_pylist()
    found = {days: by_number([row for row in rows if row["event_timestamp"] == ago(days)]) for days in back}
    assert {days: {*assets} for days, assets in found.items()} == {0: set(), 7: {1}, 10: {1}, 11: {1, 2}, 30: {1, 2}}
    assert found == {days: by_number(dcmms.extract(VIEW, ago(days))) for days in back}


def test_ten_minute_buckets(dcmms: Dcmms) -> None:
    dcmms.settings = dcmms.settings.model_copy(update={"telemetry_bucket_minutes": 10})
    width = timedelta(minutes=10)
    dcmms.buckets(
        *power(asset_key(1), [T - width, T - 2 * width, T - 3 * width], 60),
        *power(asset_key(1), [ago(7), ago(30)], 120),
        # outside: ends one second late, starts one second early
        *power(asset_key(1), [T - width + timedelta(seconds=1)], 1e6),
        *power(asset_key(1), [ago(30, seconds=1)], 1e6),
        *power(asset_key(2), [ago(7, seconds=1)], 60),
    )
    rows = by_number(dcmms.extract(VIEW, T))
    assert rows[1]["total_generation_kwh_7d"] == 3 * 10 + 20
    assert rows[1]["total_generation_kwh_30d"] == 3 * 10 + 2 * 20
    assert rows[1]["avg_daily_generation_kwh"] == pytest.approx(70 / (50 / 60) * 24)
    assert rows[1]["telemetry_coverage_7d"] == pytest.approx(4 / 1008)
    assert rows[1]["hours_since_last_telemetry"] == 0.0
    assert (rows[1]["power_hours_7d"], rows[1]["power_hours_30d"]) == pytest.approx((40 / 60, 50 / 60))
    assert rows[2]["total_generation_kwh_7d"] is None
    assert rows[2]["hours_since_last_telemetry"] == pytest.approx(7 * 24 - 1 / 6 + 1 / 3600)


# coverage and the width of buckets ------------------------------------------------------------------------------------


def test_coverage_is_by_cells_of_the_clock_grid(dcmms: Dcmms) -> None:
    """Asset 1 reports at :30, 2 has one overlapping bucket, 3 was silent in the 7 d, 4 never reported power."""
    as_of = T + timedelta(minutes=30)
    full = hourly(ago(7), T)
    dcmms.buckets(
        *power(asset_key(1), hourly(as_of - timedelta(days=7), as_of)),
        *power(asset_key(2), [*full, ago(3, seconds=-60)]),
        *power(asset_key(3), [ago(8)]),
        bucket(asset_key(4), "voltage_v", ago(1)),
        *power(asset_key(5), [*full[:84], *(start + timedelta(minutes=1) for start in full[:40])]),
        *power(asset_key(6), full[:10], count=0),
    )
    covered = columns_of(dcmms.extract(VIEW), "telemetry_coverage_7d")
    assert covered == {1: pytest.approx((167 / 168,)), 2: (1.0,), 3: (0.0,), 4: (None,), 5: (0.5,), 6: (None,)}
    half_past = columns_of(dcmms.extract(VIEW, as_of), "telemetry_coverage_7d")
    assert (half_past[1], half_past[2], half_past[3]) == ((1.0,), (1.0,), (0.0,))
    with open_clickhouse(dcmms.settings) as source:
        instants = [as_of - timedelta(days=1), as_of]
        rows = [
            row for row in read_telemetry(source, VIEW, instants, 3600).to_pylist() if row["event_timestamp"] == as_of
        ]
    assert columns_of(rows, "telemetry_coverage_7d") == half_past


def test_an_asset_with_narrow_buckets_has_no_row_and_is_named(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    """One asset reports every 10 minutes, 29 every hour; another one did so up to 90 d before the last instant."""
    starts = hourly(ago(2), T)
    dcmms.buckets(*(row for number in range(1, 30) for row in power(asset_key(number), starts)))
    rows = dcmms.extract(VIEW)
    assert "narrower" not in caplog.text
    narrow = [start + timedelta(minutes=10 * tenth) for start in starts for tenth in range(6)]
    dcmms.buckets(*(bucket(asset_key(30), "voltage_v", start) for start in narrow))
    dcmms.buckets(*power(asset_key(31), starts[:2]), *power(asset_key(31), [start + HOUR / 2 for start in starts[:1]]))
    assert dcmms.extract(VIEW)[:29] == rows
    assert [number for number in by_number(dcmms.extract(VIEW)) if number > 28] == [29, 31]  # 31: 3 starts in 2 cells
    assert (
        f"telemetry_features: 1 assets have buckets that are narrower than TELEMETRY_BUCKET_MINUTES (60), and no row: "
        f"{asset_key(30)}"
    ) in caplog.messages
    dcmms.buckets(*(bucket(asset_key(32), "frequency_hz", start - timedelta(days=89)) for start in narrow))
    dcmms.buckets(*(bucket(asset_key(32), "frequency_hz", start) for start in narrow[::6] * 4))
    with open_clickhouse(dcmms.settings) as source:
        filled = read_telemetry(source, VIEW, [T - timedelta(days=1), T, T + timedelta(days=3)], 3600).to_pylist()
    present = {row["event_timestamp"]: row["asset_id"] for row in filled if row["asset_id"] == str(asset_key(32))}
    assert list(present) == [T + timedelta(days=3)]
    assert str(asset_key(30)) not in {row["asset_id"] for row in filled}
    for instant in (T - timedelta(days=1), T):
        assert by_number([row for row in filled if row["event_timestamp"] == instant]) == by_number(
            dcmms.extract(VIEW, instant)
        )


# measurements ---------------------------------------------------------------------------------------------------------


def test_statistics_are_weighted_by_samples(dcmms: Dcmms) -> None:
    """10 samples around 40 ± 70 and 30 around 120 ± 10: mean 100, and a spread of 50, the root of 1200 + 1300."""
    asset = asset_key(1)
    small = {"count": 10, "avg_value": 40.0, "stddev_value": 70.0, "min_value": -5.0, "max_value": 210.0}
    large = {"count": 30, "avg_value": 120.0, "stddev_value": 10.0, "min_value": 90.0, "max_value": 150.0}
    for metric in ("power_kw", "voltage_v", "current_a", "temperature_c", "frequency_hz"):
        dcmms.buckets(
            bucket(asset, metric, ago(hours=3), **small, anomaly_count=1), bucket(asset, metric, ago(6), **large)
        )
    # outside 7 d; only power has a window of 30 d. Then 60 samples of 100 without a spread: the root of 40 % of 2500
    for metric in ("power_kw", "voltage_v", "current_a", "temperature_c", "frequency_hz"):
        dcmms.buckets(bucket(asset, metric, ago(8), 100, min_value=-1000, max_value=1000))
    assert without_recent(dcmms.row(VIEW, asset)) == {
        **NOTHING_MEASURED,
        "asset_id": str(asset),
        "rolling_avg_power_7d": 100.0,
        "rolling_std_power_7d": 50.0,
        "rolling_min_power_7d": -5.0,
        "rolling_max_power_7d": 210.0,
        "rolling_avg_power_30d": 100.0,
        "rolling_std_power_30d": pytest.approx(1000**0.5),
        "rolling_avg_voltage_7d": 100.0,
        "rolling_std_voltage_7d": 50.0,
        "rolling_min_voltage_7d": -5.0,
        "rolling_max_voltage_7d": 210.0,
        "rolling_avg_current_7d": 100.0,
        "rolling_std_current_7d": 50.0,
        "rolling_avg_temperature_7d": 100.0,
        "rolling_std_temperature_7d": 50.0,
        "rolling_max_temperature_7d": 210.0,
        "rolling_avg_frequency_7d": 100.0,
        "rolling_std_frequency_7d": 50.0,
        "anomaly_count_7d": 5,
        "anomaly_count_30d": 5,
        "anomaly_count_90d": 5,
        # energy is by buckets, not by samples
        "total_generation_kwh_7d": 160.0,
        "total_generation_kwh_30d": 260.0,
        "avg_daily_generation_kwh": 260 * 8.0,
        "telemetry_coverage_7d": pytest.approx(2 / 168),
        "hours_since_last_telemetry": 2.0,
        "power_hours_7d": 2.0,
        "power_hours_30d": 3.0,
        "power_variation_1d": None,
        "newest_source_at": ago(hours=2),
    }


def test_bucket_stored_twice_counts_once(dcmms: Dcmms) -> None:
    """The copy with more samples counts; of two with as many, that with the larger sum."""
    start = ago(hours=5)

    def copies(number: int, *rows: dict[str, Any]) -> None:
        for row in rows:  # one insert each, as they arrive: engines may merge rows of one insert
            dcmms.buckets(bucket(asset_key(number), "power_kw", start, **row))

    copies(1, {"count": 60, "value": 100, "anomaly_count": 1}, {"count": 50, "value": 500, "anomaly_count": 7})
    copies(2, {"count": 50, "value": 500, "anomaly_count": 7}, {"count": 60, "value": 100, "anomaly_count": 1})
    copies(3, {"value": 100, "anomaly_count": 7}, {"value": 200, "anomaly_count": 1})
    copies(4, {"value": 200, "anomaly_count": 1}, {"value": 100, "anomaly_count": 7})
    copies(5, *[{"value": 100, "anomaly_count": 2}] * 3)
    copies(6, {"count": 0, "value": 900, "anomaly_count": 9}, {"count": 1, "value": 10, "anomaly_count": 1})
    copies(7, {"count": 60, "value": NAN, "anomaly_count": 3}, {"count": 50, "value": 100, "anomaly_count": 1})
    copies(8, {"value": NAN, "anomaly_count": 3}, {"value": -100, "anomaly_count": 1})
    # as many samples and as large a sum: the larger average; NaN is smaller than any number
    copies(10, {"value": 200, "sum_value": 1, "anomaly_count": 1}, {"value": 100, "sum_value": 1, "anomaly_count": 7})
    copies(11, {"value": 100, "sum_value": 1, "anomaly_count": 7}, {"value": 200, "sum_value": 1, "anomaly_count": 1})
    copies(
        12, {"value": NAN, "sum_value": NAN, "anomaly_count": 7}, {"value": -5, "sum_value": NAN, "anomaly_count": 1}
    )
    # no copies: another metric, another time of the same day
    copies(9, {"value": 100, "anomaly_count": 1}, {"value": 100, "anomaly_count": 1})
    dcmms.buckets(
        bucket(asset_key(9), "voltage_v", start, anomaly_count=10),
        bucket(asset_key(9), "power_kw", start + HOUR, anomaly_count=100),
    )
    rows = dcmms.extract(VIEW)
    assert columns_of(rows, "total_generation_kwh_7d", "rolling_avg_power_7d", "anomaly_count_7d") == {
        1: (100.0, 100.0, 1),
        2: (100.0, 100.0, 1),
        3: (200.0, 200.0, 1),
        4: (200.0, 200.0, 1),
        5: (100.0, 100.0, 2),
        6: (10.0, 10.0, 1),
        7: (None, None, 3),
        8: (-100.0, -100.0, 1),
        9: (200.0, 100.0, 111),
        10: (200.0, pytest.approx(1 / 60), 1),
        11: (200.0, pytest.approx(1 / 60), 1),
        12: (-5.0, -5.0, 1),
    }


def test_copies_count_once_in_a_backfill_and_in_groups_of_sites(dcmms: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days with copies and days without, of four assets at two sites, give what the buckets alone give."""
    rows = [
        bucket(
            asset_key(number),
            "power_kw",
            ago(hours=hour),
            value=100.0 * number + hour / 7,
            site_id=UUID(int=0x500 + number % 2),
        )
        for number in range(1, 5)
        for hour in range(1, 24 * 12)
    ]
    dcmms.buckets(*rows)
    instants = [T - timedelta(days=days) for days in (3, 1, 0)]
    with open_clickhouse(dcmms.settings) as source:
        singles, backfill = _single(source, T), read_telemetry(source, "telemetry_features", instants, 3600)
        dcmms.buckets(*[row | {"count": 1, "avg_value": 7.0} for row in rows[::50]])
        dcmms.buckets(*rows[7::90])
        assert _single(source, T).equals(singles)
        assert read_telemetry(source, "telemetry_features", instants, 3600).equals(backfill)
        monkeypatch.setattr(telemetry, "ROWS_PER_QUERY", 500)
        monkeypatch.setattr(telemetry, "ROWS_PER_BACKFILL_QUERY", 500)
        assert _single(source, T).equals(singles)
        key = [("event_timestamp", "ascending"), ("asset_id", "ascending")]
        assert read_telemetry(source, "telemetry_features", instants, 3600).sort_by(key).equals(backfill.sort_by(key))
    assert singles["availability_7d"].null_count == 4  # a site of two has one other


@pytest.mark.parametrize("minutes", [10, 60])
def test_the_survey_tells_the_blocks_with_copies(dcmms: Dcmms, minutes: int) -> None:
    """At both ends of a block and in the next one but one; the rows of all others are read as they are."""
    width = timedelta(minutes=minutes)
    first = 64 * (int(ago(days=20).timestamp()) // (64 * width.seconds))
    rows = [
        bucket(asset_key(1 + cell % 3), metric, datetime.fromtimestamp((first + cell) * width.seconds, UTC), cell % 7)
        for cell in range(64 * 4)
        for metric in ("power_kw", "voltage_v")
    ]
    dcmms.buckets(*rows)
    bounds = (ago(days=90), T - width, width.seconds)
    with open_clickhouse(dcmms.settings) as source:
        assert survey_telemetry(source, *bounds) == Survey(len(rows), [])
        before = read_telemetry(source, "telemetry_features", [T], width.seconds)
        copied = [rows[2 * cell] | {"count": 1, "avg_value": 1e6} for cell in (64, 127, 192)]
        dcmms.buckets(*copied, copied[0])
        assert survey_telemetry(source, *bounds) == Survey(len(rows) + 4, [first // 64 + 1, first // 64 + 3])
        assert read_telemetry(source, "telemetry_features", [T], width.seconds).equals(before)


def _single(source: ClickHouseSource, as_of: datetime) -> pa.Table:
    return read_telemetry(source, "telemetry_features", [as_of], 3600).sort_by("asset_id")


def test_buckets_off_the_grid_are_no_copies(dcmms: Dcmms) -> None:
    start = ago(hours=5)
    dcmms.buckets(
        bucket(asset_key(1), "power_kw", start, 100.0),
        bucket(asset_key(1), "power_kw", start + timedelta(minutes=20), 50.0),
        *power(asset_key(1), [start - HOUR], 0),
    )
    assert columns_of(dcmms.extract(VIEW), "total_generation_kwh_7d", "rolling_avg_power_7d") == {1: (150.0, 50.0)}


def test_an_asset_under_two_tenants_is_one_asset(dcmms: Dcmms) -> None:
    for hours, tenant in enumerate((0xA, 0xB, 0xA, 0xC), start=1):
        dcmms.buckets(
            bucket(asset_key(1), "power_kw", ago(hours=hours), 100.0 * hours, tenant_id=UUID(int=tenant)),
            *[bucket(asset_key(other), "power_kw", ago(hours=hours), 1.0) for other in (2, 3)],
        )
    rows = by_number(dcmms.extract(VIEW))
    assert sorted(rows) == [1, 2, 3]
    row = rows[1]
    assert row["total_generation_kwh_7d"] == 1000
    assert (row["rolling_min_power_7d"], row["rolling_max_power_7d"]) == (100, 400)
    assert (row["availability_7d"], row["availability_30d"]) == (1.0, 1.0)


@pytest.mark.parametrize("value", [1e-9, 0.1, 1e6, 9.9e14, -9.9e14])
def test_sums_are_exact_at_any_size(dcmms: Dcmms, value: float) -> None:
    dcmms.buckets(*[bucket(asset_key(1), "power_kw", ago(hours=hours), value, count=3600) for hours in range(1, 60)])
    row = by_number(dcmms.extract(VIEW))[1]
    # a bucket is exact to 2^-44
    assert row["total_generation_kwh_7d"] == pytest.approx(59 * value, rel=1e-15, abs=59 * 2**-44)
    assert row["rolling_avg_power_30d"] == pytest.approx(value, rel=1e-6)
    assert row["rolling_std_power_7d"] == pytest.approx(0, abs=max(abs(value) * 1e-7, 1e-6))


def test_averages_that_mean_nothing_are_missing(dcmms: Dcmms) -> None:
    """Beyond 1e15 of any unit a sum would not be exact any more."""
    for hours, value in enumerate((1e15, -1e15, 1e300, 50.0), start=1):
        dcmms.buckets(bucket(asset_key(1), "power_kw", ago(hours=hours), value))
    assert columns_of(dcmms.extract(VIEW), "rolling_avg_power_7d", "rolling_max_power_7d") == {1: (50.0, 50.0)}


def test_what_no_float_holds_is_passed_over(dcmms: Dcmms) -> None:
    """Extremes are passed over, the count times the average stands in for a sum, a deviation counts as 0."""
    flaws: list[dict[str, float]] = [
        {"min_value": -1e300, "max_value": 3.5e38},
        {"min_value": -INFINITY, "max_value": INFINITY},
        {"min_value": NAN, "max_value": NAN},
        {"sum_value": NAN, "stddev_value": NAN},
        {"sum_value": INFINITY, "stddev_value": INFINITY},
        {"sum_value": -INFINITY},
    ]
    for hours, flaw in enumerate(flaws, start=1):
        dcmms.buckets(bucket(asset_key(1), "power_kw", ago(hours=hours), 50, **flaw))
    dcmms.buckets(*power(asset_key(2), [ago(hours=1)], 50, min_value=-1e300, max_value=3.5e38))
    dcmms.buckets(*power(asset_key(3), [ago(hours=1)], 50, min_value=-3.4e38, max_value=3.4e38))
    names = [f"rolling_{statistic}_power_7d" for statistic in ("avg", "std", "min", "max")]
    expected = {
        1: (50, 0, 50, 50),
        2: (50, 0, None, None),
        3: pytest.approx((50, 0, -3.4e38, 3.4e38), rel=1e-6),
    }
    assert columns_of(dcmms.extract(VIEW), *names) == expected
    with open_clickhouse(dcmms.settings) as source:
        rows = read_telemetry(source, VIEW, [T, T + timedelta(days=1)], 3600).to_pylist()
    assert columns_of(rows, *names) == expected


def test_anomalies_that_no_int32_holds_are_unknown(dcmms: Dcmms) -> None:
    dcmms.buckets(
        *power(asset_key(1), [ago(1)], anomaly_count=2**31 - 1),
        *power(asset_key(1), [ago(8), ago(40)], anomaly_count=1),
    )
    names = [f"anomaly_count_{days}d" for days in (7, 30, 90)]
    assert columns_of(dcmms.extract(VIEW), *names) == {1: (2**31 - 1, None, None)}


def test_buckets_without_samples_or_a_finite_average_are_missing(dcmms: Dcmms) -> None:
    missing = [
        {"count": 0, "value": 0.0},
        {"count": 0, "value": 500.0},
        {"value": NAN, "sum_value": NAN},
        {"value": INFINITY, "sum_value": INFINITY},
        {"value": -INFINITY, "sum_value": -INFINITY},
    ]
    for hours, columns in enumerate(missing, start=1):
        for number in (1, 2):
            start = ago(hours=hours + 1)
            dcmms.buckets(bucket(asset_key(number), "power_kw", start, anomaly_count=10**hours, **columns))
    dcmms.buckets(bucket(asset_key(1), "power_kw", ago(hours=9), 80))
    rows = by_number(dcmms.extract(VIEW))
    assert features(rows[1]) == {
        **NOTHING_MEASURED,
        "rolling_avg_power_7d": 80.0,
        "rolling_std_power_7d": 0.0,
        "rolling_min_power_7d": 80.0,
        "rolling_max_power_7d": 80.0,
        "rolling_avg_power_30d": 80.0,
        "rolling_std_power_30d": 0.0,
        "anomaly_count_7d": 111_110,
        "anomaly_count_30d": 111_110,
        "anomaly_count_90d": 111_110,
        "total_generation_kwh_7d": 80.0,
        "total_generation_kwh_30d": 80.0,
        "avg_daily_generation_kwh": 80 * 24.0,
        "telemetry_coverage_7d": pytest.approx(1 / 168),
        "hours_since_last_telemetry": 1.0,
    }
    assert features(rows[2]) == {
        **NOTHING_MEASURED,
        "anomaly_count_7d": 111_110,
        "anomaly_count_30d": 111_110,
        "anomaly_count_90d": 111_110,
        "hours_since_last_telemetry": 1.0,
    }


ALIASES = {
    "rolling_avg_power_7d": ["power_kw", "active_power_kw", "power_output_kw", "power_generation"],
    "rolling_avg_voltage_7d": ["voltage_v", "voltage"],
    "rolling_avg_current_7d": ["current_a", "current"],
    "rolling_avg_temperature_7d": ["temperature_c", "temperature"],
    "rolling_avg_frequency_7d": ["frequency_hz", "grid_frequency_hz"],
}


def test_every_alias_is_read(dcmms: Dcmms) -> None:
    cases = [(feature, name) for feature, names in ALIASES.items() for name in names]
    for number, (_, name) in enumerate(cases):
        dcmms.buckets(bucket(asset_key(number), name, ago(hours=1), 10 + number))
    rows = by_number(dcmms.extract(VIEW))
    for number, (feature, name) in enumerate(cases):
        read = {column: rows[number][column] for column in ALIASES if rows[number][column] is not None}
        assert read == {feature: 10.0 + number}, name


def test_of_several_aliases_the_first_that_was_reported_counts(dcmms: Dcmms) -> None:
    first, second, third, fourth = ALIASES["rolling_avg_power_7d"]
    recent, month_ago, quarter_ago, too_long_ago = ago(1), ago(20), ago(90), ago(90, seconds=1)
    cases: dict[int, tuple[dict[tuple[str, datetime], float], tuple[float | None, float | None]]] = {
        1: ({(first, recent): 1, (second, recent): 2}, (1.0, 1.0)),
        2: ({(fourth, recent): 4, (third, recent): 3}, (3.0, 3.0)),
        3: ({(first, month_ago): 1, (second, recent): 2}, (None, 1.0)),
        4: ({(first, quarter_ago): 1, (second, recent): 2}, (None, None)),
        5: ({(first, too_long_ago): 1, (second, recent): 2}, (2.0, 2.0)),
        6: ({(second, month_ago): 2, (first, recent): 1}, (1.0, 1.0)),
    }
    for number, (buckets, _) in cases.items():
        dcmms.buckets(*(bucket(asset_key(number), *series, value) for series, value in buckets.items()))
    # another quantity has a choice of its own
    dcmms.buckets(bucket(asset_key(1), "voltage", recent, 690))
    rows = dcmms.extract(VIEW)
    assert columns_of(rows, "total_generation_kwh_7d", "total_generation_kwh_30d") == {
        number: totals for number, (_, totals) in cases.items()
    }
    assert by_number(rows)[1]["rolling_avg_voltage_7d"] == 690.0


def test_metric_of_no_feature_counts_for_anomalies_and_freshness(dcmms: Dcmms) -> None:
    dcmms.buckets(
        bucket(asset_key(1), "vibration_mm_s", ago(hours=2.5), anomaly_count=3),
        bucket(asset_key(2), "power_kw", ago(hours=5), 100, anomaly_count=1),
        bucket(asset_key(2), "Power_kW", ago(hours=4), 900, anomaly_count=1),
        bucket(asset_key(2), "wind_speed", ago(hours=3), 900, anomaly_count=1),
    )
    rows = by_number(dcmms.extract(VIEW))
    assert features(rows[1]) == {
        **NOTHING_MEASURED,
        "anomaly_count_7d": 3,
        "anomaly_count_30d": 3,
        "anomaly_count_90d": 3,
        "hours_since_last_telemetry": 1.5,
    }
    assert rows[2]["rolling_max_power_7d"] == 100.0
    assert rows[2]["anomaly_count_7d"] == 3
    assert rows[2]["hours_since_last_telemetry"] == 2.0


def test_window_without_buckets_is_unknown(dcmms: Dcmms) -> None:
    """Power was last measured 8 d, 31 d and 8 d ago, or never; of the last two the voltage still arrives."""
    dcmms.buckets(
        *power(asset_key(1), [ago(8)], 50, anomaly_count=2, site_id=site_key(1)),
        *power(asset_key(2), [ago(31)], 50, anomaly_count=2, site_id=site_key(2)),
        *power(asset_key(3), [ago(8)], 50, anomaly_count=2, site_id=site_key(3)),
        bucket(asset_key(3), "voltage_v", ago(1), 690),
        bucket(asset_key(4), "voltage_v", ago(1), 690),
    )
    rows = by_number(dcmms.extract(VIEW))
    month_of_power = {
        "rolling_avg_power_30d": 50.0,
        "rolling_std_power_30d": 0.0,
        "anomaly_count_30d": 2,
        "anomaly_count_90d": 2,
        "total_generation_kwh_30d": 50.0,
        "avg_daily_generation_kwh": 1200.0,
    }
    week_of_voltage = {
        "rolling_avg_voltage_7d": 690.0,
        "rolling_std_voltage_7d": 0.0,
        "rolling_min_voltage_7d": 690.0,
        "rolling_max_voltage_7d": 690.0,
        "anomaly_count_7d": 0,
        "hours_since_last_telemetry": 23.0,
    }
    assert features(rows[1]) == POWER_BEFORE | month_of_power | {"hours_since_last_telemetry": 191.0}
    assert features(rows[2]) == POWER_BEFORE | {"anomaly_count_90d": 2, "hours_since_last_telemetry": 743.0}
    assert features(rows[3]) == POWER_BEFORE | month_of_power | week_of_voltage
    assert features(rows[4]) == NOTHING_MEASURED | week_of_voltage | {"anomaly_count_30d": 0}


def test_energy_is_net_of_consumption_at_standstill(dcmms: Dcmms) -> None:
    dcmms.buckets(
        *power(asset_key(1), [ago(hours=1), ago(hours=2)], -5),
        *power(asset_key(2), [ago(hours=1), ago(hours=2)], -5),
        *power(asset_key(2), [ago(hours=3)], 100),
        *power(asset_key(3), [ago(hours=1)], 0),
    )
    rows = dcmms.extract(VIEW)
    assert columns_of(rows, "total_generation_kwh_7d", "avg_daily_generation_kwh", "rolling_min_power_7d") == {
        1: (-10.0, -120.0, -5.0),
        2: (90.0, 720.0, -5.0),
        3: (0.0, 0.0, 0.0),
    }


# availability ---------------------------------------------------------------------------------------------------------


def site_power(dcmms: Dcmms, site: int, series: dict[int, list[float | None]]) -> None:
    """Insert the power of the assets of a site; its hours count back from T, None is no data."""
    dcmms.buckets(
        *(
            bucket(asset_key(asset), "power_kw", ago(hours=hours), value, site_id=site_key(site))
            for asset, values in series.items()
            for hours, value in enumerate(values, start=1)
            if value is not None
        )
    )


def test_availability_is_measured_where_at_least_half_of_the_others_produce(dcmms: Dcmms) -> None:
    # a normal hour, one of three down, night, two of three down
    site_power(
        dcmms,
        1,
        {
            11: [100, 0, 0, 0],  # productive: 1st, 2nd, 4th
            12: [100, 100, 0, 100],  # productive: 1st, 2nd
            13: [100, 100, 0, 0],  # productive: 1st, 2nd, 4th
        },
    )
    # of three others one is less than half, two are more
    site_power(dcmms, 2, {21: [100, 0, 0], 22: [100, 100, 100], 23: [100, 100, 0], 24: [100, 0, 0]})
    # only the others that have data in the bucket are asked
    site_power(dcmms, 3, {31: [100, 0, 0, 0], 32: [100, 100, None, 0], 33: [100, None, None, None]})
    # an hour without its own data is no downtime
    site_power(dcmms, 4, {41: [None, 100, 0], 42: [100, 100, 100], 43: [100, 100, 100]})
    assert columns_of(dcmms.extract(VIEW), "availability_7d", "availability_30d") == {
        11: pytest.approx((1 / 3, 1 / 3)),
        12: (1.0, 1.0),
        13: pytest.approx((2 / 3, 2 / 3)),
        21: (0.5, 0.5),
        22: (1.0, 1.0),
        23: (1.0, 1.0),
        24: (0.5, 0.5),
        31: (0.5, 0.5),
        32: (1.0, 1.0),
        33: (1.0, 1.0),
        41: (0.5, 0.5),
        42: (1.0, 1.0),
        43: (1.0, 1.0),
    }


def test_availability_needs_two_others_of_the_site_and_a_productive_bucket(dcmms: Dcmms) -> None:
    site_power(dcmms, 1, {11: [100], 12: [100]})  # one other
    site_power(dcmms, 2, {21: [100, None, None], 22: [None, 100, None], 23: [None, None, 100]})  # never together
    site_power(dcmms, 3, {31: [100, 0], 32: [0, 0], 33: [0, 0]})  # the others of 31 never produce
    site_power(dcmms, 4, {41: [100], 42: [100]})  # one other now, a second one up to 90 d ago
    dcmms.buckets(bucket(asset_key(43), "power_kw", ago(90), site_id=site_key(4)))
    site_power(dcmms, 5, {51: [100], 52: [100]})  # the second one was too long ago, or has no power data
    dcmms.buckets(
        bucket(asset_key(53), "power_kw", ago(90, seconds=1), site_id=site_key(5)),
        bucket(asset_key(54), "voltage_v", ago(hours=1), site_id=site_key(5)),
        bucket(asset_key(55), "power_kw", ago(hours=1), count=0, site_id=site_key(5)),
    )
    assert columns_of(dcmms.extract(VIEW), "availability_7d") == {
        11: (None,),
        12: (None,),
        21: (None,),
        22: (None,),
        23: (None,),
        31: (None,),
        32: (0.0,),
        33: (0.0,),
        41: (1.0,),
        42: (1.0,),
        43: (None,),
        51: (None,),
        52: (None,),
        54: (None,),
        55: (None,),
    }


def test_producing_is_above_one_percent_of_the_usual_daily_peak(dcmms: Dcmms) -> None:
    """The third asset of each site is judged in the hours in which the first two produce."""
    site_power(dcmms, 1, {11: [100] * 6, 12: [100] * 6, 13: [100, 1.01, 1, 0.99, 0, -1]})
    peaks: dict[int, dict[datetime, float]] = {
        # with 100 kW of today the lower median is that of the first of two days, the second of three or four
        2: {ago(90): 7_500},
        3: {ago(90): 7_500, ago(50): 6_000},
        4: {ago(90): 7_500, ago(50): 6_000, ago(40): 20},
        5: {ago(90, seconds=1): 7_500, ago(89): 6_000, ago(50): 6_000, T: 6_000},
        # T - 24 h is of the first day, a second before of the second
        6: {ago(1): 7_500, ago(50): 6_000, ago(40): 20},
        7: {ago(1, seconds=1): 7_500, ago(50): 6_000, ago(40): 20},
    }
    for site, buckets in peaks.items():
        judged = asset_key(10 * site + 3)
        site_power(dcmms, site, {10 * site + 1: [100] * 2, 10 * site + 2: [100] * 2, 10 * site + 3: [50, 100]})
        dcmms.buckets(*(power(judged, [start], value, site_id=site_key(site))[0] for start, value in buckets.items()))
    site_power(dcmms, 8, {81: [100] * 2, 82: [100] * 2, 83: [-1, -200]})  # never above 0
    available = columns_of(dcmms.extract(VIEW), "availability_7d")
    assert {number: available[number] for number in (13, 23, 33, 43, 53, 63, 73, 83)} == {
        13: pytest.approx((2 / 6,)),
        23: (1.0,),
        33: (0.5,),  # 1 % is 60 kW
        43: (1.0,),
        53: (0.5,),
        63: (0.5,),
        73: (1.0,),
        83: (0.0,),
    }


def test_one_spurious_bucket_changes_no_availability(dcmms: Dcmms) -> None:
    hours = [ago(hours=hour) for hour in range(1, 24 * 80)]
    for number in range(1, 5):
        dcmms.buckets(*power(asset_key(number), hours, 500))
    dcmms.buckets(*power(asset_key(1), [ago(60)], 100_000, count=61))
    spurious_at_one = columns_of(dcmms.extract(VIEW), "availability_7d", "availability_30d")
    dcmms.buckets(*power(asset_key(2), [ago(60)], 100_000, count=61))
    assert spurious_at_one == columns_of(dcmms.extract(VIEW), "availability_7d", "availability_30d")
    assert spurious_at_one == dict.fromkeys(range(1, 5), (1.0, 1.0))


def test_a_bucket_counts_at_the_site_where_the_asset_then_was(dcmms: Dcmms) -> None:
    """Asset 3 moved 10 d ago, from the site of 1 and 2, which it leaves with two, to that of 4 and 5."""
    old, new = site_key(1), site_key(2)
    before, after = [ago(12), ago(11)], [ago(3), ago(2)]
    dcmms.buckets(
        *power(asset_key(1), [*before, *after], 100, site_id=old),
        *power(asset_key(2), [*before, after[0]], 100, site_id=old),
        *power(asset_key(2), after[1:], 0, site_id=old),
        *power(asset_key(3), before[:1], 0, site_id=old),
        *power(asset_key(3), before[1:], 100, site_id=old),
        *power(asset_key(3), after, 100, site_id=new),
        *power(asset_key(4), [*before, *after], 100, site_id=new),
        *power(asset_key(5), after, 0, site_id=new),
    )
    assert columns_of(dcmms.extract(VIEW), "availability_7d", "availability_30d") == {
        1: (1.0, 1.0),  # its one other is down in the last hour, which is thus not productive
        2: (0.5, 0.75),
        3: (1.0, 0.75),
        4: (1.0, 1.0),  # alone before the move
        5: (0.0, 0.0),
    }


def test_each_name_of_power_counts_at_its_own_sites(dcmms: Dcmms) -> None:
    """Asset 3 came from two sites, where it reported by another name, which is not the preferred one."""
    site_power(dcmms, 1, {1: [100, 100], 2: [100, 100], 3: [100, 0]})
    dcmms.buckets(
        bucket(asset_key(3), "active_power_kw", ago(60), site_id=site_key(2)),
        bucket(asset_key(3), "active_power_kw", ago(50), site_id=site_key(3)),
    )
    assert columns_of(dcmms.extract(VIEW), "availability_7d") == {1: (1.0,), 2: (1.0,), 3: (0.5,)}


def test_availability_counts_the_buckets_of_its_window(dcmms: Dcmms) -> None:
    """Asset 1 is down in some hours, in which the others of its site produce."""
    downtimes = [ago(30), ago(7, seconds=1)]
    outside = [ago(30, seconds=1), ago(hours=1, seconds=-1)]
    uptimes = [ago(7), ago(hours=1)]
    for number in (2, 3):
        dcmms.buckets(*power(asset_key(number), [*downtimes, *outside, *uptimes]))
    dcmms.buckets(*power(asset_key(1), [*downtimes, *outside], 0), *power(asset_key(1), uptimes))
    row = dcmms.row(VIEW, asset_key(1))
    assert (row["availability_7d"], row["availability_30d"]) == (1.0, 0.5)


# across both databases ------------------------------------------------------------------------------------------------


def completed(dcmms: Dcmms) -> pa.Table:
    """Return the telemetry features as of T with what PostgreSQL knows of the assets."""
    with open_postgres(dcmms.settings) as postgres, open_clickhouse(dcmms.settings) as clickhouse:
        assets = extract_postgres(postgres, "asset_features", T)
        telemetry = extract_telemetry(clickhouse, "telemetry_features", T, dcmms.settings.bucket_seconds)
    return with_capacity_factors(telemetry, {"asset_features": assets})


def test_capacity_factor_is_energy_over_rated_power_and_hours_with_data(dcmms: Dcmms) -> None:
    for number in (1, 3):
        dcmms.asset(number, specifications='{"ratedPowerKw": 200}')
    dcmms.asset(2)
    dcmms.asset(4, specifications='{"ratedPowerKw": 200}')
    for number in (1, 2):
        dcmms.buckets(*power(asset_key(number), [ago(1)], 100), *power(asset_key(number), [ago(2)], 150))
        dcmms.buckets(*power(asset_key(number), [ago(8), ago(9)], 75))
    dcmms.buckets(*power(asset_key(3), [ago(8)], -10))
    dcmms.asset(5, specifications='{"ratedPowerKw": 1e-40}')
    dcmms.buckets(*power(asset_key(5), [ago(1)], 100))
    table = completed(dcmms)
    assert table.schema.field("capacity_factor_7d").type == pa.float32()
    assert table.schema.field("capacity_factor_30d").type == pa.float32()
    assert columns_of(table.to_pylist(), "capacity_factor_7d", "capacity_factor_30d") == {
        1: (0.625, 0.5),
        2: (None, None),  # no rated power
        3: (None, pytest.approx(-0.05)),
        5: (None, None),  # a Float32 does not hold it
    }


def test_assets_that_postgresql_does_not_know_are_dropped_but_count_as_others(dcmms: Dcmms) -> None:
    asset = dcmms.asset(1, specifications='{"ratedPowerKw": 100}')
    dcmms.asset(2, created_at=T + HOUR)
    dcmms.asset(3, status="decommissioned", updated_at=ago(1))
    site_power(dcmms, 1, {1: [100, 0], 2: [100, 100], 3: [100, 0], 4: [100, 100]})
    (row,) = completed(dcmms).to_pylist()
    assert row["asset_id"] == str(asset)
    assert (row["availability_7d"], row["capacity_factor_7d"]) == (0.5, 0.5)


def test_telemetry_belongs_to_the_asset_whatever_its_site(dcmms: Dcmms) -> None:
    """The assets of two sites are not each other's others."""
    site_power(dcmms, 1, {1: [0], 2: [100], 3: [100]})
    site_power(dcmms, 2, {4: [0], 5: [0], 6: [100], 7: [0]})
    dcmms.buckets(*power(asset_key(8), [ago(hours=1)], site_id=SITE))
    available = columns_of(dcmms.extract(VIEW), "availability_7d")
    assert available == {1: (0.0,), 2: (1.0,), 3: (1.0,), 4: (None,), 5: (None,), 6: (None,), 7: (None,), 8: (None,)}

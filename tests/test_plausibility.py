"""What is plausible and wrong: the values pass, and a run and a backfill tell of them."""

import logging
import math
from datetime import datetime, timedelta

import pytest

from dev.fleet import generate
from dev.load import load_clickhouse, load_postgres
from features.fields import PLAUSIBLE, has_plausible_range, range_of
from pipeline.base.specs import SPECS
from pipeline.runs.backfill import backfill
from pipeline.runs.one_instant import materialize
from pipeline.snapshots.files import read_snapshot, snapshot_path
from tests.dcmms import MICROSECOND, Dcmms, T, ago, asset_key, bucket

VIEW = "telemetry_features"
DAYS, HOURS = 10, 240
RATED = 500.0
SUFFIX = ". They pass: see docs/plausibility.md"


@pytest.fixture
def variant() -> str:
    return "n"


def turbine(hour: int) -> float:
    """Return the power of a healthy turbine (kW) an hour long, so many hours before T."""
    return 200 + 100 * math.sin(hour)


def solar(hour: int) -> float:
    """Return that of a healthy solar park, which is 0 for most of the day."""
    return max(0.0, RATED * math.sin((T.hour - hour - 8) % 24 / 24 * 2 * math.pi) - 100)


def add(dcmms: Dcmms, number: int, power: dict[int, float], rated: float | None = RATED) -> None:
    """Insert an asset with its power by the hours before T in which the buckets start."""
    asset = dcmms.asset(number, specifications=f'{{"ratedPowerKw": {rated}}}' if rated else "{}")
    dcmms.buckets(*[bucket(asset, "power_kw", ago(hours=hour), value) for hour, value in power.items()])


def by_hour(power, hours=range(1, HOURS + 1)) -> dict[int, float]:
    return {hour: power(hour) for hour in hours}


def told(dcmms: Dcmms, caplog: pytest.LogCaptureFixture, as_of: datetime = T) -> dict[str, list[int]]:
    """Return the numbers of the assets, at most three, that a run names for each quantity; its counts are the same."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        (result,) = materialize(dcmms.settings, as_of, [VIEW], dry_run=True)
    assert result.error is None
    assert list(result.implausible) == list(SPECS[VIEW].plausible)
    lines = [message for message in caplog.messages if "plausible" in message]
    found = {line.split()[1]: [n for n in range(1, 100) if str(asset_key(n)) in line] for line in lines}
    assert {name: min(count, 3) for name, count in result.implausible.items() if count} == {
        name: len(numbers) for name, numbers in found.items()
    }
    return found


def test_bounds_are_tags_of_the_definitions() -> None:
    spec = SPECS[VIEW]
    ranges = {name: str(likely) for name, likely in spec.plausible.items()}
    assert ranges == {
        "capacity_factor_7d": "[-0.2, 1.3]",
        "capacity_factor_30d": "[-0.2, 1.3]",
        "telemetry_coverage_7d": "[0.5, inf)",
        "power_variation_1d": "[1e-06, inf)",
    }
    fields = {field.name: field for field in [*spec.definition.features, *spec.watched]}
    assert all(range_of(fields[name], PLAUSIBLE) == likely for name, likely in spec.plausible.items())
    assert [name for name, field in fields.items() if has_plausible_range(field)] == list(ranges)
    # the quality gate does not look at them
    assert str(range_of(fields["capacity_factor_7d"])) == "(-inf, inf)"
    assert str(range_of(fields["telemetry_coverage_7d"])) == "[0, 1]"


def test_healthy_assets_raise_nothing(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    add(dcmms, 1, by_hour(turbine))
    add(dcmms, 2, by_hour(solar))
    # stopped, and one that stands still but draws a little
    add(dcmms, 3, by_hour(lambda _: 0.0))
    add(dcmms, 4, by_hour(turbine) | dict.fromkeys(range(1, 49), -1.5))
    # without a rated power there is no capacity factor; without power data nothing at all
    add(dcmms, 5, by_hour(lambda hour: 1000 * turbine(hour)), rated=None)
    silent = dcmms.asset(6)
    dcmms.buckets(*[bucket(silent, "voltage_v", ago(hours=hour), 690.0) for hour in range(1, 49)])
    # frozen until a day ago
    add(dcmms, 7, by_hour(turbine) | dict.fromkeys(range(24, 73), 123.4))
    for hours in (0, 12):
        assert told(dcmms, caplog, ago(hours=hours)) == {}


@pytest.mark.parametrize(
    ("power", "named"),
    [
        pytest.param(by_hour(lambda hour: -turbine(hour)), "capacity_factor_7d capacity_factor_30d", id="sign"),
        pytest.param(by_hour(lambda hour: 1000 * turbine(hour)), "capacity_factor_7d capacity_factor_30d", id="W"),
        pytest.param(
            by_hour(lambda hour: 1e6 - sum(map(turbine, range(hour)))),
            "capacity_factor_7d capacity_factor_30d",
            id="counter",
        ),
        pytest.param(by_hour(turbine) | dict.fromkeys(range(1, 25), 123.4), "power_variation_1d", id="frozen"),
        pytest.param(by_hour(solar) | dict.fromkeys(range(1, 25), 123.4), "power_variation_1d", id="frozen at night"),
        pytest.param(by_hour(turbine) | dict.fromkeys(range(1, 25), -50.0), "power_variation_1d", id="frozen below 0"),
        pytest.param(
            by_hour(turbine) | {hour: sum([50.1] * (50 + hour)) / (50 + hour) for hour in range(1, 25)},
            "power_variation_1d",
            id="frozen but for the rounding of averages",
        ),
        pytest.param(by_hour(turbine, range(1, HOURS, 3)), "telemetry_coverage_7d", id="gaps"),
        pytest.param(by_hour(turbine, range(86, HOURS)), "telemetry_coverage_7d", id="silent"),
        pytest.param(by_hour(turbine, range(169, HOURS)), "telemetry_coverage_7d", id="dead logger"),
    ],
)
def test_each_fault_is_told_and_harms_nobody(
    dcmms: Dcmms, caplog: pytest.LogCaptureFixture, power: dict[int, float], named: str
) -> None:
    add(dcmms, 1, by_hour(turbine))
    add(dcmms, 2, power)
    assert told(dcmms, caplog) == {name: [2] for name in named.split()}
    (result,) = materialize(dcmms.settings, T, [VIEW])
    assert (result.rows, result.rejected) == (2, 0)
    row = dcmms.row(VIEW, asset_key(2))
    snapshot = read_snapshot(snapshot_path(dcmms.settings.feature_data_dir, VIEW, T))
    assert snapshot.column_names == SPECS[VIEW].snapshot_schema.names
    kept = snapshot.to_pylist()[1]
    assert {name: kept[name] for name in row.keys() & kept.keys()} == {name: row[name] for name in row.keys() & kept}


def test_bounds_themselves_are_plausible(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    week = range(1, 169)
    varying = {hour: 0.5 * (-1) ** hour for hour in week}
    for number, factor in enumerate((-0.2, 1.3), start=1):
        add(dcmms, number, {hour: factor * RATED + varying[hour] for hour in week})
        add(dcmms, number + 2, {hour: (factor + math.copysign(0.001, factor)) * RATED + varying[hour] for hour in week})
    add(dcmms, 5, by_hour(turbine, range(1, 85)))
    add(dcmms, 6, by_hour(turbine, range(1, 84)))
    # half a day of one value is enough to tell, less is not
    add(dcmms, 7, by_hour(turbine, range(25, 169)) | dict.fromkeys(range(13, 25), 10.0))
    add(dcmms, 8, by_hour(turbine, range(25, 169)) | dict.fromkeys(range(14, 25), 10.0))
    # a bucket that reaches into the day before it is not of the day
    add(dcmms, 9, by_hour(turbine, range(25, 169)) | dict.fromkeys(range(1, 25), 10.0))
    expected = {
        "capacity_factor_7d": [3, 4],
        "capacity_factor_30d": [3, 4],
        "telemetry_coverage_7d": [6],
        "power_variation_1d": [7, 9],
    }
    assert told(dcmms, caplog) == expected
    half_past = told(dcmms, caplog, T + timedelta(minutes=30))
    assert half_past["power_variation_1d"] == [9]
    assert told(dcmms, caplog, T + MICROSECOND)["power_variation_1d"] == [9]


def test_a_frozen_value_is_one_whatever_site_copies_and_aliases(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    other = asset_key(99)
    frozen = by_hour(turbine) | dict.fromkeys(range(1, 25), 50.0)
    for number in (1, 2, 3, 4):
        add(dcmms, number, frozen)
    # moved within the day; as frozen elsewhere, and not
    dcmms.buckets(
        *[bucket(asset_key(1), "power_kw", ago(hours=hour), 50.0, count=61, site_id=other) for hour in (1, 2)]
    )
    dcmms.buckets(
        *[bucket(asset_key(2), "power_kw", ago(hours=hour), 51.0, count=61, site_id=other) for hour in (1, 2)]
    )
    # stored twice: the copy with fewer samples is none; another name of power does not count
    dcmms.buckets(*[bucket(asset_key(3), "power_kw", ago(hours=hour), 70.0, count=6) for hour in range(1, 25)])
    dcmms.buckets(*[bucket(asset_key(4), "active_power_kw", ago(hours=hour), 7.0 * hour) for hour in range(1, 25)])
    assert told(dcmms, caplog) == {"power_variation_1d": [1, 3, 4]}


def test_a_line_has_the_number_and_the_first_three(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1, 6):
        add(dcmms, number, by_hour(lambda hour: -turbine(hour)) | {1: 0.0, 2: 25.0 * number}, rated=100)
    with caplog.at_level(logging.WARNING):
        materialize(dcmms.settings, T, [VIEW])
    snapshot = read_snapshot(snapshot_path(dcmms.settings.feature_data_dir, VIEW, T))
    expected = []
    for name in ("capacity_factor_7d", "capacity_factor_30d"):
        values = zip(snapshot["asset_id"].to_pylist()[:3], snapshot[name].to_pylist(), strict=False)
        named = ", ".join(f"{asset} ({value:.3g})" for asset, value in values)
        where = "is not in the plausible range [-0.2, 1.3] in 5 rows of 5 assets"
        expected.append(f"telemetry_features: {name} {where}, e.g. {named}{SUFFIX}")
    assert str(asset_key(3)) in expected[0]
    assert [message for message in caplog.messages if "plausible" in message] == expected


def test_a_backfill_tells_of_all_instants_in_one_line(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    add(dcmms, 1, by_hour(turbine))
    add(dcmms, 2, by_hour(turbine) | dict.fromkeys(range(1, 49), 50.0))
    add(dcmms, 3, by_hour(turbine) | dict.fromkeys(range(25, 49), 60.0))
    with caplog.at_level(logging.WARNING):
        done = backfill(dcmms.settings, [ago(2), ago(1), ago(0.5), T], [VIEW])
    assert (done.written, done.rejected, done.set_aside) == (4, 0, 0)
    assert [message for message in caplog.messages if "plausible" in message] == [
        "telemetry_features: power_variation_1d is not in the plausible range [1e-06, inf) in 4 rows of 2 assets, "
        f"e.g. {asset_key(2)} (0), {asset_key(3)} (0){SUFFIX}"
    ]


def test_of_the_demo_fleet_only_silent_machines_are_told(dcmms: Dcmms, caplog: pytest.LogCaptureFixture) -> None:
    fleet = generate(days=100, end=T)
    load_postgres(dcmms.settings.database_url.get_secret_value(), fleet, "n", lambda *_: None)
    load_clickhouse(dcmms.settings.clickhouse_dsn.get_secret_value(), fleet, "demo", lambda *_: None)
    settings = dcmms.settings.model_copy(update={"clickhouse_database": "demo"})
    with caplog.at_level(logging.WARNING):
        (result,) = materialize(settings, T, [VIEW])
    cells = dcmms.clickhouse.query(
        """select toString(asset_id), uniqExactIf(time_bucket, count > 0 and isFinite(avg_value))
           from demo.telemetry_aggregates where metric_name like '%power%' and time_bucket >= {since:DateTime('UTC')}
           group by asset_id""",
        {"since": ago(7)},
    )
    reported = dict(cells.result_rows)
    snapshot = read_snapshot(snapshot_path(settings.feature_data_dir, VIEW, T)).to_pylist()
    measured = [row["asset_id"] for row in snapshot if row["telemetry_coverage_7d"] is not None]
    silent = [asset for asset in measured if reported.get(asset, 0) < 84]
    assert len(silent) == 1
    assert result.implausible == dict.fromkeys(SPECS[VIEW].plausible, 0) | {"telemetry_coverage_7d": 1}
    (line,) = [message for message in caplog.messages if "plausible" in message]
    assert f"in 1 rows of 1 assets, e.g. {silent[0]} (0)" in line

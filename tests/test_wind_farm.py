"""Real input: the features of the La Haute Borne turbines equal a computation from the CSV file itself.

Nothing of the loader or of the feature store takes part in the expectation: the file is read, its stamps are
understood and its doubled stamps resolved here, with pandas.
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest

from dev import wind
from dev.servers import free_port
from dev.stack import REPOSITORY, LocalStack

pytestmark = pytest.mark.timeout(240)

TURBINES = ["R80711", "R80721", "R80736", "R80790"]
RATED_KW = 2050
WIDTH = pd.Timedelta(minutes=10)
INSTANTS = {  # what is in the windows, and the lowest coverage of the 7 days
    "2014-06-15T00:00:00Z": ("a broken thermometer", 0.999),
    "2015-03-06T00:00:00Z": ("empty records, one turbine almost silent", 0.1994),
    "2015-04-02T00:00:00Z": ("doubled stamps of a clock change", 1.0),
    "2015-07-01T00:00:00Z": ("the demo's first instant", 1.0),
    "2016-01-01T00:00:00Z": ("the demo's second instant, the end of the data", 1.0),
}


@pytest.fixture(scope="module")
def wheel() -> Path:
    return wind.download()


@pytest.fixture(scope="module")
def records(wheel: Path) -> pd.DataFrame:
    """`power` and `temperature`; index: turbine and start of the bucket (naive UTC), each once."""
    with zipfile.ZipFile(wheel) as outer:
        archive = zipfile.ZipFile(io.BytesIO(outer.read("examples/data/la_haute_borne.zip")))
    with archive, archive.open("la-haute-borne-data-2014-2015.csv") as file:
        rows = pd.read_csv(file, usecols=["Wind_turbine_name", "Date_time", "P_avg", "Ot_avg"])
    stamp = rows["Date_time"].str
    rows["bucket"] = pd.to_datetime(stamp[:19]) - pd.to_timedelta(stamp[19:] + ":00")
    rows["temperature"] = rows["Ot_avg"].where(rows["Ot_avg"] > -90)
    rows["power"] = rows["P_avg"]
    # Every copy counts one sample: of two copies the larger value wins, and a value wins over none.
    return rows.groupby(["Wind_turbine_name", "bucket"])[["power", "temperature"]].max()


@pytest.fixture(scope="module")
def farm(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[wind.WindFarm]:
    stack = LocalStack(tmp_path_factory.mktemp("wind"), free_port(), free_port())
    stack.up()
    try:
        farm = wind.WindFarm(stack)
        farm.prepare()
        assert farm.load(wheel) == TURBINES
        yield farm
    finally:
        stack.down()


def _expected(records: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """The features of every turbine as of a naive UTC instant; index: name of the turbine."""
    power = records["power"].unstack("Wind_turbine_name")
    temperature = records["temperature"].unstack("Wind_turbine_name")

    def within(days: int, values: pd.DataFrame) -> pd.DataFrame:
        return values[(values.index >= as_of - pd.Timedelta(days=days)) & (values.index + WIDTH <= as_of)]

    features = {}
    for days in (7, 30):
        window = within(days, power)
        hours = window.count() / 6
        features[f"total_generation_kwh_{days}d"] = window.sum() / 6
        features[f"capacity_factor_{days}d"] = window.sum() / 6 / (RATED_KW * hours)
        features[f"rolling_avg_power_{days}d"] = window.mean()
        features[f"availability_{days}d"] = _availability(window, within(90, power), as_of)
    features["avg_daily_generation_kwh"] = features["total_generation_kwh_30d"] / (hours / 24)
    features["rolling_max_power_7d"] = within(7, power).max()
    features["rolling_avg_temperature_7d"] = within(7, temperature).mean()
    features["rolling_max_temperature_7d"] = within(7, temperature).max()
    features["telemetry_coverage_7d"] = within(7, power).count() / (7 * 24 * 6)
    return pd.DataFrame(features)


def _availability(window: pd.DataFrame, quarter: pd.DataFrame, as_of: pd.Timestamp) -> pd.Series:
    """Of the buckets in which at least half of the others (with data) produce: the share in which it does."""
    day = (as_of - quarter.index - pd.Timedelta(1, "us")) // pd.Timedelta(days=1)
    usual_peak = quarter.groupby(day).max().quantile(0.5, interpolation="lower")
    produces = (window > 0) & (window > usual_peak / 100)
    share = {}
    for turbine in window:
        others = window.columns.drop(turbine)
        known = window[others].notna().sum(axis="columns")
        productive = (known > 0) & (produces[others].sum(axis="columns") >= known / 2)
        share[turbine] = produces.loc[productive & window[turbine].notna(), turbine].mean()
    return pd.Series(share)


def _materialize(farm: wind.WindFarm, as_of: str) -> None:
    """Run the product as a person does; its output is in the message of a failure."""
    command = [sys.executable, "materialize_features.py", "--as-of", as_of, "--no-online"]
    done = subprocess.run(command, cwd=REPOSITORY, env=farm.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _snapshot(farm: wind.WindFarm, view: str, as_of: pd.Timestamp) -> pd.DataFrame:
    """The rows of one view's snapshot of that instant; index: name of the turbine."""
    rows = ds.dataset(farm.store.snapshots / view, partitioning="hive").to_table().to_pandas()
    rows = rows[rows["event_timestamp"] == as_of]
    names = {str(wind.asset_id(turbine)): turbine for turbine in TURBINES}
    return rows.set_index(rows["asset_id"].map(names)).sort_index()


def test_the_file_has_the_dirt_that_the_loader_must_carry_over(wheel: Path) -> None:
    scada, turbines = wind.read_files(wheel)
    assert sorted(turbines["Wind_turbine_name"]) == TURBINES
    buckets = wind.to_buckets(scada).to_pandas()
    key = ["asset_id", "metric_name", "time_bucket"]

    power, temperature = (buckets[buckets["metric_name"] == name] for name in ("power_kw", "temperature_c"))
    assert len(power) == len(scada) == 4 * 365 * 2 * 144
    assert len(scada) - len(temperature) == 34  # the broken thermometer
    assert temperature["avg_value"].min() == pytest.approx(scada["Ot_avg"][scada["Ot_avg"] > -90].min())
    assert power.duplicated(key).sum() == 4 * 12  # 2 clock changes in spring, 6 records
    grid = pd.date_range("2014-01-01", "2015-12-31T23:50", freq=WIDTH, tz="UTC")
    assert len(grid) - power["time_bucket"].nunique() == 12  # 2 clock changes in autumn, 6 records

    empty = power[power["count"] == 0]
    assert len(empty) == scada["P_avg"].isna().sum() == 2569
    assert empty["avg_value"].isna().all()
    assert (empty["sum_value"] == 0).all()
    full = power[power["count"] == 1]
    for column in ("min_value", "max_value", "sum_value", "p50_value", "p95_value", "p99_value"):
        np.testing.assert_array_equal(full[column], full["avg_value"])


def test_no_download_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(click.ClickException, match=r"pip cannot download openoa==3\.2") as caught:
        wind.download(tmp_path)
    assert len(caught.value.message.splitlines()) == 1


def test_a_damaged_wheel_is_one_clear_line(tmp_path: Path) -> None:
    wheel = tmp_path / "openoa-3.2-py3-none-any.whl"
    wheel.write_bytes(b"half a file")
    with pytest.raises(click.ClickException, match=r"openoa-3\.2.* is damaged .* delete it"):
        wind.read_files(wind.download(tmp_path))


@pytest.mark.parametrize("instant", INSTANTS, ids=[why for why, _ in INSTANTS.values()])
def test_features_equal_a_computation_from_the_file(farm: wind.WindFarm, records: pd.DataFrame, instant: str) -> None:
    _materialize(farm, instant)
    as_of = pd.Timestamp(instant)
    expected = _expected(records, as_of.tz_localize(None))
    assert expected.notna().all(axis=None)
    assert expected["telemetry_coverage_7d"].min() == pytest.approx(INSTANTS[instant][1], abs=1e-4)

    telemetry = _snapshot(farm, "telemetry_features", as_of)
    assert list(telemetry.index) == TURBINES
    for feature in expected:
        np.testing.assert_allclose(telemetry[feature], expected[feature], rtol=1e-6, err_msg=feature)
    unreported = [name for name in telemetry if "voltage" in name or "current" in name or "frequency" in name]
    assert len(unreported) == 8
    assert telemetry[unreported].isna().all(axis=None)

    assets = _snapshot(farm, "asset_features", as_of)
    assert list(assets.index) == TURBINES
    assert set(assets["installed_capacity_kw"]) == {RATED_KW}
    assert set(zip(assets["manufacturer"], assets["model"], strict=True)) == {("Senvion", "MM82")}
    assert (assets["total_work_orders"] == 0).all()

"""The quality gate: each rule broken by itself, and what becomes of a view that breaks one."""

import os
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis as redis_client
from click.testing import CliRunner, Result
from feast import Field
from feast.types import Float32, Float64, Int32, String
from pandera.config import ValidationDepth, config_context

from dev.servers import PostgresServer, RedisServer
from features.fields import COMES_AND_GOES, NEVER, UNKNOWN, Range, feature, range_of
from materialize_features import cli
from pipeline.base.results import ViewResult
from pipeline.base.specs import VIEWS, snapshot_schema
from pipeline.commands.console import Console
from pipeline.snapshots.files import snapshot_path, write_snapshot
from pipeline.snapshots.quality import BrokenRule, broken_rows, losses, wrong_assets
from pipeline.snapshots.quarantine import in_words, quarantine_path, rejected_rows
from tests.dcmms import Dcmms, T, ago, asset_key, bucket
from tests.stores import apply_definitions, online_values, write_feature_store_yaml

ROWS = 20
FEATURES = [(view, field) for view in VIEWS.values() for field in view.features]
NUMBERS = [(view.name, field) for view, field in FEATURES if field.dtype != String]
WORK_ORDERS = "work_order_features"
DAY = timedelta(days=1)
EARLIER = ("--as-of", "2026-03-11T09:00:00Z")


def keys(rows: int = ROWS) -> list[str]:
    return [str(asset_key(number)) for number in range(rows)]


def sound(view: str, rows: int = ROWS, **columns: list[Any]) -> pa.Table:
    """Return a snapshot of `view` that breaks no rule, all its numbers 1, but for the `columns` named."""
    plain = {"asset_id": keys(rows), "event_timestamp": [T] * rows, "created": [T] * rows}
    values = {
        name: columns.get(name, plain.get(name, ["x" if kind == pa.string() else 1] * rows))
        for name, kind in ((field.name, field.type) for field in snapshot_schema(view))
    }
    schema = pa.schema([field.with_nullable(True) for field in snapshot_schema(view)])
    return pa.table(values, schema=schema)


def with_value(view: str, name: str, value: Any) -> pa.Table:
    """Return a sound snapshot whose fourth row has `value` in the column `name`."""
    column = sound(view)[name].to_pylist()
    return sound(view, **{name: [*column[:3], value, *column[4:]]})


def texts(broken: list[BrokenRule]) -> list[str]:
    return [rule.text for rule in broken]


def ids(parameters: list[tuple[Any, ...]]) -> list[str]:
    """Return what tells test cases apart that start with a view and a field."""
    return [f"{view}:{field.name}" + "".join(f":{more}" for more in rest) for view, field, *rest in parameters]


# the tags ---------------------------------------------------------------------------------------------------------


def test_range_is_what_the_tags_say() -> None:
    def allowed(unit: str, **bounds: float) -> Range:
        return range_of(feature("x_7d", Float32, unit, "Something", **bounds))

    assert str(allowed("kW")) == "(-inf, inf)"
    assert str(allowed("kW", above=0)) == "(0, inf)"
    assert (
        str(allowed("count")) == str(allowed("days")) == str(allowed("hours")) == str(allowed("months")) == "[0, inf)"
    )
    assert str(allowed("percent")) == str(allowed("points of 100")) == "[0, 100]"
    assert allowed("hours", at_most=2160) == Range(0, 2160, True)


def test_null_policy_of_the_contract() -> None:
    policies = {policy: {f.name for _, f in FEATURES if f.tags["null"] == policy} for policy in (NEVER, COMES_AND_GOES)}
    counts = {f.name for _, f in FEATURES if f.tags["unit"] == "count"} - {"anomaly_count_7d", "anomaly_count_30d"}
    text = {"tenant_id", "site_id", "asset_type"}
    assert policies[NEVER] == counts | text | {"health_score", "hours_since_last_telemetry"}
    assert policies[COMES_AND_GOES] == {
        "asset_status",
        "avg_wo_completion_hours_30d",
        "wo_completion_rate_30d",
        "wo_count_trend_30d_vs_90d",
        "corrective_wo_ratio_30d",
    }
    assert {f.tags["null"] for _, f in FEATURES} == {NEVER, COMES_AND_GOES, UNKNOWN}


# rows by themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_sound_snapshots_pass(view: str) -> None:
    assert broken_rows(view, sound(view), [T]) == []
    assert broken_rows(view, sound(view, rows=0), [T]) == []
    unknown = {field.name: [None] * ROWS for field in VIEWS[view].features if field.tags["null"] != NEVER}
    assert broken_rows(view, sound(view, **unknown), [T]) == []


@pytest.mark.parametrize("view", VIEWS)
def test_ends_of_the_ranges_pass(view: str) -> None:
    ends = {}
    for field in VIEWS[view].features:
        if field.dtype != String:
            lowest, highest, with_lowest = range_of(field)
            lowest = lowest if with_lowest else just_above(field, lowest) if np.isfinite(lowest) else 1
            ends[field.name] = [lowest, highest if np.isfinite(highest) else 1] * (ROWS // 2)
    assert broken_rows(view, sound(view, **ends), [T]) == []


def just_above(field: Field, value: float, towards: float = np.inf) -> float:
    """Return the next number after `value` in the type of a feature."""
    if field.dtype == Int32:
        return value + np.sign(towards)
    return float(np.nextafter(np.asarray(value, {Float32: np.float32, Float64: np.float64}[field.dtype]), towards))


def outside() -> list[tuple[str, Field, float]]:
    """Return, for each number, the nearest values beyond its bounds, and what is no number at all."""
    cases = []
    for view, field in NUMBERS:
        lowest, highest, with_lowest = range_of(field)
        if np.isfinite(lowest):
            cases.append((view, field, just_above(field, lowest, -np.inf) if with_lowest else lowest))
        if np.isfinite(highest):
            cases.append((view, field, just_above(field, highest)))
        if field.dtype != Int32:
            cases += [(view, field, value) for value in (np.nan, np.inf, -np.inf)]
    return cases


@pytest.mark.parametrize(("view", "field", "value"), outside(), ids=ids(outside()))
def test_a_value_outside_its_range_is_found(view: str, field: Field, value: float) -> None:
    (rule,) = broken_rows(view, with_value(view, field.name, value), [T])
    assert rule.text == f"{field.name} is not in {range_of(field)}"
    assert np.flatnonzero(rule.rows).tolist() == [3]
    assert not rule.is_loss


@pytest.mark.parametrize(
    ("view", "field"), [(v.name, f) for v, f in FEATURES], ids=ids([(v.name, f) for v, f in FEATURES])
)
def test_null_is_found_where_it_never_is(view: str, field: Field) -> None:
    broken = broken_rows(view, with_value(view, field.name, None), [T])
    expected = [(f"{field.name} is NULL", [3])] if field.tags["null"] == NEVER else []
    assert [(rule.text, np.flatnonzero(rule.rows).tolist()) for rule in broken] == expected


@pytest.mark.parametrize(
    ("column", "value", "text", "rows"),
    [
        ("asset_id", None, "asset_id is NULL", [3]),
        ("asset_id", keys()[0], "asset_id is not unique", [0, 3]),
        ("asset_id", str(UUID(int=0xABC)).upper(), "asset_id is no lower-case uuid", [3]),
        ("asset_id", "WTG-03", "asset_id is no lower-case uuid", [3]),
        ("asset_id", keys()[3] + "\n", "asset_id is no lower-case uuid", [3]),
        ("event_timestamp", None, "event_timestamp is NULL", [3]),
        ("event_timestamp", T - timedelta(microseconds=1), "event_timestamp is not the as-of instant", [3]),
        ("created", None, "created is NULL", [3]),
    ],
)
def test_key_and_times(column: str, value: Any, text: str, rows: list[int]) -> None:
    (rule,) = broken_rows(WORK_ORDERS, with_value(WORK_ORDERS, column, value), [T])
    assert (rule.text, np.flatnonzero(rule.rows).tolist()) == (text, rows)


def test_rows_of_several_instants_are_keyed_by_both() -> None:
    instants = [T, T - DAY]
    together = pa.concat_tables(sound(WORK_ORDERS, event_timestamp=[instant] * ROWS) for instant in instants)
    assert broken_rows(WORK_ORDERS, together, instants) == []
    assert texts(broken_rows(WORK_ORDERS, together, [T])) == ["event_timestamp is not the as-of instant"]


@pytest.mark.parametrize("view", VIEWS)
def test_other_columns_than_those_of_the_definition(view: str) -> None:
    table = sound(view)
    name = table.column_names[-1]
    renamed = table.rename_columns([*table.column_names[:-1], "other"])
    tables = {
        "missing": table.drop_columns([name]),
        "more": table.append_column("more", table[name]),
        "renamed": renamed,
        "other order": table.select(table.column_names[::-1]),
        "text": table.set_column(table.num_columns - 1, name, pa.array(["1"] * ROWS)),
        "other width": table.set_column(1, "event_timestamp", table["event_timestamp"].cast(pa.timestamp("ns", "UTC"))),
    }
    if table.schema.field(name).type == pa.string():
        tables["text"] = table.set_column(table.num_columns - 1, name, pa.array([1] * ROWS))
    for kind, wrong in tables.items():
        (rule,) = broken_rows(view, wrong, [T])
        assert rule.text.startswith("the columns are not those of the definition: "), kind
        assert rule.rows.all()
        assert rejected_rows(wrong, [rule]).num_rows == ROWS


def test_the_library_cannot_be_told_to_let_everything_pass() -> None:
    with config_context(validation_enabled=False):  # as PANDERA_VALIDATION_ENABLED does
        assert broken_rows(WORK_ORDERS, with_value(WORK_ORDERS, "wo_count_7d", -1), [T])
    with config_context(validation_depth=ValidationDepth.SCHEMA_ONLY):
        assert broken_rows(WORK_ORDERS, with_value(WORK_ORDERS, "wo_count_7d", -1), [T])


# the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_assets_are_those_that_exist(view: str) -> None:
    table = sound(view)
    assert wrong_assets(view, table, pa.chunked_array([keys()])) == []
    (rule,) = wrong_assets(view, table, pa.chunked_array([keys(ROWS - 1)]))
    assert (rule.text, np.flatnonzero(rule.rows).tolist()) == ("asset_id is none of asset_features", [ROWS - 1])
    absent = [rule.missing.to_pylist() for rule in wrong_assets(view, table, pa.chunked_array([keys(ROWS + 1)]))]
    # an asset need not have telemetry
    assert absent == ([] if view == "telemetry_features" else [[str(asset_key(ROWS))]])


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with a sound snapshot of each view of an hour ago, one of T itself, and a later one."""
    for view in VIEWS:
        write_snapshot(sound(view), snapshot_path(tmp_path, view, T - timedelta(hours=1)))
        for other in (T - DAY, T, T + DAY):
            write_snapshot(sound(view, rows=1), snapshot_path(tmp_path, view, other))
    return tmp_path


@pytest.mark.parametrize(
    ("rows", "max_drop", "is_loss"),
    [
        (20, 0.2, False),
        (16, 0.2, False),
        (15, 0.2, True),
        (1, 0.2, True),
        (15, 0.25, False),
        (18, 0, False),
        (17, 0, True),
    ],
)
def test_rows_against_the_previous_snapshot(data_dir: Path, rows: int, max_drop: float, is_loss: bool) -> None:
    broken = losses(WORK_ORDERS, sound(WORK_ORDERS, rows), data_dir, T, max_drop)
    assert [(rule.is_loss, rule.missing.to_pylist()) for rule in broken] == ([(True, keys()[rows:])] if is_loss else [])


def test_more_rows_and_a_first_snapshot_lose_nothing(data_dir: Path) -> None:
    assert losses(WORK_ORDERS, sound(WORK_ORDERS, rows=100), data_dir, T, 0.2) == []
    assert losses(WORK_ORDERS, sound(WORK_ORDERS, rows=1), data_dir, T - DAY, 0.2) == []
    assert losses(WORK_ORDERS, sound(WORK_ORDERS, rows=1), data_dir / "elsewhere", T, 0.2) == []


def test_an_empty_snapshot_before_loses_nothing(tmp_path: Path) -> None:
    write_snapshot(sound(WORK_ORDERS, rows=0), snapshot_path(tmp_path, WORK_ORDERS, T - DAY))
    unknown = {"days_since_last_wo": [None] * ROWS}
    assert losses(WORK_ORDERS, sound(WORK_ORDERS, **unknown), tmp_path, T, 0.2) == []


def test_a_drop_from_three_assets_to_two_is_none(tmp_path: Path) -> None:
    for before, now, is_loss in ((3, 2, False), (3, 1, False), (4, 1, True)):
        write_snapshot(sound(WORK_ORDERS, rows=before), snapshot_path(tmp_path, WORK_ORDERS, T - DAY))
        assert bool(losses(WORK_ORDERS, sound(WORK_ORDERS, rows=now), tmp_path, T, 0.2)) == is_loss


WATCHED = [(view.name, field) for view, field in FEATURES if field.tags["null"] == UNKNOWN]


@pytest.mark.parametrize(("view", "field"), WATCHED, ids=ids(WATCHED))
def test_known_values_against_the_previous_snapshot(data_dir: Path, view: str, field: Field) -> None:
    known = sound(view)[field.name].to_pylist()
    few, many = ({field.name: [None] * nulls + known[nulls:]} for nulls in (4, 5))
    assert losses(view, sound(view, **few), data_dir, T, 0.2) == []
    (rule,) = losses(view, sound(view, **many), data_dir, T, 0.2)
    assert rule.text.startswith(f"{field.name} is NULL (0% of the snapshot 20260311T090000Z)")
    assert np.flatnonzero(rule.rows).tolist() == [0, 1, 2, 3, 4]
    assert rule.is_loss


def test_what_comes_and_goes_may_go(data_dir: Path) -> None:
    for view, field in FEATURES:
        if field.tags["null"] == COMES_AND_GOES:
            assert losses(view.name, sound(view.name, **{field.name: [None] * ROWS}), data_dir, T, 0.2) == []


def test_null_rates_compare_shares_not_numbers(tmp_path: Path) -> None:
    name = "days_since_last_wo"
    write_snapshot(
        sound(WORK_ORDERS, 10, **{name: [None] * 7 + [1] * 3}), snapshot_path(tmp_path, WORK_ORDERS, T - DAY)
    )
    # 0.9 - 0.7 is more than 0.2 to a computer
    assert losses(WORK_ORDERS, sound(WORK_ORDERS, 10, **{name: [None] * 9 + [1]}), tmp_path, T, 0.2) == []
    # 18 of 20 is twice as many, at the same rate
    assert losses(WORK_ORDERS, sound(WORK_ORDERS, 20, **{name: [None] * 18 + [1] * 2}), tmp_path, T, 0.2) == []
    assert losses(WORK_ORDERS, sound(WORK_ORDERS, 20, **{name: [None] * 19 + [1]}), tmp_path, T, 0.2)


def test_a_damaged_or_older_kind_of_snapshot_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = snapshot_path(tmp_path, WORK_ORDERS, T - DAY)
    name = "days_since_last_wo"
    write_snapshot(sound(WORK_ORDERS).drop_columns([name]), path)
    now = sound(WORK_ORDERS, **{name: [None] * ROWS})
    assert losses(WORK_ORDERS, now, tmp_path, T, 0.2) == []
    assert caplog.messages == []
    path.write_bytes(path.read_bytes()[:100])
    assert losses(WORK_ORDERS, now, tmp_path, T, 0.2) == []
    assert f"{path}" in caplog.text


# the rejected rows ------------------------------------------------------------------------------------------------


def test_rejected_rows_carry_their_reasons(tmp_path: Path) -> None:
    table = sound(WORK_ORDERS, wo_count_7d=[-1, 1, 1, -2], wo_count_30d=[None, 1, None, 1], rows=4)
    broken = broken_rows(WORK_ORDERS, table, [T])
    rejected = rejected_rows(table, broken)
    assert rejected.column_names == [*table.column_names, "reason"]
    assert rejected.drop_columns(["reason"]).equals(table.take([0, 2, 3]))
    assert rejected["reason"].to_pylist() == [
        "wo_count_7d is not in [0, inf); wo_count_30d is NULL",
        "wo_count_30d is NULL",
        "wo_count_7d is not in [0, inf)",
    ]
    path = quarantine_path(tmp_path, WORK_ORDERS, T)
    assert in_words(table, broken, path) == (
        f"rejected by the quality gate: wo_count_7d is not in [0, inf) in 2 of 4 rows, e.g. asset {keys()[0]} (rules "
        f"broken besides: 1). Rows and reasons: {path}. Correct the source and run again."
    )


def test_missing_assets_are_rejected_by_their_keys(data_dir: Path) -> None:
    table = sound(WORK_ORDERS, rows=15)
    rejected = rejected_rows(table, losses(WORK_ORDERS, table, data_dir, T, 0.2))
    assert rejected["asset_id"].to_pylist() == keys()[15:]
    assert set(rejected["reason"].to_pylist()) == {
        "15 rows where the snapshot 20260311T090000Z has 20: assets are gone"
    }
    assert rejected["wo_count_7d"].null_count == 5


# runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture(scope="module")
def store(postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature_store.yaml whose registry knows the definitions."""
    path = write_feature_store_yaml(tmp_path_factory.mktemp("store"), postgres, redis, "feast_quality")
    apply_definitions(path)
    return path


@pytest.fixture
def fleet(dcmms: Dcmms, store: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Dcmms:
    """Six assets with a day of telemetry, nothing online yet; the settings are in the environment."""
    settings = dcmms.settings
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", "/nonexistent")
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("CLICKHOUSE_DSN", settings.clickhouse_dsn.get_secret_value())
    monkeypatch.setenv("FEATURE_DATA_DIR", str(settings.feature_data_dir))
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(store))
    for number in range(1, 7):
        asset = dcmms.asset(number)
        dcmms.buckets(*[bucket(asset, "power_kw", ago(hours=hour), anomaly_count=2) for hour in range(1, 25)])
    with closing(redis_client.Redis(port=redis.port)) as client:
        client.flushall()
    return dcmms


@pytest.fixture
def three_of_six(fleet: Dcmms) -> Dcmms:
    """The fleet after a run over its work orders, an hour ago, and the end of half of its assets."""
    assert invoke(*EARLIER, "--view", WORK_ORDERS, "--no-online").exit_code == 0
    with fleet.postgres.cursor() as cursor:
        cursor.execute(
            "update assets set status = 'decommissioned', updated_at = %s where id = any(%s)",
            (ago(hours=0.5).replace(tzinfo=None), [asset_key(number) for number in (1, 2, 3)]),
        )
    fleet.postgres.commit()
    return fleet


def invoke(*arguments: str) -> Result:
    """Run the command in this process, as of T unless it says otherwise."""
    default = () if "--as-of" in arguments else ("run", "--as-of", f"{T:%Y-%m-%dT%H:%M:%SZ}")
    return CliRunner().invoke(cli, [*default, *arguments])


def snapshots(fleet: Dcmms) -> dict[str, bytes]:
    """Return all files below the data directory."""
    root = fleet.settings.feature_data_dir
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def written(view: str) -> str:
    return f"{view}/snapshot_date=2026-03-11/20260311T100000Z.parquet"


def test_a_score_out_of_range_holds_back_its_view_alone(fleet: Dcmms, store: Path) -> None:
    assert invoke(*EARLIER).exit_code == 0
    before = snapshots(fleet)
    fleet.score(asset_key(2), ago(hours=0.5), 150)
    fleet.work_order(asset_key(2), ago(hours=0.5))
    result = invoke()
    assert result.exit_code == 2
    quarantined = "quarantine/asset_features/20260311T100000Z.parquet"
    after = snapshots(fleet)
    assert before.items() <= after.items()
    assert sorted(after.keys() - before.keys()) == [quarantined, written("telemetry_features"), written(WORK_ORDERS)]

    path = fleet.settings.feature_data_dir / quarantined
    (error,) = [line for line in result.stderr.splitlines() if " ERROR " in line]
    assert error.split(" ERROR ")[1] == (
        "asset_features: rejected by the quality gate: health_score is not in [0, 100] in 1 of 6 rows, e.g. asset "
        f"{asset_key(2)}. Rows and reasons: {path}. Correct the source and run again."
    )
    (row,) = pq.read_table(path).to_pylist()
    assert (row["asset_id"], row["health_score"], row["reason"]) == (
        str(asset_key(2)),
        150,
        "health_score is not in [0, 100]",
    )
    line = next(line.split() for line in result.stdout.splitlines() if "asset_features" in line)
    assert (line[:3], line[-1]) == (["asset_features", "6", "1"], "rejected")

    features = ["asset_features:total_work_orders", "asset_features:health_score", "work_order_features:wo_count_7d"]
    values = online_values(store, features, [asset_key(2)])
    assert (values["total_work_orders"], values["wo_count_7d"]) == ([0], [1])
    assert values["health_score"][0] <= 100

    fleet.score(asset_key(2), ago(hours=0.25), 99)
    assert invoke("--view", "asset_features").exit_code == 0
    assert online_values(store, features[:2], [asset_key(2)]) == {"total_work_orders": [1], "health_score": [99]}


def test_rejected_telemetry_still_counts_in_the_health_score(fleet: Dcmms, store: Path) -> None:
    fleet.buckets(bucket(asset_key(1), "voltage_v", ago(hours=2), max_value=1e300, anomaly_count=500))
    result = invoke()
    assert result.exit_code == 2
    assert "rolling_max_voltage_7d is not in (-inf, inf) in 1 of 6 rows" in result.stderr
    assert written("telemetry_features") not in snapshots(fleet)
    values = online_values(store, ["asset_features:health_score"], [asset_key(1), asset_key(2)])["health_score"]
    # 500 anomalies are worth 10 of 100 points, 48 of them 12
    assert values[1] - values[0] == pytest.approx(0.3 * 2 / 0.9, abs=1e-4)


def test_a_drop_is_refused_until_it_is_accepted(three_of_six: Dcmms, tmp_path: Path) -> None:
    before = snapshots(three_of_six)
    metrics = tmp_path / "metrics.prom"
    result = invoke("--view", WORK_ORDERS, "--metrics-file", str(metrics))
    assert result.exit_code == 2
    assert "feature_store_run_exit_code 2.0" in metrics.read_text()
    assert "3 rows where the snapshot 20260311T090000Z has 6: assets are gone: 3, e.g. " in result.stderr
    assert "If the change is planned, run again with --accept-drop." in result.stderr
    quarantined = "quarantine/work_order_features/20260311T100000Z.parquet"
    after = snapshots(three_of_six)
    assert after.keys() - before.keys() == {quarantined}
    rejected = pq.read_table(three_of_six.settings.feature_data_dir / quarantined)
    assert rejected["asset_id"].to_pylist() == [str(asset_key(number)) for number in (1, 2, 3)]

    assert invoke("--view", WORK_ORDERS, "--accept-drop").exit_code == 0
    assert written(WORK_ORDERS) in snapshots(three_of_six)
    # the accepted snapshot is what the next ones are compared with
    later = f"{T + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
    assert invoke("run", "--as-of", later, "--view", WORK_ORDERS).exit_code == 0


def test_share_of_a_drop_is_a_setting(three_of_six: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUALITY_MAX_DROP", "0.5")
    assert invoke("--view", WORK_ORDERS, "--no-online").exit_code == 0


def test_dry_run_asks_the_gate_and_writes_nothing(three_of_six: Dcmms) -> None:
    before = snapshots(three_of_six)
    result = invoke("--view", WORK_ORDERS, "--dry-run")
    assert result.exit_code == 2
    assert "assets are gone" in result.stderr
    assert "quarantine" not in result.stderr
    assert snapshots(three_of_six) == before
    assert invoke("--view", WORK_ORDERS, "--dry-run", "--accept-drop").exit_code == 0


def test_a_failure_is_worse_than_a_rejection(three_of_six: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_DSN", "chdb:///nonexistent")
    result = invoke("--view", WORK_ORDERS, "--view", "telemetry_features")
    assert result.exit_code == 1
    assert "assets are gone" in result.stderr


def test_quarantine_that_cannot_be_written_is_a_failure(three_of_six: Dcmms) -> None:
    (three_of_six.settings.feature_data_dir / "quarantine").write_text("")
    before = snapshots(three_of_six)
    result = invoke("--view", WORK_ORDERS)
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert snapshots(three_of_six) == before


def test_backfill_leaves_out_what_breaks_a_rule(fleet: Dcmms) -> None:
    fleet.score(asset_key(2), ago(9.5), 101)
    root = fleet.settings.feature_data_dir
    arguments = ["backfill", "--start", "2026-02-27", "--end", "2026-03-11", "--view", "asset_features"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    rejected = {path.stem for path in root.glob("quarantine/asset_features/*.parquet")}
    # recorded at 22:00 on 1 March, it counts for 7 d
    assert rejected == {f"202603{day:02}T000000Z" for day in range(2, 9)}
    kept = {path.stem for path in root.glob("asset_features/*/*T000000Z.parquet")}
    assert kept == {"20260227T000000Z", "20260228T000000Z", "20260301T000000Z", "20260309T000000Z", "20260310T000000Z"}
    assert "asset_features as of 2026-03-02T00:00:00+00:00: rejected by the quality gate: health_score" in result.stderr


def test_table_has_a_column_of_rejected_rows_only_if_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(list(VIEWS), quiet=False)
    done = ViewResult(WORK_ORDERS, rows=3, bytes=100)
    console.summary([done], T)
    assert "rejected" not in capsys.readouterr().out
    console.summary([done, ViewResult("asset_features", rows=3, rejected=2, error="...")], T)
    printed = capsys.readouterr().out.splitlines()
    assert "rejected" in printed[2]
    assert printed[-2].split()[:3] == ["asset_features", "3", "2"] or printed[-1].split()[:3] == [
        "asset_features",
        "3",
        "2",
    ]


@pytest.mark.parametrize("arguments", [["run", "--unknown"], ["--unknown"], ["unknown"], ["backfill"], ["run", "more"]])
def test_wrong_options_have_an_exit_code_of_their_own(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == os.EX_USAGE == 64
    assert "Usage: " in result.stderr

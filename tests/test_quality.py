"""The quality gate: each rule broken by itself, and what becomes of a view that breaks one."""

import json
import os
from contextlib import closing
from datetime import datetime, timedelta
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

from dev.servers import RedisServer
from features.fields import AT_T, COMES_AND_GOES, NEVER, UNKNOWN, Range, feature, range_of
from materialize_features import cli
from pipeline.base.results import ViewResult
from pipeline.base.specs import SPECS, VIEWS, snapshot_schema
from pipeline.commands.console import Console
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Ledger
from pipeline.snapshots.files import read_snapshot, set_aside_in, snapshot_path, with_set_aside, write_snapshot
from pipeline.snapshots.quality import BrokenRule, broken_rows, losses, split, wrong_assets
from pipeline.snapshots.quarantine import few_in_words, in_words, quarantine_path, rejected_rows
from tests.dcmms import Dcmms, T, ago, asset_key, bucket
from tests.stores import apply_definitions, is_written, online_values, use_settings

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


def test_signed_feature_has_the_bounds_that_it_states() -> None:
    def allowed(**bounds: float) -> str:
        return str(range_of(feature("warranty_days_left", Int32, "days", "Days", AT_T, signed=True, **bounds)))

    assert allowed() == "(-inf, inf)"
    assert allowed(at_least=-7300, at_most=7300) == "[-7300, 7300]"


def test_null_policy_of_the_contract() -> None:
    policies = {policy: {f.name for _, f in FEATURES if f.tags["null"] == policy} for policy in (NEVER, COMES_AND_GOES)}
    counts = {f.name for _, f in FEATURES if f.tags["unit"] == "count"} - {
        f"anomaly_count_{days}d" for days in (7, 30, 90)
    }
    text = {"tenant_id", "site_id", "asset_type"}
    risks = {"alarm_rule_risk_1d", "alarm_rule_risk_7d"}
    assert policies[NEVER] == counts | text | risks | {"health_score", "hours_since_last_telemetry"}
    assert policies[COMES_AND_GOES] == {
        "asset_status",
        "avg_wo_completion_hours_30d",
        "wo_completion_rate_30d",
        "wo_count_trend_30d_vs_90d",
        "corrective_wo_ratio_30d",
        "days_since_oldest_open_alarm",
    }
    assert {f.tags["null"] for _, f in FEATURES} == {NEVER, COMES_AND_GOES, UNKNOWN}


# rows by themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_sound_snapshots_pass(view: str) -> None:
    assert broken_rows(view, sound(view), T) == []
    assert broken_rows(view, sound(view, rows=0), T) == []
    unknown = {field.name: [None] * ROWS for field in VIEWS[view].features if field.tags["null"] != NEVER}
    assert broken_rows(view, sound(view, **unknown), T) == []


@pytest.mark.parametrize("view", VIEWS)
def test_ends_of_the_ranges_pass(view: str) -> None:
    ends = {}
    for field in VIEWS[view].features:
        if field.dtype != String:
            lowest, highest, with_lowest = range_of(field)
            lowest = lowest if with_lowest else just_above(field, lowest) if np.isfinite(lowest) else 1
            ends[field.name] = [lowest, highest if np.isfinite(highest) else 1] * (ROWS // 2)
    assert broken_rows(view, sound(view, **ends), T) == []


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
    (rule,) = broken_rows(view, with_value(view, field.name, value), T)
    assert rule.text == f"{field.name} is not in {range_of(field)}"
    assert np.flatnonzero(rule.rows).tolist() == [3]
    assert not rule.is_loss


@pytest.mark.parametrize(
    ("view", "field"), [(v.name, f) for v, f in FEATURES], ids=ids([(v.name, f) for v, f in FEATURES])
)
def test_null_is_found_where_it_never_is(view: str, field: Field) -> None:
    broken = broken_rows(view, with_value(view, field.name, None), T)
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
    (rule,) = broken_rows(WORK_ORDERS, with_value(WORK_ORDERS, column, value), T)
    assert (rule.text, np.flatnonzero(rule.rows).tolist()) == (text, rows)


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
    last = f"{name} {table.schema.field(name).type}"
    says = {
        "missing": f"nothing in the place of {last}",
        "more": f"{last.replace(name, 'more')} in the place of nothing",
        "renamed": f"{last.replace(name, 'other')} in the place of {last}",
        "other order": f"{last} in the place of asset_id string",
        "text": f"{name} {tables['text'].schema.field(name).type} in the place of {last}",
        "other width": "event_timestamp timestamp[ns, tz=UTC] in the place of event_timestamp timestamp[us, tz=UTC]",
    }
    for kind, wrong in tables.items():
        (rule,) = broken_rows(view, wrong, T)
        assert rule.text == f"the columns are not those of the definition: {says[kind]}"
        assert rule.rows.all()
        assert rejected_rows(wrong, [rule]).num_rows == ROWS


@pytest.mark.parametrize(
    ("rows", "odd", "max_rejected", "goes_on"),
    [
        (6, 3, 0.01, True),
        (6, 4, 0.01, False),
        (6, 4, 0.7, True),
        (4, 3, 0, True),
        (3, 3, 1, False),  # nothing would be left
        (100, 7, 0.07, True),
        (100, 8, 0.07, False),
    ],
)
def test_few_odd_rows_are_set_aside(rows: int, odd: int, max_rejected: float, goes_on: bool) -> None:
    table = sound(WORK_ORDERS, rows, wo_count_7d=[*[1] * (rows - odd), *[-1] * odd])
    kept, broken = split(WORK_ORDERS, table, T, max_rejected)
    assert texts(broken) == ["wo_count_7d is not in [0, inf)"]
    if not goes_on:
        assert kept is None
        return
    assert kept.equals(table.slice(0, rows - odd))
    assert set_aside_in(kept.schema).to_pylist() == keys(rows)[rows - odd :]


def test_sound_rows_go_on_as_they_are() -> None:
    table = sound(WORK_ORDERS)
    assert split(WORK_ORDERS, table, T, 0) == (table, [])
    assert set_aside_in(table.schema).to_pylist() == []


@pytest.mark.parametrize(
    ("column", "value", "set_aside"),
    [
        ("asset_id", None, []),
        ("asset_id", keys()[0], keys()[:1]),
        ("asset_id", "WTG-03", ["WTG-03"]),
        ("created", None, keys()[3:4]),
    ],
)
def test_a_row_with_a_wrong_key_or_time_is_set_aside(column: str, value: Any, set_aside: list[str]) -> None:
    kept, _ = split(WORK_ORDERS, with_value(WORK_ORDERS, column, value), T, 0.01)
    left_out = {0, 3} if value == keys()[0] else {3}
    assert kept["asset_id"].to_pylist() == [key for row, key in enumerate(keys()) if row not in left_out]
    assert set_aside_in(kept.schema).to_pylist() == set_aside


def test_other_columns_hold_the_view_back() -> None:
    assert split(WORK_ORDERS, sound(WORK_ORDERS).drop_columns(["wo_count_7d"]), T, 1)[0] is None


def test_a_snapshot_names_whom_it_has_set_aside(tmp_path: Path) -> None:
    path = snapshot_path(tmp_path, WORK_ORDERS, T)
    table = sound(WORK_ORDERS, rows=3)
    for named in (["b", "a", "b", None], ["a"], []):
        note = with_set_aside(table, pa.chunked_array([pa.array(named, pa.string())]))
        write_snapshot(note, path)  # also where the rows are the same
        assert set_aside_in(pq.read_schema(path)).to_pylist() == sorted({name for name in named if name})
        assert read_snapshot(path).equals(table)


# the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_assets_are_those_that_exist(view: str) -> None:
    table = sound(view)
    assert wrong_assets(view, table, pa.chunked_array([keys()])) == []
    (rule,) = wrong_assets(view, table, pa.chunked_array([keys(ROWS - 1)]))
    assert (rule.text, np.flatnonzero(rule.rows).tolist()) == ("asset_id is none of asset_features", [ROWS - 1])
    absent = [rule.missing.to_pylist() for rule in wrong_assets(view, table, pa.chunked_array([keys(ROWS + 1)]))]
    # an asset need not have telemetry
    assert absent == ([] if not SPECS[view].every_asset else [[str(asset_key(ROWS))]])


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
    for before, now, is_loss in ((3, 2, False), (3, 1, False), (4, 1, True), (1, 0, True), (0, 0, False)):
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


@pytest.mark.parametrize("damage", ["footer", "rows"])
def test_a_damaged_newest_snapshot_does_not_switch_the_comparison_off(tmp_path: Path, damage: str) -> None:
    write_snapshot(sound(WORK_ORDERS), snapshot_path(tmp_path, WORK_ORDERS, T - DAY))
    path = snapshot_path(tmp_path, WORK_ORDERS, T - timedelta(hours=1))
    write_snapshot(sound(WORK_ORDERS), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if damage == "footer" else whole[:4] + bytes(3_000) + whole[3_004:])
    (rule,) = losses(WORK_ORDERS, sound(WORK_ORDERS, rows=10), tmp_path, T, 0.2)
    assert rule.text == "10 rows where the snapshot 20260310T100000Z has 20: assets are gone"


# the rejected rows ------------------------------------------------------------------------------------------------


def test_rejected_rows_carry_their_reasons(tmp_path: Path) -> None:
    table = sound(WORK_ORDERS, wo_count_7d=[-1, 1, 1, -2], wo_count_30d=[None, 1, None, 1], rows=4)
    broken = broken_rows(WORK_ORDERS, table, T)
    rejected = rejected_rows(table, broken)
    assert rejected.column_names == [*table.column_names, "reason"]
    assert rejected.drop_columns(["reason"]).equals(table.take([0, 2, 3]))
    assert rejected["reason"].to_pylist() == [
        "wo_count_7d is not in [0, inf); wo_count_30d is NULL",
        "wo_count_30d is NULL",
        "wo_count_7d is not in [0, inf)",
    ]
    path = quarantine_path(tmp_path, WORK_ORDERS, T)
    first, third, fourth = (keys()[row] for row in (0, 2, 3))
    rules = (
        f"wo_count_7d is not in [0, inf) in 2 of 4 rows, e.g. asset_id {first}, {fourth}; wo_count_30d is NULL in 2 of "
        f"4 rows, e.g. asset_id {first}, {third}"
    )
    assert in_words(table, broken, path) == (
        f"rejected by the quality gate: {rules}. Rows and reasons: {path}. Correct the source and run again."
    )
    assert few_in_words(table, broken, None) == (
        f"set aside by the quality gate: {rules}. The other rows go on; what is online of these stays. Correct the "
        "source."
    )


def test_messages_name_the_first_rules_and_assets() -> None:
    odd = {name: [-1] * 5 for name in ("wo_count_7d", "wo_count_30d", "wo_count_90d", "wo_count_365d")}
    table = sound(WORK_ORDERS, rows=5, **odd)
    text = in_words(table, broken_rows(WORK_ORDERS, table, T), None)
    assert text.count(", ".join(keys(3))) == 3
    assert keys()[3] not in text
    assert "in 5 of 5 rows" in text
    assert "wo_count_365d" not in text
    assert "(rules broken besides: 1). Correct" in text


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


@pytest.fixture
def fleet(dcmms: Dcmms, store_yaml: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Dcmms:
    """Six assets with four days of telemetry, nothing online yet; the settings are in the environment."""
    settings = dcmms.settings
    apply_definitions(store_yaml, settings.feature_data_dir)
    use_settings(monkeypatch, settings, store_yaml)
    for number in range(1, 7):
        asset = dcmms.asset(number)
        dcmms.buckets(*[bucket(asset, "power_kw", ago(hours=hour), hour, anomaly_count=2) for hour in range(1, 25)])
        dcmms.buckets(*[bucket(asset, "power_kw", ago(hours=hour)) for hour in range(25, 101)])
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
    has_command = "--as-of" in arguments or arguments[:1] in (("verify",), ("prune",))
    default = () if has_command else ("run", "--as-of", f"{T:%Y-%m-%dT%H:%M:%SZ}")
    return CliRunner().invoke(cli, [*default, *arguments])


def snapshots(fleet: Dcmms) -> dict[str, bytes]:
    """Return all files below the data directory."""
    root = fleet.settings.feature_data_dir
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if is_written(path)}


def written(view: str) -> str:
    return f"{view}/snapshot_date=2026-03-11/20260311T100000Z.parquet"


@pytest.fixture
def busy_is_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a row with more than three work orders in 7 d break a rule."""
    at_most(monkeypatch, WORK_ORDERS, "wo_count_7d", 3)


def at_most(monkeypatch: pytest.MonkeyPatch, view: str, name: str, highest: float) -> None:
    (field,) = [field for field in VIEWS[view].features if field.name == name]
    monkeypatch.setitem(field.tags, "at_most", f"{highest:g}")


def make_busy(fleet: Dcmms, *numbers: int, since: datetime | None = None) -> None:
    for number in numbers:
        for _ in range(4):
            fleet.work_order(asset_key(number), since or ago(hours=0.5))


def log_lines(result: Result, level: str) -> list[str]:
    return [line.split(f" {level} ")[1] for line in result.stderr.splitlines() if f" {level} " in line]


def summary_line(result: Result, view: str) -> list[str]:
    return next(line.split() for line in result.stdout.splitlines() if line.split()[:1] == [view])


@pytest.mark.usefixtures("busy_is_odd")
def test_odd_rows_are_set_aside_and_the_others_go_on(fleet: Dcmms, store_yaml: Path, tmp_path: Path) -> None:
    assert invoke(*EARLIER).exit_code == 0
    before = snapshots(fleet)
    make_busy(fleet, 2)
    fleet.work_order(asset_key(3), ago(hours=0.5))
    metrics = tmp_path / "metrics.prom"
    result = invoke("--metrics-file", str(metrics))
    assert result.exit_code == 0
    quarantined = "quarantine/work_order_features/20260311T100000Z.parquet"
    after = snapshots(fleet)
    assert before.items() <= after.items()
    assert sorted(after.keys() - before.keys()) == sorted([quarantined, *map(written, VIEWS)])

    path = fleet.settings.feature_data_dir / quarantined
    assert log_lines(result, "WARNING") == [
        "work_order_features: set aside by the quality gate: wo_count_7d is not in [0, 3] in 1 of 6 rows, e.g. "
        f"asset_id {asset_key(2)}. Rows and reasons: {path}. The other rows go on; what is online of these stays. "
        "Correct the source."
    ]
    (row,) = pq.read_table(path).to_pylist()
    assert (row["asset_id"], row["wo_count_7d"], row["reason"]) == (
        str(asset_key(2)),
        4,
        "wo_count_7d is not in [0, 3]",
    )
    kept = read_snapshot(fleet.settings.feature_data_dir / written(WORK_ORDERS))
    assert kept["asset_id"].to_pylist() == [str(asset_key(number)) for number in (1, 3, 4, 5, 6)]
    line = summary_line(result, WORK_ORDERS)
    assert (line[1:3], line[-1]) == (["5", "1"], "online")
    counted = metrics.read_text()
    assert 'feature_store_view_rejected_rows{view="work_order_features"} 1.0' in counted
    assert 'feature_store_view_rows{view="work_order_features"} 5.0' in counted
    with open_feature_store(store_yaml) as opened:
        views = Ledger(opened).last_runs(1)[0].views
    assert {view: (told["rejected"], told["outcome"]) for view, told in views.items()} == {
        view: (int(view == WORK_ORDERS), "online") for view in VIEWS
    }
    # what is online of asset 2 is an hour old
    features = ["work_order_features:wo_count_7d", "work_order_features:wo_count_30d"]
    values = online_values(store_yaml, features, [asset_key(number) for number in (1, 2, 3)])
    assert values == {"wo_count_7d": [0, 0, 1], "wo_count_30d": [0, 0, 1]}


@pytest.mark.usefixtures("busy_is_odd")
def test_an_asset_that_is_set_aside_has_not_left(fleet: Dcmms, store_yaml: Path) -> None:
    features = ["work_order_features:wo_count_7d", "work_order_features:wo_count_30d"]

    def run_later(minutes: int) -> Result:
        return invoke("run", "--as-of", f"{T + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}", "--view", WORK_ORDERS)

    def online() -> list[int | None]:
        assert invoke("verify", "--view", WORK_ORDERS).exit_code == 0
        values = online_values(store_yaml, features, [asset_key(2)])
        assert values["wo_count_7d"] == values["wo_count_30d"]
        return values["wo_count_7d"]

    assert run_later(0).exit_code == 0
    make_busy(fleet, 2, since=T)
    for result in (run_later(0), run_later(5), run_later(10), invoke("prune", "--view", WORK_ORDERS)):
        assert (result.exit_code, "removed online" in result.stderr) == (0, False)
        assert online() == [0]
    with fleet.postgres.cursor() as cursor:
        cursor.execute("update assets set status = 'decommissioned', updated_at = %s where id = %s", (T, asset_key(2)))
    fleet.postgres.commit()
    assert "removed online: 1 entities" in run_later(15).stderr
    assert online() == [None]


@pytest.mark.usefixtures("busy_is_odd")
def test_more_than_a_few_odd_rows_hold_back_their_view_alone(
    fleet: Dcmms, store_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(*EARLIER).exit_code == 0
    before = snapshots(fleet)
    make_busy(fleet, 2, 3, 4, 5)
    result = invoke()
    assert result.exit_code == 2
    quarantined = "quarantine/work_order_features/20260311T100000Z.parquet"
    after = snapshots(fleet)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {quarantined, *map(written, VIEWS)} - {written(WORK_ORDERS)}
    named = ", ".join(str(asset_key(number)) for number in (2, 3, 4))
    assert log_lines(result, "ERROR") == [
        "work_order_features: rejected by the quality gate: wo_count_7d is not in [0, 3] in 4 of 6 rows, e.g. asset_id "
        f"{named}. Rows and reasons: {fleet.settings.feature_data_dir / quarantined}. Correct the source and run again."
    ]
    line = summary_line(result, WORK_ORDERS)
    assert (line[1:3], line[-1]) == (["6", "4"], "rejected")
    features = ["asset_features:total_work_orders", "work_order_features:wo_count_7d"]
    assert online_values(store_yaml, features, [asset_key(2)]) == {"total_work_orders": [4], "wo_count_7d": [0]}

    monkeypatch.setenv("QUALITY_MAX_REJECTED", "0.7")
    result = invoke("--view", WORK_ORDERS)
    assert result.exit_code == 0
    assert read_snapshot(fleet.settings.feature_data_dir / written(WORK_ORDERS)).num_rows == 2


@pytest.mark.usefixtures("busy_is_odd")
def test_dry_run_tells_odd_rows_and_writes_nothing(fleet: Dcmms) -> None:
    make_busy(fleet, 2)
    result = invoke("--dry-run")
    assert result.exit_code == 0
    assert summary_line(result, WORK_ORDERS)[1:3] == ["5", "1"]
    (warning,) = log_lines(result, "WARNING")
    assert f"e.g. asset_id {asset_key(2)}. The other rows go on" in warning
    assert snapshots(fleet) == {}


@pytest.mark.usefixtures("busy_is_odd")
def test_odd_rows_are_neither_missing_nor_lost(fleet: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUALITY_MAX_DROP", "0")
    assert invoke(*EARLIER).exit_code == 0
    make_busy(fleet, 1, 2, 3)
    assert invoke().exit_code == 0


def test_telemetry_that_is_set_aside_still_counts_in_the_health_score(
    fleet: Dcmms, store_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_most(monkeypatch, "telemetry_features", "anomaly_count_7d", 400)
    fleet.buckets(bucket(asset_key(1), "voltage_v", ago(hours=2), anomaly_count=500))
    result = invoke()
    assert result.exit_code == 0
    assert "telemetry_features: set aside by the quality gate: anomaly_count_7d is not in [0, 400]" in result.stderr
    values = online_values(
        store_yaml,
        ["asset_features:health_score", "telemetry_features:anomaly_count_7d"],
        [asset_key(1), asset_key(2)],
    )
    assert values["anomaly_count_7d"] == [None, 48]
    # 500 anomalies are worth 10 of 100 points, 48 of them 12
    assert values["health_score"][1] - values["health_score"][0] == pytest.approx(0.3 * 2 / 0.9, abs=1e-4)


def test_an_asset_that_was_set_aside_stands_in_without_its_values(
    fleet: Dcmms, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_most(monkeypatch, "asset_features", "total_work_orders", 3)
    make_busy(fleet, 2)
    assert invoke("--view", "asset_features").exit_code == 0
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/dcmms")
    monkeypatch.setenv("RETRY_SECONDS", "0")
    assert invoke("--view", "telemetry_features").exit_code == 0
    assert read_snapshot(fleet.settings.feature_data_dir / written("telemetry_features")).num_rows == 6


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
    path = three_of_six.settings.feature_data_dir / written(WORK_ORDERS)
    monkeypatch.setenv("QUALITY_MAX_DROP", "0.49")
    result = invoke("--view", WORK_ORDERS, "--no-online")
    assert (result.exit_code, path.exists()) == (2, False)
    assert "assets are gone: 3" in result.stderr
    monkeypatch.setenv("QUALITY_MAX_DROP", "0.5")
    result = invoke("--view", WORK_ORDERS, "--no-online")
    assert (result.exit_code, result.stderr.count("assets are gone")) == (0, 0)
    assert read_snapshot(path)["asset_id"].to_pylist() == [str(asset_key(number)) for number in (4, 5, 6)]


@pytest.mark.usefixtures("busy_is_odd")
def test_a_loss_holds_back_a_view_with_odd_rows(three_of_six: Dcmms) -> None:
    make_busy(three_of_six, 4)
    result = invoke("--view", WORK_ORDERS)
    assert result.exit_code == 2
    assert log_lines(result, "WARNING") == []
    (error,) = log_lines(result, "ERROR")
    assert error.endswith("If the change is planned, run again with --accept-drop.")
    rejected = pq.read_table(three_of_six.settings.feature_data_dir / "quarantine" / WORK_ORDERS)
    reasons = dict(zip(*(rejected[name].to_pylist() for name in ("asset_id", "reason")), strict=True))
    assert reasons.pop(str(asset_key(4))) == "wo_count_7d is not in [0, 3]"
    assert sorted(reasons) == [str(asset_key(number)) for number in (1, 2, 3)]
    assert invoke("--view", WORK_ORDERS, "--accept-drop").exit_code == 0


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


@pytest.mark.usefixtures("busy_is_odd")
def test_backfill_sets_aside_and_leaves_out_as_a_run_does(fleet: Dcmms) -> None:
    make_busy(fleet, 1, since=ago(9.5))  # at 22:00 on 1 March, it counts for 7 d
    make_busy(fleet, 2, 3, 4, since=ago(6.5))  # at 22:00 on 4 March
    root = fleet.settings.feature_data_dir
    arguments = ["backfill", "--start", "2026-02-27", "--end", "2026-03-11", "--view", WORK_ORDERS]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    kept = {path.stem: pq.read_metadata(path).num_rows for path in root.glob(f"{WORK_ORDERS}/*/*.parquet")}
    odd = {path.stem: pq.read_metadata(path).num_rows for path in root.glob(f"quarantine/{WORK_ORDERS}/*.parquet")}
    days = [f"{T.date() - timedelta(days=day):%Y%m%d}T000000Z" for day in range(12, 0, -1)]
    expected = dict(zip(days, [0, 0, 0, 1, 1, 1, 4, 4, 4, 4, 3, 3], strict=True))
    assert odd == {day: number for day, number in expected.items() if number}
    assert kept == {day: 6 - number for day, number in expected.items() if number <= 3}
    assert len(log_lines(result, "ERROR")) == 4
    assert len(log_lines(result, "WARNING")) == 5
    assert f"{WORK_ORDERS} as of 2026-03-02T00:00:00+00:00: set aside by the quality gate: wo_count_7d" in result.stderr
    assert "12 instants written" in result.stdout
    assert "39 rows, 9 set aside" in result.stdout

    path = snapshot_path(root, WORK_ORDERS, T.replace(hour=0) - DAY)
    backfilled = read_snapshot(path)
    path.unlink()
    assert invoke("run", "--as-of", "2026-03-10T00:00:00Z", "--view", WORK_ORDERS, "--no-online").exit_code == 0
    again = read_snapshot(path)
    assert again.drop_columns(["created"]).equals(backfilled.drop_columns(["created"]))
    assert again.schema.metadata == backfilled.schema.metadata


def test_table_has_a_column_of_rejected_rows_only_if_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(list(VIEWS), quiet=False)
    done = ViewResult(WORK_ORDERS, rows=3, bytes=100)
    console.summary([done], T)
    assert "rejected" not in capsys.readouterr().out
    console.summary([done, ViewResult("asset_features", rows=3, rejected=2, held_back=True, error="...")], T)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    (headings,) = (line for line in printed if line[:2] == ["view", "rows"])
    assert headings[2] == "rejected"
    assert ["asset_features", "3", "2"] in [line[:3] for line in printed]


def test_implausible_values_are_counted_wherever_a_run_is_told_of(
    fleet: Dcmms, store_yaml: Path, tmp_path: Path
) -> None:
    fleet.buckets(*[bucket(asset_key(2), "power_kw", ago(hours=hour), count=61) for hour in range(1, 25)])
    metrics = tmp_path / "metrics.prom"
    result = invoke("--metrics-file", str(metrics), "--log-format", "json")
    assert result.exit_code == 0
    told = dict.fromkeys(SPECS["telemetry_features"].plausible, 0) | {"power_variation_1d": 1}
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    (summary,) = [line["views"] for line in lines if line["message"] == "summary"]
    assert {view["view"]: view["implausible"] for view in summary} == {
        view: told if view == "telemetry_features" else {} for view in VIEWS
    }
    (warning,) = [line for line in lines if line["level"] == "WARNING"]
    assert (warning["view"], str(asset_key(2)) in warning["message"]) == ("telemetry_features", True)
    with open_feature_store(store_yaml) as opened:
        assert Ledger(opened).last_runs(1)[0].views["telemetry_features"]["implausible"] == told
    for feature_name, count in told.items():
        sample = f'feature_store_view_implausible_rows{{feature="{feature_name}",view="telemetry_features"}} {count}.0'
        assert sample in metrics.read_text()
    assert online_values(store_yaml, ["telemetry_features:rolling_min_power_7d"], [asset_key(2)]) == {
        "rolling_min_power_7d": [100.0]
    }


@pytest.mark.parametrize("arguments", [["run", "--unknown"], ["--unknown"], ["unknown"], ["backfill"], ["run", "more"]])
def test_wrong_options_have_an_exit_code_of_their_own(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == os.EX_USAGE == 64
    assert " -h lists the options)" in result.stderr

"""The demo fleet: the same at every run, consistent, loadable, and as dirty as real databases are."""

import hashlib
import json
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from clickhouse_connect.driver.client import Client

from dev.fleet import NOT_JSON, SECOND_ALIAS, UNKNOWN_ASSET, Fleet, generate
from dev.load import load_fleet, load_postgres
from dev.schema import create_postgres_schema
from dev.servers import PostgresServer
from dev.stack import REPOSITORY, ensure_database

ASSETS, DAYS = 12, 30


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return generate(assets=ASSETS, days=DAYS)


@pytest.fixture(scope="module")
def telemetry(fleet: Fleet) -> pa.Table:
    return pa.concat_tables(table.cast(_without_dictionaries(table.schema)) for table in fleet.telemetry())


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    """URL of an empty database of its own."""
    ensure_database(postgres.admin_url, "demo_fleet", "dcmms")
    return postgres.url("dcmms", "demo_fleet")


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    plain = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    return pa.schema(zip(schema.names, plain, strict=True))


def _digest(fleet: Fleet) -> str:
    digest = hashlib.sha256()
    for table in [*fleet.tables.values(), *fleet.telemetry()]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def _values(url: str, query: str) -> tuple[Any, ...]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()


def _instants(table: pa.Table, column: str) -> np.ndarray:
    """Return a column of instants as UTC datetime64; NULL is NaT."""
    return table[column].cast(pa.timestamp("us")).to_numpy()


# ---- generate


def test_same_seed_gives_same_bytes(fleet: Fleet) -> None:
    assert _digest(fleet) == _digest(generate(assets=ASSETS, days=DAYS))


def test_another_seed_keeps_the_ids_and_changes_the_history(fleet: Fleet) -> None:
    other = generate(assets=ASSETS, days=DAYS, seed=8)
    assert other.tables["assets"]["id"].equals(fleet.tables["assets"]["id"])
    assert _digest(other) != _digest(fleet)


def test_row_counts(fleet: Fleet, telemetry: pa.Table) -> None:
    rows = {name: table.num_rows for name, table in fleet.tables.items()}
    assert list(rows) == [
        "tenants",
        "sites",
        "assets",
        "work_orders",
        "work_order_tasks",
        "alerts",
        "asset_health_scores",
        "wind_turbine_metadata",
    ]
    assert (rows["tenants"], rows["sites"], rows["assets"]) == (1, 3, ASSETS)
    assert min(rows.values()) > 0
    assert 0.9 < telemetry.num_rows / fleet.expected_telemetry_rows < 1.02


def test_default_fleet_has_every_status_and_kind_of_work() -> None:
    tables = generate().tables
    statuses = set(tables["assets"]["status"].to_pylist())
    assert statuses == {"operational", "degraded", "down", "maintenance", "decommissioned"}
    kinds = set(tables["work_orders"]["type"].to_pylist())
    assert kinds == {"corrective", "preventive", "predictive", "inspection", "emergency"}
    assert {"draft", "cancelled", "completed", "closed", "scheduled", "in_progress"} <= set(
        tables["work_orders"]["status"].to_pylist()
    )


def test_width_sets_the_buckets() -> None:
    quarter_hours = generate(assets=ASSETS, days=14, width_minutes=15)
    first = next(quarter_hours.telemetry())
    seconds = np.unique(first["time_bucket"].cast(pa.int64()).to_numpy())
    assert np.all(np.diff(seconds) % 900 == 0)
    assert np.diff(seconds).min() == 900
    assert pc.max(first["count"]).as_py() == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"assets": 11}, "assets is 11"),
        ({"days": 13}, "days is 13"),
        ({"width_minutes": 7}, "width_minutes is 7"),
        ({"end": datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)}, "without a time zone"),
    ],
)
def test_impossible_fleets_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(**arguments)


# ---- what the numbers are like


def test_statistics_of_a_bucket_agree(telemetry: pa.Table) -> None:
    whole = telemetry.filter(pc.is_finite(telemetry["avg_value"]))
    columns = {name: whole[name].to_numpy() for name in whole.column_names if name.endswith("value")}
    mean, low, high = columns["avg_value"], columns["min_value"], columns["max_value"]
    slack = 1e-9 * np.maximum(np.abs(mean), 1)
    ordered = [low, columns["p50_value"], columns["p95_value"], columns["p99_value"], high]
    assert all(np.all(a <= b + slack) for a, b in pairwise(ordered))
    assert np.all((low <= mean) & (mean <= high))
    assert np.all(columns["stddev_value"] ** 2 <= (high - mean) * (mean - low) + slack)
    assert np.allclose(columns["sum_value"], mean * whole["count"].to_numpy())


def test_inverters_sleep_at_night_and_draw_a_little(fleet: Fleet) -> None:
    power = next(fleet.telemetry())
    hour = (power["time_bucket"].cast(pa.int64()).to_numpy() // 3600) % 24
    mean = power["avg_value"].to_numpy()
    night, noon = (hour <= 4) & np.isfinite(mean), (hour == 12) & np.isfinite(mean)
    assert np.all(mean[night] < 0)
    assert mean[night].min() > -1
    assert np.median(mean[noon]) > 10


def test_alerts_come_before_failures_more_often_than_at_any_time() -> None:
    tables = generate().tables
    failures = tables["work_orders"].filter(pc.is_in(tables["work_orders"]["type"], pa.array(["corrective"])))
    failed_at, triggered = _instants(failures, "created_at"), _instants(tables["alerts"], "triggered_at")
    same = failures["asset_id"].to_numpy(zero_copy_only=False)[:, None] == tables["alerts"]["asset_id"].to_numpy(
        zero_copy_only=False
    )
    ahead = failed_at[:, None] - triggered
    days = np.timedelta64(1, "D")
    warned = (same & (ahead > 0.1 * days) & (ahead <= 7 * days)).any(axis=1).mean()
    usual = (same & (ahead > 60 * days) & (ahead <= 67 * days)).any(axis=1).mean()
    assert usual + 0.15 < warned < 0.95


def test_alerts_of_some_rules_announce_failures_and_those_of_most_do_not() -> None:
    tables = generate().tables
    alerts = tables["alerts"].filter(pc.is_valid(tables["alerts"]["rule_id"]))
    failures = tables["work_orders"].filter(pc.is_in(tables["work_orders"]["type"], pa.array(["corrective"])))
    delay = _instants(failures, "created_at")[None, :] - _instants(alerts, "triggered_at")[:, None]
    same = (
        alerts["asset_id"].to_numpy(zero_copy_only=False)[:, None]
        == failures["asset_id"].to_numpy(zero_copy_only=False)[None, :]
    )
    followed = (same & (delay > np.timedelta64(0)) & (delay <= np.timedelta64(7, "D"))).any(axis=1)
    rules = pa.table({"title": alerts["title"], "rule": alerts["rule_id"], "followed": followed.astype(int)})
    kind = pc.if_else(pc.match_substring_regex(rules["title"], "(out of range|trip)$"), "defect", "nuisance")
    shares = rules.append_column("kind", kind).group_by(["rule", "kind"]).aggregate([("followed", "mean")]).to_pylist()
    of_kind = {name: [row["followed_mean"] for row in shares if row["kind"] == name] for name in ("defect", "nuisance")}
    assert len({row["rule"] for row in shares}) == len(shares)
    assert (len(of_kind["defect"]), len(of_kind["nuisance"])) == (4, 11)
    assert min(of_kind["defect"]) > 2 * max(of_kind["nuisance"])


# ---- dirt


def test_rated_power_is_in_three_places_and_nowhere(fleet: Fleet) -> None:
    assets = fleet.tables["assets"]
    specified = [json.loads(text).get("ratedPowerKw") for text in assets["specifications"].to_pylist()]
    installed = [
        json.loads(text).get("installed_capacity_kw") for text in assets["metadata"].to_pylist() if text != NOT_JSON
    ]
    assert {"55 kW", "2.05 MW", 110.0} <= set(specified)
    assert {str, float} <= {type(value) for value in installed}
    assert fleet.tables["wind_turbine_metadata"].num_rows > 0
    known = set(fleet.tables["wind_turbine_metadata"]["asset_id"].to_pylist())
    for row in assets.to_pylist():
        if row["metadata"] != NOT_JSON and json.loads(row["metadata"]).get("installed_capacity_kw"):
            known.add(row["id"])
        if json.loads(row["specifications"]).get("ratedPowerKw"):
            known.add(row["id"])
    assert any(row["id"] not in known for row in assets.to_pylist() if row["type"] == "turbine")


def test_metadata_that_is_not_json(fleet: Fleet) -> None:
    texts = fleet.tables["assets"]["metadata"].to_pylist()
    assert texts.count(NOT_JSON) == 1
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(NOT_JSON)


def test_dates_that_cannot_be(fleet: Fleet) -> None:
    orders = fleet.tables["work_orders"]
    end = np.datetime64(fleet.clock.end.replace(tzinfo=None))
    start, stop = _instants(orders, "actual_start"), _instants(orders, "actual_end")
    assert (stop < start).any()
    assert (stop < _instants(orders, "created_at")).any()
    assert (_instants(orders, "scheduled_end") < _instants(orders, "scheduled_start")).any()
    assert (stop > end).any()
    assert (_instants(fleet.tables["assets"], "installation_date") > end).any()
    assert (_instants(fleet.tables["alerts"], "triggered_at") > end).any()


def test_missing_and_empty_values(fleet: Fleet) -> None:
    assert fleet.tables["work_orders"]["asset_id"].null_count > 0
    assert fleet.tables["alerts"]["asset_id"].null_count > 0
    assert fleet.tables["assets"]["installation_date"].null_count > 0
    assert "" in fleet.tables["assets"]["manufacturer"].to_pylist()


def test_completions_are_in_three_places() -> None:
    tables = generate().tables
    orders, tasks = tables["work_orders"], tables["work_order_tasks"]
    done = orders.filter(pc.is_in(orders["status"], pa.array(["completed", "closed"])))
    bare = done.filter(pc.is_null(done["actual_end"]))
    ticked = tasks.filter(pc.is_valid(tasks["completed_at"]))
    by_tasks = pc.is_in(bare["id"], pc.unique(ticked["work_order_id"]))
    shares = [1 - bare.num_rows / done.num_rows, pc.mean(by_tasks.cast(pa.int8())).as_py()]
    assert all(0.2 < share < 0.8 for share in shares)


def test_assets_and_telemetry_do_not_match(fleet: Fleet, telemetry: pa.Table) -> None:
    known, reporting = set(fleet.tables["assets"]["id"].to_pylist()), set(telemetry["asset_id"].to_pylist())
    assert known - reporting
    assert reporting - known == {UNKNOWN_ASSET}


def test_one_inverter_reports_its_power_under_two_names(fleet: Fleet, telemetry: pa.Table) -> None:
    first = fleet.tables["assets"]["id"][0].as_py()
    names = set(telemetry.filter(pc.equal(telemetry["asset_id"], first))["metric_name"].to_pylist())
    assert {"power_kw", SECOND_ALIAS} <= names


def test_gaps_copies_and_late_buckets(fleet: Fleet, telemetry: pa.Table) -> None:
    keys = ["asset_id", "metric_name", "time_bucket"]
    buckets = telemetry.group_by(keys).aggregate([("count", "min"), ("count", "max"), ("count", "count")])
    twice = buckets.filter(pc.equal(buckets["count_count"], 2))
    assert twice.num_rows > 0
    assert pc.all(pc.less(twice["count_min"], twice["count_max"])).as_py()

    series = buckets.group_by(keys[:2]).aggregate([("time_bucket", "count"), ("time_bucket", "max")])
    assert pc.max(series["time_bucket_count"]).as_py() < DAYS * 24  # a gap in every series
    newest = series["time_bucket_max"]
    late = pc.less(newest, pa.scalar(fleet.clock.end.timestamp() - 3 * 3600).cast(pa.int64()).cast(newest.type))
    assert 0 < pc.mean(late.cast(pa.int8())).as_py() < 1


def test_empty_buckets(telemetry: pa.Table) -> None:
    empty = telemetry.filter(pc.equal(telemetry["count"], 0))
    assert 0 < empty.num_rows < 0.01 * telemetry.num_rows
    assert pc.all(pc.is_nan(empty["avg_value"])).as_py()
    assert pc.any(pc.and_(pc.is_nan(telemetry["avg_value"]), pc.greater(telemetry["count"], 0))).as_py()


# ---- load


@pytest.mark.parametrize("variant", ["n", "t"])
def test_both_variants_load(fleet: Fleet, database: str, variant: str) -> None:
    reports: list[tuple[str, int, int]] = []
    for _ in range(2):  # the second time in place of the first
        load_postgres(database, fleet, variant, lambda *report: reports.append(report))
    assert reports[: len(fleet.tables)] == [(n, t.num_rows, t.num_rows) for n, t in fleet.tables.items()]
    for name, table in fleet.tables.items():
        assert _values(database, f"select count(*) from {name}") == (table.num_rows,)


@pytest.mark.parametrize(
    ("variant", "types", "indexes"),
    [
        ("n", ("timestamp without time zone", "timestamp without time zone", "text", 1), 1),
        ("t", ("timestamp with time zone", "date", "jsonb", 0), 5),
    ],
)
def test_variants_differ_as_dcmms_does(database: str, variant: str, types: tuple[Any, ...], indexes: int) -> None:
    with closing(psycopg2.connect(database)) as connection, connection:
        create_postgres_schema(connection, variant, replace=True)
    columns = "(select data_type from information_schema.columns where (table_name, column_name) = ('assets', '{}'))"
    query = ", ".join(columns.format(name) for name in ("created_at", "installation_date", "metadata"))
    energy = "(select count(*) from information_schema.columns where column_name = 'energy_type')"
    assert _values(database, f"select {query}, {energy}") == types
    assert _values(database, "select count(*) from pg_indexes where tablename = 'assets'") == (indexes,)


def test_values_arrive_unchanged(fleet: Fleet, database: str) -> None:
    asset = fleet.tables["assets"].slice(0, 1).to_pylist()[0]
    where = f"from assets where id = '{asset['id']}'"
    load_postgres(database, fleet, "n", lambda *_: None)
    (naive,) = _values(database, f"select created_at {where}")
    assert naive.replace(tzinfo=UTC) == asset["created_at"]
    assert _values(database, f"select count(*) from assets where metadata = '{NOT_JSON}'") == (1,)
    assert _values(database, "select count(*) > 0 from assets where manufacturer = ''") == (True,)

    load_postgres(database, fleet, "t", lambda *_: None)
    assert _values(database, f"select created_at {where}") == (asset["created_at"],)
    assert _values(database, f"select installation_date {where}") == (asset["installation_date"].date(),)
    assert _values(database, "select count(*) from assets where metadata = '{}'") == (1,)


def test_wind_turbine_metadata_may_be_missing(database: str) -> None:
    with closing(psycopg2.connect(database)) as connection, connection:
        create_postgres_schema(connection, "n", wind_turbine_metadata=False, replace=True)
    assert _values(database, "select to_regclass('wind_turbine_metadata')") == (None,)


def test_telemetry_loads_in_place_of_the_old(
    fleet: Fleet, telemetry: pa.Table, database: str, clickhouse: Client, clickhouse_directory: Path
) -> None:
    reports: list[tuple[str, int, int]] = []
    for _ in range(2):
        load_fleet(
            database,
            f"chdb://{clickhouse_directory}",
            fleet,
            progress=lambda *report: reports.append(report),
            clickhouse_database="demo_fleet",
        )
    assert reports[-1] == ("telemetry_aggregates", telemetry.num_rows, telemetry.num_rows)
    row = telemetry.slice(1000, 1).to_pylist()[0]
    loaded = clickhouse.query(
        """select toString(tenant_id), toString(site_id), avg_value, count, stddev_value, anomaly_count,
               (select count() from demo_fleet.telemetry_aggregates)
           from demo_fleet.telemetry_aggregates
           where asset_id = {asset:UUID} and metric_name = {metric:String}
               and time_bucket = toDateTime({seconds:Int64}, 'UTC') and count = {count:Int64}""",
        {
            "asset": row["asset_id"],
            "metric": row["metric_name"],
            "seconds": int(row["time_bucket"].timestamp()),
            "count": row["count"],
        },
    )
    columns = ("tenant_id", "site_id", "avg_value", "count", "stddev_value", "anomaly_count")
    assert loaded.result_rows == [(*(row[name] for name in columns), telemetry.num_rows)]


_LOAD_THEN_LET_ANOTHER_PROCESS_READ = """
import subprocess, sys
from dev.fleet import generate
from dev.load import load_clickhouse
dsn, reader = sys.argv[1:]
load_clickhouse(dsn, generate(assets=12, days=14), "demo_fleet", lambda *_: None)
subprocess.run([sys.executable, "-c", reader, dsn], check=True)
"""
_READ = """
import sys, clickhouse_connect
client = clickhouse_connect.get_client(dsn=sys.argv[1])
print(client.command("select count() > 10000 from demo_fleet.telemetry_aggregates"))
client.close()
"""


def test_load_leaves_the_engine_to_other_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LOAD_THEN_LET_ANOTHER_PROCESS_READ, f"chdb://{tmp_path}", _READ]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.returncode) == ("1", 0), result.stderr

"""The command: what it writes, what it says, and how it refuses bad input with the old state intact."""

import json
import re
import shutil
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pyarrow.parquet as pq
import pytest
import redis as redis_client
from click.testing import CliRunner, Result

from data_sources import sources
from dev.schema import create_postgres_schema
from dev.servers import PostgresServer, RedisServer, free_port
from dev.stack import ensure_database
from materialize_features import cli
from pipeline import REPOSITORY
from pipeline.base.settings import load_settings
from pipeline.base.specs import VIEWS, snapshot_schema
from pipeline.online.freshness import OnlineRows, online_rows
from pipeline.registry.feast_store import open_feature_store, registered_view
from pipeline.registry.lock import one_at_a_time
from tests.both_variants import CLICKHOUSE_VIEWS, POSTGRES_VIEWS
from tests.dcmms import Dcmms, T, ago, asset_key, bucket
from tests.stores import (
    apply_definitions,
    is_written,
    online_values,
    set_online_store,
    use_settings,
    write_feature_store_yaml,
)

AS_OF = f"{T:%Y-%m-%dT%H:%M:%SZ}"
PASSWORD = "s3cr3t-Pa55"


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def fleet(dcmms: Dcmms) -> Dcmms:
    """Two assets with two days of telemetry."""
    for number in (1, 2):
        asset = dcmms.asset(number, specifications=json.dumps({"ratedPowerKw": 1000}))
        dcmms.work_order(asset, ago(number))
        dcmms.buckets(*[bucket(asset, "power_kw", ago(hours=hour), 100.0 * number) for hour in range(1, 49)])
    return dcmms


@pytest.fixture
def environment(fleet: Dcmms, store_yaml: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Dcmms:
    """The settings of a run in the environment, the definitions in the registry, and an empty Redis."""
    settings = fleet.settings
    apply_definitions(store_yaml, settings.feature_data_dir)
    use_settings(monkeypatch, settings, store_yaml)
    with closing(redis_client.Redis(port=redis.port)) as client:
        client.flushall()
    return fleet


def invoke(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, list(arguments))


def state(environment: Dcmms, redis: RedisServer) -> tuple[dict, dict]:
    """Return all snapshot files and all online values, to compare before and after."""
    files = {path: path.read_bytes() for path in environment.settings.feature_data_dir.rglob("*") if is_written(path)}
    with closing(redis_client.Redis(port=redis.port)) as client:
        return files, {key: client.hgetall(key) for key in client.scan_iter()}


def snapshots(environment: Dcmms) -> list[str]:
    """Return the paths of all files below the data directory."""
    root = environment.settings.feature_data_dir
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if is_written(path))


def test_run_writes_one_snapshot_per_view_and_publishes_it(environment: Dcmms, store_yaml: Path) -> None:
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 0, result.output
    assert snapshots(environment) == [f"{view}/snapshot_date=2026-03-11/20260311T100000Z.parquet" for view in VIEWS]
    for view in VIEWS:
        assert view in result.stdout
        path = next(environment.settings.feature_data_dir.glob(f"{view}/*/*.parquet"))
        file = pq.ParquetFile(path)
        assert file.schema_arrow == snapshot_schema(view)
        assert file.metadata.num_rows == 2
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    features = ["telemetry_features:capacity_factor_7d", "work_order_features:wo_count_7d"]
    values = online_values(store_yaml, features, [asset_key(2)])
    assert values == {"capacity_factor_7d": pytest.approx([0.2]), "wo_count_7d": [1]}


def test_same_instant_again_leaves_one_file_with_the_same_rows(environment: Dcmms) -> None:
    invoke("--as-of", AS_OF)
    first = {view: read(environment, view) for view in VIEWS}
    assert invoke("run", "--as-of", "2026-03-11T12:00:00+02:00").exit_code == 0
    assert len(snapshots(environment)) == len(VIEWS)
    assert {view: read(environment, view) for view in VIEWS} == first


def read(environment: Dcmms, view: str):
    """Return the rows of the only snapshot of `view`."""
    (path,) = environment.settings.feature_data_dir.glob(f"{view}/*/*.parquet")
    return pq.read_table(path, partitioning=None)


def test_damaged_snapshot_is_replaced(environment: Dcmms) -> None:
    invoke("--as-of", AS_OF, "--no-online", "--view", "work_order_features")
    (path,) = environment.settings.feature_data_dir.glob("work_order_features/*/*.parquet")
    whole = read(environment, "work_order_features").drop(["created"])
    path.write_bytes(path.read_bytes()[:100])
    assert invoke("--as-of", AS_OF, "--no-online", "--view", "work_order_features").exit_code == 0
    assert read(environment, "work_order_features").drop(["created"]) == whole


def test_correction_of_the_same_instant_reaches_the_online_store(environment: Dcmms, store_yaml: Path) -> None:
    invoke("--as-of", AS_OF)
    environment.work_order(environment.asset(3), ago(3))
    environment.work_order(asset_key(1), ago(3))
    assert invoke("--as-of", AS_OF).exit_code == 0
    values = online_values(store_yaml, ["work_order_features:wo_count_7d"], [asset_key(1), asset_key(3)])
    assert values == {"wo_count_7d": [2, 1]}


def test_older_instant_is_kept_but_not_published(environment: Dcmms, redis: RedisServer) -> None:
    invoke("--as-of", AS_OF)
    _, online = state(environment, redis)
    result = invoke("--as-of", "2026-03-11T09:00:00Z")
    assert result.exit_code == 0
    said = "not published: newer values are online, of 2026-03-11T10:00:00Z"
    assert result.stderr.count(said) == len(VIEWS)
    assert len(snapshots(environment)) == 2 * len(VIEWS)
    assert state(environment, redis)[1] == online


def test_older_instant_is_published_where_nothing_newer_is_online(environment: Dcmms, redis: RedisServer) -> None:
    """Whatever snapshots are there: those of the local stack outlive `make clean`."""
    invoke("--as-of", AS_OF, "--view", "asset_features")
    invoke("--as-of", AS_OF, "--no-online")
    with closing(redis_client.Redis(port=redis.port)) as client:
        client.flushall()
    result = invoke("--as-of", "2026-03-11T09:00:00Z")
    assert result.exit_code == 0, result.output
    assert result.stdout.count(" online") == len(VIEWS)
    assert "not published" not in result.output
    with open_feature_store() as store:
        online = {view: online_rows(store, registered_view(store, view)) for view in VIEWS}
    earlier = datetime(2026, 3, 11, 9, tzinfo=UTC)
    assert online == dict.fromkeys(VIEWS, OnlineRows(2, 0, earlier, earlier))


def test_newer_online_values_of_another_run_stay_and_that_is_said(environment: Dcmms, redis: RedisServer) -> None:
    assert invoke("--as-of", AS_OF).exit_code == 0
    _, online = state(environment, redis)
    shutil.rmtree(environment.settings.feature_data_dir)
    result = invoke("--as-of", "2026-03-11T09:00:00Z", "--accept-drop")
    assert result.exit_code == 0
    assert "not published: the online store has newer values of 2 of 2 rows" in result.stderr
    assert "snapshot only" in result.stdout
    assert state(environment, redis)[1] == online
    run_id = str(uuid.uuid4())
    result = invoke("--as-of", "2026-03-11T09:00:00Z", "--force", "--run-id", run_id)
    assert (result.exit_code, "snapshot only" in result.stdout) == (0, False)
    forced = state(environment, redis)[1]
    assert forced.keys() == online.keys() and forced != online
    assert run_id[:8] in invoke("status").stdout


def test_no_online_dry_run_view_and_quiet(environment: Dcmms, redis: RedisServer) -> None:
    result = invoke("--as-of", AS_OF, "--dry-run", "--quiet")
    assert (result.exit_code, result.stdout) == (0, "")
    assert all(" WARNING " in line for line in result.stderr.splitlines())
    assert state(environment, redis) == ({}, {})
    result = invoke("--as-of", AS_OF, "--no-online", "--view", "telemetry_features", "--view", "telemetry_features")
    assert result.exit_code == 0
    assert snapshots(environment) == ["telemetry_features/snapshot_date=2026-03-11/20260311T100000Z.parquet"]
    assert state(environment, redis)[1] == {}


@pytest.mark.usefixtures("environment")
def test_works_from_any_directory_and_without_a_terminal_it_logs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 0
    assert "INFO telemetry_features: reading" in result.stderr


def test_as_of_is_now_by_default(environment: Dcmms) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    invoke("--view", "work_order_features", "--no-online")
    stamp = read(environment, "work_order_features")["event_timestamp"][0].as_py()
    assert before <= stamp <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--as-of", "2999-01-01T00:00:00Z"], {}, "in the future"),
        (["--as-of", "2026-01-01T00:00:00"], {}, "no time zone: write 2026-01-01T00:00:00Z"),
        (["--as-of", "yesterday"], {}, "no ISO 8601 instant"),
        (["--as-of", "1969-12-31T23:59:59Z"], {}, "is before 1970 or after 9999"),
        (["--as-of", "0001-01-01T00:00:00+14:00"], {}, "is before 1970 or after 9999"),
        (["--as-of", "9999-12-31T23:59:59-14:00"], {}, "is before 1970 or after 9999"),
        (["--vieww", "x"], {}, "No such option"),
        (["forecast"], {}, "No such command"),
        (["--view", "assets"], {}, f"the views are {', '.join(VIEWS)}"),
        ([], {"DATABASE_URL": None}, "DATABASE_URL is missing"),
        ([], {"DATABASE_URL": f"mysql://u:{PASSWORD}@h/d"}, "DATABASE_URL is no postgresql://"),
        ([], {"CLICKHOUSE_DSN": None}, "CLICKHOUSE_HOST (or CLICKHOUSE_DSN) is missing"),
        ([], {"TELEMETRY_BUCKET_MINUTES": "hourly"}, "TELEMETRY_BUCKET_MINUTES input should be a valid integer"),
        ([], {"TELEMETRY_BUCKET_MINUTES": "0"}, "TELEMETRY_BUCKET_MINUTES input should be greater"),
        ([], {"FEAST_FS_YAML_FILE_PATH": "/nonexistent.yaml"}, "/nonexistent.yaml cannot be read"),
    ],
)
def test_bad_input_ends_in_one_line(
    environment: Dcmms, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, arguments, variables, message
) -> None:
    assert invoke("--as-of", AS_OF).exit_code == 0
    before = state(environment, redis)
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    result = invoke(*arguments)
    assert result.exit_code == (64 if arguments else 1)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert PASSWORD not in result.output
    assert state(environment, redis) == before


def errors_of(result: Result) -> list[str]:
    """Return the messages of the lines that tell of errors."""
    return [line.split(" ERROR ", 1)[1] for line in result.stderr.splitlines() if " ERROR " in line]


def test_postgres_down_keeps_telemetry_going(environment: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("--as-of", "2026-03-11T09:00:00Z", "--no-online").exit_code == 0
    port = free_port()
    monkeypatch.setenv("DATABASE_URL", f"postgresql://dcmms:{PASSWORD}@127.0.0.1:{port}/dcmms")
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 1
    (error,) = errors_of(result)
    assert error.startswith(f"{', '.join(POSTGRES_VIEWS)}: PostgreSQL: connection to server at")
    assert str(port) in error
    assert "Check DATABASE_URL" in error
    assert PASSWORD not in result.output
    assert "assets and their capacities are those of the asset_features snapshot 20260311T090000Z" in result.stderr
    # of the instant before all of them, of this one those of telemetry
    assert len(snapshots(environment)) == len(VIEWS) + len(CLICKHOUSE_VIEWS)


def test_clickhouse_down_keeps_the_other_views_going(environment: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLICKHOUSE_DSN")
    monkeypatch.setenv("CLICKHOUSE_HOST", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", PASSWORD)
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 1
    (error,) = errors_of(result)
    assert error.startswith(f"{', '.join(CLICKHOUSE_VIEWS)}: ClickHouse dcmms_analytics at 127.0.0.1:")
    assert PASSWORD not in result.output
    assert "health_score is computed without its telemetry component" in result.stderr
    assert [path.split("/")[0] for path in snapshots(environment)] == list(POSTGRES_VIEWS)


def test_snapshot_with_telemetry_is_not_replaced_by_one_without(
    environment: Dcmms, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("--as-of", AS_OF)
    before = read(environment, "asset_features")
    monkeypatch.setenv("CLICKHOUSE_DSN", "chdb:///nonexistent")
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 1
    assert "CLICKHOUSE_DSN: there is no directory /nonexistent" in errors_of(result)[0]
    assert read(environment, "asset_features") == before


def test_without_telemetry_a_run_writes_what_a_backfill_writes(environment: Dcmms) -> None:
    environment.clickhouse.command("truncate table telemetry_aggregates")
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 0, result.output
    assert "ClickHouse holds no telemetry in the 90 d before 2026-03-11T10:00:00+00:00" in result.stderr
    run = read(environment, "telemetry_features")
    day = ("--start", "2026-03-11T10:00:00Z", "--end", "2026-03-12T10:00:00Z", "--view", "telemetry_features")
    result = invoke("backfill", *day, "--overwrite")
    assert result.exit_code == 0, result.output
    assert "telemetry_features: no rows in 1 snapshots" in result.stderr
    assert read(environment, "telemetry_features").equals(run)
    assert run.num_rows == 0


def test_telemetry_that_ends_is_a_loss(environment: Dcmms, redis: RedisServer) -> None:
    assert invoke("--as-of", AS_OF).exit_code == 0
    before = state(environment, redis)
    environment.clickhouse.command("truncate table telemetry_aggregates")
    result = invoke("--as-of", "2026-03-11T11:00:00Z", "--view", "telemetry_features")
    assert result.exit_code == 2
    assert "0 rows where the snapshot 20260311T100000Z has" in errors_of(result)[0]
    files, online = state(environment, redis)
    assert ({path: data for path, data in files.items() if "quarantine" not in path.parts}, online) == before


def test_no_assets_are_an_error(environment: Dcmms, redis: RedisServer) -> None:
    with environment.postgres.cursor() as cursor:
        cursor.execute("truncate assets")
    environment.postgres.commit()
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 1
    assert "PostgreSQL holds no asset that exists as of 2026-03-11T10:00:00+00:00" in errors_of(result)[0]
    assert state(environment, redis) == ({}, {})


def test_runs_and_compact_put_history_together(environment: Dcmms, redis: RedisServer) -> None:
    assert invoke("--as-of", AS_OF).exit_code == 0
    days = ("--start", "2026-02-26", "--end", "2026-03-04", "--every", "12h", "--view", "work_order_features")
    assert "12 instants written, 0 already there" in invoke("backfill", *days).stdout
    online = state(environment, redis)[1]
    result = invoke("--as-of", AS_OF, "--view", "work_order_features")
    assert "work_order_features: 6 files of history are 1 now" in result.stderr, result.output
    result = invoke("compact", "--view", "work_order_features")
    assert result.stdout == "work_order_features: 6 files of history are 3 now\n", result.output
    assert [path.rpartition("/")[2] for path in snapshots(environment) if path.startswith("work")] == [
        "20260226T000000Z--20260228T120000Z.parquet",
        "20260301T000000Z--20260301T120000Z.parquet",
        "20260302T000000Z--20260302T120000Z.parquet",
        "20260303T000000Z--20260303T120000Z.parquet",
        "20260311T100000Z.parquet",
    ]
    assert "0 instants written, 12 already there" in invoke("backfill", *days).stdout
    assert state(environment, redis)[1] == online
    assert invoke("verify").exit_code == 0


def test_compact_that_cannot_be_meant_changes_nothing(
    environment: Dcmms, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("--as-of", "2026-03-08T10:00:00Z").exit_code == 0
    assert invoke("--as-of", AS_OF, "--no-online").exit_code == 0
    before = state(environment, redis)
    with open_feature_store() as store, one_at_a_time(store):
        result = invoke("compact")
    assert result.exit_code == 75
    assert "is busy" in result.stderr
    refused = "asset_features: this --keep would remove the snapshot of 2026-03-08T10:00:00Z, which is online"
    result = invoke("compact", "--view", "asset_features", "--keep", "1h:1d")
    assert (result.exit_code, refused in result.stderr) == (1, True), result.output
    monkeypatch.setenv("KEEP_SNAPSHOTS", "1h:1d")
    assert invoke("compact").exit_code == 1
    assert invoke("compact", "--keep", "").exit_code == 0
    assert invoke("compact", "--keep", "hourly").exit_code == 64
    result = invoke("--as-of", AS_OF, "--view", "asset_features", "--no-online")
    assert (result.exit_code, refused in result.stderr) == (0, True), result.output
    monkeypatch.setenv("KEEP_SNAPSHOTS", "hourly")
    assert "KEEP_SNAPSHOTS hourly is nothing like 1h:90d,1d:730d" in invoke("compact").stderr
    assert state(environment, redis) == before


def test_telemetry_of_unknown_assets_only_is_an_error(environment: Dcmms) -> None:
    environment.clickhouse.command("truncate table telemetry_aggregates")
    environment.buckets(bucket(asset_key(255), "power_kw", ago(hours=2)))
    result = invoke("--as-of", AS_OF, "--view", "telemetry_features")
    assert result.exit_code == 1
    assert "PostgreSQL knows none of the 1 assets that have telemetry" in errors_of(result)[0]


@pytest.mark.parametrize("minutes", ["10", "120"])
def test_wrong_bucket_width_is_refused(environment: Dcmms, monkeypatch: pytest.MonkeyPatch, minutes: str) -> None:
    monkeypatch.setenv("TELEMETRY_BUCKET_MINUTES", minutes)
    result = invoke("--as-of", AS_OF, "--view", "telemetry_features")
    assert result.exit_code == 1
    assert f"buckets are 60 minutes apart, but TELEMETRY_BUCKET_MINUTES is {minutes}" in errors_of(result)[0]
    assert snapshots(environment) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("drop table alerts", 'relation "alerts" does not exist'),
        ("alter table work_orders drop column scheduled_end", "column work_orders.scheduled_end does not exist"),
        ("revoke select on work_order_tasks from dcmms", "permission denied for table work_order_tasks"),
    ],
)
def test_missing_table_column_or_right_is_named(
    environment: Dcmms, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, damage: str, message: str
) -> None:
    ensure_database(postgres.admin_url, "damaged", "dcmms")
    url = postgres.url("dcmms", "damaged")
    with closing(psycopg2.connect(url)) as connection, connection:
        create_postgres_schema(connection, "n", replace=True)
        connection.cursor().execute(damage)
    monkeypatch.setenv("DATABASE_URL", url)
    result = invoke("--as-of", AS_OF, "--view", "work_order_features", "--view", "asset_features", "--no-online")
    assert result.exit_code == 1
    assert any(f"damaged at 127.0.0.1:{postgres.port}: {message}" in error for error in errors_of(result))


def test_missing_clickhouse_table_is_named(environment: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_DATABASE", "system")
    result = invoke("--as-of", AS_OF, "--view", "telemetry_features", "--no-online")
    assert result.exit_code == 1
    assert "telemetry_aggregates" in errors_of(result)[0]


def test_unregistered_views_are_refused_before_anything_is_written(
    environment: Dcmms, postgres: PostgresServer, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_feature_store_yaml(tmp_path, postgres, redis, "feast_empty")
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 1
    assert "run `feast apply`" in result.stderr
    assert snapshots(environment) == []


def test_redis_down_fails_with_the_snapshot_kept(
    environment: Dcmms, store_yaml: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    other = tmp_path / "feature_store.yaml"
    text = store_yaml.read_text()
    here = text[text.index("connection_string: 127.0.0.1:") :].split(",")[0]
    other.write_text(text.replace(here, f"connection_string: 127.0.0.1:{port}"))
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(other))
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 1
    (error,) = errors_of(result)
    assert error.startswith(f"{', '.join(VIEWS)}: Redis: ")
    assert str(port) in error
    assert len(snapshots(environment)) == len(VIEWS)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(store_yaml))
    assert invoke("--as-of", AS_OF).exit_code == 0


def test_data_directory_that_cannot_be_written_is_named(
    environment: Dcmms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path / "file"))
    result = invoke("--as-of", AS_OF, "--view", "work_order_features", "--no-online")
    assert result.exit_code == 1
    assert "cannot be written" in errors_of(result)[0]


# the disk of the snapshots ---------------------------------------------------------------------------------------


def grown_and_half_gone(environment: Dcmms) -> None:
    """Publish six assets an hour ago, then decommission three of them."""
    for number in range(3, 7):
        environment.asset(number)
        environment.buckets(bucket(asset_key(number), "power_kw", ago(hours=2)))
    assert invoke("--as-of", "2026-03-11T09:00:00Z").exit_code == 0
    with environment.postgres.cursor() as cursor:
        cursor.execute(
            "update assets set status = 'decommissioned', updated_at = %s where id = any(%s)",
            (ago(hours=0.5).replace(tzinfo=None), [asset_key(number) for number in (4, 5, 6)]),
        )
    environment.postgres.commit()


@pytest.mark.parametrize("options", [(), ("--no-online",), ("--engine", "feast")])
def test_missing_disk_is_no_new_start(environment: Dcmms, redis: RedisServer, options: tuple[str, ...]) -> None:
    grown_and_half_gone(environment)
    root = environment.settings.feature_data_dir
    root.rename(root.with_name("unmounted"))
    before = state(environment, redis)
    for _ in range(2):  # what fails leaves nothing that a later run takes for the disk
        result = invoke("--as-of", AS_OF, *options)
        assert result.exit_code == 1
        assert errors_of(result) == [
            f"{view}: there is no snapshot in {root / view}, and 2026-03-11T09:00:00Z is online: is the disk of "
            "FEATURE_DATA_DIR mounted? If its snapshots are gone for good, run again with --accept-drop"
            for view in VIEWS
        ]
        assert state(environment, redis) == before
        assert not root.exists()
    assert invoke("--as-of", AS_OF, *options, "--accept-drop").exit_code == 0
    assert len(snapshots(environment)) == len(VIEWS)


def test_a_disk_whose_snapshots_are_all_damaged_is_a_missing_one(environment: Dcmms, redis: RedisServer) -> None:
    grown_and_half_gone(environment)
    for path in environment.settings.feature_data_dir.glob("*/*/*.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    before = state(environment, redis)
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 1
    assert [error.split(",")[0] for error in errors_of(result)] == [
        f"{view}: there is no snapshot in {environment.settings.feature_data_dir / view}" for view in VIEWS
    ]
    assert state(environment, redis) == before


def test_strays_go_to_quarantine_and_the_comparison_holds(environment: Dcmms, redis: RedisServer) -> None:
    grown_and_half_gone(environment)
    root, online = environment.settings.feature_data_dir, state(environment, redis)[1]
    for view in VIEWS:
        (path,) = root.glob(f"{view}/*/*.parquet")
        (path.parent / "20260311.parquet").write_bytes(path.read_bytes())
        (path.parent / "20260311T093000Z.parquet").write_bytes(path.read_bytes()[:-1])
    for command in ("verify", "prune", "status", "backfill --start 2026-03-10 --end 2026-03-11"):
        assert "Traceback" not in invoke(*command.split()).output
    result = invoke("--as-of", AS_OF)
    assert result.exit_code == 2, "half of the assets are gone since the newest snapshot that can be read"
    warnings = [line for line in result.stderr.splitlines() if "are no snapshots" in line]
    assert len(warnings) == len(VIEWS)
    assert sorted(path.name for path in (root / "quarantine" / "asset_features").iterdir()) == [
        "20260311.parquet",
        "20260311T093000Z.1.parquet",
        "20260311T100000Z.parquet",  # the rows that are held back
    ]
    assert state(environment, redis)[1] == online
    assert invoke("verify").exit_code == 0


def test_data_directory_that_is_not_the_registered_one_is_an_error(
    environment: Dcmms, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert invoke("--as-of", AS_OF).exit_code == 0
    before, root = state(environment, redis), environment.settings.feature_data_dir
    other = tmp_path / "other"
    monkeypatch.setenv("FEATURE_DATA_DIR", str(other))
    first = next(iter(VIEWS))
    says = (
        f"{first} is registered with its snapshots in {root / first}, and FEATURE_DATA_DIR is "
        f"{other}: set it as it was, or run `feast apply` with it"
    )
    assert f"{first}: {says}" in errors_of(invoke("--as-of", "2026-03-11T11:00:00Z"))
    for command in ("verify", "prune"):
        result = invoke(command)
        assert (result.exit_code, result.stderr) == (1, f"Error: {says}\n")
    assert not other.exists()
    assert state(environment, redis) == before
    assert invoke("--as-of", AS_OF, "--no-online").exit_code == 0, "what is not published may go anywhere"
    assert len(list(other.glob("*/*/*.parquet"))) == len(VIEWS)
    (tmp_path / "link").symlink_to(root)
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path / "link"))
    assert invoke("--as-of", AS_OF).exit_code == 0


def test_an_empty_data_directory_counts_as_not_set(
    environment: Dcmms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for text, expected in (("", REPOSITORY / "data"), ("kept", REPOSITORY / "kept"), (str(tmp_path), tmp_path)):
        monkeypatch.setenv("FEATURE_DATA_DIR", text)
        assert load_settings().feature_data_dir == expected
        assert sources()("asset_features").path == str(expected / "asset_features")


# other online stores, and what others write ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redis_type", "is_up", "message"),
    [
        ("redis_cluster", False, "Redis: Redis Cluster cannot be connected."),
        ("redis_cluster", True, ": this is a single server: leave out redis_type in feature_store.yaml"),
        ("redis_sentinel", True, "`SENTINEL`, with args beginning with: `MASTERS`,: this is no Sentinel: name the"),
    ],
)
def test_cluster_or_sentinel_that_is_none_or_down_is_one_line(
    environment: Dcmms,
    store_yaml: Path,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    redis_type: str,
    is_up: bool,
    message: str,
) -> None:
    view = ("--view", "work_order_features")
    assert invoke("--as-of", AS_OF, *view).exit_code == 0
    before = state(environment, redis)
    other = tmp_path / "feature_store.yaml"
    other.write_text(store_yaml.read_text())
    node = f"127.0.0.1:{redis.port if is_up else free_port()}"
    set_online_store(
        other, redis_type=redis_type, sentinel_master="dcmms", connection_string=f"{node},socket_timeout=1"
    )
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(other))
    for engine in ("redis", "feast"):
        result = invoke("--as-of", AS_OF, *view, "--engine", engine)
        assert (result.exit_code, message in errors_of(result)[0]) == (1, True), result.output
    result = invoke("verify", *view)
    assert (result.exit_code, result.stderr.count("\n"), message in result.stderr) == (1, 1, True), result.output
    assert "Traceback" not in invoke("status").output
    assert state(environment, redis) == before


def test_entity_id_that_is_no_text_is_another_programs(environment: Dcmms, redis: RedisServer) -> None:
    view = ("--view", "work_order_features")
    assert invoke("--as-of", AS_OF, *view).exit_code == 0
    with closing(redis_client.Redis(port=redis.port)) as client:
        key = next(key for key in client.scan_iter() if str(asset_key(1)).encode() in key)
        odd = key.replace(str(asset_key(1)).encode(), b"\xff" * 36)
        client.hset(odd, mapping=client.hgetall(key))
        for command in (("verify", *view), ("prune", *view), ("--as-of", AS_OF, *view), ("status",)):
            result = invoke(*command)
            assert "Traceback" not in result.output, result.output
            assert result.exit_code == (1 if command[0] == "status" else 0), (
                "of what is online status finds views missing"
            )
        assert client.exists(odd)


# screens ----------------------------------------------------------------------------------------------------------


def test_screens_of_80_columns_cut_nothing(
    environment: Dcmms, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def screen(*command: str) -> str:
        result = invoke(*command)
        assert "…" not in result.stdout
        wide = [line for line in result.stdout.splitlines() if len(line.rstrip()) > int(columns)]
        assert wide == [], "\n".join(wide)
        return result.stdout

    live = ("--view", "work_order_features")
    assert invoke(*live, "--no-online").exit_code == 0
    now = datetime.now(UTC)
    hours = ("--start", (now - timedelta(hours=1)).isoformat(), "--end", (now + timedelta(hours=1)).isoformat())
    for columns in ("120", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        run = screen("--as-of", AS_OF)
        assert run.count(" online") == len(VIEWS)
        status = screen("status")
        assert status.count(" too old") == len(VIEWS)
        for view in VIEWS:
            assert view in run and view in status
            assert re.search(rf"{view} .* \d+ (d|h|min) ", status)
        assert "2 h" in status
        assert "recent_telemetry_features " in screen("verify")
        assert "days_since_last_corrective_wo" in screen("skew", *hours, *live)
    environment.asset(7)
    with closing(redis_client.Redis(port=redis.port)) as client:
        client.flushall()
    assert screen("status").count(" not online") == len(VIEWS)
    verify = screen("verify")
    assert "  hours_since_last_critical_alarm" in verify or "  days_since_last_corrective_wo" in verify
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert invoke("--as-of", AS_OF).exit_code == 1
    assert ": PostgreSQL: connection to server at" in " ".join(screen("status").split())


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_a_log_format(command: str) -> None:
    (option,) = [option for option in cli.commands[command].params if option.name == "log_format"]
    assert option.opts == ["--log-format"]


def test_what_is_asked_for_is_one_line_of_json(environment: Dcmms) -> None:
    assert invoke("--as-of", AS_OF).exit_code == 0
    result = invoke("status", "--log-format", "json")
    (line,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert (result.exit_code, result.stdout, line["message"]) == (1, "", "status")
    assert [(view["view"], view["state"]) for view in line["views"]] == [(view, "too old") for view in VIEWS]
    assert [(run["outcome"], run["as_of"]) for run in line["runs"]][:1] == [("done", "2026-03-11T10:00:00+00:00")]
    result = invoke("verify", "--log-format", "json")
    (line,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert (result.exit_code, result.stdout, line["message"]) == (0, "", "consistency")
    assert {feature["view"] for feature in line["features"]} == set(VIEWS)
    assert "entities removed" in invoke("prune", "--log-format", "json").stderr

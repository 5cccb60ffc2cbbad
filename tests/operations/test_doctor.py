"""The doctor: a healthy production passes, and each check finds the one thing that is broken for it."""

import io
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import clickhouse_connect
import pyarrow.parquet as pq
import pytest
from redis import Redis, RedisError
from rich.console import Console

import pipeline.operations.doctor.clickhouse as clickhouse_checks
import pipeline.operations.doctor.postgres as postgres_checks
from dev.schema import create_clickhouse_schema
from dev.servers import RedisServer, free_port
from pipeline.base.clock import duration
from pipeline.base.settings import Settings, load_settings
from pipeline.base.specs import SERVICES, VIEWS, snapshot_schema
from pipeline.base.views import VIEW_NAMES
from pipeline.online.redis.layout import TESTED_FEAST
from pipeline.operations.doctor.check import Check, State, Subject
from pipeline.operations.doctor.clickhouse import check_clickhouse
from pipeline.operations.doctor.clock import check_clock
from pipeline.operations.doctor.feature_server import check_feature_server
from pipeline.operations.doctor.postgres import check_postgres
from pipeline.operations.doctor.redis import check_redis
from pipeline.operations.doctor.registry import check_registry
from pipeline.operations.doctor.settings import read_settings
from pipeline.operations.doctor.snapshots import LEFTOVER_SECONDS, check_snapshots
from pipeline.operations.doctor.store import read_store_config
from pipeline.operations.doctor.transport import check_transport
from pipeline.registry.feast_store import load_store_config, open_feature_store
from pipeline.registry.lock import one_at_a_time
from pipeline.sources.schema import INSTANT, TELEMETRY, Column
from serving.online_store import _fields, string_keys
from tests.commands import invoke
from tests.gateways import served
from tests.production import DATABASE, REGISTRY, Production

Finding = dict[str, str]

EVERY_CHECK = {
    "Settings values",
    *(f"PostgreSQL {name}" for name in ("connection", "TLS", "version", "clock", "role", "schema", "rights", "SQL")),
    *(
        f"ClickHouse {name}"
        for name in ("connection", "TLS", "clock", "user", "schema", "SQL", "telemetry", "bucket width")
    ),
    *(f"Snapshots {name}" for name in ("folder", "privacy", "space", "leftovers", "files")),
    *(f"Feast {name}" for name in ("configuration", "version", "authentication")),
    *(f"Registry {name}" for name in ("connection", "TLS", "tables", "rights", "lock", "code", "definitions")),
    *(
        f"Redis {name}"
        for name in (
            "connection",
            "TLS",
            "clock",
            "mode",
            "role",
            "memory",
            "eviction",
            "persistence",
            "writes",
            "rows",
            "time-outs",
        )
    ),
    "Feature server access",
}


SUBJECTS: dict[str, Callable[[], Iterator[Check]]] = {
    "PostgreSQL": lambda: check_postgres(load_settings()),
    "ClickHouse": lambda: check_clickhouse(load_settings(), datetime.now(UTC)),
    "Snapshots": lambda: check_snapshots(load_settings()),
    "Registry": lambda: check_registry(load_store_config()),
    "Redis": lambda: check_redis(load_store_config()),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the snapshots, with which the definitions are registered."""
    return tmp_path_factory.mktemp("snapshots") / "data"


@pytest.fixture(scope="module")
def registered(production: Production, data_dir: Path) -> Iterator[Production]:
    with pytest.MonkeyPatch.context() as patch:
        production.use(patch, data_dir)
        production.register()
    yield production


@pytest.fixture
def healthy(registered: Production, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Production:
    """A production in whose environment the doctor finds nothing."""
    registered.use(monkeypatch, data_dir)
    return registered


def findings(subject: str | None = None, *options: str) -> dict[str, Finding]:
    """Return what the doctor finds, of one subject or by the command of all, by check."""
    if subject:
        lines = [Finding(message=check.text, **check.as_json()) for check in SUBJECTS[subject]()]
    else:
        result = invoke("doctor", "--log-format", "json", *options)
        *lines, summary = [json.loads(line) for line in result.stderr.splitlines()]
        assert result.stdout == ""
        for line in lines:
            assert line["level"] == {"fails": "ERROR", "warning": "WARNING"}.get(line["state"], "INFO")
        fails = sum(line["state"] == "fails" for line in lines)
        assert result.exit_code == (1 if fails else 0)
        assert f"failures {fails}: " in summary["message"]
    for line in lines:
        assert bool(line["fix"]) == (line["state"] in ("fails", "warning"))
    found = {f"{line['subject']} {line['check']}".strip(): line for line in lines}
    assert len(found) == len(lines), "a line per check"
    return found


def broken(found: dict[str, Finding]) -> dict[str, str]:
    """Return the checks that are not ok, with their states."""
    return {name: line["state"] for name, line in found.items() if line["state"] != "ok"}


def test_a_healthy_production_passes_and_nothing_is_written(healthy: Production, data_dir: Path) -> None:
    before = contents(healthy)
    found = findings()
    assert broken(found) == {}
    assert set(found) == EVERY_CHECK
    assert contents(healthy) == before
    assert not data_dir.exists()


def contents(production: Production) -> tuple[object, ...]:
    """Return all that the doctor could have written to."""
    with closing(production.admin(REGISTRY)) as connection, connection.cursor() as cursor:
        cursor.execute("select relname, n_tup_ins, n_tup_upd, n_tup_del from pg_stat_user_tables order by 1")
        tables = cursor.fetchall()
    with Redis(port=production.redis.port) as client:
        keys = sorted((key, client.dump(key)) for key in client.scan_iter())
        return tables, keys, client.info("persistence")["rdb_changes_since_last_save"]


def test_for_people_there_is_a_line_per_check_and_the_fix_below(
    healthy: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://feature_store:wr0ng-Pa55@127.0.0.1:1/dcmms")
    result = invoke("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("fails"))
    assert lines[at] == (
        'fails       PostgreSQL connection    connection to server at "127.0.0.1", port 1 failed: Connection refused'
    )
    assert lines[at + 1].startswith("            → check DATABASE_URL (host, port, user, password, database)")
    assert lines[at + 2] == (
        "not checked PostgreSQL               TLS, version, clock, role, schema, rights, SQL: no connection"
    )
    assert lines[-1] == "ok 36, warnings 0, failures 1: put right what fails"


def test_everything_down_at_once_is_told_in_time(
    healthy: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    here = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:secret-1@{here}/d")
    monkeypatch.setenv("CLICKHOUSE_HOST", f"http://{here}")
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path / "file" / "data"))
    monkeypatch.setenv("FEAST_REGISTRY_URL", f"postgresql+psycopg://u:secret-2@{here}/d")
    monkeypatch.setenv("REDIS_CONNECTION", f"{here},password=secret-3")
    began = time.monotonic()
    found = findings()
    assert time.monotonic() - began < 10
    unreachable = {"PostgreSQL", "ClickHouse", "Registry", "Redis"}
    assert broken(found) == {
        **{f"{name} connection": "fails" for name in unreachable},
        **dict.fromkeys(unreachable, "not checked"),
        "Snapshots folder": "fails",
        "Snapshots": "not checked",
    }


def test_without_settings_and_configuration_it_says_what_it_could_not_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "CLICKHOUSE_HOST", "CLICKHOUSE_DSN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", "/nonexistent")
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", "/nonexistent.yaml")
    found = findings()
    assert broken(found) == {
        "Settings values": "fails",
        "Feast configuration": "fails",
        **dict.fromkeys(
            ("PostgreSQL", "ClickHouse", "Snapshots", "Registry", "Redis", "Feature server"), "not checked"
        ),
    }
    assert "DATABASE_URL is missing" in found["Settings values"]["message"]


def test_servers_that_never_answer_do_not_hang_it(healthy: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("postgres", "clickhouse", "redis", "registry"):
        monkeypatch.setattr(f"pipeline.operations.doctor.{module}.CONNECT_SECONDS", 2, raising=False)  # libpq's least
        monkeypatch.setattr(f"pipeline.operations.doctor.{module}.ANSWER_SECONDS", 1, raising=False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        here = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("DATABASE_URL", f"postgresql://u:secret-1@{here}/d")
        monkeypatch.setenv("CLICKHOUSE_HOST", f"http://{here}")
        monkeypatch.setenv("FEAST_REGISTRY_URL", f"postgresql+psycopg://u:secret-2@{here}/d")
        monkeypatch.setenv("REDIS_CONNECTION", f"{here},password=secret-3")
        began = time.monotonic()
        subjects = ("PostgreSQL", "ClickHouse", "Registry", "Redis")
        with ThreadPoolExecutor() as pool:
            for subject, found in zip(subjects, pool.map(findings, subjects), strict=True):
                assert broken(found) == {f"{subject} connection": "fails", subject: "not checked"}
        assert time.monotonic() - began < 15


# one thing broken each --------------------------------------------------------------------------------------------


@contextmanager
def changed(production: Production, database: str, change: str, back: str) -> Iterator[None]:
    """Change a database for the length of the block."""
    with closing(production.admin(database)) as connection, connection.cursor() as cursor:
        cursor.execute(change)
        try:
            yield
        finally:
            cursor.execute(back)


@pytest.mark.parametrize(
    ("database", "change", "back", "expected", "text", "fix"),
    [
        (
            DATABASE,
            "alter table work_orders rename scheduled_end to planned_end",
            "alter table work_orders rename planned_end to scheduled_end",
            {"PostgreSQL schema": "fails", "PostgreSQL": "not checked"},
            "missing: work_orders.scheduled_end",
            "search_path",
        ),
        (
            DATABASE,
            "alter table alerts rename to alarms",
            "alter table alarms rename to alerts",
            {"PostgreSQL schema": "fails", "PostgreSQL": "not checked"},
            "missing: alerts",
            "search_path",
        ),
        (
            DATABASE,
            "revoke select (severity) on alerts from feature_store",
            "grant select (severity) on alerts to feature_store",
            {"PostgreSQL rights": "fails", "PostgreSQL": "not checked"},
            "may not read alerts",
            "grant select (severity) on alerts",
        ),
        (
            DATABASE,
            "alter type work_order_type rename value 'corrective' to 'repair'",
            "alter type work_order_type rename value 'repair' to 'corrective'",
            {"PostgreSQL schema": "warning", "PostgreSQL SQL": "fails"},
            "corrective",
            "features/",
        ),
        (
            DATABASE,
            "alter type work_order_type rename value 'inspection' to 'audit'",
            "alter type work_order_type rename value 'audit' to 'inspection'",
            {"PostgreSQL schema": "warning"},
            "work_orders.type may be audit, which no feature knows; work_orders.type is never inspection any more",
            "pipeline/sources/schema.py",
        ),
        (
            DATABASE,
            "alter table alerts alter triggered_at type date",
            "alter table alerts alter triggered_at type timestamp",
            {"PostgreSQL schema": "fails", "PostgreSQL": "not checked"},
            "alerts.triggered_at is date, and the features take it for an instant",
            "pipeline/sources/schema.py",
        ),
        (
            DATABASE,
            "alter table assets alter site_id drop not null; alter table alerts alter severity type text",
            "alter table assets alter site_id set not null;"
            " alter table alerts alter severity type alert_severity using severity::alert_severity",
            {"PostgreSQL schema": "warning"},
            "alerts.severity is text, and may be what no feature knows; assets.site_id may be NULL, and",
            "features/*.sql",
        ),
        (
            DATABASE,
            "create domain instant as timestamp not null; alter table assets rename to stored;"
            " alter table stored alter created_at type instant, alter created_at drop not null;"
            " create view assets as select * from stored; grant select on assets to feature_store",
            "drop view assets; alter table stored rename to assets;"
            " alter table assets alter created_at type timestamp, alter created_at set not null; drop domain instant",
            {},
            "",
            "",
        ),
        (
            DATABASE,
            "create domain instant as timestamp not null;"
            " alter table assets alter created_at type instant, alter created_at drop not null",
            "alter table assets alter created_at type timestamp, alter created_at set not null; drop domain instant",
            {},
            "",
            "",
        ),
        (
            DATABASE,
            "grant delete on assets to feature_store",
            "revoke delete on assets from feature_store",
            {"PostgreSQL role": "warning"},
            "may also change rows",
            "deploy/sql/postgres_extraction.sql",
        ),
        (
            DATABASE,
            "alter table wind_turbine_metadata rename to no_turbines",
            "alter table no_turbines rename to wind_turbine_metadata",
            {},
            "",
            "",
        ),
        (
            REGISTRY,
            "alter table feast.permissions rename to permission",
            "alter table feast.permission rename to permissions",
            {"Registry tables": "fails", "Registry": "not checked"},
            "permissions",
            "feast apply",
        ),
        (
            REGISTRY,
            "alter table feast.feature_views owner to postgres",
            "alter table feast.feature_views owner to feast_production",
            {"Registry rights": "fails", "Registry": "not checked"},
            "may not select, insert and update feature_views",
            "deploy/sql/postgres_registry.sql",
        ),
        (
            REGISTRY,
            "alter table if exists feast.materialization_runs rename to runs;"
            " revoke create on schema feast from feast_production",
            "alter table if exists feast.runs rename to materialization_runs;"
            " grant create on schema feast to feast_production",
            {"Registry rights": "fails", "Registry": "not checked"},
            "may make no table in schema feast, and the first run makes the ledger materialization_runs",
            "deploy/sql/postgres_registry.sql",
        ),
    ],
)
def test_databases(
    healthy: Production,
    database: str,
    change: str,
    back: str,
    expected: dict[str, str],
    text: str,
    fix: str,
) -> None:
    with changed(healthy, database, change, back):
        found = findings("PostgreSQL" if database == DATABASE else "Registry")
    assert broken(found) == expected
    for name in expected:
        if " " in name:
            assert text in found[name]["message"]
            assert fix in found[name]["fix"]


def test_both_variants_of_the_schema_are_what_the_features_need(settings: Settings) -> None:
    (schema,) = [check for check in check_postgres(settings) if check.name == "schema"]
    assert (schema.state, schema.text) == (State.OK, "6 tables with every column that is read")


def test_an_old_postgres_is_refused(healthy: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_checks, "OLDEST_VERSION", 99)
    found = findings("PostgreSQL")
    assert broken(found) == {"PostgreSQL version": "fails"}
    assert found["PostgreSQL version"]["message"].endswith(", and the SQL needs 99")


@pytest.mark.parametrize(
    ("variable", "value", "expected", "text"),
    [
        ("CLICKHOUSE_PASSWORD", "wr0ng-Pa55", {"ClickHouse connection", "ClickHouse"}, "Authentication failed"),
        ("CLICKHOUSE_DATABASE", "nowhere", {"ClickHouse connection", "ClickHouse"}, "nowhere"),
        ("TELEMETRY_BUCKET_MINUTES", "10", {"ClickHouse bucket width"}, "60 minutes apart"),
        (
            "STATEMENT_TIMEOUT_SECONDS",
            "0",
            {"Settings values", "PostgreSQL", "ClickHouse", "Snapshots", "Feature server"},
            "greater",
        ),
    ],
)
def test_settings_and_clickhouse(
    healthy: Production, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: set[str], text: str
) -> None:
    monkeypatch.setenv(variable, value)
    found = findings(None if "Settings values" in expected else "ClickHouse")
    assert set(broken(found)) == expected
    (failure,) = [line for line in found.values() if line["state"] == "fails"]
    assert text in failure["message"]


def test_telemetry_table_that_differs(healthy: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TELEMETRY, "p999_value", Column(INSTANT))
    found = findings("ClickHouse")
    assert broken(found) == {"ClickHouse schema": "fails", "ClickHouse": "not checked"}
    assert found["ClickHouse schema"]["message"].startswith("telemetry_aggregates lacks p999_value")
    assert "deploy/sql/clickhouse.sql" in found["ClickHouse schema"]["fix"]


def test_the_embedded_engine(healthy: Production, clickhouse_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_DSN", f"chdb://{clickhouse_directory}")
    assert broken(findings("ClickHouse")) == {"ClickHouse connection": "fails", "ClickHouse": "not checked"}
    with closing(clickhouse_connect.get_client(dsn=f"chdb://{clickhouse_directory}")) as client:
        create_clickhouse_schema(client)
        empty = {"ClickHouse telemetry": "fails", "ClickHouse": "not checked"}
        assert broken(findings("ClickHouse")) == empty

        def with_columns(*changes: str) -> dict[str, Finding]:
            columns = ", ".join(f"modify column {change}" for change in changes)
            client.command(f"alter table dcmms_analytics.telemetry_aggregates {columns}")
            return findings("ClickHouse")

        known = ("avg_value Nullable(Float32)", "count UInt64", "min_value Decimal(18, 4)")
        found = with_columns(*known, "site_id LowCardinality(Nullable(String))")
        assert broken(found) == empty | {"ClickHouse schema": "warning"}
        null = "telemetry_aggregates.site_id may be NULL, and no feature knows what that means"
        assert found["ClickHouse schema"]["message"] == null
        found = with_columns("stddev_value String")
        assert broken(found) == {"ClickHouse schema": "fails", "ClickHouse": "not checked"}
        assert found["ClickHouse schema"]["message"] == (
            f"{null}; telemetry_aggregates.stddev_value is String, and the features take it for a number"
        )


def test_telemetry_that_is_late(healthy: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickhouse_checks, "LATE", timedelta(hours=-2))
    assert broken(findings("ClickHouse")) == {"ClickHouse telemetry": "warning"}
    monkeypatch.setattr(clickhouse_checks, "WINDOW", timedelta(0))
    assert broken(findings("ClickHouse")) == {"ClickHouse telemetry": "fails", "ClickHouse": "not checked"}


def test_telemetry_that_is_over_by_now_is_there_as_of_its_end(healthy: Production) -> None:
    """As that of the demo fleet is."""
    now = datetime.now(UTC)
    (*_, telemetry, _) = check_clickhouse(load_settings(), now + timedelta(days=100))
    assert (telemetry.state, telemetry.name) == (State.FAILS, "telemetry")
    assert "--as-of" in telemetry.fix
    assert broken(findings(None, "--as-of", now.strftime("%Y-%m-%dT%H:%M:%SZ"))) == {}
    found = findings(None, "--as-of", (now - timedelta(days=100)).isoformat())
    assert broken(found) == {"ClickHouse telemetry": "fails", "ClickHouse": "not checked"}
    assert found["ClickHouse telemetry"]["message"].startswith("none in the 90 d before ")


def test_settings_file_that_others_may_read(
    healthy: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings"
    file.write_text("CLICKHOUSE_PASSWORD='secret-1'\n")
    file.chmod(0o644)
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", str(file))
    found = findings()
    assert broken(found) == {"Settings file": "warning"}
    assert found["Settings file"]["fix"] == f"chmod 600 {file}"
    file.chmod(0o600)
    assert [check.state for check in read_settings()[0]] == [State.OK, State.OK]


def test_a_word_that_lets_everybody_past_authentication(
    healthy: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings"
    file.write_text("INTRA_COMMUNICATION_BASE64='c2VjcmV0LWRvb3I='\n")
    file.chmod(0o600)
    for name, value in (("INTRA_COMMUNICATION_BASE64", "c2VjcmV0LWRvb3I="), ("FEATURE_STORE_ENV_FILE", str(file))):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            checks, config = read_store_config()
        assert config
        (check,) = [check for check in checks if check.state != State.OK]
        assert (check.name, check.state) == ("authentication", State.FAILS)
        assert "INTRA_COMMUNICATION_BASE64 is set: " in check.text and "c2VjcmV0" not in check.text + check.fix


@pytest.mark.parametrize(
    ("statuses", "state", "text"),
    [
        ({"/health": 200, "/push": 422}, State.WARNING, "takes writes from whoever reaches it"),
        ({"/health": 200, "/push": 401}, State.OK, "asks for a token"),
        ({"/health": 200, "/push": 404}, State.OK, "lets reading through, and no writing"),
        ({"/health": 200, "/push": 500}, State.OK, "answers 500 to what is no request"),
        ({"/health": 404, "/push": 422}, State.OK, "is no feature server"),
        ({}, State.OK, "none answers at"),
    ],
)
def test_feature_server(
    healthy: Production, monkeypatch: pytest.MonkeyPatch, statuses: dict[str, int], state: State, text: str
) -> None:
    """What stock Feast answers is in the tests of the registry's reader."""

    async def app(scope: dict, _receive: object, send: Callable) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": statuses[scope["path"]], "headers": []})
            await send({"type": "http.response.body", "body": b""})

    with served(app) if statuses else nullcontext(free_port()) as port:
        monkeypatch.setenv("FEATURE_SERVER_URL", f"127.0.0.1:{port}")
        (check,) = check_feature_server(load_settings())
    assert (check.state, bool(check.fix)) == (state, state == State.WARNING)
    assert text in check.text


def test_feast_of_another_version(healthy: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feast.__version__", "0.99.0")
    found = findings()
    assert broken(found) == {"Feast version": "fails"}
    assert TESTED_FEAST[0] in found["Feast version"]["message"]


def test_definitions_that_differ(
    healthy: Production, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(text: str) -> None:
        found = findings("Registry")
        assert broken(found) == {"Registry definitions": "fails"}
        assert text in found["Registry definitions"]["message"]
        assert "feast apply" in found["Registry definitions"]["fix"]

    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path / "elsewhere"))
    fails(f"its snapshots are registered in {data_dir}")
    monkeypatch.setenv("FEATURE_DATA_DIR", str(data_dir))
    with monkeypatch.context() as patch:
        view = VIEWS["work_order_features"]
        patch.setattr(view, "features", view.features[:-1])
        fails(f"feature view work_order_features: features {VIEWS['work_order_features'].projection.features[-1].name}")
    with monkeypatch.context() as patch:
        (projection, *_) = SERVICES["predictive_maintenance_v1"].feature_view_projections
        patch.setattr(projection, "features", projection.features[:-1])
        fails("feature service predictive_maintenance_v1: features model")
    with monkeypatch.context() as patch:
        patch.setattr(VIEWS["asset_features"], "description", "other words")
        found = findings("Registry")
        assert broken(found) == {"Registry definitions": "warning"}
        assert "feature view asset_features: description" in found["Registry definitions"]["message"]
    with closing(healthy.admin(REGISTRY)) as connection, connection.cursor() as cursor:
        cursor.execute("delete from feast.feature_services; delete from feast.entities where entity_name = 'site'")
    fails("entity site is not registered; feature service predictive_maintenance_v1 is not registered")
    healthy.register()


@pytest.mark.filterwarnings("ignore:The spark data source API:RuntimeWarning")
@pytest.mark.parametrize("engine", ["spark", "clickhouse"])
def test_sources_of_an_engine_are_no_fault(
    healthy: Production, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("data_sources._offline_store", lambda _: engine)
        healthy.register()
    assert broken(findings("Registry")) == {}
    if engine == "spark":
        with monkeypatch.context() as patch:
            patch.setenv("FEATURE_DATA_DIR", str(tmp_path / "elsewhere"))
            assert broken(findings("Registry")) == {"Registry definitions": "fails"}
    assert invoke("--as-of", healthy.as_of_text, "--view", "work_order_features").exit_code == 0
    healthy.register()


def test_a_run_that_is_busy_is_no_fault(healthy: Production) -> None:
    with open_feature_store() as store, one_at_a_time(store):
        found = findings("Registry")
    assert broken(found) == {}
    assert found["Registry lock"]["message"].startswith("a run is busy: materialize_features ")


def test_snapshot_folder(healthy: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("FEATURE_DATA_DIR", str(data))
    leftover = data / VIEW_NAMES[0] / "snapshot_date=2026-01-01" / ".20260101T000000Z-17.tmp"
    leftover.parent.mkdir(parents=True)
    data.chmod(0o755)
    assert broken(findings("Snapshots")) == {"Snapshots privacy": "warning"}
    assert findings("Snapshots")["Snapshots privacy"]["fix"] == f"chmod o= {data}"
    data.chmod(0o750)
    leftover.write_bytes(b"x" * 2000)
    assert broken(findings("Snapshots")) == {}, "it may belong to a run that is busy"
    old = time.time() - LEFTOVER_SECONDS - 60
    os.utime(leftover, (old, old))
    found = findings("Snapshots")
    assert broken(found) == {"Snapshots leftovers": "warning"}
    assert str(leftover) in found["Snapshots leftovers"]["message"]
    leftover.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.operations.doctor.snapshots.LITTLE_BYTES", 1 << 60)
        assert broken(findings("Snapshots")) == {"Snapshots space": "warning"}
    snapshot = leftover.with_name("20260101T000000Z.parquet")
    pq.write_table(snapshot_schema(VIEW_NAMES[0]).empty_table(), snapshot)
    with snapshot.open("r+b") as file:  # a hole takes no space
        footer = file.seek(-8, os.SEEK_END) - int.from_bytes(file.read(4), "little")
        file.seek(footer)
        tail = file.read()
        file.seek(shutil.disk_usage(data).free)
        file.write(tail)
    found = findings("Snapshots")
    assert broken(found) == {"Snapshots space": "fails"}
    assert "the next run may not fit" in found["Snapshots space"]["message"]


def test_files_in_the_readers_way_are_named(
    healthy: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path))
    schema = snapshot_schema(VIEW_NAMES[0])
    stray, half, older = (
        tmp_path / VIEW_NAMES[0] / "snapshot_date=2026-01-01" / name
        for name in ("copy.parquet", "20260101T000000Z.parquet", "20260101T010000Z.parquet")
    )
    stray.parent.mkdir(parents=True)
    tmp_path.chmod(0o700)
    half.write_bytes(b"PAR1")
    pq.write_table(schema.remove(len(schema) - 1).empty_table(), older)
    found = findings("Snapshots")
    assert broken(found) == {"Snapshots files": "warning"}
    assert f"1 files are no snapshots that can be read, e.g. {half}" in found["Snapshots files"]["message"]
    assert f"1 snapshots are of an older definition, e.g. {older}" in found["Snapshots files"]["message"]
    half.unlink()
    older.rename(stray)
    assert f"e.g. {stray}: Feast's own readers stumble" in findings("Snapshots")["Snapshots files"]["message"]
    stray.unlink()
    assert broken(findings("Snapshots")) == {}


# Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis whose configuration may be changed."""
    with RedisServer(tmp_path_factory.mktemp("redis"), free_port()) as server:
        yield server


def set_redis(**values: str) -> Callable[[Redis], None]:
    return lambda client: [client.config_set(name.replace("_", "-"), value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("change", "options", "expected", "text"),
    [
        (set_redis(maxmemory_policy="allkeys-lru"), "", {"Redis eviction": "warning"}, "allkeys-lru: a full Redis"),
        (set_redis(appendonly="no"), "", {"Redis persistence": "warning"}, "nothing saved since its start"),
        (
            set_redis(maxmemory="1"),
            "",
            {"Redis memory": "fails", "Redis writes": "fails"},
            "of 0 MB used",
        ),
        (
            lambda client: client.replicaof("127.0.0.1", "1"),
            "",
            {"Redis role": "fails", "Redis writes": "fails"},
            "this is a replica of 127.0.0.1:1",
        ),
        (
            lambda client: client.acl_setuser(
                "half", enabled=True, nopass=True, keys="*", commands=["+@all", "-hset", "-expire"]
            ),
            ",username=half,password=secret-1",
            {"Redis writes": "fails"},
            "refuses HSET, EXPIRE: this user has no permissions to run the 'hset' command",
        ),
        (
            lambda client: client.acl_setuser(
                "blind", enabled=True, nopass=True, keys="*", commands=["+@all", "-info", "-time"]
            ),
            ",username=blind,password=secret-1",
            {"Redis details": "warning", "Redis clock": "warning", "Redis": "not checked"},
            "this user has no permissions to run the 'info' command",
        ),
    ],
)
def test_redis(
    healthy: Production,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Redis], None],
    options: str,
    expected: dict[str, str],
    text: str,
) -> None:
    monkeypatch.setenv("REDIS_CONNECTION", f"127.0.0.1:{own_redis.port}{options}")
    with Redis(port=own_redis.port) as client:
        set_redis(appendonly="yes", appendfsync="no")(client)
        change(client)
        try:
            found = findings("Redis")
        finally:
            client.replicaof("NO", "ONE")
            set_redis(maxmemory="0", maxmemory_policy="noeviction", appendonly="yes")(client)
        assert client.dbsize() == 0
    assert broken(found) == expected
    assert text in found[next(iter(expected))]["message"]


def test_redis_that_is_nearly_full(
    healthy: Production, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_CONNECTION", f"127.0.0.1:{own_redis.port}")
    with Redis(port=own_redis.port) as client:
        client.config_set("maxmemory", int(client.info()["used_memory"] * 1.15))
        found = findings("Redis")
        client.config_set("maxmemory", 0)
    assert broken(found) == {"Redis memory": "warning"}
    assert re.search(r"used \([89]\d%\)", found["Redis memory"]["message"])


def test_redis_that_cannot_save(
    healthy: Production, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_CONNECTION", f"127.0.0.1:{own_redis.port}")
    gone = tmp_path / "gone"
    gone.mkdir()
    with Redis(port=own_redis.port) as client:
        set_redis(appendonly="no", dir=str(gone))(client)
        gone.rmdir()
        deadline = time.monotonic() + 10
        while client.info("persistence")["rdb_last_bgsave_status"] == "ok" and time.monotonic() < deadline:
            with suppress(RedisError):  # one is under way
                client.bgsave()
            time.sleep(0.05)
        found = findings("Redis")
        set_redis(dir=str(own_redis.data))(client)
        while client.info("persistence")["rdb_last_bgsave_status"] != "ok" and time.monotonic() < deadline:
            with suppress(RedisError):
                client.bgsave()
            time.sleep(0.05)
    assert broken(found) == {"Redis persistence": "fails", "Redis writes": "fails"}
    assert found["Redis persistence"]["message"].startswith("its last save to disk failed")
    assert "MISCONF" in found["Redis writes"]["message"]


def test_rows_that_are_no_small_hashes(
    healthy: Production, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_CONNECTION", f"127.0.0.1:{own_redis.port}")
    first, second = string_keys("dcmms", "asset_id", ["a", "b"])
    _, model = _fields("asset_features", ("model",))
    with Redis(port=own_redis.port) as client:
        set_redis(appendonly="yes")(client)
        try:
            client.hset(first, mapping={model: "x" * 64})
            client.hset("of another project", mapping={"long": "x" * 65})
            assert findings("Redis")["Redis rows"]["message"] == "small hashes (1 looked at)"
            client.hset(second, mapping={model: "x" * 200, "other": "x"})
            client.acl_setuser("old", enabled=True, nopass=True, keys="*", commands=["+@all", "-object"])
            found = findings("Redis")
            monkeypatch.setenv("REDIS_CONNECTION", f"127.0.0.1:{own_redis.port},username=old,password=secret-1")
            unknown = findings("Redis")
        finally:
            client.flushall()
    assert broken(found) == {"Redis rows": "warning"}
    row = found["Redis rows"]
    assert row["message"].startswith("1 of 2 that were looked at are hashtables")
    assert row["message"].endswith("one has 2 values, the longest, asset_features.model, of 200 bytes")
    assert "hash-max-listpack-value to 256 and hash-max-listpack-entries to 128 " in row["fix"]
    assert broken(unknown) == {"Redis": "not checked"}


class ClusterNode(RedisServer):
    """A node of a cluster that has no other."""

    def _prepare(self) -> None:
        super()._prepare()
        with self._config.open("a") as config:
            config.write("cluster-enabled yes\nappendonly yes\n")


def test_node_of_a_cluster(healthy: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = next(port for port in iter(free_port, None) if port <= 55535)  # the bus of the cluster is 10000 above
    with ClusterNode(tmp_path, port) as node:
        monkeypatch.setenv("REDIS_CONNECTION", f"127.0.0.1:{node.port}")
        found = findings("Redis")
    assert broken(found) == {"Redis mode": "fails", "Redis writes": "fails"}
    assert "redis_type: redis_cluster" in found["Redis mode"]["fix"]


def test_redis_without_time_outs(healthy: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(healthy.environment["FEAST_FS_YAML_FILE_PATH"]).read_text()
    (tmp_path / "feature_store.yaml").write_text(text.replace(",socket_timeout=5", ""))
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(tmp_path / "feature_store.yaml"))
    found = findings("Redis")
    assert broken(found) == {"Redis time-outs": "warning"}
    assert "no socket_timeout: " in found["Redis time-outs"]["message"]


# clocks and transport ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        (0.0, State.OK, "0 s from"),
        (1.5, State.OK, "1.5 s from"),
        (-3.0, State.WARNING, "3 s ahead of"),
        (58.0, State.WARNING, "58 s behind"),
        (-63.0, State.FAILS, "63 s ahead of"),
        (3600.0, State.FAILS, "60 min behind"),
    ],
)
def test_clocks(production: Production, ahead: float, state: State, words: str) -> None:
    with Redis(port=production.redis.port) as client:
        check = check_clock(Subject("Redis"), lambda: sum_of(client.time()), lambda: time.time() + ahead)
    assert check.state == state
    (expected, *unit), (found, *same_unit) = words.split(), check.text.split()
    assert float(found) == pytest.approx(float(expected), abs=0.4)
    assert same_unit[: len(unit)] == unit


def sum_of(parts: tuple[int, int]) -> float:
    return parts[0] + parts[1] / 1e6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (119.0, "119.0 s"),
        (2719.0, "45 min"),
        (12_000.0, "3 h 20 min"),
        (-12_000.0, "-3 h 20 min"),
        (273_600.0, "3 d 4 h"),
        (2_600_000.0, "30 d"),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_slow_answer_is_no_skew() -> None:
    clock = iter([100.0, 110.0])
    assert check_clock(Subject("x"), lambda: 100.0, lambda: next(clock)).state == State.OK


@pytest.mark.parametrize(
    ("host", "encrypted", "verified", "state", "text"),
    [
        ("redis.dcmms.example", True, True, State.OK, "on, the server's certificate is checked"),
        ("redis.dcmms.example", True, False, State.WARNING, "nobody checks that the server is redis.dcmms.example"),
        ("redis.dcmms.example", False, False, State.WARNING, "travel in clear to redis.dcmms.example"),
        ("10.1.2.3", False, False, State.WARNING, "travel in clear to 10.1.2.3"),
        ("127.0.0.1", False, False, State.OK, "not needed"),
        ("[::1]", False, False, State.OK, "not needed"),
        ("localhost", True, False, State.OK, "on"),
        ("/var/run/postgresql", False, False, State.OK, "not needed"),
    ],
)
def test_transport(host: str, encrypted: bool, verified: bool, state: State, text: str) -> None:
    check = check_transport(Subject("Redis"), host, encrypted=encrypted, verified=verified, fix="use TLS")
    assert (check.state, check.fix) == (state, "use TLS" if state == State.WARNING else "")
    assert text in check.text


def test_a_finding_is_one_line_and_on_a_terminal_goes_on_below_itself() -> None:
    check = Check("PostgreSQL", "role", State.WARNING, f"{'may change rows ' * 8}[x]", "grant select on a " * 9)
    assert [line[:12].strip() for line in check.line().splitlines()] == ["warning", ""]
    output = io.StringIO()
    Console(file=output, width=80, force_terminal=True, no_color=True).print(check.block())
    printed = re.sub(r"\x1b\[[\d;]*m", "", output.getvalue())
    assert max(map(len, map(str.rstrip, printed.splitlines()))) <= 80
    assert printed.split() == check.line().split()
    assert {line[:12].strip() for line in printed.splitlines()[1:]} == {""}

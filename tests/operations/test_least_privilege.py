"""The roles of deploy/sql: a run, a backfill, the doctor and the status need no more, and more they may not do."""

import gc
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import clickhouse_connect
import psycopg2
import pyarrow as pa
import pytest
import requests
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from pipeline import REPOSITORY
from pipeline.base.settings import load_settings
from pipeline.base.specs import VIEWS
from pipeline.online.redis.layout import RowEncoder
from pipeline.operations.doctor.check import State
from pipeline.operations.doctor.feature_server import check_feature_server
from pipeline.registry.feast_store import open_feature_store
from pipeline.sources import schema
from pipeline.sources.columns import postgres_columns, postgres_grants, postgres_queries
from pipeline.sources.extract import query_of
from pipeline.sources.telemetry import BUCKET_GAPS, ROWS_OF_SITES
from tests import gateways
from tests.commands import invoke
from tests.dcmms import asset_key
from tests.operations.test_end_to_end import feature_server
from tests.production import DATABASE, PASSWORDS, REGISTRY, SQL, Production, clickhouse_statements, psql

ASSETS, WORK_ORDERS, TELEMETRY = "asset_features", "work_order_features", "telemetry_features"


def test_everything_works_with_these_roles(
    production: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production.use(monkeypatch, tmp_path / "data")
    monkeypatch.setenv("SCHEDULE_MINUTES", "600")
    production.register()
    for arguments in (
        ["--as-of", production.as_of_text],
        ["verify"],
        ["prune"],
        ["--as-of", production.as_of_text, "--engine", "feast", "--view", WORK_ORDERS],
        ["backfill", "--start", f"{production.as_of:%Y-%m-%d}", "--end", f"{production.as_of:%Y-%m-%dT%H:%M:01Z}"],
        ["training-set", "--start", "2026-01-01", "--end", "2026-01-02", "--output", str(tmp_path / "t.parquet")],
        ["doctor"],
        ["status"],
    ):
        result = invoke(*arguments)
        if arguments[0] == "training-set":
            assert "has no snapshot for instants" in result.output, "the labels were read, features there are none"
        else:
            assert result.exit_code == 0, f"{arguments}: {result.output}"
        if arguments[0] == "doctor":
            assert re.search(r"\nok \d\d, warnings 0, failures 0: runs can start\n", result.output), result.output


def test_the_feature_server_reads_with_its_role(
    production: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production.use(monkeypatch, tmp_path / "data")
    production.register()
    assert invoke("--as-of", production.as_of_text, "--view", WORK_ORDERS).exit_code == 0
    connection = f"127.0.0.1:{production.redis.port},username=feature_server,password={PASSWORDS['server']}"
    monkeypatch.setenv("REDIS_CONNECTION", connection)
    monkeypatch.setenv("FEAST_REGISTRY_URL", production.registry_reader)
    with open_feature_store() as store:
        answer = store.get_online_features([f"{WORK_ORDERS}:wo_count_30d"], {"asset_id": [str(asset_key(1))]}).to_dict()
    assert answer["wo_count_30d"] == [1]
    assert invoke("status").exit_code == 1, "it may look, and finds what was never published"
    monkeypatch.setenv("FEAST_REGISTRY_URL", production.environment["FEAST_REGISTRY_URL"])
    result = invoke("--as-of", production.as_of_text, "--view", WORK_ORDERS)
    assert result.exit_code == 1
    assert "this user has no permissions to run" in result.output
    assert "deploy/sql/redis_users.conf" in result.output


# PostgreSQL: dCMMS ------------------------------------------------------------------------------------------------


@pytest.fixture
def extraction(production: Production) -> Iterator[psycopg2.extensions.cursor]:
    """A session of the role that reads dCMMS."""
    with closing(psycopg2.connect(production.environment["DATABASE_URL"])) as connection:
        connection.autocommit = True
        yield connection.cursor()


@pytest.mark.parametrize(
    "statement",
    [
        "insert into assets (id) values (gen_random_uuid())",
        "update assets set status = 'down'",
        "delete from assets",
        "truncate assets",
        "drop table assets",
        "alter table assets add column mine text",
        "create table mine (id int)",
        "create schema mine",
        "create database mine",
        "create role mine",
        "select * from users",
        "select * from tenants",
        "select * from assets",
        "select title from work_orders",
        "select assigned_to from work_orders",
        "copy assets (id) to program 'true'",
        "select pg_read_file('PG_VERSION')",
        "select rolpassword from pg_authid",
        "select lo_import('/etc/hostname')",
        "set role postgres",
    ],
)
def test_extraction_role_may_do_nothing_else(extraction: psycopg2.extensions.cursor, statement: str) -> None:
    extraction.execute("set default_transaction_read_only = off")  # rights, not this setting, have to refuse
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        extraction.execute(statement)


def test_extraction_role_has_its_limits(extraction: psycopg2.extensions.cursor) -> None:
    extraction.execute(
        "select name, setting from pg_settings where name in"
        " ('default_transaction_read_only', 'statement_timeout', 'idle_in_transaction_session_timeout', 'search_path')"
    )
    assert dict(extraction.fetchall()) == {
        "default_transaction_read_only": "on",
        "statement_timeout": "900000",
        "idle_in_transaction_session_timeout": "3600000",
        "search_path": "public",
    }
    extraction.execute("select rolconnlimit, rolsuper, rolbypassrls from pg_roles where rolname = current_user")
    assert extraction.fetchone() == (5, False, False)


def test_grants_are_the_columns_that_the_doctor_asks_for(production: Production) -> None:
    with closing(production.admin()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select table_name, array_agg(column_name::text) from information_schema.column_privileges"
            " where grantee = 'feature_store' and privilege_type = 'SELECT' group by table_name"
        )
        granted = {table: set(columns) for table, columns in cursor.fetchall()}
        cursor.execute(
            "select * from information_schema.column_privileges"
            " where grantee = 'feature_store' and privilege_type <> 'SELECT'"
        )
        assert cursor.fetchall() == []
    assert granted == {table: set(columns) for table, columns in postgres_columns().items()}


def test_grants_are_current() -> None:
    assert (SQL / "postgres_grants.sql").read_text() == postgres_grants(), "run `make docs`"


def test_every_column_that_is_read_is_declared() -> None:
    declared = {table: [*columns] for table, columns in schema.TABLES.items()}
    assert declared == postgres_columns(), "pipeline/sources/schema.py says of each what the SQL relies on"


def test_every_column_that_is_granted_is_read(production: Production) -> None:
    with closing(psycopg2.connect(production.postgres.url("postgres", DATABASE))) as connection:
        cursor = connection.cursor()

        def all_can_run() -> bool:
            cursor.execute("savepoint before_queries")
            try:
                cursor.execute("set local role feature_store")
                for query in postgres_queries():
                    cursor.execute(f"explain {query}")
            except psycopg2.errors.InsufficientPrivilege:
                return False
            finally:
                cursor.execute("rollback to before_queries")
            return True

        cursor.execute("set feature_store.as_of = '2026-01-01T00:00:00Z'; set timezone = 'UTC'")
        assert all_can_run()
        for table, columns in postgres_columns().items():
            for column in columns:
                cursor.execute(f"revoke select ({column}) on {table} from feature_store")
                assert not all_can_run(), f"no query reads {table}.{column}"
                cursor.execute(f"grant select ({column}) on {table} to feature_store")
        connection.rollback()


@pytest.mark.parametrize(
    ("file", "variable"),
    [
        ("postgres_extraction.sql", "FEATURE_STORE_PASSWORD"),
        ("postgres_registry.sql", "FEAST_REGISTRY_PASSWORD"),
        ("postgres_registry_reader.sql", "FEAST_READER_PASSWORD"),
    ],
)
def test_without_a_password_no_role_is_made(production: Production, file: str, variable: str) -> None:
    with pytest.raises(AssertionError, match=f"{variable} is not set"):
        psql(production.postgres, DATABASE, SQL / file, "role=nobody", "reader=nobody", "database=nobody")
    with closing(production.admin()) as connection, connection.cursor() as cursor:
        cursor.execute("select from pg_roles where rolname = 'nobody'")
        assert cursor.rowcount == 0


# PostgreSQL: the registry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "create schema mine",
        "create table public.mine (id int)",
        "create temporary table mine (id int)",
        "create database mine",
        "create role mine",
        "drop schema feast",
        "select pg_read_file('PG_VERSION')",
        "set role postgres",
    ],
)
def test_registry_role_may_do_nothing_else(production: Production, statement: str) -> None:
    url = production.environment["FEAST_REGISTRY_URL"].replace("+psycopg", "")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(statement)
        cursor.execute("select current_schema()")
        assert cursor.fetchone() == ("feast",)


@pytest.mark.parametrize(
    "statement",
    [
        "insert into projects select * from projects",
        "insert into on_demand_feature_views select * from on_demand_feature_views",
        "update feature_views set feature_view_proto = ''",
        "delete from feature_services",
        "truncate entities",
        "drop table feature_views",
        "create table mine (id int)",
        "create temporary table mine (id int)",
        "update materialization_runs set outcome = 'done'",
        "set role feast_production",
    ],
)
def test_registry_reader_may_only_read(production: Production, registered: None, statement: str) -> None:
    with closing(psycopg2.connect(production.registry_reader.replace("+psycopg", ""))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("select count(*) from feature_views")
        assert cursor.fetchone()[0] == len(VIEWS)
        cursor.execute("set default_transaction_read_only = off")  # rights, not this setting, have to refuse
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(statement)


@pytest.fixture(scope="module")
def registered(production: Production, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The definitions and the ledger in the registry."""
    with pytest.MonkeyPatch.context() as patch:
        production.use(patch, tmp_path_factory.mktemp("registered") / "data")
        production.register()
        assert invoke("--as-of", production.as_of_text, "--view", WORK_ORDERS).exit_code == 0


def test_the_servers_of_features_answer_with_the_registrys_reader(
    production: Production, registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock `feast serve`, and the gateway but for the runs that it starts, whose role is the one that writes."""
    production.use(monkeypatch, tmp_path, FEAST_REGISTRY_URL=production.registry_reader)
    body = {"features": [f"{WORK_ORDERS}:wo_count_30d"], "entities": {"asset_id": [str(asset_key(1))]}}
    user = f"127.0.0.1:{production.redis.port},username=feature_server,password={PASSWORDS['server']}"
    with feature_server(os.environ | {"REDIS_CONNECTION": user}, tmp_path / "log") as url:
        answer = requests.post(f"{url}/get-online-features", json=body, timeout=30).json()
        assert answer["results"][1]["values"] == [1], answer
        monkeypatch.setenv("FEATURE_SERVER_URL", url)
        (check,) = check_feature_server(load_settings())
        assert (check.state, check.text) == (State.WARNING, f"{url} takes writes from whoever reaches it")
    with gateways.running(gateway_feature_service="predictive_maintenance_v1") as port:
        (asset,) = gateways.Client(port, gateways.token("super_admin")).assets(str(asset_key(1)))
        assert asset["features"]["wo_count_30d"] == 1


def test_an_incomplete_registry_fails_its_reader_loudly(
    production: Production, registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production.use(monkeypatch, tmp_path, FEAST_REGISTRY_URL=production.registry_reader)
    with closing(production.admin(REGISTRY)) as connection, connection.cursor() as cursor:
        cursor.execute("alter table feast.permissions rename to permission")
        try:
            result = invoke("status")
        finally:
            cursor.execute("alter table feast.permission rename to permissions")
    exit_code, output = result.exit_code, result.output
    del result
    with warnings.catch_warnings():  # of the connection of the registry that Feast did not come to make
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert exit_code == 1
    assert re.fullmatch(r"Error: Feast registry: cannot execute CREATE TABLE in a read-only transaction\. .*\n", output)


def test_roles_see_only_their_own_database(production: Production) -> None:
    extraction = production.environment["DATABASE_URL"].replace(DATABASE, REGISTRY)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(extraction)
    registry = production.environment["FEAST_REGISTRY_URL"].replace("+psycopg", "")
    with closing(psycopg2.connect(registry.removesuffix(REGISTRY) + DATABASE)) as connection:
        for table in ("users", *postgres_columns()):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                connection.cursor().execute(f"select 1 from public.{table}")
            connection.rollback()


# ClickHouse -------------------------------------------------------------------------------------------------------


@pytest.fixture
def telemetry(production: Production) -> Iterator[Client]:
    """A session of the user that reads telemetry."""
    port = int(production.clickhouse_url.rsplit(":", 1)[1])
    with closing(
        clickhouse_connect.get_client(
            host="127.0.0.1",
            port=port,
            username="feature_store",
            password=PASSWORDS["clickhouse"],
            database="dcmms_analytics",
        )
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("insert into telemetry_aggregates (metric_name) values ('x')", "ACCESS_DENIED"),
        ("alter table telemetry_aggregates delete where 1", "ACCESS_DENIED"),
        ("truncate table telemetry_aggregates", "ACCESS_DENIED"),
        ("drop table telemetry_aggregates", "ACCESS_DENIED"),
        ("create table mine (id UInt8) engine = Memory", "ACCESS_DENIED"),
        ("create temporary table mine (id UInt8)", "ACCESS_DENIED"),
        ("create database mine", "ACCESS_DENIED"),
        ("create user mine", "ACCESS_DENIED"),
        ("select * from secrets", "ACCESS_DENIED"),
        ("select * from url('http://127.0.0.1:1', 'CSV', 'a UInt8')", "ACCESS_DENIED"),
        ("select * from file('/etc/hostname', 'CSV', 'a String')", "ACCESS_DENIED"),
        ("select count() from telemetry_aggregates settings max_execution_time = 3601", "SETTING_CONSTRAINT_VIOLATION"),
        ("select count() from telemetry_aggregates settings max_execution_time = 0", "SETTING_CONSTRAINT_VIOLATION"),
        ("set readonly = 0", "READONLY"),
    ],
)
def test_clickhouse_user_may_do_nothing_else(telemetry: Client, statement: str, refusal: str) -> None:
    assert telemetry.command("select count() from telemetry_aggregates") > 0
    with pytest.raises(DatabaseError, match=refusal):
        telemetry.command(statement)


def test_clickhouse_statements_are_what_the_engine_understands(telemetry: Client) -> None:
    profile, user, grant = clickhouse_statements()
    assert PASSWORDS["clickhouse"] not in user
    for statement in (profile, user, grant):
        formatted = telemetry.query("select formatQuery({s:String})", parameters={"s": statement}).first_row[0]
        assert _words(formatted) == _words(statement)
    assert (
        "SETTINGS PROFILE `feature_store`"
        in telemetry.query("select formatQuery({s:String})", parameters={"s": user}).first_row[0]
    )


def _words(statement: str) -> list[str]:
    return re.findall(r"\w+", statement.lower())


def test_telemetry_columns_are_those_that_the_queries_read() -> None:
    ddl = (REPOSITORY / "dev/sql/clickhouse.sql").read_text()
    columns = set(re.findall(r"(?m)^    (\w+) \w+", ddl))
    queries = "\n".join([query_of(TELEMETRY), BUCKET_GAPS, ROWS_OF_SITES])
    assert set(schema.TELEMETRY) == columns & set(re.findall(r"\w+", re.sub(r"--.*", "", queries)))


# Redis ------------------------------------------------------------------------------------------------------------

_ENCODER = RowEncoder(ASSETS, VIEWS[ASSETS].features, project="dcmms", join_key="asset_id", ttl_seconds=None)
(KEY,) = _ENCODER.keys(pa.array(["x"])).to_pylist()


def redis_of(production: Production, user: str, password: str) -> Redis:
    return Redis(port=production.redis.port, username=user, password=password)


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("KEYS", "*"),
        ("SET", KEY, "x"),
        ("RENAME", KEY, "of-another-project"),
        ("RENAME", "of-another-project", KEY),
        ("WATCH", KEY),
        ("SHUTDOWN",),
        ("DEBUG", "SLEEP", "0"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("REPLICAOF", "NO", "ONE"),
        ("MONITOR",),
        ("PUBLISH", "x", "x"),
        ("SCRIPT", "FLUSH"),
        ("MIGRATE", "127.0.0.1", "1", KEY, "0", "1"),
        ("HSET", "of-another-project", "f", "v"),
        ("HGET", "of-another-project", "f"),
        ("EVAL", "return redis.call('HGET', KEYS[1], 'f')", "1", "of-another-project"),
        ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ],
)
@pytest.mark.parametrize(("user", "password"), [("feature_store", "redis"), ("feature_server", "server")])
def test_redis_users_may_do_nothing_else(
    production: Production, user: str, password: str, command: tuple[str | bytes, ...]
) -> None:
    with redis_of(production, user, PASSWORDS[password]) as client:
        assert client.ping()
        with pytest.raises(ResponseError, match=r"(?i)no permissions|can't run this command|NOPERM"):
            client.execute_command(*command)


def test_redis_reader_may_not_write(production: Production) -> None:
    with redis_of(production, "feature_server", PASSWORDS["server"]) as client:
        for command in (("HSET", KEY, "f", "v"), ("HDEL", KEY, "f"), ("DEL", KEY), ("EXPIRE", KEY, 1), ("SCAN", 0)):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)


def test_no_file_holds_a_password() -> None:
    for path in (REPOSITORY / "deploy/sql").iterdir():
        text = path.read_text()
        found = re.findall(
            r"(?i)password :?'(?!password)[^']*'|by '(?!PASSWORD_SHA256)[^']*'|on [#>](?!\w+_SHA256)\S+", text
        )
        assert found == [], path

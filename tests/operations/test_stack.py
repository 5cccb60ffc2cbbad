"""The local stack: servers that start, stop and are found again, and errors that say what to do."""

import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
import pyarrow as pa
import pytest
import redis
from click.testing import CliRunner

import dev.__main__ as dev_command
from dev import demo, gateway_demo, servers
from dev.separate_store import SeparateStore
from dev.servers import PortTaken, PostgresServer, RedisServer, free_port
from dev.stack import LocalStack, ensure_database
from pipeline.base.specs import TIMESTAMP, snapshot_schema
from pipeline.base.views import VIEW_NAMES
from pipeline.snapshots.files import snapshot_path, write_snapshot


@contextmanager
def listener() -> Iterator[int]:
    """Another program's server; yields its port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def query(url: str, statement: str) -> list[tuple]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    stack = LocalStack(tmp_path, postgres_port=free_port(), redis_port=free_port())
    yield stack
    stack.down()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    # A blank in the path, and parents that are closed to all other users
    with PostgresServer(tmp_path_factory.mktemp("a stack") / "postgres", free_port()) as server:
        yield server


def test_postgres_is_the_server_that_the_project_is_written_for(postgres: PostgresServer) -> None:
    settings = ["server_encoding", "TimeZone", "listen_addresses", "unix_socket_directories"]
    values = ", ".join(f"current_setting('{name}')" for name in settings)
    version = "current_setting('server_version_num')::int / 10000"
    collation = "(select datcollate from pg_database where datname = 'template1')"
    assert query(postgres.admin_url, f"select {version}, {collation}, {values}") == [
        (18, "C", "UTF8", "UTC", "127.0.0.1", "")
    ]


def test_postgres_does_not_run_as_root(postgres: PostgresServer) -> None:
    # Within its own user namespace, if it has one: its own view of its user id is what PostgreSQL goes by.
    process = postgres._process()
    namespace = Path(f"/proc/{process.pid}/ns/user").readlink()
    own_namespace = namespace != Path("/proc/self/ns/user").readlink()
    assert own_namespace or process.uids().effective != 0


def test_postgres_keeps_its_data_and_knows_the_second_start(tmp_path: Path) -> None:
    first = PostgresServer(tmp_path, free_port())
    with first:
        ensure_database(first.admin_url, "kept", "keeper")
    assert not first.is_running()
    with PostgresServer(tmp_path, free_port()) as second:
        assert query(second.url("keeper", "kept"), "select current_user") == [("keeper",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs PostgreSQL as itself")
@pytest.mark.parametrize("way", [0, 1], ids=["namespace", "capability"])
def test_postgres_works_as_root_in_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: int) -> None:
    ways = servers._ways_to_be
    monkeypatch.setattr(servers, "_ways_to_be", lambda uid, gid: [ways(uid, gid)[way]])
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with PostgresServer(closed / "postgres", free_port()) as server:
        assert query(server.admin_url, "select 1") == [(1,)]
    assert closed.stat().st_mode & 0o777 == 0o700


def test_redis_keeps_its_data(tmp_path: Path) -> None:
    for _ in range(2):
        with RedisServer(tmp_path, free_port()) as server, redis.Redis(port=server.port) as client:
            kept = client.incr("starts")
    assert kept == 2


def test_a_server_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    port = free_port()
    code = f"from dev.servers import RedisServer; RedisServer({str(tmp_path)!r}, {port}).start()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=LocalStack().root)
    server = RedisServer(tmp_path, port)
    assert server.is_running()
    server.stop()
    assert not server.is_running()
    assert not servers.port_is_taken(port)


@pytest.mark.parametrize("server", [PostgresServer, RedisServer])
def test_a_taken_port_is_named_with_its_server(tmp_path: Path, server: type[servers.Server]) -> None:
    with listener() as port, pytest.raises(PortTaken) as error:
        server(tmp_path / "server", port).start()
    assert str(error.value).startswith(f"port {port} ({server.name}) is taken by another program: stop it")
    assert not (tmp_path / "server").exists()


@pytest.mark.parametrize(
    "content", [f"{os.getpid()}\n", "4194304999\n", "", "no number"], ids=["ours", "none", "empty", "text"]
)
def test_a_stale_pid_file_is_no_problem(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.pid").write_text(content)
    server = RedisServer(tmp_path, free_port())
    assert not server.is_running()
    with server:
        assert server.is_running()


def test_postgres_starts_after_a_reboot_that_gave_its_pid_to_another_program(tmp_path: Path) -> None:
    port = free_port()
    with PostgresServer(tmp_path, port):
        left_behind = (tmp_path / "data/postmaster.pid").read_text().splitlines()
    left_behind[0] = str(os.getppid())
    (tmp_path / "data/postmaster.pid").write_text("\n".join(left_behind))
    with PostgresServer(tmp_path, port) as server:
        assert query(server.admin_url, "select 1") == [(1,)]


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PostgresServer.SETTINGS, "shared_buffers", "nonsense")
    server = PostgresServer(tmp_path, free_port())
    with pytest.raises(servers.ServerError, match=r"PostgreSQL did not start: .*shared_buffers.* \(log: "):
        server.start()
    assert not server.is_running()


def test_ensure_database_makes_role_and_database_once(postgres: PostgresServer) -> None:
    name, owner = 'odd "name"', "owner-1"
    assert ensure_database(postgres.admin_url, name, owner)
    assert not ensure_database(postgres.admin_url, name, owner)
    owners = "select d.datname, r.rolname from pg_database d join pg_roles r on r.oid = d.datdba"
    assert (name, owner) in query(postgres.admin_url, owners)


def test_up_and_down_are_idempotent(stack: LocalStack) -> None:
    assert stack.up() == ["PostgreSQL", "Redis"]
    assert stack.up() == []
    for database, owner in {"dcmms": "dcmms", "feast_registry": "feast"}.items():
        # The owner may create its tables: that is what it is for.
        url = stack.postgres.url(owner, database)
        assert query(url, "select has_schema_privilege('public', 'create')") == [(True,)]
    stack.redis.stop()
    assert stack.up() == ["Redis"]
    assert stack.down() == ["PostgreSQL", "Redis"]
    assert stack.down() == []
    assert not stack.postgres.is_running()
    assert not stack.redis.is_running()


def test_up_writes_the_settings_of_this_stack(stack: LocalStack) -> None:
    assert stack.write_env()
    lines = stack.env_file.read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        f"DATABASE_URL=postgresql://dcmms@127.0.0.1:{stack.postgres_port}/dcmms",
        f"CLICKHOUSE_DSN=chdb://{stack.root}/.local/clickhouse",
        "CLICKHOUSE_DATABASE=dcmms_analytics",
        "TELEMETRY_BUCKET_MINUTES=60",
    ]
    assert stack.write_env(), "its own file is written again"


def test_up_leaves_settings_of_your_own_alone(stack: LocalStack) -> None:
    stack.env_file.write_text("DATABASE_URL=postgresql://me@db.example/dcmms\n")
    assert not stack.write_env()
    assert stack.env_file.read_text() == "DATABASE_URL=postgresql://me@db.example/dcmms\n"
    assert stack.summary()[-1] == "settings    .env is your own and was left as it is"


def test_up_leaves_nothing_half_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener() as port:
        stack = LocalStack(tmp_path, postgres_port=free_port(), redis_port=port)
        monkeypatch.setattr(dev_command, "LocalStack", lambda: stack)
        result = CliRunner().invoke(dev_command.main, ["up"])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: port {port} (Redis) is taken by another program")
    assert result.output.count("\n") == 1
    assert not stack.postgres.is_running()
    assert not stack.env_file.exists()


def test_up_stops_what_it_started_when_a_later_step_fails(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RedisServer, "_command", lambda _: ["false"])
    with pytest.raises(servers.ServerError, match="Redis did not start"):
        stack.up()
    assert not stack.postgres.is_running()


def test_up_and_down_say_what_runs_where(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_command, "LocalStack", lambda: stack)
    said = [CliRunner().invoke(dev_command.main, [command]).output for command in ("up", "up", "down", "down")]
    assert [lines.splitlines()[0] for lines in said] == [
        "started: PostgreSQL, Redis",
        "already up",
        "stopped: PostgreSQL, Redis",
        "nothing was running",
    ]
    assert f"PostgreSQL  127.0.0.1:{stack.postgres_port}  databases dcmms, feast_registry" in said[0]
    assert said[0].endswith("stop with   make down\n")


def test_load_asks_for_the_stack(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_command, "LocalStack", lambda: stack)
    result = CliRunner().invoke(dev_command.main, ["load"])
    assert (result.exit_code, result.output) == (1, "Error: the local stack is not up: make up\n")


def test_a_loaded_fleet_is_known_by_its_parameters_and_its_data(stack: LocalStack) -> None:
    stack.up()
    parameters = demo.FleetParameters(seed=1)
    assert not demo.is_loaded(stack, parameters)
    demo._write_marker(stack, parameters.fingerprint())
    assert not demo.is_loaded(stack, parameters), "ClickHouse's directory is missing"
    (stack.directory / "clickhouse").mkdir()
    assert demo.is_loaded(stack, parameters)
    assert not demo.is_loaded(stack, demo.FleetParameters(seed=2))


def test_the_demo_never_leaves_the_local_stack(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/dcmms")
    monkeypatch.setenv("CLICKHOUSE_HOST", "https://clickhouse.example")
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", "/elsewhere/feature_store.yaml")
    environment = demo.demo_environment(stack)
    assert environment["DATABASE_URL"] == stack.postgres.url("dcmms", "dcmms")
    assert environment["CLICKHOUSE_DSN"] == stack.clickhouse_dsn
    assert not environment.keys() & {"CLICKHOUSE_HOST", "FEAST_FS_YAML_FILE_PATH"}


def test_the_demo_starts_nothing_if_the_port_of_the_feature_server_is_taken(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "LocalStack", lambda: stack)
    with listener() as port:
        monkeypatch.setattr(demo, "FEATURE_SERVER_PORT", port)
        result = CliRunner().invoke(dev_command.main, ["demo"])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: port {port} (feast serve) is taken by another program")
    assert not stack.directory.exists()


def test_the_demo_shows_assets_with_a_rated_power_and_a_manufacturer(stack: LocalStack) -> None:
    store = SeparateStore(stack, "demo", 2)
    schema = snapshot_schema("asset_features")
    known = {"asset_id": list("abc"), "installed_capacity_kw": [1.0, None, 2.0], "manufacturer": ["x", "y", None]}
    now = pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 3, TIMESTAMP)
    times = {"event_timestamp": now, "created": now}
    others = {name: pa.nulls(3, schema.field(name).type) for name in schema.names if name not in known | times}
    path = snapshot_path(store.snapshots, "asset_features", datetime(2026, 1, 1, tzinfo=UTC))
    write_snapshot(pa.table(known | times | others, schema), path)
    assert demo.fully_known(store) == ["a"]


def test_the_demo_ends_with_commands_that_fit_the_screen_and_name_the_instant() -> None:
    assert max(map(len, demo.NEXT.splitlines())) <= 80
    commands = [line for line in demo.NEXT.splitlines() if "materialize_features.py" in line]
    assert len(commands) == 2
    assert all("--as-of 2026-01-01T00:00:00Z" in command for command in commands)


@pytest.mark.parametrize("status", ["present", "partial", "expired"])
def test_the_demo_shows_the_gateways_answer_in_a_few_lines(status: str) -> None:
    features = dict.fromkeys([*gateway_demo.SHOWN, "others", "more"], None if status == "expired" else 1 / 3)
    asset = {"assetId": str(uuid.uuid4()), "features": features, "status": status, "asOf": {VIEW_NAMES[0]: "2026"}}
    shown = gateway_demo.shown(asset)
    content, rest = json.JSONDecoder().raw_decode(shown)
    assert content["features"] == dict.fromkeys(gateway_demo.SHOWN, None if status == "expired" else 0.333)
    told = shown[rest:].split()
    assert " ".join(told).startswith("5 of its 7 features.") and ("null" in " ".join(told)) == (status != "present")
    assert max(map(len, shown.splitlines())) < 80


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (0, "0"),
        (12345, "12,345"),
        (0.98765, "0.988"),
        (49.996, "50"),
        (123456.7, "123,457"),
        ("turbine", "turbine"),
        ("6f1b0a52-3d5e-5f0e-9d52-5f1c3b0c2a11", "6f1b0a52…"),
    ],
)
def test_the_demo_shows_values_that_a_person_can_read(value: object, text: str) -> None:
    assert demo._readable(value) == text

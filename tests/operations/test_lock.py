"""One run at a time: who holds the lock is said, who dies frees it, and other projects are not concerned."""

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psycopg
import psycopg2
import pytest
import yaml

from dev.servers import PostgresServer, RedisServer, free_port
from pipeline.base.errors import PipelineError
from pipeline.operations.doctor.registry import check_registry
from pipeline.registry.feast_store import load_store_config, open_feature_store, registry_engine
from pipeline.registry.lock import LockHeld, lock_key, one_at_a_time
from pipeline.runs.job import run_job
from tests.commands import COMMAND, invoke, process, wait_until, waiting_for_a_table
from tests.dcmms import Dcmms, T, ago
from tests.stores import apply_definitions, use_settings

VIEW = "work_order_features"
AS_OF = f"{T:%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def environment(dcmms: Dcmms, store_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> Dcmms:
    """One asset with a work order, and the settings of a run in the environment."""
    apply_definitions(store_yaml, dcmms.settings.feature_data_dir)
    dcmms.work_order(dcmms.asset(1), ago(1))
    use_settings(monkeypatch, dcmms.settings, store_yaml, CLICKHOUSE_DSN="http://127.0.0.1:1")  # no run needs it here
    return dcmms


@pytest.fixture
def registry(postgres: PostgresServer, store_yaml: Path) -> Iterator[psycopg2.extensions.cursor]:
    with closing(psycopg2.connect(postgres.url("feast", "feast_lock"))) as connection:
        connection.autocommit = True
        yield connection.cursor()


def test_a_killed_run_frees_the_lock_for_who_waits(
    environment: Dcmms, postgres: PostgresServer, store_yaml: Path, tmp_path: Path
) -> None:
    with environment.postgres.cursor() as cursor, ExitStack() as stack:
        stack.callback(environment.postgres.rollback)
        cursor.execute("lock table work_orders in access exclusive mode")
        holder = stack.enter_context(process(COMMAND, "--as-of", AS_OF, "--view", VIEW, log=tmp_path / "log"))
        wait_until(lambda: waiting_for_a_table(postgres), {"holder": holder}, "it reads work_orders")
        second = invoke("--as-of", AS_OF, "--view", VIEW)
        assert second.exit_code == 75
        (line,) = second.stderr.splitlines()
        assert f"Project dcmms is busy: materialize_features {holder.pid}@" in line
        assert "--wait" in line
        assert invoke("--as-of", AS_OF, "--view", VIEW, "--no-online", "--wait", "0.1").exit_code == 75
        assert " running " in invoke("status").stdout

        acquired = threading.Event()

        def wait_for_it() -> None:
            with open_feature_store(store_yaml) as store, one_at_a_time(store, math.inf):
                acquired.set()

        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        assert not acquired.wait(1)
        holder.kill()
        holder.wait()
        assert acquired.wait(5)
        waiter.join()
    status = invoke("status").stdout
    assert " running " not in status
    assert " died " in status


def test_projects_do_not_block_each_other(
    postgres: PostgresServer, redis: RedisServer, store_yaml: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(yaml.safe_load(store_yaml.read_text()) | {"project": "other"}))
    with open_feature_store(store_yaml) as store, open_feature_store(other) as another, one_at_a_time(store):
        with one_at_a_time(another):
            pass
        began = time.monotonic()
        with pytest.raises(LockHeld, match=r"after 0.2 s of waiting"), one_at_a_time(store, 0.2):
            pass
        assert 0.2 <= time.monotonic() - began < 2


def test_the_key_is_the_same_on_every_host_and_for_ever() -> None:
    assert lock_key("dcmms") == 5_127_593_712_306_462_621
    assert -(2**63) <= lock_key("other") < 2**63


def test_a_run_that_loses_its_lock_publishes_nothing(
    environment: Dcmms, redis: RedisServer, registry: psycopg2.extensions.cursor
) -> None:
    def restart_at_the_last_moment(_view: str, stage: str, _share: float) -> None:
        if stage == "publishing":
            registry.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where application_name like 'materialize_features%'"
            )
            assert registry.fetchall() == [(True,)]

    (result,) = run_job(T, [VIEW], progress=restart_at_the_last_moment)
    assert result.error.startswith("The lock of project dcmms is lost (")
    assert not result.published
    registry.execute("select outcome, error from materialization_runs order by started_at desc limit 1")
    assert registry.fetchone() == ("failed", result.error)
    assert invoke("--as-of", AS_OF, "--view", VIEW).exit_code == 0


def test_a_lock_taken_over_is_noticed(store_yaml: Path, registry: psycopg2.extensions.cursor) -> None:
    with open_feature_store(store_yaml) as store, one_at_a_time(store) as lock:
        lock.check()
        registry.execute("select pg_terminate_backend(%s, 5000)", [lock.backend_pid])
        with one_at_a_time(store), pytest.raises(PipelineError, match="lost"):
            lock.check()


def test_dry_run_and_backfill_take_no_lock(environment: Dcmms, store_yaml: Path) -> None:
    with open_feature_store(store_yaml) as store, one_at_a_time(store):
        assert invoke("--as-of", AS_OF, "--view", VIEW, "--dry-run").exit_code == 0
        backfill = ["backfill", "--start", "2026-03-10", "--end", "2026-03-11", "--view", VIEW]
        assert invoke(*backfill).exit_code == 0
        for command in (["run", "--as-of", AS_OF], ["prune"]):
            assert invoke(*command, "--view", VIEW).exit_code == 75


def test_without_online_the_registry_may_be_away(environment: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", "/nonexistent.yaml")
    result = invoke("--as-of", AS_OF, "--view", VIEW, "--no-online")
    assert result.exit_code == 0
    assert "WARNING without lock and ledger: /nonexistent.yaml cannot be read" in result.stderr


class TransactionPooler:
    """What a pooler in transaction mode does, with a single session for all of its clients."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._server_port, self._session = port, None
        self._greeting, self._busy = b"", threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._session:
            self._session.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError):
            while (startup := received(client, 0))[4:8] != (196_608).to_bytes(4, "big"):
                client.sendall(b"N")  # neither TLS nor GSSAPI
            with self._busy:
                if not self._session:
                    self._session = socket.create_connection(("127.0.0.1", self._server_port))
                    self._session.sendall(startup)
                    self._greeting = self._until_ready(None)[0]
            client.sendall(self._greeting)
            while True:
                message = received(client, 1)
                with self._busy:
                    state = b""
                    while state != b"I":
                        self._session.sendall(message)
                        if message[:1] in b"QS":
                            state = self._until_ready(client)[1]
                        if state != b"I":
                            message = received(client, 1)

    def _until_ready(self, client: socket.socket | None) -> tuple[bytes, bytes]:
        """Pass on what the session answers; return it with the state of its transaction."""
        said = b""
        while True:
            message = received(self._session, 1)
            said += message
            if client:
                client.sendall(message)
            if message[:1] == b"Z":
                return said, message[-1:]


def received(connection: socket.socket, kind: int) -> bytes:
    """Return one message: a byte of its `kind`, but for the first one, four of its length, the rest."""
    message = b""
    size = kind + 4
    while len(message) < size:
        part = connection.recv(size - len(message))
        if not part or (kind and part[:1] == b"X" and not message):  # gone, or about to go
            raise EOFError
        message += part
        if len(message) == kind + 4:
            size = kind + int.from_bytes(message[kind:], "big")
    return message


def test_a_pooler_in_transaction_mode_is_refused(
    environment: Dcmms,
    postgres: PostgresServer,
    registry: psycopg2.extensions.cursor,
    store_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(TransactionPooler(postgres.port)) as pooler:
        config = yaml.safe_load(store_yaml.read_text())
        config["registry"]["path"] = config["registry"]["path"].replace(str(postgres.port), str(pooler.port))
        path = tmp_path / "pooled.yaml"
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
        result = invoke("--as-of", AS_OF, "--view", VIEW)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
        assert "Feast registry: a pooler in transaction mode is in between" in result.stderr
        (found,) = [check for check in check_registry(load_store_config(path)) if check.name == "session"]
        assert found.state == "fails"
        assert "pool_mode = session" in found.fix
    registry.execute("select count(*) from pg_locks where locktype = 'advisory'")
    assert registry.fetchone() == (0,)


def test_views_without_their_entity_say_what_to_do(environment: Dcmms, store_yaml: Path) -> None:
    """As `feast teardown` leaves them."""
    assert invoke("--as-of", AS_OF, "--view", VIEW).exit_code == 0
    with open_feature_store(store_yaml) as store:
        store.registry.delete_entity("asset", store.project)
    for command in (["--as-of", AS_OF, "--view", VIEW], ["status"], ["verify"], ["prune"]):
        result = invoke(*command)
        assert result.exit_code == 1
        (line,) = [line for line in result.stderr.splitlines() if "asset" in line and "INFO" not in line]
        assert "is registered without its entity: " in line
        assert line.endswith(": run `feast apply`")


@pytest.mark.usefixtures("environment")
def test_a_connection_that_cannot_be_closed_writes_no_stack_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(connection: psycopg.Connection) -> None:
        connection.close()
        raise OSError("stopped amid it")

    with open_feature_store() as store:
        engine = registry_engine(store)
        with engine.connect() as connection:
            for name in ("do_terminate", "do_close"):
                monkeypatch.setattr(engine.dialect, name, fail)
            connection.invalidate()
        monkeypatch.undo()
    assert not caplog.records

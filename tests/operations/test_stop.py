"""SIGTERM, Ctrl-C and the time limit end a command within 5 s, whatever it waits for, and leave nothing half-done."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.servers import PostgresServer, RedisServer, free_port
from pipeline.base.stop import Stopped, raise_if_stopped, stoppable
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Ledger
from pipeline.registry.lock import one_at_a_time
from tests.commands import COMMAND, invoke, process, wait_until, waiting_for_a_table
from tests.dcmms import Dcmms, T, ago
from tests.stores import apply_definitions, write_feature_store_yaml

VIEW = "work_order_features"
AS_OF = f"{T:%Y-%m-%dT%H:%M:%SZ}"
# A command ends 3 s after the signal at the latest; what a busy machine adds is not the test's subject.
WITHIN_SECONDS = 30

# Minutes of work for the embedded engine, which no signal breaks off.
LONG_QUERY = """
import sys, time
import clickhouse_connect
from pipeline.base.stop import at_stop, set_time_limit, stoppable

def tell(stopped):
    print(f"told {stopped.exit_code}", flush=True)

def hang(stopped):
    time.sleep(60)

with stoppable(print), at_stop(tell), at_stop(hang):
    client = clickhouse_connect.get_client(dsn="chdb://" + sys.argv[1])
    set_time_limit(0.5)
    client.query("select sum(sipHash64(number)) from numbers(1000000000000)")
"""


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be frozen."""
    with RedisServer(tmp_path / "frozen", free_port()) as server:
        yield server


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A ClickHouse that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def test_a_signal_stops_whatever_is_waited_for(
    dcmms: Dcmms,
    postgres: PostgresServer,
    own_redis: RedisServer,
    silent: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dcmms.work_order(dcmms.asset(1), ago(1))
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
    monkeypatch.setenv("DATABASE_URL", dcmms.settings.database_url.get_secret_value())
    monkeypatch.setenv("CLICKHOUSE_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}")
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path / "data"))
    run = [COMMAND, "--as-of", AS_OF, "--log-format", "json", "--metrics-file", str(tmp_path / "run.prom")]
    commands = {
        "postgres": [*run, "--view", "asset_features"],
        "redis": [COMMAND, "--as-of", AS_OF, "--view", VIEW],
        "clickhouse": [COMMAND, "backfill", "--start", "2026-03-01", "--end", "2026-03-02"],
    }
    stores = {}
    for name in commands:  # a registry each: they must not wait for one another
        (tmp_path / name).mkdir()
        stores[name] = write_feature_store_yaml(tmp_path / name, postgres, own_redis, f"feast_stop_{name}")
    for name in ("postgres", "redis"):
        apply_definitions(stores[name], tmp_path / "data")
    # the client of Redis must not give up before the signal comes
    stores["redis"].write_text(stores["redis"].read_text().replace("socket_timeout=5", "socket_timeout=300"))
    frozen = own_redis._process()

    with ExitStack() as stack, dcmms.postgres.cursor() as cursor:
        stack.callback(dcmms.postgres.rollback)
        cursor.execute("lock table asset_health_scores in access exclusive mode")
        frozen.suspend()
        stack.callback(frozen.resume)
        started = {
            name: stack.enter_context(
                process(*command, log=tmp_path / f"{name}.log", FEAST_FS_YAML_FILE_PATH=str(stores[name]))
            )
            for name, command in commands.items()
        }
        waits = {
            "postgres": lambda: waiting_for_a_table(postgres),
            "redis": lambda: has_connected(started["redis"], own_redis.port),
            "clickhouse": lambda: has_connected(started["clickhouse"], silent.getsockname()[1]),
        }
        signals = {"postgres": signal.SIGTERM, "redis": signal.SIGTERM, "clickhouse": signal.SIGINT}
        while waits:
            wait_until(lambda: any(waits[name]() for name in waits), {n: started[n] for n in waits}, f"{list(waits)}")
            for name in [name for name in waits if waits[name]()]:
                del waits[name]
                assert stopped_by(started[name], signals[name]) == 128 + signals[name], (
                    tmp_path / f"{name}.log"
                ).read_text()
        assert waiting_for_a_table(postgres) == 0, "the query was broken off, too"

    for name, number in signals.items():
        *_, last = (tmp_path / f"{name}.log").read_text().splitlines()
        assert f"Stopped by {number.name}. " in last
        assert "Traceback" not in (tmp_path / f"{name}.log").read_text()
    assert [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()] == ["20260311T100000Z.parquet"]
    for name, views in {"postgres": {"asset_features": "nothing written"}, "redis": {VIEW: "snapshot only"}}.items():
        with open_feature_store(stores[name]) as store, one_at_a_time(store):
            (row,) = Ledger(store).last_runs(10)
        assert (row.outcome, {view: found["outcome"] for view, found in row.views.items()}) == ("interrupted", views)
    metrics = {
        family.name: family.samples for family in text_string_to_metric_families((tmp_path / "run.prom").read_text())
    }
    assert metrics["feature_store_run_exit_code"][0].value == 143


def has_connected(command: subprocess.Popen, port: int) -> bool:
    """Return whether a process has a connection to a port of this machine."""
    connections = psutil.Process(command.pid).net_connections("tcp4")
    return any(connection.raddr and connection.raddr.port == port for connection in connections)


def stopped_by(command: subprocess.Popen, number: signal.Signals) -> int:
    """Return the exit code of a process that has to end in time after a signal."""
    command.send_signal(number)
    return command.wait(WITHIN_SECONDS)


def test_what_no_signal_breaks_off_is_ended_all_the_same(tmp_path: Path) -> None:
    began = time.monotonic()
    log = tmp_path / "log"
    with process("-c", LONG_QUERY, str(tmp_path / "clickhouse"), log=log) as command:
        assert command.wait(60) == 124
    assert log.read_text().splitlines() == [
        "told 124",
        "Stopped by --timeout, 0.5 s. Whatever was written is whole; the next run does the rest.",
    ]
    assert time.monotonic() - began < 30


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    command = "import pipeline.base.stop as stop; stop.GRACE_SECONDS = 3600\n" + LONG_QUERY.replace(
        "set_time_limit(0.5)", "print('begun', flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command, str(tmp_path / "engine")], stdout=subprocess.PIPE, text=True
    ) as waiting:
        try:
            assert waiting.stdout.readline() == "begun\n"
            # In Python already the first signal would end it: the engine has begun when it has used a second.
            used = psutil.Process(waiting.pid).cpu_times
            begun = used().user
            wait_until(lambda: used().user > begun + 1, {"query": waiting}, "the query runs")
            waiting.send_signal(signal.SIGINT)
            assert waiting.stdout.readline() == "told 130\n"
            waiting.send_signal(signal.SIGINT)
            assert "Stopped by SIGINT" in waiting.stdout.read()
        finally:
            waiting.kill()
    assert waiting.returncode == 130


def test_the_time_limit_holds_from_the_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process(COMMAND, "--timeout", "0.2", log=log, FEATURE_STORE_ENV_FILE=os.devnull) as command:
        assert command.wait(60) == 124
    assert log.read_text().startswith("Stopped by --timeout, 0.2 s. ")


@pytest.mark.parametrize("lost", [ValueError("of a library that cleans up"), SystemExit(1), None])
def test_a_stop_ends_the_block_whatever_became_of_it(lost: BaseException | None) -> None:
    said: list[str] = []
    with pytest.raises(SystemExit) as ended, stoppable(said.append):
        with suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        with pytest.raises(Stopped, match="SIGTERM"):
            raise_if_stopped()
        if lost:
            raise lost
    assert ended.value.code == 143
    assert [text[:19] for text in said] == ["Stopped by SIGTERM."]
    raise_if_stopped()  # outside of the block there is nothing to stop


class Callback:
    """Something that is stopped where Python lets no exception out."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_a_stop_in_a_callback_is_neither_lost_nor_printed(capfd: pytest.CaptureFixture[str]) -> None:
    hook = sys.unraisablehook
    with pytest.raises(SystemExit) as ended, stoppable(print):
        Callback()
        raise_if_stopped()
    assert ended.value.code == 143
    assert capfd.readouterr() == (
        "Stopped by SIGTERM. Whatever was written is whole; the next run does the rest.\n",
        "",
    )
    assert sys.unraisablehook is hook


def test_a_command_that_ended_leaves_no_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert invoke("catalogue", "--help").exit_code == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

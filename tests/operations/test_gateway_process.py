"""The gateway as the process that it is in production: it starts runs, is attacked, loses Redis, and stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import requests
from redis import Redis

from dev.servers import PostgresServer, RedisServer, free_port
from gateway.app import PREFIX
from pipeline import REPOSITORY
from pipeline.base.views import VIEW_NAMES
from pipeline.registry.lock import lock_key
from tests.commands import process, wait_until, waiting_for_a_table
from tests.dcmms import TENANT, asset_key
from tests.gateways import SECRET, Client, token
from tests.production import REGISTRY, Production
from tests.stores import apply_definitions, set_online_store, write_feature_store_yaml

MEMORY_OF_AN_ATTACK = 100e6


@contextmanager
def gateway(tmp_path: Path, *options: str, **variables: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """Run `python -m gateway` with the environment of the test; yield it and its port once it answers."""
    port, log = free_port(), tmp_path / "gateway.log"
    settings = {"JWT_SECRET": SECRET, "GATEWAY_REQUESTS_PER_MINUTE": "1000000", "PYTHONWARNINGS": "ignore"}
    with process("-m", "gateway", "--port", str(port), *options, log=log, **settings | variables) as started:
        wait_until(lambda: is_open(port), {"gateway": started}, f"the gateway answers: {log}")
        try:
            yield started, port
        finally:
            started.terminate()
            started.wait(30)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", free_port()) as server:
        yield server


@pytest.fixture
def store(
    postgres: PostgresServer, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RedisServer:
    """An empty feature store of the environment, on a Redis of its own."""
    path = write_feature_store_yaml(tmp_path, postgres, own_redis, "gateway_process")
    set_online_store(path, connection_string=f"127.0.0.1:{own_redis.port},socket_timeout=5,socket_connect_timeout=5")
    apply_definitions(path, tmp_path / "data")
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
    return own_redis


def test_a_run_is_started_watched_and_told_of(
    production: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production.use(monkeypatch, tmp_path / "data")
    production.register()
    # The gateway's own role only reads the registry.
    urls = production.registry_reader, production.environment["FEAST_REGISTRY_URL"]
    roles = dict(zip(("FEAST_REGISTRY_URL", "GATEWAY_RUNS_REGISTRY_URL"), urls, strict=True))
    with gateway(tmp_path, **roles) as (started, port):
        admin = Client(port, token("tenant_admin", tenantId=str(TENANT)))
        assert admin.get("/health").status_code == 503
        with closing(production.admin()) as connection, connection.cursor() as cursor:
            connection.autocommit = False
            cursor.execute("lock table assets")  # the run waits for it
            first = admin.post("/materialize")
            assert (first.status_code, first.json()["status"]) == (202, "processing")
            run = first.json()["runId"]
            busy = admin.post("/materialize", json={"force": True})
            assert (busy.status_code, busy.json()["runId"]) == (409, run)
            wait_until(lambda: waiting_for_a_table(production.postgres), {"gateway": started}, "the run reads")
            told = admin.get(f"/materialize/{run}").json()
            assert (told["status"], told["finishedAt"], told["views"]) == ("running", None, [])
            connection.rollback()
        wait_until(
            lambda: admin.get(f"/materialize/{run}").json()["status"] not in ("starting", "running"),
            {"gateway": started},
            "the run ends",
        )
        told = admin.get(f"/materialize/{run}").json()
        assert (told["status"], told["error"]) == ("done", None), told
        assert {view["view"]: view["outcome"] for view in told["views"]} == dict.fromkeys(VIEW_NAMES, "online")
        (answer,) = admin.assets(str(asset_key(1)))
        assert answer["features"]["tenant_id"] == str(TENANT)
        assert answer["features"]["corrective_work_orders"] == 1
        log = (tmp_path / "gateway.log").read_text()
        assert run in log  # the lines of the run are there as well
        assert SECRET not in log
        with Redis(port=production.redis.port) as client:  # as of a gateway that died before its run was over
            client.hset("gateway:starting:dcmms", "text", run)
        with closing(production.admin(REGISTRY)) as ending, ending.cursor() as cursor:  # it has said its last word
            cursor.execute("select pg_advisory_lock(%s)", [lock_key("dcmms")])
            threading.Timer(0.5, cursor.execute, ["select pg_advisory_unlock_all()"]).start()
            next_one = admin.post("/materialize")
        assert next_one.status_code == 202, next_one.text
        wait_until(
            lambda: admin.get(f"/materialize/{next_one.json()['runId']}").json()["status"] == "done",
            {"gateway": started},
            "the next run ends",
        )


def test_a_run_that_cannot_start_says_so(
    production: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production.use(monkeypatch, tmp_path / "data")
    production.register()
    with gateway(tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1") as (started, port):
        admin = Client(port, token("super_admin"))
        first = admin.post("/materialize", json={})
        assert first.status_code == 202, first.text
        run = first.json()["runId"]
        assert admin.get(f"/materialize/{run}").json()["status"] in ("starting", "failed")
        wait_until(
            lambda: admin.get(f"/materialize/{run}").json()["status"] == "failed", {"gateway": started}, "it failed"
        )
        assert "the log of the gateway" in admin.get(f"/materialize/{run}").json()["error"]
        assert admin.post("/materialize").status_code == 202


def test_a_request_is_answered_although_the_gateway_is_asked_to_stop(store: RedisServer, tmp_path: Path) -> None:
    with gateway(tmp_path) as (started, port), socket.create_connection(("127.0.0.1", port), 30) as connection:
        send(connection, b"/assets", length=len(BODY), body=BODY[:10])
        time.sleep(0.5)  # it is being read now
        started.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_open(port), {}, "it listens no more")
        connection.sendall(BODY[10:])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        assert started.wait(30) in (0, -signal.SIGTERM)


BODY = json.dumps({"assetIds": [str(asset_key(1))]}).encode()


def send(connection: socket.socket, path: bytes, *, length: int, body: bytes, access: str = "") -> None:
    """Send the head of a request with a body of so many bytes, and so much of it."""
    head = b"POST %s%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % (PREFIX.encode(), path)
    head += b"Authorization: Bearer %s\r\n" % (access or token()).encode()
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % length + body)


def test_slow_and_large_bodies_cost_little_and_end(store: RedisServer, tmp_path: Path) -> None:
    with gateway(tmp_path) as (started, port), ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))

        client, memory = Client(port, token()), psutil.Process(started.pid).memory_info
        assert client.post("/assets", data=BODY, headers={"Content-Type": "application/json"}).status_code == 200
        before = memory().rss
        slow = [connect() for _ in range(100)]
        for connection in slow:
            send(connection, b"/assets", length=1_000_000, body=b"{")
        refused = [attack(connect(), access) for access in (token(), "no token") * 5]
        assert Counter(refused) == {b"413": 5, b"401": 5}
        assert client.get("/views").status_code == 200  # it answers others meanwhile
        answers = [connection.recv(65_536) for connection in slow]
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408"}
        assert memory().rss - before < MEMORY_OF_AN_ATTACK


def attack(connection: socket.socket, access: str) -> bytes:
    """Send 10 MB, and return the status of the answer, which comes before all of it is there."""
    with suppress(ConnectionError):
        send(connection, b"/assets", length=10_000_000, body=b" " * 200_000, access=access)
    return connection.recv(65_536)[9:12]


def test_redis_restarts_under_load(store: RedisServer, tmp_path: Path) -> None:
    with gateway(tmp_path) as (_, port):
        stop, statuses = threading.Event(), Counter()

        def ask(number: int) -> None:
            client = Client(port, token(id=f"caller {number}"))
            while not stop.is_set():
                answer = client.post("/assets", json={"assetIds": [str(asset_key(1))]})
                statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    assert answer.headers["Retry-After"] and answer.json()["error"] == "Service Unavailable"

        threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        anybody = Client(port, token())
        try:
            wait_until(lambda: statuses[200] > 50, {}, "the load is there")
            store.stop()
            wait_until(lambda: statuses[503] > 20, {}, "Redis is missed")
            assert anybody.get("/health").status_code == 503
            store.start()
            before = statuses[200]
            wait_until(lambda: statuses[200] > before + 50, {}, "it recovers by itself")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert set(statuses) == {200, 503}
        after = [anybody.post("/assets", json={"assetIds": [str(asset_key(1))]}).status_code for _ in range(20)]
        assert set(after) == {200}


def test_workers_share_their_metrics(store: RedisServer, tmp_path: Path) -> None:
    with gateway(tmp_path, "--workers", "2") as (_, port):
        for _ in range(20):
            Client(port, token()).get("/views")
        found = {
            requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text.split('features/views",status="200"} ')[
                1
            ][:4]
            for _ in range(5)
        }
        assert found == {"20.0"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"JWT_SECRET": ""}, "JWT_SECRET has to be at least 32 bytes long"),
        ({"JWT_SECRET": "too short a secret"}, "JWT_SECRET has to be at least 32 bytes long"),
        (
            {"GATEWAY_REQUESTS_PER_MINUTE": "0"},
            "GATEWAY_REQUESTS_PER_MINUTE input should be greater than",
        ),
    ],
)
def test_wrong_settings_end_it_in_one_line(variables: dict[str, str], said: str) -> None:
    environment = {"FEATURE_STORE_ENV_FILE": os.devnull, "JWT_SECRET": SECRET, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=REPOSITORY, env=environment | variables, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert "too short a secret" not in done.stderr

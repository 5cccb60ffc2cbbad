"""A gateway for tests: the real application on a port of its own, and tokens as dCMMS signs them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import requests
import uvicorn
from starlette.types import ASGIApp

from dev.servers import free_port
from gateway.app import PREFIX, create_app
from gateway.settings import GatewaySettings

SECRET = "a secret of dCMMS that is long enough for all algorithms there are, for tests"
TENANTS = {name: f"00000000-0000-4000-8000-0000000000{name}" for name in ("aa", "bb", "cc")}


def claims(role: str = "operator", tenant: str = "aa", **changed: Any) -> dict[str, Any]:
    """Return the claims of a user of dCMMS; one that is `changed` to ... is left out."""
    plain = {
        "id": f"{role}-{tenant}",
        "tenantId": TENANTS[tenant],
        "email": "somebody@dcmms.example",
        "username": "somebody",
        "role": role,
        "exp": int(time.time()) + 3_600,
    }
    return {name: value for name, value in (plain | changed).items() if value is not ...}


def token(role: str = "operator", tenant: str = "aa", **changed: Any) -> str:
    """Return an access token with the claims."""
    return jwt.encode(claims(role, tenant, **changed), SECRET, algorithm="HS256")


class Client:
    """Asks a gateway as one user."""

    def __init__(self, port: int, access_token: str | None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        self._session.trust_env = False
        if access_token:
            self._session.headers["Authorization"] = f"Bearer {access_token}"

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path of the features' API, or one that is named in full."""
        return self._session.get(self._full(path), timeout=30, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """POST to a path of the features' API."""
        return self._session.post(self._full(path), timeout=30, **options)

    def assets(self, *ids: str, **more: str) -> list[dict[str, Any]]:
        """Return what is answered for assets, which has to be a success; `more` goes into the body."""
        answer = self.post("/assets", json={"assetIds": ids} | more)
        assert answer.status_code == 200, answer.text
        content = answer.json()
        assert content["count"] == len(ids) == len(content["features"])
        return content["features"]

    def _full(self, path: str) -> str:
        return self.url + (path if path.startswith(("/metrics", "/openapi", "/api")) else PREFIX + path)


@contextmanager
def running(**settings: Any) -> Iterator[int]:
    """Run the gateway in a thread, with the environment's feature store; yield its port."""
    options = {"jwt_secret": SECRET, "gateway_requests_per_minute": 1_000_000}
    with served(create_app(GatewaySettings(_env_file=None, **options | settings))) as port:
        yield port


@contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    """Serve an ASGI application in a thread; yield its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.02)
        yield server.config.port
    finally:
        server.should_exit = True
        thread.join()

"""Stock Feast's feature server with nothing but reading: `uvicorn --factory serving.read_only:app`.

`feast serve` also writes, materializes and serves a page, for everybody who reaches it. Here only the requests of
`ALLOWED` reach it, with a token where feature_store.yaml has an `auth`.
"""

from feast import FeatureStore
from feast.feature_server import get_app
from feast.permissions.server.utils import (
    ServerType,
    init_auth_manager,
    init_security_manager,
    str_to_auth_manager_type,
)
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.registry.feast_store import load_store_config

ALLOWED = {("POST", "/get-online-features"), ("GET", "/health")}


class ReadOnly:
    """An ASGI application that lets only the requests of `ALLOWED` through to `app`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The root path, which a server may set, is not part of what is matched.
        if scope["type"] == "lifespan" or (scope["type"] == "http" and (scope["method"], scope["path"]) in ALLOWED):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})


def app() -> ReadOnly:
    """Return the feature server of the feature store that the environment names."""
    store = FeatureStore(config=load_store_config())
    # As Feast's own command does it: its application alone asks nobody, whatever is configured.
    auth = store.config.auth_config
    kind = str_to_auth_manager_type(auth.type)
    init_security_manager(kind, store)
    init_auth_manager(ServerType.REST, kind, auth)
    return ReadOnly(get_app(store))

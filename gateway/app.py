"""The endpoints: routes, what they ask of a caller, and what OpenAPI says of them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import UUID

from fastapi import Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from feast import FeatureStore
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess
from pydantic import BaseModel

from gateway import contract
from gateway.auth import MATERIALIZE, READ, Authenticator, Caller, require
from gateway.errors import ApiError, Json, handle_errors
from gateway.front import Front
from gateway.reader import Reader
from gateway.runs import Runs
from gateway.settings import GatewaySettings
from pipeline import __version__
from pipeline.registry.feast_store import open_feature_store

PREFIX = "/api/v1/ml/features"
# A hundred ids are 4 kB.
LARGEST_BODY = 65_536
BODY_SECONDS = 10.0
# One answer of the health check serves all who ask within so long.
_HEALTH_SECONDS = 1.0

Body = TypeVar("Body", bound=BaseModel)
# For OpenAPI only: the routes themselves read the header, as an error has a form of its own.
_BEARER = Depends(HTTPBearer(bearerFormat="JWT", auto_error=False))


def create_app(settings: GatewaySettings) -> FastAPI:
    """Return the gateway; it opens the feature store of this process's environment when it starts.

    Starting raises `PipelineError` where `open_feature_store` does, and where the service of the settings is missing.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_feature_store() as store:
            reader = Reader(
                store, settings.gateway_feature_service, settings.gateway_requests_per_minute, settings.age_limit
            )
            app.state.endpoints = _Endpoints(store, reader, settings.gateway_runs_registry_url.get_secret_value())
            refreshing = asyncio.create_task(reader.keep_up(store.config.registry.cache_ttl_seconds or 60))
            try:
                yield
            finally:
                refreshing.cancel()
                with suppress(asyncio.CancelledError):
                    await refreshing
                await reader.close()

    app = FastAPI(
        title="dCMMS features",
        version=__version__,
        description="Features of the assets of dCMMS, as of the last materialization.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    handle_errors(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Front)
    _add_routes(app, Authenticator(settings.jwt_secret.get_secret_value()))
    return app


class _Bare(APIRoute):
    """A route whose function answers the request itself: FastAPI's part of it would cost half as much as the answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


class _Endpoints:
    """What the routes of a running gateway work with."""

    def __init__(self, store: FeatureStore, reader: Reader, runs_registry_url: str) -> None:
        self.reader = reader
        self.runs = Runs(store, reader, runs_registry_url)
        self._health: tuple[float, str | None] = (0.0, None)
        self._checking = asyncio.Lock()

    async def fault(self) -> str | None:
        """Return what is wrong, looked at anew once a second at most."""
        async with self._checking:
            checked, fault = self._health
            if time.monotonic() - checked > _HEALTH_SECONDS:
                fault = await self.reader.fault()
                self._health = time.monotonic(), fault
        return fault


def _add_routes(app: FastAPI, authenticator: Authenticator) -> None:
    def endpoints(request: Request) -> _Endpoints:
        found: _Endpoints = request.app.state.endpoints
        return found

    def allowed(permission: str) -> Any:
        """Return the dependency that tells who asks, counted and with `permission`."""

        async def caller(request: Request) -> Caller:
            found = authenticator.caller(request.headers.get("authorization"))
            await endpoints(request).reader.count(found)
            require(found, permission)
            return found

        return Depends(caller)

    async def assets(request: Request) -> Response:
        caller = authenticator.caller(request.headers.get("authorization"))
        reader = endpoints(request).reader
        try:
            require(caller, READ)
            asked = await _read(request, contract.FeatureRequest)
            layout = reader.layout(asked.service)
        except Exception:
            await reader.count(caller)  # what is refused counts as well
            raise
        features = await reader.features(layout, asked.assetIds, caller)
        return Json({"count": len(features), "features": features})

    app.router.add_api_route(
        f"{PREFIX}/assets",
        assets,
        methods=["POST"],
        summary="The features of up to a hundred assets",
        response_model=contract.FeatureAnswer,
        responses=_problems(400, 401, 403, 408, 413, 415, 429, 503),
        openapi_extra=_body_of(contract.FeatureRequest) | {"security": [{_BEARER.dependency.scheme_name: []}]},
        route_class_override=_Bare,
    )

    @app.get(
        f"{PREFIX}/views",
        summary="The feature views of a service",
        response_model=contract.ViewsAnswer,
        responses=_problems(400, 401, 403, 429, 503),
        dependencies=[_BEARER, allowed(READ)],
    )
    async def views(request: Request, details: bool = False, service: contract.Service | None = None) -> Response:
        found = endpoints(request).reader.layout(service).views
        answer = [_details(view) for view in found] if details else [view.name for view in found]
        return Json({"count": len(answer), "featureViews": answer})

    @app.get(
        f"{PREFIX}/health",
        summary="Whether features can be read and are fresh",
        response_model=contract.Health,
        responses={503: {"model": contract.Health}},
    )
    async def health(request: Request) -> Response:
        fault = await endpoints(request).fault()
        status = HTTPStatus.SERVICE_UNAVAILABLE if fault else HTTPStatus.OK
        return Json({"healthy": not fault, "status": "unhealthy" if fault else "ok"}, status)

    @app.post(
        f"{PREFIX}/materialize",
        summary="Start a materialization",
        status_code=HTTPStatus.ACCEPTED,
        response_model=contract.Accepted,
        responses=_problems(400, 401, 403, 408, 409, 413, 415, 429, 503),
        openapi_extra=_body_of(contract.MaterializeRequest, required=False),
        dependencies=[_BEARER, allowed(MATERIALIZE)],
    )
    async def materialize(request: Request) -> Response:
        asked = await _read(request, contract.MaterializeRequest, empty=contract.MaterializeRequest())
        run = await endpoints(request).runs.start(force=asked.force)
        answer = contract.Accepted(message="materialization started", status="processing", runId=run)
        return Json(answer.model_dump(), HTTPStatus.ACCEPTED)

    @app.get(
        f"{PREFIX}/materialize/{{run_id}}",
        summary="What became of a materialization",
        response_model=contract.RunOutcome,
        responses=_problems(400, 401, 403, 404, 429, 503),
        dependencies=[_BEARER, allowed(MATERIALIZE)],
    )
    async def outcome(request: Request, run_id: UUID) -> Response:
        found = await endpoints(request).runs.outcome(run_id)
        return Json(found.model_dump())

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        endpoints(request).reader.ages()
        return Response(generate_latest(_registry()), media_type=CONTENT_TYPE_LATEST)


async def _read(request: Request, kind: type[Body], empty: Body | None = None) -> Body:
    """Return the body of a request; raises `ApiError` and pydantic's `ValidationError` where it is none of `kind`.

    Only so much of it is read as a body may have, and for so long.
    """
    content = bytearray()
    is_json = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    if not is_json and (empty is None or request.headers.get("content-type")):
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body has to be application/json")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > LARGEST_BODY:
                    raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have {LARGEST_BODY} bytes")
    except TimeoutError:
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, f"the body took longer than {BODY_SECONDS:.0f} s") from None
    request.state.body_read = True
    return empty if empty is not None and not content else kind.model_validate_json(bytes(content))


def _details(view: Any) -> dict[str, Any]:
    features = [
        {
            "name": field.name,
            "type": str(field.dtype),
            "unit": field.tags.get("unit"),
            "meaning": field.description,
        }
        for field in view.features
    ]
    return {"name": view.name, "description": view.description, "ttlSeconds": view.ttl_seconds, "features": features}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": contract.Problem, "description": HTTPStatus(status).phrase}
        | ({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status in (429, 503) else {})
        for status in statuses
    }


def _body_of(kind: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": kind.model_json_schema()}}}
    }


def _registry() -> CollectorRegistry:
    """Return the metrics of this process, or of all workers where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry

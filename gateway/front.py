"""What happens to every request: its id, its log line, its metrics, and an answer whatever fails."""

import logging
import re
import time
import uuid
from functools import lru_cache
from http import HTTPStatus

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError, answer_to

logger = logging.getLogger("gateway.access")

REQUESTS = Counter("gateway_requests", "Requests, by route and status.", ["method", "route", "status"])
LATENCY = Histogram(
    "gateway_request_seconds",
    "Time from the first byte of a request to the last of its answer.",
    ["route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}", re.ASCII)


class Front:
    """An ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id.decode()})
            if status:  # half of an answer is on its way
                raise
            error = ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong here: the log has the request id")
            await answer_to(error, close=True)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            requests, latency = _metrics(scope["method"] if route != "other" else "other", route, status)
            requests.inc()
            latency.observe(seconds)
            if logger.isEnabledFor(logging.INFO):
                logger.info(
                    "request",
                    extra={
                        "request_id": request_id.decode(),
                        "method": scope["method"],
                        "route": route,
                        "status": status,
                        "milliseconds": round(seconds * 1000, 2),
                    },
                )


@lru_cache
def _metrics(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(status)), LATENCY.labels(route)

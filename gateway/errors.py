"""What the gateway answers where it does not answer: `{statusCode, error, message}` and a little more for some."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from pipeline.base.errors import PipelineError


class Json(JSONResponse):
    """A JSON answer by orjson; what is not a number, and infinity, is null."""

    def render(self, content: object) -> bytes:
        """Return the body."""
        return orjson.dumps(content)


class ApiError(HTTPException):
    """An answer with another status than success; `more` are further fields of its body."""

    def __init__(
        self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None, **more: object
    ) -> None:
        super().__init__(status, message, headers)
        self.more = more


def unavailable(message: str) -> ApiError:
    """Return the answer while a server behind the gateway does not answer."""
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, {"Retry-After": "1"})


def invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return the answer to input that pydantic refuses; it repeats no value."""
    details = [
        {"path": ".".join(str(part) for part in error["loc"] if part not in ("body", "query")), "message": error["msg"]}
        for error in errors
    ]
    return ApiError(HTTPStatus.BAD_REQUEST, "the request is not as the contract says", details=details)


def answer_to(error: HTTPException, *, close: bool = False) -> Json:
    """Return the answer for an error; `close` the connection where its request has not been read to the end."""
    status = HTTPStatus(error.status_code)
    body = {"statusCode": status.value, "error": status.phrase, "message": error.detail}
    headers = dict(error.headers or {}) | ({"Connection": "close"} if close else {})
    return Json(body | getattr(error, "more", {}), status, headers)


def handle_errors(app: FastAPI) -> None:
    """Let every error of `app` have the one form."""

    def respond(request: Request, error: Exception) -> Json:
        if isinstance(error, RequestValidationError | ValidationError):
            error = invalid(error.errors())
        elif isinstance(error, PipelineError):
            error = unavailable("a database of the feature store does not answer")
        assert isinstance(error, HTTPException)
        unread = request.method == "POST" and not getattr(request.state, "body_read", False)
        return answer_to(error, close=unread)

    for kind in (HTTPException, RequestValidationError, ValidationError, PipelineError):
        app.add_exception_handler(kind, respond)

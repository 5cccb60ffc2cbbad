"""The feature server, if one answers where FEATURE_SERVER_URL says: whether it takes writes from whoever reaches it."""

import ssl
from collections.abc import Iterator
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from pipeline.base.settings import Settings
from pipeline.operations.doctor.check import Check, Subject

FEATURE_SERVER = Subject("Feature server")
ANSWER_SECONDS = 5
_UNPROCESSABLE = 422
_CLOSED = {
    401: "asks for a token",
    403: "asks for a token",
    404: "lets reading through, and no writing",
    405: "lets reading through, and no writing",
}


def check_feature_server(settings: Settings) -> Iterator[Check]:
    """Yield whether the feature server is closed; what it is asked to write has no content, so it writes nothing."""
    url = settings.feature_server_url.rstrip("/")
    if not url:
        yield FEATURE_SERVER.ok("access", "not looked at: FEATURE_SERVER_URL is empty")
        return
    url = url if "://" in url else f"http://{url}"
    try:
        is_one = _asked(f"{url}/health") == 200
        answer = _asked(f"{url}/push", b"{}") if is_one else 0
    except (OSError, HTTPException):
        yield FEATURE_SERVER.ok("access", f"none answers at {url}")
        return
    if answer == _UNPROCESSABLE:
        yield FEATURE_SERVER.warning(
            "access",
            f"{url} takes writes from whoever reaches it",
            "let only reads through, or ask for tokens: docs/serving.md",
        )
    elif not is_one:
        yield FEATURE_SERVER.ok("access", f"what answers at {url} is no feature server")
    else:
        yield FEATURE_SERVER.ok("access", f"{url} {_CLOSED.get(answer, f'answers {answer} to what is no request')}")


def _asked(url: str, body: bytes | None = None) -> int:
    """Return the status of the answer; raises `OSError` or `HTTPException` where there is none."""
    # Nothing that is secret is sent, so it does not matter who has signed the certificate.
    handlers = (ProxyHandler({}), HTTPSHandler(context=ssl._create_unverified_context()))
    request = Request(url, body, {"Content-Type": "application/json"})
    try:
        with build_opener(*handlers).open(request, timeout=ANSWER_SECONDS) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code

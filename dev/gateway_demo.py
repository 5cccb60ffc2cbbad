"""The end of `make demo`: the gateway for a moment, and what it answers to a user of dCMMS."""

from __future__ import annotations

import json
import secrets
import sys
import textwrap
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jwt

from dev.fleet.catalog import tenant_id
from dev.servers import HOST, free_port
from dev.steps import run_step
from dev.web import post, started

#: Of the features that are answered these are shown.
SHOWN = ("manufacturer", "health_score", "mtbf_hours", "wo_count_90d", "capacity_factor_30d")
#: Why an asset of the demo fleet is not wholly present.
MEANINGS = {
    "partial": "Of views older than their ttl they are null: the fleet's history has ended.",
    "expired": "All are older than the ttl of their view, and null: the fleet's history has ended.",
}


class Gateway:
    """A gateway on a free port, for the length of the block, with a secret of its own."""

    def __init__(self, stack: ExitStack, environment: Mapping[str, str], log: Path) -> None:
        port, self._secret = free_port(), secrets.token_urlsafe(32)
        self._url = f"http://{HOST}:{port}"
        words = ["-m", "gateway", "--host", HOST, "--port", str(port)]
        self._title = " ".join(["python", *words])
        environment = {**environment, "JWT_SECRET": self._secret}
        self._server = stack.enter_context(started([sys.executable, *words], environment, log))

    def ask(self, asset_id: str) -> str:
        """What it answers for an asset to an operator of its tenant, as a text of a few lines.

        Raises `click.ClickException` where it has not started, or refuses.
        """
        self._server.wait(self._title, f"{self._url}/openapi.json")
        claims = {"id": "demo", "tenantId": tenant_id(), "email": "demo@dcmms.example", "username": "demo"}
        claims |= {"role": "operator", "exp": int(time.time()) + 300}
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        url, body = f"{self._url}/api/v1/ml/features/assets", {"assetIds": [asset_id]}
        answer = run_step("ask the gateway for one", lambda: post(url, body, {"Authorization": f"Bearer {token}"}))
        return f"POST {url}\nas an operator of its tenant\n\n{shown(answer['features'][0])}"


def shown(asset: Mapping[str, Any]) -> str:
    """An asset as the gateway answers it, in JSON with a few of its features, and what its status means here."""
    features = {name: _rounded(asset["features"][name]) for name in SHOWN}
    text = json.dumps({**asset, "features": features}, indent=1, ensure_ascii=False)
    said = f"{len(features)} of its {len(asset['features'])} features. {MEANINGS.get(asset['status'], '')}"
    return f"{text}\n{textwrap.fill(said, 79)}"


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value

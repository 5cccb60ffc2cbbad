"""`python -m gateway.openapi`: the document of /openapi.json, without a server, for generators of clients."""

import json
import sys

from gateway.app import create_app
from gateway.settings import SHORTEST_SECRET_BYTES, GatewaySettings


def document() -> str:
    """Return the document; it depends on the definitions, and on no setting."""
    settings = GatewaySettings.model_validate({"jwt_secret": "x" * SHORTEST_SECRET_BYTES})
    return json.dumps(create_app(settings).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())

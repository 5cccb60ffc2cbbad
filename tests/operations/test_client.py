"""clients/typescript is of the OpenAPI that the gateway has now. `make test-client` also generates and compiles it."""

import json
import re
from typing import Any

from gateway.openapi import document
from pipeline import REPOSITORY

CLIENT = REPOSITORY / "clients" / "typescript"


def named_in(schema: Any) -> set[str]:
    """Return the names of all properties and the values of all enumerations in a JSON schema."""
    if isinstance(schema, list):
        return set().union(*map(named_in, schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
    found |= {value for value in schema.get("enum", []) if isinstance(value, str)}
    return found.union(*(named_in(part) for name, part in schema.items() if name not in ("examples", "enum")))


def test_the_openapi_of_the_client_is_that_of_the_gateway() -> None:
    assert (CLIENT / "openapi.json").read_text(encoding="utf-8") == document(), "run `make docs`"


def test_the_types_of_the_client_have_all_that_the_openapi_names() -> None:
    openapi = json.loads(document())
    schemas = openapi["components"]["schemas"]
    wanted = {*openapi["paths"], *schemas, *named_in(openapi)}
    assert wanted >= {"/api/v1/ml/features/assets", "FeatureAnswer", "assetIds", "predictive_maintenance_v2", "partial"}
    words = set(re.findall(r"[\w/{}-]+", (CLIENT / "gateway.d.ts").read_text(encoding="utf-8")))
    assert wanted - words == set(), "run `make client`"


def test_the_lock_names_no_registry_and_the_versions_that_are_asked_for() -> None:
    lock = json.loads((CLIENT / "package-lock.json").read_text(encoding="utf-8"))
    package = json.loads((CLIENT / "package.json").read_text(encoding="utf-8"))
    wanted = package["dependencies"] | package["devDependencies"]
    locked = {name.removeprefix("node_modules/"): entry for name, entry in lock["packages"].items() if name}
    assert {name: locked[name]["version"] for name in wanted} == wanted
    assert [name for name, entry in locked.items() if "resolved" in entry or not entry.get("integrity")] == []

"""Servers that only the tests of deployments need, on free loopback ports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.places import Store
from tests.object_store import ObjectStore
from tests.stored_snapshots import placed


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """S3 and an Iceberg catalog."""
    with ObjectStore(tmp_path_factory.mktemp("objects")) as server:
        yield server


@pytest.fixture(params=["sql", "rest", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A place of its own for snapshots, by each catalog of Iceberg and as files on S3."""
    objects = None if request.param == "sql" else request.getfixturevalue("objects")
    return placed(monkeypatch, request.param, tmp_path, objects)

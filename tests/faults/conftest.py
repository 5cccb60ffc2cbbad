"""The world of the fault tests, made once."""

from collections.abc import Iterator

import pytest

from tests.faults.world import World, opened_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Published snapshots of A, and real servers."""
    with opened_world(tmp_path_factory.mktemp("faults")) as world:
        yield world

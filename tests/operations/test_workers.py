"""Workers of the feature server that fork from one process: each has a connection of its own to the registry."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from sqlalchemy import text

from dev.servers import PostgresServer, RedisServer
from pipeline import REPOSITORY
from pipeline.registry.feast_store import open_feature_store, registry_engine
from tests.operations.test_end_to_end import ask, feature_server, run
from tests.stores import apply_definitions, write_feature_store_yaml

UNKNOWN = "00000000-0000-4000-8000-00000000dead"


@pytest.fixture(scope="module")
def path(postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature_store.yaml with the definitions in its registry."""
    directory = tmp_path_factory.mktemp("workers")
    path = write_feature_store_yaml(directory, postgres, redis, "feast_workers")
    apply_definitions(path, directory / "data")
    return path


# Forks as the feature server does, and asks the registry in both processes, one after the other.
FORK = """
import os
from feast import FeatureStore
from pipeline.registry.feast_store import load_store_config

def socket(store):
    store.list_feature_views()
    with store.registry.read_engine.connect() as connection:
        descriptor = connection.connection.dbapi_connection.fileno()
        return os.readlink(f"/proc/self/fd/{descriptor}")

store = FeatureStore(config=load_store_config())
before, (reader, writer) = socket(store), os.pipe()
if not os.fork():
    os.write(writer, socket(store).encode())
    os._exit(0)
os.wait()
print(before, os.read(reader, 99).decode(), socket(store))
"""


def test_a_run_keeps_its_connection_to_the_registry(path: Path) -> None:
    with open_feature_store(path) as store:
        sessions = set()
        for _ in range(3):
            store.list_feature_views()
            with registry_engine(store).connect() as connection:
                sessions.add(connection.scalar(text("select pg_backend_pid()")))
    assert len(sessions) == 1


@pytest.mark.parametrize("file", ["feature_store.yaml", "deploy/feature_store.yaml"])
def test_a_fork_makes_a_connection_of_its_own_to_the_registry(path: Path, tmp_path: Path, file: str) -> None:
    config = yaml.safe_load(path.read_text())
    config["registry"] |= {
        name: value
        for name, value in yaml.safe_load((REPOSITORY / file).read_text())["registry"].items()
        if name != "path"
    }
    other = tmp_path / "feature_store.yaml"
    other.write_text(yaml.safe_dump(config))
    environment = os.environ | {"FEAST_FS_YAML_FILE_PATH": str(other)}
    before, child, parent = run(sys.executable, "-c", FORK, cwd=REPOSITORY, environment=environment).split()
    assert child not in (before, parent)


@pytest.mark.timeout(600)
def test_two_workers_answer_by_connections_of_their_own(path: Path, postgres: PostgresServer, tmp_path: Path) -> None:
    """Where they share one they read each other's answers, and fail to start now and then: at five of twelve starts."""
    environment = os.environ | {"FEAST_FS_YAML_FILE_PATH": str(path)}
    for start in range(10 if "FAULT_CAMPAIGN" in os.environ else 2):
        options = ("-w", "2", "--max-requests", "0")
        with feature_server(environment, tmp_path / f"log {start}", options=options) as url:
            deadline, found = time.monotonic() + 60, [set[str]()]
            while len(found) < 2 or not all(found) or set.intersection(*found):
                assert time.monotonic() < deadline, found
                time.sleep(0.2)
                found = [registry_sockets(worker, postgres.port) for worker in workers(url)]
            for _ in range(10):
                assert ask(url, [UNKNOWN], feature_service="predictive_maintenance_v1")


def workers(url: str) -> list[psutil.Process]:
    """Return the workers of the feature server at `url`, which is a child of this process."""
    port = url.rsplit(":", 1)[1]
    (server,) = [child for child in psutil.Process().children() if {"serve", port} <= set(child.cmdline())]
    return server.children()


def registry_sockets(process: psutil.Process, port: int) -> set[str]:
    """Return the sockets of a process that are connected to `port`: two processes can have the same one."""
    sockets = [found for found in process.net_connections() if found.raddr and found.raddr.port == port]
    return {str(Path(f"/proc/{process.pid}/fd/{socket.fd}").readlink()) for socket in sockets}

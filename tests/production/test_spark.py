"""deploy/feature_store.spark.yaml on a standalone cluster of processes: the same values as DuckDB's, bit for bit."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from dev.servers import PostgresServer, RedisServer, free_port
from pipeline import REPOSITORY
from tests.engines import Engine, assert_equal
from tests.made_up_history import ASSETS, write_history

SPARK = REPOSITORY / ".venv-spark"
ENVIRONMENT = {
    "SPARK_HOME": str(SPARK / "pyspark"),
    "SPARK_LOCAL_IP": "127.0.0.1",
    "PYSPARK_PYTHON": sys.executable,
    "PYTHONPATH": str(SPARK),
}
WORKERS = 2
SERVICE = "predictive_maintenance_v1"
# No proxy that the environment names: the cluster is on this machine.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))

pytestmark = [
    pytest.mark.skipif(not SPARK.exists(), reason="Spark is not installed: `make test-spark` does it"),
    pytest.mark.skipif(not shutil.which("java"), reason="there is no Java: `make deploy-tools` installs it on Debian"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of a master and two workers of a core each."""
    directory, port, page = tmp_path_factory.mktemp("spark"), free_port(), free_port()
    address = f"spark://127.0.0.1:{port}"
    worker = ["--cores", "1", "--memory", "1500m", address]
    with ExitStack() as stack:
        for name, webui, arguments in (
            ("master.Master", page, ["--port", str(port)]),
            *[("worker.Worker", free_port(), worker)] * WORKERS,
        ):
            log = stack.enter_context((directory / "log").open("ab"))
            command = [SPARK / "pyspark" / "bin" / "spark-class", f"org.apache.spark.deploy.{name}"]
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--webui-port", str(webui), *arguments],
                cwd=directory,
                env=os.environ | ENVIRONMENT | {"SPARK_WORKER_DIR": str(directory)},
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        deadline = time.monotonic() + 120
        while workers_of(page) < WORKERS:
            assert time.monotonic() < deadline, (directory / "log").read_text()[-3000:]
            time.sleep(0.5)
        yield address


def workers_of(page: int) -> int:
    """Return how many workers the master with this page has."""
    with suppress(OSError), HTTP.open(f"http://127.0.0.1:{page}/json/", timeout=5) as answer:
        return json.load(answer)["aliveworkers"]
    return 0


def test_spark_answers_as_duckdb(master: str, postgres: PostgresServer, redis: RedisServer, tmp_path: Path) -> None:
    write_history(tmp_path / "data")
    deploy, variables = REPOSITORY / "deploy", ENVIRONMENT | {"SPARK_MASTER": master}
    duckdb = Engine(deploy / "feature_store.yaml", tmp_path / "data", postgres, redis).answer(tmp_path, SERVICE)
    spark = Engine(deploy / "feature_store.spark.yaml", tmp_path / "data", postgres, redis, variables).answer(
        tmp_path, SERVICE
    )
    assert duckdb.training_set.num_rows == 906 and len(duckdb.online) == ASSETS
    assert_equal(spark, duckdb)

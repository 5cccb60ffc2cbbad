"""The whole path as a user walks it, each step a process: apply, materialize, serve; the answers are the snapshots'."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.types import Float32, Float64, Int32, String

from dev.servers import HOST, PostgresServer, RedisServer, free_port
from dev.stack import ensure_database
from features.services import predictive_maintenance_v1
from pipeline import REPOSITORY
from pipeline.base.specs import VIEWS
from tests import readme
from tests.stores import write_feature_store_yaml

AS_OF = "2026-01-01T00:00:00Z"
FEAST = Path(sys.executable).with_name("feast")
# In a process of its own: the embedded engine admits one directory per process, and pytest's holds another one.
LOAD = """
import sys
from dev import fleet, load
load.load_fleet(*sys.argv[1:], fleet.generate())
"""
UNKNOWN_ASSET = "00000000-0000-4000-8000-00000000dead"
JSON_TYPES = {String: str, Int32: int, Float32: float, Float64: float}
# No proxy that the environment names: the server is on this machine.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Deployment:
    """A fleet that was loaded, applied and materialized: the environment of its processes and their snapshots."""

    environment: Mapping[str, str]
    snapshots: dict[str, pa.Table]

    @property
    def assets(self) -> list[str]:
        """Keys of all assets."""
        return self.snapshots["asset_features"]["asset_id"].to_pylist()


def run(*command: str | Path, cwd: Path, environment: Mapping[str, str]) -> str:
    """Run a process that has to succeed and return what it printed."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def materialize(cwd: Path, environment: Mapping[str, str], *options: str) -> dict[str, pa.Table]:
    """Run the command in the directory `cwd` and return the snapshot of each view."""
    run(
        sys.executable,
        REPOSITORY / "materialize_features.py",
        "--as-of",
        AS_OF,
        *options,
        cwd=cwd,
        environment=environment,
    )
    files = Path(environment["FEATURE_DATA_DIR"]).glob("*/snapshot_date=2026-01-01/20260101T000000Z.parquet")
    return {path.parts[-3]: pq.read_table(path, partitioning=None) for path in files}


@pytest.fixture(scope="module")
def deployment(
    postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("end-to-end")
    ensure_database(postgres.admin_url, "dcmms_end_to_end", "dcmms")
    overridden = ("CLICKHOUSE_HOST", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD", "CLICKHOUSE_DATABASE")
    environment = {name: value for name, value in os.environ.items() if name not in overridden} | {
        "FEATURE_STORE_ENV_FILE": os.devnull,
        "DATABASE_URL": postgres.url("dcmms", "dcmms_end_to_end"),
        "CLICKHOUSE_DSN": f"chdb://{directory / 'clickhouse'}",
        "TELEMETRY_BUCKET_MINUTES": "60",
        "FEATURE_DATA_DIR": str(directory / "data"),
        "FEAST_FS_YAML_FILE_PATH": str(write_feature_store_yaml(directory, postgres, redis, "feast_end_to_end")),
        "TZ": "UTC",
    }
    (directory / "clickhouse").mkdir()
    stores = (environment["DATABASE_URL"], environment["CLICKHOUSE_DSN"])
    run(sys.executable, "-c", LOAD, *stores, cwd=REPOSITORY, environment=environment)
    applied = subprocess.run(
        [FEAST, "apply"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert (applied.stdout.splitlines()[0], applied.stderr) == ("Applying changes for project dcmms", "")
    yield Deployment(environment, materialize(directory, environment))
    with closing(psycopg2.connect(postgres.admin_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute("drop database dcmms_end_to_end")


@contextmanager
def feature_server(
    environment: Mapping[str, str], log: Path, repository: Path = REPOSITORY, options: Sequence[str] = ()
) -> Iterator[str]:
    """Run `feast serve` in `repository` on a free port for the length of the block; yield its URL once healthy."""
    port = free_port()
    command = [FEAST, "serve", "-h", HOST, "-p", str(port), *options]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=repository,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the server and its workers are one group, to be stopped as one
        )
    try:
        wait_until_healthy(server, f"http://{HOST}:{port}", log)
        yield f"http://{HOST}:{port}"
    finally:
        for stop_signal in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=10)


def wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), HTTP.open(f"{url}/health", timeout=2):
            return
        time.sleep(0.1)
    pytest.fail(f"feast serve does not answer:\n{log.read_text()}")


@pytest.fixture(scope="module")
def url(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the feature server."""
    with feature_server(deployment.environment, tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


def ask(url: str, assets: list[str], **what: Any) -> dict[str, dict[str, Any]]:
    """Return the server's answer per `view__feature`: `values` and `event_timestamps`, one of each per asset."""
    body = {"entities": {"asset_id": assets}, "full_feature_names": True, **what}
    request = urllib.request.Request(
        f"{url}/get-online-features", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with HTTP.open(request, timeout=30) as response:
        answer = json.load(response)
    results = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    assert results.pop("asset_id")["values"] == assets
    return results


def expected_values(snapshot: pa.Table, feature: str, assets: list[str]) -> list[Any]:
    """Return the values of a snapshot in the order of `assets`, None for an asset that it does not hold."""
    values = dict(zip(snapshot["asset_id"].to_pylist(), snapshot[feature].to_pylist(), strict=True))
    return [values.get(asset) for asset in assets]


@pytest.mark.parametrize("view", VIEWS)
def test_every_answer_is_the_snapshots_value_with_the_declared_type(
    deployment: Deployment, url: str, view: str
) -> None:
    snapshot = deployment.snapshots[view]
    answer = ask(url, deployment.assets, features=[f"{view}:{field.name}" for field in VIEWS[view].features])
    assert set(answer) == {f"{view}__{field.name}" for field in VIEWS[view].features}
    for field in VIEWS[view].features:
        values = answer[f"{view}__{field.name}"]["values"]
        assert values == expected_values(snapshot, field.name, deployment.assets), field.name
        assert {type(value) for value in values} <= {JSON_TYPES[field.dtype], type(None)}, field.name


@pytest.mark.parametrize("view", VIEWS)
def test_every_feature_has_a_value_somewhere_in_the_demo_fleet(deployment: Deployment, view: str) -> None:
    snapshot = deployment.snapshots[view]
    assert [f.name for f in VIEWS[view].features if snapshot[f.name].null_count == snapshot.num_rows] == []


def test_the_service_answers_with_its_views_values(deployment: Deployment, url: str) -> None:
    answer = ask(url, deployment.assets, feature_service="predictive_maintenance_v1")
    projections = predictive_maintenance_v1.feature_view_projections
    expected = {
        f"{projection.name}__{field.name}": expected_values(
            deployment.snapshots[projection.name], field.name, deployment.assets
        )
        for projection in projections
        for field in projection.features
    }
    assert {name: result["values"] for name, result in answer.items()} == expected


def test_a_row_carries_its_instant_and_an_unknown_asset_none(deployment: Deployment, url: str) -> None:
    asset = deployment.assets[0]
    (result,) = ask(url, [asset, UNKNOWN_ASSET], features=["asset_features:asset_type"]).values()
    assert result["values"][1] is None
    instants = [datetime.fromisoformat(text) for text in result["event_timestamps"]]
    assert instants == [datetime.fromisoformat(AS_OF), datetime.fromisoformat("1970-01-01T00:00:00Z")]


def test_time_zone_of_the_machine_changes_nothing(deployment: Deployment, tmp_path: Path) -> None:
    environment = {**deployment.environment, "TZ": "America/New_York", "FEATURE_DATA_DIR": str(tmp_path / "data")}
    snapshots = materialize(tmp_path, environment, "--no-online")
    for view, snapshot in deployment.snapshots.items():
        assert snapshots[view].drop(["created"]) == snapshot.drop(["created"])
    with feature_server(environment, tmp_path / "log") as url:
        answer = ask(url, deployment.assets, features=["asset_features:mtbf_hours"])
    values = expected_values(deployment.snapshots["asset_features"], "mtbf_hours", deployment.assets)
    assert answer["asset_features__mtbf_hours"]["values"] == values


@pytest.mark.parametrize("command", [("plan",), ("feature-views", "list")])
def test_feast_commands_of_the_repository(deployment: Deployment, command: tuple[str, ...]) -> None:
    printed = run(FEAST, *command, cwd=REPOSITORY, environment=deployment.environment)
    assert command == ("plan",) or "asset" in printed


def test_readme_shows_the_answer_to_its_request(url: str) -> None:
    (request,) = (block for block in readme.blocks("bash") if block.startswith("curl"))
    (answer,) = readme.blocks("json")
    shown = "http://127.0.0.1:6566"
    assert shown in request
    printed = run("bash", "-c", request.replace(shown, url), cwd=REPOSITORY, environment=os.environ)
    assert json.loads(printed) == json.loads(answer)


def test_readme_python_example_reads_the_same_values_online_and_for_training(deployment: Deployment) -> None:
    (example,) = readme.blocks("python")
    check = """
assert training.shape[0] == 1
shown = {name for name in online if name in training.columns and not pd.isna(training[name][0])}
assert len(shown) > 60, shown
assert all(training[name][0] == online[name][0] for name in shown)
"""
    command = [sys.executable, "-c", example + check]
    environment = deployment.environment | {"PYTHONWARNINGS": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

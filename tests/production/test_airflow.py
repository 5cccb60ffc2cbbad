"""deploy/airflow, run by Airflow itself, from a virtual environment of its own: `make test-airflow`."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from pipeline import REPOSITORY
from pipeline.base.views import VIEW_NAMES
from pipeline.snapshots.files import newest_snapshot, snapshot_instant, snapshots_between
from tests.operations.test_end_to_end import FEAST, run
from tests.production import Production

AIRFLOW = REPOSITORY / ".venv-airflow" / "bin" / "airflow"
DAGS = REPOSITORY / "deploy" / "airflow"
# Prints what the tasks of all DAGs ask Kubernetes for.
PODS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from kubernetes.client import ApiClient

dags = DagBag(sys.argv[1]).dags.values()
pods = [task.build_pod_request_obj().spec for dag in dags for task in dag.tasks]
print(json.dumps(ApiClient().sanitize_for_serialization(pods)))
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""
COMMAND = f"{sys.executable} {REPOSITORY / 'materialize_features.py'}"

pytestmark = [
    pytest.mark.skipif(not AIRFLOW.exists(), reason="Airflow is not installed: `make test-airflow` does it"),
    pytest.mark.timeout(600),
]


class Airflow:
    """Airflow with the DAGs of deploy/, its database in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            "AIRFLOW_HOME": str(directory),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "DCMMS_FEATURES_COMMAND": COMMAND,
            # `dags test` of 3.3.2 ends a good run of a DAG that has a deadline with a stack trace
            "DCMMS_FEATURES_LATE": "0",
        }
        self.run("db", "migrate")

    def run(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """Run a command of Airflow that has to end with `code`, and return what it printed."""
        done = subprocess.run(
            [AIRFLOW, *arguments],
            env=os.environ | self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, (done.stdout + done.stderr)[-20_000:]
        return done.stdout + done.stderr

    def rows(self, sql: str, *parameters: object) -> list[tuple]:
        """Return what its database answers."""
        with closing(sqlite3.connect(self.directory / "airflow.db")) as connection:
            return connection.execute(sql, parameters).fetchall()

    def states(self, dag: str) -> dict[str, str]:
        """Return how each task of the newest run of a DAG has ended."""
        newest = "select run_id from dag_run where dag_id = ? order by id desc limit 1"
        of_it = f"select task_id, state from task_instance where dag_id = ? and run_id = ({newest})"
        return dict(self.rows(of_it, dag, dag))


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    return Airflow(tmp_path_factory.mktemp("airflow"))


@pytest.fixture(scope="module")
def data_dir(production: Production, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the snapshots, registered by Feast; the environment is that of a run."""
    data_dir = tmp_path_factory.mktemp("store") / "data"
    with pytest.MonkeyPatch.context() as monkeypatch:
        production.use(monkeypatch, data_dir, SCHEDULE_MINUTES="600")
        production.register()  # forgets what other tests have published
        run(FEAST, "apply", cwd=REPOSITORY, environment=os.environ)
        yield data_dir


def test_an_hour_is_checked_materialized_and_verified_view_by_view(airflow: Airflow, data_dir: Path) -> None:
    airflow.run("dags", "test", "dcmms_features", datetime.now(UTC).isoformat())
    steps = ["check", *(f"{step}_{view}" for view in VIEW_NAMES for step in ("materialize", "verify"))]
    assert airflow.states("dcmms_features") == dict.fromkeys(steps, "success")
    ((end,),) = airflow.rows("select max(data_interval_end) from dag_run where dag_id = 'dcmms_features'")
    instant = datetime.fromisoformat(end).replace(tzinfo=UTC)
    assert instant.minute == 20
    for view in VIEW_NAMES:
        assert snapshot_instant(newest_snapshot(data_dir, view)) == instant


def test_nothing_is_materialized_where_the_check_fails(
    airflow: Airflow, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(data_dir.rglob("*.parquet"))
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "another one")
    airflow.run("dags", "test", "dcmms_features", datetime.now(UTC).isoformat(), code=1)
    states = airflow.states("dcmms_features")
    assert states.pop("check") == "failed"
    assert set(states.values()) == {"upstream_failed"}
    assert list(data_dir.rglob("*.parquet")) == before


def test_a_month_is_filled_by_its_data_interval(airflow: Airflow, data_dir: Path) -> None:
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before = (month - timedelta(days=1)).replace(day=1)
    airflow.run("dags", "test", "dcmms_features_history", month.isoformat())
    assert airflow.states("dcmms_features_history") == {f"backfill_{view}": "success" for view in VIEW_NAMES}
    days = [before + timedelta(days=day) for day in range((month - before).days)]
    for view in VIEW_NAMES:
        found = [snapshot_instant(path) for path in snapshots_between(data_dir, view, before, month)]
        assert found == (days if "telemetry" not in view else found)


def test_a_run_that_is_late_is_mailed(airflow: Airflow) -> None:
    """Up to the mail itself, which the triggerer sends over the connection smtp_default."""
    airflow.run("dags", "reserialize", DCMMS_FEATURES_LATE="0.001")
    airflow.run("dags", "trigger", "dcmms_features", DCMMS_FEATURES_LATE="0.001")
    airflow.run("scheduler", "--num-runs", "3", DCMMS_FEATURES_LATE="0.001")
    ((missed, mail),) = airflow.rows("select missed, data from deadline join callback on callback.id = callback_id")
    assert missed == 1
    assert "SmtpNotifier" in mail and "ml-platform@dcmms.example" in mail


def test_with_an_image_each_task_is_the_pod_of_the_manifests(airflow: Airflow, tmp_path: Path) -> None:
    manifest = yaml.safe_load((REPOSITORY / "deploy/kubernetes/materialize.yaml").read_text())
    wanted = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    kubeconfig = tmp_path / "kubeconfig"  # of a cluster that nobody asks
    kubeconfig.write_text(KUBECONFIG)
    command = [AIRFLOW.with_name("python"), "-c", PODS, DAGS]
    variables = {"DCMMS_FEATURES_IMAGE": "store:1", "KUBECONFIG": str(kubeconfig)}
    pods = run(*command, cwd=DAGS, environment=os.environ | airflow.environment | variables)
    found = json.loads(pods.splitlines()[-1])
    assert len(found) == 1 + 3 * len(VIEW_NAMES)
    for pod in found:
        (container,) = pod["containers"]
        assert container["image"] == "store:1"
        for name in ("envFrom", "resources", "securityContext", "volumeMounts"):
            assert container[name] == wanted["containers"][0][name], name
        for name in ("securityContext", "serviceAccountName", "automountServiceAccountToken", "volumes"):
            assert pod[name] == wanted[name], name

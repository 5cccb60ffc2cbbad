"""OpenLineage: what runs, rollbacks and backfills tell, by the published schema; and which columns features are of."""

import json
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
import redis as redis_client
from fastapi import FastAPI, Request
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from dev.servers import PostgresServer, RedisServer, free_port
from pipeline import REPOSITORY
from pipeline.base.specs import SPECS, VIEWS
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Ledger, Run
from pipeline.runs.lineage import kept_lineage
from pipeline.sources.column_lineage import lineage
from tests.commands import invoke
from tests.dcmms import Dcmms, T, ago, bucket
from tests.gateways import served
from tests.stores import apply_definitions, use_settings, write_feature_store_yaml

AS_OF = f"{T:%Y-%m-%dT%H:%M:%SZ}"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in Path(__file__).with_name("openlineage").glob("*.json")}
REGISTRY = Registry().with_resources([(s["$id"], Resource.from_contents(s)) for s in SCHEMAS.values()])

Event = dict[str, Any]


@pytest.fixture(scope="module")
def variant() -> str:
    return "n"


@pytest.fixture
def environment(
    dcmms: Dcmms, postgres: PostgresServer, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dcmms]:
    """Two assets, one of them with telemetry, the settings of a run, and a file of events."""
    path = write_feature_store_yaml(tmp_path, postgres, redis, f"feast_lineage_{uuid.uuid4().hex}")
    asset = dcmms.asset(1)
    dcmms.asset(2)
    dcmms.work_order(asset, ago(1))
    dcmms.buckets(*[bucket(asset, "power_kw", ago(hours=hour), 100.0 + hour) for hour in range(1, 97)])
    use_settings(monkeypatch, dcmms.settings, path)
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "events"))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    apply_definitions(path, dcmms.settings.feature_data_dir)
    yield dcmms
    with closing(redis_client.Redis(port=redis.port)) as client:
        client.flushall()


def told(tmp_path: Path) -> list[Event]:
    """Return the events, each of which the schemas take; the file is empty afterwards."""
    path = tmp_path / "events"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.write_text("")
    for event in events:
        assert_valid(event)
    return events


def assert_valid(event: Event) -> None:
    Draft202012Validator(SCHEMAS["OpenLineage"], registry=REGISTRY).validate(event)
    datasets = [*event["inputs"], *event["outputs"]]
    holders = [event["run"]["facets"], event["job"]["facets"], *(each.get("facets", {}) for each in datasets)]
    holders += [each.get("outputFacets", {}) for each in event["outputs"]]
    known = {schema["$id"]: schema for schema in SCHEMAS.values()}
    for name, facet in (item for holder in holders for item in holder.items()):
        address, _, place = facet["_schemaURL"].partition("#")
        if address in known:
            Draft202012Validator({"$ref": f"{address}#{place}"}, registry=REGISTRY).validate(facet)
        else:  # what the client adds of its own
            assert name in ("processing_engine", "tags"), address


def in_short(events: list[Event]) -> list[tuple[str, str]]:
    return [(event["eventType"], event["job"]["name"]) for event in events]


def names(datasets: list[Event]) -> list[str]:
    return [f"{each['namespace']} {each['name']}" for each in datasets]


def test_a_run_tells_what_it_reads_and_writes(
    environment: Dcmms, postgres: PostgresServer, redis: RedisServer, tmp_path: Path
) -> None:
    run_id = uuid.uuid4()
    assert invoke("run", "--as-of", AS_OF, "--run-id", str(run_id)).exit_code == 0
    events = told(tmp_path)
    each = [(kind, f"materialize.{view}") for view in VIEWS for kind in ("START", "COMPLETE")]
    assert in_short(events) == [("START", "materialize"), *each, ("COMPLETE", "materialize")]
    assert {event["job"]["namespace"] for event in events} == {"dcmms"}
    assert events[0]["run"]["runId"] == events[-1]["run"]["runId"] == str(run_id)
    assert events[0]["run"]["facets"]["nominalTime"]["nominalStartTime"] == T.isoformat()

    (done,) = [e for e in events if (e["eventType"], e["job"]["name"]) == ("COMPLETE", "materialize.asset_features")]
    assert done["run"]["runId"] == str(uuid5(run_id, "asset_features"))
    assert done["run"]["facets"]["parent"]["run"]["runId"] == str(run_id)
    server = f"postgres://127.0.0.1:{postgres.port}"
    tables = {name for name in names(done["inputs"]) if name.startswith("postgres")}
    assert tables == {f"{server} dcmms_n.public.{table}" for table in kept_lineage()["asset_features"]["reads"]}
    # health_score counts anomalies
    assert set(names(done["inputs"])) - tables == {"clickhouse://localhost:8123 dcmms_analytics.telemetry_aggregates"}
    snapshot, online = done["outputs"]
    assert (snapshot["namespace"], snapshot["name"]) == (
        "file",
        f"{environment.settings.feature_data_dir}/asset_features",
    )
    assert (online["namespace"], online["name"]) == (f"redis://127.0.0.1:{redis.port}", "dcmms.asset_features")
    assert (
        snapshot["facets"]["version"]["datasetVersion"]
        == online["facets"]["version"]["datasetVersion"]
        == T.isoformat()
    )
    assert snapshot["outputFacets"]["outputStatistics"]["rowCount"] == 2
    columns = snapshot["facets"]["columnLineage"]["fields"]
    assert set(columns) == {field.name for field in VIEWS["asset_features"].features}
    assert [(c["namespace"], c["name"], c["field"]) for c in columns["manufacturer"]["inputFields"]] == [
        (server, "dcmms_n.public.assets", "manufacturer")
    ]


def test_what_fails_dies_or_is_rolled_back_is_told(
    environment: Dcmms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = "work_order_features"
    earlier = "2026-03-11T09:00:00Z"
    assert invoke("--as-of", earlier, "--view", view).exit_code == 0
    died = Run(T, [view])
    with open_feature_store() as store:
        Ledger(store).start(died)
    told(tmp_path)
    assert invoke("--as-of", AS_OF, "--view", view).exit_code == 0
    dead, *events = told(tmp_path)
    assert (dead["eventType"], dead["job"]["name"], dead["run"]["runId"]) == ("FAIL", "materialize", str(died.run_id))
    assert dead["run"]["facets"]["errorMessage"]["message"] == "the run died"
    assert "FAIL" not in {event["eventType"] for event in events}

    assert invoke("rollback", "--view", view, "--to", earlier).exit_code == 0
    events = told(tmp_path)
    assert in_short(events) == [
        ("START", "rollback"),
        ("START", f"rollback.{view}"),
        ("COMPLETE", f"rollback.{view}"),
        ("COMPLETE", "rollback"),
    ]
    assert names(events[2]["inputs"]) == [f"file {environment.settings.feature_data_dir}/{view}"]
    assert [name.split()[1] for name in names(events[2]["outputs"])] == [f"dcmms.{view}"]

    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody:s3cr3t-word@127.0.0.1:1/none")
    assert invoke("--as-of", "2026-03-11T11:00:00Z", "--view", "asset_features").exit_code == 1
    events = told(tmp_path)
    assert in_short(events)[-2:] == [("FAIL", "materialize.asset_features"), ("FAIL", "materialize")]
    assert events[-2]["outputs"] == []
    assert "port 1 failed" in events[-1]["run"]["facets"]["errorMessage"]["message"]
    assert "s3cr3t" not in json.dumps(events)


def test_a_backfill_is_told(environment: Dcmms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = ("--start", "2026-03-09", "--end", "2026-03-11", "--view", "work_order_features")
    assert invoke("backfill", *days).exit_code == 0
    events = told(tmp_path)
    assert in_short(events) == [("START", "backfill"), ("COMPLETE", "backfill")]
    assert names(events[1]["outputs"]) == [f"file {environment.settings.feature_data_dir}/work_order_features"]
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert invoke("backfill", *days, "--overwrite").exit_code == 1
    assert in_short(told(tmp_path)) == [("START", "backfill"), ("FAIL", "backfill")]


def test_events_go_by_http_and_a_server_that_is_down_fails_no_run(
    environment: Dcmms, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE_")]:
        monkeypatch.delenv(name)
    received: list[Event] = []
    app = FastAPI()

    @app.post("/api/v1/lineage")
    async def lineage_of(request: Request) -> None:
        received.append(await request.json())

    dry = ("--as-of", AS_OF, "--no-online", "--view", "work_order_features")
    assert invoke(*dry).exit_code == 0
    assert received == []
    with served(app) as port:
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{port}")
        assert invoke(*dry).exit_code == 0
    assert [e["eventType"] for e in received] == ["START", "START", "COMPLETE", "COMPLETE"]
    for event in received:
        assert_valid(event)
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{free_port()}")
    with caplog.at_level(logging.WARNING):
        result = invoke(*dry)
    assert result.exit_code == 0
    assert result.output.count("no more events are sent") == 1


def test_without_configuration_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, pipeline.runs.job, pipeline.runs.backfill;"
        "print([name for name in sys.modules if name.split('.')[0] in ('openlineage', 'sqlglot')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# columns --------------------------------------------------------------------------------------------------------------


def test_kept_lineage_is_that_of_the_sql() -> None:
    assert kept_lineage() == lineage(), "run `make docs`"


@pytest.mark.parametrize(
    ("view", "feature", "columns"),
    [
        ("asset_features", "manufacturer", {"assets.manufacturer"}),
        ("asset_features", "asset_age_months", {"assets.installation_date"}),
        (
            "asset_features",
            "installed_capacity_kw",
            {"assets.metadata", "assets.specifications", "wind_turbine_metadata.rated_power_mw"},
        ),
        ("work_order_features", "critical_wo_count_30d", {"work_orders.created_at", "work_orders.priority"}),
        ("alarm_features", "hours_since_last_critical_alarm", {"alerts.severity", "alerts.triggered_at"}),
        ("telemetry_features", "hours_since_last_telemetry", {"telemetry_aggregates.time_bucket"}),
    ],
)
def test_a_feature_is_of_the_columns_of_its_definition(view: str, feature: str, columns: set[str]) -> None:
    assert set(kept_lineage()[view]["features"][feature]) == columns


def test_lineage_through_another_view_and_through_tuples() -> None:
    features = kept_lineage()["telemetry_features"]["features"]
    assert "assets.specifications" in features["capacity_factor_7d"], "the capacity is that of asset_features"
    assert "telemetry_aggregates.avg_value" in features["rolling_avg_power_7d"]
    assert "telemetry_aggregates.anomaly_count" not in features["rolling_avg_power_7d"]
    for view in SPECS:
        known = {f"{t}.{c}" for each in SPECS for t, cs in kept_lineage()[each]["reads"].items() for c in cs}
        assert all(set(columns) <= known for columns in kept_lineage()[view]["features"].values())


def test_run_ids_of_views_are_those_of_their_run() -> None:
    run = UUID("0b9a7c52-6d0f-4b61-9d59-0c6b0a3f5f0e")
    assert len({uuid5(run, view) for view in VIEWS}) == len(VIEWS)

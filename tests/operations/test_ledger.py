"""What a run leaves behind: its row in the ledger, the status, metrics for Prometheus, and log lines."""

import io
import json
import os
import re
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import psycopg2.extras
import pyarrow as pa
import pytest
from click.testing import Result
from prometheus_client.parser import text_string_to_metric_families

from dev.servers import PostgresServer, RedisServer, free_port
from pipeline.base.specs import SPECS
from pipeline.base.views import VIEW_NAMES
from pipeline.online.redis.engine import redis_client, row_encoder
from pipeline.online.redis.layout import serialized_stamp
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Ledger, Run
from pipeline.registry.lock import one_at_a_time
from tests.both_variants import POSTGRES_VIEWS
from tests.commands import invoke, process
from tests.dcmms import Dcmms, T, ago, asset_key, bucket
from tests.stores import apply_definitions, set_online_store, use_settings, write_feature_store_yaml

VIEW = "work_order_features"
AS_OF = f"{T:%Y-%m-%dT%H:%M:%SZ}"
EARLIER = "2026-03-11T09:00:00Z"
ALWAYS = str(50 * 365 * 24 * 60)

# A run of which one step gets a SIGTERM and does not let its exception through.
BROKEN_OFF = """
import os, signal, time
from contextlib import suppress
import pipeline.runs.one_instant
from materialize_features import cli
from pipeline.base.errors import PipelineError
from pipeline.base.stop import Stopped

def broken_off(*arguments):
    with suppress(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    {afterwards}

pipeline.runs.one_instant.{step} = broken_off
cli()
"""


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def registry(postgres: PostgresServer) -> str:
    """Name of a registry database that is new to each test."""
    return f"feast_ledger_{uuid.uuid4().hex}"


@pytest.fixture
def environment(
    dcmms: Dcmms,
    postgres: PostgresServer,
    redis: RedisServer,
    registry: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Dcmms:
    """Two assets, one of them with telemetry, and the settings of a run in the environment."""
    path = write_feature_store_yaml(tmp_path, postgres, redis, registry)
    path.write_text(path.read_text().replace("project: dcmms", f"project: {registry}"))
    asset = dcmms.asset(1)
    dcmms.asset(2)
    dcmms.work_order(asset, ago(1))
    dcmms.buckets(*[bucket(asset, "power_kw", ago(hours=hour), 100.0 + hour) for hour in range(1, 97)])
    use_settings(monkeypatch, dcmms.settings, path)
    apply_definitions(path, dcmms.settings.feature_data_dir)
    return dcmms


@pytest.fixture
def cursor(postgres: PostgresServer, registry: str, environment: Dcmms) -> Iterator[psycopg2.extensions.cursor]:
    """A cursor of the registry's database."""
    with closing(psycopg2.connect(postgres.url("feast", registry))) as connection:
        connection.autocommit = True
        yield connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor)


def rows(cursor: psycopg2.extensions.cursor) -> list[dict]:
    """Return the ledger, the first run first."""
    cursor.execute("select * from materialization_runs order by started_at")
    return [dict(row) for row in cursor]


def samples(path: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of a file: name without the prefix, then view (empty where there is none)."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            key = sample.labels.get(sample.name) or sample.labels.get("view", "")
            if sample.name == "feature_store_view_outcome":
                if not sample.value:
                    continue
                key = f"{sample.labels['view']}: {key}"
            found.setdefault(sample.name.removeprefix("feature_store_"), {})[key] = sample.value
    return found


def json_lines(result: Result) -> list[dict]:
    """Return the log lines of a command, and find nothing else printed."""
    assert result.stdout == ""
    return [json.loads(line) for line in result.stderr.splitlines()]


def test_a_run_appends_one_row(cursor: psycopg2.extensions.cursor) -> None:
    before = datetime.now(UTC)
    assert invoke("--as-of", AS_OF).exit_code == 0
    (row,) = rows(cursor)
    assert (row["outcome"], row["error"], row["as_of"]) == ("done", None, T)
    assert before - timedelta(seconds=1) <= row["started_at"] <= row["finished_at"]
    assert set(row["views"]) == set(VIEW_NAMES)
    view = row["views"]["telemetry_features"]
    assert view.pop("seconds") > 0
    assert view.pop("bytes") > 0
    assert view == {
        "view": "telemetry_features",
        "rows": 1,
        "rejected": 0,
        "compared": len(SPECS["telemetry_features"].definition.features),
        "inconsistent": 0,
        "implausible": dict.fromkeys(SPECS["telemetry_features"].plausible, 0),
        "newest_source": T.isoformat(),
        "outcome": "online",
        "error": None,
    }


def test_a_ledger_from_before_shards_is_read_and_gets_their_column(cursor: psycopg2.extensions.cursor) -> None:
    assert invoke("--as-of", EARLIER, "--view", VIEW).exit_code == 0
    cursor.execute("alter table materialization_runs drop column shard")
    assert " done " in invoke("status").stdout
    assert invoke("--as-of", AS_OF, "--view", VIEW).exit_code == 0
    assert [(row["outcome"], row["shard"]) for row in rows(cursor)] == [("done", None), ("done", None)]


def test_failed_views_and_failed_runs_say_why(
    cursor: psycopg2.extensions.cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("--as-of", EARLIER, "--view", VIEW).exit_code == 0
    port = free_port()
    monkeypatch.setenv("DATABASE_URL", f"postgresql://dcmms:s3cr3t@127.0.0.1:{port}/dcmms")
    assert invoke("--as-of", AS_OF).exit_code == 1
    good, bad = rows(cursor)
    assert good["outcome"] == "done"
    assert bad["outcome"] == "failed"
    assert f"port {port} failed" in bad["error"]
    assert "s3cr3t" not in bad["error"]
    assert {view: found["outcome"] for view, found in bad["views"].items()} == dict.fromkeys(VIEW_NAMES, "failed")
    status = invoke("status").stdout
    assert status.index(" failed ") < status.index(" done ")


def test_status_tells_the_age_of_each_view(cursor: psycopg2.extensions.cursor, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("status")
    assert result.exit_code == 1
    assert result.stdout.count("never published") == len(VIEW_NAMES)
    assert "No run has been made yet." in result.stdout

    assert invoke("--as-of", EARLIER).exit_code == 0
    assert invoke("--as-of", AS_OF).exit_code == 0
    result = invoke("status", "--last", "1")
    assert result.exit_code == 1
    assert result.stdout.count("too old") == len(VIEW_NAMES)
    assert len(re.findall(r"2026-03-11 10:00:00 +\S+ +8 +done", result.stdout)) == 1
    assert "2026-03-11 09:00:00" not in result.stdout

    monkeypatch.setenv("SCHEDULE_MINUTES", ALWAYS)
    result = invoke("status")
    assert result.exit_code == 0
    assert result.stdout.count(" fresh") == len(VIEW_NAMES)
    assert re.search(rf"{VIEW} +2026-03-11 10:00:00 +2026-03-10 10:00 ", result.stdout)


def test_a_view_that_was_never_published_is_not_fresh(
    cursor: psycopg2.extensions.cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEDULE_MINUTES", ALWAYS)
    invoke("--as-of", AS_OF, "--view", VIEW)
    invoke("--as-of", AS_OF, "--view", "asset_features", "--no-online")
    result = invoke("status")
    assert result.exit_code == 1
    assert (result.stdout.count("fresh"), result.stdout.count("never published")) == (1, len(VIEW_NAMES) - 1)


def said(result: Result) -> str:
    """Return what a command printed, on one line."""
    return " ".join(result.stdout.split())


def test_status_says_what_is_online_whatever_was_recorded(
    cursor: psycopg2.extensions.cursor, environment: Dcmms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metrics = tmp_path / "features.prom"
    assert invoke("--as-of", AS_OF).exit_code == 0
    with open_feature_store() as store, redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        store.materialize_incremental(datetime.now(UTC))
    result = invoke("status")
    assert result.exit_code == 1
    assert result.stdout.count("too old") == len(VIEW_NAMES), "the registry says that they are of now"
    nothing = "`feast materialize-incremental` records intervals in which it has found nothing"
    assert said(result).count(nothing) == len(VIEW_NAMES)
    assert f"{VIEW}: the newest online row is of 2026-03-11 10:00:00; the registry says " in said(result)
    monkeypatch.setenv("SCHEDULE_MINUTES", ALWAYS)
    assert invoke("status").exit_code == 0
    invoke("--as-of", EARLIER, "--no-online", "--metrics-file", str(metrics))
    assert samples(metrics)["view_as_of_timestamp_seconds"] == dict.fromkeys(VIEW_NAMES, T.timestamp())
    assert samples(metrics)["view_missing_ratio"] == dict.fromkeys(VIEW_NAMES, 0)

    with open_feature_store() as store:
        client = redis_client(store)
        encoder = row_encoder(store, store.get_feature_view(VIEW))
        client.delete(*encoder.keys(pa.array([str(asset_key(1))])).to_pylist())
        result = invoke("status")
        assert (result.exit_code, result.stdout.count("rows missing")) == (1, len(POSTGRES_VIEWS))
        assert f"{VIEW}: 1 of 2 entities looked for have no row online " in said(result)
        # an older row of the other one, as a run leaves it that broke off
        assert invoke("--as-of", AS_OF).exit_code == 0
        key, stamp = encoder.keys(pa.array([str(asset_key(2))])).to_pylist()[0], serialized_stamp(T - timedelta(days=1))
        client.hset(key, encoder.stamp_field, stamp)
        assert "online rows are of 2026-03-10 10:00:00 to 2026-03-11 10:00:00" in said(invoke("status"))
        client.flushall()
    result = invoke("status")
    assert (result.exit_code, result.stdout.count("not online")) == (1, len(VIEW_NAMES))
    assert f"{VIEW}: 2 of 2 entities looked for have no row online: was the online store emptied?" in said(result)
    invoke("--as-of", EARLIER, "--no-online", "--metrics-file", str(metrics))
    assert "view_as_of_timestamp_seconds" not in samples(metrics)
    assert samples(metrics)["view_missing_ratio"] == dict.fromkeys(VIEW_NAMES, 1)

    set_online_store(Path(os.environ["FEAST_FS_YAML_FILE_PATH"]), connection_string=f"127.0.0.1:{free_port()}")
    result = invoke("status")
    assert (result.exit_code, result.stdout.count("unknown")) == (1, len(VIEW_NAMES))
    assert f"{VIEW}: Redis: Error 111 connecting to" in said(result)


def test_a_ledger_that_fails_does_not_fail_the_run(cursor: psycopg2.extensions.cursor) -> None:
    cursor.execute("create table materialization_runs (run_id text)")
    result = invoke("--as-of", AS_OF, "--view", VIEW)
    assert result.exit_code == 0
    assert "WARNING Run ledger materialization_runs: " in result.stderr
    assert "online" in result.stdout


def test_dry_run_leaves_nothing(cursor: psycopg2.extensions.cursor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", "/nonexistent.yaml")
    assert invoke("--as-of", AS_OF, "--dry-run").exit_code == 0
    cursor.execute("select to_regclass('materialization_runs') as ledger")
    assert cursor.fetchone()["ledger"] is None


def test_first_runs_of_several_projects_may_make_the_table_at_once(
    cursor: psycopg2.extensions.cursor, environment: Dcmms
) -> None:
    with open_feature_store() as store, ThreadPoolExecutor(8) as pool:
        ledger = Ledger(store)
        list(pool.map(ledger.start, [Run(T, [VIEW]) for _ in range(8)]))
    assert len(rows(cursor)) == 8


def test_metrics_of_good_and_failed_runs(
    cursor: psycopg2.extensions.cursor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "features.prom"
    before = datetime.now(UTC).timestamp()
    assert invoke("--as-of", AS_OF, "--metrics-file", str(path)).exit_code == 0
    good = samples(path)
    assert good["run_exit_code"] == {"": 0}
    assert good["run_as_of_timestamp_seconds"] == {"": T.timestamp()}
    assert good["view_rows"] == {view: 2 if SPECS[view].every_asset else 1 for view in VIEW_NAMES}
    assert good["view_rejected_rows"] == dict.fromkeys(VIEW_NAMES, 0)
    assert good["view_as_of_timestamp_seconds"] == dict.fromkeys(VIEW_NAMES, T.timestamp())
    assert good["view_newest_source_timestamp_seconds"][VIEW] == ago(1).timestamp()
    assert set(good["view_outcome"]) == {f"{view}: online" for view in VIEW_NAMES}
    for view in VIEW_NAMES:
        assert good["view_last_success_timestamp_seconds"][view] == pytest.approx(before, abs=60)
        assert 0 < good["view_duration_seconds"][view] < good["run_duration_seconds"][""]

    path.unlink()
    monkeypatch.delenv("DATABASE_URL")
    assert invoke("--as-of", AS_OF, "--metrics-file", str(path)).exit_code == 1
    failed = samples(path)
    assert failed["run_exit_code"] == {"": 1}
    assert "view_rows" not in failed
    for name in ("last_success", "as_of", "newest_source"):
        assert failed[f"view_{name}_timestamp_seconds"] == good[f"view_{name}_timestamp_seconds"]
    assert [file.name for file in tmp_path.glob("*prom*")] == ["features.prom"]


def test_metrics_of_a_run_that_found_another_one_busy(
    cursor: psycopg2.extensions.cursor, environment: Dcmms, tmp_path: Path
) -> None:
    path = tmp_path / "features.prom"
    with open_feature_store() as store, one_at_a_time(store):
        result = invoke("--as-of", AS_OF, "--metrics-file", str(path), "--log-format", "json")
    assert result.exit_code == 75
    assert samples(path)["run_exit_code"] == {"": 75}
    (line,) = json_lines(result)
    assert (line["level"], line["message"][:8]) == ("ERROR", "Project ")


@pytest.mark.parametrize(
    ("step", "afterwards"),
    [("registered_view", "raise PipelineError('connection ACTIVE')"), ("write_snapshot", "return 1")],
)
def test_a_stop_is_not_lost_in_what_a_library_makes_of_it(
    cursor: psycopg2.extensions.cursor, tmp_path: Path, step: str, afterwards: str
) -> None:
    """A library that is broken off may raise an error of its own while it cleans up, or none at all."""
    log, metrics = tmp_path / "log", tmp_path / "features.prom"
    code = BROKEN_OFF.format(step=step, afterwards=afterwards)
    options = ["--as-of", AS_OF, "--view", VIEW, "--metrics-file", str(metrics), "--log-format", "json"]
    with process("-c", code, *options, log=log) as run:
        assert run.wait(60) == 143
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (error,) = [line["message"] for line in lines if line["level"] == "ERROR"]
    assert error.startswith("Stopped by SIGTERM.")
    (row,) = rows(cursor)
    assert (row["outcome"], row["error"]) == ("interrupted", error)
    assert row["views"][VIEW]["outcome"] in ("nothing written", "snapshot only")
    assert samples(metrics)["run_exit_code"] == {"": 143}


def test_metrics_that_cannot_be_written_are_a_warning(environment: Dcmms) -> None:
    result = invoke("--as-of", AS_OF, "--view", VIEW, "--metrics-file", "/nonexistent/features.prom")
    assert result.exit_code == 0
    assert "Metrics file /nonexistent/features.prom cannot be written: No such file" in result.stderr


def test_log_lines_are_json(cursor: psycopg2.extensions.cursor, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = json_lines(invoke("--as-of", AS_OF, "--log-format", "json"))
    (row,) = rows(cursor)
    assert {line["run_id"] for line in lines} == {str(row["run_id"])}
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    reading = {"level": "INFO", "message": f"{VIEW}: reading", "view": VIEW, "stage": "reading"}
    assert any(reading.items() <= line.items() for line in lines)
    summary = lines[-1]
    assert summary["as_of"] == T.isoformat()
    assert {view["view"]: view["outcome"] for view in summary["views"]} == dict.fromkeys(VIEW_NAMES, "online")

    monkeypatch.setenv("CLICKHOUSE_DSN", "chdb:///nonexistent")
    lines = json_lines(invoke("--as-of", AS_OF, "--view", "telemetry_features", "--log-format", "json", "--quiet"))
    assert [(line["level"], line["view"], line["stage"]) for line in lines] == [
        ("ERROR", "telemetry_features", "reading")
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--log-format", "json", "--as-of", "yesterday"],
        ["--as-of", "yesterday", "--log-format", "json"],
        ["backfill", "--start", "2026-01-02", "--end", "2026-01-01", "--log-format", "json"],
        ["training-set", "--output", "x.parquet", "--log-format", "json"],
    ],
)
def test_errors_are_json_too(environment: Dcmms, arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code != 0
    assert [line["level"] for line in json_lines(result)] == ["ERROR"]

"""What was served against what the databases say now: measured by `skew`, taken over by `backfill --revise`."""

import json
import os
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pytest import MonkeyPatch

from dev.servers import PostgresServer, RedisServer
from pipeline.base.specs import SPECS, TIMESTAMP
from pipeline.operations.report.judging import percent
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Ledger
from pipeline.snapshots.as_of_join import as_of_join
from pipeline.snapshots.files import newest_snapshot, snapshot_path, with_set_aside
from tests.commands import invoke
from tests.dcmms import Dcmms, T, ago, asset_key
from tests.stores import write_feature_store_yaml

VIEW = "work_order_features"
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
KEYS = [str(asset_key(number)) for number in range(1, 5)]
VIEWS = ("--view", VIEW, "--view", "asset_features")
SPAN = ("--start", ago(3).isoformat(), "--end", ago(-1).isoformat())


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def data(dcmms: Dcmms, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Snapshots of four days up to T, of three assets; those of the last three days are live."""
    for number in (1, 2, 3):
        dcmms.work_order(dcmms.asset(number), ago(5, hours=number))
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", "/nonexistent.yaml")
    monkeypatch.setenv("DATABASE_URL", dcmms.settings.database_url.get_secret_value())
    monkeypatch.setenv("CLICKHOUSE_DSN", dcmms.settings.clickhouse_dsn.get_secret_value())
    monkeypatch.setenv("FEATURE_DATA_DIR", str(dcmms.settings.feature_data_dir))
    result = invoke("backfill", *SPAN, *VIEWS)
    assert result.exit_code == 0, result.output
    for view in (VIEW, "asset_features"):
        for day in (0, 1, 2):
            serve(dcmms.settings.feature_data_dir, view, ago(day))
    return dcmms.settings.feature_data_dir


def read(data: Path, as_of: datetime, view: str = VIEW) -> pa.Table:
    return pq.read_table(snapshot_path(data, view, as_of), partitioning=None)


def serve(data: Path, view: str, as_of: datetime, minutes: int = 5) -> None:
    """Make the snapshot one that a run has written so long after its instant."""
    rows = read(data, as_of, view)
    created = pa.repeat(pa.scalar(as_of + minutes * MINUTE, TIMESTAMP), len(rows))
    pq.write_table(rows.set_column(2, rows.schema.field("created"), created), snapshot_path(data, view, as_of))


def skew(*arguments: str) -> dict[str, dict]:
    """Return the answer of `skew` as JSON by feature."""
    result = invoke("skew", *SPAN, *VIEWS, "--quiet", "--json", *arguments)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    return {"instants": answer["instants"]} | {f"{each['view']}:{each['feature']}": each for each in answer["features"]}


def late_facts(dcmms: Dcmms) -> None:
    """Tell three days later of two work orders that the first asset had, a name that changed, and a fourth asset."""
    for hours in (1, 2):
        dcmms.work_order(UUID(KEYS[0]), ago(1, hours=hours), priority="critical")
    dcmms.asset(4)
    with dcmms.postgres.cursor() as cursor:
        cursor.execute("update assets set manufacturer = 'Vestas' where id = %s", [KEYS[1]])
    dcmms.postgres.commit()


# skew -------------------------------------------------------------------------------------------------------------


def test_nothing_differs_where_nothing_has_changed(data: Path) -> None:
    found = skew()
    assert found.pop("instants") == 3
    assert {name: each["differ"] for name, each in found.items()} == dict.fromkeys(found, 0)
    assert {each["values"] for each in found.values()} == {9}
    assert all(each["typical"] is None for each in found.values())


def test_each_feature_has_its_share_and_typical_size(data: Path, dcmms: Dcmms) -> None:
    late_facts(dcmms)
    found = skew()
    # two of three instants know the late work orders, and all of them the fourth asset
    assert found[f"{VIEW}:wo_count_7d"] == {
        "view": VIEW,
        "feature": "wo_count_7d",
        "unit": "count",
        "values": 12,
        "differ": 4 + 1,
        "share": pytest.approx(5 / 12),
        "typical": 2,
    }
    assert found["asset_features:manufacturer"]["differ"] == 3
    assert found["asset_features:manufacturer"]["typical"] is None
    assert found["asset_features:installed_capacity_kw"]["differ"] == 0


def test_only_what_was_served_counts(data: Path, dcmms: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    late_facts(dcmms)
    serve(data, VIEW, ago(1), minutes=59)
    serve(data, VIEW, T, minutes=60)  # when the next run was due
    assert skew("--view", VIEW)[f"{VIEW}:wo_count_7d"]["values"] == 8
    monkeypatch.setenv("SCHEDULE_MINUTES", "15")
    assert skew("--view", VIEW)[f"{VIEW}:wo_count_7d"]["values"] == 4
    path = snapshot_path(data, VIEW, ago(2))
    pq.write_table(with_set_aside(read(data, ago(2)).slice(1), pa.chunked_array([KEYS[:1]])), path)
    assert skew("--view", VIEW)[f"{VIEW}:wo_count_7d"]["values"] == 3, "its asset had been set aside"
    pq.write_table(read(data, ago(2)).drop_columns(["wo_count_7d"]), path)
    assert skew("--view", VIEW)[f"{VIEW}:wo_count_7d"]["values"] == 0, "its definition had no such feature"


def test_a_sample_and_a_table_of_80_columns(data: Path, dcmms: Dcmms) -> None:
    late_facts(dcmms)
    assert skew("--sample", "1")["instants"] == 1
    before = {path: path.read_bytes() for path in data.rglob("*.parquet")}
    result = invoke("skew", *SPAN, *VIEWS)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    assert f"{VIEW}: served and now, 3 instants" in lines
    (row,) = (line.split() for line in lines if line.split()[:1] == ["manufacturer"])
    assert row == ["manufacturer", "12", "25.00%", "-", "text"]
    assert {path: path.read_bytes() for path in data.rglob("*.parquet")} == before
    assert result.stderr.rstrip().endswith("The skew is not in the ledger."), "there is no registry"


def test_the_ledger_keeps_it_and_the_report_tells_it(
    data: Path, dcmms: Dcmms, postgres: PostgresServer, redis: RedisServer, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    late_facts(dcmms)
    yaml = write_feature_store_yaml(tmp_path, postgres, redis, f"feast_skew_{uuid4().hex}")
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(yaml))
    skew("--sample", "1")
    found = skew()
    of_view = [each for name, each in found.items() if name.startswith(VIEW)]
    with open_feature_store() as store:
        ledger = Ledger(store)
        assert ledger.last_runs(10) == [], "it is no run"
        assert ledger.last_comparisons(ago(4)) == {}
        comparison = ledger.last_comparisons(T)[VIEW]
    sums = [sum(each[name] for each in of_view) for name in ("values", "differ")]
    assert [comparison.as_of, comparison.instants, comparison.values, comparison.differ] == [T, 3, *sums]
    assert comparison.worst_share == max(each["share"] for each in of_view)
    assert comparison.worst_share == found[f"{VIEW}:{comparison.worst}"]["share"] == pytest.approx(5 / 12)
    (view,) = json.loads(invoke("report", "--as-of", T.isoformat(), "--view", VIEW, "--json").stdout)["views"]
    assert view["skew"] == asdict(comparison) | {
        name: f"{getattr(comparison, name):%Y-%m-%dT%H:%M:%SZ}" for name in ("as_of", "finished_at")
    }
    monkeypatch.setenv("COLUMNS", "300")
    told = f"{VIEW}: {percent(sums[1] / sums[0])} of what was served until 2026-03-11 10:00 differs now"
    assert f"skew    {told}, most of {comparison.worst}: 42 %" in invoke("report", "--view", VIEW).stdout
    assert "No run has been made yet." in invoke("status").stdout


def test_bad_input_ends_in_one_line(data: Path) -> None:
    for arguments, exit_code, says in (
        (["--start", "2026-03-08", "--end", "2026-03-09"], 1, "is live: all rows were created later than 60 min"),
        (["--start", "2020-01-01", "--end", "2020-01-02"], 1, "No snapshot from 2020-01-01T00:00:00+00:00 to"),
        (["--start", "2020-01-02", "--end", "2020-01-01"], 64, "is not before --end"),
        (["--start", "2020-01-02"], 64, "Missing option '--end'"),
    ):
        result = invoke("skew", *arguments)
        assert (result.exit_code, len(result.stderr.splitlines())) == (exit_code, 1), result.output
        assert says in result.stderr


# backfill --revise ------------------------------------------------------------------------------------------------


def test_a_revision_replaces_what_has_changed(data: Path, dcmms: Dcmms) -> None:
    before = {day: read(data, ago(day)) for day in range(4)}
    with dcmms.postgres.cursor() as cursor:
        cursor.execute("update assets set manufacturer = 'Vestas' where id = %s", [KEYS[1]])
    for hours in (1, 2):
        dcmms.work_order(UUID(KEYS[0]), ago(1, hours=hours))
    arguments = ("backfill", "--revise", "2d", "--end", ago(-1).isoformat(), *VIEWS)
    result = invoke(*arguments)
    assert result.stdout.startswith("1 instants computed again, 2 snapshots replaced: 6 rows, "), result.output
    for day in (0, 2, 3):
        assert read(data, ago(day)).equals(before[day]), "the newest is online, the others are older than 2 d"
    now = read(data, ago(1))
    assert now["wo_count_7d"].to_pylist() == [3, 1, 1]
    was_created = pc.equal(now["created"], before[1]["created"]).to_pylist()
    assert was_created == [False, True, True], "the values of the others are those that were served"
    assert invoke(*arguments).stdout.startswith("1 instants computed again, 0 snapshots replaced: 0 rows")
    assert newest_snapshot(data, VIEW).stem == "20260311T100000Z"
    frame = pa.table({"asset_id": KEYS[:2], "event_timestamp": pa.array([ago(0.5)] * 2, TIMESTAMP)})
    schema = SPECS[VIEW].snapshot_schema
    live, later = (
        as_of_join(frame, data / VIEW, schema, None, live_snapshots=live)["wo_count_7d"].to_pylist()
        for live in (True, False)
    )
    assert (live, later) == ([1, 1], [3, 1]), "a live join never sees what nobody was served"


def test_a_revision_passes_the_quality_gate_and_needs_no_registry(
    data: Path, dcmms: Dcmms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", "/nonexistent.yaml")
    late_facts(dcmms)
    result = invoke("backfill", "--revise", "90d", "--end", ago(-1).isoformat(), "--view", VIEW)
    assert result.stdout.startswith("3 instants computed again, 3 snapshots replaced: 12 rows")
    assert [len(read(data, ago(day))) for day in range(4)] == [3, 4, 4, 4]


def test_a_revision_does_not_forget_what_the_source_has_lost(data: Path, dcmms: Dcmms) -> None:
    for number in range(4, 30):
        dcmms.asset(number)
    arguments = ("backfill", "--start", ago(2).isoformat(), "--end", ago(1).isoformat(), "--view", VIEW)
    assert invoke(*arguments, "--overwrite").exit_code == 0
    before = read(data, ago(2))
    with dcmms.postgres.cursor() as cursor:
        cursor.execute("delete from assets where id > %s", [KEYS[3]])
    dcmms.postgres.commit()
    result = invoke("backfill", "--revise", "3d", "--end", ago(1).isoformat(), "--view", VIEW)
    assert result.exit_code == 2
    assert "4 rows where the snapshot 20260309T100000Z has 29: assets are gone: 25" in result.stderr
    assert "If the change is planned, take it over with --overwrite." in result.stderr
    assert read(data, ago(2)).equals(before)
    assert invoke(*arguments, "--overwrite").exit_code == 0
    assert len(read(data, ago(2))) == 4


def test_nothing_to_revise(data: Path) -> None:
    result = invoke("backfill", "--revise", "3d", *VIEWS)
    assert result.exit_code == 0
    assert result.stdout == "0 instants computed again, 0 snapshots replaced: 0 rows, 0 bytes\n"


@pytest.mark.parametrize(
    "arguments", [[], ["--start", "2026-01-01"], ["--revise", "3d", "--overwrite"], [*SPAN, "--revise", "3d"]]
)
def test_options_that_cannot_be_meant_together(data: Path, arguments: list[str]) -> None:
    result = invoke("backfill", *arguments)
    assert result.exit_code == 64
    assert result.stderr.startswith("Error: Give --start and --end, or --revise without --start and --overwrite")

"""Rollback: the values of an earlier instant are online again, all of them and no others, until somebody resumes."""

import shutil
import uuid
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from prometheus_client.parser import text_string_to_metric_families

from dev.servers import PostgresServer, RedisServer
from pipeline.online import publish as online
from pipeline.online.redis.engine import redis_client
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.holds import Holds
from pipeline.registry.ledger import Ledger
from pipeline.registry.lock import one_at_a_time
from pipeline.runs import rollback as runs
from pipeline.snapshots.files import snapshot_path, snapshots, with_set_aside, write_snapshot
from pipeline.snapshots.quarantine import quarantine_folder
from tests.commands import invoke
from tests.dcmms import Dcmms, T, asset_key
from tests.stores import apply_definitions, online_values, set_online_store, use_settings, write_feature_store_yaml

VIEW = "work_order_features"
FEATURE = f"{VIEW}:wo_count_7d"
DAY = timedelta(days=1)
FUTURE = datetime(2090, 1, 1, tzinfo=UTC)


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def yaml_path(
    dcmms: Dcmms, postgres: PostgresServer, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Two assets at T - 2 d, three later, a work order more each day; runs as of T - 2 d, T - 1 d and T."""
    path = write_feature_store_yaml(tmp_path, postgres, redis, f"feast_rollback_{uuid.uuid4().hex}")
    set_online_store(path, connection_string=f"127.0.0.1:{redis.port},db=11,socket_timeout=5")
    dcmms.growing_fleet()
    use_settings(monkeypatch, dcmms.settings, path)
    apply_definitions(path, dcmms.settings.feature_data_dir)
    for as_of in (T - 2 * DAY, T - DAY, T):
        run(as_of)
    return path


@pytest.fixture
def data(dcmms: Dcmms) -> Path:
    return dcmms.settings.feature_data_dir


@pytest.fixture
def store(yaml_path: Path, redis: RedisServer) -> Iterator[FeatureStore]:
    with open_feature_store(yaml_path) as store:
        yield store
        redis_client(store).flushdb()


def run(as_of: datetime, *arguments: str, exit_code: int = 0) -> str:
    """Run the view alone, as of an instant."""
    result = invoke("--as-of", as_of.isoformat(), "--view", VIEW, *arguments)
    assert result.exit_code == exit_code, result.output
    return result.output


def roll_back(to: datetime, *arguments: str, exit_code: int = 0) -> str:
    result = invoke("rollback", "--view", VIEW, "--to", to.isoformat(), *arguments)
    assert result.exit_code == exit_code, result.output
    return result.stderr if exit_code else result.stdout


def counts(path: Path) -> list[int | None]:
    """Return the online work orders of 7 d of the three assets."""
    return online_values(path, [FEATURE], [asset_key(number) for number in (1, 2, 3)])["wo_count_7d"]


def end_in_registry(store: FeatureStore) -> datetime | None:
    return store.get_feature_view(VIEW).most_recent_end_time


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.parquet"))


def verify() -> int:
    return invoke("verify", "--view", VIEW).exit_code


def test_the_instant_is_online_again_and_nothing_else(yaml_path: Path, store: FeatureStore, data: Path) -> None:
    assert counts(yaml_path) == [3, 3, 0]
    said = roll_back(T - 2 * DAY, "--reason", "wrong [meters]")
    assert said == (
        f"{VIEW} is online as of 2026-03-09T10:00:00+00:00: 2 rows, 1 entities left, 2 newer snapshots are in "
        "quarantine. Runs leave it alone until --resume.\n"
    )
    assert counts(yaml_path) == [1, 1, None]
    assert verify() == 0
    assert names(data / VIEW) == ["20260309T100000Z.parquet"]
    assert names(quarantine_folder(data, VIEW)) == ["20260310T100000Z.1.parquet", "20260311T100000Z.1.parquet"]
    view = store.get_feature_view(VIEW)
    assert view.most_recent_end_time == T - 2 * DAY
    assert len(view.materialization_intervals) == 1
    (row, *_) = Ledger(store).last_runs(1)
    assert (row.outcome, row.as_of, row.error) == ("rolled back", T - 2 * DAY, None)
    assert (row.views[VIEW]["outcome"], row.views[VIEW]["note"]) == ("online", "wrong [meters]")
    assert Ledger(store).last_publications()[VIEW].as_of == T - 2 * DAY


def test_newer_snapshots_in_the_file_of_a_day_go_too(yaml_path: Path, store: FeatureStore, data: Path) -> None:
    run(T - 2 * DAY + timedelta(hours=1), "--no-online")
    assert invoke("compact", "--view", VIEW).exit_code == 0
    assert names(data / VIEW)[0] == "20260309T100000Z--20260309T110000Z.parquet"
    assert "3 newer snapshots are in quarantine" in roll_back(T - 2 * DAY)
    assert names(data / VIEW) == ["20260309T100000Z.parquet"]
    assert counts(yaml_path) == [1, 1, None]
    assert verify() == 0


def test_runs_are_held_until_it_is_resumed(
    yaml_path: Path, store: FeatureStore, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCHEDULE_MINUTES", str(50 * 365 * 24 * 60))
    roll_back(T - DAY, "--reason", "wrong meters")
    metrics = tmp_path / "features.prom"
    for more in ([], ["--no-online"]):
        result = invoke("--as-of", T.isoformat(), "--view", VIEW, "--view", "asset_features", *more)
        assert result.exit_code == 3, result.output
        assert f"{VIEW}: on hold as of 2026-03-10T10:00:00+00:00 since " in result.stderr
        assert f"(wrong meters): `rollback --view {VIEW} --resume` lets runs go on" in result.stderr
    assert [state.outcome for state in Ledger(store).last_runs(1)] == ["failed"]
    assert Ledger(store).last_publications()["asset_features"].as_of == T, "other views go on"
    run(T, "--metrics-file", str(metrics), exit_code=3)
    (outcome,) = (
        sample.labels["feature_store_view_outcome"]
        for family in text_string_to_metric_families(metrics.read_text())
        for sample in family.samples
        if sample.name == "feature_store_view_outcome" and sample.value
    )
    assert outcome == "on hold"
    assert counts(yaml_path) == [2, 2, 0]
    assert verify() == 0
    status = invoke("status")
    assert status.exit_code == 1
    assert " on hold" in status.stdout
    assert "(wrong meters)" in status.stdout
    assert " rolled back" in status.stdout

    assert invoke("rollback", "--view", VIEW, "--resume").exit_code == 0
    run(T)
    assert counts(yaml_path) == [3, 3, 0]
    assert verify() == 0
    assert invoke("rollback", "--view", VIEW, "--resume").stderr == (
        f"Error: {VIEW} is not on hold: there is nothing to resume\n"
    )


def test_a_run_that_fails_or_is_rejected_says_so_first(
    yaml_path: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_back(T - DAY)
    monkeypatch.setenv("CLICKHOUSE_DSN", "chdb:///nonexistent")
    views = ("--view", VIEW, "--view", "telemetry_features")
    assert invoke("--as-of", T.isoformat(), *views).exit_code == 1


def test_no_online_elsewhere_is_not_held(
    yaml_path: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    roll_back(T - DAY)
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path / "elsewhere"))
    run(T, "--no-online")
    assert names(tmp_path / "elsewhere") == ["20260311T100000Z.parquet"]


def test_a_publication_of_the_future_is_put_right(yaml_path: Path, store: FeatureStore, data: Path) -> None:
    """The clock was wrong: rows, snapshot and registry are as of 2090, and no run gets past that."""
    rows = pq.read_table(snapshot_path(data, VIEW, T), partitioning=None)
    rows = rows.set_column(1, rows.schema.field(1), pa.repeat(pa.scalar(FUTURE, rows.schema.field(1).type), 3))
    write_snapshot(rows, snapshot_path(data, VIEW, FUTURE))
    online.publish(store, VIEW, FUTURE, snapshot_path(data, VIEW, FUTURE))
    said = run(T, exit_code=1)
    assert "`rollback` to the last instant before" in said
    roll_back(T)
    assert (verify(), end_in_registry(store)) == (0, T)
    assert next(snapshots(data, VIEW)) == snapshot_path(data, VIEW, T)
    assert invoke("rollback", "--view", VIEW, "--resume").exit_code == 0
    run(T + timedelta(hours=1))
    assert (verify(), end_in_registry(store)) == (0, T + timedelta(hours=1))


def test_stock_materialization_up_to_the_future_is_put_right(yaml_path: Path, store: FeatureStore) -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Feast calls DuckDB by old names
        store.materialize_incremental(FUTURE, [VIEW])
    assert end_in_registry(store) == FUTURE
    roll_back(T)
    assert (verify(), end_in_registry(store)) == (0, T)
    assert all(end <= T for _, end in store.get_feature_view(VIEW).materialization_intervals)
    invoke("rollback", "--view", VIEW, "--resume")
    run(T + timedelta(hours=1))
    assert (verify(), end_in_registry(store)) == (0, T + timedelta(hours=1))


def test_what_was_set_aside_then_is_not_kept_from_later(yaml_path: Path, store: FeatureStore, data: Path) -> None:
    path = snapshot_path(data, VIEW, T - DAY)
    rows = pq.read_table(path, partitioning=None)
    write_snapshot(with_set_aside(rows.slice(1), rows["asset_id"].slice(0, 1)), path)
    roll_back(T - DAY)
    assert counts(yaml_path) == [None, 2, 0]
    assert verify() == 0


def test_an_older_definition_gets_the_columns_of_now(yaml_path: Path, store: FeatureStore, data: Path) -> None:
    path = snapshot_path(data, VIEW, T - DAY)
    write_snapshot(pq.read_table(path, partitioning=None).drop_columns(["wo_count_30d"]), path)
    roll_back(T - DAY)
    assert verify() == 0


@pytest.mark.parametrize("step", ["move_newer", "verify"])
def test_the_next_run_finishes_what_has_failed(
    yaml_path: Path, store: FeatureStore, data: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(runs, step, fail)
        assert invoke("rollback", "--view", VIEW, "--to", (T - DAY).isoformat()).exit_code == 1
        assert not Holds(store).all()[VIEW].is_done
    again = f"its rollback to 2026-03-10T10:00:00+00:00 is not finished: `rollback --view {VIEW} --to "
    assert again in invoke("rollback", "--view", VIEW, "--resume").stderr
    assert again in run(T, "--no-online", exit_code=1), "which leaves the online store alone"
    run(T, exit_code=3)
    assert Holds(store).all()[VIEW].is_done
    assert counts(yaml_path) == [2, 2, 0]
    assert (verify(), end_in_registry(store)) == (0, T - DAY)
    assert [row.outcome for row in Ledger(store).last_runs(2)] == ["failed", "rolled back"]


def test_a_rollback_that_cannot_be_finished_fails_its_view_alone(
    yaml_path: Path, store: FeatureStore, data: Path
) -> None:
    Holds(store).put(VIEW, T - 3 * DAY, None)
    result = invoke("--as-of", T.isoformat(), "--view", VIEW, "--view", "asset_features")
    assert result.exit_code == 1
    assert f"{VIEW}: its rollback cannot be finished: There is no snapshot of {VIEW} as of" in result.stderr
    assert Ledger(store).last_publications()["asset_features"].as_of == T
    roll_back(T - DAY)
    assert verify() == 0


def test_further_back_and_forth(yaml_path: Path, store: FeatureStore, data: Path) -> None:
    roll_back(T - DAY)
    roll_back(T - 2 * DAY)
    assert counts(yaml_path) == [1, 1, None]
    shutil.move(
        quarantine_folder(data, VIEW) / "20260311T100000Z.1.parquet", snapshot_path(data, VIEW, T)
    )  # by hand, as docs/rollback.md has it
    roll_back(T)
    assert counts(yaml_path) == [3, 3, 0]
    assert (verify(), end_in_registry(store)) == (0, T)


BAD_INPUT = [
    (["--to", "2026-03-09T11:00:00Z"], 1, "There is no snapshot of work_order_features as of 2026-03-09T11:00:00"),
    (["--to", "2026-01-01"], 1, "as of 2026-01-01T00:00:00+00:00: nor any before"),
    (["--to", "2026-03-11T10:00:00Z"], 1, "is online as of 2026-03-11T10:00:00+00:00 already"),
    (["--to", "2026-03-10T10:00:00Z"], 1, "20260310T100000Z.parquet cannot be read: "),
    (["--to", "2026-03-09T10:00:00Z", "--view", "sites"], 64, "sites is unknown: the views are"),
    (["--to", "yesterday"], 64, "yesterday is no date"),
    (["--to", "2026-03-09T10:00:00Z", "--resume"], 64, "Give --to, with or without --reason, or --resume"),
    (["--reason", "none"], 64, "Give --to, with or without --reason, or --resume"),
    (["--resume"], 1, "is not on hold"),
]


def test_bad_input_ends_in_one_line_and_changes_nothing(yaml_path: Path, store: FeatureStore, data: Path) -> None:
    damaged = snapshot_path(data, VIEW, T - DAY)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:4] + bytes(2_000) + whole[2_004:])  # behind a sound footer
    for arguments, exit_code, says in BAD_INPUT:
        result = invoke("rollback", "--view", VIEW, *arguments)
        assert result.exit_code == exit_code, arguments
        assert says in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert (Holds(store).all(), counts(yaml_path), end_in_registry(store)) == ({}, [3, 3, 0], T)
    assert len(list(snapshots(data, VIEW))) == 3


def test_a_busy_run_is_not_disturbed(yaml_path: Path, store: FeatureStore) -> None:
    with one_at_a_time(store):
        assert "is busy: " in roll_back(T - DAY, exit_code=75)
        assert invoke("rollback", "--view", VIEW, "--resume").exit_code == 75
    assert (Holds(store).all(), counts(yaml_path)) == ({}, [3, 3, 0])


def test_the_registry_keeps_no_other_version_of_the_view(yaml_path: Path, store: FeatureStore) -> None:
    before = store.get_feature_view(VIEW)
    roll_back(T - DAY)
    after = store.get_feature_view(VIEW)
    after.materialization_intervals = before.materialization_intervals
    assert after == before
    assert (after.version, after.current_version_number) == (before.version, before.current_version_number)

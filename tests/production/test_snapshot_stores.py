"""All that a history can do: in Iceberg tables by a catalog in SQLite or a REST catalog over S3, and in files on S3."""

import logging
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import yaml

from data_sources import sources
from dev.servers import PostgresServer, RedisServer
from pipeline.base.errors import PipelineError, Unavailable
from pipeline.base.places import Store
from pipeline.base.shard import Shard
from pipeline.base.specs import TIMESTAMP, VIEWS, snapshot_schema
from pipeline.online.redis.engine import redis_client
from pipeline.registry.feast_store import open_feature_store
from pipeline.runs.job import run_job
from pipeline.snapshots import bucket as bucket_module
from pipeline.snapshots import iceberg
from pipeline.snapshots import objects as objects_module
from pipeline.snapshots.as_of_join import as_of_join
from pipeline.snapshots.bucket import Bucket
from pipeline.snapshots.compaction import compact
from pipeline.snapshots.files import (
    lacked_in,
    newest_snapshot,
    read_snapshot,
    schema_of,
    set_aside_in,
    snapshot_path,
    with_set_aside,
    write_snapshot,
)
from pipeline.snapshots.quality import losses
from pipeline.snapshots.quarantine import move_newer
from pipeline.snapshots.store import opened
from pipeline.snapshots.upkeep import is_of_definition, keep_up, look
from tests.commands import invoke
from tests.dcmms import Dcmms, T, asset_key
from tests.faults.proxy import TO_CLIENT, TO_SERVER, Fault, Proxy
from tests.object_store import SECRET, ObjectStore
from tests.stored_snapshots import DAY, FEATURE, KEYS, VIEW, created, placed, put, rows, stems, values
from tests.stores import online_values, register, set_online_store, use_settings, write_feature_store_yaml

STOCK, SCANNING = "duckdb", "serving.offline_store.ScanningDuckDBOfflineStore"


@pytest.fixture
def variant() -> str:
    return "n"


# What the commands do ---------------------------------------------------------------------------------------------


@pytest.fixture
def yaml_path(
    place: Store,
    dcmms: Dcmms,
    postgres: PostgresServer,
    redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """Two assets at T - 2 d, three later, a work order more each day; the definitions of now are registered."""
    path = write_feature_store_yaml(tmp_path, postgres, redis, f"feast_stores_{uuid.uuid4().hex}")
    set_online_store(path, connection_string=f"127.0.0.1:{redis.port},db=9,socket_timeout=5")
    dcmms.growing_fleet()
    use_settings(monkeypatch, dcmms.settings, path, FEATURE_DATA_DIR=str(tmp_path / "data"))
    monkeypatch.setenv("SCHEDULE_MINUTES", "100000000")  # what is computed now of years ago is live
    views, source_of = [view.__copy__() for view in VIEWS.values()], sources()
    for view in views:
        view.batch_source = source_of(view.name)
    with open_feature_store(path) as store:
        register(store, views)
        yield path
        redis_client(store).flushdb()


def command(*arguments: str, exit_code: int = 0) -> str:
    result = invoke(*arguments)
    assert result.exit_code == exit_code, result.output
    assert SECRET not in result.output
    return result.output


def counts(path: Path) -> list[int | None]:
    """Return the online work orders of 7 d of the three assets."""
    return online_values(path, [f"{VIEW}:{FEATURE}"], [asset_key(number) for number in (1, 2, 3)])[FEATURE]


def test_a_history_lives_in_a_store(yaml_path: Path, place: Store, tmp_path: Path) -> None:
    of_view = ("--view", VIEW)
    command("backfill", "--start", f"{T - 4 * DAY:%Y-%m-%dT%H:%M:%SZ}", "--end", f"{T - 2 * DAY:%Y-%m-%dT%H:%M:%SZ}")
    for day in (2, 1, 0):
        command("--as-of", (T - day * DAY).isoformat(), *of_view)
    assert [*(tmp_path / "data").rglob("*.parquet")] == []
    assert stems(place) == [f"202603{day:02}T100000Z" for day in range(7, 12)]
    assert counts(yaml_path) == [3, 3, 0]
    command("verify", *of_view)
    assert "5 instants" in command("skew", "--start", "2026-03-01", "--end", "2026-03-20", *of_view)
    assert '"rows_before": 2' in command("report", "--json", "--as-of", T.isoformat(), *of_view, exit_code=1)
    assert equal_joins(yaml_path, place)
    before = {as_of: values(place, as_of) for as_of in (T - 3 * DAY, T)}
    command("--as-of", (T - 3 * DAY + DAY / 24).isoformat(), "--no-online", *of_view)
    assert "2 files of history are 1 now" in command("compact", *of_view)
    assert {as_of: values(place, as_of) for as_of in before} == before
    assert equal_joins(yaml_path, place)
    assert "2 newer snapshots" in command("rollback", *of_view, "--to", (T - 2 * DAY).isoformat())
    assert counts(yaml_path) == [1, 1, None]
    assert stems(place)[-1] == "20260309T100000Z"
    command("verify", *of_view)
    command("rollback", *of_view, "--resume")
    command("--as-of", T.isoformat(), *of_view)
    assert counts(yaml_path) == [3, 3, 0]
    with ThreadPoolExecutor(2) as pool:  # the next run is one of two shards
        shares = [pool.submit(run_job, T + DAY, [VIEW], shard=Shard(number, 2)) for number in (1, 2)]
        assert sorted(share.result()[0].outcome for share in shares) == ["online", "part online"]
    assert (counts(yaml_path), len(read_snapshot(snapshot_path(place, VIEW, T + DAY)))) == ([3, 3, 0], 3)
    command("verify", *of_view)


def equal_joins(yaml_path: Path, place: Store) -> bool:
    """Return whether stock Feast, its subclass that scans and our own join answer the same.

    Of files on S3 stock Feast is asked in `test_stock_feast_reads_files_on_s3`: DuckDB needs an extension for them.
    """
    frame = pd.DataFrame(
        [(str(asset_key(n)), T - day * DAY) for n in (1, 2, 3) for day in range(6)],
        columns=["asset_id", "event_timestamp"],
    )
    table = pa.table([pa.array(frame["asset_id"]), pa.array(frame["event_timestamp"]).cast(TIMESTAMP)], frame.columns)
    names = ["asset_id", "event_timestamp", "created", FEATURE]
    schema = pa.schema([snapshot_schema(VIEW).field(name) for name in names])
    ours = as_of_join(table, place / VIEW, schema, VIEWS[VIEW].ttl)[FEATURE].to_pylist()
    config = yaml.safe_load(yaml_path.read_text())
    for kind in (SCANNING,) if place.holds_files else (STOCK, SCANNING):
        yaml_path.write_text(yaml.safe_dump(config | {"offline_store": {"type": kind}}))
        with open_feature_store(yaml_path) as store:
            job = store.get_historical_features(frame, [f"{VIEW}:{FEATURE}"])
            found = frame.merge(job.to_df(), on=["asset_id", "event_timestamp"], how="left")
            assert [None if pd.isna(v) else v for v in found[FEATURE]] == ours, kind
            assert SECRET not in str(store.registry.proto())
    yaml_path.write_text(yaml.safe_dump(config))
    return len(set(ours)) > 2


def test_what_cannot_be_meant_is_one_line(yaml_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load(yaml_path.read_text())
    yaml_path.write_text(yaml.safe_dump(config | {"offline_store": {"type": "iceberg", "catalog": "dcmms"}}))
    assert "Feast has no offline_store of the type iceberg" in command("verify", exit_code=1)
    yaml_path.write_text(yaml.safe_dump(config))
    for wrong in ("s3://bucket", "s3://Bucket/snapshots/", "iceberg://Catalog/dcmms"):
        monkeypatch.setenv("FEATURE_SNAPSHOTS", wrong)
        assert "FEATURE_SNAPSHOTS is neither s3://bucket/prefix, nor" in command("verify", exit_code=1)
    monkeypatch.setenv("FEATURE_SNAPSHOTS", "iceberg://nowhere/dcmms")
    (line,) = command("backfill", "--start", "2026-03-01", "--end", "2026-03-02", exit_code=1).strip().splitlines()[-1:]
    assert "PYICEBERG_CATALOG__NOWHERE__URI" in line


# What the store does ----------------------------------------------------------------------------------------------


def state(place: Store) -> object:
    """Return what changes when anything does in a view."""
    return opened(place)._listed(VIEW) if place.holds_files else opened(place)._found(VIEW).metadata


def test_a_snapshot_is_replaced_whole(place: Store) -> None:
    put(place, T - DAY, 1)
    put(place, T, 1)
    put(place, T, 2, KEYS[:5])
    assert (values(place, T), values(place, T - DAY)) == ({2}, {1})
    assert read_snapshot(snapshot_path(place, VIEW, T))["asset_id"].to_pylist() == KEYS[:5]
    before = state(place)
    put(place, T, 2, KEYS[:5])
    assert state(place) == before


def test_rows_that_stay_the_same_keep_their_created(place: Store) -> None:
    put(place, T, 1)
    changed = created(rows(T, 1), T + 9 * DAY).to_pylist()
    changed[0][FEATURE] = 7
    write_snapshot(pa.Table.from_pylist(changed, snapshot_schema(VIEW)), snapshot_path(place, VIEW, T))
    found = read_snapshot(snapshot_path(place, VIEW, T))["created"].to_pylist()
    assert found == [T + 9 * DAY] + [T + DAY / 24] * (len(KEYS) - 1)


def test_notes_and_empty_snapshots_are_kept_with_the_rows(place: Store) -> None:
    put(place, T - DAY, 1)
    with_note = with_set_aside(rows(T, 1, KEYS[:18]), pa.chunked_array([KEYS[18:]]))
    write_snapshot(with_note, snapshot_path(place, VIEW, T))
    write_snapshot(rows(T + DAY, 1, []), snapshot_path(place, VIEW, T + DAY))
    assert set_aside_in(schema_of(snapshot_path(place, VIEW, T))).to_pylist() == KEYS[18:]
    assert newest_snapshot(place, VIEW) == snapshot_path(place, VIEW, T + DAY)
    assert is_of_definition(snapshot_path(place, VIEW, T + DAY), VIEW)
    (lost,) = losses(VIEW, rows(T + 2 * DAY, 1, KEYS[:9]), place, T + DAY, 0.2)
    assert lost.missing.to_pylist() == KEYS[9:18]
    put(place, T, 1)
    assert set_aside_in(schema_of(snapshot_path(place, VIEW, T))).to_pylist() == []
    assert move_newer(place, VIEW, T) == 1
    assert stems(place) == ["20260310T100000Z", "20260311T100000Z"]


def test_a_definition_grows(place: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = snapshot_schema(VIEW)
    at = now.get_field_index(FEATURE)
    kinds = {"lacking": now.remove(at), "text": now.set(at, pa.field(FEATURE, pa.string()))}
    for name, older in kinds.items():
        other = Store(f"{place.url}_{name}", place.folder)
        with monkeypatch.context() as patch:
            module = objects_module if place.holds_files else iceberg
            patch.setattr(module, "snapshot_schema", lambda view, older=older: older)
            table = rows(T).drop_columns([FEATURE])
            if name == "text":
                table = table.add_column(at, older.field(at), pa.array(["many"] * len(KEYS)))
            write_snapshot(table, snapshot_path(other, VIEW, T))
        assert look(other, VIEW).is_older
        with caplog.at_level(logging.INFO):
            keep_up(other, VIEW)
        assert not look(other, VIEW).is_older
        path = snapshot_path(other, VIEW, T)
        assert read_snapshot(path)[FEATURE].null_count == len(KEYS)
        assert lacked_in(schema_of(path)) == [FEATURE]
        assert not is_of_definition(path, VIEW)
        put(other, T + DAY, 3)
        write_snapshot(created(rows(T, 3), datetime.now(T.tzinfo)), path)
        assert is_of_definition(path, VIEW)
        assert values(other, T) == values(other, T + DAY) == {3}
    if place.holds_files:
        assert f"and the files as they were are in {other}/quarantine/{VIEW}" in caplog.text
        assert [str(key) for key, _ in Bucket(other.url).listed("quarantine")] == [
            f"quarantine/{VIEW}/{path.stem}.1.parquet"
        ]
    else:
        (aside,) = [name for name in schema_of(path).names if name.startswith(f"{FEATURE}_until_")]
        assert f"the values as they were are in {aside}" in caplog.text


def test_compaction_rewrites_days(place: Store) -> None:
    instants = [T - 3 * DAY + number * DAY / 4 for number in range(10)]
    for number, instant in enumerate(instants):
        put(place, instant, number)
    done = compact(place, VIEW, T + DAY)
    assert (done.before, done.after, done.removed) == (7, 2, 0)
    assert compact(place, VIEW, T + DAY).before == 0
    assert [values(place, each) for each in instants] == [{number} for number in range(10)]
    with pytest.raises(PipelineError, match="which is online"):
        compact(place, VIEW, T, keep=((DAY, 100000 * DAY),), online=instants[1])
    assert compact(place, VIEW, T, keep=((DAY, 100000 * DAY),)).removed == 5
    assert [values(place, each) for each in (instants[0], instants[3])] == [{0}, {3}]


def test_two_writers_of_one_instant_leave_one_snapshot(place: Store) -> None:
    put(place, T - DAY)
    failed: list[Exception] = []

    def write(value: int) -> None:
        try:
            for day in range(3):
                put(place, T + day * DAY, value)
        except PipelineError as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert all("is being changed by somebody else" in str(error) for error in failed)
    for day in range(3):
        table = read_snapshot(snapshot_path(place, VIEW, T + day * DAY))
        assert table["asset_id"].to_pylist() == KEYS
        assert len({*table[FEATURE].to_pylist()}) == 1


# Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut", "stall", "truncate"])
@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT])
@pytest.mark.parametrize("store", ["rest", "s3"])
def test_nothing_is_half_visible_where_s3_or_the_catalog_fail(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str, kind: str, direction: str
) -> None:
    monkeypatch.setattr(iceberg, "_WAIT", (1, 1))
    monkeypatch.setattr(bucket_module, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(bucket_module, "ANSWER_SECONDS", 1)
    with Proxy(objects.s3) as s3, Proxy(objects.catalog) as rest:
        if store == "s3":
            proxies, variables = [s3], objects.aws_variables(s3=s3.port)
        else:
            proxies, variables = [s3, rest], objects.variables("", s3=s3.port, rest=rest.port)
            variables = {name.replace("PYICEBERG_CATALOG____", "CATALOG__"): value for name, value in variables.items()}
            variables |= {"CATALOG__S3__REQUEST_TIMEOUT": "1", "CATALOG__S3__CONNECT_TIMEOUT": "1"}
        place = placed(monkeypatch, store, tmp_path, objects, **variables)
        put(place, T - DAY, 1)
        put(place, T, 1)
        for proxy in proxies:
            # within the head of a request, and within a file
            for after in (700, 9000) if store == "s3" else (700,):
                proxy.set(Fault(direction, after=after, kind=kind, lasting=kind == "cut"))  # type: ignore[arg-type]
                try:
                    put(place, T, 2)
                    done = 2
                except PipelineError as error:
                    done = 1
                    assert SECRET not in str(error)
                    assert len(str(error).splitlines()) == 1
                assert proxy.happened
                proxy.set(None)
                assert values(place, T) in ({done}, {2})  # a commit whose answer is lost may have been made
                assert (values(place, T - DAY), len(read_snapshot(snapshot_path(place, VIEW, T)))) == ({1}, len(KEYS))
                put(place, T, 1)


@pytest.mark.parametrize(
    ("kind", "variable", "wrong"),
    [
        ("rest", "CATALOG__S3__SECRET_ACCESS_KEY", "wrong-secret-1"),
        ("rest", "CATALOG__CREDENTIAL", "feature-store:wrong-secret-2"),
        ("s3", "AWS_SECRET_ACCESS_KEY", "wrong-secret-3"),
        ("s3", "AWS_ACCESS_KEY_ID", "nobody"),
    ],
)
def test_a_wrong_key_is_one_line_without_it(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, variable: str, wrong: str
) -> None:
    place = placed(monkeypatch, kind, tmp_path, objects, **{variable: wrong})
    with pytest.raises(PipelineError, match=r"Check (the bucket|its keys|PYICEBERG)") as raised:
        put(place, T)
    assert not isinstance(raised.value, Unavailable)
    assert len(str(raised.value).splitlines()) == 1
    for secret in (wrong.split(":")[-1], SECRET):
        assert secret not in str(raised.value)

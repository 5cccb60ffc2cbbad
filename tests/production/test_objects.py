"""What only files on S3 have: several of them change one after the other, and nobody is kept from writing meanwhile."""

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_sources import sources
from dev.servers import HOST, PostgresServer, RedisServer
from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.base.places import Store
from pipeline.registry.feast_store import registered_folder
from pipeline.snapshots import bucket as bucket_module
from pipeline.snapshots import objects as objects_module
from pipeline.snapshots.bucket import Bucket
from pipeline.snapshots.compaction import compact
from pipeline.snapshots.files import Replaced, newest_snapshot, read_snapshot, snapshot_path
from pipeline.snapshots.quality import BrokenRule
from pipeline.snapshots.quarantine import move_newer, quarantine_path, set_aside
from pipeline.snapshots.store import opened
from pipeline.snapshots.upkeep import keep_up
from tests.dcmms import T
from tests.engines import Engine, assert_equal
from tests.faults.proxy import TO_SERVER, Fault, Proxy
from tests.made_up_history import write_history
from tests.object_store import KEY, SECRET, ObjectStore
from tests.stored_snapshots import DAY, KEYS, VIEW, placed, put, rows, stems, values

SCANNING = "serving.offline_store.ScanningDuckDBOfflineStore"
SERVICE = "predictive_maintenance_v1"
INSTANTS = [T - 3 * DAY + number * DAY / 4 for number in range(7)]  # of two days


# DuckDB with the extension that it downloads by itself: `make test-production` installs both.
HTTPFS = REPOSITORY / ".venv-httpfs"
_PREPARE = """
import json, sys
import duckdb

con = duckdb.connect()
con.execute(f"install '{sys.argv[1]}'")
con.execute("load httpfs")
con.execute("create persistent secret (type s3, provider config, " + sys.argv[2] + ")")
"""


class Killed(BaseException):
    """As if the process ended here."""


@pytest.fixture
def place(objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Seven snapshots of two days and the one of now, each with a value of its own."""
    place = placed(monkeypatch, "s3", tmp_path, objects)
    for number, instant in enumerate(INSTANTS):
        put(place, instant, number)
    put(place, T, 100)
    return place


def keys(place: Store, folder: str = VIEW) -> list[str]:
    return sorted(str(key).removeprefix(f"{folder}/") for key, _ in Bucket(place.url).listed(folder))


def all_values(place: Store, count: int = 7) -> list[set[int]]:
    return [values(place, instant) for instant in INSTANTS[:count]]


def at(monkeypatch: pytest.MonkeyPatch, point: str, do: Callable[[], object]) -> None:
    """Do something once, when a point is reached."""
    left = [do]
    monkeypatch.setattr(objects_module, "fault_point", lambda name: left.pop()() if name == point and left else None)


def die() -> None:
    raise Killed


@pytest.mark.parametrize("point", ["objects: brought", "objects: removed"])
def test_a_kill_midway_leaves_every_snapshot_once_for_readers(
    place: Store, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    own = keys(place)
    at(monkeypatch, point, die)
    with pytest.raises(Killed):
        compact(place, VIEW, T)
    assert {*own} < {*keys(place)}
    assert all_values(place) == [{number} for number in range(7)]
    assert len(stems(place)) == 8
    assert compact(place, VIEW, T).after == 2
    assert [key.count("--") for key in keys(place)] == [1, 1, 0]
    at(monkeypatch, point, die)
    with pytest.raises(Killed):
        move_newer(place, VIEW, INSTANTS[4])
    assert all_values(place, 5) == [{number} for number in range(5)]
    move_newer(place, VIEW, INSTANTS[4])
    assert stems(place) == [f"{instant:%Y%m%dT%H%M%SZ}" for instant in INSTANTS[:5]]
    assert all_values(place, 5) == [{number} for number in range(5)]
    moved = {key.partition(".")[0] for key in keys(place, f"quarantine/{VIEW}")}
    assert moved == {f"{instant:%Y%m%dT%H%M%SZ}" for instant in (*INSTANTS[5:], T)}


def test_what_is_computed_again_while_files_are_put_together_stays(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, "objects: brought", lambda: put(place, INSTANTS[1], 50))
    compact(place, VIEW, T)
    assert len(keys(place)) == 4
    assert all_values(place) == [{0}, {50}, {2}, {3}, {4}, {5}, {6}]
    compact(place, VIEW, T)
    assert len(keys(place)) == 3
    assert all_values(place) == [{0}, {50}, {2}, {3}, {4}, {5}, {6}]


def test_a_server_that_stops_midway_leaves_what_was_there(
    place: Store, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = keys(place)
    monkeypatch.setattr(bucket_module, "ANSWER_SECONDS", 1)
    with Proxy(objects.s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        opened.cache_clear()
        at(monkeypatch, "objects: brought", lambda: proxy.set(Fault(TO_SERVER, after=1, lasting=True)))
        with pytest.raises(PipelineError, match="Check that S3 is up"):
            compact(place, VIEW, T)
    monkeypatch.setenv("AWS_ENDPOINT_URL", objects.aws_variables()["AWS_ENDPOINT_URL"])
    opened.cache_clear()
    assert {*own} <= {*keys(place)}
    assert all_values(place) == [{number} for number in range(7)]


def test_what_is_no_snapshot_goes_into_quarantine(
    place: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep_up(place, VIEW)
    bucket = Bucket(place.url)
    for key in ("notes.parquet", f"snapshot_date={T:%Y-%m-%d}/{T + DAY / 24:%Y%m%dT%H%M%SZ}.parquet"):
        bucket.put(f"{VIEW}/{key}", pa.py_buffer(b"PAR1 nothing"))
    assert newest_snapshot(place, VIEW) == snapshot_path(place, VIEW, T)
    assert "cannot be read" in caplog.text
    keep_up(place, VIEW)
    assert len(keys(place)) == 8
    assert keys(place, f"quarantine/{VIEW}") == [f"{T + DAY / 24:%Y%m%dT%H%M%SZ}.1.parquet", "notes.parquet"]
    assert f"2 files are no snapshots, and are moved to {place}/quarantine/{VIEW}: notes.parquet" in caplog.text
    # what has been looked at is not opened again
    monkeypatch.setattr(objects_module, "_UPLOAD_NS", -3600 * 10**9)
    monkeypatch.setattr(objects_module.pq, "read_schema", lambda _: die())
    keep_up(place, VIEW)


def test_rejected_rows_go_beside_the_snapshots(place: Store) -> None:
    path = quarantine_path(place, VIEW, T)
    assert str(path) == f"{place}/quarantine/{VIEW}/{T:%Y%m%dT%H%M%SZ}.parquet"
    broken = BrokenRule("wrong", np.array([True] * 3 + [False] * (len(KEYS) - 3)))
    assert set_aside(rows(T), [broken], path) == 3
    with Bucket(place.url).opened(path.key) as file:
        assert pq.read_table(file)["reason"].to_pylist() == ["wrong"] * 3
    assert not place.folder.exists()


def test_a_large_file_is_read_of_one_version(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "_WHOLE_BYTES", 0)
    key = str(snapshot_path(Path(), VIEW, T))
    with pytest.raises(Replaced), Bucket(place.url).opened(key) as file:
        file.read(100)
        put(place, T, 101)
    monkeypatch.setattr(bucket_module, "_WHOLE_BYTES", 1000)
    assert values(place, T) == {101}
    compact(place, VIEW, T)
    assert read_snapshot(snapshot_path(place, VIEW, INSTANTS[1])).num_rows == len(KEYS)


def test_sources_have_the_place_and_nothing_else(place: Store) -> None:
    source = sources()(VIEW)
    assert source.path == f"{place}/{VIEW}/*/*.parquet"
    assert source.s3_endpoint_override == ""
    view = type("View", (), {"batch_source": source})
    assert registered_folder(view) == place / VIEW


def test_feast_answers_as_of_files_on_a_disk(
    objects: ObjectStore,
    postgres: PostgresServer,
    redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not HTTPFS.exists():
        pytest.skip(f"{HTTPFS} has no DuckDB with its extension httpfs: `make test-production` installs it")
    write_history(tmp_path / "data")
    disk = Engine(REPOSITORY / "deploy/feature_store.yaml", tmp_path / "data", postgres, redis)
    expected = disk.answer(tmp_path, SERVICE)
    place = placed(monkeypatch, "s3", tmp_path, objects)
    for path in (tmp_path / "data").rglob("*.parquet"):
        Bucket(place.url).put(path.relative_to(tmp_path / "data").as_posix(), path)
    stock, scanning = tmp_path / "stock.yaml", tmp_path / "scanning.yaml"
    stock.write_text(disk.yaml.read_text())
    scanning.write_text(disk.yaml.read_text().replace("type: duckdb", f"type: {SCANNING}"))
    variables = {"HOME": str(tmp_path), "PYTHONPATH": str(HTTPFS)}
    engines = [Engine(stock, disk.data_dir, postgres, redis, variables), replace(disk, yaml=scanning)]
    (extension,) = HTTPFS.rglob("httpfs.duckdb_extension")
    address = f"endpoint '{HOST}:{objects.s3}', url_style 'path', use_ssl false, region 'us-east-1'"
    engines[0].python("-c", _PREPARE, extension, f"key_id '{KEY}', secret '{SECRET}', {address}")
    shutil.rmtree(disk.data_dir)
    for engine in engines:
        assert_equal(engine.answer(tmp_path, SERVICE), expected)
    with closing(psycopg2.connect(postgres.url("postgres", "feast_stock"))) as connection, connection.cursor() as found:
        found.execute("select string_agg(encode(data_source_proto, 'escape'), '') from data_sources")
        (registered,) = found.fetchone()
    assert f"{place}/asset_features/*/*.parquet" in registered
    assert not any(word in registered for word in (KEY, SECRET, str(objects.s3)))

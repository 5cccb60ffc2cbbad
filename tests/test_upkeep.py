"""The upkeep of a view's folder: what is no snapshot leaves it, older snapshots get the columns of the definition."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from dev.servers import PostgresServer, RedisServer
from pipeline.base.errors import PipelineError
from pipeline.base.specs import snapshot_schema
from pipeline.base.views import ENGINE_FEAST
from pipeline.online import publish as online
from pipeline.online.verify import verify
from pipeline.registry.feast_store import open_feature_store
from pipeline.snapshots import upkeep
from pipeline.snapshots.files import (
    lacked_in,
    newest_snapshot,
    set_aside_in,
    snapshot_path,
    snapshots,
    with_set_aside,
    write_snapshot,
)
from pipeline.snapshots.quarantine import quarantine_folder
from pipeline.snapshots.upkeep import MARKER, is_of_definition, keep_up, look
from tests.stores import apply_definitions, set_online_store, write_feature_store_yaml

VIEW = "work_order_features"
NEW = "days_since_last_wo"
SCHEMA = snapshot_schema(VIEW)
T = datetime(2026, 1, 2, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KEYS = [str(UUID(int=number)) for number in range(3)]


def table(as_of: datetime, value: int = 1) -> pa.Table:
    """Return a snapshot whose numbers are all `value`."""
    plain = {"asset_id": KEYS, "event_timestamp": [as_of] * 3, "created": [as_of + HOUR] * 3}
    columns = {f.name: plain.get(f.name, ["x" if f.type == pa.string() else value] * 3) for f in SCHEMA}
    return pa.table(columns, schema=SCHEMA)


def changed(snapshot: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return snapshot.set_column(snapshot.column_names.index(name), name, values)


def write(data_dir: Path, as_of: datetime, snapshot: pa.Table | None = None) -> Path:
    path = snapshot_path(data_dir, VIEW, as_of)
    write_snapshot(table(as_of) if snapshot is None else snapshot, path)
    return path


def read(path: Path) -> pa.Table:
    return pq.read_table(path, partitioning=None)


def files(root: Path) -> dict[str, bytes]:
    """Return what readers may open below `root`."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet") if path.is_file()}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snapshots whose footers are read, as it goes on."""
    names: list[str] = []
    read_schema = pq.read_schema
    monkeypatch.setattr(upkeep.pq, "read_schema", lambda path: names.append(path.stem) or read_schema(path))
    return names


# a definition that grows ------------------------------------------------------------------------------------------


def test_what_an_older_definition_lacked_is_null_and_the_rest_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    older = with_set_aside(table(T - DAY).drop_columns([NEW]), pa.chunked_array([["gone"]]))
    older = older.append_column("renounced", pa.array(["a", "b", "c"]))
    path, current = write(tmp_path, T - DAY, older), write(tmp_path, T)
    before = current.read_bytes()
    assert not is_of_definition(path, VIEW)
    keep_up(tmp_path, VIEW)
    now = read(path)
    assert now.schema.names == [*SCHEMA.names, "renounced"]
    assert now.select(SCHEMA.names).schema.equals(SCHEMA)
    assert now[NEW].null_count == 3
    assert now.drop_columns([NEW]).select(older.column_names).equals(older)
    assert set_aside_in(now.schema).to_pylist() == ["gone"]
    assert lacked_in(now.schema) == [NEW]
    assert current.read_bytes() == before
    assert is_of_definition(current, VIEW)
    assert not is_of_definition(path, VIEW), "a backfill has to compute it"
    assert caplog.messages == [
        f"{VIEW}: 1 snapshots of an older definition have the columns of now; what they lacked is NULL until a backfill"
    ]
    write_snapshot(with_set_aside(changed(table(T - DAY), NEW, pa.nulls(3, pa.int32())), now["renounced"]), path)
    assert is_of_definition(path, VIEW), "computed, and NULL all the same"


def test_what_was_brought_in_stays_known_when_the_definition_grows_again(tmp_path: Path) -> None:
    path = write(tmp_path, T, table(T).drop_columns([NEW]))
    keep_up(tmp_path, VIEW)
    pq.write_table(read(path).drop_columns(["wo_count_7d"]), path)
    keep_up(tmp_path, VIEW)
    assert lacked_in(pq.read_schema(path)) == [NEW, "wo_count_7d"]


def test_another_type_is_cast_where_the_values_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fits = write(tmp_path, T - DAY, changed(table(T - DAY), NEW, pa.array([1.0, 2.0, None])))
    before = [write(tmp_path, T - HOUR * h, changed(table(T), NEW, pa.array([1.5, 2, 3]))).read_bytes() for h in (1, 0)]
    keep_up(tmp_path, VIEW)
    assert read(fits)[NEW].to_pylist() == [1, 2, None]
    assert [read(path).schema.equals(SCHEMA) for path in snapshots(tmp_path, VIEW)] == [True] * 3
    assert read(newest_snapshot(tmp_path, VIEW))[NEW].null_count == 3
    assert read(newest_snapshot(tmp_path, VIEW))["wo_count_7d"].to_pylist() == [1, 1, 1]
    place = quarantine_folder(tmp_path, VIEW)
    assert sorted(files(place).values()) == sorted(before)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{VIEW}: {NEW} was double and does not fit int32 in 2 snapshots, first 20260102T110000Z: it is NULL there, "
        f"and the files as they were are in {place}"
    ]


def test_files_are_opened_once_for_each_definition(tmp_path: Path, opened: list[str]) -> None:
    for hour in range(5):
        write(tmp_path, T - hour * HOUR)
    keep_up(tmp_path, VIEW)
    assert len(opened) == 5
    opened.clear()
    write(tmp_path, T + HOUR)
    shutil.copystat(newest_snapshot(tmp_path, VIEW, T), newest_snapshot(tmp_path, VIEW))  # old, as cp -p has it
    keep_up(tmp_path, VIEW)
    assert opened == ["20260102T130000Z"]
    keep_up(tmp_path, VIEW)
    assert len(opened) == 1
    for marker in ("x int32\n", "\udcff"):
        opened.clear()
        (tmp_path / VIEW / MARKER).write_text(marker, errors="surrogateescape")
        keep_up(tmp_path, VIEW)
        assert len(opened) == 6
    os.utime(tmp_path / VIEW / MARKER, (2**33, 2**33))  # of a clock that was wrong
    opened.clear()
    keep_up(tmp_path, VIEW)
    assert len(opened) == 6


def test_an_interruption_costs_time_only(tmp_path: Path, opened: list[str]) -> None:
    paths = [write(tmp_path, T - hour * HOUR, table(T).drop_columns([NEW])) for hour in range(4)]

    def interrupt(share: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_up(tmp_path, VIEW, interrupt)
    assert sum(NEW in pq.read_schema(path).names for path in paths) == 2
    assert [path.name for path in (tmp_path / VIEW).iterdir() if path.is_file()] == []
    keep_up(tmp_path, VIEW)
    assert [read(path).schema.equals(SCHEMA) for path in paths] == [True] * 4


def test_a_folder_that_cannot_be_written_ends_in_one_line(tmp_path: Path) -> None:
    keep_up(tmp_path, VIEW)
    assert not list(tmp_path.iterdir()), "a first run has nothing to keep up"
    write(tmp_path, T)
    (tmp_path / VIEW / MARKER).mkdir()
    with pytest.raises(PipelineError, match=f"{VIEW} cannot be kept up: .*Check the folder, its rights and its space"):
        keep_up(tmp_path, VIEW)


# what is no snapshot ----------------------------------------------------------------------------------------------


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


STRAYS: dict[str, Callable[[Path], object]] = {
    "copy.parquet": half,
    "20260102T120000Z copy.parquet": lambda path: None,
    "._20260102T120000Z.parquet": lambda path: path.write_bytes(b"\x00\x05\x16\x07"),
    "20260102.parquet": lambda path: None,
    "20260102T130000Z.parquet": lambda path: path.write_bytes(b""),
    "20260102T140000Z.parquet": half,
    "20260102T150000Z.parquet": lambda path: path.write_bytes(b"PAR1 unreadable PAR1"),
    "20260102T160000Z.parquet": lambda path: path.write_bytes(path.read_bytes()[:4] + b"\xff" * 99 + b"\x10\0\0\0PAR1"),
    "20260102T170000Z.parquet": lambda path: pq.write_table(pa.table({"x": [1]}), path),
    "20260103T120000Z.parquet": lambda path: None,
    "../copy.parquet": lambda path: None,
    "../.hidden/20260102T120000Z.parquet": lambda path: None,
    "../snapshot_date=2026-01-02 copy/20260102T120000Z.parquet": lambda path: None,
    "sub/20260102T120000Z.parquet": lambda path: None,
}


def add_strays(data_dir: Path, names: Iterator[str] | list[str]) -> None:
    for name in names:
        path = snapshot_path(data_dir, VIEW, T).parent / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy2(snapshot_path(data_dir, VIEW, T), path)
        STRAYS[name](path)


@pytest.mark.parametrize("name", STRAYS)
def test_what_is_no_snapshot_goes_to_quarantine(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, T)
    before = files(tmp_path / VIEW)
    add_strays(tmp_path, [name])
    (stray,) = (name for name in files(tmp_path / VIEW) if name not in before)
    assert [str(path.relative_to(tmp_path / VIEW)) for path in look(tmp_path, VIEW).strays] == [stray]
    with_stray = files(tmp_path / VIEW)
    keep_up(tmp_path, VIEW)
    place = quarantine_folder(tmp_path, VIEW)
    assert files(tmp_path / VIEW) == before
    assert list(files(place).values()) == [with_stray[stray]]
    assert caplog.messages == [f"{VIEW}: 1 files are no snapshots, and are moved to {place}: {stray}"]
    assert list(snapshots(tmp_path, VIEW)) == [path]


def test_one_warning_tells_of_all_and_nothing_is_overwritten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, T)
    place = quarantine_folder(tmp_path, VIEW)
    rejected = place / "20260102T130000Z.parquet"
    rejected.parent.mkdir(parents=True)
    rejected.write_bytes(b"rejected rows")
    for _ in range(2):
        add_strays(tmp_path, list(STRAYS))
        caplog.clear()
        keep_up(tmp_path, VIEW)
        assert len(caplog.messages) == 1
        assert f"{len(STRAYS)} files are no snapshots" in caplog.text
    assert len(files(place)) == 2 * len(STRAYS) + 1
    assert rejected.read_bytes() == b"rejected rows"
    assert files(place).keys() >= {"copy.parquet", "copy.1.parquet", "20260102T130000Z.1.parquet"}


def test_other_files_and_those_that_are_being_written_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path, T).parent
    (folder / ".20260102T130000Z-7.tmp").write_bytes(b"ours")
    (folder / "README.txt").write_bytes(b"a person's")
    slow, stuck = write(tmp_path, T + HOUR), write(tmp_path, T + 2 * HOUR)
    whole = slow.read_bytes()
    for path in (slow, stuck):
        path.write_bytes(whole[:50])
    # somebody copies, and gets on while the run waits to see that
    monkeypatch.setattr(upkeep.time, "sleep", lambda _: slow.write_bytes(whole[:60]))
    keep_up(tmp_path, VIEW)
    assert f"1 files cannot be read or are being written, and stay: {slow}" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == [
        ".20260102T130000Z-7.tmp",
        "20260102T120000Z.parquet",
        "20260102T130000Z.parquet",
        "README.txt",
    ]
    assert list(files(quarantine_folder(tmp_path, VIEW))) == ["20260102T140000Z.1.parquet"]
    slow.write_bytes(whole)
    keep_up(tmp_path, VIEW)
    assert slow.read_bytes() == whole


def test_rows_that_are_damaged_behind_a_sound_footer_are_moved(tmp_path: Path) -> None:
    path = write(tmp_path, T, table(T).drop_columns([NEW]))
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(2_000) + whole[2_004:])
    keep_up(tmp_path, VIEW)
    assert list(files(tmp_path)) == [f"quarantine/{VIEW}/20260102T120000Z.1.parquet"]


# stock readers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(postgres: PostgresServer, redis: RedisServer, tmp_path: Path) -> Iterator[FeatureStore]:
    path = write_feature_store_yaml(tmp_path, postgres, redis, "feast_upkeep")
    set_online_store(path, connection_string=f"127.0.0.1:{redis.port},db=8,socket_timeout=5")
    apply_definitions(path, tmp_path)
    with open_feature_store(path) as store:
        yield store


def test_stock_readers_read_all_of_it(store: FeatureStore, tmp_path: Path) -> None:
    older = table(T - 2 * DAY).append_column("renounced", pa.array([1, 2, 3]))
    write(tmp_path, T - 2 * DAY, changed(older, "wo_count_7d", pa.array([7.0, 7, 7])).drop_columns([NEW]))
    write(tmp_path, T - DAY, table(T - DAY).drop_columns([NEW]))
    path = write(tmp_path, T, table(T, 2))
    add_strays(tmp_path, list(STRAYS))
    moments = pd.DataFrame({"asset_id": KEYS[:1] * 3, "event_timestamp": [T - 2 * DAY, T - DAY, T]})
    features = [f"{VIEW}:{name}" for name in (NEW, "wo_count_7d")]

    def history() -> list[list[float | None]]:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Feast calls DuckDB by old names
            joined = store.get_historical_features(moments, features).to_df().sort_values("event_timestamp")
        return [[None if pd.isna(value) else value for value in joined[name]] for name in (NEW, "wo_count_7d")]

    with pytest.raises(duckdb.Error):
        history()
    keep_up(tmp_path, VIEW)
    assert history() == [[None, None, 2], [7, 1, 2]]
    online.publish(store, VIEW, T, path, engine=ENGINE_FEAST)
    assert {feature.wrong for feature in verify(store, tmp_path, VIEW)} == {0}


def test_verify_takes_a_feature_that_the_newest_snapshot_lacks_for_null(store: FeatureStore, tmp_path: Path) -> None:
    path = write(tmp_path, T)
    online.publish(store, VIEW, T, path)
    write_snapshot(table(T).drop_columns([NEW]), path)
    for sample in (None, 2):
        wrong = {f.feature: f.extra for f in verify(store, tmp_path, VIEW, sample=sample) if f.wrong}
        assert wrong == {NEW: sample or 3}

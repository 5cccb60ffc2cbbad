"""Snapshot files: which files are snapshots, which of them a join opens, and what older definitions have left."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import PipelineError
from pipeline.base.specs import TIMESTAMP
from pipeline.snapshots.as_of_join import as_of_join
from pipeline.snapshots.files import newest_snapshot, snapshot_path, snapshots, snapshots_between

VIEW = "toy"
T = datetime(2026, 1, 2, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SCHEMA = pa.schema(
    {"asset_id": pa.string(), "event_timestamp": TIMESTAMP, "created": TIMESTAMP, "x": pa.int32(), "text": pa.string()}
)

STRAYS = [
    "copy.parquet",
    "20260102T120000Z copy.parquet",
    "._20260102T120000Z.parquet",
    ".20260102T120000Z-7.tmp",
    "20260102.parquet",
    "20260102T120000.parquet",
    "20260102T120000+0000.parquet",
    "20260102T120000.000000Z.parquet",
    "20260102T1200Z.parquet",
    "2026-01-02T12:00:00Z.parquet",
    "20260102T126000Z.parquet",
    "20260103T120000Z.parquet",  # in the folder of another day
    "00010101.parquet",
]


def write(data_dir: Path, as_of: datetime, keys: list[str], created: datetime | None = None, **features: list) -> Path:
    path = snapshot_path(data_dir, VIEW, as_of)
    path.parent.mkdir(parents=True, exist_ok=True)
    times = {"event_timestamp": [as_of] * len(keys), "created": [created or as_of] * len(keys)}
    table = {name: pa.array(column, TIMESTAMP) for name, column in times.items()}
    pq.write_table(pa.table({"asset_id": pa.array(keys, pa.string()), **table, **features}), path)
    return path


def joined(data_dir: Path, *rows: tuple[str, datetime], ttl: timedelta | None = 30 * DAY, live: bool = False) -> list:
    keys, instants = zip(*rows, strict=True)
    frame = pa.table({"asset_id": pa.array(keys), "event_timestamp": pa.array(instants, TIMESTAMP)})
    table = as_of_join(frame, data_dir / VIEW, SCHEMA, ttl, live_snapshots=live)
    assert table.column_names == ["x", "text"]
    return table["x"].to_pylist()


# which files are snapshots ----------------------------------------------------------------------------------------


def test_only_files_of_the_exact_name_and_folder_are_snapshots(tmp_path: Path) -> None:
    sound = [write(tmp_path, as_of, ["a"]) for as_of in (T, T + timedelta(microseconds=500_000), T + HOUR)]
    folder = sound[0].parent
    for name in STRAYS:
        (folder / name).write_bytes(b"stray")
    for name in ("snapshot_date=2026-01-02 copy", "snapshot_date=20260102", "snapshot_date=2026-01-02.old"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "20260102T120000Z.parquet").write_bytes(b"stray")
    (folder / "20260102T150000Z.parquet").write_bytes(b"")
    (folder / "20260102T160000Z.parquet").mkdir()
    (folder / "20260102T170000Z.parquet").symlink_to("nowhere")
    assert list(snapshots(tmp_path, VIEW)) == sound[::-1]
    assert newest_snapshot(tmp_path, VIEW) == sound[2]
    assert snapshots_between(tmp_path, VIEW, T, T + 5 * HOUR) == sound
    assert joined(tmp_path, ("a", T + 5 * HOUR)) == [None]


def test_bounds_are_instants_not_days(tmp_path: Path) -> None:
    paths = [write(tmp_path, T + hours * HOUR, ["a"]) for hours in range(-24, 25, 6)]
    assert list(snapshots(tmp_path, VIEW, T - 6 * HOUR, T + 6 * HOUR)) == paths[5:2:-1]
    assert snapshots_between(tmp_path, VIEW, T - 6 * HOUR, T + 6 * HOUR) == paths[3:5]
    assert newest_snapshot(tmp_path, VIEW, T + 7 * HOUR) == paths[5]
    assert newest_snapshot(tmp_path, VIEW, T - 25 * HOUR) is None
    assert newest_snapshot(tmp_path, "another", T) is None


# which of them a join opens ---------------------------------------------------------------------------------------


def test_a_join_opens_the_snapshots_that_it_needs(tmp_path: Path) -> None:
    for day in range(40):
        # Whole at first sight, but who opens it fails.
        write(tmp_path, T - day * DAY, ["a"]).write_bytes(b"PAR1 unreadable PAR1")
    write(tmp_path, T - 3 * DAY, ["a", "b"], x=[3, 3])
    write(tmp_path, T - 10 * DAY, ["a", "b"], x=[10, 10])
    write(tmp_path, T - 11 * DAY, ["b"], x=[11])
    for day in (4, 5):
        write(tmp_path, T - day * DAY, ["b"], x=[day])
    rows = [("a", T - 3 * DAY), ("b", T - 10 * DAY + HOUR), ("a", T - 4 * DAY + HOUR)]
    assert joined(tmp_path, *rows[:2]) == [3, 10]
    with pytest.raises(PipelineError, match=r"^toy: .*Check the snapshots in .*toy\.$"):
        joined(tmp_path, *rows)
    for day in (6, 7, 8, 9):
        write(tmp_path, T - day * DAY, ["b"], x=[day])
    assert joined(tmp_path, *rows[1:], ttl=6 * DAY + HOUR) == [10, 10]
    assert joined(tmp_path, *rows[1:], ttl=6 * DAY + HOUR - timedelta(microseconds=1)) == [10, None]


@pytest.mark.parametrize("missing", [1, 8, 9, 10, 73, 74, 99])
def test_an_asset_that_newer_snapshots_lack_is_found(tmp_path: Path, missing: int) -> None:
    for number in range(100):
        write(
            tmp_path,
            T - number * HOUR,
            ["a", "b"] if number >= missing else ["a"],
            x=[number] * (1 + (number >= missing)),
        )
    rows = [("b", T), ("a", T), ("b", T - 50 * HOUR), ("b", T - 20 * HOUR + timedelta(minutes=1)), ("c", T)]
    expected = [missing, 0, max(missing, 50), max(missing, 20), None]
    assert joined(tmp_path, *rows) == expected
    assert joined(tmp_path, *rows, ttl=None) == expected


def test_half_copied_snapshots_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, T - DAY, ["a"], x=[1])
    path = write(tmp_path, T, ["a"], x=[0])
    path.write_bytes(path.read_bytes()[:-1])
    assert joined(tmp_path, ("a", T)) == [1]
    assert f"1 snapshots are not whole and are passed over: {path}" in caplog.text
    write(tmp_path, T - DAY, ["a"]).write_bytes(b"PAR1")
    assert joined(tmp_path, ("a", T)) == [None]


def test_a_snapshot_that_was_computed_again_counts_from_then(tmp_path: Path) -> None:
    write(tmp_path, T - 3 * HOUR, ["a"], created=T - 3 * HOUR, x=[3])
    write(tmp_path, T - 2 * HOUR, ["a"], created=T, x=[2])  # again, after the next one
    write(tmp_path, T - HOUR, ["a"], created=T - HOUR / 2, x=[1])
    rows = [("a", T - HOUR * hours) for hours in (3, 2, 1, 0.5, 0)]
    assert joined(tmp_path, *rows) == [3, 2, 1, 1, 1]
    assert joined(tmp_path, *rows, live=True) == [3, 3, 3, 1, 1]


# what older definitions have left ---------------------------------------------------------------------------------


def test_a_feature_that_an_older_snapshot_lacks_is_null(tmp_path: Path) -> None:
    write(tmp_path, T - DAY, ["a"], text=["old"], gone=[1])
    write(tmp_path, T, ["a"], x=[1], text=["new"])
    assert joined(tmp_path, ("a", T - DAY), ("a", T)) == [None, 1]
    assert joined(tmp_path, ("a", T - DAY)) == [None]


def test_another_type_is_cast_where_the_values_fit(tmp_path: Path) -> None:
    write(tmp_path, T - 3 * DAY, ["a"], x=pa.array([2**24 + 1], pa.int64()))
    write(tmp_path, T - 2 * DAY, ["a"], x=pa.array([2.0], pa.float32()))
    write(tmp_path, T - DAY, ["a"], x=["1"])
    write(tmp_path, T, ["a", "b"], x=[2.5, None])
    rows = [("a", T - day * DAY) for day in (3, 2, 1)]
    assert joined(tmp_path, *rows, ("b", T - DAY)) == [2**24 + 1, 2, 1, None]
    with pytest.raises(PipelineError, match="x is double in the snapshot 20260102T120000Z and does not fit int32"):
        joined(tmp_path, *rows, ("a", T))

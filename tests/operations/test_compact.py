"""Compaction: the snapshots of past days and months in one file each, and what every reader then sees."""

import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.base.settings import parsed_keep
from pipeline.base.specs import TIMESTAMP, snapshot_schema
from pipeline.snapshots import exchange, quality
from pipeline.snapshots.as_of_join import as_of_join
from pipeline.snapshots.compaction import compact
from pipeline.snapshots.files import (
    lacked_in,
    newest_snapshot,
    open_snapshot,
    read_snapshot,
    schema_of,
    set_aside_in,
    snapshot_dataset,
    snapshot_path,
    snapshots,
    snapshots_between,
    take_apart,
    with_lacked,
    with_set_aside,
    write_snapshot,
)
from pipeline.snapshots.upkeep import MARKER, is_of_definition, keep_up, look

VIEW = "work_order_features"
NUMBER = "wo_count_7d"
SCHEMA = snapshot_schema(VIEW)
T = datetime(2026, 3, 3, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KEYS = [str(UUID(int=number)) for number in range(5)]


def table(as_of: datetime, keys: list[str] = KEYS, created: datetime | None = None) -> pa.Table:
    """Return a snapshot whose numbers are the hours since 1970."""
    value = int(as_of.timestamp()) // 3600
    plain = {
        "asset_id": keys,
        "event_timestamp": [as_of] * len(keys),
        "created": [created or as_of + HOUR / 2] * len(keys),
    }
    return pa.table({f.name: plain.get(f.name, [value] * len(keys)) for f in SCHEMA}, schema=SCHEMA)


def write(data_dir: Path, as_of: datetime, snapshot: pa.Table | None = None) -> Path:
    path = snapshot_path(data_dir, VIEW, as_of)
    write_snapshot(table(as_of) if snapshot is None else snapshot, path)
    return path


def every(step: timedelta, start: datetime, end: datetime) -> list[datetime]:
    return [start + number * step for number in range(-(-(end - start) // step))]


def files(data_dir: Path) -> list[str]:
    """Return what stock readers open."""
    return sorted(str(path.relative_to(data_dir / VIEW)) for path in (data_dir / VIEW).rglob("*.parquet"))


def rows(data_dir: Path) -> Counter:
    """Return the keys that a reader of the whole folder finds, and how often."""
    query = "select asset_id, event_timestamp::text, created::text from read_parquet(?)"
    with duckdb.connect() as engine:
        return Counter(engine.execute(query, [f"{data_dir / VIEW}/**/*.parquet"]).fetchall())


def content(data_dir: Path) -> dict[datetime, tuple[list, list, list]]:
    """Return the rows and notes of each snapshot."""
    found = {}
    for path in snapshots(data_dir, VIEW):
        held = read_snapshot(path)
        assert held.schema.equals(SCHEMA, check_metadata=False)
        found[path.stem] = (held.to_pylist(), set_aside_in(held.schema).to_pylist(), lacked_in(held.schema))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six-hourly snapshots from mid January on, some of them odd; the newest is of T."""
    folder, odd = tmp_path_factory.mktemp("made"), datetime(2026, 2, 10, 6, tzinfo=UTC)
    snapshots = {as_of: table(as_of) for as_of in every(6 * HOUR, datetime(2026, 1, 20, tzinfo=UTC), T + HOUR)}
    snapshots[datetime(2026, 1, 21, 6, tzinfo=UTC)] = table(T, [])
    snapshots[odd] = with_set_aside(table(odd, KEYS[1:]), pa.chunked_array([KEYS[:1]]))
    older = snapshots[odd + 6 * HOUR]
    snapshots[odd + 6 * HOUR] = older.replace_schema_metadata(with_lacked(older.schema, [NUMBER]).metadata)
    snapshots[odd + 12 * HOUR] = table(odd + 12 * HOUR, created=odd + 2 * DAY)
    for as_of, snapshot in snapshots.items():
        path = snapshot_path(folder, VIEW, as_of)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(snapshot, path)
    return folder


@pytest.fixture
def history(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def short(history: Path) -> Path:
    """Return what of it is younger than 25 February: 3 days of a month, then 2 whole days of the next one."""
    for folder in (history / VIEW).iterdir():
        if folder.name <= "snapshot_date=2026-02-25":
            shutil.rmtree(folder)
    return history


# rows and values as before ----------------------------------------------------------------------------------------


def test_days_and_months_are_one_file_each_with_rows_values_and_notes_as_before(history: Path) -> None:
    before, keys = content(history), rows(history)
    done = compact(history, VIEW, T)
    assert files(history) == [
        "snapshot_date=2026-01-20/20260120T000000Z--20260131T180000Z.parquet",
        "snapshot_date=2026-02-01/20260201T000000Z--20260228T180000Z.parquet",
        "snapshot_date=2026-03-01/20260301T000000Z--20260301T180000Z.parquet",
        "snapshot_date=2026-03-02/20260302T000000Z--20260302T180000Z.parquet",
        "snapshot_date=2026-03-03/20260303T000000Z.parquet",
        "snapshot_date=2026-03-03/20260303T060000Z.parquet",
        "snapshot_date=2026-03-03/20260303T120000Z.parquet",
    ]
    assert (done.before, done.after, done.removed) == (42 * 4, 4, 0)
    assert content(history) == before
    assert rows(history) == keys
    assert set(keys.values()) == {1}
    month = pq.read_table(history / VIEW / files(history)[1], partitioning=None)
    assert month.equals(month.sort_by([("event_timestamp", "ascending"), ("asset_id", "ascending")]))
    assert compact(history, VIEW, T).before == 0
    assert [path.name for path in history.iterdir()] == [VIEW]


def test_only_what_is_over_and_not_of_the_newest_day_is_touched(history: Path) -> None:
    compact(history, VIEW, datetime(2026, 3, 2, 13, tzinfo=UTC))
    assert len(files(history)) == 1 + 1 + 1 + 4 + 3
    for path in snapshots(history, VIEW, first=T - 3 * DAY):
        path.unlink(missing_ok=True)
    compact(history, VIEW, T)
    assert newest_snapshot(history, VIEW).stem == "20260301T180000Z", "it is in the file of its day, and found there"
    write(history, T - 2 * DAY, table(T - 2 * DAY, KEYS[:1]))
    compact(history, VIEW, T + 99 * DAY)
    assert len(files(history)) == 2 + 4


def test_months_are_done_one_at_a_time_the_oldest_first(history: Path) -> None:
    for left in (1 + 28 * 4 + 11, 2 + 11, 4 + 3, 7):
        compact(history, VIEW, T, months=1)
        assert len(files(history)) == left


def test_days_become_a_month(history: Path) -> None:
    before = content(history)
    for day in range(40, -1, -1):
        compact(history, VIEW, T - day * DAY)
    assert len(files(history)) == 7
    assert content(history) == before


@pytest.mark.parametrize("live", [False, True])
def test_a_join_finds_what_it_found(history: Path, live: bool) -> None:
    rng = np.random.default_rng(7)
    instants = [T - timedelta(minutes=int(m)) for m in rng.integers(0, 42 * 1440, 300)]
    keys = [[*KEYS, "nobody"][n] for n in rng.integers(0, 6, 300)]
    frame = pa.table({"asset_id": pa.array(keys), "event_timestamp": pa.array(instants, TIMESTAMP)})

    def joined() -> list[pa.Table]:
        return [
            as_of_join(frame, history / VIEW, SCHEMA, ttl, live_snapshots=live) for ttl in (None, DAY, 6 * HOUR, HOUR)
        ]

    before = joined()
    compact(history, VIEW, T)
    assert joined() == before
    write(history, datetime(2026, 2, 10, 7, tzinfo=UTC), table(T, []))
    assert len(files(history)) > 28 * 4, "an instant between others takes the month apart"
    assert joined() == before


def test_a_join_reads_little_of_a_month(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(history, VIEW, T)
    for path in (history / VIEW).rglob("*.parquet"):
        if "--" not in path.name or "202602" not in path.name:
            path.write_bytes(path.read_bytes()[:4] + bytes(200) + path.read_bytes()[204:])  # the rows, not the footer
    frame = pa.table(
        {"asset_id": KEYS[:1], "event_timestamp": pa.array([datetime(2026, 2, 10, tzinfo=UTC)], TIMESTAMP)}
    )
    assert as_of_join(frame, history / VIEW, SCHEMA, None)[NUMBER].null_count == 0


# what looks for snapshots -----------------------------------------------------------------------------------------


def test_a_snapshot_in_a_month_is_read_as_one_of_its_own(history: Path) -> None:
    as_of = datetime(2026, 2, 10, 18, tzinfo=UTC)
    path = snapshot_path(history, VIEW, as_of)
    alone = read_snapshot(path)
    compact(history, VIEW, T)
    assert not path.exists()
    assert read_snapshot(path).equals(alone)
    assert read_snapshot(path, ["asset_id"]).column_names == ["asset_id"]
    assert open_snapshot(path).read().equals(alone)
    assert snapshot_dataset(path, SCHEMA).to_table().equals(alone)
    assert schema_of(path).equals(alone.schema)
    assert is_of_definition(path, VIEW)
    assert not is_of_definition(snapshot_path(history, VIEW, as_of - 6 * HOUR), VIEW), "its definition lacked a feature"
    assert not is_of_definition(snapshot_path(history, VIEW, as_of + HOUR), VIEW), "there is none"
    assert newest_snapshot(history, VIEW, until=as_of + HOUR) == path
    assert snapshots_between(history, VIEW, as_of, as_of + 7 * HOUR) == [
        path,
        snapshot_path(history, VIEW, as_of + 6 * HOUR),
    ]


def test_the_loss_gate_compares_with_a_snapshot_in_a_month(history: Path) -> None:
    as_of = datetime(2026, 2, 11, 1, tzinfo=UTC)
    expected = [rule.text for rule in quality.losses(VIEW, table(as_of, KEYS[:1]), history, as_of, 0.2)]
    assert "1 rows where the snapshot 20260211T000000Z has 5: assets are gone" in expected
    compact(history, VIEW, T)
    assert [rule.text for rule in quality.losses(VIEW, table(as_of, KEYS[:1]), history, as_of, 0.2)] == expected


def test_writing_an_instant_again_takes_its_month_apart(history: Path) -> None:
    before, keys = content(history), rows(history)
    compact(history, VIEW, T)
    as_of = datetime(2026, 2, 10, 18, tzinfo=UTC)
    compacted = files(history)
    write(history, as_of, table(as_of, created=T))
    assert files(history) == compacted, "it is the same, whenever it was created"
    write(history, as_of, table(as_of, KEYS[:2], created=T))
    assert content(history) == before | {"20260210T180000Z": (before["20260210T180000Z"][0][:2], [], [])}
    assert set(rows(history).values()) == {1}
    assert sum(rows(history).values()) == sum(keys.values()) - 3
    assert compact(history, VIEW, T).after == 1
    assert len(files(history)) == 7
    assert set(rows(history).values()) == {1}


def test_a_copy_of_a_snapshot_that_is_in_a_month_goes_into_it(history: Path) -> None:
    as_of = datetime(2026, 2, 10, 18, tzinfo=UTC)
    copy = snapshot_path(history, VIEW, as_of)
    whole = copy.read_bytes()
    before = content(history)
    compact(history, VIEW, T)
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(whole)  # by hand, from elsewhere
    assert max(rows(history).values()) == 2
    assert compact(history, VIEW, T).after == 1
    assert set(rows(history).values()) == {1}
    assert content(history) == before


def test_a_month_gets_the_columns_of_the_definition(history: Path) -> None:
    for path in list(snapshots(history, VIEW)):
        held = read_snapshot(path)
        pq.write_table(held.drop_columns([NUMBER]).append_column("gone", pa.array(["x"] * len(held))), path)
    compact(history, VIEW, T)
    older = look(history, VIEW).older
    assert len(older) == 7
    keep_up(history, VIEW)
    assert look(history, VIEW).older == []
    for path in snapshots(history, VIEW):
        held = read_snapshot(path)
        assert held.schema.names == [*SCHEMA.names, "gone"]
        assert held[NUMBER].null_count == len(held)
        assert lacked_in(held.schema) == [NUMBER]
    assert (
        set_aside_in(schema_of(snapshot_path(history, VIEW, datetime(2026, 2, 10, 6, tzinfo=UTC)))).to_pylist()
        == KEYS[:1]
    )
    compacted = files(history)
    path = write(history, datetime(2026, 2, 10, tzinfo=UTC))
    assert is_of_definition(path, VIEW), "computed again"
    compact(history, VIEW, T)
    assert files(history) == compacted
    assert is_of_definition(path, VIEW)


def test_what_has_been_looked_at_is_not_looked_at_again(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_up(history, VIEW)
    compact(history, VIEW, T - 10 * DAY)
    opened = []
    read = pq.read_schema
    monkeypatch.setattr(pq, "read_schema", lambda path: opened.append(path) or read(path))
    keep_up(history, VIEW)
    assert opened == []
    stray = history / VIEW / "copy.parquet"
    stray.write_bytes(b"")
    compact(history, VIEW, T)  # before it has been looked at
    keep_up(history, VIEW)
    assert not stray.exists()
    assert list((history / "quarantine" / VIEW).iterdir())
    assert (history / VIEW / MARKER).exists()


# what is kept -----------------------------------------------------------------------------------------------------


def test_snapshots_thin_and_expire(history: Path) -> None:
    before = content(history)
    done = compact(history, VIEW, T, keep=parsed_keep("6h:2d,12h:10d,7d:40d"))
    kept = {datetime.fromisoformat(stem) for stem in content(history)}
    days = {instant.date().isoformat(): sum(i.date() == instant.date() for i in kept) for instant in sorted(kept)}
    assert days["2026-03-03"] == 3, "as it is"
    assert days["2026-03-02"] == 4
    assert days["2026-03-01"] == 4, "its last one is younger than 2 d"
    assert [days[day] for day in days if day.startswith("2026-02")] == [2] * 28, "as its last one says"
    assert [day for day in days if day.startswith("2026-01")] == ["2026-01-20", "2026-01-22", "2026-01-29"]
    assert content(history).items() <= before.items()
    assert done.removed == len(before) - len(kept)
    assert compact(history, VIEW, T, keep=parsed_keep("6h:2d,12h:10d,7d:40d")).before == 0


@pytest.mark.parametrize(
    "text", ["1h", "1h:", "90d:1h:2", "0h:90d", "1h:90d,1h:730d", "1d:90d,2d:9d", "1h:90d,,1d:99d", "1x:9d", "hourly"]
)
def test_a_keep_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is nothing like 1h:90d,1d:730d"):
        parsed_keep(text)


def test_what_is_online_is_not_removed(history: Path) -> None:
    online = datetime(2026, 1, 25, 6, tzinfo=UTC)
    before = files(history)
    for keep in ("1d:90d", "6h:10d"):
        with pytest.raises(
            PipelineError, match="--keep would remove the snapshot of 2026-01-25T06:00:00Z, which is online"
        ):
            compact(history, VIEW, T, keep=parsed_keep(keep), online=online)
        assert files(history) == before
    assert compact(history, VIEW, T, keep=parsed_keep("6h:90d"), online=online).removed == 0


def test_what_is_past_all_ages_is_gone(history: Path) -> None:
    compact(history, VIEW, T)
    done = compact(history, VIEW, T, keep=parsed_keep("1h:9d"))
    assert (done.before, done.after, done.removed) == (1, 0, 12 * 4)
    assert files(history)[0].startswith("snapshot_date=2026-02-01/")
    assert not (history / VIEW / "snapshot_date=2026-01-20").exists()


def test_a_newest_snapshot_of_a_wrong_clock_lets_nothing_expire(history: Path) -> None:
    write(history, datetime(2099, 1, 1, tzinfo=UTC))
    days = (datetime.now(UTC) - T).days + 60
    assert compact(history, VIEW, T, keep=parsed_keep(f"6h:{days}d")).removed == 0


# all or nothing ---------------------------------------------------------------------------------------------------

_POINTS = [
    "compact: linked:1",
    "parquet: written:1",
    "compact: written:1",
    "compact: exchanged:1",
    "compact: removed:1",
    "parquet: written:2",
]
_PROGRAM = """
import os, sys
from datetime import datetime
from pathlib import Path
from pipeline.snapshots.compaction import compact
from pipeline.snapshots.files import take_apart
folder, before = Path(sys.argv[2]), datetime.fromisoformat(sys.argv[3])
def work():
    if sys.argv[1] == "compact":
        compact(folder, "work_order_features", before)
    else:
        for file in sorted((folder / "work_order_features").rglob("*--*.parquet")):
            take_apart(file)
for point in sys.argv[4:]:
    if (child := os.fork()) == 0:
        os.environ["FEATURE_STORE_DIE_AT"] = point
        work()
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(("what", "points"), [("compact", _POINTS), ("take apart", _POINTS[1::2])])
def test_a_kill_at_any_point_loses_nothing_and_doubles_nothing(short: Path, what: str, points: list[str]) -> None:
    before, keys = content(short), rows(short)
    if what != "compact":
        compact(short, VIEW, T)
    prepared = short.with_name("prepared")
    shutil.copytree(short, prepared)
    command = [sys.executable, "-c", _PROGRAM, what, str(short), T.isoformat(), *points]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        for point in points:
            assert int(program.stdout.readline()) == 9, f"{point} is never reached"
            assert rows(short) == keys, point
            assert content(short) == before, point
            compact(short, VIEW, T)
            assert len(files(short)) == 6, point
            assert content(short) == before, point
            assert sorted(path.name for path in short.iterdir()) == [VIEW], point
            shutil.rmtree(short)
            shutil.copytree(prepared, short)
            program.stdin.write("next\n")
            program.stdin.flush()


def test_readers_and_writers_meanwhile_find_all_of_it_once(short: Path) -> None:
    keys = rows(short)
    frame = pa.table(
        {"asset_id": KEYS * 5, "event_timestamp": pa.array([T - n * DAY for n in range(5)] * 5, TIMESTAMP)}
    )
    expected = as_of_join(frame, short / VIEW, SCHEMA, None)
    ends, wrong, looks, apart = threading.Event(), [], Counter(), threading.Lock()

    def read() -> None:
        while not ends.is_set():
            try:
                with apart:  # who lists the days while they come back may miss some: docs/history.md
                    found = rows(short)
            except duckdb.Error as error:  # of a file that has been listed, and was replaced before it was opened
                looks["missing"] += 1
                if "No such file" not in str(error) and "No files found" not in str(error):
                    wrong.append(error)
            else:
                looks["whole"] += 1
                if found != keys:
                    wrong.append(found - keys or keys - found)

    def join() -> None:
        while not ends.is_set():
            looks["joined"] += 1
            if not as_of_join(frame, short / VIEW, SCHEMA, None).equals(expected):
                wrong.append("joined otherwise")

    def rewrite() -> None:
        while not ends.is_set():
            looks["written"] += 1
            again = datetime(2026, 2, 27, tzinfo=UTC)
            assert write_snapshot(table(again), snapshot_path(short, VIEW, again))

    threads = [threading.Thread(target=target) for target in (read, join, rewrite)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            assert compact(short, VIEW, T).before
            with apart:
                for file in sorted((short / VIEW).rglob("*--*.parquet")):
                    take_apart(file)
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert min(looks[name] for name in ("whole", "joined", "written")) >= 1
    assert rows(short) == keys


def test_who_has_begun_to_list_finds_all_names(history: Path) -> None:
    before = [path.name for path in (history / VIEW).iterdir()]
    with os.scandir(history / VIEW) as listing, ThreadPoolExecutor() as threads:
        compaction = threads.submit(compact, history, VIEW, T)
        while not (history / VIEW / "snapshot_date=2026-01-20/20260120T000000Z--20260131T180000Z.parquet").exists():
            assert not compaction.done()
        names = [entry.name for entry in listing]
        compaction.result()
    assert sorted(names) == sorted(before)


def test_files_that_change_meanwhile_let_all_stay_as_it_is(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(history)
    link = exchange._link

    def copy_into(*arguments: object) -> None:
        link(*arguments)
        shutil.copy(snapshot_path(history, VIEW, T - DAY), history / VIEW / "snapshot_date=2026-01-20" / "new")

    monkeypatch.setattr(exchange, "_link", copy_into)
    with pytest.raises(PipelineError, match="is being changed by another program: it stays as it is"):
        compact(history, VIEW, T)
    assert rows(history) == before
    assert (history / VIEW / "snapshot_date=2026-01-20" / "new").exists()
    assert [path.name for path in history.iterdir()] == [VIEW]


def test_a_disk_that_cannot_exchange_folders_ends_in_one_line(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(history)
    monkeypatch.setattr(exchange.ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(
        PipelineError, match=f"{VIEW} stays as it is: folders cannot be exchanged .* only on a local disk"
    ):
        compact(history, VIEW, T)
    monkeypatch.undo()
    moved = (history / VIEW).rename(history / "elsewhere")
    (history / VIEW).symlink_to(moved)
    with pytest.raises(PipelineError, match="stays as it is: it is a link"):
        compact(history, VIEW, T)
    assert files(history) == before


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:4] + bytes(2_000) + path.read_bytes()[2_004:]),
            "cannot be put",
        ),
        (lambda path: shutil.copy(path.with_name("20260210T000000Z.parquet"), path), "rows as of another instant"),
    ],
)
def test_a_snapshot_that_does_not_fit_ends_in_one_line(
    history: Path, damage: Callable[[Path], object], text: str
) -> None:
    path = snapshot_path(history, VIEW, datetime(2026, 2, 10, 12, tzinfo=UTC))
    damage(path)
    before = files(history)
    with pytest.raises(PipelineError, match=f"{path.name} cannot be put into one file with others: .*") as raised:
        compact(history, VIEW, datetime(2026, 3, 1, tzinfo=UTC))
    assert text in str(raised.value)
    assert len(files(history)) == len(before) - 12 * 4 + 1, "January is done, February stays"
    assert [path.name for path in history.iterdir()] == [VIEW]


def test_a_month_that_cannot_be_read_is_left_alone(history: Path, caplog: pytest.LogCaptureFixture) -> None:
    compact(history, VIEW, T - 5 * DAY)
    month = history / VIEW / files(history)[0]
    month.write_bytes(month.read_bytes()[:-9])
    compact(history, VIEW, T, keep=parsed_keep("1h:999d"))
    assert month.exists()
    assert "cannot be read" in caplog.text
    assert len(list(snapshots(history, VIEW))) == 28 * 4 + 8 + 3
    keep_up(history, VIEW)
    assert not month.exists(), "in quarantine"

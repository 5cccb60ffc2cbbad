"""Backfill: each snapshot equals the run at its instant, an interrupted one continues, bad input writes nothing."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from clickhouse_connect.driver.client import Client

from dev.fleet import generate
from dev.load import load_fleet
from dev.servers import PostgresServer
from dev.stack import ensure_database
from materialize_features import cli
from pipeline.base.settings import Settings
from pipeline.base.specs import VIEWS
from pipeline.runs import backfill as product
from pipeline.runs.backfill import chunks_of, instants_between
from pipeline.runs.one_instant import materialize
from pipeline.snapshots.files import snapshot_path
from pipeline.snapshots.upkeep import keep_up

# The fleet's telemetry ends at END, late buckets and all; it starts 45 days before.
END = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest,
    postgres: PostgresServer,
    clickhouse: Client,  # its engine must be open before another client of its directory closes
    clickhouse_directory: Path,
) -> dict[str, str]:
    """Settings of a small demo fleet with all its dirt, in databases of its own."""
    variant = getattr(request, "param", "n")
    name = f"backfill_{variant}"
    ensure_database(postgres.admin_url, name, "dcmms")
    url, dsn = postgres.url("dcmms", name), f"chdb://{clickhouse_directory}"
    load_fleet(url, dsn, generate(assets=12, days=45, end=END), variant, clickhouse_database=name)
    return {"DATABASE_URL": url, "CLICKHOUSE_DSN": dsn, "CLICKHOUSE_DATABASE": name}


@pytest.fixture
def environment(fleet: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The settings in the environment; the value is the data directory."""
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", "/nonexistent")
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path / "data"))
    for variable, value in fleet.items():
        monkeypatch.setenv(variable, value)
    return tmp_path / "data"


def invoke(*arguments: str) -> Result:
    """Run `backfill` in this process."""
    return CliRunner().invoke(cli, ["backfill", *arguments])


def contents(root: Path) -> dict[str, bytes]:
    """Return all files below `root`."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("fleet", "first", "every", "count"),
    [
        ("n", END - timedelta(days=3, hours=1, minutes=23), timedelta(hours=6), 9),
        ("t", END - 24 * DAY, DAY, 25),
    ],
    indirect=["fleet"],
    ids=["six-hourly off the bucket grid", "daily"],
)
def test_each_snapshot_equals_the_run_at_its_instant(
    fleet: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: datetime,
    every: timedelta,
    count: int,
) -> None:
    monkeypatch.setattr(product, "CHUNK_DAYS", 7)  # several chunks
    settings = {name.lower(): value for name, value in fleet.items()}
    filled = Settings(**settings, feature_data_dir=tmp_path / "filled", _env_file=None)
    single = Settings(**settings, feature_data_dir=tmp_path / "single", _env_file=None)
    instants = [first + number * every for number in range(count)]
    result = product.backfill(filled, instants, list(VIEWS))
    assert (result.written, result.present) == (count, 0)
    for instant in instants[:: max(1, count // 5)]:
        assert not any(outcome.error for outcome in materialize(single, instant, list(VIEWS)))
        for view in VIEWS:
            one, other = (
                pq.read_table(snapshot_path(each.feature_data_dir, view, instant), partitioning=None).drop(["created"])
                for each in (filled, single)
            )
            assert one.num_rows
            assert one.equals(other), f"{view} as of {instant}"


def test_interrupted_backfill_continues(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--start", "2025-12-20", "--end", "2025-12-26"]
    monkeypatch.setattr(product, "CHUNK_DAYS", 2)
    real_write, calls = product.write_snapshot, []

    def write_until_interrupted(*args):
        calls.append(args)
        if len(calls) == 2 * len(VIEWS) + 2:
            raise KeyboardInterrupt
        return real_write(*args)

    monkeypatch.setattr(product, "write_snapshot", write_until_interrupted)
    assert invoke(*arguments).exit_code != 0
    interrupted = contents(environment)
    assert len(interrupted) == 2 * len(VIEWS) + 1, "two instants, and one view of the third"
    monkeypatch.setattr(product, "write_snapshot", real_write)
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("4 instants written, 2 already there: ")
    complete = contents(environment)
    assert len(complete) == 6 * len(VIEWS)
    assert interrupted.items() <= complete.items()
    assert invoke(*arguments).stdout.startswith("0 instants written, 6 already there")
    assert contents(environment) == complete
    assert invoke(*arguments, "--overwrite").stdout.startswith("6 instants written, 0 already there")
    assert contents(environment).keys() == complete.keys()


def test_snapshots_of_an_older_definition_are_written_again(environment: Path) -> None:
    arguments = ["--start", "2025-12-20", "--end", "2025-12-26"]
    assert invoke(*arguments).exit_code == 0
    written = {path: pq.read_table(path, partitioning=None) for path in environment.rglob("*.parquet")}
    for day, view in (
        (20, "asset_features"),
        (22, "asset_features"),
        (22, "telemetry_features"),
        (25, "asset_features"),
    ):
        path = snapshot_path(environment, view, datetime(2025, 12, day, tzinfo=UTC))
        pq.write_table(written[path].drop_columns([written[path].column_names[-1]]), path)
    snapshot_path(environment, "work_order_features", datetime(2025, 12, 23, tzinfo=UTC)).write_bytes(b"PAR1")
    keep_up(environment, "asset_features")  # as a run between the two does
    result = invoke(*arguments)
    assert result.stdout.startswith("4 instants written (4 again, damaged or of an older definition), 2 already there")
    for path, rows in written.items():
        now = pq.read_table(path, partitioning=None)
        assert now.drop_columns(["created"]).equals(rows.drop_columns(["created"]))
    assert invoke(*arguments).stdout.startswith("0 instants written, 6 already there")


def test_before_any_data_a_line_says_so(environment: Path) -> None:
    result = invoke("--start", "2000-01-01", "--end", "2000-01-03", "--view", "telemetry_features")
    assert result.exit_code == 0, result.output
    assert "telemetry_features: no rows in 2 snapshots, up to 2000-01-02T00:00:00+00:00" in result.stderr
    assert [pq.read_table(environment / name).num_rows for name in contents(environment)] == [0, 0]


def test_telemetry_before_the_first_asset_gives_empty_snapshots(environment: Path, fleet: dict[str, str]) -> None:
    with closing(psycopg2.connect(fleet["DATABASE_URL"])) as connection:
        connection.cursor().execute(
            "alter table assets rename to later_assets; create table assets (like later_assets)"
        )
        connection.commit()
        try:
            result = invoke("--start", "2025-12-20", "--end", "2025-12-22", "--view", "telemetry_features")
        finally:
            connection.cursor().execute("drop table assets; alter table later_assets rename to assets")
            connection.commit()
    assert result.exit_code == 0, result.output
    assert "telemetry_features: no rows in 2 snapshots" in result.stderr
    assert [pq.read_table(environment / name).num_rows for name in contents(environment)] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "2025-02-01", "--end", "2025-02-01"], "is not before --end"),
        (["--start", "2025-01-01", "--end", "2025-02-01", "--every", "5h"], "does not divide the windows"),
        (["--start", "2025-01-01", "--end", "2025-02-01", "--every", "36h"], "does not divide the windows"),
        (["--start", "2025-01-01", "--end", "2025-02-01", "--every", "90m"], "no whole number of hours or days"),
        (["--start", "2025-01-01", "--end", "2999-01-01"], "is in the future"),
        (["--start", "2025-01-01T00:00", "--end", "2025-02-01"], "has no time zone"),
        (["--start", "soon", "--end", "2025-02-01"], "no date such as 2026-01-01"),
        (["--start", "2025-01-01", "--end", "2025-02-01", "--view", "sites"], "sites is unknown: the views are"),
    ],
)
def test_bad_input_ends_in_one_line(environment: Path, arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 64
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not environment.exists()


def test_database_down_ends_in_one_line(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_DSN", "chdb:///nonexistent")
    result = invoke("--start", "2025-12-01", "--end", "2025-12-03")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: CLICKHOUSE_DSN: there is no directory /nonexistent")
    assert not environment.exists()


def test_instants_include_the_start_and_not_the_end() -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    assert instants_between(start, start + 2 * DAY, DAY) == [start, start + DAY]
    assert instants_between(start, start + 2 * DAY + timedelta(seconds=1), DAY)[-1] == start + 2 * DAY
    assert instants_between(start, start + 15 * DAY, 7 * DAY) == [start, start + 7 * DAY, start + 14 * DAY]


def test_chunks_are_whole_days_apart_and_bounded() -> None:
    start = datetime(2025, 1, 1, 5, tzinfo=UTC)
    instants = [start + number * timedelta(hours=12) for number in range(200)]
    chunks = list(chunks_of(instants))
    assert sorted(instant for chunk in chunks for instant in chunk) == instants
    for chunk in chunks:
        assert all((instant - chunk[0]) % DAY == timedelta(0) for instant in chunk)
        assert chunk[-1] - chunk[0] < product.CHUNK_DAYS * DAY

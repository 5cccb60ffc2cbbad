"""The ways into the databases give the same tables and refuse in one line; readers never see half a snapshot."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig

from data_sources import sources
from dev.servers import PostgresServer
from features.availability import COLUMNS
from pipeline.base.errors import PipelineError
from pipeline.base.retries import retrying_for
from pipeline.base.settings import Settings
from pipeline.base.specs import SPECS, snapshot_schema
from pipeline.snapshots.files import newest_snapshot, snapshot_path, write_snapshot
from pipeline.sources.clickhouse import connection_arguments, open_clickhouse
from pipeline.sources.postgres import open_postgres
from pipeline.sources.telemetry import extract_telemetry
from tests.clickhouse_http import Answer, ClickHouseHttpFront, Statement
from tests.conftest import DATABASE
from tests.dcmms import Dcmms, T, ago, asset_key, bucket

USER, PASSWORD = "feature_store", "s3cr3t: Pa/55@ö"
WRONG = "wr0ng-Pa55"
VIEW = "work_order_features"

# ibis, through which Feast's store talks to DuckDB, still calls DuckDB by an old name.
old_ibis = pytest.mark.filterwarnings(r"ignore:fetch_arrow_table\(\) is deprecated:DeprecationWarning")


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def front(dcmms: Dcmms, clickhouse_directory: Path) -> Iterator[ClickHouseHttpFront]:
    """A ClickHouse server over the telemetry of three assets that report five metrics and miss some."""
    metrics = ("power_kw", "voltage_v", "current_a", "temperature_c", "frequency_hz")
    dcmms.buckets(
        *[
            bucket(asset_key(number), metric, ago(hours=hour), value=number + hour / 7, anomaly_count=hour % 5 == 0)
            for number in (1, 2, 3)
            for metric in metrics[: 2 * number]
            for hour in range(1, 24 * 40, number)
        ]
    )
    dcmms.buckets(bucket(asset_key(1), "power_kw", ago(hours=3), value=5.0, count=90))
    with ClickHouseHttpFront(clickhouse_directory, USER, PASSWORD) as front:
        yield front


def settings_for(front: ClickHouseHttpFront, path: str, password: str = PASSWORD, database: str = DATABASE) -> Settings:
    """Return the settings that name the front in one of the two ways."""
    ways = {
        "CLICKHOUSE_HOST": {
            "clickhouse_host": front.url,
            "clickhouse_user": USER,
            "clickhouse_password": password,
        },
        "CLICKHOUSE_DSN": {
            "clickhouse_dsn": f"clickhousedb://{USER}:{quote(password, safe='')}@{front.host}:{front.port}/{database}"
        },
    }
    return Settings(database_url="postgresql://nobody@127.0.0.1/none", clickhouse_database=database, **ways[path])


def telemetry(settings: Settings) -> pa.Table:
    """Return what the pipeline extracts."""
    with open_clickhouse(settings) as source:
        return extract_telemetry(source, "telemetry_features", T, settings.bucket_seconds)


@pytest.mark.parametrize("path", ["CLICKHOUSE_HOST", "CLICKHOUSE_DSN"])
def test_http_and_the_embedded_engine_give_equal_tables(dcmms: Dcmms, front: ClickHouseHttpFront, path: str) -> None:
    embedded = telemetry(dcmms.settings)
    assert embedded.num_rows == 3
    assert embedded.drop_columns(list(COLUMNS)).schema == SPECS["telemetry_features"].extracted_schema
    assert telemetry(settings_for(front, path)).equals(embedded)


@pytest.mark.parametrize("path", ["CLICKHOUSE_HOST", "CLICKHOUSE_DSN"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"password": WRONG}, "Authentication failed"),
        ({"database": "no_such_database"}, "no_such_database"),
    ],
)
def test_clickhouse_refusal_is_one_line_without_the_password(
    front: ClickHouseHttpFront, path: str, fault: dict[str, str], message: str
) -> None:
    with pytest.raises(PipelineError) as refusal:
        telemetry(settings_for(front, path, **fault))
    said = str(refusal.value)
    assert message in said
    assert f"at {front.host}:{front.port}: " in said
    assert len(said.splitlines()) == 1
    assert not any(secret in said for secret in (WRONG, PASSWORD, quote(PASSWORD, safe="")))


OUT_OF_MEMORY = b"Code: 241. DB::Exception: Query memory limit exceeded: would use 9.31 GiB. (MEMORY_LIMIT_EXCEEDED)"
END_MARK = b"\xff\xff\xff\xff\0\0\0\0"


@pytest.fixture
def breaking(front: ClickHouseHttpFront, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Have the front break its first answer of features, by a function of its body, or add headers to it."""

    def break_first(harm: Callable[[bytes], bytes] = bytes, **headers: str) -> list[str]:
        run, answers = front._engine.run, []

        def harmed(statement: Statement) -> Answer:
            answer = run(statement)
            if "telemetry_rows" not in statement.sql:
                return answer
            assert answer.body.endswith(END_MARK)
            answers.append(statement.sql)
            if len(answers) > 1:
                return answer
            return replace(answer, body=harm(answer.body), headers=answer.headers | headers)

        monkeypatch.setattr(front._engine, "run", harmed)
        return answers

    return break_first


def without_end_mark(body: bytes) -> bytes:
    return body.removesuffix(END_MARK)


@pytest.mark.parametrize(
    "error",
    [
        OUT_OF_MEMORY,
        b"__exception__\r\nabcdefghijklmnop\r\n" + OUT_OF_MEMORY + b"\r\n93 abcdefghijklmnop\r\n__exception__\r\n",
    ],
    ids=["plain", "tagged"],
)
def test_an_error_after_the_first_block_is_the_servers_message_and_final(
    front: ClickHouseHttpFront, breaking: Callable[..., list[str]], error: bytes
) -> None:
    answers = breaking(lambda body: without_end_mark(body) + error)
    with pytest.raises(PipelineError) as refusal, retrying_for(60):
        telemetry(settings_for(front, "CLICKHOUSE_HOST"))
    assert str(refusal.value).endswith(f": {OUT_OF_MEMORY.decode()}")
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("harm", "headers", "said"),
    [
        (without_end_mark, {}, "broke off after 3 rows: there is no end mark"),
        (lambda body: body[: len(body) // 2], {}, "broke off after 0 rows: "),
        (lambda body: body[:200], {}, "broke off after 0 rows: "),
        (lambda body: b"", {}, "broke off after 0 rows: "),
        (bytes, {"X-ClickHouse-Summary": '{"result_rows": "40"}'}, "broke off after 3 rows: the server has 40"),
        (lambda body: without_end_mark(body) + OUT_OF_MEMORY.replace(b"241", b"209"), {}, "Code: 209. DB::Exception"),
    ],
    ids=["no end mark", "half a block", "half a schema", "nothing", "too few rows", "an error that passes"],
)
def test_an_answer_that_is_not_whole_is_asked_for_again(
    dcmms: Dcmms,
    front: ClickHouseHttpFront,
    breaking: Callable[..., list[str]],
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[bytes], bytes],
    headers: dict[str, str],
    said: str,
) -> None:
    answers = breaking(harm, **headers)
    with retrying_for(60):
        read = telemetry(settings_for(front, "CLICKHOUSE_HOST"))
    assert len(answers) == 2
    assert said in caplog.text
    assert read.equals(telemetry(dcmms.settings))


@pytest.fixture
def guarded_database(postgres: PostgresServer) -> Iterator[str]:
    """URL, without a password, of a database whose role needs one."""
    rules = postgres.data / "pg_hba.conf"
    trusting = rules.read_text()
    with closing(psycopg2.connect(postgres.admin_url)) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        cursor.execute("create role guarded login password %s", (PASSWORD,))
        rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{trusting}")
        cursor.execute("select pg_reload_conf()")
        yield postgres.url("guarded", "dcmms_n")
        rules.write_text(trusting)
        cursor.execute("select pg_reload_conf()")
        cursor.execute("drop role guarded")


def with_password(url: str, password: str) -> Settings:
    """Return settings whose database URL carries the password."""
    database_url = url.replace("guarded@", f"guarded:{quote(password, safe='')}@")
    return Settings(database_url=database_url, clickhouse_dsn="chdb:///unused")


def test_postgres_password_is_used_and_a_wrong_one_is_not_told(guarded_database: str) -> None:
    deadline = time.monotonic() + 5  # the server reads its rules anew a moment after it was told to
    while time.monotonic() < deadline:
        try:
            with open_postgres(with_password(guarded_database, WRONG)):
                time.sleep(0.02)
        except PipelineError as error:
            refusal = str(error)
            break
    assert 'password authentication failed for user "guarded"' in refusal
    assert "Check DATABASE_URL" in refusal
    assert len(refusal.splitlines()) == 1
    assert WRONG not in refusal
    with open_postgres(with_password(guarded_database, PASSWORD)):
        pass


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("clickhouse.example", ("clickhouse.example", 8123, False)),
        ("clickhouse.example:8124", ("clickhouse.example", 8124, False)),
        ("127.0.0.1", ("127.0.0.1", 8123, False)),
        ("http://clickhouse.example:8123", ("clickhouse.example", 8123, False)),
        ("http://clickhouse.example", ("clickhouse.example", 8123, False)),
        ("https://clickhouse.example", ("clickhouse.example", 8443, True)),
        ("https://clickhouse.example:9440/", ("clickhouse.example", 9440, True)),
    ],
)
def test_clickhouse_host_with_and_without_scheme_and_port(host: str, expected: tuple[str, int, bool]) -> None:
    settings = Settings(
        database_url="postgresql://nobody@127.0.0.1/none",
        clickhouse_dsn=None,
        clickhouse_host=host,
        clickhouse_user=USER,
        clickhouse_password=PASSWORD,
    )
    arguments, where = connection_arguments(settings)
    assert (arguments["host"], arguments["port"], arguments["secure"]) == expected
    assert (arguments["username"], arguments["password"]) == (USER, PASSWORD)
    assert where == f"dcmms_analytics at {expected[0]}:{expected[1]}"


def snapshot(rows: int) -> pa.Table:
    """Return a snapshot of `rows` assets that all hold `rows` in each feature, so that a mixture would show."""
    schema = snapshot_schema(VIEW)
    keys = pa.array([str(asset_key(number)) for number in range(rows)])
    instants = pa.repeat(pa.scalar(T, schema.field("event_timestamp").type), rows)
    counts = pa.repeat(pa.scalar(rows, pa.int32()), rows)
    features = [counts.cast(field.type) for field in list(schema)[3:]]
    return pa.table([keys, instants, instants, *features], schema=schema)


def read_by_feast(data_dir: Path) -> pa.Table:
    """Return what Feast's DuckDB store reads from the snapshots of the view."""
    config = SimpleNamespace(repo_path=data_dir, offline_store=DuckDBOfflineStoreConfig())
    job = DuckDBOfflineStore.pull_latest_from_table_or_query(
        config,
        sources()(VIEW),
        ["asset_id"],
        ["wo_count_7d"],
        "event_timestamp",
        "created",
        T - timedelta(days=1),
        T + timedelta(days=1),
    )
    return job.to_arrow()


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with a snapshot of ten assets, which Feast's sources point at."""
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path))
    write_snapshot(snapshot(10), snapshot_path(tmp_path, VIEW, T))
    return tmp_path


@old_ibis
def test_readers_pass_over_a_file_that_is_being_written(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = snapshot_path(data_dir, VIEW, T)
    seen = []

    def interrupted(table: pa.Table, file: pa.PythonFile, **_: object) -> None:
        """Write some bytes, look around as a reader would, and fail."""
        file.write(b"PAR1 and no more")
        file.flush()
        seen.extend(entry.name for entry in path.parent.iterdir() if entry != path)
        assert read_by_feast(data_dir)["wo_count_7d"].to_pylist() == [10] * 10
        assert newest_snapshot(data_dir, VIEW) == path
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(PipelineError, match="cannot be written: No space left on device"):
        write_snapshot(snapshot(20), path)
    assert len(seen) == 1
    assert list(path.parent.iterdir()) == [path]
    assert pq.read_table(path, partitioning=None) == snapshot(10)


def test_readers_see_the_old_snapshot_or_the_new_one(data_dir: Path) -> None:
    path = snapshot_path(data_dir, VIEW, T)
    sizes = (10, 3000)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [write_snapshot(snapshot(sizes[turn % 2]), path) for turn in range(50)])
        while not writing.done():
            # Opened once. A reader that opens a path twice, for footer and pages, can fail while it is replaced.
            with path.open("rb") as file:
                values = pq.ParquetFile(file).read()["wo_count_7d"].to_pylist()
            assert len(values) in sizes
            assert set(values) == {len(values)}
        assert len(writing.result()) == 50

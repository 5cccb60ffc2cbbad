"""The HTTP front answers clickhouse-connect as the embedded engine does, and refuses as a server does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen
from uuid import uuid4

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.clickhouse_http import ClickHouseHttpFront

PASSWORD = "p@ss: wörd"
ROWS = 200_000
QUERY = """
    select toString(asset_id) as asset, toDateTime64(time_bucket, 6, 'UTC') as bucket, value
    from readings
    where time_bucket <= {as_of:DateTime64(6, 'UTC')}
        and toString(asset_id) in {ids:Array(String)}
        and value >= {w:UInt32}
    order by asset, bucket
"""


def _parameters(ids: list[str]) -> dict[str, object]:
    return {"as_of": datetime(2025, 1, 2, 12, 0, tzinfo=UTC), "ids": ids, "w": 7}


def _get_http_client(front: ClickHouseHttpFront, **overrides: object) -> Client:
    options = {"host": front.host, "port": front.port, "username": front.user, "password": front.password}
    return clickhouse_connect.get_client(**(options | {"database": "plant"} | overrides))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clickhouse")


@pytest.fixture(scope="module")
def ids() -> list[str]:
    return [str(uuid4()) for _ in range(4)]


@pytest.fixture(scope="module")
def embedded(directory: Path, ids: list[str]) -> Iterator[Client]:
    client = clickhouse_connect.get_client(dsn=f"chdb://{directory}")
    client.command("create database plant")
    client.command(
        "create table plant.readings (asset_id UUID, time_bucket DateTime, value Float64) "
        "engine = MergeTree order by (asset_id, time_bucket)"
    )
    client.command(
        "insert into plant.readings select {ids:Array(UUID)}[number % 4 + 1], "
        "toDateTime('2025-01-01 00:00:00', 'UTC') + number, number / 3 from numbers({rows:UInt32})",
        parameters={"ids": ids, "rows": ROWS},
    )
    client.database = "plant"
    yield client
    client.close()


@pytest.fixture(scope="module")
def front(directory: Path, embedded: Client) -> Iterator[ClickHouseHttpFront]:
    with ClickHouseHttpFront(directory, password=PASSWORD) as front:
        yield front


@pytest.fixture(scope="module")
def http(front: ClickHouseHttpFront) -> Iterator[Client]:
    client = _get_http_client(front)
    yield client
    client.close()


def test_arrow_tables_are_equal(http: Client, embedded: Client, ids: list[str]) -> None:
    over_http = http.query_arrow(QUERY, parameters=_parameters(ids[:2]))
    assert 0 < over_http.num_rows < ROWS
    assert over_http.schema.field("bucket").type == pa.timestamp("us", "UTC")
    assert over_http.equals(embedded.query_arrow(QUERY, parameters=_parameters(ids[:2])), check_metadata=True)


def test_arrow_streams_are_equal(http: Client, embedded: Client, ids: list[str]) -> None:
    def read(client: Client) -> pa.Table:
        with client.query_arrow_stream(
            QUERY, parameters=_parameters(ids), settings={"max_block_size": 5_000}
        ) as blocks:
            return pa.Table.from_batches(list(blocks))

    assert read(http).num_rows > 100_000
    assert read(http).equals(read(embedded))


def test_rows_and_commands_are_equal(http: Client, embedded: Client, ids: list[str]) -> None:
    for ask in (
        lambda client: client.query(QUERY + " limit 100", parameters=_parameters(ids)).result_rows,
        lambda client: client.query("select * from readings limit 0").column_names,
        lambda client: client.command("select count() from readings where value > {w:UInt32}", parameters={"w": 9}),
        lambda client: client.command("select currentDatabase(), 'a\tb'"),
        lambda client: client.command("select getSetting('max_threads')", settings={"max_threads": 3}),
    ):
        assert ask(http) == ask(embedded)


def test_long_parameters_travel_in_a_form(http: Client, ids: list[str]) -> None:
    many = [*(str(uuid4()) for _ in range(5_000)), "it's \\ a\ttest", *ids]
    question = "select length({ids:Array(String)}), {ids:Array(String)}[5001]"
    assert http.query(question, parameters={"ids": many}).result_rows == [(5_005, "it's \\ a\ttest")]


def test_settings_last_for_one_statement(http: Client) -> None:
    before = http.command("select getSetting('max_block_size')")
    assert http.command("select getSetting('max_block_size')", settings={"max_block_size": 77}) == 77
    assert http.command("select getSetting('max_block_size')") == before


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("select nope from readings", 47),
        ("select * from missing", 60),
        ("select * from nowhere.readings", 81),
        ("selec 1", 62),
        ("select throwIf(value >= 0) from readings", 395),
        ("select sleep(1) settings max_execution_time = 0.2", 159),
    ],
)
def test_an_error_has_its_code(http: Client, embedded: Client, statement: str, code: int) -> None:
    for client in (http, embedded):
        with pytest.raises(DatabaseError, match=rf"Code: {code}\. DB::Exception") as caught:
            client.query(statement)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("select * from missing", 404),
        ("selec 1", 400),
        ("select throwIf(1)", 500),
        ("create database other", 500),
    ],
)
def test_an_error_has_its_status(front: ClickHouseHttpFront, statement: str, status: int) -> None:
    credentials = urlencode({"user": front.user, "password": front.password})
    with pytest.raises(HTTPError, match=f"{status}") as caught:
        urlopen(f"{front.url}/?{credentials}&{urlencode({'query': statement})}")
    with caught.value as answer:
        assert answer.read().startswith(f"Code: {answer.headers['X-ClickHouse-Exception-Code']}.".encode())


def test_an_unknown_setting_is_an_error(front: ClickHouseHttpFront) -> None:
    client = _get_http_client(front)
    client.params["no_such_setting"] = "1"
    with pytest.raises(DatabaseError, match="Code: 115"):
        client.query("select 1")
    client.close()


@pytest.mark.parametrize("wrong", [{"password": "guess"}, {"username": "root"}, {"password": ""}])
def test_wrong_credentials_are_refused(front: ClickHouseHttpFront, wrong: dict[str, str]) -> None:
    with pytest.raises(DatabaseError, match=r"Code: 516.*Authentication failed") as caught:
        _get_http_client(front, **wrong)
    assert caught.value.code == 516
    assert "p@ss" not in str(caught.value)


def test_credentials_in_clickhouse_headers(front: ClickHouseHttpFront, directory: Path) -> None:
    headers = {"X-ClickHouse-User": "reader", "X-ClickHouse-Key": "plain"}
    with ClickHouseHttpFront(directory, "reader", "plain") as second:
        client = _get_http_client(second, username="", password="", headers=headers)
        assert client.command("select 1") == 1
        client.close()
    with pytest.raises(DatabaseError, match="Code: 516"):
        _get_http_client(front, username="", password="", headers=headers)


def test_plain_get(directory: Path, embedded: Client) -> None:
    with ClickHouseHttpFront(directory) as open_front:
        for path, expected in (
            ("ping", b"Ok.\n"),
            ("?query=select+1%2B1", b"2\n"),
            ("?query=select+1+as+n&default_format=JSONEachRow", b'{"n":1}\n'),
            ("?query=select+count()+from+readings&database=plant", f"{ROWS}\n".encode()),
        ):
            with urlopen(f"{open_front.url}/{path}") as answer:
                assert answer.read() == expected


def test_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("clickhouse_http.py")), str(tmp_path), "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"CLICKHOUSE_PASSWORD": "secret"}
    ) as process:
        try:
            url = process.stdout.readline().strip()
            dsn = url.replace("http://", "clickhouse://default:secret@")
            client = clickhouse_connect.get_client(dsn=dsn)
            assert client.ping()
            client.command("create table t (a UInt8) engine = MergeTree order by a")
            client.command("insert into t values (1), (2)")
            assert client.command("select sum(a) from t") == 3
            client.close()
        finally:
            process.terminate()
    assert process.returncode == 0

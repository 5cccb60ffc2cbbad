"""The writer's transactions on a real Redis: what is newer stays, as it is, whoever reads or writes meanwhile."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError

from dev.servers import RedisServer
from pipeline.online.redis.layout import bulk_strings
from pipeline.online.redis.scripts import write_row
from pipeline.online.redis.writer import ROWS_PER_TRANSACTION, Rows, Written, delete_rows, write_rows

STAMP = b"_ts:view"
PROJECT = "dcmms"


@pytest.fixture(scope="module")
def client(redis: RedisServer) -> Iterator[Redis]:
    with closing(Redis(port=redis.port, db=9)) as client:
        yield client
        client.flushdb()


def key_of(row: int) -> bytes:
    return b"row %d dcmms" % row


def stamp_of(seconds: int, nanos: int = 0) -> bytes:
    return Timestamp(seconds=seconds, nanos=nanos).SerializeToString()


def write(client: Redis, rows: range, stamp: bytes, value: bytes, seconds_to_live: int | None = None) -> Written:
    """Set `value` and `stamp` in each row, in blocks of 100 rows."""
    per_row = 2 if seconds_to_live else 1
    blocks = []
    for first in range(rows.start, rows.stop, 100):
        keys = [bulk_strings(key_of(row)) for row in range(first, min(first + 100, rows.stop))]
        commands = [b"*6\r\n$4\r\nHSET\r\n" + key + bulk_strings(STAMP, stamp, b"f", value) for key in keys]
        if seconds_to_live:
            expire = bulk_strings(b"%d" % seconds_to_live)
            commands = [
                command + b"*3\r\n$6\r\nEXPIRE\r\n" + key + expire for key, command in zip(keys, commands, strict=True)
            ]
        blocks.append(Rows(pa.array(keys, pa.binary()), pa.array(commands, pa.binary()), per_row))
    return write_rows(client, blocks, project=PROJECT, stamp_field=STAMP, stamp=stamp)


def delete(client: Redis, rows: range, stamp: bytes) -> int:
    keys = pa.array([key_of(row) for row in rows], pa.binary())
    return delete_rows(client, [keys.slice(0, 45), keys.slice(45)], fields=[b"f"], stamp_field=STAMP, stamp=stamp)


def values(client: Redis, rows: range) -> list[bytes | None]:
    with client.pipeline(transaction=False) as pipeline:
        for row in rows:
            pipeline.hget(key_of(row), b"f")
        return pipeline.execute()


# a Timestamp's whole range, most of all where its bytes change: at 0, at powers of 128, without nanoseconds
INSTANTS = st.tuples(
    st.one_of(
        st.integers(-62_135_596_800, 253_402_300_799),
        st.integers(-2, 2),
        st.builds(lambda power, near: 128**power + near, st.integers(1, 5), st.integers(-1, 1)),
    ),
    st.one_of(st.just(0), st.integers(0, 999_999_999)),
)


@given(INSTANTS, INSTANTS)
def test_the_later_of_any_two_instants_stays(client: Redis, first: tuple[int, int], second: tuple[int, int]) -> None:
    client.delete(key_of(0))
    assert write(client, range(1), stamp_of(*first), b"first") == Written(rows=1)
    assert write(client, range(1), stamp_of(*second), b"second").newer == (first > second)
    later = (first, b"first") if first > second else (second, b"second")
    assert client.hgetall(key_of(0)) == {STAMP: stamp_of(*later[0]), b"f": later[1]}


# between 1978 and 3058 a Timestamp of whole seconds has six bytes
SECONDS = st.tuples(st.integers(268_435_456, 34_359_738_367), st.just(0))
STAMPS = st.one_of(INSTANTS, SECONDS, st.builds(lambda far, near: (far[0] + near, 0), SECONDS, st.integers(-300, 300)))


@given(STAMPS, STAMPS)
@example((1_767_225_600, 0), (1_767_225_601, 0))
@example((1_767_225_600, 0), (1_767_225_600, 0))
def test_the_script_for_clusters_keeps_the_later_of_any_two_instants(
    client: Redis, first: tuple[int, int], second: tuple[int, int]
) -> None:
    client.delete(key_of(0))
    script = write_row()
    assert client.eval(script, 1, key_of(0), STAMP, stamp_of(*first), b"f", b"first") == 0
    assert client.eval(script, 1, key_of(0), STAMP, stamp_of(*second), b"f", b"second") == int(first > second)
    later = (first, b"first") if first > second else (second, b"second")
    assert client.hgetall(key_of(0)) == {STAMP: stamp_of(*later[0]), b"f": later[1]}


@pytest.mark.parametrize("rows", [1, ROWS_PER_TRANSACTION, ROWS_PER_TRANSACTION + 1, 100, 101, 1_000])
def test_every_number_of_rows(client: Redis, rows: int) -> None:
    client.flushdb()
    assert write(client, range(rows), stamp_of(1), b"a") == Written(rows=rows)
    assert write(client, range(rows), stamp_of(2), b"b").rows == rows
    assert values(client, range(rows)) == [b"b"] * rows
    assert client.dbsize() == rows


def test_a_newer_row_keeps_what_else_is_in_it_and_its_time_to_live(client: Redis) -> None:
    client.flushdb()
    write(client, range(40), stamp_of(1), b"old")
    for row in range(0, 40, 3):
        client.hset(key_of(row), mapping={STAMP: stamp_of(9), b"f": b"new", b"another view": b"x"})
        client.expire(key_of(row), 1_000)
    written = write(client, range(40), stamp_of(2), b"older", seconds_to_live=50)
    assert (written.rows, written.newer) == (40, 14)
    for row in range(40):
        found, seconds = client.hgetall(key_of(row)), client.ttl(key_of(row))
        if row % 3:
            assert (found, 40 < seconds <= 50) == ({STAMP: stamp_of(2), b"f": b"older"}, True)
        else:
            assert found == {STAMP: stamp_of(9), b"f": b"new", b"another view": b"x"}
            assert 900 < seconds <= 1_000
    assert client.dbsize() == 40


def test_readers_find_the_newer_row_while_older_ones_are_written(client: Redis) -> None:
    client.flushdb()
    rows = range(64)
    write(client, rows, stamp_of(9), b"new")
    done = threading.Event()

    def read() -> tuple[int, set[tuple[bytes | None, ...]], set[int]]:
        seen, sizes, times = set(), set(), 0
        with closing(Redis.from_pool(client.connection_pool)) as reader:
            while not done.is_set():
                seen |= set(map(tuple, (reader.hmget(key_of(row), STAMP, b"f") for row in rows)))
                sizes.add(reader.dbsize())
                times += 1
        return times, seen, sizes

    with ThreadPoolExecutor(3) as pool:
        reading = pool.submit(read)
        try:
            assert sum(write(client, rows, stamp_of(2), b"older").newer for _ in range(300)) == 300 * len(rows)
        finally:
            done.set()
        times, seen, sizes = reading.result()
    assert times > 10
    assert seen == {(stamp_of(9), b"new")}
    assert sizes == {len(rows)}


def test_a_full_redis_takes_no_rows_and_lets_go_of_some(client: Redis) -> None:
    client.flushdb()
    write(client, range(40), stamp_of(1), b"old")
    write(client, range(20, 30), stamp_of(9), b"new")
    try:
        client.config_set("maxmemory", 1)
        with pytest.raises(ResponseError, match="OOM"):
            write(client, range(40), stamp_of(2), b"more")
        assert delete(client, range(50), stamp_of(2)) == 30
    finally:
        client.config_set("maxmemory", 0)
    assert values(client, range(50)) == [None] * 20 + [b"new"] * 10 + [None] * 20


@pytest.mark.parametrize(
    "stamp", [b"", b"\x08", b"\x08" + b"\xff" * 5, b"\xff\xff", b"no timestamp", b"\x08" + b"\xff" * 12]
)
def test_a_timestamp_that_is_none_is_overwritten(client: Redis, stamp: bytes) -> None:
    client.flushdb()
    client.hset(key_of(0), mapping={STAMP: stamp, b"f": b"odd"})
    assert write(client, range(1), stamp_of(1_767_225_600), b"right").newer == 0
    assert values(client, range(1)) == [b"right"]
    client.hset(key_of(0), mapping={STAMP: stamp, b"f": b"odd"})
    assert client.eval(write_row(), 1, key_of(0), STAMP, stamp_of(1_767_225_600), b"f", b"right") == 0
    assert values(client, range(1)) == [b"right"]


@pytest.mark.parametrize("right", ["eval", "rename", "exists", "hget", "hset", "multi", "exec"])
def test_a_user_without_one_of_the_rights_changes_nothing(client: Redis, redis: RedisServer, right: str) -> None:
    client.flushdb()
    write(client, range(40), stamp_of(1), b"old")
    user = f"without-{right}"
    client.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "+@all", f"-{right}")
    try:
        with (
            closing(Redis(port=redis.port, db=9, username=user, password="secret")) as limited,
            pytest.raises(ResponseError, match=f"(?i)no permissions.*{right}"),
        ):
            write(limited, range(40), stamp_of(2), b"new")
    finally:
        client.execute_command("ACL", "DELUSER", user)
    assert values(client, range(40)) == [b"old"] * 40
    assert client.dbsize() == 40

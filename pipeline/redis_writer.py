"""Writing rows to Redis in small transactions that never put an older row over a newer one.

A transaction is a few rows: WATCH their keys, read their event timestamps, then MULTI, the rows, EXEC. Redis drops it
whole if anybody has written one of the keys in between, and it is made again; so a row is compared and set as one
step, whoever else writes, and is always the old one or the new one. Several connections take turns: while Redis
executes one transaction, the next ones wait in its sockets and later rows are being encoded here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle

import hiredis
import pyarrow as pa
import pyarrow.compute as pc
from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import ResponseError
from redis.retry import Retry

from pipeline.fault_points import fault_point
from pipeline.redis_layout import bulk_strings, parsed_stamp

# Small enough that other clients wait less than a millisecond behind one; larger ones are also slower, by cache misses.
ROWS_PER_TRANSACTION = 64
CONNECTIONS = 8
# Others write the same keys once per row at most; this many conflicts in a row mean that something is broken.
_MAX_CONFLICTS = 100

# The different event timestamps of the keys: nearly always one, that of the last run.
_DISTINCT_STAMPS = b"""
local seen, stamps = {}, {}
for i = 1, #KEYS do
    local stamp = redis.call('HGET', KEYS[i], ARGV[1])
    if stamp and not seen[stamp] then
        seen[stamp] = true
        stamps[#stamps + 1] = stamp
    end
end
return stamps
"""
# The event timestamp of each key.
_STAMPS = b"""
local stamps = {}
for i = 1, #KEYS do
    stamps[i] = redis.call('HGET', KEYS[i], ARGV[1])
end
return stamps
"""


@dataclass(frozen=True)
class Rows:
    """Consecutive rows in protocol bytes: `keys` as bulk strings, `commands` per row, `commands_per_row` of them."""

    keys: pa.Array
    commands: pa.Array
    commands_per_row: int = 1

    def slice(self, start: int, length: int) -> "Rows":
        """Return `length` rows from `start`, fewer at the end, without copying."""
        return Rows(self.keys.slice(start, length), self.commands.slice(start, length), self.commands_per_row)


@dataclass
class Written:
    """How many rows are done; Redis kept its own where it is `newer`, and replied 0 to `zeros` of the others.

    The reply to HSET is the number of fields that are new, to HDEL the number of fields that were there.
    """

    rows: int = 0
    newer: int = 0
    zeros: int = 0


def write_rows(
    client: Redis,
    blocks: Iterable[Rows],
    stamp_field: bytes,
    stamp: bytes,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Written:
    """Execute the commands of each row whose event timestamp in Redis, in `stamp_field`, is not newer than `stamp`.

    `progress` is told the rows done so far. Raises the client's `RedisError`, or `OSError`, where Redis fails.
    """
    written = Written()
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(client)) for _ in range(CONNECTIONS)]
        lanes = cycle([_Lane(connection, stamp_field, stamp, written) for connection in connections])
        previous: _Lane | None = None
        for rows in _transactions(blocks):
            lane = next(lanes)
            lane.finish()
            lane.check(rows)
            if previous:
                previous.write()
            previous = lane
            if written.rows:
                progress(written.rows)
        if previous:
            previous.write()
        for _ in connections:
            next(lanes).finish()
    progress(written.rows)
    return written


@contextmanager
def connect(client: Redis) -> Iterator[AbstractConnection]:
    """Yield a connection of our own, made as the client makes its, and without its retries.

    It never gets into the client's pool: half a transaction may be on it.
    """
    connection = client.connection_pool.make_connection()
    connection.retry = Retry(NoBackoff(), 0)
    try:
        connection.connect()
        yield connection
    finally:
        connection.disconnect()


class _Lane:
    """One connection and its transaction: `check`, `write`, `finish`, each of which lets Redis go on meanwhile."""

    def __init__(self, connection: AbstractConnection, stamp_field: bytes, stamp: bytes, written: Written) -> None:
        self._connection = connection
        self._reader = hiredis.Reader()
        self._stamp_field = stamp_field
        self._stamp = parsed_stamp(stamp)
        self._written = written
        self._rows: Rows | None = None
        self._sent: Rows | None = None

    def check(self, rows: Rows) -> None:
        """Watch the keys and ask for their event timestamps."""
        self._rows = rows
        keys = _bytes(rows.keys)
        self._send(b"*%d\r\n$5\r\nWATCH\r\n" % (len(rows.keys) + 1), keys, *self._script(_DISTINCT_STAMPS, keys))

    def write(self) -> None:
        """Send the rows that are not older than what Redis has."""
        _raise(self._reply())
        stamps = _raise(self._reply())
        rows = self._rows
        if any(parsed_stamp(stamp) > self._stamp for stamp in stamps):
            rows = self._without_newer(rows)
        self._sent = rows
        self._send(b"*1\r\n$5\r\nMULTI\r\n", _bytes(rows.commands), b"*1\r\n$4\r\nEXEC\r\n")
        fault_point("redis: sent")

    def finish(self) -> None:
        """Wait for the outcome of the transaction, if there is one; after a conflict do it again."""
        if self._rows is None:
            return
        for _ in range(_MAX_CONFLICTS):
            replies = self._outcome()
            if replies is not None:
                break
            self.check(self._rows)
            self.write()
        else:
            raise ResponseError(f"other clients changed the same keys {_MAX_CONFLICTS} times in a row")
        for reply in set(map(_error_text, replies)) - {None}:
            raise ResponseError(reply)
        self._written.rows += len(self._rows.keys)
        self._written.newer += len(self._rows.keys) - len(self._sent.keys)
        self._written.zeros += replies[:: self._sent.commands_per_row].count(0)
        self._rows = None

    def _without_newer(self, rows: Rows) -> Rows:
        """Return the rows whose event timestamp in Redis is not newer, by asking for each one's."""
        self._send(*self._script(_STAMPS, _bytes(rows.keys)))
        stamps = pa.array(_raise(self._reply()), pa.binary()).dictionary_encode()
        # one comparison per different event timestamp
        newer = [parsed_stamp(stamp) > self._stamp for stamp in stamps.dictionary.to_pylist()]
        is_newer = pa.array(newer, pa.bool_()).take(stamps.indices)
        keep = pc.invert(is_newer.fill_null(False))
        return Rows(rows.keys.filter(keep), rows.commands.filter(keep), rows.commands_per_row)

    def _script(self, text: bytes, keys: memoryview) -> tuple[bytes | memoryview, ...]:
        """Return the command that runs a script over the keys of the transaction and the field of the timestamp."""
        count = len(self._rows.keys)
        head = b"*%d\r\n" % (count + 4) + bulk_strings(b"EVAL", text, b"%d" % count)
        return head, keys, bulk_strings(self._stamp_field)

    def _outcome(self) -> list | None:
        """Return the replies to the commands, or None where Redis has dropped the transaction because of a conflict."""
        promised = b"+OK\r\n" + b"+QUEUED\r\n" * (len(self._sent.keys) * self._sent.commands_per_row)
        received = b""
        while len(received) < len(promised):  # an error is longer than what it stands for
            received += self._receive()
        if received.startswith(promised):
            self._reader.feed(received[len(promised) :])
            return _raise(self._reply())
        # EXEC only says that it was aborted: the reason is the reply to the first command that Redis refused
        self._reader.feed(received)
        while not isinstance(reply := self._reply(), Exception):
            pass
        return _raise(reply)

    def _send(self, *parts: bytes | memoryview) -> None:
        self._connection.send_packed_command(parts)

    def _reply(self) -> object:
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._receive())
        return reply

    def _receive(self) -> bytes:
        data = self._connection._sock.recv(1 << 16)
        if not data:
            raise ConnectionResetError("Redis closed the connection")
        return data


def _transactions(blocks: Iterable[Rows]) -> Iterator[Rows]:
    for block in blocks:
        for start in range(0, len(block.keys), ROWS_PER_TRANSACTION):
            yield block.slice(start, ROWS_PER_TRANSACTION)


def _bytes(column: pa.Array) -> memoryview:
    """Return the values of a binary column back to back, as they lie in its buffer."""
    if not len(column):
        return memoryview(b"")
    _, offsets, data = column.buffers()
    bounds = memoryview(offsets).cast("i")
    return memoryview(data)[bounds[column.offset] : bounds[column.offset + len(column)]]


def _raise(reply: object) -> object:
    if isinstance(reply, Exception):
        raise ResponseError(str(reply))
    return reply


def _error_text(reply: object) -> str | None:
    return str(reply) if isinstance(reply, Exception) else None

"""Writing rows to Redis in small transactions that never put an older row over a newer one.

A transaction is a few rows: MULTI, a script that renames those rows which Redis has from a later instant out of the
way, the commands of every row, a script that renames the later ones back over what was written, EXEC. Redis executes
it as one step, so whoever else writes, a row is compared and set at once; readers find the old row or the new one, and
never the other name. Nothing of it waits for an answer: transactions follow each other on one connection.

Redis goes on with a transaction when a command in it fails, and the rows would then be written unguarded. So the
scripts are sent whole, not by a hash that Redis may have forgotten; they use no command that a full Redis refuses; and
that their commands are allowed is asked beforehand.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import takewhile

import pyarrow as pa
from redis import Redis, RedisCluster, RedisError

from pipeline.base.fault_points import fault_point
from pipeline.online.redis.cluster import Block, call_head, evaluated
from pipeline.online.redis.connections import Bytes, Client, Conversation, connect, first_error
from pipeline.online.redis.layout import bulk_keys, bulk_strings, joined
from pipeline.online.redis.scripts import DELETE_OLDER, HOLD_NEWER, RELEASE_NEWER, UNOWNED

# Redis keeps the words of a transaction until its end: the more there are, the further its allocator has to look.
ROWS_PER_TRANSACTION = 16
# Few enough that other clients do not wait for them.
_ROWS_PER_SCRIPT = 128
# Blocks that are on their way or being executed while the next one is encoded.
_BLOCKS_AHEAD = 4
# Redis looks for rows under these names only within a transaction. They end like all keys of the project, for its ACL.
_HELD = b"held %d "


@dataclass(frozen=True)
class Rows:
    """Consecutive rows in protocol bytes: `keys` as bulk strings, `commands` per row, `commands_per_row` of them."""

    keys: pa.Array
    commands: pa.Array
    commands_per_row: int = 1


@dataclass
class Written:
    """How many rows are done, and how many of them Redis kept because its own are newer.

    `refused` are the keys of rows that could not be written because Redis has something else there than a hash.
    """

    rows: int = 0
    newer: int = 0
    refused: list[bytes] = field(default_factory=list)


def write_rows(
    client: Redis,
    blocks: Iterable[Rows],
    *,
    project: str,
    stamp_field: bytes,
    stamp: bytes,
    replicas: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Written:
    """Execute the commands of each row whose event timestamp in Redis, in `stamp_field`, is not newer than `stamp`.

    `progress` is told the rows done so far; at the end, so many `replicas` have them. Raises the client's `RedisError`,
    or `OSError`, where Redis fails; rows that are under way then are counted, where it still answers.
    """
    written = Written()
    with connect(client) as connection, ExitStack() as stack:
        node = Conversation(connection)
        transactions = _Transactions(node, project, stamp_field, stamp)
        transactions.check_rights()
        stack.callback(lambda: progress(written.rows))
        ahead: deque[Rows] = deque()
        for rows in blocks:
            transactions.send(rows)
            fault_point("redis: sent")
            ahead.append(rows)
            if len(ahead) > _BLOCKS_AHEAD:
                transactions.receive(ahead.popleft(), written)
                progress(written.rows)
            if transactions.error:
                break
        for rows in ahead:
            transactions.receive(rows, written)
        if transactions.error:
            raise transactions.error
        node.confirm(replicas)
    return written


def write_calls(
    client: RedisCluster,
    script: bytes,
    blocks: Iterable[Block],
    *,
    replicas: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Written:
    """Do on a cluster what `write_rows` does on one Redis, by calls of a script of `write_row`."""
    written, errors = Written(), list[RedisError]()
    with ExitStack() as stack:
        stack.callback(lambda: progress(written.rows))
        for keys, replies in evaluated(client, script, takewhile(lambda _: not errors, blocks), replicas=replicas):
            fault_point("redis: sent")
            failed = [row for row, reply in enumerate(replies) if isinstance(reply, Exception)]
            refused = [row for row in failed if str(replies[row]).startswith("WRONGTYPE")]
            written.refused += [keys[row].as_py() for row in refused]
            written.rows += len(replies) - len(failed)
            written.newer += replies.count(1)
            if error := first_error(replies[row] for row in failed if row not in refused):
                errors.append(error)
            progress(written.rows)
    if errors:
        raise errors[0]
    return written


def delete_rows(
    client: Client, blocks: Iterable[pa.Array], *, fields: Iterable[bytes], stamp_field: bytes, stamp: bytes
) -> int:
    """Delete `fields` and `stamp_field` of the rows whose event timestamp is not newer than `stamp`; return how many.

    Raises the client's `RedisError`, or `OSError`, where Redis fails.
    """
    return _evaluated(client, DELETE_OLDER, blocks, stamp_field, stamp, *fields)


def unowned_fields(client: Client, blocks: Iterable[pa.Array], *, owned: Iterable[bytes], delete: bool) -> int:
    """Return how many fields of the rows are Feast's and not `owned`; `delete` them, if asked to.

    Raises the client's `RedisError`, or `OSError`, where Redis fails.
    """
    return _evaluated(client, UNOWNED, blocks, b"1" if delete else b"0", *owned)


def _evaluated(client: Client, script: bytes, blocks: Iterable[pa.Array], *arguments: bytes) -> int:
    """Return the sum of what `script` returns for some keys at a time; `blocks` are keys, as clients take them.

    Not a transaction but a script, which a Redis that is full executes as well.
    """
    total = 0
    if isinstance(client, RedisCluster):
        head, tail = call_head(script, len(arguments)), bulk_strings(*arguments)
        calls = ((keys, joined(head, bulk_keys(keys), tail)) for keys in blocks if len(keys))
        for _, replies in evaluated(client, script, calls):
            if error := first_error(replies):
                raise error
            total += sum(replies)
        return total
    with ExitStack() as stack:
        connection = None  # nearly always there are no keys: then no connection is made
        for block in blocks:
            for start in range(0, len(block), _ROWS_PER_SCRIPT):
                connection = connection or stack.enter_context(connect(client))
                keys = block.slice(start, _ROWS_PER_SCRIPT).to_pylist()
                connection.send_command("EVAL", script, len(keys), *keys, *arguments)
                total += connection.read_response()
    return total


class _Transactions:
    """The transactions of one connection: `send` blocks of rows, and `receive` the outcome of each in turn."""

    def __init__(self, node: Conversation, project: str, stamp_field: bytes, stamp: bytes) -> None:
        self._node = node
        self._stamp = bulk_strings(stamp_field, stamp)
        #: What Redis has said first against a transaction.
        self.error: RedisError | None = None
        self._held = [bulk_strings(_HELD % row + project.encode()) for row in range(ROWS_PER_TRANSACTION)]

    def check_rights(self) -> None:
        """Raise `RedisError` where Redis would refuse a script's commands, which it only does for a newer row.

        They queue up and are discarded: none is executed.
        """
        name = self._held[0]
        self._node.send(
            b"*1\r\n$5\r\nMULTI\r\n"
            b"*3\r\n$4\r\nHGET\r\n"
            + name
            + name
            + b"*2\r\n$6\r\nEXISTS\r\n"
            + name
            + b"*3\r\n$6\r\nRENAME\r\n"
            + name
            + self._held[1]
            + b"*1\r\n$7\r\nDISCARD\r\n"
        )
        if error := first_error([self._node.reply() for _ in range(5)]):
            raise error

    def send(self, rows: Rows) -> None:
        """Send a block of rows, in as many transactions as it takes."""
        keys, commands = Bytes(rows.keys), Bytes(rows.commands)
        parts: list[bytes | memoryview] = []
        for start, stop in _spans(rows):
            count = stop - start
            held = b"".join(self._held[:count])
            parts += [
                b"*1\r\n$5\r\nMULTI\r\n*%d\r\n" % (2 * count + 5),
                bulk_strings(b"EVAL", HOLD_NEWER, b"%d" % (2 * count)),
                keys[start:stop],
                held,
                self._stamp,
                commands[start:stop],
                b"*%d\r\n" % (2 * count + 3),
                bulk_strings(b"EVAL", RELEASE_NEWER, b"%d" % (2 * count)),
                held,
                keys[start:stop],
                b"*1\r\n$4\r\nEXEC\r\n",
            ]
        self._node.send(b"".join(parts))

    def receive(self, rows: Rows, written: Written) -> None:
        """Wait for the outcome of the transactions of a block, add it to `written` and keep the first error."""
        for start, stop in _spans(rows):
            commands = (stop - start) * rows.commands_per_row
            queued = [self._node.reply() for _ in range(commands + 3)]  # MULTI, and each command between it and EXEC
            executed = self._node.reply()
            if not isinstance(executed, list):
                # EXEC only says that it was aborted: the reason is the reply to the first command that Redis refused
                self.error = self.error or first_error([*queued, executed])
                continue
            held, *replies, released = executed
            step = rows.commands_per_row
            failed = {row: reply for row in range(stop - start) if isinstance(reply := replies[row * step], Exception)}
            refused = [row for row, reply in failed.items() if str(reply).startswith("WRONGTYPE")]
            written.refused += [_text_of(rows.keys[start + row].as_py()) for row in refused]
            written.rows += stop - start - len(failed)
            others = [reply for row, reply in failed.items() if row not in refused]
            self.error = self.error or first_error([held, *others, released])
            written.newer += held if isinstance(held, int) else 0


def _spans(rows: Rows) -> Iterator[tuple[int, int]]:
    """Yield the first row of each transaction of a block, and the row after its last one."""
    for start in range(0, len(rows.keys), ROWS_PER_TRANSACTION):
        yield start, min(start + ROWS_PER_TRANSACTION, len(rows.keys))


def _text_of(bulk_string: bytes) -> bytes:
    return bulk_string.split(b"\r\n", 1)[1][:-2]

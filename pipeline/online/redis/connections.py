"""Connections of our own to the nodes of an online store: one Redis, the master of a Sentinel, or a cluster."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any, cast

import hiredis
import pyarrow as pa
from redis import Redis, RedisCluster, RedisError, exceptions
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, DefaultParser
from redis.retry import Retry

#: What Feast makes of feature_store.yaml; of a Sentinel it is the client of its master.
Client = Redis | RedisCluster

# Replicas are asked again each second, within every sensible time-out of the connection.
_CONFIRM_MILLISECONDS, _CONFIRM_TIMES = 900, 30


def primaries(client: Client) -> list[Redis]:
    """Return the client of each node that takes writes; of a cluster as it is made up now."""
    if not isinstance(client, RedisCluster):
        return [client]
    client.nodes_manager.initialize()
    return [client.get_redis_connection(node) for node in client.get_primaries()]


@contextmanager
def connect(client: Redis) -> Iterator[AbstractConnection]:
    """Yield a connection of our own, made as the client makes its, and without its retries.

    It never gets into the client's pool: half a transaction may be on it.
    """
    connection = cast(AbstractConnection, client.connection_pool.make_connection())
    connection.retry = Retry(NoBackoff(), 0)
    try:
        connection.connect()
        yield connection
    finally:
        connection.disconnect()


class Bytes:
    """The values of a binary column, of which a slice is that of its buffer: values back to back, not copied."""

    def __init__(self, column: pa.Array) -> None:
        _, offsets, data = column.buffers()
        self._bounds = memoryview(offsets).cast("i")[column.offset :]
        self._data = memoryview(data) if data else memoryview(b"")

    def __getitem__(self, rows: slice) -> memoryview:
        return self._data[self._bounds[rows.start] : self._bounds[rows.stop]]


class Conversation:
    """Commands as bytes and their replies on a connection, without a wait between the commands."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._socket = cast(socket, connection._sock)
        self._reader = hiredis.Reader()

    def send(self, commands: bytes | memoryview) -> None:
        """Send commands in the bytes of the protocol."""
        self._connection.send_packed_command([commands])

    def reply(self) -> Any:
        """Return the next reply: an error is a value, too."""
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("Redis closed the connection")
            self._reader.feed(data)
        return reply

    def confirm(self, replicas: int) -> None:
        """Wait until so many replicas have all that was written here; raises `ConnectionError` after half a minute."""
        have = 0
        for _ in range(_CONFIRM_TIMES if replicas else 0):
            self._connection.send_command("WAIT", replicas, _CONFIRM_MILLISECONDS)
            try:
                have = cast(int, self._connection.read_response())
            except exceptions.ResponseError as error:
                if "replica instances" not in str(error):
                    raise
                raise exceptions.ConnectionError("a primary has become a replica meanwhile") from error
            if have >= replicas:
                return
        if replicas:
            raise exceptions.ConnectionError(f"only {have} of {replicas} replicas have what a primary has taken")


def first_error(replies: Iterable[object]) -> RedisError | None:
    """Return the first error among the replies, as the client would raise it; None if there is none."""
    for reply in replies:
        if isinstance(reply, Exception):
            error = DefaultParser.parse_error(str(reply))  # type: ignore[no-untyped-call]  # redis has no types for it
            error.args = (str(reply),)  # the client would take the code off what Redis said
            return cast(RedisError, error)
    return None

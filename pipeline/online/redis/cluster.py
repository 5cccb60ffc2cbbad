"""Scripts on a Redis cluster, one call per key, sent to the node that has its slot.

The keys of Feast's rows have no hash tag, so neighbours lie on different nodes, and no transaction holds two of them.
Calls follow each other on one connection per node, without a wait. Slots that move meanwhile are followed call by call;
a node that is lost ends it all, and beginning anew is what mends the rows that its replica never had.
"""

import hashlib
import time
from binascii import crc_hqx
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from redis import RedisCluster
from redis.cluster import ClusterNode
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ClusterDownError

from pipeline.online.redis.connections import Bytes, Conversation, connect, first_error
from pipeline.online.redis.layout import bulk_strings, joined

# Blocks that are on their way or being executed while the next one is encoded.
_BLOCKS_AHEAD = 4
# A call that is sent elsewhere again and again: slots move one after the other, each for some milliseconds.
_MOST_TRIES = 12
# What nodes answer for a key whose slot moves or has moved, or to a script that they were made to forget.
_ELSEWHERE = ("MOVED ", "ASK ", "TRYAGAIN ", "NOSCRIPT ")
# Longer keys, and those with a hash tag, are left to the client.
_LONGEST_KEY = 256

Block = tuple[pa.Array, pa.Array]
Place = tuple[str, int]


def call_head(script: bytes, arguments: int) -> bytes:
    """Return the start of a call of `script` in protocol bytes: a key and so many arguments follow."""
    return b"*%d\r\n" % (4 + arguments) + bulk_strings(b"EVALSHA", script_sha(script), b"1")


def evaluated(
    client: RedisCluster, script: bytes, blocks: Iterable[Block], *, replicas: int = 0
) -> Iterator[tuple[pa.Array, list[Any]]]:
    """Yield some keys and the replies to their calls of `script`, errors too, in any order; every key once.

    `blocks` are keys and calls as `call_head` begins them. At the end waits until so many `replicas` of each node have
    it all. Raises the client's errors, or `OSError`, where a node is lost, and with it maybe what it answered before.
    """
    client.nodes_manager.initialize()
    with ExitStack() as stack:
        nodes = _Nodes(client, script, stack)
        ahead: deque[_Share] = deque()
        for keys, calls in blocks:
            ahead += nodes.send(keys, calls)
            while len(ahead) > _BLOCKS_AHEAD * nodes.connected:
                yield nodes.receive(ahead)
        while ahead:
            yield nodes.receive(ahead)
        nodes.confirm(replicas)


def key_slots(keys: pa.Array) -> np.ndarray:
    """Return the slot of each key: the CRC16 of its bytes, or of its hash tag."""
    _, offsets, data = keys.buffers()
    bounds = np.frombuffer(offsets, np.int32)[keys.offset :][: len(keys) + 1]
    first, end = bounds[[0, -1]]
    text = np.frombuffer(data, np.uint8)[first:end]
    # the CRC of a text is the exclusive or of those of its bytes, each with as many zeros as bytes follow it
    following = np.repeat(bounds[1:] - first, np.diff(bounds)) - 1 - np.arange(len(text))
    crcs = _crc_table()[np.minimum(following, _LONGEST_KEY - 1), text]
    slots = np.bitwise_xor.reduceat(crcs, bounds[:-1] - first).astype(np.intp) % REDIS_CLUSTER_HASH_SLOTS
    tagged = np.searchsorted(bounds - first, np.flatnonzero(text == ord("{")), side="right") - 1
    for row in {*tagged.tolist(), *np.flatnonzero(np.diff(bounds) > _LONGEST_KEY).tolist()}:
        slots[row] = key_slot(keys[row].as_py())
    return slots


@cache
def _crc_table() -> np.ndarray:
    """Return the CRC16 of each byte with 0, 1, 2 ... zeros after it."""
    rows = [np.array([crc_hqx(bytes([byte]), 0) for byte in range(256)], np.uint16)]
    for _ in range(_LONGEST_KEY - 1):
        rows.append((rows[-1] << 8) ^ rows[0][rows[-1] >> 8])
    return np.stack(rows)


@dataclass(frozen=True)
class _Share:
    """Calls that a node has been sent; the reply to a call is the last of so many."""

    node: Conversation
    keys: pa.Array
    calls: pa.Array
    replies_per_call: int = 1
    tries: int = 1


class _Nodes:
    """The nodes of a cluster, each with a connection that is made when it is first needed."""

    def __init__(self, client: RedisCluster, script: bytes, stack: ExitStack) -> None:
        self._client, self._script, self._stack = client, script, stack
        self._places: list[Place] = []
        self._connected: dict[int, Conversation] = {}
        slots = client.nodes_manager.slots_cache
        self._owners = np.array([self._number(*_place(slots.get(slot))) for slot in range(REDIS_CLUSTER_HASH_SLOTS)])

    @property
    def connected(self) -> int:
        """How many nodes have been sent something."""
        return len(self._connected)

    def send(self, keys: pa.Array, calls: pa.Array) -> Iterator[_Share]:
        """Send each call to the node of its key."""
        owners = self._owners[key_slots(keys)]
        for number in np.unique(owners).tolist():
            rows = pa.array(np.flatnonzero(owners == number))
            yield self._sent(number, keys.take(rows), calls.take(rows))

    def receive(self, ahead: deque[_Share]) -> tuple[pa.Array, list[Any]]:
        """Wait for the replies to the first share and return them, but for calls that are sent anew to another node."""
        share = ahead.popleft()
        replies = [share.node.reply() for _ in range(len(share.keys) * share.replies_per_call)]
        replies = replies[share.replies_per_call - 1 :: share.replies_per_call]
        elsewhere = {
            row: str(reply)
            for row, reply in enumerate(replies)
            if isinstance(reply, Exception) and str(reply).startswith(_ELSEWHERE) and share.tries < _MOST_TRIES
        }
        if not elsewhere:
            return share.keys, replies
        time.sleep(0.002 * (2 ** (share.tries - 1) - 1))  # at first not at all, at last for seconds
        places: dict[tuple[int, bytes], list[int]] = {}
        for (row, reply), slot in zip(elsewhere.items(), key_slots(share.keys.take(list(elsewhere))), strict=True):
            places.setdefault(self._redirection(slot, reply), []).append(row)
        for (number, before), rows in places.items():
            ahead.append(self._sent(number, share.keys.take(rows), share.calls.take(rows), before, share.tries + 1))
        answered = [row for row in range(len(replies)) if row not in elsewhere]
        return share.keys.take(pa.array(answered, pa.int64())), [replies[row] for row in answered]

    def confirm(self, replicas: int) -> None:
        """Wait until so many replicas of each node have what it was sent."""
        for node in self._connected.values():
            node.confirm(replicas)

    def _redirection(self, slot: int, reply: str) -> tuple[int, bytes]:
        """Return the node to which `reply` sends a call, and what that has to be told right before it."""
        code, number = reply.split()[0], int(self._owners[slot])
        if code in ("MOVED", "ASK"):
            host, port = reply.split()[2].rsplit(":", 1)
            number = self._number(host, int(port))
            if code == "ASK":
                return number, b"*1\r\n$6\r\nASKING\r\n"
            self._owners[slot] = number
        return number, _load(self._script) if code == "NOSCRIPT" else b""

    def _sent(self, number: int, keys: pa.Array, calls: pa.Array, before: bytes = b"", tries: int = 1) -> _Share:
        node = self._node(number)
        node.send(Bytes(joined(before, calls) if before else calls)[0 : len(calls)])
        return _Share(node, keys, calls, 2 if before else 1, tries)

    def _node(self, number: int) -> Conversation:
        if number not in self._connected:
            node = self._client.get_redis_connection(ClusterNode(*self._places[number]))
            conversation = Conversation(self._stack.enter_context(connect(node)))
            conversation.send(_load(self._script))
            if error := first_error([conversation.reply()]):
                raise error
            self._connected[number] = conversation
        return self._connected[number]

    def _number(self, *place: Any) -> int:
        if place not in self._places:
            self._places.append(place)
        return self._places.index(place)


def _place(nodes: list[ClusterNode] | None) -> Place:
    """Return where the primary among the nodes of a slot is."""
    if not nodes:
        raise ClusterDownError("CLUSTERDOWN Hash slot not served")
    return nodes[0].host, int(nodes[0].port)


def _load(script: bytes) -> bytes:
    return b"*3\r\n" + bulk_strings(b"SCRIPT", b"LOAD", script)


def script_sha(script: bytes) -> bytes:
    """Return by what Redis knows a script that it has loaded."""
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()

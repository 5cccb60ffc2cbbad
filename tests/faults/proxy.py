"""A TCP proxy that harms the connections through it, at any byte of what they say."""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self

from dev.servers import HOST, free_port

TO_SERVER, TO_CLIENT = "to server", "to client"
# What happens at the byte: both ends are closed; both get a RST; the receiver sees the end of the stream while the
# other direction stays; nothing for a while; nothing any more.
Kind = Literal["cut", "reset", "truncate", "delay", "stall"]

_POLL_SECONDS = 0.02
_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True)
class Fault:
    """What happens before the byte number `after` of all that goes in one direction.

    Where it is `lasting`, connections made later are closed at once. `then`, called at that byte, takes the place of
    `kind`: the bytes wait until it returns.
    """

    direction: str
    after: int
    kind: Kind = "cut"
    lasting: bool = False
    delay_seconds: float = 1.0
    then: Callable[[], object] | None = None

    @property
    def passes(self) -> bool:
        """Whether it is over at once, so that the next attempt succeeds."""
        return self.kind in ("cut", "reset", "delay") and not self.lasting and not self.then

    def __str__(self) -> str:
        what = "call" if self.then else f"lasting {self.kind}" if self.lasting else self.kind
        return f"{what} {self.direction} at byte {self.after}"


class Proxy:
    """Listens on `port` of 127.0.0.1 and passes everything on to `upstream`, until a fault is set."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = free_port()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._listening = threading.Event()
        self._ended = False
        self.set(None)
        self.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.set(None)
        self._ended = True
        self.refuse()
        self._listening.set()

    def set(self, fault: Fault | None) -> None:
        """Have `fault` happen once, and count bytes from 0. Connections that an earlier one has stalled go on."""
        with self._lock:
            self.bytes = {TO_SERVER: 0, TO_CLIENT: 0}
            self.happened = False
            self._fault = fault
            if hasattr(self, "_release"):
                self._release.set()
            self._release = threading.Event()

    def refuse(self) -> None:
        """Refuse connections from now on, as a port does that nobody listens on."""
        self._listening.clear()
        with self._lock:
            if self._listener:
                self._listener.close()
                self._listener = None

    def listen(self) -> None:
        """Take connections."""
        with self._lock:
            self._listener = socket.create_server((HOST, self.port))
        self._listening.set()

    def _accept(self) -> None:
        while not self._ended:
            self._listening.wait()
            with self._lock:
                listener = self._listener
            with suppress(OSError, ValueError):
                if listener and select.select([listener], [], [], _POLL_SECONDS)[0]:
                    client, _ = listener.accept()
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection((HOST, self.upstream)) as server:
            if self.happened and self._fault and self._fault.lasting:
                _reset(client, server)
                return
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways = {client: (server, TO_SERVER), server: (client, TO_CLIENT)}
            while ways:
                ready, _, _ = select.select(list(ways), [], [], _POLL_SECONDS)
                if self.happened and self._fault and self._fault.lasting:
                    _reset(client, server)
                    return
                for source in ready:
                    target, direction = ways[source]
                    data = source.recv(_BUFFER_BYTES)
                    if not data:
                        with suppress(OSError):
                            target.shutdown(socket.SHUT_WR)
                        del ways[source]
                    elif not self._pass_on(data, target, direction, client, server):
                        return

    def _pass_on(
        self, data: bytes, target: socket.socket, direction: str, client: socket.socket, server: socket.socket
    ) -> bool:
        """Send `data`, or do harm to it; return whether the connection goes on."""
        with self._lock:
            fault, release, start = self._fault, self._release, self.bytes[direction]
            self.bytes[direction] += len(data)
            hit = fault and not self.happened and fault.direction == direction and fault.after < start + len(data)
            if hit:
                self.happened = True
        if not hit:
            target.sendall(data)
            return True
        place = max(fault.after - start, 0)
        target.sendall(data[:place])
        if fault.then:
            fault.then()
        elif fault.kind == "delay":
            time.sleep(fault.delay_seconds)
        elif fault.kind == "stall":
            release.wait()
            return False
        elif fault.kind == "truncate":
            target.shutdown(socket.SHUT_WR)
            self._drain(client if target is server else server, release)
            return False
        else:
            if fault.kind == "reset":
                _reset(client, server)
            return False
        target.sendall(data[place:])
        return True

    def _drain(self, source: socket.socket, release: threading.Event) -> None:
        """Take what still comes, and drop it."""
        source.settimeout(_POLL_SECONDS)
        while not release.is_set():
            with suppress(TimeoutError):
                if not source.recv(_BUFFER_BYTES):
                    return


def _reset(*ends: socket.socket) -> None:
    """Close so that the other side gets a RST: a zero time to linger."""
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()

"""Certificates, and a proxy that gives a server TLS: those of the wheels are built without it."""

import contextlib
import selectors
import socket
import ssl
import struct
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import trustme

# The first message of a client of PostgreSQL that wants TLS: its length, 8, and this code; the answer is one byte.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Certificates:
    """A certificate authority, the certificates of a server that it signed, and one that it did not."""

    def __init__(self, directory: Path) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        self.authority = self._saved(authority, directory / "ca.pem")
        self.other_authority = self._saved(stranger, directory / "other-ca.pem")
        yesterday = datetime.now(UTC) - timedelta(days=1)
        self.good = _server_context(authority.issue_cert("127.0.0.1", "localhost"))
        self.other_host = _server_context(authority.issue_cert("elsewhere.example"))
        self.expired = _server_context(authority.issue_cert("127.0.0.1", "localhost", not_after=yesterday))
        self.mutual = _server_context(authority.issue_cert("127.0.0.1"))
        authority.configure_trust(self.mutual)
        self.mutual.verify_mode = ssl.CERT_REQUIRED
        client = authority.issue_cert("feature_store@dcmms.example")
        self.client_certificate, self.client_key = directory / "client.pem", directory / "client.key"
        client.cert_chain_pems[0].write_to_path(self.client_certificate)
        client.private_key_pem.write_to_path(self.client_key)

    @staticmethod
    def _saved(authority: trustme.CA, path: Path) -> Path:
        authority.cert_pem.write_to_path(path)
        return path


def _server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def redis_settings(directory: Path, program: Path) -> dict[str, object]:
    """Return the settings with which a Redis speaks TLS only; none for a program that was built without it."""
    libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    if "libssl" not in libraries:
        return {}
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(directory / "node.pem")
    return {
        "tls-cert-file": directory / "node.pem",
        "tls-key-file": directory / "node.pem",
        "tls-ca-cert-file": directory / "ca.pem",
        "tls-auth-clients": "no",
        "tls-cluster": "yes",
        "tls-replication": "yes",
    }


class TlsProxy:
    """Context manager: TLS on a port of 127.0.0.1, and the same bytes in clear to the server on another.

    `postgres`: TLS begins after the question and answer of PostgreSQL's protocol. `context` None passes bytes on as
    they are, for PostgreSQL with the answer that there is no TLS; it may be set between connections.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None, *, postgres: bool = False) -> None:
        self.context = context
        self.connections = 0
        self._server_port = port
        self._postgres = postgres
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.callback(client.close)
            if self._postgres:
                if client.recv(8, socket.MSG_WAITALL) != _SSL_REQUEST:
                    return
                client.sendall(b"S" if self.context else b"N")
            if self.context:
                client = self.context.wrap_socket(client, server_side=True)
                stack.callback(client.close)
            self.connections += 1
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._server_port)))
            _pass_on(client, server)


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    """Pass bytes on both ways until one side ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while True:
            for key, _ in selector.select():
                data = key.fileobj.recv(1 << 16)
                while data:
                    key.data.sendall(data)
                    # TLS may hold more than the selector sees
                    pending = isinstance(key.fileobj, ssl.SSLSocket) and key.fileobj.pending()
                    data = key.fileobj.recv(pending) if pending else b""
                    if not pending:
                        break
                else:
                    return

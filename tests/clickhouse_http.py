"""A ClickHouse HTTP interface in front of the embedded engine, for tests.

There is no ClickHouse server package to install, yet the HTTP path of clickhouse-connect is the one that
production uses. This front speaks the part of the ClickHouse HTTP protocol that reading needs and hands
every statement to chdb: what comes back are the engine's own bytes.

Supported: GET (read only, as on a real server) and POST; the statement in the body, in the `query`
parameter or in a multipart form (clickhouse-connect's way with long parameters); `database`,
`default_format`, `param_NAME` and any engine setting as URL parameters; Basic authentication or
`X-ClickHouse-User`/`X-ClickHouse-Key`; gzip answers; the status, header and text of errors; `/ping`; TLS.
Not supported: inserts with a data block, sessions, external data.

In a process of its own (the engine's directory can be open in one process only)::

    python tests/clickhouse_http.py .local/clickhouse 18123 --user default
"""

from __future__ import annotations

import email.policy
import gzip
import json
import logging
import re
import signal
import socket
import ssl
import sys
import threading
import uuid
from base64 import b64decode
from binascii import Error as Base64Error
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.parser import BytesParser
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import chdb
import click

logger = logging.getLogger(__name__)

DEFAULT_FORMAT = "TabSeparated"
AUTHENTICATION_FAILED = 516

# URL parameters that the HTTP layer of a server consumes itself; every other one is an engine setting.
TRANSPORT_PARAMETERS = frozenset(
    {
        *("query", "database", "default_format", "user", "password", "quota_key", "role", "query_id"),
        *("session_id", "session_timeout", "session_check", "close_session"),
        *("compress", "decompress", "enable_http_compression", "buffer_size", "wait_end_of_query"),
        *("client_protocol_version", "stacktrace", "add_http_cors_header"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms"),
        "cancel_http_readonly_queries_on_client_close",
    }
)

# ClickHouse's HTTP status by exception code, for those that a reading client can meet; others are 500.
_STATUS_OF_CODE = {
    **dict.fromkeys((36, 26, 27, 38, 41, 53, 62, 70, 72, 117, 456, 457), HTTPStatus.BAD_REQUEST),
    **dict.fromkeys((46, 47, 50, 56, 60, 81, 115), HTTPStatus.NOT_FOUND),
    **dict.fromkeys((192, 193, AUTHENTICATION_FAILED), HTTPStatus.FORBIDDEN),
}
_ERROR_CODE = re.compile(r"Code: (\d+)\.")
_TRAILING_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """One request, taken apart: the SQL text and what accompanies it."""

    sql: str
    database: str | None = None
    default_format: str = DEFAULT_FORMAT
    parameters: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    read_only: bool = False

    @classmethod
    def from_request(cls, arguments: dict[str, str], body: str, read_only: bool) -> Self:
        """From the URL and form arguments and the plain body, which a server appends to `query`."""
        return cls(
            sql="\n".join(part for part in (arguments.get("query", ""), body) if part),
            database=arguments.get("database"),
            default_format=arguments.get("default_format", DEFAULT_FORMAT),
            parameters={k.removeprefix("param_"): v for k, v in arguments.items() if k.startswith("param_")},
            settings={
                name: value
                for name, value in arguments.items()
                if name not in TRANSPORT_PARAMETERS and not name.startswith("param_")
            },
            read_only=read_only,
        )

    @property
    def output_format(self) -> str:
        """The format of the answer: the statement's own FORMAT clause wins over the default."""
        clause = _TRAILING_FORMAT.search(self.sql)
        return clause.group(1) if clause else self.default_format


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of one HTTP response."""

    status: HTTPStatus
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, code: int, text: str) -> Self:
        """ClickHouse's way to report an exception: `text` as the body, `code` in a header."""
        return cls(
            _STATUS_OF_CODE.get(code, HTTPStatus.INTERNAL_SERVER_ERROR),
            f"{text}\n".encode(),
            {"X-ClickHouse-Exception-Code": str(code), "Content-Type": "text/plain; charset=UTF-8"},
        )


def _quoted(text: str, quote: str = "'") -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


class Engine:
    """The embedded engine on one directory; other chdb clients of the same process share it.

    Each statement gets a connection of its own (about 2 ms), so that `USE` and `SET` never leak into the next
    one. One statement runs at a time.
    """

    def __init__(self, path: Path, config: Path | None = None) -> None:
        # chdb compares directories as text, and clickhouse-connect passes the resolved one.
        self._path = str(path.resolve()) + (f"?config-file={config}" if config else "")
        self._lock = threading.Lock()
        self._keep_alive = chdb.connect(self._path)
        self._version, self._timezone = self._ask("select version(), timezone()").split("\t")

    def close(self) -> None:
        """Give up this front's hold on the directory."""
        self._keep_alive.close()

    def run(self, statement: Statement) -> Answer:
        """Execute and answer with the engine's bytes, or with the exception as a server would report it."""
        try:
            with self._lock, closing(chdb.connect(self._path)) as connection:
                self._prepare(connection, statement)
                result = connection.query(statement.sql, statement.default_format, params=statement.parameters)
                return Answer(HTTPStatus.OK, result.bytes() or b"", self._headers(statement, result))
        except (chdb.ChdbError, RuntimeError) as error:
            return self._failure(str(error))

    def _prepare(self, connection: Any, statement: Statement) -> None:
        if statement.database:
            connection.query(f"use {_quoted(statement.database, '`')}", DEFAULT_FORMAT)
        for name, value in statement.settings.items():
            connection.query(f"set {_quoted(name, '`')} = {_quoted(value)}", DEFAULT_FORMAT)
        if statement.read_only:
            connection.query("set readonly = 2", DEFAULT_FORMAT)

    def _headers(self, statement: Statement, result: Any) -> dict[str, str]:
        summary = {
            "read_rows": str(result.rows_read()),
            "read_bytes": str(result.bytes_read()),
            "elapsed_ns": str(int(result.elapsed() * 1e9)),
        }
        return {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Format": statement.output_format,
            "X-ClickHouse-Timezone": self._timezone,
            "X-ClickHouse-Summary": json.dumps(summary),
        }

    def _failure(self, message: str) -> Answer:
        code = _ERROR_CODE.search(message)
        text = message[code.start() :].strip() if code else f"Code: 1001. DB::Exception: {message}"
        return Answer.error(int(code.group(1)) if code else 1001, f"{text} (version {self._version})")

    def _ask(self, sql: str) -> str:
        return self._keep_alive.query(sql, DEFAULT_FORMAT).bytes().decode().strip()


class _Server(ThreadingHTTPServer):
    """An HTTP server that can also end the idle connections that its clients keep alive."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        engine: Engine,
        credentials: tuple[str, str],
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(address, _Handler)
        self.engine = engine
        self.credentials = credentials
        self._open: set[socket.socket] = set()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("connection of %s ended", client_address, exc_info=True)

    def stop(self) -> None:
        """Stop listening and end all connections."""
        self.shutdown()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self._send(Answer(HTTPStatus.OK, b"Ok.\n"))
        else:
            self._serve(read_only=True)

    def do_POST(self) -> None:
        self._serve(read_only=False)

    def _serve(self, read_only: bool) -> None:
        # The body is read in any case: the next request on this connection starts behind it.
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        arguments = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        user, password = self._credentials(arguments)
        if not self._is_authentic(user, password):
            self._send(
                Answer.error(
                    AUTHENTICATION_FAILED,
                    f"Code: {AUTHENTICATION_FAILED}. DB::Exception: {user}: Authentication failed: password "
                    "is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)",
                )
            )
            return
        form, body = self._taken_apart(content)
        answer = self.server.engine.run(Statement.from_request(arguments | form, body, read_only))
        accepts_gzip = "gzip" in self.headers.get("Accept-Encoding", "")
        self._send(answer, compress=accepts_gzip and arguments.get("enable_http_compression") == "1")

    def _credentials(self, arguments: dict[str, str]) -> tuple[str, str]:
        """User and password from the place a server looks at: Basic, then its own headers, then the URL."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            with suppress(Base64Error, UnicodeDecodeError):
                user, _, password = b64decode(token).decode().partition(":")
                return user, password
        if "X-ClickHouse-User" in self.headers:
            return self.headers["X-ClickHouse-User"], self.headers.get("X-ClickHouse-Key", "")
        return arguments.get("user", "default"), arguments.get("password", "")

    def _is_authentic(self, user: str, password: str) -> bool:
        expected = "\0".join(self.server.credentials)
        return compare_digest(expected.encode(), f"{user}\0{password}".encode())

    def _taken_apart(self, content: bytes) -> tuple[dict[str, str], str]:
        """(fields, "") of a multipart form, ({}, text) of any other body."""
        content_type = self.headers.get("Content-Type", "")
        if not content_type.startswith("multipart/form-data"):
            return {}, content.decode()
        header = f"Content-Type: {content_type}\r\n\r\n".encode()
        form = BytesParser(policy=email.policy.HTTP).parsebytes(header + content)
        fields = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True).decode()
            for part in form.iter_parts()
        }
        return fields, ""

    def _send(self, answer: Answer, compress: bool = False) -> None:
        body = gzip.compress(answer.body, compresslevel=1) if compress else answer.body
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if compress:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("X-ClickHouse-Query-Id", str(uuid.uuid4()))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        logger.debug(format, *arguments)


class ClickHouseHttpFront:
    """Context manager: the embedded engine on the directory `path`, reachable by HTTP on loopback.

    `port` 0 takes a free one. Only `user` with `password` is let in. With `tls` it serves HTTPS. This process
    may at the same time open the directory through clickhouse-connect's `chdb://` interface, no other may. `config` is
    a server's configuration file; of it the engine takes `user_directories`, and the rights of the user `default`.

    Attributes: `host`, `port`, `url` (without credentials), `user`, `password`.
    """

    def __init__(
        self,
        path: Path | str,
        user: str = "default",
        password: str = "",
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        config: Path | None = None,
    ) -> None:
        self.user = user
        self.password = password
        self._engine = Engine(Path(path), config)
        try:
            self._server = _Server(("127.0.0.1", port), self._engine, (user, password), tls)
        except OSError:
            self._engine.close()
            raise
        self.host, self.port = self._server.server_address[:2]
        self.url = f"{'https' if tls else 'http'}://{self.host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()
        self._thread.join()
        self._engine.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("port", type=click.IntRange(0, 65535))
@click.option("--user", default="default", show_default=True)
@click.option("--password", default="", envvar="CLICKHOUSE_PASSWORD")
@click.option("--config", type=click.Path(exists=True, path_type=Path), help="A server's configuration file.")
def main(directory: Path, port: int, user: str, password: str, config: Path | None) -> None:
    """Serve the embedded ClickHouse DIRECTORY by HTTP on 127.0.0.1:PORT until the process is ended.

    The first line of the output is the URL; the front answers when it is there.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with ClickHouseHttpFront(directory, user, password, port=port, config=config) as front:
            click.echo(front.url)
            sys.stdout.flush()
            threading.Event().wait()
    except OSError as error:
        raise click.ClickException(f"port {port}: {error.strerror}") from error


if __name__ == "__main__":
    main()

"""Reading dCMMS's ClickHouse: Arrow streams over HTTP(S), or from the embedded engine."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, StreamFailureError
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)

from pipeline.base.errors import PipelineError, Unavailable, first_line
from pipeline.base.fault_points import fault_point
from pipeline.base.retries import attempts
from pipeline.base.settings import TELEMETRY_TABLE, Settings

# They log an error besides raising it, and every try.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
logging.getLogger("urllib3").setLevel(logging.ERROR)

# TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR, ALL_CONNECTION_TRIES_FAILED, KEEPER_EXCEPTION
_PASSING_CODES = {202, 209, 210, 279, 999}
# How a server that breaks off says why: as text after the blocks that it has sent.
_SERVER_ERROR = re.compile(r"Code: (\d+)\. DB::Exception: [^\r\n]*")
_TABLE = re.compile(rf"\b{TELEMETRY_TABLE}\b")
# It looks for what follows from chains of comparisons, of which these queries have none: with it, ClickHouse needs half
# as long again to understand them. Older servers do not have it, and a profile may forbid to set it.
_CHAINS = "optimize_and_compare_chain"
# So much of the end of an answer is kept to find that.
_TAIL_BYTES = 16_384
# Of a proxy before the server; the driver keeps the status in the text only.
_PASSING_STATUS = re.compile(r"HTTP status 50[234]\b")


class ClickHouseSource:
    """A connection whose errors are one line for a person."""

    def __init__(self, client: Client, where: str, timeout_seconds: int, table: str) -> None:
        self.client = client
        self.table = table
        self.where = where
        # what was asked for last, and the rows: one pass over the telemetry gives several views
        self.last_read: tuple[tuple[object, ...], pa.Table] | None = None
        # Where the table is Distributed, what a query compares with comes from all shards, too.
        self._settings = {"max_execution_time": timeout_seconds, "distributed_product_mode": "global"}
        known = client.server_settings.get(_CHAINS)
        if known and not known.readonly:
            self._settings[_CHAINS] = 0

    def named(self, query: str) -> str:
        """Return `query` with the name that the telemetry table has here."""
        return _TABLE.sub(self.table, query)

    def stream(self, query: str, parameters: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        """Return the rows of `query` as a table of exactly `schema`; `parameters` are bound by the server.

        Raises `PipelineError` where the server refuses the query, breaks off, or a column of `schema` is missing.
        """
        return attempts()(self._stream, query, parameters, schema)

    def _stream(self, query: str, parameters: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        settings = self._settings | {"output_format_arrow_string_as_string": 1}
        try:
            source: Any = self.client.raw_stream(self.named(query), dict(parameters), settings, fmt="ArrowStream")
            with closing(source):
                table = self._whole(_Answer(source))
            table = table.select(schema.names).cast(schema)
        except (ClickHouseError, HTTPError, OSError, pa.ArrowException) as error:
            raise _failure(error, f"ClickHouse {self.where}: {reason(error)}") from error
        fault_point("clickhouse: read")
        return table

    def _whole(self, answer: "_Answer") -> pa.Table:
        """Return the rows of an answer that is complete.

        Raises `PipelineError` where it ends in the server's message, and `Unavailable` where it just ends.
        """
        rows, why = 0, "there is no end mark"
        try:
            with pa.ipc.open_stream(answer) as reader:
                table = reader.read_all()
            rows = table.num_rows
        except (HTTPError, OSError, pa.ArrowException) as error:
            why = reason(error)
        else:
            if not answer.is_cut and rows >= answer.announced_rows:
                return table
            if answer.announced_rows > rows:
                why = f"the server has {answer.announced_rows:,}"
        if said := _SERVER_ERROR.search(answer.end()):
            kind = Unavailable if int(said[1]) in _PASSING_CODES else PipelineError
            raise kind(f"ClickHouse {self.where}: {first_line(Exception(said[0]))}")
        raise Unavailable(f"ClickHouse {self.where}: the answer broke off after {rows:,} rows: {why}")


class _Answer:
    """The bytes of an answer, as Arrow reads them; the last ones are kept."""

    closed = False

    def __init__(self, source: Any) -> None:
        self._source = source
        self._tail = b""
        self.is_cut = False
        summary = getattr(source, "headers", {}).get("X-ClickHouse-Summary", "{}")
        self.announced_rows = int(json.loads(summary).get("result_rows", 0))

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Arrow reads no further than the end mark: with one it never meets the end."""
        data: bytes = self._source.read(size) if size else b""
        self.is_cut |= len(data) < size
        self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        return data

    def end(self) -> str:
        """Read to the end, as far as that goes, and return the last bytes as text."""
        with suppress(HTTPError, OSError):
            while self.read(1 << 20):
                pass
        return self._tail.decode("utf-8", "replace")

    def close(self) -> None:
        """Leave the source open: it is closed where it was opened."""


@contextmanager
def open_clickhouse(settings: Settings, connect_seconds: int = 10) -> Iterator[ClickHouseSource]:
    """Yield a connection to the telemetry database and close it at the end.

    Raises `PipelineError` where the server cannot be reached or does not accept the user.
    """
    arguments, where = connection_arguments(settings, connect_seconds)
    client = attempts()(_connect, arguments, where)
    fault_point("clickhouse: connected")
    try:
        yield ClickHouseSource(client, where, settings.statement_timeout_seconds, settings.clickhouse_table)
    finally:
        client.close()


def _connect(arguments: Mapping[str, Any], where: str) -> Client:
    try:
        return clickhouse_connect.get_client(**arguments)
    except (ClickHouseError, HTTPError, OSError, TypeError, ValueError) as error:  # the last two: options of a DSN
        embedded = arguments.get("dsn", "").startswith("chdb:")
        advice = (
            "The embedded engine serves one process at a time: wait for the other one to end."
            if embedded
            else "Check CLICKHOUSE_CA_CERT, and that the server's certificate is of this host name and not expired."
            if "CERTIFICATE" in str(error)
            else "Check CLICKHOUSE_HOST (or CLICKHOUSE_DSN), CLICKHOUSE_USER, CLICKHOUSE_PASSWORD and "
            "CLICKHOUSE_DATABASE, that the server is up and lets this host in."
        )
        raise _failure(error, f"ClickHouse {where}: {reason(error)}", advice) from None


def may_pass(error: Exception) -> bool:
    """Return whether what the driver, urllib3 below it or the socket raised may not come again at the next attempt."""
    if not isinstance(error, ClickHouseError):
        return isinstance(error, ConnectionError | TimeoutError | HTTPError)
    if getattr(error, "code", None) in _PASSING_CODES or _PASSING_STATUS.search(str(error)):
        return True
    if isinstance(error, StreamFailureError) and error.__cause__:  # without a cause it is what the server said
        return True
    cause = getattr(error.__cause__, "reason", error.__cause__)
    is_broken_off = isinstance(cause, ProtocolError | NewConnectionError | ConnectTimeoutError)
    return is_broken_off and not isinstance(cause, NameResolutionError)


def _failure(error: Exception, what: str, advice: str = "") -> PipelineError:
    return (Unavailable if may_pass(error) else PipelineError)(what, advice)


def reason(error: BaseException) -> str:
    """Return what the server or the connection said, without the request and the classes that urllib3 wraps it in."""
    said = re.search(r"(\[SSL: .*?\(_ssl|\[Errno -?\d+\] [^'\")]*|Read timed out[^'\")]*)", str(error))
    return first_line(Exception(said[1].removesuffix("(_ssl"))) if said else first_line(error)


def _is_directory(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # longer than a path may be
        return False


def connection_arguments(settings: Settings, connect_seconds: int = 10) -> tuple[dict[str, Any], str]:
    """Return what `get_client` needs, and `database at place` for messages."""
    database = settings.clickhouse_database
    dsn = settings.clickhouse_dsn.get_secret_value() if settings.clickhouse_dsn else ""
    parts = urlsplit(dsn)
    if parts.scheme == "chdb":
        if not _is_directory(parts.path):
            raise PipelineError(
                f"CLICKHOUSE_DSN: there is no directory {parts.path}", "Local stack: run `make up` and `make load`."
            )
        return {"dsn": dsn, "database": database}, f"{database} at {parts.path}"
    common = {
        "database": database,
        "autogenerate_session_id": False,
        "connect_timeout": connect_seconds,
        "send_receive_timeout": settings.statement_timeout_seconds,
        **_certificates(settings),
    }
    if dsn:  # what it says itself comes first
        return {"dsn": dsn, **common}, f"{database} at {parts.hostname}:{parts.port or 8123}"
    host = settings.clickhouse_host or ""
    parts = urlsplit(host if "//" in host else f"http://{host}")
    secure = parts.scheme == "https"
    port = parts.port or (8443 if secure else 8123)
    return {
        "host": parts.hostname,
        "port": port,
        "secure": secure,
        "username": settings.clickhouse_user,
        "password": settings.clickhouse_password.get_secret_value(),
        **common,
    }, f"{database} at {parts.hostname}:{port}"


def _certificates(settings: Settings) -> dict[str, str]:
    """Return whose certificates are trusted in place of the well-known ones, and the certificate of this client.

    `strict`: the certificate is shown besides the password, which it replaces only where there is none.
    """
    paths = {
        "ca_cert": settings.clickhouse_ca_cert,
        "client_cert": settings.clickhouse_client_cert,
        "client_cert_key": settings.clickhouse_client_cert_key,
    }
    arguments = {name: str(path) for name, path in paths.items() if path}
    if "client_cert" in arguments and settings.clickhouse_password.get_secret_value():
        arguments["tls_mode"] = "strict"
    return arguments

"""Reading dCMMS's ClickHouse: Arrow streams over HTTP(S), or from the embedded engine."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from pipeline.config import Settings
from pipeline.errors import PipelineError, first_line
from pipeline.fault_points import fault_point
from pipeline.passing_faults import pipeline_error
from pipeline.retries import attempts

# It logs what it also raises, in words for its developers.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)


class ClickHouseSource:
    """A connection whose errors are one line for a person."""

    def __init__(self, client: Client, where: str, timeout_seconds: int) -> None:
        self._client = client
        self._where = where
        self._settings = {"max_execution_time": timeout_seconds}

    def stream(self, query: str, parameters: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        """Return the rows of `query` as a table of exactly `schema`; `parameters` are bound by the server.

        Raises `PipelineError` where the server refuses the query, breaks off, or a column of `schema` is missing.
        """
        return attempts()(self._stream, query, parameters, schema)

    def _stream(self, query: str, parameters: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        try:
            with self._client.query_arrow_stream(query, parameters=dict(parameters), settings=self._settings) as blocks:
                tables = [_cast(block, schema) for block in blocks]
        except (ClickHouseError, HTTPError, OSError, pa.ArrowException) as error:
            raise pipeline_error(error, f"ClickHouse {self._where}: {first_line(error)}") from error
        fault_point("clickhouse: read")
        return pa.concat_tables(tables) if tables else schema.empty_table()


@contextmanager
def open_clickhouse(settings: Settings) -> Iterator[ClickHouseSource]:
    """Yield a connection to the telemetry database and close it at the end.

    Raises `PipelineError` where the server cannot be reached or does not accept the user.
    """
    arguments, where = _connection_arguments(settings)
    client = attempts()(_connect, arguments, where)
    fault_point("clickhouse: connected")
    try:
        yield ClickHouseSource(client, where, settings.statement_timeout_seconds)
    finally:
        client.close()


def _connect(arguments: Mapping[str, Any], where: str) -> Client:
    try:
        return clickhouse_connect.get_client(**arguments)
    except (ClickHouseError, HTTPError, OSError) as error:
        embedded = arguments.get("dsn", "").startswith("chdb:")
        advice = (
            "The embedded engine serves one process at a time: wait for the other one to end."
            if embedded
            else "Check CLICKHOUSE_HOST (or CLICKHOUSE_DSN), CLICKHOUSE_USER and CLICKHOUSE_PASSWORD, and that the "
            "server is up."
        )
        raise pipeline_error(error, f"ClickHouse {where}: {first_line(error)}. {advice}") from None


def _connection_arguments(settings: Settings) -> tuple[dict[str, Any], str]:
    """Return what `get_client` needs, and `database at place` for messages."""
    common = {"database": settings.clickhouse_database, "autogenerate_session_id": False}
    if settings.clickhouse_dsn:
        dsn = settings.clickhouse_dsn.get_secret_value()
        parts = urlsplit(dsn)
        if parts.scheme == "chdb" and not Path(parts.path).is_dir():
            raise PipelineError(
                f"CLICKHOUSE_DSN: there is no directory {parts.path} (local stack: run `make up` and `make load`)"
            )
        place = parts.path if parts.scheme == "chdb" else f"{parts.hostname}:{parts.port or 8123}"
        if parts.scheme == "chdb":
            common.pop("autogenerate_session_id")
        return {"dsn": dsn, **common}, f"{settings.clickhouse_database} at {place}"
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
        "connect_timeout": 10,
        "send_receive_timeout": settings.statement_timeout_seconds,
        **common,
    }, f"{settings.clickhouse_database} at {parts.hostname}:{port}"


def _cast(block: pa.RecordBatch | pa.Table, schema: pa.Schema) -> pa.Table:
    table = block if isinstance(block, pa.Table) else pa.Table.from_batches([block])
    return table.select(schema.names).cast(schema)

"""Loads a demo fleet into the two databases of a local stack, in place of what they held."""

import io
import json
from collections.abc import Callable
from contextlib import closing

import clickhouse_connect
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2 import sql
from pyarrow import csv

from dev.fleet import Fleet
from dev.schema import Variant, create_clickhouse_schema, create_postgres_schema

Progress = Callable[[str, int, int], None]
"""Called with (table, rows loaded so far, rows in all); the last is an estimate until the end."""

_JSON_COLUMNS = ("specifications", "metadata")
_ONLY_IN_N = ("energy_type",)


def load_fleet(
    database_url: str,
    clickhouse_dsn: str,
    fleet: Fleet,
    variant: Variant = "n",
    progress: Progress | None = None,
    clickhouse_database: str = "dcmms_analytics",
) -> None:
    """Create both schemas anew and load the fleet: PostgreSQL in one transaction, then ClickHouse.

    Args:
        database_url: ``postgresql://...`` of a role that may create tables.
        clickhouse_dsn: any clickhouse-connect DSN; ``chdb:///dir`` is closed again for other processes.
        fleet: what to load.
        variant: which PostgreSQL schema.
        progress: called after each table and each telemetry insert.
        clickhouse_database: created if it is missing.

    Raises:
        psycopg2.Error: PostgreSQL refused; it holds what it held before.
        clickhouse_connect.driver.exceptions.Error: ClickHouse refused; its table may be partly loaded.
    """
    report = progress or _quiet
    load_postgres(database_url, fleet, variant, report)
    load_clickhouse(clickhouse_dsn, fleet, clickhouse_database, report)


def load_postgres(database_url: str, fleet: Fleet, variant: Variant, report: Progress) -> None:
    """Create the schema anew, copy the fleet's tables into it and gather statistics, in one transaction."""
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("set local timezone to 'UTC'")
        create_postgres_schema(connection, variant, replace=True)
        for name, table in fleet.tables.items():
            _copy(cursor, name, as_variant(table, variant))
            cursor.execute(sql.SQL("analyze {}").format(sql.Identifier(name)))
            report(name, table.num_rows, table.num_rows)


def load_clickhouse(dsn: str, fleet: Fleet, database: str, report: Progress) -> None:
    """Create ``telemetry_aggregates`` anew and insert the fleet's telemetry, one insert per Arrow table."""
    with closing(clickhouse_connect.get_client(dsn=dsn)) as client:
        create_clickhouse_schema(client, database, replace=True)
        rows, expected = 0, fleet.expected_telemetry_rows
        for table in fleet.telemetry():
            client.insert_arrow("telemetry_aggregates", table, database=database)
            rows += table.num_rows
            report("telemetry_aggregates", rows, max(rows, expected))
        report("telemetry_aggregates", rows, rows)


def as_variant(table: pa.Table, variant: Variant) -> pa.Table:
    """Return the table as the variant holds it: ``t`` has no `energy_type`, and no text that is not JSON."""
    if variant == "n":
        return table
    table = table.drop_columns([name for name in _ONLY_IN_N if name in table.column_names])
    for name in _JSON_COLUMNS:
        if name in table.column_names:
            index = table.column_names.index(name)
            table = table.set_column(index, name, _valid_json(table[name]))
    return table


def _valid_json(column: pa.ChunkedArray) -> pa.ChunkedArray:
    broken = [text for text in pc.unique(column).to_pylist() if not _is_json(text)]
    return pc.if_else(pc.is_in(column, pa.array(broken, pa.string())), "{}", column)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _copy(cursor: psycopg2.extensions.cursor, name: str, table: pa.Table) -> None:
    """Copy as CSV: Arrow quotes every text and no NULL, which is how PostgreSQL tells '' from NULL."""
    buffer = io.BytesIO()
    csv.write_csv(table, buffer, csv.WriteOptions(include_header=False))
    buffer.seek(0)
    statement = sql.SQL("copy {table} ({columns}) from stdin (format csv)").format(
        table=sql.Identifier(name), columns=sql.SQL(", ").join(map(sql.Identifier, table.column_names))
    )
    cursor.copy_expert(statement, buffer)


def _quiet(table: str, rows: int, total: int) -> None:
    """Report nothing."""

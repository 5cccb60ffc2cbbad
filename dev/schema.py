"""The schemas of dCMMS's two databases, for the tests and the local stack.

The DDL is in ``dev/sql``. dCMMS has two PostgreSQL variants in production, see `Variant`.
"""

from pathlib import Path
from string import Template
from typing import Any, Literal

Variant = Literal["n", "t"]
"""``n``: migrations only (naive UTC ``timestamp``, JSON as ``text``); ``t``: init script, then migrations
(``timestamptz``, ``jsonb``, ``installation_date`` a ``date``, no ``sites.energy_type``, more indexes)."""

_SQL = Path(__file__).parent / "sql"

_PLACEHOLDERS: dict[str, dict[str, str]] = {
    "n": {
        "instant": "timestamp",
        "json": "text",
        "install": "timestamp",
        "energy": "energy_type varchar(50) not null default 'solar',",
    },
    "t": {"instant": "timestamptz", "json": "jsonb", "install": "date", "energy": ""},
}


def postgres_ddl(variant: Variant, *, wind_turbine_metadata: bool = True) -> str:
    """Return the statements that create dCMMS's tables, enums and indexes of one variant.

    Raises:
        ValueError: `variant` is neither ``"n"`` nor ``"t"``.
    """
    if variant not in _PLACEHOLDERS:
        raise ValueError(f"variant is {variant!r}; it must be 'n' or 't'")
    parts = [_read("postgres.sql")]
    if wind_turbine_metadata:
        parts.append(_read("postgres_wind_turbine_metadata.sql"))
    if variant == "t":
        parts.append(_read("postgres_indexes.sql"))
    return Template("\n".join(parts)).substitute(_PLACEHOLDERS[variant])


def create_postgres_schema(
    connection: Any, variant: Variant, *, wind_turbine_metadata: bool = True, replace: bool = False
) -> None:
    """Create dCMMS's tables in the first schema of the connection's search path.

    Runs in the connection's transaction and does not commit.

    Args:
        connection: an open psycopg2 connection.
        variant: which of the two production schemas.
        wind_turbine_metadata: False leaves that table out, as some installations do.
        replace: drop the tables and enums first, with all their rows.

    Raises:
        psycopg2.errors.DuplicateObject: the schema is already there and `replace` is False.
    """
    ddl = postgres_ddl(variant, wind_turbine_metadata=wind_turbine_metadata)
    with connection.cursor() as cursor:
        if replace:
            cursor.execute(_read("postgres_drop.sql"))
        cursor.execute(ddl)


def create_clickhouse_schema(client: Any, database: str = "dcmms_analytics", *, replace: bool = False) -> None:
    """Create the database and its table ``telemetry_aggregates`` if they are missing.

    Args:
        client: a clickhouse-connect client, of a server or of the embedded engine.
        database: name of the database.
        replace: drop the table first, with all its rows.
    """
    parameters = {"database": database}
    client.command("create database if not exists {database:Identifier}", parameters=parameters)
    if replace:
        client.command("drop table if exists {database:Identifier}.telemetry_aggregates sync", parameters=parameters)
    client.command(_read("clickhouse.sql"), parameters=parameters)


def _read(name: str) -> str:
    return (_SQL / name).read_text(encoding="utf-8")

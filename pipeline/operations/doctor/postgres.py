"""dCMMS's PostgreSQL: reachable, new enough, and every table, column and right that the extraction needs."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg2
import psycopg2.extensions

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.settings import Settings
from pipeline.operations.doctor.check import Check, State, Subject
from pipeline.operations.doctor.clock import check_clock
from pipeline.operations.doctor.columns import Found, check_columns
from pipeline.operations.doctor.transport import check_transport
from pipeline.sources.columns import postgres_queries
from pipeline.sources.postgres import OLDEST_VERSION, PostgresSource, open_postgres
from pipeline.sources.schema import OPTIONAL_TABLES, TABLES

POSTGRES = Subject("PostgreSQL")
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 15

_GRANTS = "deploy/sql/postgres_extraction.sql"
_COLUMNS = Path(__file__).with_name("postgres_columns.sql").read_text(encoding="utf-8")
_SESSION = Path(__file__).with_name("postgres_session.sql").read_text(encoding="utf-8")


def check_postgres(settings: Settings) -> Iterator[Check]:
    """Yield the checks of the database that `DATABASE_URL` names; nothing is written to it."""
    limited = settings.model_copy(update={"statement_timeout_seconds": STATEMENT_SECONDS})
    with ExitStack() as stack:
        try:
            source = stack.enter_context(open_postgres(limited, CONNECT_SECONDS))
        except PipelineError as error:
            yield POSTGRES.failed("connection", error)
            yield POSTGRES.not_checked(("TLS", "version", "clock", "role", "schema", "rights", "SQL"), "no connection")
            return
        yield from _connected(source)


def _connected(source: PostgresSource) -> Iterator[Check]:
    info = source.connection.info
    yield POSTGRES.ok("connection", f"{info.user}@{info.host}:{info.port}/{info.dbname}")
    yield check_transport(
        POSTGRES,
        info.host,
        encrypted=info.ssl_in_use,
        verified=info.ssl_in_use and info.dsn_parameters.get("sslmode") == "verify-full",
        fix="append ?sslmode=verify-full&sslrootcert=/path/to/ca.pem to DATABASE_URL",
    )
    try:
        with source.connection.cursor() as cursor:
            yield from _sessions(cursor)
            found = _columns(cursor)
        schema, rights = _schema(found), _rights(found)
        yield from (schema, rights)
        if State.FAILS in (schema.state, rights.state):
            yield POSTGRES.not_checked(("SQL",), "needs the tables and rights above")
        else:
            yield _queries(source)
    except psycopg2.Error as error:
        yield POSTGRES.fails("session", first_line(error), "look at the server's log; then run doctor again")


def _sessions(cursor: psycopg2.extensions.cursor) -> Iterator[Check]:
    def server_time() -> float:
        cursor.execute("select extract(epoch from clock_timestamp())::double precision")
        ((seconds,),) = cursor.fetchall()
        return float(seconds)

    cursor.execute(_SESSION, {"tables": list(TABLES)})
    ((major, version, may_write),) = cursor.fetchall()
    if major < OLDEST_VERSION:
        yield POSTGRES.fails(
            "version", f"{version}, and the SQL needs {OLDEST_VERSION}", f"upgrade to PostgreSQL {OLDEST_VERSION}"
        )
    else:
        yield POSTGRES.ok("version", version)
    yield check_clock(POSTGRES, server_time)
    if may_write:
        yield POSTGRES.warning(
            "role", "may also change rows or make tables, which no run does", f"give it no more than {_GRANTS} does"
        )
    else:
        yield POSTGRES.ok("role", "may change nothing")


def _columns(cursor: psycopg2.extensions.cursor) -> dict[str, dict[str, Found]]:
    """Return the columns of each table that is there or must be."""
    cursor.execute(_COLUMNS, {"tables": list(TABLES)})
    found: dict[str, dict[str, Found]] = {table: {} for table in TABLES}
    for table, column, *facts in cursor.fetchall():
        if column is not None:
            found[table][column] = Found(*facts)
    return {table: columns for table, columns in found.items() if columns or table not in OPTIONAL_TABLES}


def _schema(found: dict[str, dict[str, Found]]) -> Check:
    lost = []
    for table, columns in found.items():
        missing = [column for column in TABLES[table] if column not in columns]
        lost += [f"{table}.{column}" for column in missing] if columns else [table]
    if lost:
        return POSTGRES.fails(
            "schema",
            f"missing: {', '.join(lost)}",
            "is this dCMMS's database, and its schema on the search_path? If dCMMS renamed it, adapt features/*.sql",
        )
    return check_columns(POSTGRES, {table: (TABLES[table], columns) for table, columns in found.items()})


def _rights(found: dict[str, dict[str, Found]]) -> Check:
    unreadable = {
        table: [name for name in TABLES[table] if name in columns and not columns[name].may_read]
        for table, columns in found.items()
    }
    unreadable = {table: columns for table, columns in unreadable.items() if columns}
    if not unreadable:
        return POSTGRES.ok("rights", "every column that is read may be read")
    grants = "; ".join(f"grant select ({', '.join(columns)}) on {table}" for table, columns in unreadable.items())
    return POSTGRES.fails("rights", f"may not read {', '.join(unreadable)}", f"{grants}: see {_GRANTS}")


def _queries(source: PostgresSource) -> Check:
    """Have the server plan every query: it finds types and functions that it does not know."""
    queries = postgres_queries()
    try:
        for query in queries:
            source.plan(query)
    except PipelineError as error:
        return POSTGRES.failed("SQL", error, "compare the schema with the header of features/*.sql")
    return POSTGRES.ok("SQL", f"{len(queries)} queries can run")

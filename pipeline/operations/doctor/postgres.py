"""dCMMS's PostgreSQL: reachable, new enough, and every table, column and right that the extraction needs."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg2
import psycopg2.extensions

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.settings import Settings
from pipeline.operations.doctor.check import Check, Subject
from pipeline.operations.doctor.clock import check_clock
from pipeline.operations.doctor.transport import check_transport
from pipeline.sources.columns import ENUMS, OPTIONAL_TABLES, postgres_columns, postgres_queries
from pipeline.sources.postgres import OLDEST_VERSION, PostgresSource, open_postgres

POSTGRES = Subject("PostgreSQL")
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 15

_GRANTS = "deploy/sql/postgres_extraction.sql"
_COLUMNS = Path(__file__).with_name("postgres_columns.sql").read_text(encoding="utf-8")
_ENUMS = Path(__file__).with_name("postgres_enums.sql").read_text(encoding="utf-8")
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
            missing, unreadable = _columns(cursor)
            yield _schema(missing, _changed_enums(cursor))
            yield _rights(unreadable)
        if missing or unreadable:
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

    cursor.execute(_SESSION, {"tables": list(postgres_columns())})
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


def _columns(cursor: psycopg2.extensions.cursor) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the columns that are missing and those that this role may not read, by table."""
    cursor.execute(_COLUMNS, {"tables": list(postgres_columns())})
    found: dict[str, dict[str, bool]] = {}
    for table, column, is_readable in cursor.fetchall():
        found.setdefault(table, {})[column] = is_readable
    missing, unreadable = {}, {}
    for table, columns in postgres_columns().items():
        if table in OPTIONAL_TABLES and None in found[table]:
            continue
        missing[table] = [column for column in columns if column not in found[table]]
        unreadable[table] = [column for column in columns if found[table].get(column) is False]
    return _without_empty(missing), _without_empty(unreadable)


def _without_empty(lists: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: items for name, items in lists.items() if items}


def _changed_enums(cursor: psycopg2.extensions.cursor) -> list[str]:
    """Return in what the values that columns may have differ from those that the features know."""
    cursor.execute(_ENUMS, {"tables": list(postgres_columns())})
    changed = []
    for column, labels in cursor.fetchall():
        known = ENUMS.get(column, set(labels))
        changed += [f"{column} may be {label}, which no feature knows" for label in sorted({*labels} - known)]
        changed += [f"{column} is never {label} any more" for label in sorted(known - {*labels})]
    return changed


def _schema(missing: dict[str, list[str]], changed_enums: list[str]) -> Check:
    if not missing and changed_enums:
        return POSTGRES.warning(
            "schema",
            "; ".join(changed_enums),
            "decide what it means for the features, and adapt features/*.sql and ENUMS in pipeline/sources/columns.py",
        )
    if not missing:
        return POSTGRES.ok("schema", f"{len(postgres_columns())} tables with every column that is read")
    lost = [
        table if len(columns) == len(postgres_columns()[table]) else ", ".join(f"{table}.{c}" for c in columns)
        for table, columns in missing.items()
    ]
    return POSTGRES.fails(
        "schema",
        f"missing: {', '.join(lost)}",
        "is this dCMMS's database, and its schema on the search_path? If dCMMS renamed it, adapt features/*.sql",
    )


def _rights(unreadable: dict[str, list[str]]) -> Check:
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

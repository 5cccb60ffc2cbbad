"""dCMMS's PostgreSQL: reachable, new enough, and every table, column and right that the extraction needs."""

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import psycopg2.extensions

from pipeline.config import Settings
from pipeline.doctor.check import Check, Subject
from pipeline.doctor.clock import check_clock
from pipeline.doctor.transport import check_transport
from pipeline.errors import PipelineError, first_line
from pipeline.extract import query_of
from pipeline.postgres import PostgresSource
from pipeline.queries import query_text
from pipeline.source_columns import OPTIONAL_TABLES, POSTGRES_COLUMNS
from pipeline.training import LABEL_SQL
from pipeline.views import ASSETS, WORK_ORDERS

POSTGRES = Subject("PostgreSQL")
OLDEST_VERSION = 16
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 15

_GRANTS = "deploy/sql/postgres_extraction.sql"
# Of each column that a table has: is this role allowed to read it?
_COLUMNS = """
select wanted.name, attribute.attname, has_column_privilege(attribute.attrelid, attribute.attnum, 'select')
from unnest(%s) as wanted (name)
left join pg_attribute as attribute
    on attribute.attrelid = to_regclass(wanted.name) and attribute.attnum > 0 and not attribute.attisdropped
"""
_SESSION = """
select
    current_setting('server_version_num')::integer / 10000,
    current_setting('server_version'),
    extract(epoch from clock_timestamp())::double precision,
    rolsuper
    or coalesce(has_schema_privilege(current_schema(), 'create'), false)
    or exists (
        select from unnest(%s) as wanted (name)
        where has_table_privilege(to_regclass(wanted.name), 'insert, update, delete, truncate')
    )
from pg_roles
where rolname = current_user
"""


def check_postgres(settings: Settings) -> Iterator[Check]:
    """Yield the checks of the database that `DATABASE_URL` names; nothing is written to it."""
    try:
        connection = psycopg2.connect(
            settings.database_url.get_secret_value(),
            connect_timeout=CONNECT_SECONDS,
            application_name="feature_store doctor",
            client_encoding="utf8",
        )
    except psycopg2.Error as error:
        yield POSTGRES.fails(
            "connection",
            first_line(error),
            "check DATABASE_URL (host, port, user, password, database), that the server is up and lets this host in",
        )
        yield POSTGRES.not_checked(("TLS", "version", "clock", "role", "schema", "rights", "SQL"), "no connection")
        return
    with closing(connection):
        yield from _connected(connection)


def _connected(connection: psycopg2.extensions.connection) -> Iterator[Check]:
    info = connection.info
    yield POSTGRES.ok("connection", f"{info.user}@{info.host}:{info.port}/{info.dbname}")
    yield check_transport(
        POSTGRES,
        info.host,
        encrypted=info.ssl_in_use,
        verified=info.ssl_in_use and info.dsn_parameters.get("sslmode") == "verify-full",
        fix="append ?sslmode=verify-full&sslrootcert=/path/to/ca.pem to DATABASE_URL",
    )
    connection.set_session(readonly=True)
    try:
        with connection.cursor() as cursor:
            cursor.execute("set timezone = 'UTC'")
            cursor.execute("select set_config('statement_timeout', %s, false)", (f"{STATEMENT_SECONDS}s",))
            yield from _sessions(cursor)
            missing, unreadable = _columns(cursor)
            yield _schema(missing)
            yield _rights(unreadable)
        if missing or unreadable:
            yield POSTGRES.not_checked(("SQL",), "needs the tables and rights above")
        else:
            yield _queries(connection)
    except psycopg2.Error as error:
        yield POSTGRES.fails("session", first_line(error), "look at the server's log; then run doctor again")


def _sessions(cursor: psycopg2.extensions.cursor) -> Iterator[Check]:
    def server_time() -> float:
        nonlocal row
        cursor.execute(_SESSION, (list(POSTGRES_COLUMNS),))
        row = cursor.fetchone()
        return row[2]

    row: tuple = ()
    clock = check_clock(POSTGRES, server_time)
    major, version, _, may_write = row
    if major < OLDEST_VERSION:
        yield POSTGRES.fails(
            "version", f"{version}, and the SQL needs {OLDEST_VERSION}", f"upgrade to PostgreSQL {OLDEST_VERSION}"
        )
    else:
        yield POSTGRES.ok("version", version)
    yield clock
    if may_write:
        yield POSTGRES.warning(
            "role", "may also change rows or make tables, which no run does", f"give it no more than {_GRANTS} does"
        )
    else:
        yield POSTGRES.ok("role", "may change nothing")


def _columns(cursor: psycopg2.extensions.cursor) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the columns that are missing and those that this role may not read, by table."""
    cursor.execute(_COLUMNS, (list(POSTGRES_COLUMNS),))
    found: dict[str, dict[str, bool]] = {}
    for table, column, is_readable in cursor.fetchall():
        found.setdefault(table, {})[column] = is_readable
    missing, unreadable = {}, {}
    for table, columns in POSTGRES_COLUMNS.items():
        if table in OPTIONAL_TABLES and None in found[table]:
            continue
        missing[table] = [column for column in columns if column not in found[table]]
        unreadable[table] = [column for column in columns if found[table].get(column) is False]
    return _without_empty(missing), _without_empty(unreadable)


def _without_empty(lists: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: items for name, items in lists.items() if items}


def _schema(missing: dict[str, list[str]]) -> Check:
    if not missing:
        return POSTGRES.ok("schema", f"{len(POSTGRES_COLUMNS)} tables with every column that is read")
    lost = [
        table if len(columns) == len(POSTGRES_COLUMNS[table]) else ", ".join(f"{table}.{c}" for c in columns)
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


def _queries(connection: psycopg2.extensions.connection) -> Check:
    """Have the server plan every query: it finds types and functions that it does not know."""
    source = PostgresSource(connection, STATEMENT_SECONDS)
    queries = [query_of(ASSETS), query_of(WORK_ORDERS), query_text(LABEL_SQL)]
    try:
        for query in queries:
            source.plan(query)
    except PipelineError as error:
        return POSTGRES.fails("SQL", str(error), "compare the schema with the header of features/*.sql")
    return POSTGRES.ok("SQL", f"{len(queries)} queries can run")

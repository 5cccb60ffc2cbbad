"""dCMMS's ClickHouse: reachable, its table readable, fresh, and of the bucket width that is set."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httpclient import HttpClient

from pipeline.base.errors import PipelineError
from pipeline.base.settings import TELEMETRY_TABLE, Settings
from pipeline.base.specs import SPECS, TIMESTAMP
from pipeline.operations.doctor.check import Check, State, Subject
from pipeline.operations.doctor.clock import check_clock
from pipeline.operations.doctor.columns import Found, check_columns
from pipeline.operations.doctor.transport import check_transport
from pipeline.sources.clickhouse import ClickHouseSource, open_clickhouse, reason
from pipeline.sources.extract import query_of
from pipeline.sources.schema import TELEMETRY
from pipeline.sources.telemetry import check_bucket_width, query_parameters

CLICKHOUSE = Subject("ClickHouse")
CONNECT_SECONDS = 5
ANSWER_SECONDS = 15
# Telemetry that is older than this is late; runs need some within 90 d.
LATE = timedelta(hours=6)
WINDOW = timedelta(days=90)

_GRANTS = "deploy/sql/clickhouse.sql"
# A type without what wraps it and without parameters, and whether it is nullable.
_COLUMNS = r"""
select
    name,
    extract(type, '^(?:LowCardinality\\()?(?:Nullable\\()?(\\w+)') as bare_type,
    match(type, '^(LowCardinality\\()?Nullable\\(') as may_be_null
from system.columns
where database = currentDatabase() and table = {table:String}
"""
_NEWEST = f"""
select max(toDateTime64(time_bucket, 6, 'UTC')) as newest, toInt64(count()) as buckets
from {TELEMETRY_TABLE}
where
    time_bucket > toDateTime({{since:DateTime64(6, 'UTC')}}, 'UTC')
    and time_bucket <= toDateTime({{as_of:DateTime64(6, 'UTC')}}, 'UTC')
"""
_NEWEST_SCHEMA = pa.schema([("newest", TIMESTAMP), ("buckets", pa.int64())])


def check_clickhouse(settings: Settings, as_of: datetime) -> Iterator[Check]:
    """Yield the checks of the database that the `CLICKHOUSE_` settings name, for a run as of `as_of`; it only reads."""
    not_checked = ("TLS", "clock", "user", "schema", "SQL", "telemetry", "bucket width")
    limited = settings.model_copy(update={"statement_timeout_seconds": ANSWER_SECONDS})
    with ExitStack() as stack:
        try:
            source = stack.enter_context(open_clickhouse(limited, CONNECT_SECONDS))
        except PipelineError as error:
            yield CLICKHOUSE.failed("connection", error)
            yield CLICKHOUSE.not_checked(not_checked, "no connection")
            return
        client = source.client
        yield CLICKHOUSE.ok("connection", f"{source.where}, version {client.server_version}")
        try:
            if isinstance(client, HttpClient):  # the engine in this process has its clock, and its rights
                yield _transport(client)
                yield check_clock(CLICKHOUSE, lambda: _seconds(client))
                yield _role(client)
            yield from _table(source, settings, as_of)
        except (ClickHouseError, OSError) as error:
            yield CLICKHOUSE.fails("session", reason(error), "look at the server's log; then run doctor again")


def _seconds(client: HttpClient) -> float:
    return float(str(client.command("select toFloat64(now64(6, 'UTC'))")))


def _transport(client: HttpClient) -> Check:
    url = urlsplit(client.url)
    return check_transport(
        CLICKHOUSE,
        url.hostname or "",
        encrypted=url.scheme == "https",
        verified=url.scheme == "https",
        fix="set CLICKHOUSE_HOST to https://host:8443, and CLICKHOUSE_CA_CERT where the certificate is the site's own",
    )


def _role(client: Client) -> Check:
    if str(client.command("select getSetting('readonly')")) == "0":
        return CLICKHOUSE.warning(
            "user", "may also change data, which no run does", f"give it the settings profile of {_GRANTS}"
        )
    return CLICKHOUSE.ok("user", "may change nothing")


def _table(source: ClickHouseSource, settings: Settings, as_of: datetime) -> Iterator[Check]:
    table = source.table
    columns = _visible_columns(source.client, table)
    if missing := [column for column in TELEMETRY if column not in columns]:
        everything = len(missing) == len(TELEMETRY)
        yield CLICKHOUSE.fails(
            "schema",
            f"{settings.clickhouse_database} has no {table}, or this user may not see it"
            if everything
            else f"{table} lacks {', '.join(missing)}, or this user may not see them",
            f"check CLICKHOUSE_DATABASE and CLICKHOUSE_TABLE, and grant select on the table: see {_GRANTS}",
        )
        yield CLICKHOUSE.not_checked(("SQL", "telemetry", "bucket width"), "needs the table")
        return
    schema = check_columns(CLICKHOUSE, {table: (TELEMETRY, columns)})
    yield schema
    if schema.state == State.FAILS:
        yield CLICKHOUSE.not_checked(("SQL", "telemetry", "bucket width"), "needs the columns above")
        return
    yield _query(source, settings, as_of)
    yield from _data(source, settings, as_of)


def _visible_columns(client: Client, table: str) -> dict[str, Found]:
    found = client.query(_COLUMNS, parameters={"table": table})
    return {name: Found(bare_type, bool(may_be_null)) for name, bare_type, may_be_null in found.result_rows}


def _query(source: ClickHouseSource, settings: Settings, as_of: datetime) -> Check:
    """Have the server plan each query: it finds functions and rights that are missing."""
    parameters = query_parameters(as_of, [0], settings.bucket_seconds, [])
    for view in (spec for spec in SPECS.values() if spec.engine == "clickhouse"):
        try:
            source.client.query(source.named(f"explain {query_of(view.name)}"), parameters=parameters)
        except ClickHouseError as error:
            fix = f"compare the table with {view.definition.tags['sql']}, the rights with {_GRANTS}"
            return CLICKHOUSE.fails("SQL", reason(error), fix)
    return CLICKHOUSE.ok("SQL", "the query can run")


def _data(source: ClickHouseSource, settings: Settings, as_of: datetime) -> Iterator[Check]:
    try:
        (row,) = source.stream(_NEWEST, {"since": as_of - WINDOW, "as_of": as_of}, _NEWEST_SCHEMA).to_pylist()
    except PipelineError as error:
        yield CLICKHOUSE.failed("telemetry", error, f"check the rights and limits of the user: see {_GRANTS}")
        yield CLICKHOUSE.not_checked(("bucket width",), "needs telemetry")
        return
    if not row["buckets"]:
        yield CLICKHOUSE.fails(
            "telemetry",
            f"none in the 90 d before {as_of:%Y-%m-%d %H:%M} UTC, and runs need some",
            "check CLICKHOUSE_DATABASE and the ingestion; demo fleet: --as-of 2026-01-01T00:00:00Z",
        )
        yield CLICKHOUSE.not_checked(("bucket width",), "needs telemetry")
        return
    text = f"{row['buckets']:,} buckets in 90 d, the newest from {row['newest']:%Y-%m-%d %H:%M} UTC"
    if as_of - row["newest"] > LATE + timedelta(seconds=settings.bucket_seconds):
        yield CLICKHOUSE.warning("telemetry", f"{text}: late", f"check the ingestion into {source.table}")
    else:
        yield CLICKHOUSE.ok("telemetry", text)
    try:
        check_bucket_width(source, as_of, settings.bucket_seconds)
    except PipelineError as error:
        yield CLICKHOUSE.failed("bucket width", error, "then compare the figures of the last runs with the site")
    else:
        yield CLICKHOUSE.ok("bucket width", f"{settings.telemetry_bucket_minutes} min, as set")

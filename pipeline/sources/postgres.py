"""Reading dCMMS's PostgreSQL: one read-only, repeatable-read transaction per run, `COPY` straight into Arrow."""

import io
import os
import socket
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

import psycopg2
import psycopg2.extensions
import pyarrow as pa
import pyarrow.csv

from pipeline.base import libpq
from pipeline.base.clock import CLOCK_TOLERANCE, ClockError
from pipeline.base.errors import PipelineError, Unavailable, first_line
from pipeline.base.fault_points import fault_point
from pipeline.base.retries import attempts
from pipeline.base.settings import Settings
from pipeline.base.shard import Shard
from pipeline.base.stop import at_stop

# A common table expression stands in for a table of its name, which works on a read replica too, where nothing can be
# created. Some sites have no wind turbines and no table for them.
_NO_WIND_TURBINES = (
    "wind_turbine_metadata as (select null::uuid as asset_id, null::numeric as rated_power_mw where false)"
)
# The rows of a shard's assets, which are split by their own id: one that moves to another site meanwhile is in one
# shard all the same. PostgreSQL partitions by this hash.
_OF_SHARD = """{table} as not materialized (
    select * from {table} where
    mod(uuid_hash_extended({key}, 0) & 9223372036854775807, (select current_setting('feature_store.shards')::bigint))
    = (select current_setting('feature_store.shard')::bigint) - 1
)"""
# Tables with the column that says whose a row is.
_ASSET_KEYS = {"assets": "id", "work_orders": "asset_id", "alerts": "asset_id", "asset_health_scores": "asset_id"}
# What a server, a database or a role may set otherwise, and what decides how a value is read or written.
_SPELLING = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
}
# The planner takes intermediate results for smaller than they are: it shall hash them, not compare each asset with
# every other one. Nor are queries that take seconds worth compiling.
_PLANNING = {"enable_nestloop": "off", "jit": "off"}
# A server ends a query at its statement_timeout. Where nothing is heard of that for so many seconds more, it is gone.
_SILENCE_SECONDS = 10
# The SQL asks pg_input_is_valid, which came with it.
OLDEST_VERSION = 16


class PostgresSource:
    """One snapshot of the database: every query of this object sees the same rows."""

    def __init__(self, connection: psycopg2.extensions.connection, timeout_seconds: int) -> None:
        self.connection = connection
        self._where = _where(connection)
        self._silence_seconds = timeout_seconds + _SILENCE_SECONDS
        with connection.cursor() as cursor:
            cursor.execute("select to_regclass('wind_turbine_metadata') is not null, clock_timestamp()")
            ((self._has_wind_turbines, self._opened_at),) = cursor.fetchall()

    def check_instant(self, as_of: datetime) -> None:
        """Raise `ClockError` where `as_of` has not come yet by the clock of the database: it cannot know its facts."""
        if as_of > self._opened_at + CLOCK_TOLERANCE:
            raise ClockError(
                f"The as-of instant {as_of.isoformat()} is in the future by the clock of PostgreSQL {self._where}, "
                f"where it is {self._opened_at.isoformat(timespec='seconds')}: correct the clock that is wrong"
            )

    def copy(
        self,
        query: str,
        as_of: Sequence[datetime],
        schema: pa.Schema,
        shard: Shard | None = None,
        whole_tables: Collection[str] = (),
    ) -> pa.Table:
        """Return the rows of `query` for the instants `as_of` as a table of exactly `schema`.

        `query` reads its instants from the setting `feature_store.as_of`. With `shard`, the tables but for the
        `whole_tables` have the rows of its assets alone. Raises `Unavailable` where the connection is
        lost, and the transaction with it, and `PipelineError` where the database refuses it, is too old, or a column of
        `schema` is missing.
        """
        if self.connection.server_version < OLDEST_VERSION * 10_000:
            version = self.connection.server_version // 10_000
            raise PipelineError(
                f"PostgreSQL {self._where} is version {version}, and the SQL needs {OLDEST_VERSION}: "
                f"upgrade to PostgreSQL {OLDEST_VERSION}"
            )
        prefix = self._stand_ins(_ASSET_KEYS.keys() - set(whole_tables) if shard else ())
        values = {"as_of": ",".join(instant.isoformat() for instant in as_of)}
        if shard:
            values |= {"shard": str(shard.number), "shards": str(shard.count)}
        buffer = io.BytesIO()
        try:
            with (
                _broken_off_after(self._silence_seconds, self.connection),
                _nothing_printed(),
                self.connection.cursor() as cursor,
            ):
                cursor.execute("savepoint before_copy")
                cursor.execute(
                    "select set_config('feature_store.' || name, value, true) from unnest(%s, %s) as s (name, value)",
                    (list(values), list(values.values())),
                )
                cursor.copy_expert(
                    f"copy ({prefix} select * from ({query}) as extracted) to stdout (format csv, header)", buffer
                )
        except psycopg2.Error as error:
            self._continue_transaction()
            raise _failure(error, f"PostgreSQL {self._where}: {_reason(error)}") from error
        fault_point("postgres: read")
        buffer.seek(0)
        return pa.csv.read_csv(
            buffer,
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=schema,
                include_columns=schema.names,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ).cast(schema)

    def plan(self, query: str) -> None:
        """Have the server plan `query` without running it.

        Raises `PipelineError` where a table, a column, a type, a function or a right is missing.
        """
        prefix = self._stand_ins(())
        try:
            with self.connection.cursor() as cursor:
                cursor.execute("select set_config('feature_store.as_of', '2026-01-01T00:00:00Z', true)")
                cursor.execute(f"explain {prefix} select * from ({query}) as extracted")
        except psycopg2.Error as error:
            raise _failure(error, f"PostgreSQL {self._where}: {_reason(error)}") from error

    def _stand_ins(self, tables_of_shard: Collection[str]) -> str:
        """Return the head of a query that puts something else in the place of tables."""
        stand_ins = [_OF_SHARD.format(table=table, key=_ASSET_KEYS[table]) for table in sorted(tables_of_shard)]
        if not self._has_wind_turbines:
            stand_ins.append(_NO_WIND_TURBINES)
        return f"with {', '.join(stand_ins)}" if stand_ins else ""

    def _continue_transaction(self) -> None:
        """Let other queries see the same snapshot after one has failed, if the connection is still there."""
        with (
            suppress(psycopg2.Error),
            _broken_off_after(_SILENCE_SECONDS, self.connection),
            self.connection.cursor() as cursor,
        ):
            cursor.execute("rollback to savepoint before_copy")


@contextmanager
def open_postgres(settings: Settings, connect_seconds: int = 10) -> Iterator[PostgresSource]:
    """Yield one consistent snapshot of dCMMS's database; the transaction is rolled back at the end.

    `connect_seconds` is for each address of its host. Raises `PipelineError` where the server cannot be reached or does
    not accept the user.
    """
    source = attempts()(_connect, settings, connect_seconds)
    try:
        with at_stop(lambda _: source.connection.cancel()):  # libpq waits in C, out of reach of a signal handler
            fault_point("postgres: connected")
            yield source
    finally:
        source.connection.close()


def _connect(settings: Settings, connect_seconds: int) -> PostgresSource:
    """Return what reads by a connection of its own, with its transaction begun."""
    connection = None
    timeout_seconds = settings.statement_timeout_seconds
    try:
        connection = psycopg2.connect(
            settings.database_url.get_secret_value(),
            connect_timeout=connect_seconds,
            application_name="feature_store",
            client_encoding="utf8",
            # A host that vanished without a word is noticed within 90 s: idle, then 3 probes; milliseconds to be heard.
            keepalives_idle=60,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=90_000,
        )
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with _broken_off_after(_SILENCE_SECONDS, connection), connection.cursor() as cursor:
            session = _SPELLING | _PLANNING | {"statement_timeout": f"{timeout_seconds}s"}
            cursor.execute(
                "select set_config(name, setting, true) from unnest(%s, %s) as settings (name, setting)",
                (list(session), list(session.values())),
            )
            return PostgresSource(connection, timeout_seconds)
    except ValueError as error:
        raise PipelineError(f"PostgreSQL: DATABASE_URL has a part that is no text: {first_line(error)}") from None
    except psycopg2.Error as error:
        if connection:
            connection.close()
        advice = (
            "Check DATABASE_URL (host, port, user, password, database), that the server is up and lets this host in."
        )
        raise _failure(error, f"PostgreSQL: {_reason(error)}", advice) from None


@contextmanager
def _broken_off_after(seconds: float, connection: psycopg2.extensions.connection) -> Iterator[None]:
    """Break the connection off where the block takes longer; libpq itself would wait for an answer for ever."""
    with socket.socket(fileno=os.dup(connection.fileno())) as its_socket:
        timer = threading.Timer(seconds, its_socket.shutdown, [socket.SHUT_RDWR])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keep psycopg2 quiet: where a lost COPY has two errors it raises one, and prints that there was another."""
    hook, sys.excepthook = sys.excepthook, lambda *_: None
    try:
        yield
    finally:
        sys.excepthook = hook


def may_pass(error: psycopg2.Error) -> bool:
    """Return whether what psycopg2 raised may not come again at the next attempt."""
    # It has no other name than DatabaseError for a COPY whose connection is lost.
    is_broken_off = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return (is_broken_off or type(error) is psycopg2.DatabaseError) and libpq.may_pass(error.pgcode, str(error))


def _failure(error: psycopg2.Error, what: str, advice: str = "") -> PipelineError:
    return (Unavailable if may_pass(error) else PipelineError)(what, advice)


def _where(connection: psycopg2.extensions.connection) -> str:
    info = connection.info
    return f"{info.dbname} at {info.host}:{info.port}"


def _reason(error: psycopg2.Error) -> str:
    """Return what the server or driver said, in one line, with what to do about it; neither ever repeats a password."""
    reason = (error.diag.message_primary if error.diag else None) or first_line(error)
    if isinstance(error, psycopg2.errors.UndefinedTable | psycopg2.errors.UndefinedColumn):
        return f"{reason}: is this a dCMMS database, and its schema on the search_path?"
    if isinstance(error, psycopg2.errors.UndefinedFunction | psycopg2.errors.SyntaxError):
        return f"{reason}: the SQL needs PostgreSQL 16 or newer"
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return f"{reason}: grant SELECT on it to this role"
    if isinstance(error, psycopg2.errors.QueryCanceled):
        return f"{reason}: raise STATEMENT_TIMEOUT_SECONDS"
    return reason

"""Reading dCMMS's PostgreSQL: one read-only, repeatable-read transaction per run, `COPY` straight into Arrow."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import psycopg2
import psycopg2.extensions
import pyarrow as pa
import pyarrow.csv
from psycopg2 import sql

from pipeline.config import Settings
from pipeline.errors import PipelineError, first_line
from pipeline.fault_points import fault_point
from pipeline.stop import at_stop

# Some sites have no wind turbines and no table for them. A common table expression of the same name stands in for it,
# which works on a read replica too, where nothing can be created.
_NO_WIND_TURBINES = (
    "with wind_turbine_metadata as (select null::uuid as asset_id, null::numeric as rated_power_mw where false)"
)


class PostgresSource:
    """One snapshot of the database: every query of this object sees the same rows."""

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection
        with connection.cursor() as cursor:
            cursor.execute("select to_regclass('wind_turbine_metadata') is not null")
            self._has_wind_turbines = cursor.fetchone()[0]

    def copy(self, query: str, as_of: Sequence[datetime], schema: pa.Schema) -> pa.Table:
        """Return the rows of `query` for the instants `as_of` as a table of exactly `schema`.

        `query` reads its instants from the setting `feature_store.as_of`. Raises `PipelineError` where the database
        refuses it or a column of `schema` is missing.
        """
        prefix = "" if self._has_wind_turbines else _NO_WIND_TURBINES
        buffer = io.BytesIO()
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(
                    "select set_config('feature_store.as_of', %s, true)",
                    (",".join(instant.isoformat() for instant in as_of),),
                )
                cursor.copy_expert(
                    f"copy ({prefix} select * from ({query}) as extracted) to stdout (format csv, header)", buffer
                )
        except psycopg2.Error as error:
            raise PipelineError(f"PostgreSQL {_where(self._connection)}: {_reason(error)}") from error
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


@contextmanager
def open_postgres(settings: Settings) -> Iterator[PostgresSource]:
    """Yield one consistent snapshot of dCMMS's database; the transaction is rolled back at the end.

    Raises `PipelineError` where the server cannot be reached or does not accept the user.
    """
    url = settings.database_url.get_secret_value()
    try:
        connection = psycopg2.connect(url, connect_timeout=10, application_name="feature_store", client_encoding="utf8")
    except psycopg2.Error as error:
        raise PipelineError(f"PostgreSQL: {_reason(error)}. Check DATABASE_URL and that the server is up.") from None
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            cursor.execute(
                sql.SQL(
                    "set local timezone = 'UTC'; set local datestyle = 'ISO'; set local statement_timeout = {}"
                ).format(sql.Literal(settings.statement_timeout_seconds * 1000))
            )
        with at_stop(lambda _: connection.cancel()):  # libpq waits in C, out of reach of a signal handler
            source = PostgresSource(connection)
            fault_point("postgres: connected")
            yield source
    finally:
        connection.close()


def _where(connection: psycopg2.extensions.connection) -> str:
    info = connection.info
    return f"{info.dbname} at {info.host}:{info.port}"


def _reason(error: psycopg2.Error) -> str:
    """Return what the server or driver said, in one line, with what to do about it; neither ever repeats a password."""
    reason = (error.diag.message_primary if error.diag else None) or first_line(error)
    if isinstance(error, psycopg2.errors.UndefinedTable | psycopg2.errors.UndefinedColumn):
        return f"{reason}: is this a dCMMS database, and its schema on the search_path?"
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return f"{reason}: grant SELECT on it to this role"
    if isinstance(error, psycopg2.errors.QueryCanceled):
        return f"{reason}: raise STATEMENT_TIMEOUT_SECONDS"
    return reason

"""Which faults of the servers may pass by themselves, and which stay until a person does something.

A wrong password, a missing right or table, bad SQL, a time limit, memory that is full, a replica, a certificate: trying
again would only make the message come later.
"""

import re
import ssl

import psycopg
import psycopg2
import redis
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.exceptions import OperationalError as ClickHouseOperationalError
from sqlalchemy.exc import DBAPIError
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)

from pipeline.base.errors import PipelineError, Unavailable

# SQLSTATE: connection exceptions, too many connections, shutdown or start of the server, and the conflicts after which
# PostgreSQL itself says to run the transaction again.
_POSTGRES_STATES = re.compile(r"08|53300|57P0[123]|40001|40P01")
# What a server says that takes no connection just now; libpq reports it without a SQLSTATE.
_POSTGRES_NOT_NOW = re.compile(r"starting up|shutting down|recovery|too many clients|connection slots|not yet accept")
# What libpq says by itself of a connection that can never work.
_POSTGRES_NEVER = re.compile(
    r"certificate|(support|no) SSL|SSL was required|alert|wrong version|password|Name or service not known|invalid"
)

# TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR, ALL_CONNECTION_TRIES_FAILED, KEEPER_EXCEPTION
_CLICKHOUSE_CODES = re.compile(r"\b[Cc]ode: (202|209|210|279|999)\b|\b(502|503|504)\b")

# Redis that loads its data set, or a replica that does.
_REDIS_NOT_NOW = re.compile(r"(LOADING|MASTERDOWN|TRYAGAIN)\b")


def pipeline_error(error: BaseException, text: str) -> PipelineError:
    """Return what to raise for `error`, with that `text`: `Unavailable` where it may pass."""
    return Unavailable(text) if may_pass(error) else PipelineError(text)


def may_pass(error: BaseException) -> bool:
    """Return whether what a driver raised may not come again at the next attempt."""
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return False
    if isinstance(error, DBAPIError):
        return may_pass(error.orig)
    if isinstance(error, psycopg2.Error):
        return _postgres_may_pass(error, error.pgcode, (psycopg2.OperationalError, psycopg2.InterfaceError))
    if isinstance(error, psycopg.Error):
        return _postgres_may_pass(error, error.sqlstate, (psycopg.OperationalError, psycopg.InterfaceError))
    if isinstance(error, ClickHouseError):
        return _clickhouse_may_pass(error)
    if isinstance(error, redis.RedisError):
        return _redis_may_pass(error)
    return isinstance(error, ConnectionError | TimeoutError | HTTPError)


def _postgres_may_pass(error: Exception, state: str | None, of_the_connection: tuple[type[Exception], ...]) -> bool:
    text = str(error)
    if state:
        return bool(_POSTGRES_STATES.match(state))
    if "FATAL:" in text:
        return bool(_POSTGRES_NOT_NOW.search(text))
    # psycopg2 has no other name than DatabaseError for a COPY whose connection is lost
    is_broken_off = isinstance(error, of_the_connection) or type(error) is psycopg2.DatabaseError
    return is_broken_off and not _POSTGRES_NEVER.search(text)


def _clickhouse_may_pass(error: ClickHouseError) -> bool:
    if _CLICKHOUSE_CODES.search(str(error)):
        return True
    broken_off = ProtocolError, NewConnectionError, ConnectTimeoutError, ConnectionError
    return isinstance(error, ClickHouseOperationalError) and any(
        isinstance(cause, broken_off) and not isinstance(cause, NameResolutionError) for cause in _causes(error)
    )


def _redis_may_pass(error: redis.RedisError) -> bool:
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return False
    text = str(error)
    is_connection = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    return bool(_REDIS_NOT_NOW.match(text)) or (is_connection and not re.search("certificate|password", text))


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return the error, and what it was raised from or wraps, outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        reason = getattr(error, "reason", None)
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
    return found

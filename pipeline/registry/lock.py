"""One run at a time: an advisory lock per project, in the PostgreSQL database of the registry.

It works across hosts. The lock belongs to a session of PostgreSQL, on a connection that does nothing else: when the
process dies, however it dies, the connection goes and the lock with it. A pooler between the two has to be in session
mode: in transaction mode the lock stays behind in one of its sessions, so that is refused.
"""

import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from feast import FeatureStore
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from pipeline.base.clock import duration
from pipeline.base.errors import PipelineError, first_line
from pipeline.base.retries import attempts
from pipeline.registry.feast_store import registry_engine, registry_error

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_HOLDER = text(Path(__file__).with_name("lock_holder.sql").read_text(encoding="utf-8"))
# Seconds after which PostgreSQL gives up a host that vanished without a word: idle, then 3 probes 10 s apart. The lock
# is idle for the length of a run, which a server may be set to end sessions for.
_SESSION = {
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}


# Takes the lock of a project on a connection; returns who is in the way, None where it has the lock.
Take = Callable[[Connection], str | None]


class LockHeld(PipelineError):
    """Another run of the project is busy. The exit code is EX_TEMPFAIL of sysexits.h: try again later."""

    exit_code = 75


@dataclass(frozen=True)
class Holder:
    """A session that has the lock: its process id in PostgreSQL and, as far as this role may see it, who it is."""

    backend_pid: int
    application: str | None
    address: str | None
    since: datetime | None

    def __str__(self) -> str:
        parts = [
            self.application or "another session",
            f"from {self.address}" if self.address else "",
            f"since {self.since:%Y-%m-%dT%H:%M:%SZ}" if self.since else "",
        ]
        return " ".join(part for part in parts if part) + f" (PostgreSQL process {self.backend_pid})"


class RunLock:
    """The lock of a project, held."""

    def __init__(self, connection: Connection, project: str) -> None:
        self._connection = connection
        self._project = project
        self.backend_pid: int = connection.scalar(text("select pg_backend_pid()"))
        self._lost: str | None = None

    def check(self) -> None:
        """Raise `PipelineError` where the lock is lost: with its connection, when PostgreSQL has restarted."""
        self._lost = self._lost or self._why_lost()
        if self._lost:
            raise PipelineError(
                f"The lock of project {self._project} is lost ({self._lost}), so another run may be busy: run again"
            )

    def try_lock(self, name: str) -> bool:
        """Return whether the lock `name` of the project is this session's now, until `unlock`."""
        return self._scalar("select pg_try_advisory_lock(:key)", name)

    def unlock(self, name: str) -> None:
        """Let others have the lock `name`."""
        self._scalar("select pg_advisory_unlock(:key)", name)

    def _scalar(self, statement: str, name: str) -> bool:
        try:
            return bool(self._connection.scalar(text(statement), {"key": lock_key(self._project, name)}))
        except SQLAlchemyError as error:
            raise registry_error(error) from error

    def _why_lost(self) -> str | None:
        try:
            holders = lock_holders(self._connection, self._project)
        except SQLAlchemyError as error:
            return first_line(error)
        if not holders:
            return "nobody has it"
        is_held = any(holder.backend_pid == self.backend_pid for holder in holders)
        return None if is_held else "another session has it"


@contextmanager
def one_at_a_time(store: FeatureStore, wait: float | None = None, take: Take | None = None) -> Iterator[RunLock]:
    """Hold the lock of the store's project for the length of the block: alone, or as `take` takes it.

    `wait` is for how many seconds another run is waited for: by default not at all, `math.inf` for as long as it takes.
    Raises `LockHeld` where another run is still busy then, and `PipelineError` where the registry's database is down.
    """
    connection, lock = attempts()(_locked, store, wait, take or partial(_take_alone, store.project))
    try:
        yield lock
    finally:
        # Closing alone frees the lock a moment later, in which the next run would find it held.
        with suppress(SQLAlchemyError):
            connection.execute(text("select pg_advisory_unlock_all()"))
        with suppress(SQLAlchemyError):
            connection.close()


def lock_key(project: str, name: str = "") -> int:
    """Return the key of a project's lock, or of that called `name`: a signed number of 64 bits, always the same."""
    digest = hashlib.sha256(":".join(["materialize_features", project, *([name] if name else [])]).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def lock_holders(connection: Connection, project: str) -> list[Holder]:
    """Return who holds the lock of `project`: nobody, one, or shards of one run."""
    key = lock_key(project) % 2**64
    return [Holder(*row) for row in connection.execute(_HOLDER, {"high": key >> 32, "low": key % 2**32})]


def check_sessions(engine: Engine) -> None:
    """Raise `PipelineError` where two connections have no session each: a pooler in transaction mode is in between."""
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as one, engine.connect() as other:
        sessions = [{each.scalar(text("select pg_backend_pid()")) for _ in range(2)} for each in (one, other)]
    if set.intersection(*sessions) or len(set.union(*sessions)) > 2:
        raise PipelineError(
            "Feast registry: a pooler in transaction mode is in between, where the lock of a run would stay behind in "
            "a session of somebody else",
            "Name the server itself in registry.path (FEAST_REGISTRY_URL), or set pool_mode = session",
        )


def _locked(store: FeatureStore, wait: float | None, take: Take) -> tuple[Connection, RunLock]:
    """Return a connection that holds the lock of the store's project."""
    try:
        connection = _connect(store)
        try:
            _acquire(connection, store.project, wait, take)
            return connection, RunLock(connection, store.project)
        except BaseException:
            connection.close()
            raise
    except SQLAlchemyError as error:
        raise registry_error(error) from error


def _connect(store: FeatureStore) -> Connection:
    """Return a connection of its own, outside of the pool, that says who it is."""
    check_sessions(registry_engine(store))
    connection = registry_engine(store).connect().execution_options(isolation_level="AUTOCOMMIT")
    connection.detach()
    name = f"materialize_features {os.getpid()}@{socket.gethostname()}"[:63]
    for setting, value in {**_SESSION, "application_name": name}.items():
        # An older server may not know one of them.
        connection.execute(
            text("select set_config(name, :value, false) from pg_settings where name = :name"),
            {"name": setting, "value": value},
        )
    return connection


def _take_alone(project: str, connection: Connection) -> str | None:
    if connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": lock_key(project)}):
        return None
    return in_the_way(connection, project)


def in_the_way(connection: Connection, project: str) -> str:
    """Return in words who holds the lock of `project`."""
    return str(next(iter(lock_holders(connection, project)), "another run"))


def _acquire(connection: Connection, project: str, wait: float | None, take: Take) -> None:
    deadline = time.monotonic() + (wait or 0.0)
    told = None
    while holder := take(connection):
        if time.monotonic() >= deadline:
            waited = f" after {duration(wait)} of waiting" if wait else ""
            advice = "try again later" if wait else "wait for it with --wait"
            raise LockHeld(f"Project {project} is busy{waited}: {holder} holds its lock; {advice}")
        if holder != told:
            logger.info("waiting for the lock of project %s: %s holds it", project, holder)
            told = holder
        time.sleep(min(_POLL_SECONDS, max(deadline - time.monotonic(), 0.0)))

"""The run ledger: a row per run in the table `materialization_runs`, in the database of the registry.

A row is there from the start of its run, with the outcome `running`; one that still says so when its run is gone tells
of a run that died. The table is made by the first run, by the role of the registry, in the first schema of its
search_path. What `skew` has found is a row, too, with the outcome `compared`, which is none of a run.
"""

import logging
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from feast import FeatureStore
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Index,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    func,
    inspect,
    null,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID, distinct_on, insert
from sqlalchemy.exc import SQLAlchemyError

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.fault_points import fault_point
from pipeline.base.results import ViewResult
from pipeline.base.retries import attempts
from pipeline.base.stop import asked_to_stop, at_stop
from pipeline.registry.feast_store import registry_engine, registry_error
from pipeline.registry.lock import lock_holders

logger = logging.getLogger(__name__)

RUNNING, DONE, FAILED, INTERRUPTED, DIED = "running", "done", "failed", "interrupted", "died"
ROLLED_BACK = "rolled back"
COMPARED = "compared"

RUNS = Table(
    "materialization_runs",
    MetaData(),
    Column("run_id", UUID, primary_key=True),
    Column("project", Text, nullable=False),
    Column("as_of", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("finished_at", DateTime(timezone=True)),
    Column("outcome", Text, nullable=False),
    Column("error", Text),
    # {view: {rows, rejected, implausible, seconds, newest_source, bytes, outcome, error, ...}}; of a comparison
    # {view: {instants, values, differ, worst, worst_share}}
    Column("views", JSONB, nullable=False),
    Column("host", Text, nullable=False),
    # The session that holds the lock of the run: while it does, the run is alive.
    Column("backend_pid", Integer),
    # 2/3 is the second of three that make a run together; NULL is a run of one process.
    Column("shard", Text),
)
Index("materialization_runs_project_started_at", RUNS.c.project, RUNS.c.started_at)

# The views of each row, and what the row has of one.
_VIEWS = func.jsonb_each(RUNS.c.views).table_valued("key", "value", name="view", joins_implicitly=True)
_VIEW = _VIEWS.c.value.cast(JSONB)

# Serializes the making of a table, whose `if not exists` two sessions can both find true.
CREATION_LOCK = 5_279_143_908_114_472


@dataclass
class Run:
    """One run as the ledger and the metrics tell of it. `results` fills up as the run goes on.

    One that succeeds ends with the outcome `succeeds_as`.
    """

    as_of: datetime
    views: list[str]
    run_id: uuid.UUID = field(default_factory=uuid.uuid4)
    outcome: str = RUNNING
    error: str | None = None
    exit_code: int | None = None
    backend_pid: int | None = None
    results: dict[str, ViewResult] = field(default_factory=dict)
    succeeds_as: str = DONE
    shard: str | None = None

    def view_rows(self) -> dict[str, dict[str, Any]]:
        """Return what became of each asked view, as JSON can hold it."""
        return {view: self.results[view].as_json() for view in self.views if view in self.results}


@dataclass(frozen=True)
class PastRun:
    """A row of the ledger."""

    run_id: uuid.UUID
    as_of: datetime
    started_at: datetime
    finished_at: datetime | None
    outcome: str
    error: str | None
    views: dict[str, dict[str, Any]]
    backend_pid: int | None
    shard: str | None


@dataclass(frozen=True)
class Publication:
    """The last time that a view went online: as of which instant, when, and its newest source fact."""

    as_of: datetime
    finished_at: datetime
    newest_source: datetime | None


@dataclass(frozen=True)
class Comparison:
    """What `skew` has found of a view: of so many `values` that were served up to `as_of`, how many `differ` now.

    Of the feature `worst` the largest share does, `worst_share`.
    """

    as_of: datetime
    finished_at: datetime
    instants: int
    values: int
    differ: int
    worst: str
    worst_share: float


class Ledger:
    """The rows of one project. Every method raises `PipelineError` where the database refuses."""

    def __init__(self, store: FeatureStore) -> None:
        self._engine = registry_engine(store)
        self._project = store.project

    def start(self, run: Run) -> None:
        """Append the row of `run`, and close those of earlier runs that died. The caller holds the lock."""
        died = RUNS.update().where(RUNS.c.project == self._project, RUNS.c.outcome == RUNNING).values(outcome=DIED)
        with self._transaction() as connection:
            _create_table(connection)
            others = {holder.backend_pid for holder in lock_holders(connection, self._project)} - {run.backend_pid}
            connection.execute(died.where(func.coalesce(RUNS.c.backend_pid, 0).not_in(others)))
            self._write(connection, run)

    def finish(self, run: Run) -> None:
        """Bring the row of `run` up to date, for good."""
        with self._transaction() as connection:
            self._write(connection, run, finished_at=func.now())

    def compared(self, as_of: datetime, views: dict[str, dict[str, Any]]) -> None:
        """Append a row of a comparison of `views` up to `as_of`, for which nobody needs the lock."""
        row = {"run_id": uuid.uuid4(), "project": self._project, "as_of": as_of, "host": socket.gethostname()}
        row |= {"outcome": COMPARED, "views": views, "finished_at": func.now()}
        with self._transaction() as connection:
            _create_table(connection)
            connection.execute(insert(RUNS).values(row))

    def last_runs(self, count: int) -> list[PastRun]:
        """Return the last `count` runs, the latest first; none where there is no ledger yet."""
        with self._transaction() as connection:
            if not _exists(connection):
                return []
            rows = self._runs(connection).order_by(RUNS.c.started_at.desc()).limit(count)
            return [PastRun(**row._mapping) for row in connection.execute(rows)]

    def alive(self) -> set[int]:
        """Return the sessions that hold the lock of the project: `backend_pid` of a run that is alive."""
        with self._transaction() as connection:
            return {holder.backend_pid for holder in lock_holders(connection, self._project)}

    def find(self, run_id: uuid.UUID) -> PastRun | None:
        """Return a run of the project, None where the ledger does not have it."""
        with self._transaction() as connection:
            if not _exists(connection):
                return None
            found = connection.execute(self._runs(connection).where(RUNS.c.run_id == run_id)).one_or_none()
        return PastRun(**found._mapping) if found else None

    def _runs(self, connection: Connection) -> Select[Any]:
        """Return the query of the project's runs; who may only read meets a ledger that is older than a column."""
        there = {column["name"] for column in inspect(connection).get_columns(RUNS.name)}
        columns = (RUNS.c[name] if name in there else null().label(name) for name in PastRun.__dataclass_fields__)
        return select(*columns).select_from(RUNS).where(RUNS.c.project == self._project, RUNS.c.outcome != COMPARED)

    def last_publications(self) -> dict[str, Publication]:
        """Return the last publication of each view that was ever online."""
        return {
            view: Publication(as_of, finished_at, datetime.fromisoformat(newest) if newest else None)
            for view, as_of, finished_at, row in self._last_of_each(_VIEW["outcome"].astext == "online")
            for newest in [row.get("newest_source")]
        }

    def last_comparisons(self, until: datetime) -> dict[str, Comparison]:
        """Return the last comparison of each view, of those up to instants not after `until`."""
        found = self._last_of_each(RUNS.c.outcome == COMPARED, RUNS.c.as_of <= until)
        return {view: Comparison(as_of, finished_at, **row) for view, as_of, finished_at, row in found}

    def _last_of_each(self, *conditions: ColumnElement[bool]) -> list[tuple[str, datetime, datetime, dict[str, Any]]]:
        """Return of each view the last row that ended so: view, as-of instant, end, and what it has of the view."""
        rows = (
            select(_VIEWS.c.key, RUNS.c.as_of, RUNS.c.finished_at, _VIEW)
            .select_from(RUNS, _VIEWS)
            .ext(distinct_on(_VIEWS.c.key))
            .where(RUNS.c.project == self._project, RUNS.c.finished_at.is_not(None), *conditions)
            .order_by(_VIEWS.c.key, RUNS.c.finished_at.desc())
        )
        with self._transaction() as connection:
            return [tuple(row) for row in connection.execute(rows)] if _exists(connection) else []

    def _write(self, connection: Connection, run: Run, **values: Any) -> None:
        values |= {
            "outcome": run.outcome,
            "error": run.error,
            "views": run.view_rows(),
            "backend_pid": run.backend_pid,
        }
        row = {
            "run_id": run.run_id,
            "project": self._project,
            "as_of": run.as_of,
            "host": socket.gethostname(),
            "shard": run.shard,
        }
        connection.execute(
            insert(RUNS).values(row | values).on_conflict_do_update(index_elements=["run_id"], set_=values)
        )

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                # The ledger is small: one that answers later than this must not hold up a run.
                connection.execute(text("set local statement_timeout = '10s'"))
                yield connection
        except SQLAlchemyError as error:
            raise registry_error(error, f"Run ledger {RUNS.name}: {first_line(error)}") from error


@contextmanager
def recorded(store: FeatureStore, run: Run) -> Iterator[None]:
    """Keep a row of `run` in the ledger for what happens in the block, which sets `run.results`.

    A ledger that fails is a warning: it must not fail a run that publishes. The caller holds the lock of the project.
    """
    ledger = Ledger(store)
    fault_point("ledger: before")
    _warn_if_it_fails(ledger.start, run)
    fault_point("ledger: started")
    # Where the main thread cannot be reached, nobody else is left to write it.
    with at_stop(lambda _: ledger.finish(replace(run, outcome=INTERRUPTED))):
        try:
            yield
        except BaseException as error:
            stopped = asked_to_stop()
            run.outcome, run.error = (INTERRUPTED, str(stopped)) if stopped else (FAILED, first_line(error))
            raise
        else:
            errors = {result.error for result in run.results.values() if result.error}
            run.outcome, run.error = (FAILED, "; ".join(sorted(errors))) if errors else (run.succeeds_as, None)
        finally:
            fault_point("ledger: finishing")
            _warn_if_it_fails(ledger.finish, run)
            fault_point("ledger: finished")


def _warn_if_it_fails(write: Callable[[Run], None], run: Run) -> None:
    try:
        attempts()(write, run)
    except PipelineError as error:
        logger.warning("%s. The run goes on without its row.", error)


def _create_table(connection: Connection) -> None:
    if not _exists(connection):
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": CREATION_LOCK})
        RUNS.metadata.create_all(connection)
    elif not any(column["name"] == "shard" for column in inspect(connection).get_columns(RUNS.name)):
        connection.execute(text(f"alter table {RUNS.name} add column if not exists shard text"))


def _exists(connection: Connection) -> bool:
    return inspect(connection).has_table(RUNS.name)

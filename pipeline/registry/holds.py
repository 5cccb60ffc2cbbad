"""Views on hold: those that somebody has rolled back, in the table `view_holds` in the database of the registry.

The registry says there what is online, and the lock of the runs is there: a hold cannot be lost apart from either. Its
row is there from before a rollback changes anything until somebody resumes the view.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from feast import FeatureStore
from sqlalchemy import Boolean, Column, Connection, DateTime, MetaData, Table, Text, func, inspect, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from pipeline.base.errors import first_line
from pipeline.registry.feast_store import registry_engine, registry_error
from pipeline.registry.ledger import CREATION_LOCK

HOLDS = Table(
    "view_holds",
    MetaData(),
    Column("project", Text, primary_key=True),
    Column("view", Text, primary_key=True),
    Column("as_of", DateTime(timezone=True), nullable=False),
    Column("reason", Text),
    Column("since", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("is_done", Boolean, nullable=False),
)


@dataclass(frozen=True)
class Hold:
    """A view that stays online as of one instant. Until `is_done` its rollback has not come to its end."""

    view: str
    as_of: datetime
    reason: str | None
    since: datetime
    is_done: bool

    def __str__(self) -> str:
        as_of, since = (
            moment.astimezone(UTC).isoformat() for moment in (self.as_of, self.since.replace(microsecond=0))
        )
        why = f" ({self.reason})" if self.reason else ""
        if not self.is_done:
            return f"its rollback to {as_of}{why} is not finished: `rollback --view {self.view} --to {as_of}` again"
        return f"on hold as of {as_of} since {since}{why}: `rollback --view {self.view} --resume` lets runs go on"


class Holds:
    """The holds of one project. Every method raises `PipelineError` where the database refuses."""

    def __init__(self, store: FeatureStore) -> None:
        self._engine = registry_engine(store)
        self._project = store.project

    def all(self) -> dict[str, Hold]:
        """Return the hold of each view that has one."""
        rows = select(*(HOLDS.c[name] for name in Hold.__dataclass_fields__)).where(HOLDS.c.project == self._project)
        with self._transaction() as connection:
            found = connection.execute(rows).all() if inspect(connection).has_table(HOLDS.name) else []
        return {row.view: Hold(**row._mapping) for row in found}

    def put(self, view: str, as_of: datetime, reason: str | None) -> None:
        """Hold `view`, whose rollback to `as_of` begins now, in place of an earlier hold. The caller has the lock."""
        values = {"as_of": as_of, "reason": reason, "since": func.now(), "is_done": False}
        row = insert(HOLDS).values(project=self._project, view=view, **values)
        with self._transaction() as connection:
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": CREATION_LOCK})
            HOLDS.metadata.create_all(connection)
            connection.execute(row.on_conflict_do_update(index_elements=["project", "view"], set_=values))

    def finish(self, view: str) -> None:
        """Say that the rollback of `view` has come to its end."""
        is_it = (HOLDS.c.project == self._project, HOLDS.c.view == view)
        with self._transaction() as connection:
            connection.execute(HOLDS.update().where(*is_it).values(is_done=True))

    def release(self, view: str) -> None:
        """Let runs of `view` go on."""
        is_it = (HOLDS.c.project == self._project, HOLDS.c.view == view)
        with self._transaction() as connection:
            connection.execute(HOLDS.delete().where(*is_it))

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise registry_error(error, f"Holds of views, table {HOLDS.name}: {first_line(error)}") from error

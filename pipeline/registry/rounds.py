"""A round: one run that several processes make together, each a shard of it, on one host or many.

What they have to agree on is in the table `materialization_shards`, in the database of the registry: for each project
the latest round, a row per fact. Shards hold the lock of the project together, and each one of its own. A round that
has no judgement yet lasts as long as one of its shards is alive.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from feast import FeatureStore
from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import SQLAlchemyError

from pipeline.base.errors import WrongOption, first_line
from pipeline.base.shard import Shard
from pipeline.registry.feast_store import registry_engine, registry_error
from pipeline.registry.ledger import CREATION_LOCK
from pipeline.registry.lock import RunLock, in_the_way, lock_holders, lock_key, one_at_a_time

FACTS = Table(
    "materialization_shards",
    MetaData(),
    Column("project", Text, primary_key=True),
    Column("fact", Text, primary_key=True),
    Column("value", JSONB, nullable=False),
)
# Facts: what the round is; where each shard reads; what one has handed in, with its number; what becomes of all that.
ROUND, SITES, PART, JUDGEMENT, LEFT = "round", "sites", "part", "judgement", "left"


class Round:
    """The round of one shard. Every method raises `PipelineError` where the database refuses."""

    lock: RunLock

    def __init__(self, store: FeatureStore, shard: Shard, as_of: datetime, terms: Mapping[str, Any]) -> None:
        self.shard = shard
        self._store = store
        self._round: dict[str, Any] = {
            "as_of": as_of.astimezone(UTC).isoformat(),
            "shards": shard.count,
            "terms": dict(terms),
        }

    def get(self, fact: str) -> Any:
        """Return a fact of the round, None where it is none yet."""
        with self._transaction() as connection:
            return connection.scalar(select(FACTS.c.value).where(self._is(fact)))

    def put(self, fact: str, value: Any) -> None:
        """Make a fact of the round known."""
        with self._transaction() as connection:
            self._put(connection, fact, value)

    def missing(self, fact: str) -> list[Shard]:
        """Return the shards that have not put `fact`, which each puts with its number behind."""
        with self._transaction() as connection:
            found = set(connection.scalars(select(FACTS.c.fact).where(FACTS.c.project == self._store.project)))
        return self._lacking(found, fact)

    def once(self, fact: str, make: Callable[[], Any]) -> Any:
        """Return `fact`, which one of the shards makes for all; None while another one does, or it cannot be yet."""
        if (value := self.get(fact)) is None and self.lock.try_lock(fact):
            try:
                if (value := self.get(fact)) is None and (value := make()) is not None:
                    self.lock.check()
                    self.put(fact, value)
            finally:
                self.lock.unlock(fact)
        return value

    def withdraw(self) -> bool:
        """Take back the shard's own part, unless the round is being judged; return whether it is gone."""
        if not self.lock.try_lock(JUDGEMENT):
            return False
        try:
            if self.get(JUDGEMENT) is not None:
                return False
            with self._transaction() as connection:
                connection.execute(FACTS.delete().where(self._is(f"{PART} {self.shard.number}")))
            return True
        finally:
            self.lock.unlock(JUDGEMENT)

    def leave(self) -> None:
        """Say that the shard has come to its end; one that has not may come back, also to a round that is over."""
        self.put(f"{LEFT} {self.shard.number}", True)

    def take(self, connection: Connection) -> str | None:
        """Take the locks of the shard and join its round; return who is in the way, if somebody is."""
        project = self._store.project
        if not connection.scalar(text("select pg_try_advisory_lock_shared(:key)"), {"key": lock_key(project)}):
            return in_the_way(connection, project)
        name = f"shard {self.shard.number}"
        is_own = connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": lock_key(project, name)})
        busy = self._join(connection) if is_own else f"another {name}"
        if busy:
            connection.execute(text("select pg_advisory_unlock_all()"))
        return busy

    def _join(self, holding: Connection) -> str | None:
        """Join the round that is on or begin one; raises `WrongOption` where others make it in another way."""
        pid = holding.scalar(text("select pg_backend_pid()"))
        with self._transaction() as connection:
            if not inspect(connection).has_table(FACTS.name):
                FACTS.metadata.create_all(connection)
            rows = select(FACTS.c.fact, FACTS.c.value).where(
                FACTS.c.project == self._store.project, FACTS.c.fact != SITES
            )
            found = {row.fact: row.value for row in connection.execute(rows)}
            alive = {holder.backend_pid for holder in lock_holders(connection, self._store.project)} - {pid}
            others = [fact for fact, value in found.items() if fact.startswith("shard ") and value in alive]
            now = found.get(ROUND, {})
            is_same = all(now.get(name) == self._round[name] for name in ("as_of", "shards"))
            is_on = is_same and (self._has_work(found) or (bool(others) and not _is_over(found)))
            if others and not is_on:
                return f"{others[0]}/{now['shards']} as of {now['as_of']}"
            if not is_on:
                connection.execute(FACTS.delete().where(FACTS.c.project == self._store.project))
                self._put(connection, ROUND, self._round)
            elif differing := [name for name, value in self._round["terms"].items() if now["terms"][name] != value]:
                name = differing[0]
                raise WrongOption(
                    f"The other shards run with another {name}, {now['terms'][name]} and not "
                    f"{self._round['terms'][name]}: give all of them the same options and settings"
                )
            self._put(connection, f"shard {self.shard.number}", pid)
            if JUDGEMENT not in found:  # what a dead process has handed in is handed in anew
                connection.execute(FACTS.delete().where(self._is(f"{PART} {self.shard.number}")))
        return None

    def _has_work(self, found: Mapping[str, Any]) -> bool:
        """Return whether a round of these facts is judged, and this shard has not come to its end in it.

        Or it has, and there is something left to publish that it can do alone.
        """
        if JUDGEMENT in found and f"{LEFT} {self.shard.number}" not in found:
            return True
        return any(
            f"end {view}" not in found
            and (f"online {view} {self.shard.number}" not in found or not self._lacking(found, f"online {view}"))
            for view in found.get(JUDGEMENT, {}).get("publish", ())
        )

    def _lacking(self, found: Collection[str], fact: str) -> list[Shard]:
        shards = [Shard(number, self.shard.count) for number in range(1, self.shard.count + 1)]
        return [shard for shard in shards if f"{fact} {shard.number}" not in found]

    def _is(self, fact: str) -> Any:
        return (FACTS.c.project == self._store.project) & (FACTS.c.fact == fact)

    def _put(self, connection: Connection, fact: str, value: Any) -> None:
        row = insert(FACTS).values(project=self._store.project, fact=fact, value=value)
        connection.execute(row.on_conflict_do_update(index_elements=["project", "fact"], set_={"value": value}))

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Yield a connection; one shard after the other, so that what it reads is still so when it writes."""
        try:
            with registry_engine(self._store).begin() as connection:
                connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": CREATION_LOCK})
                yield connection
        except SQLAlchemyError as error:
            raise registry_error(error, f"Shards, table {FACTS.name}: {first_line(error)}") from error


@contextmanager
def joined(
    store: FeatureStore, shard: Shard, as_of: datetime, terms: Mapping[str, Any], wait: float | None = None
) -> Iterator[Round]:
    """Be `shard` of the run as of `as_of` for the length of the block, with its locks held.

    All shards of a run have the same `terms`. `wait` is as in `one_at_a_time`. Raises `LockHeld` where a whole run,
    this same shard or shards of another run are busy, and `WrongOption` where the others have other terms.
    """
    mine = Round(store, shard, as_of, terms)
    with one_at_a_time(store, wait, mine.take) as mine.lock:
        yield mine


def _is_over(found: Mapping[str, Any]) -> bool:
    """Return whether there is nothing left to do in a round of these facts."""
    judged = found.get(JUDGEMENT)
    return judged is not None and all(f"end {view}" in found for view in judged["publish"])

"""Snapshots in Iceberg tables: one per view, partitioned by the day of the instant, each change of it one commit.

A snapshot is the rows of an `event_timestamp`. What a file has in its footer is in the table's properties, by instant:
the assets that were set aside, and that a snapshot without rows is one. What a snapshot lacks follows from the times:
its rows were `created` before the table had the column.

Iceberg calls each state of a table a snapshot, too. Here those are states. PyIceberg is imported by this module alone,
and this module only where a store is Iceberg.
"""

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from pipeline.base.errors import PipelineError, Unavailable, first_line, keep_secret
from pipeline.base.fault_points import fault_point
from pipeline.base.places import Store, instant_stem
from pipeline.base.retries import attempts
from pipeline.base.specs import TIMESTAMP, snapshot_schema
from pipeline.base.stop import raise_if_stopped
from pipeline.snapshots.bucket import ANSWER_SECONDS, CONNECT_SECONDS, is_refused
from pipeline.snapshots.changes import with_first_created
from pipeline.snapshots.files import EARLIEST, LATEST, is_same, lacked_in, with_lacked
from pipeline.snapshots.store import Compacted, Part, SnapshotStore, ThinOut
from settings_file import in_environment

try:
    with in_environment():  # PyIceberg reads it when it is imported
        import requests
        from pyiceberg.catalog import Catalog, load_catalog
        from pyiceberg.catalog.rest import RestCatalog
        from pyiceberg.exceptions import (
            CommitFailedException,
            CommitStateUnknownException,
            NamespaceAlreadyExistsError,
            NoSuchNamespaceError,
            NoSuchTableError,
            RESTError,
            ServerError,
            TableAlreadyExistsError,
            ValidationException,
        )
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan, PyArrowFileIO
        from pyiceberg.table import FileScanTask, Table, Transaction
        from pyiceberg.transforms import DayTransform
        from pyiceberg.utils.config import Config
        from sqlalchemy.exc import DBAPIError
except ImportError as error:
    raise PipelineError(
        f"FEATURE_SNAPSHOTS: Iceberg needs more packages ({first_line(error)})",
        "Install them: pip install --require-hashes -r requirements-iceberg.lock",
    ) from error

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_TIME = "event_timestamp"
_NOTES, _SINCE, _TAG = "dcmms.snapshot.", "dcmms.since.", "rolled-back-"
_DAY, _MOMENT, _EPOCH = timedelta(days=1), timedelta(microseconds=1), datetime(1970, 1, 1, tzinfo=UTC)
# A list of more literals prunes no file.
_FEW_INSTANTS = 200
# Somebody else has committed meanwhile: read anew, and once more.
_COMMITS = 5
# How long a reader may take that has begun with a state of the table; and how many states are kept at most.
_READERS = timedelta(hours=1)
_STATES = 50
# A file that no state has may still be on its way into one.
_YOUNG = timedelta(days=1)
_DEFAULTS = {"s3.connect-timeout": str(CONNECT_SECONDS), "s3.request-timeout": str(ANSWER_SECONDS)}
_TABLE_PROPERTIES = {
    "write.parquet.compression-codec": "zstd",
    "commit.manifest-merge.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}
# The types that Iceberg can make wider in place.
_WIDENED = {(pa.int32(), pa.int64()), (pa.float32(), pa.float64())}


class IcebergTables(SnapshotStore):
    """The tables of a namespace, by the catalog that PYICEBERG_CATALOG__<NAME>__* tells of."""

    def __init__(self, place: Store) -> None:
        self.place = place
        self.catalog_name, self.namespace = place.url.removeprefix("iceberg://").split("/")
        self._catalog: Catalog | None = None

    # Reading ------------------------------------------------------------------------------------------------------

    def instants(self, view: str, first: datetime, last: datetime) -> Iterator[datetime]:
        """Yield the instants from `first` to `last`, both inclusive, that have a snapshot of `view`, newest first."""
        table = self._found(view)
        if table is None:
            return
        listed = self._read(view, lambda: _listed(table, first, last))
        noted = {instant for instant in _noted(table) if first <= instant <= last}
        days = sorted({instant.date() for instant in noted} | {each.first.date() for each in listed}, reverse=True)
        number = 1
        while days:
            chosen, days = {*days[:number]}, days[number:]
            files = [each for each in listed if each.first.date() in chosen]
            known = {each.first for each in files if each.first == each.last}
            several = [each.task for each in files if each.first < each.last]
            if several:
                stamps = self._read(view, partial(_stamps, table, several))
                known |= {each for each in stamps if first <= each <= last}
            yield from sorted(known | {each for each in noted if each.date() in chosen}, reverse=True)
            number *= 4  # what asks for the newest one does not wait for years of them

    def read(self, view: str, instants: Sequence[datetime], schema: pa.Schema | None = None) -> pa.Table:
        """Return the rows as of the `instants`, in the order of instant and asset; see `SnapshotStore.read`."""
        table = self._found(view)
        if table is None:
            return (schema or snapshot_schema(view)).empty_table()
        schema = schema or table.schema().as_arrow().remove_metadata()
        return self._read(view, lambda: _rows(table, instants, schema))

    def schema(self, view: str, as_of: datetime) -> pa.Schema:
        """Return the columns of the table, with the notes of one snapshot."""
        table = self._found(view)
        if table is None:
            raise PipelineError(f"{self.place / view} is not there")
        return self._read(view, lambda: _schema(table, as_of))

    def lacks_columns(self, view: str) -> bool:
        """Return whether the table is there, and a column of the definition is not in it or of another type."""
        table = self._found(view)
        return table is not None and _lacks(table, view)

    # Writing ------------------------------------------------------------------------------------------------------

    def write(self, view: str, as_of: datetime, table: pa.Table) -> int:
        """Put a snapshot in the place of the one as of `as_of`, by one commit; see `SnapshotStore.write`."""
        table = table.sort_by("asset_id")

        def write(into: Table) -> int:
            if _lacks(into, view):
                _evolve(into, view)
            held = _rows(into, [as_of], _schema(into, as_of))
            if (held.num_rows or as_of in _noted(into)) and not lacked_in(held.schema):
                held = held.select([name for name in table.column_names if name in held.column_names])
                if is_same(held, table):
                    return int(held.nbytes)
                kept = with_first_created(table, held)
            else:
                kept = table
            with into.transaction() as change:
                fault_point("iceberg: begun")
                _overwrite(change, kept.replace_schema_metadata(), _at([as_of]))
                _note(change, into, as_of, _notes_of(table))
                fault_point("iceberg: written")
            fault_point("iceberg: committed")
            _expire(into)
            state = into.current_snapshot()
            return int((state and state.summary and state.summary["added-files-size"]) or 0)

        return self._change(view, write, is_made=True)

    def remove_newer(self, view: str, as_of: datetime) -> int:
        """Take the snapshots as of later instants out of the table, whose state before keeps a tag."""
        newer = [*self.instants(view, as_of + _MOMENT, LATEST)]
        if not newer:
            return 0

        def remove(table: Table) -> None:
            state = table.current_snapshot()
            tagged = {ref.snapshot_id for name, ref in table.refs().items() if name.startswith(_TAG)}
            if state and state.snapshot_id not in tagged:  # else a rollback that died here
                name = f"{_TAG}{instant_stem(datetime.now(UTC))}"
                table.manage_snapshots().create_tag(state.snapshot_id, name).commit()
                logger.info("%s: what is rolled back has the tag %s in %s", view, name, self.place / view)
            fault_point("rollback: tagged")
            with table.transaction() as change, _quiet():
                change.delete(f"{_TIME} > '{as_of.isoformat()}'")
                if noted := [_NOTES + instant_stem(each) for each in _noted(table) if each > as_of]:
                    change.remove_properties(*noted)
            fault_point("rollback: moved")

        self._change(view, remove)
        return len(newer)

    def keep_up(self, view: str) -> None:
        """Give the table the columns of the definition, and forget states that no reader needs.

        A column that is new is NULL in older rows. One of a type that Iceberg cannot widen leaves its values in a
        column of another name.
        """

        def keep_up(table: Table) -> None:
            if _lacks(table, view):
                _evolve(table, view)
            _expire(table, _READERS)

        with suppress(_NotThere):
            self._change(view, keep_up)

    def compact(
        self,
        view: str,
        before: datetime,
        thin_out: ThinOut | None,
        now: datetime,
        online: datetime | None,
        months: int | None,
    ) -> Compacted:
        """Make one file of the snapshots of each day that is over at `before`, by one commit.

        Then, without `months`, what no state of the table has is removed. See `pipeline.snapshots.compaction.compact`.
        """
        from pipeline.snapshots.compaction import check_online

        done, table = Compacted(), self._found(view)
        if table is None:
            return done
        files: dict[Any, int] = {}
        for each in self._read(view, lambda: _listed(table, EARLIEST, before - _MOMENT)):
            files[each.first.date()] = files.get(each.first.date(), 0) + 1
        days = {
            day: [*instants][::-1]
            for day, instants in groupby(self.instants(view, EARLIEST, before - _MOMENT), key=lambda each: each.date())
        }
        kept = {day: thin_out(of_day, now - of_day[-1]) for day, of_day in days.items()} if thin_out else days
        if online and online.date() in days:
            check_online(view, online, [Part([], days[online.date()], kept[online.date()])])
        work = sorted(day for day in days if files.get(day, 0) > 1 or kept[day] != days[day])
        for _, of_month in groupby(work, key=lambda day: (day.year, day.month)):
            raise_if_stopped()
            for day in of_month:
                self._change(view, partial(_rewrite, instants=days[day], kept=kept[day]))
                done.before += files.get(day, 0)
                done.after += bool(kept[day] and files.get(day, 0))
                done.removed += len(days[day]) - len(kept[day])
            months = months and months - 1
            if months == 0:
                return done
        if months is None:
            self._change(view, lambda table: _expire(table, _READERS))
            removed = self._read(view, lambda: _remove_orphans(self._found(view)))
            if removed:
                logger.info("%s: %d files removed that no state of the table has", view, removed, extra={"view": view})
        return done

    # The table ----------------------------------------------------------------------------------------------------

    def _found(self, view: str) -> Table | None:
        """Return the table of `view` as it is now, None where there is none."""
        try:
            return self._read(view, lambda: self._opened().load_table((self.namespace, view)))
        except _NotThere:
            return None

    def _opened(self) -> Catalog:
        if self._catalog is None:
            with in_environment():
                found = Config().get_catalog_config(self.catalog_name)
            if not found:
                name = self.catalog_name.upper().replace("-", "_")
                raise PipelineError(
                    f"The catalog {self.catalog_name} of FEATURE_SNAPSHOTS is not known",
                    f"Set PYICEBERG_CATALOG__{name}__URI and what else docs/object-storage.md names",
                )
            properties = _DEFAULTS | {name: str(value) for name, value in found.items()}
            for name, value in properties.items():
                if any(word in name for word in ("secret", "token", "credential", "password", "access-key")):
                    for part in (value, *value.split(":")):
                        keep_secret(part)
            self._catalog = _timed_catalog(self.catalog_name, properties)
        return self._catalog

    def _create(self, view: str) -> None:
        catalog, identifier = self._opened(), (self.namespace, view)
        with suppress(NamespaceAlreadyExistsError):
            catalog.create_namespace(self.namespace)
        try:
            with (
                catalog.create_table_transaction(
                    identifier, snapshot_schema(view).remove_metadata(), properties=_TABLE_PROPERTIES
                ) as made,
                made.update_spec() as spec,
            ):
                spec.add_field(_TIME, DayTransform(), "event_day")
        except (TableAlreadyExistsError, CommitFailedException):
            logger.debug("%s: somebody else has just made the table", view)

    def _read(self, view: str, read: Callable[[], Result]) -> Result:
        """Return what `read` does, which may be repeated; what a library says becomes a `PipelineError`."""

        def tried() -> Result:
            with self._translated(view):
                return read()

        result: Result = attempts()(tried)
        return result

    def _change(self, view: str, change: Callable[[Table], Result], *, is_made: bool = False) -> Result:
        """Let `change` commit to the table as it is now, and again to a newer one where somebody else was faster.

        With `is_made` the table is made where there is none.
        """
        for number in range(_COMMITS):
            try:
                return self._read(view, lambda: change(self._opened().load_table((self.namespace, view))))
            except _NotThere:
                if not is_made or number == _COMMITS - 1:
                    raise
                self._read(view, lambda: self._create(view))
            except _Conflict:
                raise_if_stopped()
                if number == _COMMITS - 1:
                    raise
                time.sleep(0.1 * 2**number)
        raise AssertionError("unreachable")

    @contextmanager
    def _translated(self, view: str) -> Iterator[None]:
        place = self.place / view
        try:
            yield
        except PipelineError:
            raise
        except (CommitFailedException, ValidationException) as error:
            raise _Conflict(f"{place} is being changed by somebody else: it stays as it is. Try again later") from error
        except (NoSuchTableError, NoSuchNamespaceError) as error:
            raise _NotThere(f"{place} is not there") from error
        except (requests.RequestException, ServerError, CommitStateUnknownException, OSError, DBAPIError) as error:
            text = first_line(error)
            kind = PipelineError if is_refused(error) or isinstance(error, FileNotFoundError) else Unavailable
            advice = (
                "Check its keys and rights"
                if is_refused(error)
                else "Check that the catalog and the object store are up"
            )
            raise kind(f"{place}: {text}. {advice}: docs/object-storage.md") from error
        except (RESTError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            advice = "Check PYICEBERG_CATALOG__*: docs/object-storage.md"
            raise PipelineError(f"{place}: {first_line(error)}. {advice}") from error


class _NotThere(PipelineError):
    """There is no such table, or no such namespace."""


class _Conflict(PipelineError):
    """A commit that somebody else's has been faster than."""


def _timed_catalog(name: str, properties: dict[str, str]) -> Catalog:
    """Return the catalog, one that waits no longer than a while for an answer."""
    kind = properties.get("type") or ("rest" if properties.get("uri", "").startswith("http") else "")
    if kind.lower() == "rest":
        if "credential" in properties:  # what PyIceberg takes for it by itself, with a warning
            properties = {"oauth2-server-uri": f"{properties['uri'].rstrip('/')}/v1/oauth/tokens"} | properties
        return _TimedRestCatalog(name, **properties)
    return load_catalog(name, **properties)


class _TimedRestCatalog(RestCatalog):
    def _create_session(self) -> requests.Session:
        session = super()._create_session()
        send = session.send
        session.send = lambda request, **given: send(request, **(given | {"timeout": _WAIT}))  # type: ignore[method-assign]
        return session


_WAIT = (CONNECT_SECONDS, ANSWER_SECONDS)


# What a table holds -----------------------------------------------------------------------------------------------


class _File:
    """A data file: the first and the last instant in it."""

    def __init__(self, table: Table, task: FileScanTask) -> None:
        number = table.schema().find_field(_TIME).field_id
        lowest, highest = task.file.lower_bounds[number], task.file.upper_bounds[number]
        self.task = task
        self.first, self.last = (
            _EPOCH + int.from_bytes(each, "little", signed=True) * _MOMENT for each in (lowest, highest)
        )


def _listed(table: Table, first: datetime, last: datetime) -> list[_File]:
    return [_File(table, task) for task in table.scan(_between(first, last)).plan_files()]


def _between(first: datetime, last: datetime) -> str:
    bounds = [f"{_TIME} >= '{first.isoformat()}'"] if first > EARLIEST else []
    bounds += [f"{_TIME} <= '{last.isoformat()}'"] if last < LATEST else []
    return " and ".join(bounds) or "true"


def _at(instants: Sequence[datetime]) -> str:
    """Return what is true of the rows as of the instants, and of some between where these are many."""
    if len(instants) > _FEW_INSTANTS:
        return _between(min(instants), max(instants))
    return " or ".join(f"{_TIME} = '{each.isoformat()}'" for each in instants)


def _stamps(table: Table, tasks: Sequence[FileScanTask]) -> set[datetime]:
    """Return the instants in files that hold several."""
    scan = ArrowScan(table.metadata, table.io, table.schema().select(_TIME), AlwaysTrue())
    return {each.astimezone(UTC) for each in pc.unique(scan.to_table(tasks)[_TIME]).to_pylist()}


def _lacks(table: Table, view: str) -> bool:
    """Return whether a column of the definition is not in the table, or of another type."""
    there = table.schema().as_arrow()
    return any(_type_in(there, column.name) != column.type for column in snapshot_schema(view))


def _rows(table: Table, instants: Sequence[datetime], schema: pa.Schema) -> pa.Table:
    """Return the rows as of the instants, in order, as the columns of `schema`."""
    there = table.schema().as_arrow()
    if not instants:
        return schema.empty_table()
    wanted = [name for name in schema.names if name in there.names]
    needed = (*dict.fromkeys((*wanted, _TIME, "asset_id")),)
    rows = table.scan(_at(instants), selected_fields=needed).to_arrow()
    if len(instants) > _FEW_INSTANTS:
        rows = rows.filter(pc.is_in(rows[_TIME], value_set=pa.array(instants, TIMESTAMP)))
    rows = rows.sort_by([(_TIME, "ascending"), ("asset_id", "ascending")])
    columns = [
        rows[column.name].cast(column.type) if column.name in wanted else pa.nulls(len(rows), column.type)
        for column in schema
    ]
    return pa.table(columns, schema=schema)


def _schema(table: Table, as_of: datetime) -> pa.Schema:
    notes = table.properties.get(_NOTES + instant_stem(as_of))
    columns = table.schema().as_arrow().remove_metadata()
    schema = pa.schema([pa.field(each.name, _plain(each.type), each.nullable) for each in columns])
    schema = schema.with_metadata({name: json.dumps(note) for name, note in json.loads(notes or "{}").items()})
    since = {
        name.removeprefix(_SINCE): datetime.fromisoformat(stamp)
        for name, stamp in table.properties.items()
        if name.startswith(_SINCE)
    }
    if since:
        created = pc.max(table.scan(_at([as_of]), selected_fields=("created",)).to_arrow()["created"]).as_py()
        if lacked := [name for name, stamp in since.items() if created and created < stamp and name in schema.names]:
            schema = with_lacked(schema, lacked)
    return schema


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_large_string(kind) else kind


def _type_in(schema: pa.Schema, name: str) -> pa.DataType | None:
    place = schema.get_field_index(name)
    return _plain(schema.field(place).type) if place >= 0 else None


def _noted(table: Table) -> set[datetime]:
    return {datetime.fromisoformat(name.removeprefix(_NOTES)) for name in table.properties if name.startswith(_NOTES)}


def _notes_of(snapshot: pa.Table) -> dict[str, Any] | None:
    """Return what the table's properties say of a snapshot, None where its rows say it all."""
    notes = {name.decode(): json.loads(note) for name, note in (snapshot.schema.metadata or {}).items()}
    return notes if notes or not snapshot.num_rows else None


# Changing it ------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Delete operation did not match any records")
        yield


def _overwrite(change: Transaction, rows: pa.Table, of: str) -> None:
    with _quiet():  # nothing to replace is what a new instant has
        change.overwrite(rows, overwrite_filter=of)


def _note(change: Transaction, table: Table, as_of: datetime, notes: Mapping[str, Any] | None) -> None:
    name = _NOTES + instant_stem(as_of)
    if notes is not None:
        change.set_properties({name: json.dumps(notes)})
    elif name in table.properties:
        change.remove_properties(name)


def _evolve(table: Table, view: str) -> None:
    """Give the table the columns of the definition, and note since when it has them."""
    now, there, wanted = datetime.now(UTC), table.schema().as_arrow(), snapshot_schema(view).remove_metadata()
    changed = {column.name: (_type_in(there, column.name), column.type) for column in wanted}
    changed = {name: types for name, types in changed.items() if types[0] != types[1]}
    aside = {
        name: f"{name}_until_{instant_stem(now.replace(microsecond=0))}"
        for name, types in changed.items()
        if types[0] is not None and types not in _WIDENED
    }
    with table.transaction() as change:
        if aside:
            with change.update_schema() as schema:
                for name, other in aside.items():
                    schema.rename_column(name, other)
        with change.update_schema() as schema:
            schema.union_by_name(wanted)
        change.set_properties({_SINCE + name: now.isoformat() for name in changed})
    logger.info("%s: the table has the columns of now; what older rows lacked is NULL until a backfill", view)
    for name, other in aside.items():
        text = "%s: %s was %s, which does not fit %s: it is NULL there, and the values as they were are in %s"
        logger.warning(text, view, name, *changed[name], other, extra={"view": view})


def _expire(table: Table, age: timedelta | None = None) -> None:
    """Forget the states that are older than `age`; without it only where there are too many of them."""
    states = sorted(table.metadata.snapshots, key=lambda each: each.timestamp_ms)
    if age is None:
        if len(states) <= _STATES:
            return
        gone = states[: -_STATES // 2]
    else:
        until = (datetime.now(UTC) - age).timestamp() * 1000
        gone = [each for each in states if each.timestamp_ms < until]
    kept = {ref.snapshot_id for ref in table.refs().values()}
    ids = [each.snapshot_id for each in gone if each.snapshot_id not in kept]
    if ids:
        try:
            table.maintenance.expire_snapshots().by_ids(ids).commit()
        except CommitFailedException:
            logger.debug("%s: states are left to the next run", table.name())


def _rewrite(table: Table, instants: Sequence[datetime], kept: Sequence[datetime]) -> None:
    """Put the rows of one day's `instants` that are `kept` into one file."""
    schema = table.schema().as_arrow().remove_metadata()
    rows = _rows(table, kept, schema)
    start = instants[0].replace(hour=0, minute=0, second=0, microsecond=0)
    of_day = _between(start, start + _DAY - _MOMENT)
    with table.transaction() as change:
        _overwrite(change, rows, of_day)
        gone = [_NOTES + instant_stem(each) for each in _noted(table) & ({*instants} - {*kept})]
        if gone:
            change.remove_properties(*gone)
        fault_point("compact: written")
    fault_point("compact: exchanged")
    _expire(table)


def _remove_orphans(table: Table | None) -> int:
    """Remove the files below the table's place that none of its states has, and that are not young."""
    if table is None or not isinstance(table.io, PyArrowFileIO):
        return 0
    scheme, netloc, path = table.io.parse_location(table.location(), table.io.properties)
    files: pyarrow.fs.FileSystem = table.io.fs_by_scheme(scheme, netloc)
    below = files.get_file_info(pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True))
    wanted = {table.io.parse_location(each, table.io.properties)[2] for each in _in_use(table)}
    until = datetime.now(UTC) - _YOUNG
    orphans = [each.path for each in below if each.is_file and each.path not in wanted and each.mtime < until]
    for orphan in orphans:
        raise_if_stopped()
        files.delete_file(orphan)
    return len(orphans)


def _in_use(table: Table) -> Iterator[str]:
    """Yield the files that the table, in any of its states, consists of."""
    yield table.metadata_location
    yield from (entry.metadata_file for entry in table.metadata.metadata_log)
    yield from (each.statistics_path for each in table.metadata.statistics)
    seen: set[str] = set()
    for state in table.metadata.snapshots:
        yield state.manifest_list
        for manifest in state.manifests(table.io):
            if manifest.manifest_path not in seen:
                seen.add(manifest.manifest_path)
                yield manifest.manifest_path
                yield from (each.data_file.file_path for each in manifest.fetch_manifest_entry(table.io, True))

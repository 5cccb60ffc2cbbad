"""Snapshots as Parquet files on S3, in the layout of `files` below a prefix: each is one PUT, seen whole or not at all.

Nothing else is asked of S3, no rename and no lock. What changes many files does so to copies of them in a local folder,
by the functions for folders, and is brought back from there: first what is new, then what it replaces goes. In between,
or after a kill, a snapshot is in two files with the same rows. Its own file counts, or else the one that spans less:
snapshots are written anew by themselves alone, so that is the younger.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.fault_points import fault_point
from pipeline.base.places import Store, StoredSnapshot
from pipeline.base.specs import TIMESTAMP, snapshot_schema
from pipeline.base.stop import raise_if_stopped
from pipeline.snapshots import compaction, quarantine, upkeep
from pipeline.snapshots.bucket import Bucket, at_once
from pipeline.snapshots.changes import with_first_created
from pipeline.snapshots.exchange import MARKER
from pipeline.snapshots.files import (
    EARLIEST,
    Footer,
    Replaced,
    footer_of,
    held_at,
    is_same,
    snapshot_path,
    span_of,
    with_note,
)
from pipeline.snapshots.store import Compacted, Part, SnapshotStore, ThinOut

logger = logging.getLogger(__name__)

# Copies of so many files are in the local folder at once when they are brought to other columns.
_FEW_FILES = 200
# S3 may give a file the time at which its upload began: by so much it may have come later.
_UPLOAD_NS = 3600 * 1_000_000_000
_ORDER = pa.schema({"event_timestamp": TIMESTAMP, "asset_id": pa.string()})


@dataclass(frozen=True)
class _Object:
    """A file: its key and, where it is one of snapshots, its first and last instant."""

    key: str
    size: int
    changed_ns: int
    is_snapshots: bool = False
    first: datetime = EARLIEST
    last: datetime = EARLIEST

    @property
    def width(self) -> timedelta:
        return self.last - self.first


def _object(key: PurePath, size: int, changed_ns: int | None) -> _Object:
    span = span_of(key) if size else None
    return _Object(str(key), size, changed_ns or 0, bool(span), *(span or ()))


class ParquetObjects(SnapshotStore):
    """The files below a prefix of a bucket."""

    def __init__(self, place: Store) -> None:
        self.place = place
        self._bucket = Bucket(place.url)
        self._footers: dict[str, tuple[_Object, Footer]] = {}

    # Reading ------------------------------------------------------------------------------------------------------

    def instants(self, view: str, first: datetime, last: datetime) -> Iterator[datetime]:
        """Yield the instants from `first` to `last`, both inclusive, that have a snapshot of `view`, newest first."""
        yield from sorted(self._bucket.tried(lambda: self._where(view, first, last)), reverse=True)

    def read(self, view: str, instants: Sequence[datetime], schema: pa.Schema | None = None) -> pa.Table:
        """Return the rows as of the `instants`, in the order of instant and asset; see `SnapshotStore.read`."""

        def read() -> pa.Table:
            where = self._where(view, min(instants), max(instants)) if instants else {}
            files: dict[_Object, list[datetime]] = {}
            for instant in where.keys() & {*instants}:
                files.setdefault(where[instant], []).append(instant)
            columns = schema or pa.unify_schemas(
                [
                    snapshot_schema(view).remove_metadata(),
                    *(each.remove_metadata() for each in at_once(self._schema, files)),
                ],
                promote_options="permissive",
            )
            needed = pa.unify_schemas([columns, _ORDER])
            tables = at_once(lambda file: self._rows(file, files[file], needed), files)
            rows = pa.concat_tables([needed.empty_table(), *tables])
            rows = rows.sort_by([(name, "ascending") for name in _ORDER.names])
            return rows.select(columns.names).cast(columns)

        return self._bucket.tried(read)

    def schema(self, view: str, as_of: datetime) -> pa.Schema:
        """Return the columns of one snapshot, with its notes."""

        def read() -> pa.Schema:
            file = self._where(view, as_of, as_of).get(as_of)
            if file is None:
                raise PipelineError(f"{self.place / view} has no snapshot as of {as_of.isoformat()}")
            if not file.width:
                return self._schema(file)
            columns, notes = self._footer(file)
            return with_note(columns, notes[as_of])

        return self._bucket.tried(read)

    def why_unreadable(self, view: str, as_of: datetime) -> str | None:
        """Return what is wrong with the footer of a snapshot, None where it can be read."""
        try:
            self.schema(view, as_of)
        except pa.ArrowException as error:
            return first_line(error)
        return None

    def lacks_columns(self, view: str) -> bool:
        """Return whether a file is no snapshot that can be read, or one without the columns of the definition."""
        return bool(self._bucket.tried(lambda: self._in_the_way(view))[0])

    # Writing ------------------------------------------------------------------------------------------------------

    def write(self, view: str, as_of: datetime, table: pa.Table) -> int:
        """Put a snapshot in the place of the one as of `as_of`, by one PUT; see `SnapshotStore.write`."""
        table, held = table.sort_by("asset_id"), held_at(StoredSnapshot(self.place / view, as_of))
        if held is not None and is_same(held, table):
            return int(held.nbytes)
        key = str(snapshot_path(Path(), view, as_of))
        return self._bucket.write(key, table if held is None else with_first_created(table, held))

    def remove_newer(self, view: str, as_of: datetime) -> int:
        """Move the snapshots as of later instants into quarantine."""
        newer = [file for file in self._snapshots(view) if file.last > as_of]
        if not newer:
            return 0
        with self._changing(view, newer) as data_dir:
            return quarantine.move_newer(data_dir, view, as_of)

    def keep_up(self, view: str) -> None:
        """Move what is no snapshot into quarantine and bring the others to the columns of the definition."""
        found, newest_ns = self._bucket.tried(lambda: self._in_the_way(view))
        for start in range(0, len(found), _FEW_FILES):
            raise_if_stopped()
            with self._changing(view, found[start : start + _FEW_FILES]) as data_dir:
                upkeep.keep_up(data_dir, view, called=self.place)
        if found or newest_ns:
            text = f"{newest_ns}\n{upkeep.described(snapshot_schema(view))}"
            self._bucket.tried(lambda: self._bucket.put(f"{view}/{MARKER}", pa.py_buffer(text.encode())))

    def compact(
        self,
        view: str,
        before: datetime,
        thin_out: ThinOut | None,
        now: datetime,
        online: datetime | None,
        months: int | None,
    ) -> Compacted:
        """Make one file of the snapshots of each day, or of each month, that is over at `before`."""

        def instants_in(file: _Object) -> list[datetime]:
            return self._bucket.tried(lambda: self._instants(file))

        def work(files: Iterable[_Object]) -> list[Part[_Object]]:
            found = [(file.first, file.last, file) for file in files]
            last = compaction.last_of_month(compaction.first_of_month(found[0][0]), before)
            return [*compaction.parts(found, instants_in, last, thin_out, now)]

        done, by_month = Compacted(), groupby(self._snapshots(view), lambda each: compaction.first_of_month(each.first))
        months_of_files = {month: [*files] for month, files in by_month}
        if online and (files := months_of_files.get(compaction.first_of_month(online))):
            compaction.check_online(view, online, work(files))
        for files in months_of_files.values():
            raise_if_stopped()
            if not (parts := work(files)):
                continue
            with self._changing(view, [file for part in parts for file in part.files]) as data_dir:
                local = [Part([data_dir / file.key for file in part.files], part.instants, part.kept) for part in parts]
                compaction.replace(data_dir / view, local)
            done.add(parts)
            months = months and months - 1
            if months == 0:
                break
        return done

    # Files --------------------------------------------------------------------------------------------------------

    def _listed(self, view: str) -> list[_Object]:
        """Return the files that readers look for, in the order of their instants."""
        found = [_object(key, info.size, info.mtime_ns) for key, info in self._bucket.listed(view)]
        return sorted(found, key=lambda file: (file.first, file.last))

    def _snapshots(self, view: str) -> list[_Object]:
        return [file for file in self._bucket.tried(lambda: self._listed(view)) if file.is_snapshots]

    def _where(self, view: str, first: datetime, last: datetime) -> dict[datetime, _Object]:
        """Return the instants from `first` to `last` that have a snapshot, each with its file."""
        if first == last:
            own = snapshot_path(Path(), view, first)
            info = self._bucket.info(str(own))
            if info.is_file and info.size:
                return {first: _object(own, info.size, info.mtime_ns)}
        files = [file for file in self._listed(view) if file.is_snapshots and file.first <= last and file.last >= first]
        files.sort(key=lambda file: file.width, reverse=True)
        held = zip(files, at_once(self._instants, files), strict=True)
        return {each: file for file, instants in held for each in instants if first <= each <= last}

    def _instants(self, file: _Object) -> list[datetime]:
        try:
            return [*self._footer(file)[1]] if file.width else [file.first]
        except pa.ArrowException as error:
            logger.warning("passed over: %s/%s cannot be read: %s", self.place, file.key, first_line(error))
            return []

    def _footer(self, file: _Object) -> Footer:
        """Return the columns in the file of a day or month, and the notes of each snapshot in it."""
        known = self._footers.get(file.key)
        if not known or known[0] != file:
            self._footers[file.key] = known = file, footer_of(self._schema(file))
        return known[1]

    def _schema(self, file: _Object) -> pa.Schema:
        with self._bucket.opened(file.key) as source:
            return pq.read_schema(source)

    def _rows(self, file: _Object, instants: Sequence[datetime], schema: pa.Schema) -> pa.Table:
        wanted = pc.field("event_timestamp").isin(pa.array(instants, TIMESTAMP)) if file.width else None
        with self._bucket.opened(file.key) as source:
            return ds.ParquetFileFormat().make_fragment(source).to_table(schema=schema, filter=wanted)

    def _in_the_way(self, view: str) -> tuple[list[_Object], int]:
        """Return the files that are no snapshots or lack columns, and when the newest file of all has changed.

        What was there when a run last put everything right is not looked at again.
        """
        schema, files, since = snapshot_schema(view), self._listed(view), 0
        if self._bucket.info(f"{view}/{MARKER}").is_file:
            with self._bucket.opened(f"{view}/{MARKER}") as marker:
                until, _, described = marker.read().decode(errors="replace").partition("\n")
            if until.isdecimal() and described == upkeep.described(schema):
                since = int(until) - _UPLOAD_NS

        def is_sound(file: _Object) -> bool:
            try:
                return file.is_snapshots and upkeep.has_columns(self._schema(file), schema)
            except pa.ArrowException:
                return False

        young = [file for file in files if file.changed_ns >= since]
        sound = zip(young, at_once(is_sound, young), strict=True)
        return [file for file, is_one in sound if not is_one], max((file.changed_ns for file in files), default=0)

    @contextmanager
    def _changing(self, view: str, files: Sequence[_Object]) -> Iterator[Path]:
        """Yield a local data directory with copies of `files`, and bring back what has been changed in it."""
        bucket, tried = self._bucket, self._bucket.tried
        versions: dict[str, bytes | None] = {}
        with TemporaryDirectory(prefix="snapshots-") as folder:
            data_dir = Path(folder)

            def fetch(file: _Object) -> None:
                versions[file.key] = bucket.fetch(file.key, data_dir / file.key)

            def put(key: str) -> None:
                if key in versions:
                    bucket.check(key, versions[key])
                bucket.put(key, data_dir / key)
                versions.pop(key, None)

            def remove(file: _Object) -> None:
                with suppress(Replaced):  # by a snapshot that is younger
                    bucket.check(file.key, versions[file.key])
                    bucket.remove(file.key)

            tried(partial(at_once, fetch, files))
            for key, _ in tried(partial(bucket.listed, f"quarantine/{view}")):  # names that are taken
                (data_dir / key).parent.mkdir(parents=True, exist_ok=True)
                (data_dir / key).touch()
            before = _states(data_dir)
            try:
                yield data_dir
            except PipelineError as error:
                raise PipelineError(error.what.replace(folder, str(self.place)), error.advice) from error
            after = _states(data_dir)
            new = [key for key, state in after.items() if before.get(key) != state]
            for is_aside in (True, False):  # nothing is ever in no place
                tried(partial(at_once, put, [key for key in new if key.startswith("quarantine/") == is_aside]))
            fault_point("objects: brought")
            # of what the file of a month or day has in common with others, the others count: they go last
            for is_one in (False, True):
                gone = [file for file in files if file.key not in after and (not file.width) == is_one]
                tried(partial(at_once, remove, gone))
                fault_point("objects: removed")


def _states(data_dir: Path) -> dict[str, tuple[int, int, int]]:
    """Return the Parquet files below a folder, and what changes when they do."""
    found = {path.relative_to(data_dir).as_posix(): path.stat() for path in data_dir.rglob("*.parquet")}
    return {key: (status.st_ino, status.st_size, status.st_mtime_ns) for key, status in found.items()}

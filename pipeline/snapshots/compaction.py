"""Compaction: the snapshots of a past day, and of a past month, in one file; and the end of those kept long enough.

Rows and values stay, in the order of instant and asset, and so do the notes of each snapshot. The day of the newest
snapshot, and what is younger, stays as it is: it is what runs look at.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.places import DataDir, Store
from pipeline.base.settings import Keep
from pipeline.base.specs import TIMESTAMP
from pipeline.base.stop import raise_if_stopped
from pipeline.snapshots.exchange import alone, remove_replaced, replace_files
from pipeline.snapshots.files import (
    file_name,
    instants_in,
    newest_snapshot,
    read_snapshot,
    schema_of,
    snapshot_files,
    snapshot_instant,
    snapshot_path,
    with_notes,
)
from pipeline.snapshots.parquet import write_parquet
from pipeline.snapshots.store import Compacted, File, Part, ThinOut, opened

# A row group holds whole snapshots until it has so many rows: a join then reads little besides the one that it wants.
_GROUP_ROWS = 2_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY, _MOMENT = timedelta(days=1), timedelta(microseconds=1)


def compact(
    data_dir: DataDir,
    view: str,
    before: datetime,
    *,
    keep: Keep = (),
    online: datetime | None = None,
    months: int | None = None,
) -> Compacted:
    """Make one file of the snapshots of each day, or of each month, of `view` that is over at `before`.

    With `keep`, snapshots are removed for good: a past day or month, when its last one has become older than one age,
    keeps the first in each step of the next age; it is counted back from the newest snapshot of all. Not more than
    `months` months are changed, the oldest first. Raises `PipelineError` where the snapshot as of `online` would be
    removed, or a snapshot or the disk fails; readers then have what they had. A store says itself what its files are.
    """
    done, newest = Compacted(), newest_snapshot(data_dir, view)
    if newest is None:
        return done
    now = min(snapshot_instant(newest), datetime.now(UTC))  # one of them may be of a wrong clock
    before = min(before, now).replace(hour=0, minute=0, second=0, microsecond=0)
    thin_out = partial(kept, keep) if keep else None
    if isinstance(data_dir, Store):
        return opened(data_dir).compact(view, before, thin_out, now, online, months)
    folder = data_dir / view

    def work(month: datetime) -> list[Part[Path]]:
        last = last_of_month(month, before)
        return list(parts(snapshot_files(data_dir, view, month, last), instants_in, last, thin_out, now))

    if online:
        check_online(view, online, work(first_of_month(online)))
    remove_replaced(folder)
    for month in _months(folder):
        raise_if_stopped()
        if not work(month):
            continue
        with alone(data_dir):
            found = work(month)
            replace(folder, found)
        done.add(found)
        months = months and months - 1
        if months == 0:
            break
    return done


def check_online(view: str, online: datetime, work: Iterable[Part[File]]) -> None:
    """Raise `PipelineError` where the snapshot that is online would be removed by the `work`."""
    if any(online in {*part.instants} - {*part.kept} for part in work):
        raise PipelineError(
            f"{view}: this --keep would remove the snapshot of {online:%Y-%m-%dT%H:%M:%SZ}, which is online. Run "
            "first, or keep for longer"
        )


def _months(folder: Path) -> list[datetime]:
    """Return the first instants of the months that have a folder, in order."""
    found = set()
    for path in folder.iterdir():
        with suppress(ValueError):
            found.add(datetime.fromisoformat(path.name.removeprefix("snapshot_date=")).replace(day=1, tzinfo=UTC))
    return sorted(found)


def first_of_month(instant: datetime) -> datetime:
    """Return the first instant of the month of one."""
    return instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def last_of_month(start: datetime, before: datetime) -> datetime:
    """Return the last instant of the month that begins at `start`, or the last one `before` another."""
    return min((start + 31 * _DAY).replace(day=1), before) - _MOMENT


def parts(
    found: Iterable[tuple[datetime, datetime, File]],
    instants_of: Callable[[File], list[datetime]],
    last: datetime,
    thin_out: ThinOut | None,
    now: datetime,
) -> Iterator[Part[File]]:
    """Yield what there is to do in a month up to `last`: nothing for one file of which all is kept.

    `found` are its files, each with its first and last instant, `instants_of` tells those between.
    """
    is_over = (last + _MOMENT).day == 1
    of_month = sorted((entry for entry in found if entry[1] <= last), key=lambda entry: entry[:2])
    for _, entries in groupby(of_month, key=lambda entry: is_over or entry[0].date()):
        files = [file for _, _, file in entries]
        if len(files) == 1 and not thin_out:
            continue  # unopened
        held = {file: instants_of(file) for file in files}
        instants = sorted({instant for each in held.values() for instant in each})
        left = thin_out(instants, now - instants[-1]) if instants and thin_out else instants
        if sum(map(bool, held.values())) > 1 or left != instants:
            yield Part([file for file, each in held.items() if each], instants, left)


def kept(keep: Keep, instants: Sequence[datetime], age: timedelta) -> list[datetime]:
    """Return which of the `instants` are kept where the last one is so old."""
    step = next((step for step, until in keep if age <= until), None)
    return [next(slot) for _, slot in groupby(instants, lambda each: (each - _EPOCH) // step)] if step else []


def replace(folder: Path, work: Sequence[Part[Path]]) -> None:
    """Do the `work` in the folder of a view, in one step; for within `alone`."""

    def write(target: Path) -> None:
        for part in work:
            if part.kept:
                _write(folder, part.kept, target)

    replace_files(folder, {path for part in work for path in part.files}, write)


def _write(folder: Path, instants: Sequence[datetime], target: Path) -> None:
    """Write one file of the snapshots as of `instants` into `target`, where `folder` would have it."""
    paths = {instant: snapshot_path(folder.parent, folder.name, instant) for instant in instants}
    with _reading(folder):
        schemas = {instant: schema_of(path) for instant, path in paths.items()}
        # the columns of now, which a run has brought to all, and those that only some have
        schema = pa.unify_schemas([each.remove_metadata() for each in schemas.values()])
    schema = with_notes(schema, schemas) if len(instants) > 1 else schemas[instants[0]]

    def rows() -> Iterator[pa.RecordBatch]:
        waiting = [schema.empty_table()]
        for instant, path in paths.items():
            with _reading(path):
                table = read_snapshot(path)
                if not pc.all(pc.equal(table["event_timestamp"], pa.scalar(instant, TIMESTAMP)), min_count=0).as_py():
                    raise pa.ArrowInvalid("it has rows as of another instant")
                waiting.append(table.sort_by("asset_id"))
            if sum(map(len, waiting)) >= _GROUP_ROWS or instant == instants[-1]:
                whole = pa.concat_tables(waiting, promote_options="default").cast(schema).combine_chunks()
                yield from whole.to_batches()
                waiting = [schema.empty_table()]

    file = target / paths[instants[0]].relative_to(folder).with_name(file_name(instants[0], instants[-1]))
    write_parquet(pa.RecordBatchReader.from_batches(schema, rows()), file)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise PipelineError(f"{path} cannot be put into one file with others: {first_line(error)}") from error

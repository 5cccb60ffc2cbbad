"""Backfill: the snapshots of many past instants, each source row read once per chunk of instants."""

import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base.errors import WrongOption
from pipeline.base.places import DataDir
from pipeline.base.retries import retrying_for
from pipeline.base.settings import Settings
from pipeline.base.specs import SPECS, TIMESTAMP
from pipeline.base.stop import raise_if_stopped
from pipeline.runs.lineage import BACKFILL, told
from pipeline.snapshots import quality
from pipeline.snapshots.files import (
    holds,
    is_there,
    newest_snapshot,
    snapshot_instant,
    snapshot_path,
    snapshots,
    snapshots_between,
    write_snapshot,
)
from pipeline.snapshots.quarantine import few_in_words, in_words, quarantine_path, set_aside
from pipeline.snapshots.upkeep import is_of_definition
from pipeline.sources import extract
from pipeline.sources.clickhouse import open_clickhouse
from pipeline.sources.postgres import open_postgres
from pipeline.sources.telemetry import check_bucket_width, read_telemetry

logger = logging.getLogger(__name__)

DAY = timedelta(days=1)
# Reading a chunk takes in the 90 d before its first instant besides the days that it spans: longer chunks read less,
# and hold the rows of more instants in memory.
CHUNK_DAYS = 92

# Told the instants done so far and the instants in all, whenever that changes.
Progress = Callable[[int, int], None]
# By view and feature, the rows whose value is not plausible: a table per instant.
Implausible = dict[tuple[str, str], list[pa.Table]]


@dataclass
class BackfillResult:
    """What a backfill did: instants written and already there, and the instants without any asset or telemetry.

    `renewed` of those written had one that was damaged or of an older definition; `revised` is the number of snapshots
    that a revision has replaced because a value had changed.
    `rejected` is the number of snapshots that the quality gate has kept out, `set_aside` that of rows in the others;
    `implausible` has the rows whose value is not plausible, by view and feature.
    """

    written: int = 0
    renewed: int = 0
    revised: int = 0
    present: int = 0
    rows: int = 0
    bytes: int = 0
    rejected: int = 0
    set_aside: int = 0
    implausible: Implausible = field(default_factory=lambda: defaultdict(list))
    empty: dict[str, list[datetime]] = field(default_factory=dict)


def instants_between(start: datetime, end: datetime, every: timedelta) -> list[datetime]:
    """Return the as-of instants from `start` (inclusive) to `end` (exclusive), `every` apart.

    Raises `WrongOption` where `start` is not before `end`, an instant lies in the future, or `every` does not
    divide the windows of the features, which are whole days.
    """
    if start >= end:
        raise WrongOption(f"--start {start.isoformat()} is not before --end {end.isoformat()}")
    if every % DAY and DAY % every:
        raise WrongOption(
            f"--every {every // timedelta(hours=1)}h does not divide the windows of the features, which are "
            "whole days: take hours that divide 24, or days"
        )
    count = -(-(end - start) // every)
    last = start + (count - 1) * every
    if last > datetime.now(UTC):
        raise WrongOption(f"--end {end.isoformat()}: the instant {last.isoformat()} is in the future")
    return [start + number * every for number in range(count)]


def backfill(
    settings: Settings,
    instants: Sequence[datetime],
    views: Sequence[str],
    *,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> BackfillResult:
    """Write the snapshot of each view at each instant, equal to what a run at that instant writes; none is published.

    Snapshots that are there are kept, unless `overwrite`, or their definition lacked a feature. Rows that break a
    rule of the quality gate go into quarantine; a snapshot with more than a few of them is left out. None is compared
    with the one before: history has its gaps. An interruption leaves whole snapshots only, and the next backfill does
    the rest. Raises `PipelineError` where a database fails.
    """
    result = BackfillResult(empty={view: [] for view in views})
    there = {} if overwrite else {view: _present(settings.snapshots, view, instants) for view in views}
    lacking = {instant: [view for view in views if instant not in there.get(view, ())] for instant in instants}
    wanted = {instant: views_then for instant, views_then in lacking.items() if views_then}
    result.present = len(instants) - len(wanted)
    progress(result.present, len(instants))
    with (
        retrying_for(settings.retry_seconds),
        told(BACKFILL, uuid4(), settings, None, max(instants, default=None), {}, views),
        closing(computed(settings, wanted, result.implausible)) as snapshots_now,
    ):
        for instant, snapshots in snapshots_now:
            result.renewed += not overwrite and any(
                is_there(snapshot_path(settings.snapshots, view, instant)) for view in snapshots
            )
            _write_instant(settings, instant, snapshots, result)
            result.written += 1
            progress(result.present + result.written, len(instants))
    for view, empty in result.empty.items():
        if empty:
            logger.warning("%s: no rows in %d snapshots, up to %s", view, len(empty), empty[-1].isoformat())
    for (view, feature), found in result.implausible.items():
        quality.warn_of_implausible(view, feature, pa.concat_tables(found))
    return result


def revise(
    settings: Settings,
    start: datetime,
    end: datetime,
    views: Sequence[str],
    progress: Progress = lambda *_: None,
) -> BackfillResult:
    """Compute the snapshots again that `views` have from `start` to `end` (exclusive), and replace what has changed.

    A row whose values have not changed stays `created` when it was: it is live if it was. The newest snapshot of a view
    is what is online, and left to the next run. One that has lost more rows or known values than a run may lose stays:
    sources forget. Raises `PipelineError` where a database fails.
    """
    data_dir, result = settings.snapshots, BackfillResult(empty={view: [] for view in views})
    wanted: dict[datetime, list[str]] = {}
    for view in views:
        newest = newest_snapshot(data_dir, view)
        for path in snapshots_between(data_dir, view, start, end):
            if path != newest:
                wanted.setdefault(snapshot_instant(path), []).append(view)
    progress(0, len(wanted))
    with (
        retrying_for(settings.retry_seconds),
        told(BACKFILL, uuid4(), settings, None, max(wanted, default=None), {}, views),
        closing(computed(settings, wanted)) as snapshots_now,
    ):
        for instant, snapshots in snapshots_now:
            _write_instant(settings, instant, snapshots, result, is_revision=True)
            result.written += 1
            progress(result.written, len(wanted))
    return result


def computed(
    settings: Settings, wanted: Mapping[datetime, Sequence[str]], implausible: Implausible | None = None
) -> Generator[tuple[datetime, dict[str, pa.Table]]]:
    """Yield the snapshots of the `wanted` views as of each instant, as the databases tell them now, in no set order.

    `implausible`, where it is given, gets the rows whose value is not plausible. The caller closes it. Raises
    `PipelineError` where a database fails.
    """
    views = {view for views_then in wanted.values() for view in views_then}
    if not views:
        return
    from_postgres, from_clickhouse = (
        extract.views_to_read([*views], engine) for engine in ("postgresql", "clickhouse")
    )
    with ExitStack() as stack:
        readers: dict[str, Callable[[list[datetime]], pa.Table]] = {}
        if from_postgres:
            postgres = stack.enter_context(open_postgres(settings))
            extract.warn_of_undated_rows(postgres)
            readers = {view: partial(extract.read_postgres, postgres, view) for view in from_postgres}
        if from_clickhouse:
            clickhouse = stack.enter_context(open_clickhouse(settings))
            check_bucket_width(clickhouse, max(wanted), settings.bucket_seconds)
            read = partial(read_telemetry, clickhouse, bucket_seconds=settings.bucket_seconds)
            # first: it takes most memory, an embedded engine in this process, when there are no rows of others yet
            readers = {view: partial(read, view) for view in from_clickhouse} | readers
        for chunk in chunks_of(list(wanted)):
            tables = {view: read_view(chunk) for view, read_view in readers.items()}
            for instant in chunk:
                yield instant, _snapshots_of(instant, wanted[instant], tables, implausible)
            del tables  # or they stay while the next ones are read


def chunks_of(instants: Sequence[datetime]) -> Iterator[list[datetime]]:
    """Yield the instants in groups whose members are whole days apart and span at most `CHUNK_DAYS`."""
    for _, same_time in groupby(sorted(instants, key=lambda i: (_time_of_day(i), i)), key=_time_of_day):
        chunk: list[datetime] = []
        for instant in same_time:
            if chunk and instant - chunk[0] >= CHUNK_DAYS * DAY:
                yield chunk
                chunk = []
            chunk.append(instant)
        yield chunk


def _time_of_day(instant: datetime) -> timedelta:
    return (instant - datetime.min.replace(tzinfo=UTC)) % DAY


def _present(data_dir: DataDir, view: str, instants: Sequence[datetime]) -> set[datetime]:
    """Return which of the instants have a snapshot of `view` that can be read and is of the definition of now."""
    present, wanted = set(), {*instants}
    for path in snapshots(data_dir, view, min(wanted), max(wanted)) if wanted else ():
        raise_if_stopped()
        if (instant := snapshot_instant(path)) in wanted and is_of_definition(path, view):
            present.add(instant)
    return present


def _snapshots_of(
    instant: datetime, views: Sequence[str], tables: dict[str, pa.Table], implausible: Implausible | None
) -> dict[str, pa.Table]:
    """Return the snapshots of `views` as of one instant, out of the rows of its chunk."""
    rows = {view: _rows_of(table, instant) for view, table in tables.items()}
    completed = {view: extract.completed(SPECS[view], rows) for view in views}
    if implausible is not None:
        for view, table in completed.items():
            for feature, found in quality.implausible(view, table).items():
                implausible[view, feature].append(found)
    return {view: extract.as_snapshot(view, table, datetime.now(UTC)) for view, table in completed.items()}


def _write_instant(
    settings: Settings,
    instant: datetime,
    snapshots: dict[str, pa.Table],
    result: BackfillResult,
    *,
    is_revision: bool = False,
) -> None:
    """Write the snapshots of one instant as the quality gate lets them pass."""
    for view, snapshot in snapshots.items():
        sound, broken = quality.split(view, snapshot, instant, settings.quality_max_rejected)
        if is_revision and sound is not None:  # facts may be gone by now, of which the kept snapshot tells
            since = instant + timedelta(microseconds=1)
            if lost := quality.losses(view, snapshot, settings.snapshots, since, settings.quality_max_drop):
                sound, broken = None, [*lost, *broken]
        if broken:
            rejected_to = quarantine_path(settings.snapshots, view, instant)
            rejected = set_aside(snapshot, broken, rejected_to)
            rejected_in_words = partial(in_words, if_planned="take it over with --overwrite")
            level, say = (logging.ERROR, rejected_in_words) if sound is None else (logging.WARNING, few_in_words)
            logger.log(level, "%s as of %s: %s", view, instant.isoformat(), say(snapshot, broken, rejected_to))
            result.set_aside += 0 if sound is None else rejected
        if sound is None:
            result.rejected += 1
            continue
        path = snapshot_path(settings.snapshots, view, instant)
        if is_revision:
            if holds(path, sound):
                continue
            result.revised += 1
        result.rows += sound.num_rows
        result.bytes += write_snapshot(sound, path)
        if not sound.num_rows:
            result.empty[view].append(instant)


def _rows_of(table: pa.Table, instant: datetime) -> pa.Table:
    return table.filter(pc.equal(table["event_timestamp"], pa.scalar(instant, TIMESTAMP)))

"""One instant: read the asked views as of one instant, keep their snapshots, publish them."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FeatureView

from features.view_spec import ViewSpec
from pipeline.base.clock import ClockError, is_ahead
from pipeline.base.errors import PipelineError, Unavailable
from pipeline.base.fault_points import fault_point
from pipeline.base.results import ViewResult
from pipeline.base.retries import attempts, retrying_for
from pipeline.base.settings import Settings
from pipeline.base.shard import Shard
from pipeline.base.specs import SPECS
from pipeline.base.stop import raise_if_stopped
from pipeline.base.views import ASSETS, ENGINE_REDIS, VIEW_NAMES
from pipeline.online import publish as online
from pipeline.online import verify
from pipeline.online.freshness import online_rows
from pipeline.registry.feast_store import check_data_dir, find_view, is_kept_in, registered_view
from pipeline.registry.holds import Holds
from pipeline.registry.lock import RunLock
from pipeline.runs.compact import compact_a_month
from pipeline.snapshots import quality
from pipeline.snapshots.files import (
    is_there,
    newest_snapshot,
    read_snapshot,
    remove_unfinished,
    set_aside_in,
    snapshot_instant,
    snapshot_path,
    write_snapshot,
)
from pipeline.snapshots.quarantine import few_in_words, in_words, quarantine_path, set_aside
from pipeline.snapshots.upkeep import keep_up
from pipeline.sources import extract
from pipeline.sources.clickhouse import ClickHouseSource, open_clickhouse
from pipeline.sources.postgres import PostgresSource, open_postgres
from pipeline.sources.telemetry import SetsOfSites, extract_telemetry

logger = logging.getLogger(__name__)

# How many entities of each view are read back through Feast after publishing.
VERIFIED_ENTITIES = 100

# Told a view, what is being done with it, and a share of that between 0 and 1.
Progress = Callable[[str, str, float], None]


def materialize(
    settings: Settings,
    as_of: datetime,
    views: list[str],
    *,
    store: FeatureStore | None = None,
    push: bool = True,
    engine: str = ENGINE_REDIS,
    dry_run: bool = False,
    accept_drop: bool = False,
    force: bool = False,
    lock: RunLock | None = None,
    progress: Progress = lambda *_: None,
    results: dict[str, ViewResult] | None = None,
) -> list[ViewResult]:
    """Extract `views` as of `as_of`, write a snapshot of each and publish it in `store`; return a result each.

    Before that, the folder of each view is kept up: see `pipeline.snapshots.upkeep.keep_up`. A view that is online
    already, and of which no snapshot is there, fails, unless `accept_drop`: a missing disk is no new start. One that
    has been rolled back is on hold, and not even read.
    A view that fails keeps its old snapshot and online values and carries its `error`; the other views go on. So does
    one that the quality gate holds back; its `rejected` rows go into quarantine, as do a few of one that it lets pass.
    With `accept_drop` a view may have fewer rows and known values than before. Without `store` or `push` nothing is
    published, with `dry_run` nothing is written. Nothing is published either once `lock` is lost. `engine`, one of
    `pipeline.base.views.ENGINES`, does the publishing, with `force` over newer values, too. A dictionary given as
    `results` holds the results of now at any time. Raises `ClockError` where `as_of` is in the future of PostgreSQL.
    """
    work = Materialization(settings, as_of, views, engine, lock, progress, {} if results is None else results)
    work.force = force
    with retrying_for(settings.retry_seconds):
        if not dry_run:
            work.prepare(store, push=push, accept_drop=accept_drop)
        work.read()
        work.combine()
        work.check(accept_drop=accept_drop, keep_rejected=not dry_run)
        if not dry_run:
            work.keep(store if push else None)
    return [work.results[view] for view in views]


class Materialization:
    """The state of one materialization. A step that fails fails its view, and what depends on it, but not the run."""

    def __init__(
        self,
        settings: Settings,
        as_of: datetime,
        views: list[str],
        engine: str,
        lock: RunLock | None,
        progress: Progress,
        results: dict[str, ViewResult],
    ) -> None:
        self.settings = settings
        self.as_of = as_of
        self.views = views
        self.force = False
        self.engine = engine
        self.lock = lock
        self.progress = progress
        # A view that was not asked for may still be read, because another one needs it.
        self.results = results
        self.results |= {view: ViewResult(view) for view in VIEW_NAMES}
        self.shard: Shard | None = None
        self.raw: dict[str, pa.Table] = {}
        self.snapshots: dict[str, pa.Table] = {}

    def prepare(self, store: FeatureStore | None, *, push: bool, accept_drop: bool, only_look: bool = False) -> None:
        """Keep up the folder of each view, if it is the right one and there; a view that fails is not even read."""
        for view in self.views:
            with self._step(view, "looking at snapshots"):
                registered = self._check_folder(view, store, push, accept_drop) if store else None
                if only_look:
                    continue
                keep_up(
                    self.settings.snapshots,
                    view,
                    progress=partial(self.progress, view, "bringing in new columns"),
                )
                # now, when all files have been looked at, and not the one that this run is to write
                compact_a_month(self.settings, view, registered)
        self.views = [view for view in self.views if not self.results[view].error]

    def read(self) -> None:
        """Read the databases."""
        self._read_postgres(extract.views_to_read(self.views, "postgresql"))
        self._read_clickhouse(extract.views_to_read(self.views, "clickhouse"))

    def combine(self) -> None:
        """Make the snapshots of the asked views in memory."""
        created = datetime.now(UTC)
        for view in self.views:
            if view not in self.raw:
                continue
            with self._step(view, "combining"):
                table = extract.completed(SPECS[view], self._with_stand_ins(SPECS[view]))
                if not table.num_rows and (read := self.raw[view].num_rows):
                    raise PipelineError(
                        f"PostgreSQL knows none of the {read} assets that have telemetry in ClickHouse: "
                        "do DATABASE_URL and CLICKHOUSE_HOST belong to the same dCMMS?"
                    )
                result = self.results[view]
                result.rows = table.num_rows
                result.newest_source = pc.max(table["newest_source_at"]).as_py()
                for feature, rows in quality.implausible(view, table).items():
                    result.implausible[feature] = rows.num_rows
                    quality.warn_of_implausible(view, feature, rows)
                self.snapshots[view] = extract.as_snapshot(view, table, created)

    def check(self, *, accept_drop: bool, keep_rejected: bool) -> None:
        """Set aside the rows that break a rule of the quality gate, and take back the snapshots that break one as such.

        Each view is judged by its own rows. What others take from it, anomaly counts and rated powers, the SQL bounds.
        """
        for view in list(self.snapshots):
            with self._step(view, "checking"):
                self._check(view, accept_drop, keep_rejected)

    def keep(self, store: FeatureStore | None) -> None:
        """Write the snapshots and, with `store`, publish those that are not older than what is online."""
        for view in self.written(store):
            with self._step(view, "publishing"):
                if store and not self._is_overtaken(view, store):
                    self._publish(view, store)

    def written(self, store: FeatureStore | None) -> list[str]:
        """Write the snapshots and return the views that are to be published in `store`: none without one."""
        remove_unfinished(self.settings.snapshots)
        for view in self.views:
            if view in self.snapshots:
                with self._step(view, "writing"):
                    self._write(view)
        written = [view for view in self.views if self.results[view].bytes]
        if store is None or not written:
            return []
        try:
            online.check_online_store(store, self.engine)
        except PipelineError as error:
            self._fail(written, error)
            return []
        return written

    def _check_folder(self, view: str, store: FeatureStore, push: bool, accept_drop: bool) -> FeatureView | None:
        """Return the registered view where the folder is its own; raise `PipelineError` for a wrong or empty one."""
        data_dir = self.settings.snapshots
        # first of all: a view that is not registered cannot be published
        registered = registered_view(store, view) if push else find_view(store, view)
        if not registered or (not push and not is_kept_in(registered, data_dir)):
            return None  # what is not published may be written anywhere
        check_data_dir(registered, data_dir)
        if hold := attempts()(Holds(store).all).get(view):
            self.results[view].on_hold = hold.is_done
            raise PipelineError(str(hold))
        published = registered.most_recent_end_time
        if published and not accept_drop and not newest_snapshot(data_dir, view):
            raise PipelineError(
                f"there is no snapshot in {data_dir / view}, and {published:%Y-%m-%dT%H:%M:%SZ} is online: is the disk "
                "of FEATURE_DATA_DIR mounted? If its snapshots are gone for good, run again with --accept-drop"
            )
        return registered

    def _read_postgres(self, views: list[str]) -> None:
        if not views:
            return
        try:
            for attempt in attempts():
                # All views from one transaction: where it is lost, none of them counts.
                with attempt, open_postgres(self.settings) as source:
                    self._read_views(source, views)
        except ClockError:
            raise
        except PipelineError as error:
            self._fail(views, error)

    def _read_views(self, source: PostgresSource, views: list[str]) -> None:
        source.check_instant(self.as_of)
        read = {}
        for view in views:
            self.results[view].error = None  # of an attempt before
            with self._step(view, "reading", passing=(Unavailable,)):
                table = extract.read_postgres(source, view, [self.as_of], self.shard)
                read[view] = table if self.shard else extract.with_assets(view, table, self.as_of)
        if len(read) == len(views):  # else what has failed may be what this needs
            extract.warn_of_undated_rows(source, self.shard)
        self.raw |= read

    def _read_clickhouse(self, views: list[str]) -> None:
        if not views:
            return
        try:
            with open_clickhouse(self.settings) as source:
                for view in views:
                    with self._step(view, "reading"):
                        seconds = self.settings.bucket_seconds
                        self.raw[view] = extract_telemetry(source, view, self.as_of, seconds, self._share(source))
        except PipelineError as error:
            self._fail(views, error, "reading")

    def _share(self, _source: ClickHouseSource) -> SetsOfSites | None:
        """Return the sites whose telemetry is read: None for all."""
        return None

    def _with_stand_ins(self, spec: ViewSpec) -> dict[str, pa.Table]:
        """Return the extracted rows; for a view that `spec` needs and that failed, what stands in for it, if anything.

        Raises `PipelineError` where `spec` cannot do without.
        """
        data_dir, rows = self.settings.snapshots, dict(self.raw)
        for need in spec.needs:
            if need.view in rows:
                continue
            if need.without:
                if is_there(snapshot_path(data_dir, spec.name, self.as_of)):
                    raise PipelineError(
                        f"the snapshot of this instant stays: without {need.view} a new one would know less"
                    )
                self._note(spec.name, need.without)
                continue
            path = newest_snapshot(data_dir, need.view, until=self.as_of)
            if path is None:
                raise PipelineError(f"needs {need.what}, and there is no earlier snapshot of {need.view}")
            stand_in = read_snapshot(path, ["asset_id", *need.columns])
            set_aside_then = pa.table({"asset_id": set_aside_in(stand_in.schema)})
            rows[need.view] = pa.concat_tables([stand_in, set_aside_then], promote_options="default")
            self._note(spec.name, f"{need.what} are those of the {need.view} snapshot {path.stem}")
        return rows

    def _check(self, view: str, accept_drop: bool, keep_rejected: bool) -> None:
        result, snapshot = self.results[view], self.snapshots.pop(view)
        sound, odd = quality.split(view, snapshot, self.as_of, self.settings.quality_max_rejected)
        wrong = [] if sound is None else self._broken_as_a_whole(view, snapshot, accept_drop)
        path = quarantine_path(self.settings.snapshots, view, self.as_of) if keep_rejected else None
        if odd or wrong:
            fault_point("quality: rejected")
            result.rejected = set_aside(snapshot, [*wrong, *odd], path)
        if sound is None or wrong:
            result.held_back = True
            raise PipelineError(in_words(snapshot, wrong or odd, path))
        if odd:
            self._note(view, few_in_words(snapshot, odd, path))
        result.rows = sound.num_rows
        self.snapshots[view] = sound

    def _broken_as_a_whole(self, view: str, snapshot: pa.Table, accept_drop: bool) -> list[quality.BrokenRule]:
        if ASSETS in self.raw and (broken := quality.wrong_assets(view, snapshot, self.raw[ASSETS]["asset_id"])):
            return broken
        if accept_drop:
            return []
        settings = self.settings
        return quality.losses(view, snapshot, settings.snapshots, self.as_of, settings.quality_max_drop)

    def _write(self, view: str) -> None:
        path = snapshot_path(self.settings.snapshots, view, self.as_of)
        self.results[view].bytes = write_snapshot(self.snapshots[view], path)
        self.progress(view, "written", 1.0)

    def _is_overtaken(self, view: str, store: FeatureStore) -> bool:
        """Return whether what is online of `view` is of a later instant than this one; say so where it is.

        A snapshot that is newer need not be online: Redis may have been emptied since, or never have had it.
        """
        path = snapshot_path(self.settings.snapshots, view, self.as_of)
        newest = newest_snapshot(self.settings.snapshots, view)
        if newest is None or newest == path:
            return False
        if is_ahead(snapshot_instant(newest)):
            raise _of_the_future(f"the snapshot {newest}")
        online = online_rows(store, registered_view(store, view)).newest
        if not online or online <= self.as_of:
            return False
        self._note(view, f"not published: newer values are online, of {online:%Y-%m-%dT%H:%M:%SZ}")
        return True

    def _publish(self, view: str, store: FeatureStore) -> None:
        if self.lock:
            self.lock.check()
        rows = self.results[view].rows
        done = online.publish(
            store,
            view,
            self.as_of,
            snapshot_path(self.settings.snapshots, view, self.as_of),
            engine=self.engine,
            force=self.force,
            replicas=self.settings.redis_wait_replicas,
            progress=lambda done: self.progress(view, "publishing", done / max(rows, 1)),
        )
        self._settle(view, store, done, rows)

    def _settle(self, view: str, store: FeatureStore, done: online.Published, rows: int) -> None:
        """Say what publishing the `rows` of a view has done, and verify it where all of them are online."""
        if done.removed:
            self._note(view, f"removed online: {done.removed} entities that are no longer in it", logging.INFO)
        if done.newer:
            published = registered_view(store, view).most_recent_end_time
            if published and is_ahead(published):
                raise _of_the_future(f"what is online as of {published.isoformat()}")
            self._note(view, f"not published: the online store has newer values of {done.newer} of {rows} rows")
            return
        self._verify(view, store)
        self.results[view].published = True
        self.progress(view, "online", 1.0)

    def _verify(self, view: str, store: FeatureStore) -> None:
        """Read a sample back as a model does; raise `PipelineError` where it is not what the snapshot holds."""
        data_dir = self.settings.snapshots
        path = snapshot_path(data_dir, view, self.as_of)
        features = attempts()(verify.verify, store, data_dir, view, sample=VERIFIED_ENTITIES, path=path)
        result = self.results[view]
        result.compared, result.inconsistent = sum(f.values for f in features), sum(f.wrong for f in features)
        if wrong := [feature for feature in features if feature.wrong]:
            raise PipelineError(
                f"{result.inconsistent} of {result.compared} values read back from the online store are not "
                f"those of the snapshot (first feature: {wrong[0].feature}): run "
                "`materialize_features.py verify` for all of them, and publish again with the redis engine"
            )

    def _note(self, view: str, text: str, level: int = logging.WARNING) -> None:
        logger.log(level, "%s: %s", view, text, extra={"view": view})

    def _fail(self, views: list[str], error: PipelineError, stage: str | None = None) -> None:
        raise_if_stopped()  # the error is only that of a library that was broken off
        for view in views:
            self.results[view].error = str(error)
            self.progress(view, "failed", 1.0)
        names = ", ".join(views)
        logger.error("%s: %s", names, error, extra={"view": names} | ({"stage": stage} if stage else {}))

    @contextmanager
    def _step(self, view: str, stage: str, *, passing: tuple[type[PipelineError], ...] = ()) -> Iterator[None]:
        """Do one thing for one view: its time counts for the view, its failure, but for one to pass on, fails it."""
        raise_if_stopped()
        self.progress(view, stage, 0.0)
        started = time.monotonic()
        try:
            yield
        except passing:  # none of them by default
            raise
        except PipelineError as error:
            self._fail([view], error, stage)
        finally:
            self.results[view].seconds += time.monotonic() - started


def _of_the_future(what: str) -> PipelineError:
    return PipelineError(
        f"not published: {what} is in the future, and nothing replaces it until then. If this machine's clock is right "
        "now, it was wrong then: `rollback` to the last instant before"
    )

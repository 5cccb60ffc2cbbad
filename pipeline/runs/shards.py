"""One instant in shards: each reads a part of the fleet and hands it in, one checks the whole, each publishes a share.

What is read is split, not what is said of it: PostgreSQL by asset, ClickHouse by whole sites, since an asset is judged
by the others of its site. Parts are rows as the databases return them, in files of the data directory that no reader
looks for. Whoever finds all of them there goes on as a run that has read them itself: it combines, checks and writes
the snapshots, of which each shard then publishes its share of the rows. The last one removes what left, and verifies.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore

from pipeline.base.clock import duration
from pipeline.base.errors import PipelineError, first_line
from pipeline.base.fault_points import fault_point
from pipeline.base.places import instant_stem, local_folder
from pipeline.base.results import ViewResult
from pipeline.base.retries import retrying_for
from pipeline.base.settings import Settings
from pipeline.base.shard import Shard
from pipeline.base.specs import SPECS
from pipeline.base.stop import raise_if_stopped
from pipeline.base.views import ENGINE_REDIS
from pipeline.online import publish as online
from pipeline.registry.rounds import JUDGEMENT, PART, SITES, Round
from pipeline.runs.one_instant import Materialization, Progress
from pipeline.snapshots.files import PARTS, is_there, snapshot_path
from pipeline.snapshots.parquet import write_parquet
from pipeline.sources import extract
from pipeline.sources.clickhouse import ClickHouseSource
from pipeline.sources.telemetry import SetsOfSites, shares_of_sites, with_telemetry

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.3


def materialize_shard(
    settings: Settings,
    as_of: datetime,
    views: list[str],
    mine: Round,
    *,
    store: FeatureStore,
    push: bool,
    accept_drop: bool,
    force: bool,
    progress: Progress,
    results: dict[str, ViewResult],
) -> list[ViewResult]:
    """Do the part of one shard in the materialization of `views` as of `as_of`; return a result each.

    The parameters are those of `materialize`. A view that fails in one shard fails in all, and so does one that the
    quality gate holds back. The `rows` of a result are the shard's share; what the gate says is of the whole. Raises
    `PipelineError` where other shards do not come within SHARD_WAIT_SECONDS: then nothing is published, and what was
    online stays.
    """
    part = _Part(settings, as_of, views, mine, progress, results)
    part.force = force
    with retrying_for(settings.retry_seconds):
        if (judgement := mine.get(JUDGEMENT)) is None:
            part.prepare(store, push=push, accept_drop=accept_drop, only_look=True)
            part.read()
            part.hand_in()

            def judge() -> dict[str, Any] | None:
                if mine.missing(PART):
                    return None
                whole = _Whole(settings, as_of, views, ENGINE_REDIS, mine.lock, progress, {})
                return whole.judge(mine, store, push=push, accept_drop=accept_drop)

            judgement = _judged(mine, settings.shard_wait_seconds, judge)
        part.take_over(judgement)
        for view in judgement["publish"]:
            part.publish(view, store)
        fault_point("shards: published")
        mine.leave()
    return [results[view] for view in views]


def _judged(mine: Round, wait_seconds: float, judge: Callable[[], Any]) -> Any:
    """Return the judgement of all parts, made here or by another shard, when all are there."""
    deadline, told = time.monotonic() + wait_seconds, False
    try:
        while (judgement := mine.once(JUDGEMENT, judge)) is None:
            missing = mine.missing(PART)
            names = ", ".join(map(str, missing))
            if missing and time.monotonic() >= deadline and mine.withdraw():
                raise PipelineError(
                    f"Shard {mine.shard} has waited {duration(wait_seconds)} (SHARD_WAIT_SECONDS) for {names}: nothing "
                    "is published, and what was online stays",
                    "Start all shards again, as of the same instant",
                )
            if missing and not told:
                told = True
                logger.info("shard %s has read its part and waits for %s", mine.shard, names)
            raise_if_stopped()
            time.sleep(_POLL_SECONDS)
    except BaseException:
        with suppress(PipelineError):
            mine.withdraw()
        raise
    return judgement


class _Part(Materialization):
    """The materialization of one shard: its part goes in, and its share of the snapshots out."""

    def __init__(
        self,
        settings: Settings,
        as_of: datetime,
        views: list[str],
        mine: Round,
        progress: Progress,
        results: dict[str, ViewResult],
    ) -> None:
        super().__init__(settings, as_of, views, ENGINE_REDIS, mine.lock, progress, results)
        self.shard = mine.shard
        self._mine = mine
        self._totals: dict[str, int] = {}

    def _share(self, source: ClickHouseSource) -> SetsOfSites:
        """Return the sites of this shard, as one of the shards has shared them out."""
        seconds, count = self.settings.bucket_seconds, self._mine.shard.count
        while (shares := self._mine.once(SITES, lambda: shares_of_sites(source, self.as_of, seconds, count))) is None:
            raise_if_stopped()
            time.sleep(_POLL_SECONDS)
        share: SetsOfSites = shares[self._mine.shard.number - 1]
        return share

    def hand_in(self) -> None:
        """Write the rows that were read, and say that they are there, or why not."""
        handed_in: dict[str, None] = {}
        for view in _views_to_read(self.views):
            if view in self.raw:
                with self._step(view, "handing in"):
                    write_parquet(self.raw[view], _part_path(self, self._mine.shard, view))
                    handed_in[view] = None
        self.raw.clear()
        errors = {view: self.results[view].error for view in _views_to_read(self.views)}
        self._mine.lock.check()
        fault_point("shards: handing in")
        self._mine.put(f"{PART} {self._mine.shard.number}", errors | handed_in)
        fault_point("shards: handed in")

    def take_over(self, judgement: dict[str, Any]) -> None:
        """Make what has become of the views the results of this shard."""
        shard = self._mine.shard
        is_judge = judgement["by"] == shard.number
        if is_judge:
            for path in _part_path(self, shard, "").parent.glob(_part_path(self, None, "*").name):
                path.unlink(missing_ok=True)
        for view, told in judgement["views"].items():
            newest = told["newest_source"]
            whole = ViewResult(**told | {"newest_source": newest and datetime.fromisoformat(newest)})
            self._totals[view] = whole.rows
            if whole.error and not is_judge:  # who has said it
                logger.error("%s: %s", view, whole.error, extra={"view": view})
            seconds = self.results[view].seconds + (whole.seconds if is_judge else 0.0)
            rows = len(shard.rows_of(whole.rows)) if whole.bytes else 0
            self.results[view] = replace(whole, rows=rows, seconds=seconds)

    def publish(self, view: str, store: FeatureStore) -> None:
        """Publish the shard's share of a view; where it was the last one, remove what left, and verify."""
        shard, mine, fact = self._mine.shard, self._mine, f"online {view}"
        path = snapshot_path(self.settings.snapshots, view, self.as_of)
        with self._step(view, "publishing"):
            mine.lock.check()
            self._check_folder(view, store, push=True, accept_drop=False)  # a rollback may have come in between
            if not is_there(path):
                raise PipelineError(f"the snapshot {path} is gone: start all shards again, as of another instant")
            newer = mine.get(f"{fact} {shard.number}")
            if newer is None:  # else a process before this one has done it
                online.check_online_store(store, self.engine)
                rows = self.results[view].rows
                newer = online.publish_share(
                    store,
                    view,
                    self.as_of,
                    path,
                    shard,
                    force=self.force,
                    replicas=self.settings.redis_wait_replicas,
                    progress=lambda done: self.progress(view, "publishing", done / max(rows, 1)),
                ).newer
                mine.put(f"{fact} {shard.number}", newer)
                fault_point("shards: share online")
            self.results[view].is_part_online = not newer
            self.progress(view, "part online", 1.0)

            def end() -> bool:
                removed = online.complete(store, view, self.as_of, path, force=self.force)
                counts = [mine.get(f"{fact} {number}") for number in range(1, shard.count + 1)]
                self._settle(view, store, online.Published(removed=removed, newer=sum(counts)), self._totals[view])
                return True

            if not mine.missing(fact):
                mine.once(f"end {view}", end)


class _Whole(Materialization):
    """The materialization of all shards, up to the snapshots."""

    def judge(self, mine: Round, store: FeatureStore, *, push: bool, accept_drop: bool) -> dict[str, Any]:
        """Check and write the snapshots of all parts; say what has become of the views and which can be published."""
        asked, publish = self.views, list[str]()
        logger.info("shard %s checks what all of %d have read", mine.shard, mine.shard.count)
        fault_point("shards: judging")
        try:
            self.prepare(store, push=push, accept_drop=accept_drop)
            self._load(mine)
            self.combine()
            self.check(accept_drop=accept_drop, keep_rejected=True)
            for view in self.written(store if push else None):
                with self._step(view, "comparing with what is online"):
                    if not self._is_overtaken(view, store):
                        publish.append(view)
        except PipelineError as error:  # the other shards would meet it, too
            self._fail(asked, error)
        fault_point("shards: written")
        told = {view: asdict(self.results[view]) for view in asked}
        for result in told.values():
            result["newest_source"] = result["newest_source"] and result["newest_source"].isoformat()
        return {"by": mine.shard.number, "views": told, "publish": publish}

    def _load(self, mine: Round) -> None:
        """Take the parts of all shards for what was read."""
        shards = [Shard(number, mine.shard.count) for number in range(1, mine.shard.count + 1)]
        parts = {shard: mine.get(f"{PART} {shard.number}") for shard in shards}
        for view in _views_to_read(self.views):
            with self._step(view, "reading"):
                for shard, errors in parts.items():
                    if error := errors.get(view, "it was not read"):
                        raise PipelineError(f"shard {shard}: {error}")
                table = pa.concat_tables(_read_part(_part_path(self, shard, view), shard) for shard in shards)
                is_telemetry = SPECS[view].engine == "clickhouse"
                self.raw[view] = (with_telemetry if is_telemetry else extract.with_assets)(view, table, self.as_of)


def _views_to_read(views: list[str]) -> list[str]:
    return [view for engine in ("postgresql", "clickhouse") for view in extract.views_to_read(views, engine)]


def _part_path(work: Materialization, shard: Shard | None, view: str) -> Path:
    """Return where the rows of `view` are that a shard has read, or the pattern of those of all shards."""
    name = f"{shard.number}-of-{shard.count}" if shard else "*"
    return local_folder(work.settings.snapshots) / PARTS / f"{view}.{instant_stem(work.as_of)}.{name}.parquet"


def _read_part(path: Path, shard: Shard) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise PipelineError(
            f"the part of shard {shard} cannot be read: {first_line(error)}",
            "Is FEATURE_DATA_DIR one folder for all hosts?",
        ) from error

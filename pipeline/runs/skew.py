"""Skew: how far what was served differs from what the databases say now of the same instants.

Telemetry arrives late and rows are edited. A model that is trained on backfilled snapshots has seen the facts as they
are now, the online store those that were there at the time.
"""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.view_spec import look_up
from pipeline.base.errors import PipelineError
from pipeline.base.places import DataDir, Snapshot
from pipeline.base.retries import retrying_for
from pipeline.base.settings import Settings
from pipeline.base.specs import VIEWS
from pipeline.base.stop import raise_if_stopped
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Ledger
from pipeline.runs.backfill import Progress, computed
from pipeline.snapshots.changes import is_equal
from pipeline.snapshots.files import (
    can_be_read,
    lacked_in,
    read_snapshot,
    set_aside_in,
    snapshot_instant,
    snapshot_path,
    snapshots_between,
    view_of,
)

logger = logging.getLogger(__name__)


@dataclass
class FeatureSkew:
    """One feature: how many values were compared, how many of them `differ` now, and by how much numbers do."""

    view: str
    feature: str
    unit: str
    values: int = 0
    differ: int = 0
    sizes: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the values that differ."""
        return self.differ / self.values if self.values else 0.0

    @property
    def typical(self) -> float | None:
        """Median of the absolute differences, in the feature's unit; None where no two numbers differ."""
        sizes = np.concatenate([np.empty(0), *self.sizes])
        return float(np.median(sizes)) if len(sizes) else None

    def as_json(self) -> dict[str, Any]:
        """Return it in types that JSON has."""
        names = ("view", "feature", "unit", "values", "differ", "share", "typical")
        return {name: getattr(self, name) for name in names}


@dataclass
class Skew:
    """The skew of each feature, over the `live` instants, each with the views that have live snapshots of it."""

    live: dict[datetime, list[str]]
    features: list[FeatureSkew]

    def record(self) -> None:
        """Append it to the ledger of runs, where `report` finds it; a ledger that fails is a warning."""
        views = {}
        for view in dict.fromkeys(feature.view for feature in self.features):
            features = [feature for feature in self.features if feature.view == view]
            worst = max(features, key=lambda feature: feature.share)
            views[view] = {
                "instants": sum(view in views_of_instant for views_of_instant in self.live.values()),
                "values": sum(feature.values for feature in features),
                "differ": sum(feature.differ for feature in features),
                "worst": worst.feature,
                "worst_share": worst.share,
            }
        try:
            with open_feature_store() as store:
                Ledger(store).compared(max(self.live), views)
        except PipelineError as error:
            logger.warning("%s. The skew is not in the ledger.", error.what.rstrip("."))


def measure_skew(
    settings: Settings,
    views: Sequence[str],
    start: datetime,
    end: datetime,
    *,
    sample: int | None = None,
    progress: Progress = lambda *_: None,
) -> Skew:
    """Compute the live snapshots of `views` from `start` to `end` (exclusive) again, and compare each value.

    A row is live that was `created` before the next run of the schedule was due (SCHEDULE_MINUTES): what was computed
    later, by a backfill or again, was not served. An asset that only one of the two has counts with all its values;
    one whose row was set aside does not. With `sample`, so many instants, chosen at random. Raises `PipelineError`
    where no snapshot is live or a database fails.
    """
    limit = timedelta(minutes=settings.schedule_minutes)
    wanted = _live(settings.snapshots, views, start, end, limit, sample)
    if not wanted:
        raise PipelineError(
            f"No snapshot from {start.isoformat()} to {end.isoformat()} is live: all rows were created later than "
            f"{settings.schedule_minutes} min (SCHEDULE_MINUTES) after their instant, as those of a backfill are"
        )
    there = {view for of_instant in wanted.values() for view in of_instant}
    found = {
        view: [FeatureSkew(view, f.name, f.tags["unit"]) for f in VIEWS[view].features]
        for view in views
        if view in there
    }
    with retrying_for(settings.retry_seconds), closing(computed(settings, wanted)) as computed_now:
        for number, (instant, tables) in enumerate(computed_now, 1):
            for view, now in tables.items():
                _compare(snapshot_path(settings.snapshots, view, instant), now, limit, found[view])
            progress(number, len(wanted))
    return Skew(wanted, [feature for of_view in found.values() for feature in of_view])


def _live(
    data_dir: DataDir, views: Sequence[str], start: datetime, end: datetime, limit: timedelta, sample: int | None
) -> dict[datetime, list[str]]:
    """Return the instants of which some view has live rows, at most `sample` of them, and which views."""
    kept: dict[datetime, list[Snapshot]] = {}
    for view in views:
        for path in snapshots_between(data_dir, view, start, end):
            kept.setdefault(snapshot_instant(path), []).append(path)
    order = sorted(kept)
    if sample is not None:
        order = [order[place] for place in np.random.default_rng().permutation(len(order))]
    live: dict[datetime, list[str]] = {}
    for instant in order:
        raise_if_stopped()
        paths = [path for path in kept[instant] if can_be_read(path)]
        times = {path: read_snapshot(path, ["event_timestamp", "created"]) for path in paths}
        if served := [view_of(path) for path, table in times.items() if pc.any(_is_live(table, limit)).as_py()]:
            live[instant] = served
        if len(live) == sample:
            break
    return live


def _is_live(rows: pa.Table, limit: timedelta) -> pa.ChunkedArray:
    return pc.less(pc.subtract(rows["created"], rows["event_timestamp"]), pa.scalar(limit, pa.duration("us")))


def _compare(path: Snapshot, now: pa.Table, limit: timedelta, features: list[FeatureSkew]) -> None:
    """Add to `features` how the live rows of the snapshot at `path` differ from `now`."""
    kept = read_snapshot(path)
    is_live, lacked = _is_live(kept, limit), lacked_in(kept.schema)
    left_out = pa.chunked_array([*kept.filter(pc.invert(is_live))["asset_id"].chunks, set_aside_in(kept.schema)])
    kept, now = kept.filter(is_live), now.filter(pc.invert(pc.is_in(now["asset_id"], value_set=left_out)))
    keys = pc.unique(pa.chunked_array([*kept["asset_id"].chunks, *now["asset_id"].chunks], pa.string()))
    for feature in features:
        name = feature.feature
        if (
            name not in kept.column_names
            or name in lacked
            or kept.schema.field(name).type != now.schema.field(name).type
        ):
            continue  # its definition was another one
        then_value, now_value = look_up(kept, name, keys), look_up(now, name, keys)
        differs = pc.invert(is_equal(then_value, now_value))
        feature.values += len(keys)
        feature.differ += pc.sum(differs).as_py() or 0
        if pa.types.is_primitive(now_value.type):
            numbers = [column.filter(differs).cast(pa.float64()) for column in (then_value, now_value)]
            feature.sizes.append(pc.abs(pc.subtract(*numbers)).drop_null().to_numpy())

"""What is really online: the event timestamps of a sample of a view's entities, as Feast answers them.

The registry and the ledger say what was recorded. Neither knows of a Redis that was emptied, nor of a stock
`feast materialize-incremental` that has written nothing and recorded that it did.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from feast import FeatureStore, FeatureView

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.views import ENGINE_FEAST
from pipeline.online.publish import check_online_store
from pipeline.registry.feast_store import registered_folder
from pipeline.snapshots.files import newest_snapshot, read_snapshot

# How many entities of a view are looked for.
SAMPLE = 100


@dataclass(frozen=True)
class OnlineRows:
    """The online rows of `asked` entities: the oldest and the newest event timestamp, and how many have no row."""

    asked: int = 0
    missing: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


def online_rows(store: FeatureStore, view: FeatureView, sample: int = SAMPLE) -> OnlineRows:
    """Look for `sample` entities, chosen at random, of the snapshot that the registry says is online.

    Where that is gone, of the one before it, or else of the newest one: in the folder with which `view` is registered.
    Raises `PipelineError` where there is no snapshot, or the online store is out of reach.
    """
    folder = registered_folder(view)
    path, recorded = None, view.most_recent_end_time
    if folder:
        path = newest_snapshot(folder.parent, folder.name, until=recorded) if recorded else None
        path = path or newest_snapshot(folder.parent, folder.name)
    if path is None:
        raise PipelineError(f"there is no snapshot in {folder}, which would tell whose rows to look for")
    ids = read_snapshot(path, ["asset_id"])["asset_id"]
    chosen = np.random.default_rng().choice(len(ids), min(sample, len(ids)), replace=False)
    found = [stamp for stamp in event_timestamps(store, view, ids.take(chosen).to_pylist()) if stamp]
    return OnlineRows(len(chosen), len(chosen) - len(found), min(found, default=None), max(found, default=None))


def event_timestamps(store: FeatureStore, view: FeatureView, ids: list[str]) -> list[datetime | None]:
    """Return the event timestamp of the online row of each entity, None for one that has none.

    Raises `PipelineError` where the online store is out of reach.
    """
    if not ids:
        return []
    check_online_store(store, ENGINE_FEAST)
    feature = view.features[0].name
    try:
        answer = store.get_online_features([f"{view.name}:{feature}"], {"asset_id": ids}).proto
    except Exception as error:  # each online store's driver raises its own kinds
        raise PipelineError(f"Online store: {first_line(error)}", "Check that it is up") from error
    column = list(answer.metadata.feature_names.val).index(feature)
    # Feast answers 1970-01-01 where there is no row
    stamps = answer.results[column].event_timestamps
    return [stamp.ToDatetime(UTC) if stamp.seconds else None for stamp in stamps]

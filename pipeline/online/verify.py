"""Online-offline consistency: what Feast answers online, compared value by value with the newest snapshot.

The counts are those of Chronon's online-offline consistency: values that differ, that only the snapshot has (missing)
and that only the online store has (extra).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from feast import FeatureStore
from feast.infra.online_stores.redis import RedisOnlineStoreConfig

from pipeline.base.errors import PipelineError
from pipeline.base.places import DataDir, Snapshot
from pipeline.base.specs import snapshot_schema
from pipeline.online.redis.departed import departed_online
from pipeline.online.redis.engine import redis_client, row_encoder, translated_errors
from pipeline.registry.feast_store import check_data_dir, registered_view
from pipeline.snapshots.files import newest_snapshot, snapshot_dataset

# One request to Feast: its answer holds an object per value.
_REQUEST_ROWS = 1_000


@dataclass
class Consistency:
    """How many values of one feature were compared, and how many of them are not as they should be."""

    view: str
    feature: str
    values: int = 0
    mismatched: int = 0
    missing: int = 0
    extra: int = 0

    @property
    def wrong(self) -> int:
        """How many values are not as they should be; 0 is what is expected."""
        return self.mismatched + self.missing + self.extra


def verify(
    store: FeatureStore, data_dir: DataDir, view: str, *, sample: int | None = None, path: Snapshot | None = None
) -> list[Consistency]:
    """Compare what `get_online_features` answers for `view` with its newest snapshot, or the one at `path`.

    Returns one result per feature.

    With `sample`, so many entities of the snapshot, chosen at random. Without it all of them, and those that only the
    online store has (where that is Redis, whose keys can be listed). Raises `PipelineError` where there is no
    snapshot, the view is not registered, or with another folder, or the online store fails.
    """
    registered = registered_view(store, view)
    check_data_dir(registered, data_dir)
    path = path or newest_snapshot(data_dir, view)
    if path is None:
        raise PipelineError(f"{view}: there is no snapshot in {data_dir / view} to compare with")
    snapshot = snapshot_dataset(path, snapshot_schema(view))
    results = {field.name: Consistency(view, field.name) for field in registered.features}
    with translated_errors():
        for rows in _rows(snapshot, sample):
            _compare(store, rows, results)
        if sample is None and can_be_listed(store):
            for ids in departed_online(redis_client(store), row_encoder(store, registered), path):
                _compare(store, _without_values(ids, rows.schema), results)
    return list(results.values())


def _rows(snapshot: ds.Dataset, sample: int | None) -> Iterator[pa.RecordBatch]:
    if sample is None or sample >= snapshot.count_rows():
        yield from snapshot.to_batches(batch_size=_REQUEST_ROWS)
        return
    ids = snapshot.to_table(["asset_id"])["asset_id"]
    chosen = ids.take(np.random.default_rng().choice(len(ids), sample, replace=False))
    yield from snapshot.to_batches(filter=pc.field("asset_id").isin(chosen), batch_size=_REQUEST_ROWS)


def _without_values(ids: pa.Array, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as a snapshot without them has them: every feature is NULL."""
    columns = [ids if field.name == "asset_id" else pa.nulls(len(ids), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, names=schema.names)


def _compare(store: FeatureStore, rows: pa.RecordBatch, results: dict[str, Consistency]) -> None:
    if not rows.num_rows:
        return
    ids = rows.column("asset_id").to_pylist()
    view = next(iter(results.values())).view
    answer = store.get_online_features([f"{view}:{name}" for name in results], {"asset_id": ids}).to_dict()
    for name, result in results.items():
        expected = rows.column(name)
        count_differences(expected, pa.array(answer[name], expected.type), result)


def count_differences(expected: pa.Array, online: pa.Array, result: Consistency) -> None:
    """Add to `result` how many of the `online` values of a feature are not as `expected`, of the same entities."""
    if pa.types.is_floating(expected.type):  # Feast takes NaN for NULL
        expected = pc.if_else(pc.is_nan(expected), None, expected)
    offline_has, online_has = expected.is_valid(), online.is_valid()
    result.values += len(expected)
    result.mismatched += _count(pc.not_equal(expected, online))
    result.missing += _count(pc.and_not(offline_has, online_has))
    result.extra += _count(pc.and_not(online_has, offline_has))


def _count(flags: pa.Array) -> int:
    return pc.sum(flags).as_py() or 0


def can_be_listed(store: FeatureStore) -> bool:
    """Return whether the online store is Redis."""
    return isinstance(store.config.online_store, RedisOnlineStoreConfig)

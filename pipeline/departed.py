"""Entities that left: those that the online store may still have and the newest snapshot no longer has."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from redis import Redis

from pipeline.redis_layout import RowEncoder

_BATCH_ROWS = 65_536
_SCAN_COUNT = 10_000


def departed_since(earlier: Iterable[Path], newest: Path) -> Iterator[pa.Array]:
    """Yield the sorted ids of entities in a snapshot of `earlier` that are not in `newest`, a batch at a time."""
    for path in earlier:
        for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(_BATCH_ROWS, columns=["asset_id"]):
            yield _absent(batch.column("asset_id"), newest)


def departed_online(client: Redis, encoder: RowEncoder, newest: Path) -> Iterator[pa.Array]:
    """Yield the sorted ids of entities that have a key in Redis and are not in `newest`, by a scan of all keys."""
    online = scan_ids(client, encoder)
    for start in range(0, len(online), _BATCH_ROWS):
        yield _absent(online.slice(start, _BATCH_ROWS), newest)


def scan_ids(client: Redis, encoder: RowEncoder) -> pa.Array:
    """Return the sorted ids of all entities that have a key in Redis, of whichever view."""
    found, cursor = [], None
    pattern = encoder.key_pattern
    while cursor != 0:
        cursor, keys = client.scan(cursor or 0, match=pattern, count=_SCAN_COUNT)
        found.append(encoder.ids(pa.array(keys, pa.binary())))
    # SCAN may return a key twice
    return pc.unique(pa.concat_arrays(found)).sort()


def _absent(ids: pa.Array, snapshot: Path) -> pa.Array:
    """Return those of the sorted `ids` that `snapshot` does not have; it is read only where they could be."""
    if not len(ids):
        return ids
    between = [("asset_id", ">=", ids[0].as_py()), ("asset_id", "<=", ids[-1].as_py())]
    known = pq.read_table(snapshot, columns=["asset_id"], filters=between, partitioning=None, pre_buffer=False)["asset_id"]
    return ids.filter(pc.invert(pc.is_in(ids, value_set=known.combine_chunks())))

"""Publishing a snapshot to the online store, through Feast's own store."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from feast import FeatureStore, ValueType
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.utils import _convert_arrow_to_proto
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.errors import PipelineError, first_line
from pipeline.feast_store import registered_view

# Feast holds every value of a batch as a Python object: this many rows take some 100 MB.
BATCH_ROWS = 5_000


def check_online_store(store: FeatureStore) -> None:
    """Raise `PipelineError` at once where Redis cannot be reached, whose client would try for seconds per view."""
    online_store = store._get_provider().online_store
    if not isinstance(online_store, RedisOnlineStore):
        return
    client = online_store._get_client(store.config.online_store)
    if not isinstance(client, Redis):  # a cluster has a pool per node
        return
    connection = client.connection_pool.make_connection()
    connection.retry = Retry(NoBackoff(), 0)
    try:
        connection.connect()
        connection.send_command("PING")
        connection.read_response()
    except RedisError as error:
        raise _failure(error) from error
    finally:
        connection.disconnect()


def publish(store: FeatureStore, name: str, snapshot: pa.Table, *, progress: Callable[[int], None]) -> int:
    """Make `snapshot` the online values of the feature view `name`, and record that in the registry.

    Returns how many rows the online store has kept because it holds newer ones. `progress` is told the rows done so
    far. Raises `PipelineError` where the online store fails; each row then holds either its old or its new values.
    """
    view = registered_view(store, name)
    as_of: datetime = snapshot["event_timestamp"][0].as_py()
    provider = store._get_provider()
    kept = 0
    try:
        for start in range(0, snapshot.num_rows, BATCH_ROWS):
            batch = snapshot.slice(start, BATCH_ROWS)
            rows = _convert_arrow_to_proto(batch, view, {"asset_id": ValueType.STRING})
            kept += _prepare_rows(store, name, as_of, [key for key, *_ in rows])
            provider.online_write_batch(store.config, view, rows, progress=None)
            progress(start + batch.num_rows)
    except Exception as error:  # each online store's driver raises its own kinds
        raise _failure(error) from error
    try:
        store.registry.apply_materialization(view, store.project, as_of - timedelta(seconds=1), as_of)
    except Exception as error:  # SQLAlchemy and the registry's driver each raise their own kinds
        raise PipelineError(f"Feast registry: {first_line(error)}. Is its database up?") from error
    return kept


def _failure(error: Exception) -> PipelineError:
    return PipelineError(
        f"Online store: {first_line(error)}. Check that it is up and the connection string in feature_store.yaml."
    )


def _prepare_rows(store: FeatureStore, name: str, as_of: datetime, entity_keys: list[EntityKey]) -> int:
    """Let a corrected snapshot reach Redis, and return how many rows are newer than `as_of` there.

    Feast leaves a row alone whose timestamp is equal or newer: equal ones lose their timestamp here.
    """
    online_store = store._get_provider().online_store
    if not isinstance(online_store, RedisOnlineStore):
        return 0
    field = f"_ts:{name}"
    keys = online_store._generate_redis_keys_for_entities(store.config, entity_keys)
    client = online_store._get_client(store.config.online_store)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hget(key, field)
        stamps = [Timestamp.FromString(stamp).ToDatetime(UTC) if stamp else None for stamp in pipeline.execute()]
        for key in itertools.compress(keys, (stamp == as_of for stamp in stamps)):
            pipeline.hdel(key, field)
        pipeline.execute()
    return sum(stamp is not None and stamp > as_of for stamp in stamps)

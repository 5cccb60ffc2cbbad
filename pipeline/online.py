"""Publishing a snapshot to the online store, through Feast's own store."""

import itertools
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.utils import _convert_arrow_to_proto
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

from pipeline.config import REPOSITORY
from pipeline.errors import PipelineError
from pipeline.schemas import VIEWS

# Feast holds every value of a batch as a Python object: this many rows take some 100 MB.
BATCH_ROWS = 5_000


def open_feature_store() -> FeatureStore:
    """Return the feature store of `FEAST_FS_YAML_FILE_PATH`, or of the repository.

    Raises `PipelineError` where the file is missing, malformed or names an unset variable, or the registry is down.
    """
    path = Path(os.environ.get("FEAST_FS_YAML_FILE_PATH") or REPOSITORY / "feature_store.yaml")
    try:
        unset = [name for name in re.findall(r"\$\{?(\w+)", _without_comments(path)) if name not in os.environ]
        if unset:
            raise PipelineError(f"{path}: {', '.join(unset)} is not set in the environment")
        return FeatureStore(fs_yaml_file=path)
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}") from error
    except PipelineError:
        raise
    except Exception as error:  # Feast, pydantic, yaml and the registry's driver each raise their own kinds
        raise PipelineError(f"Feast registry of {path.name}: {_reason(error)}. Is the registry database up?") from error


def registered_view(store: FeatureStore, name: str) -> FeatureView:
    """Return the registered feature view `name`.

    Raises `PipelineError` where it is not registered, or differs from its definition in names or types.
    """
    try:
        view = store.get_feature_view(name)
    except FeastObjectNotFoundException:
        raise PipelineError(f"{name} is not registered in project {store.project}: run `feast apply`") from None
    except Exception as error:  # the registry's driver and SQLAlchemy raise their own kinds
        raise PipelineError(f"Feast registry: {_reason(error)}. Is the registry database up?") from error
    if {(f.name, f.dtype) for f in view.features} != {(f.name, f.dtype) for f in VIEWS[name].features}:
        raise PipelineError(f"{name} is registered with other features than its definition has: run `feast apply`")
    return view


def publish(
    store: FeatureStore, name: str, snapshot: pa.Table, *, replaced: bool, progress: Callable[[int], None]
) -> None:
    """Make `snapshot` the online values of the feature view `name`.

    `replaced` says that an earlier snapshot of the same instant may be online: Feast leaves rows of an equal
    timestamp alone, so their timestamps are removed first. `progress` is told the number of rows after each batch.
    Raises `PipelineError` where the online store fails; rows then hold either the old or the new values.
    """
    view = registered_view(store, name)
    as_of: datetime = snapshot["event_timestamp"][0].as_py()
    provider = store._get_provider()
    try:
        for start in range(0, snapshot.num_rows, BATCH_ROWS):
            batch = snapshot.slice(start, BATCH_ROWS)
            rows = _convert_arrow_to_proto(batch, view, {"asset_id": ValueType.STRING})
            if replaced:
                _forget_timestamps(store, name, as_of, [key for key, *_ in rows])
            provider.online_write_batch(store.config, view, rows, progress=None)
            progress(batch.num_rows)
    except Exception as error:  # each online store's driver raises its own kinds
        raise PipelineError(f"Online store: {_reason(error)}. Is it up, and its connection string right?") from error
    store.registry.apply_materialization(view, store.project, as_of - timedelta(seconds=1), as_of)


def _forget_timestamps(store: FeatureStore, name: str, as_of: datetime, entity_keys: list[EntityKey]) -> None:
    """Remove the timestamps of the Redis rows of `name` that are exactly `as_of`; newer rows keep theirs."""
    online_store = store._get_provider().online_store
    if not isinstance(online_store, RedisOnlineStore):
        return
    field = f"_ts:{name}"
    stamp = Timestamp()
    stamp.FromDatetime(as_of)
    keys = online_store._generate_redis_keys_for_entities(store.config, entity_keys)
    client = online_store._get_client(store.config.online_store)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hget(key, field)
        stamps = pipeline.execute()
        for key in itertools.compress(keys, (found == stamp.SerializeToString() for found in stamps)):
            pipeline.hdel(key, field)
        pipeline.execute()


def _without_comments(path: Path) -> str:
    return re.sub(r"(?m)^\s*#.*$", "", path.read_text(encoding="utf-8"))


def _reason(error: Exception) -> str:
    """Return the first line of what a driver said, without any password of a URL in it."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return re.sub(r"://[^@/\s]*@", "://***@", first)[:300].rstrip(".")

"""A feature store with made-up snapshots and its Redis, for tests of publishing."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from uuid import UUID

import pyarrow as pa
from feast import FeatureStore
from redis import Redis

from dev.servers import PostgresServer, RedisServer
from pipeline.base.specs import TIMESTAMP, snapshot_schema
from pipeline.base.views import ENGINE_REDIS
from pipeline.online import publish as online
from pipeline.registry.feast_store import open_feature_store, registered_view
from pipeline.snapshots.files import snapshot_path, write_snapshot
from tests.stores import apply_definitions, set_online_store, write_feature_store_yaml

WORK_ORDERS = "work_order_features"
T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
_registries = count()


class Shop:
    """A feature store, its snapshots, and its Redis."""

    def __init__(self, path: Path, data: Path, store: FeatureStore, client: Redis) -> None:
        self.path, self.data, self.store, self.client = path, data, store, client

    def snapshot(self, view: str, as_of: datetime, assets: list[str], value: int) -> Path:
        """Write a snapshot in which every feature of every asset tells `value`; return its path."""
        path = snapshot_path(self.data, view, as_of)
        write_snapshot(snapshot_of(view, as_of, assets, value), path)
        return path

    def publish(
        self, view: str, as_of: datetime, assets: list[str], value: int, engine: str = ENGINE_REDIS
    ) -> online.Published:
        path = self.snapshot(view, as_of, assets, value)
        return online.publish(self.store, view, as_of, path, engine=engine)

    def values(self, view: str, assets: list[str]) -> list[set[object]]:
        """Return the different numbers that Feast answers for each asset, of all features of `view`."""
        fields = [f for f in registered_view(self.store, view).features if f.dtype.name != "STRING"]
        answer = self.store.get_online_features([f"{view}:{f.name}" for f in fields], {"asset_id": assets}).to_dict()
        return [{answer[field.name][row] for field in fields} for row in range(len(assets))]


def snapshot_of(view: str, as_of: datetime, assets: list[str], value: int) -> pa.Table:
    rows = len(assets)
    columns = []
    for field in snapshot_schema(view):
        if field.name == "asset_id":
            columns.append(pa.array(sorted(assets)))
        elif field.type == TIMESTAMP:
            columns.append(pa.array([as_of] * rows, TIMESTAMP))
        else:
            columns.append(pa.array([str(value) if field.type == pa.string() else value] * rows, field.type))
    return pa.table(columns, schema=snapshot_schema(view))


def ids(number: int) -> list[str]:
    return [str(UUID(int=n)) for n in range(number)]


@contextmanager
def opened(directory: Path, postgres: PostgresServer, redis: RedisServer, **options: object) -> Iterator[Shop]:
    """Yield a feature store with a registry of its own, on database 7 of `redis` or what `options` say."""
    path = write_feature_store_yaml(directory, postgres, redis, f"shop_{next(_registries)}")
    set_online_store(path, connection_string=f"127.0.0.1:{redis.port},db=7,socket_timeout=5")
    set_online_store(path, **options)
    apply_definitions(path, directory / "data")
    with (
        closing(Redis(port=redis.port, db=7)) as client,
        open_feature_store(path) as store,
    ):
        yield Shop(path, directory / "data", store, client)


@contextmanager
def other_redis(shop: Shop, connection_string: str | None = None, **options: object) -> Iterator[FeatureStore]:
    """Yield the same feature store with another Redis, or other options."""
    path = shop.path.with_name("other.yaml")
    path.write_text(shop.path.read_text())
    set_online_store(path, **options | ({"connection_string": connection_string} if connection_string else {}))
    with open_feature_store(path) as store:
        yield store

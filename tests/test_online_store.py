"""The faster online store answers what stock Feast's answers, protobuf for protobuf, and falls back to it."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import feast
import pyarrow as pa
import pytest
import redis as redis_py
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List, StringList, Value
from feast.types import Array, Bool, Bytes, Int64, String, UnixTimestamp
from google.protobuf.timestamp_pb2 import Timestamp

from dev.servers import PostgresServer, RedisServer
from entities import asset
from features.services import predictive_maintenance_v1, predictive_maintenance_v2
from pipeline.base.specs import TIMESTAMP, VIEWS, snapshot_schema
from pipeline.online import publish as online
from pipeline.online.verify import verify
from pipeline.operations.doctor.redis import check_redis
from pipeline.registry.feast_store import open_feature_store
from pipeline.snapshots.files import snapshot_path, write_snapshot
from serving import online_store
from serving.online_store import WholeRowRedisOnlineStore
from tests.stores import apply_definitions, set_online_store, write_feature_store_yaml
from tests.test_redis_layout import IDS, VALUES

AS_OF = datetime(2026, 1, 1, 6, 30, 15, 123456, tzinfo=UTC)
LONG_AGO = AS_OF - timedelta(days=4_000)
UNKNOWN = "00000000-0000-4000-8000-00000000dead"
ASSETS = [*filter(None, IDS), *(f"asset {number}" for number in range(100))]

# What other writers may have beside our views: types that ours do not have, an integer as the key, two keys, none.
SOURCE = FileSource(name="elsewhere", path="elsewhere.parquet", timestamp_field="event_timestamp")
NUMBER = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
PLACE = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
OTHER = [Field(name="flag", dtype=Bool), Field(name="blob", dtype=Bytes), Field(name="at", dtype=UnixTimestamp)]
OTHER += [Field(name="numbers", dtype=Array(Int64)), Field(name="texts", dtype=Array(String))]
OTHER_VALUES = {
    "flag": Value(bool_val=False),
    "blob": Value(bytes_val=bytes(range(256))),
    "at": Value(unix_timestamp_val=-1),
    "numbers": Value(int64_list_val=Int64List(val=[1, -1, 2**63 - 1])),
    "texts": Value(string_list_val=StringList(val=["", "ø"])),
}


def other_view(name: str, *entities: Entity) -> FeatureView:
    keys = [Field(name=e.join_key, dtype=String if e is not NUMBER else Int64) for e in entities]
    return FeatureView(name=name, entities=list(entities), schema=[*keys, *OTHER], source=SOURCE)


OTHERS = [
    other_view("of_assets", asset),
    other_view("of_numbers", NUMBER),
    other_view("of_both", asset, PLACE),
    other_view("of_nothing"),
]
RENAMED = FeatureService(
    name="renamed", features=[VIEWS["asset_features"].with_name("mine"), VIEWS["work_order_features"]]
)


@dataclass
class Stores:
    """The same registry and the same Redis, through the stock store and through ours."""

    stock: FeatureStore
    ours: FeatureStore
    data: Path

    def both(self, features: object, entities: list[dict[str, object]], **options: bool) -> tuple[object, object]:
        """Return the answers of both; each the same with and without asyncio."""
        answers = []
        for store in (self.stock, self.ours):
            answer = store.get_online_features(features, entities, **options).proto

            async def ask(store: FeatureStore = store) -> object:
                try:
                    return (await store.get_online_features_async(features, entities, **options)).proto
                finally:
                    await store._get_provider().online_store._client_async.aclose()
                    store._get_provider().online_store._client_async = None

            assert asyncio.run(ask()) == answer
            answers.append(answer)
        return tuple(answers)


@pytest.fixture(scope="module")
def stores(postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    directory = tmp_path_factory.mktemp("online_store")
    stock = write_feature_store_yaml(directory, postgres, redis, "online_store")
    set_online_store(stock, connection_string=f"127.0.0.1:{redis.port},db=7")
    ours = directory / "ours.yaml"
    ours.write_text(stock.read_text())
    set_online_store(ours, type="serving.online_store.WholeRowRedisOnlineStore")
    apply_definitions(stock, directory / "data")
    with ExitStack() as stack:
        opened = Stores(*(stack.enter_context(open_feature_store(path)) for path in (stock, ours)), directory / "data")
        opened.stock.apply([NUMBER, PLACE, *OTHERS, RENAMED])
        opened.ours.refresh_registry()
        client = stack.enter_context(closing(redis_py.Redis(port=redis.port, db=7)))
        client.flushdb()
        _publish(opened.ours)
        _write_others(opened.stock)
        _write_oddly(client)
        yield opened
        client.flushdb()


def _publish(store: FeatureStore) -> None:
    """Publish, through our store, a snapshot per view in which every feature takes every value of its type."""
    for days, view in enumerate(VIEWS):
        as_of = LONG_AGO if days == 0 else AS_OF
        columns = {
            "asset_id": pa.array(sorted(ASSETS)),
            "event_timestamp": pa.array([as_of] * len(ASSETS), TIMESTAMP),
            "created": pa.array([as_of] * len(ASSETS), TIMESTAMP),
        }
        for shift, field in enumerate(snapshot_schema(view)):
            if field.name not in columns:
                values = VALUES[field.type]
                cells = [values[(row + shift) % len(values)] for row in range(len(ASSETS))]
                columns[field.name] = pa.array(cells, field.type)
        path = store_path(store, view, as_of)
        write_snapshot(pa.table(columns, schema=snapshot_schema(view)), path)
        assert online.publish(store, view, as_of, path).rows == len(ASSETS)


def store_path(store: FeatureStore, view: str, as_of: datetime) -> Path:
    folder = Path(store.get_feature_view(view).batch_source.path)
    return snapshot_path(folder.parent, view, as_of)


def _write_others(store: FeatureStore) -> None:
    keys = {
        "of_assets": {"asset_id": Value(string_val="asset 1")},
        "of_numbers": {"number": Value(int64_val=7)},
        "of_both": {"asset_id": Value(string_val="asset 1"), "place": Value(string_val="here")},
        "of_nothing": {"__dummy_id": Value(string_val="")},
    }
    for name, of in keys.items():
        key = EntityKey(join_keys=of.keys(), entity_values=of.values())
        rows = [(key, OTHER_VALUES, AS_OF, None)]
        store._get_provider().online_write_batch(store.config, store.get_feature_view(name), rows, progress=None)


def _write_oddly(client: redis_py.Redis) -> None:
    """Change rows as another program may have written them."""
    no_stamp, nanoseconds, another_type, no_hash = online_store.string_keys(
        "dcmms", "asset_id", ["asset 90", "asset 91", "asset 92", "asset 93"]
    )
    client.hdel(no_stamp, "_ts:asset_features")
    stamp = Timestamp(seconds=1_700_000_000, nanos=123_456_789)
    client.hset(nanoseconds, "_ts:asset_features", stamp.SerializeToString())
    _, field = online_store._fields("asset_features", ("health_score",))
    client.hset(another_type, field, Value(int64_val=7).SerializeToString())
    client.delete(no_hash)
    client.hset(no_hash, "a field", "of nobody")


ROWS = {
    "one": ["asset 1"],
    "three": ["asset 3", "~", "asset 2"],
    "hundred": [f"asset {number}" for number in range(100)],
    "unknown": [UNKNOWN],
    "known and unknown": ["asset 5", UNKNOWN, "é", "nobody"],
    "again and again": ["asset 1", "asset 2", "asset 1", UNKNOWN, "asset 1", UNKNOWN],
    "of other writers": ["asset 90", "asset 91", "asset 92", "asset 93"],
    "keys of every kind": [*filter(None, IDS)],
}


@pytest.mark.parametrize("full_names", [False, True], ids=["short", "full"])
@pytest.mark.parametrize("assets", ROWS.values(), ids=ROWS)
def test_services_answer_as_stock_answers(stores: Stores, assets: list[str], full_names: bool) -> None:
    rows = [{"asset_id": one} for one in assets]
    services = [predictive_maintenance_v1.name, predictive_maintenance_v2.name, "renamed"]
    if not full_names:
        services.remove("renamed")  # two of its views have a feature of the same name
    for service in services:
        stock, ours = stores.both(stores.stock.get_feature_service(service), rows, full_feature_names=full_names)
        assert ours == stock
        assert len(ours.results) > 40


@pytest.mark.parametrize("assets", ROWS.values(), ids=ROWS)
def test_lists_answer_as_stock_answers(stores: Stores, assets: list[str]) -> None:
    features = ["telemetry_features:capacity_factor_7d", "asset_features:model", "telemetry_features:anomaly_count_7d"]
    stock, ours = stores.both(features, [{"asset_id": one} for one in assets])
    assert ours == stock


@pytest.mark.parametrize(
    ("view", "rows"),
    [
        ("of_assets", [{"asset_id": "asset 1"}, {"asset_id": "asset 2"}]),
        ("of_numbers", [{"number": 7}, {"number": 8}, {"number": 7}]),
        ("of_both", [{"asset_id": "asset 1", "place": "here"}, {"asset_id": "asset 1", "place": "there"}]),
        ("of_nothing", [{"anything": 1}]),
    ],
)
def test_views_of_others_answer_as_stock_answers(stores: Stores, view: str, rows: list[dict[str, object]]) -> None:
    features = [f"{view}:{field.name}" for field in OTHER]
    if view == "of_assets":
        features.append("asset_features:health_score")
    stock, ours = stores.both(features, rows)
    assert ours == stock
    found = {name: result.values[0] for name, result in zip(ours.metadata.feature_names.val, ours.results, strict=True)}
    assert OTHER_VALUES.items() <= found.items()


def test_no_row_at_all_is_refused_as_stock_refuses(stores: Stores) -> None:
    for store in (stores.stock, stores.ours):
        with pytest.raises(KeyError, match="No values provided"):
            store.get_online_features(["asset_features:model"], {"asset_id": []})


def test_it_is_ours_that_answers(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("stock reads")

    monkeypatch.setattr(RedisOnlineStore, "_read_hash_fields", refuse)
    assert stores.ours.get_online_features(["asset_features:model"], [{"asset_id": "asset 1"}]).to_dict()
    with pytest.raises(AssertionError, match="stock reads"):
        stores.stock.get_online_features(["asset_features:model"], [{"asset_id": "asset 1"}])


def test_another_version_of_feast_is_left_to_itself(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feast, "__version__", "0.68.0")
    monkeypatch.setattr(online_store, "_answer", None)
    rows = [{"asset_id": one} for one in ROWS["three"]]
    stock, ours = stores.both(stores.stock.get_feature_service(predictive_maintenance_v1.name), rows)
    assert ours == stock


def test_versions_of_views_are_told_as_stock_tells_them(stores: Stores) -> None:
    stock, ours = stores.both(
        ["asset_features:model"], [{"asset_id": "asset 1"}], include_feature_view_version_metadata=True
    )
    assert ours == stock
    assert ours.metadata.feature_view_metadata


def test_bytes_that_are_no_value_fail_as_in_stock(stores: Stores, redis: RedisServer) -> None:
    (key,) = online_store.string_keys("dcmms", "asset_id", ["asset 99"])
    _, field = online_store._fields("asset_features", ("model",))
    with closing(redis_py.Redis(port=redis.port, db=7)) as client:
        before = client.hget(key, field)
        client.hset(key, field, b"\x12\x05no")
        try:
            for store in (stores.stock, stores.ours):
                with pytest.raises(Exception, match="Error parsing message"):
                    store.get_online_features(["asset_features:model"], [{"asset_id": "asset 99"}])
        finally:
            client.hset(key, field, before)


def test_publisher_verify_and_doctor_accept_it(stores: Stores) -> None:
    assert isinstance(stores.ours._get_provider().online_store, WholeRowRedisOnlineStore)
    online.check_online_store(stores.ours, "redis")
    ours, stock = (verify(store, stores.data, "telemetry_features") for store in (stores.ours, stores.stock))
    assert ours == stock
    assert {result.missing for result in ours} == {0, 1}  # of the asset that another program took away
    states = {check.name: check.state for check in check_redis(stores.ours.config)}
    assert states["connection"] == states["writes"] == "ok"

"""The Redis engine writes what Feast writes: every key, field and byte, compared with stock `feast materialize`."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import feast
import pyarrow as pa
import pytest
import yaml
from feast import FeatureStore
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from dev.servers import PostgresServer, RedisServer
from pipeline.base.errors import PipelineError
from pipeline.base.specs import TIMESTAMP, VIEWS, snapshot_schema
from pipeline.base.views import ENGINE_FEAST, ENGINE_REDIS
from pipeline.online import publish as online
from pipeline.online.redis.layout import RowEncoder
from pipeline.registry.feast_store import open_feature_store
from pipeline.snapshots.files import snapshot_path, write_snapshot
from tests.stores import apply_definitions, set_online_store, write_feature_store_yaml

AS_OF = datetime(2026, 1, 1, 6, 30, 15, 123456, tzinfo=UTC)

# Each list is shorter than the rows of a snapshot: it is repeated, shifted by one from feature to feature.
VALUES = {
    pa.string(): [
        None, "", " ", "Vestas", "ø Ω 日本 🌬", "a" * 127, "a" * 128, "b" * 20_000, "\r\n", "$5\r\n\x00", "NaN", "None",
    ],
    pa.int32(): [None, 0, 1, -1, 127, 128, 16_383, 16_384, 2_097_152, 2**31 - 1, -(2**31), 42],
    pa.float32(): [
        None, 0.0, -0.0, 1.5, float("nan"), float("inf"), float("-inf"), 3.4028234663852886e38, 1e-45, 1.1754944e-38,
    ],
    pa.float64(): [None, 0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1.7976931348623157e308, 5e-324, -1e-7],
}  # fmt: skip
IDS = [
    "83559962-7e57-5308-9ca5-2dc142375e2d", "", "a", "é", "日本", "dcmms", "x" * 300, "*?[]\\", "0", "00", "\r\n", "~",
]  # fmt: skip
ROWS = 24


@dataclass
class Stores:
    """Two feature stores that differ in the Redis database only, each with its registry."""

    ours: Path
    stock: Path
    data: Path


@pytest.fixture(scope="module")
def stores(postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    directory = tmp_path_factory.mktemp("layout")
    data = directory / "data"
    paths = []
    for number, name in enumerate(("ours", "stock"), start=5):
        (directory / name).mkdir()
        path = write_feature_store_yaml(directory / name, postgres, redis, f"layout_{name}")
        set_online_store(path, connection_string=f"127.0.0.1:{redis.port},db={number}")
        paths.append(path)
        apply_definitions(path, data)
    yield Stores(*paths, data)
    for path in paths:
        with closing(client_of(path)) as client:
            client.flushdb()


def client_of(path: Path) -> Redis:
    """Return a client of the Redis database that the feature store at `path` writes to."""
    place = yaml.safe_load(path.read_text())["online_store"]["connection_string"]
    address, database = place.split(",db=")
    return Redis(port=int(address.split(":")[1]), db=int(database))


def extreme_snapshot(view: str, rows: int = ROWS, ids: list[str] = IDS) -> pa.Table:
    """Return a snapshot of `view` in which every feature takes every value of its type."""
    columns = {
        "asset_id": pa.array(sorted({*ids, *(f"asset {number}" for number in range(rows - len(ids)))}), pa.string()),
        "event_timestamp": pa.array([AS_OF] * rows, TIMESTAMP),
        "created": pa.array([AS_OF + timedelta(hours=1)] * rows, TIMESTAMP),
    }
    for shift, field in enumerate(snapshot_schema(view)):
        if field.name not in columns:
            values = VALUES[field.type]
            columns[field.name] = pa.array([values[(row + shift) % len(values)] for row in range(rows)], field.type)
    return pa.table(columns, schema=snapshot_schema(view))


def content(path: Path) -> dict[bytes, dict[bytes, bytes]]:
    """Return every key of a Redis database with all of its fields."""
    with closing(client_of(path)) as client:
        return {key: client.hgetall(key) for key in client.scan_iter()}


def publish_both(stores: Stores, view: str) -> None:
    path = snapshot_path(stores.data, view, AS_OF)
    with open_feature_store(stores.ours) as store:
        online.publish(store, view, AS_OF, path, engine=ENGINE_REDIS)
    with open_feature_store(stores.stock) as store:
        online.publish(store, view, AS_OF, path, engine=ENGINE_FEAST)


def test_every_byte_of_all_views_is_what_feast_writes(stores: Stores) -> None:
    for view in VIEWS:
        write_snapshot(extreme_snapshot(view), snapshot_path(stores.data, view, AS_OF))
        publish_both(stores, view)
    ours, stock = content(stores.ours), content(stores.stock)
    assert len(stock) == ROWS
    assert {len(fields) for fields in stock.values()} == {sum(len(view.features) + 1 for view in VIEWS.values())}
    assert ours == stock


def test_every_type_and_value_is_in_the_comparison() -> None:
    types = {field.type for view in VIEWS for field in snapshot_schema(view)} - {TIMESTAMP}
    assert types == set(VALUES)
    assert all(len(values) <= ROWS for values in VALUES.values())


@pytest.fixture(scope="module")
def stock_bytes(stores: Stores) -> Iterator[FeatureStore]:
    """A feature store through which a test lets Feast itself write rows."""
    with open_feature_store(stores.stock) as store:
        yield store


INT32 = st.none() | st.integers(-(2**31), 2**31 - 1)
FLOAT32 = st.none() | st.floats(width=32)
FLOAT64 = st.none() | st.floats()
TEXT = st.none() | st.text(st.characters(codec="utf-8"), max_size=200)
STRATEGIES = {pa.string(): TEXT, pa.int32(): INT32, pa.float32(): FLOAT32, pa.float64(): FLOAT64}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_values_are_encoded_as_feast_encodes_them(stock_bytes: FeatureStore, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(VIEWS)))
    rows = data.draw(st.integers(1, 5))
    ids = data.draw(st.lists(TEXT.filter(bool), min_size=rows, max_size=rows, unique=True))
    instant = datetime(1970, 1, 1, tzinfo=UTC) + data.draw(st.timedeltas(timedelta(days=1), timedelta(days=90_000)))
    columns = {
        field.name: pa.array(
            data.draw(st.lists(STRATEGIES[field.type], min_size=rows, max_size=rows)),
            field.type,
        )
        for field in snapshot_schema(name)
        if field.name not in ("asset_id", "event_timestamp", "created")
    }
    keys = {"asset_id": pa.array(ids)}
    times = {time: pa.array([instant] * rows, TIMESTAMP) for time in ("event_timestamp", "created")}
    batch = pa.RecordBatch.from_pydict(keys | times | columns, schema=snapshot_schema(name))

    view = stock_bytes.get_feature_view(name)
    client = stock_bytes._get_provider().online_store._get_client(stock_bytes.config.online_store)
    client.flushdb()
    rows_of_feast = feast.utils._convert_arrow_to_proto(batch, view, {"asset_id": feast.ValueType.STRING})
    stock_bytes._get_provider().online_write_batch(stock_bytes.config, view, rows_of_feast, progress=None)
    stock = {key: client.hgetall(key) for key in client.scan_iter()}

    client.flushdb()
    encoder = RowEncoder(name, view.features, project=stock_bytes.project, join_key="asset_id", ttl_seconds=None)
    ours = encoder.updates(
        batch, encoder.bulk_keys(batch.column("asset_id")), online.redis_engine.serialized_stamp(instant)
    )
    connection = client.connection_pool.get_connection()
    for command in ours.to_pylist():
        connection.send_packed_command([command])
        connection.read_response()
    client.connection_pool.release(connection)
    assert {key: client.hgetall(key) for key in client.scan_iter()} == stock


def test_ttl_is_set_as_feast_sets_it(stores: Stores, redis: RedisServer) -> None:
    write_snapshot(extreme_snapshot("work_order_features"), snapshot_path(stores.data, "work_order_features", AS_OF))
    for path in (stores.ours, stores.stock):
        set_online_store(path, key_ttl_seconds=3_600)
        with closing(client_of(path)) as client:
            client.flushdb()
    try:
        publish_both(stores, "work_order_features")
        assert content(stores.ours) == content(stores.stock)
        for path in (stores.ours, stores.stock):
            with closing(client_of(path)) as client:
                assert all(3_500 < client.ttl(key) <= 3_600 for key in client.scan_iter())
    finally:
        for path in (stores.ours, stores.stock):
            set_online_store(path, key_ttl_seconds=None)


def test_other_version_of_feast_is_refused(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feast, "__version__", "0.68.0")
    with open_feature_store(stores.ours) as store:
        with pytest.raises(
            PipelineError, match=r"tested with Feast 0\.67\.0, and this is Feast 0\.68\.0.*--engine feast"
        ):
            online.check_online_store(store, ENGINE_REDIS)
        online.check_online_store(store, ENGINE_FEAST)


def test_keys_and_ids_are_each_others_inverse() -> None:
    encoder = RowEncoder("v", [], project="dcmms", join_key="asset_id", ttl_seconds=None)
    other = RowEncoder("v", [], project="xdcmms", join_key="asset_id", ttl_seconds=None)
    keys = pa.concat_arrays([encoder.keys(pa.array(IDS)), other.keys(pa.array(IDS))])
    assert encoder.ids(keys).to_pylist() == IDS

"""The Redis engine on real servers: order, removal, consistency, and Redis servers in trouble."""

import io
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stdout
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureView, Field
from feast.infra.online_stores.helpers import _mmh3
from feast.types import Float32
from redis import Redis

from dev.servers import PostgresServer, RedisServer, free_port
from entities import asset
from pipeline.base.addresses import checked_redis_connection
from pipeline.base.errors import PipelineError
from pipeline.base.specs import snapshot_schema
from pipeline.base.views import ASSETS, ENGINE_FEAST, ENGINE_REDIS
from pipeline.online import publish as online
from pipeline.online.redis.engine import advice_for, row_encoder, unowned_fields
from pipeline.online.redis.layout import serialized_stamp
from pipeline.online.redis.writer import write_rows
from pipeline.online.verify import verify
from pipeline.registry.feast_store import open_feature_store, registered_view
from pipeline.snapshots.files import snapshot_path, write_snapshot
from tests.shops import HOUR, T0, WORK_ORDERS, Shop, ids, opened, other_redis, snapshot_of
from tests.stores import set_online_store


@pytest.fixture
def shop(postgres: PostgresServer, redis: RedisServer, tmp_path: Path) -> Iterator[Shop]:
    with opened(tmp_path, postgres, redis) as shop:
        yield shop
        shop.client.flushdb()


# order ---------------------------------------------------------------------------------------------------------------


def test_newer_snapshot_replaces_and_older_one_does_not(shop: Shop) -> None:
    assets = ids(300)
    assert shop.publish(WORK_ORDERS, T0 + HOUR, assets, 1) == online.Published(rows=300)
    assert shop.publish(WORK_ORDERS, T0 + 2 * HOUR, assets, 2) == online.Published(rows=300)
    assert shop.values(WORK_ORDERS, assets) == [{2}] * 300
    assert shop.publish(WORK_ORDERS, T0, assets, 3) == online.Published(rows=300, newer=300)
    assert shop.values(WORK_ORDERS, assets) == [{2}] * 300


def test_corrected_snapshot_of_the_same_instant_is_published(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(70), 1)
    assert shop.publish(WORK_ORDERS, T0, ids(60), 2) == online.Published(rows=60, removed=10)
    assert shop.values(WORK_ORDERS, ids(70)) == [{2}] * 60 + [{None}] * 10


def test_order_is_kept_row_by_row_whoever_wrote_them(shop: Shop) -> None:
    assets = ids(200)
    shop.publish(WORK_ORDERS, T0, assets[:100], 1)
    # stock Feast writes newer values of some of them, less than a millisecond later
    newer = snapshot_of(WORK_ORDERS, T0 + HOUR + timedelta(microseconds=1), assets[:50], 2)
    shop.store.write_to_online_store(WORK_ORDERS, newer.to_pandas())
    assert shop.publish(WORK_ORDERS, T0 + HOUR, assets, 3) == online.Published(rows=200, newer=50)
    assert shop.values(WORK_ORDERS, assets) == [{2}] * 50 + [{3}] * 150


def test_publishers_at_once_leave_the_newest_row_of_each_asset(shop: Shop) -> None:
    """Eight writers of different instants over the same keys, in different orders, many times."""
    assets, instants = ids(500), [T0 + n * HOUR for n in range(8)]
    encoder = row_encoder(shop.store, registered_view(shop.store, WORK_ORDERS))
    barrier = threading.Barrier(len(instants))

    def write(number: int) -> int:
        table = snapshot_of(WORK_ORDERS, instants[number], assets, number)
        order = np.random.default_rng(number).permutation(len(assets))
        (batch,) = table.take(pa.array(order)).combine_chunks().to_batches()
        stamp = serialized_stamp(instants[number])
        keys = encoder.bulk_keys(batch.column("asset_id"))
        blocks = [online.redis_engine.Rows(keys, encoder.updates(batch, keys, stamp))]
        barrier.wait()
        return write_rows(
            shop.client, blocks, project=shop.store.project, stamp_field=encoder.stamp_field, stamp=stamp
        ).rows

    with ThreadPoolExecutor(len(instants)) as pool:
        for _ in range(3):
            shop.client.flushdb()
            assert list(pool.map(write, range(len(instants)))) == [500] * len(instants)
            assert shop.values(WORK_ORDERS, assets) == [{7}] * 500


# removal -------------------------------------------------------------------------------------------------------------


def test_entities_that_left_lose_the_views_fields_and_the_key_when_nothing_is_left(shop: Shop) -> None:
    assets = ids(6)
    shop.publish(ASSETS, T0, assets[:4], 1)
    shop.publish(WORK_ORDERS, T0, assets, 1)
    assert shop.publish(WORK_ORDERS, T0 + HOUR, assets[:2], 2) == online.Published(rows=2, removed=4)
    assert shop.values(WORK_ORDERS, assets) == [{2}] * 2 + [{None}] * 4
    assert shop.values(ASSETS, assets) == [{1}] * 4 + [{None}] * 2
    assert shop.client.dbsize() == 4


def test_entities_of_a_run_that_died_while_publishing_are_removed_too(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(3), 1)
    died = snapshot_of(WORK_ORDERS, T0 + HOUR, ids(9), 2)
    write_snapshot(died, snapshot_path(shop.data, WORK_ORDERS, T0 + HOUR))
    shop.store.write_to_online_store(WORK_ORDERS, died.slice(5, 4).to_pandas())
    assert shop.publish(WORK_ORDERS, T0 + 2 * HOUR, ids(2), 3).removed == 5
    assert shop.client.dbsize() == 2


def test_a_newer_row_of_another_writer_is_not_removed(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(4), 1)
    newer = snapshot_of(WORK_ORDERS, T0 + 2 * HOUR, ids(4)[3:], 2)
    shop.store.write_to_online_store(WORK_ORDERS, newer.to_pandas())
    assert shop.publish(WORK_ORDERS, T0 + HOUR, ids(2), 3).removed == 1
    assert shop.values(WORK_ORDERS, ids(4)) == [{3}, {3}, {None}, {2}]


def test_prune_looks_at_every_key_and_leaves_other_projects_alone(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(100), 1)
    lost = snapshot_of(WORK_ORDERS, T0, [f"asset {n}" for n in range(30)], 2)
    shop.store.write_to_online_store(WORK_ORDERS, lost.to_pandas())
    foreign = {}
    encoder = row_encoder(shop.store, registered_view(shop.store, WORK_ORDERS))
    for key in shop.client.scan_iter():
        for other in (key + b"x", key[: -len("dcmms")] + b"other", key[: -len("dcmms")] + b"xdcmms", b"x" + key):
            foreign[other] = {encoder.stamp_field: b"1"}
            shop.client.hset(other, mapping=foreign[other])
    shop.client.set("text", "of another program")
    assert online.prune(shop.store, shop.data, WORK_ORDERS) == 30
    assert online.prune(shop.store, shop.data, WORK_ORDERS) == 0
    assert shop.values(WORK_ORDERS, ids(100)) == [{1}] * 100
    assert shop.client.dbsize() == 100 + len(foreign) + 1
    assert all(shop.client.hgetall(key) == fields for key, fields in foreign.items())


def test_a_damaged_snapshot_is_passed_over(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(4), 1)
    lost = snapshot_of(WORK_ORDERS, T0, ["asset 7"], 2)
    shop.store.write_to_online_store(WORK_ORDERS, lost.to_pandas())
    damaged = shop.snapshot(WORK_ORDERS, T0 + HOUR, ids(1), 3)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert online.prune(shop.store, shop.data, WORK_ORDERS) == 1
    assert {feature.wrong for feature in verify(shop.store, shop.data, WORK_ORDERS)} == {0}
    # of the damaged one nobody knows what it has put online: every key is looked at
    shop.store.write_to_online_store(WORK_ORDERS, lost.to_pandas())
    assert shop.publish(WORK_ORDERS, T0 + 2 * HOUR, ids(3), 4) == online.Published(rows=3, removed=2)


def test_fields_of_what_is_no_longer_registered_are_counted_and_pruned(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(3), 1)
    shop.publish(ASSETS, T0, ids(2), 1)
    # a feature and a view that went, a view that somebody else registers, another project, another program
    encoder = row_encoder(shop.store, registered_view(shop.store, WORK_ORDERS))
    keys = encoder.keys(pa.array(ids(3))).to_pylist()
    other = FeatureView(
        name="others",
        entities=[asset],
        source=registered_view(shop.store, ASSETS).batch_source,
        schema=[Field(name="score", dtype=Float32)],
    )
    shop.store.apply([other])
    kept = {"a note": b"x", _mmh3("others:score"): b"", "_ts:others": b"", b"long one": b""}
    for key in keys:
        shop.client.hset(key, mapping=kept)
        shop.client.hset(key, _mmh3(f"{WORK_ORDERS}:gone"), b"")
    shop.client.hset(keys[0], "_ts:gone_features", b"")
    elsewhere = keys[0][: -len("dcmms")] + b"xdcmms"
    shop.client.hset(elsewhere, "_ts:gone_features", b"")
    shop.client.set(encoder.keys(pa.array(["of another type"])).to_pylist()[0], "text")
    assert [unowned_fields(shop.store, delete=delete) for delete in (False, True, False)] == [4, 4, 0]
    assert all(shop.client.hget(key, field) == value for key in keys for field, value in kept.items())
    assert shop.client.hkeys(elsewhere) == [b"_ts:gone_features"]
    assert (shop.values(WORK_ORDERS, ids(3)), shop.values(ASSETS, ids(2))) == ([{1}] * 3, [{1}] * 2)


def test_keys_no_longer_expire_after_the_setting_is_gone(
    postgres: PostgresServer, redis: RedisServer, tmp_path: Path
) -> None:
    with opened(tmp_path, postgres, redis, key_ttl_seconds=600) as shop:
        shop.publish(WORK_ORDERS, T0, ids(20), 1)
        keys = shop.client.keys()
        assert all(0 < shop.client.ttl(key) <= 600 for key in keys)
        set_online_store(shop.path, key_ttl_seconds=None)
        with open_feature_store(shop.path) as store:
            path = shop.snapshot(WORK_ORDERS, T0 + HOUR, ids(20), 2)
            online.publish(store, WORK_ORDERS, T0 + HOUR, path)
        assert [shop.client.ttl(key) for key in keys] == [-1] * 20
        assert shop.values(WORK_ORDERS, ids(20)) == [{2}] * 20
        shop.client.flushdb()


# registry ------------------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_one_interval_and_does_not_grow(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(1), 1)
    first = registered_view(shop.store, WORK_ORDERS)
    size = len(first.to_proto().SerializeToString())
    for as_of, engine in ((T0 + HOUR, ENGINE_REDIS), (T0 + 2 * HOUR, ENGINE_FEAST), (T0, ENGINE_REDIS)):
        shop.publish(WORK_ORDERS, as_of, ids(1), 1, engine=engine)
    view = registered_view(shop.store, WORK_ORDERS)
    assert view.materialization_intervals == [(T0 - view.ttl, T0 + 2 * HOUR)]
    assert view.state.name == "AVAILABLE_ONLINE"
    assert len(view.to_proto().SerializeToString()) <= size + 4  # nanoseconds of the instant of its last change


def test_an_existing_long_list_becomes_one_interval(shop: Shop) -> None:
    """Two years of hourly runs, as an earlier version has recorded them, with a gap in the middle."""
    view = registered_view(shop.store, WORK_ORDERS)
    view.materialization_intervals = [(T0 + n * HOUR, T0 + (n + 1) * HOUR) for n in range(17_520) if n != 9_000]
    shop.store.registry.apply_feature_view(view, shop.store.project)
    last = T0 + 17_520 * HOUR
    shop.publish(WORK_ORDERS, last + HOUR, ids(1), 1)
    view = registered_view(shop.store, WORK_ORDERS)
    assert view.materialization_intervals == [(T0, last + HOUR)]
    assert shop.values(WORK_ORDERS, ids(1)) == [{1}]
    # stock Feast goes on from its end, and the next run merges that, too
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        shop.store.materialize_incremental(last + 2 * HOUR, [WORK_ORDERS])
    assert registered_view(shop.store, WORK_ORDERS).materialization_intervals == [
        (T0, last + HOUR),
        (last + HOUR, last + 2 * HOUR),
    ]
    shop.publish(WORK_ORDERS, last + 3 * HOUR, ids(1), 2)
    assert registered_view(shop.store, WORK_ORDERS).materialization_intervals == [(T0, last + 3 * HOUR)]


# consistency ---------------------------------------------------------------------------------------------------------


def test_verify_counts_mismatched_missing_and_extra_values_per_feature(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(50), 1)
    assert {feature.wrong for feature in verify(shop.store, shop.data, WORK_ORDERS)} == {0}

    columns = snapshot_of(WORK_ORDERS, T0, ids(48), 1).to_pydict()
    columns["wo_count_7d"][:5] = [9] * 5  # online has 1
    columns["wo_count_30d"][:7] = [None] * 7
    write_snapshot(pa.table(columns, snapshot_schema(WORK_ORDERS)), snapshot_path(shop.data, WORK_ORDERS, T0))
    encoder = row_encoder(shop.store, registered_view(shop.store, WORK_ORDERS))
    for key in encoder.keys(pa.array(ids(3))).to_pylist():
        shop.client.hset(key, encoder._fields["wo_count_90d"], b"")
    features = {f.feature: f for f in verify(shop.store, shop.data, WORK_ORDERS)}
    assert {f.values for f in features.values()} == {50}
    # two assets are online only: all of their values are extra
    assert {name: (f.mismatched, f.missing, f.extra) for name, f in features.items()} == dict.fromkeys(
        features, (0, 0, 2)
    ) | {"wo_count_7d": (5, 0, 2), "wo_count_30d": (0, 0, 2 + 7), "wo_count_90d": (0, 3, 2)}


def test_verify_of_a_sample_reads_so_many_entities(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(50), 1)
    assert {f.values for f in verify(shop.store, shop.data, WORK_ORDERS, sample=20)} == {20}
    shop.client.flushdb()
    assert {f.missing for f in verify(shop.store, shop.data, WORK_ORDERS, sample=20)} == {20}


def test_verify_finds_what_stock_feast_has_dropped(shop: Shop) -> None:
    """A corrected snapshot of the same instant, which Feast leaves out without a word."""
    for value in (1, 2):
        shop.publish(WORK_ORDERS, T0, ids(5), value, engine=ENGINE_FEAST)
    assert {f.mismatched for f in verify(shop.store, shop.data, WORK_ORDERS)} == {5}


# Redis in trouble ----------------------------------------------------------------------------------------------------


def assert_whole_rows(shop: Shop, assets: list[str], allowed: set[int]) -> None:
    assert all(len(values) == 1 and values <= allowed for values in shop.values(WORK_ORDERS, assets))


def test_redis_that_dies_midway_leaves_whole_rows_and_the_next_run_completes(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    assets = ids(20_000)
    server = RedisServer(tmp_path / "redis", free_port())
    with server, opened(tmp_path, postgres, server) as shop:
        shop.publish(WORK_ORDERS, T0, assets, 1)
        shop.client.save()
        path = shop.snapshot(WORK_ORDERS, T0 + HOUR, assets, 2)

        def save_and_kill(done: int) -> None:
            if done > 8_000 and server.is_running():
                shop.client.save()
                server._process().kill()

        with pytest.raises(
            PipelineError, match=r"^Redis: .*check that it is up.*; at least (8|9|1\d),\d{3} of 20,000 rows"
        ):
            online.publish(shop.store, WORK_ORDERS, T0 + HOUR, path, progress=save_and_kill)
        while server.is_running():
            time.sleep(0.01)
        server.start()
        some = assets[::20]
        values = shop.values(WORK_ORDERS, some)
        assert values.count({1}) > 100
        assert values.count({2}) > 100
        assert values.count({1}) + values.count({2}) == len(some)
        assert registered_view(shop.store, WORK_ORDERS).most_recent_end_time == T0
        online.publish(shop.store, WORK_ORDERS, T0 + HOUR, path)
        assert_whole_rows(shop, some, {2})


def test_full_redis_says_so_and_every_row_is_old_or_new(shop: Shop) -> None:
    assets = ids(2_000)
    shop.publish(WORK_ORDERS, T0, assets[:1_000], 1)
    try:
        shop.client.config_set("maxmemory", shop.client.info("memory")["used_memory"] + 200_000)
        with pytest.raises(PipelineError, match=r"^Redis: OOM .*its memory is full \(maxmemory\)") as failure:
            shop.publish(WORK_ORDERS, T0 + HOUR, assets, 2)
        assert_whole_rows(shop, assets, {1, 2, None})
        new = shop.values(WORK_ORDERS, assets).count({2})
        assert 0 < new < 2_000
        assert str(failure.value).endswith(f"; {new:,} of 2,000 rows are new, the others old")
    finally:
        shop.client.config_set("maxmemory", 0)
    shop.publish(WORK_ORDERS, T0 + HOUR, assets, 2)
    assert_whole_rows(shop, assets, {2})


def test_replica_is_refused(shop: Shop, redis: RedisServer, tmp_path: Path) -> None:
    shop.publish(WORK_ORDERS, T0, ids(3), 1)
    with RedisServer(tmp_path / "replica", free_port()) as replica, closing(Redis(port=replica.port, db=7)) as client:
        client.replicaof("127.0.0.1", redis.port)
        wait_for(lambda: client.info("replication")["master_link_status"] == "up")
        with (
            other_redis(shop, f"127.0.0.1:{replica.port},db=7") as store,
            pytest.raises(PipelineError, match=r"^Redis: READONLY .*this is a replica"),
        ):
            online.publish(store, WORK_ORDERS, T0 + HOUR, shop.snapshot(WORK_ORDERS, T0 + HOUR, ids(3), 2))
    assert_whole_rows(shop, ids(3), {1})


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        (",password=open-barley", "check the user and the password"),
        ("", "set the password in feature_store.yaml"),
    ],
)
def test_wrong_password_is_named_and_not_shown(shop: Shop, tmp_path: Path, credentials: str, message: str) -> None:
    with RedisServer(tmp_path / "closed", free_port()) as closed, closing(Redis(port=closed.port)) as client:
        client.config_set("requirepass", "open-sesame")
        with (
            other_redis(shop, f"127.0.0.1:{closed.port}{credentials}") as store,
            pytest.raises(PipelineError, match=message) as failure,
        ):
            online.check_online_store(store, ENGINE_REDIS)
        assert "open-" not in str(failure.value)
        client.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("this user has no permissions to run the 'hset' command", "redis_users.conf"),
        ("User feature_store has no permissions to run the 'hset' command", "redis_users.conf"),
        ("No permissions to access a key", "redis_users.conf"),
        ("User feature_store has no permissions to access the 'x' key", "redis_users.conf"),
        ("No master found for 'dcmms'", "sentinel_master"),
        ("Error 111 connecting to 127.0.0.1:1. Connection refused", "check that it is up"),
    ],
)
def test_what_redis_6_and_7_say_has_its_advice(said: str, advice: str) -> None:
    assert advice in advice_for(said)


@pytest.mark.parametrize(
    ("url", "translation"),
    [
        (
            "rediss://:pa%40ss@redis.example:6380/0",
            "redis.example:6380,ssl=true,password=..., with the password as it is",
        ),
        ("rediss://app:pass@redis.example", "redis.example:6379,ssl=true,username=app,password=..."),
        ("redis://10.0.0.7:6379/2?timeout=5", "10.0.0.7:6379,db=2"),
        ("rediss://:pa/ss@redis.example:6380", "host:port,ssl=true,password=..."),
        ("rediss://user:12#pass@redis.example:6380", "host:port,ssl=true,password=..."),
        ("rediss://user:1,2@redis.example", "host:port,ssl=true,password=..."),
    ],
)
def test_url_of_redis_is_refused_with_its_translation(url: str, translation: str) -> None:
    with pytest.raises(ValueError, match="is a redis:// URL, which Feast does not read: write ") as failure:
        checked_redis_connection(url, {})
    said = str(failure.value).split(" write ")[1]
    assert said.startswith(translation)
    assert "pa" not in said.replace("password", "")
    assert "12" not in said


def test_node_of_a_cluster_is_refused(shop: Shop, tmp_path: Path) -> None:
    # a node also takes the port that is 10,000 above its own
    port = next(port for port in iter(free_port, None) if port < 55_000)
    with ClusterNode(tmp_path / "cluster", port) as node, closing(Redis(port=node.port)) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        wait_for(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
        path = shop.snapshot(WORK_ORDERS, T0, ids(3), 1)
        with (
            other_redis(shop, f"127.0.0.1:{node.port}") as store,
            pytest.raises(PipelineError, match=r"^Redis: CROSSSLOT .*set redis_type: redis_cluster "),
        ):
            online.publish(store, WORK_ORDERS, T0, path)


class ClusterNode(RedisServer):
    """A Redis server in cluster mode."""

    def _prepare(self) -> None:
        super()._prepare()
        with self._config.open("a") as file:
            file.write("cluster-enabled yes\n")


def test_key_that_is_no_hash_is_named_and_all_other_rows_are_written(shop: Shop) -> None:
    assets = [*ids(56), "odd\x07\n name"]
    shop.publish(WORK_ORDERS, T0, [*assets, "gone", "lost"], 1)
    encoder = row_encoder(shop.store, registered_view(shop.store, WORK_ORDERS))
    of_another_program = encoder.keys(pa.array([assets[3], assets[56], "gone"])).to_pylist()
    for key in of_another_program:
        shop.client.set(key, "text")
    with pytest.raises(PipelineError) as failure:
        shop.publish(WORK_ORDERS, T0 + HOUR, assets, 2)
    assert str(failure.value) == (
        f"Redis: WRONGTYPE: another program has written the keys of {assets[3]}, odd\\x07\\n name; 55 rows are new, "
        "2 cannot be read. Delete these keys and run again"
    )
    others = [asset for asset in ids(56) if asset != assets[3]]
    assert shop.values(WORK_ORDERS, [*others, "lost"]) == [{2}] * 55 + [{None}], "what left is removed, too"
    shop.store.write_to_online_store(WORK_ORDERS, snapshot_of(WORK_ORDERS, T0, ["lost"], 3).to_pandas())
    assert online.prune(shop.store, shop.data, WORK_ORDERS) == 1
    assert [shop.client.get(key) for key in of_another_program] == [b"text"] * 3
    shop.client.delete(*of_another_program)
    shop.publish(WORK_ORDERS, T0 + HOUR, assets, 2)
    assert shop.values(WORK_ORDERS, assets) == [{2}] * 57


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""Publishing to Redis clusters: what Feast itself would have written, in order, while slots move and nodes die.

Each server that is here makes a cluster of three primaries and three replicas, with a password, and with TLS if it was
built with it.
"""

import asyncio
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore
from feast.online_response import OnlineResponse

from dev.redis_servers import PROGRAMS, Cluster, cluster, wait_for
from dev.servers import PostgresServer, RedisServer, free_port
from features.services import predictive_maintenance_v2
from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.base.retries import retrying_for
from pipeline.base.specs import VIEWS
from pipeline.base.views import ASSETS, ENGINE_FEAST, ENGINE_REDIS
from pipeline.online import publish as online
from pipeline.online.redis import connections, engine
from pipeline.online.redis.engine import row_encoder, unowned_fields
from pipeline.online.verify import verify
from pipeline.operations.doctor.check import State
from pipeline.operations.doctor.redis import check_redis
from pipeline.registry.feast_store import registered_view
from pipeline.snapshots.files import snapshot_path, write_snapshot
from serving.online_store import WholeRowRedisOnlineStoreConfig
from tests.gateways import TENANTS, Client, running, token
from tests.shops import HOUR, T0, WORK_ORDERS, Shop, ids, opened, other_redis, snapshot_of
from tests.tls import redis_settings

PASSWORD = "open-sesame"


@pytest.fixture(scope="module", params=PROGRAMS)
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of each server that is here."""
    if not (program := PROGRAMS[request.param]):
        pytest.skip(f"{request.param} is not here: make deploy-tools")
    directory = tmp_path_factory.mktemp("cluster")
    with cluster(directory, program, redis_settings(directory, program), password=PASSWORD) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def one_shop(
    nodes: Cluster, postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    options = {"redis_type": "redis_cluster", "connection_string": nodes.connection_string}
    with opened(tmp_path_factory.mktemp("shop"), postgres, redis, **options) as shop:
        yield shop


@pytest.fixture
def shop(one_shop: Shop, nodes: Cluster) -> Shop:
    """The store without snapshots, with a cluster in which nothing is."""
    nodes.clear()
    shutil.rmtree(one_shop.data, ignore_errors=True)
    return one_shop


async def asynchronous(store: FeatureStore, features: FeatureService, assets: list[str]) -> OnlineResponse:
    """Return what is answered to those who do not wait."""
    try:
        return await store.get_online_features_async(features, [{"asset_id": asset} for asset in assets])
    finally:
        await store._get_provider().online_store._client_async.aclose()


def wrong(shop: Shop) -> int:
    """Return how many values are not those of the newest snapshot."""
    return sum(feature.wrong for feature in verify(shop.store, shop.data, WORK_ORDERS))


def keys_of(shop: Shop, assets: list[str]) -> list[bytes]:
    encoder = row_encoder(shop.store, registered_view(shop.store, WORK_ORDERS))
    return encoder.keys(pa.array(assets)).to_pylist()


# the same promises as on one Redis ------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [ASSETS, WORK_ORDERS])
def test_every_byte_is_what_feast_writes(shop: Shop, nodes: Cluster, view: str) -> None:
    assets = [*ids(2_000), "", "{", "{}", "a{b}c", "{b}", "x" * 123, "y" * 125, "z" * 400, "日本"]
    shop.publish(view, T0, assets, 1, engine=ENGINE_FEAST)
    stock = nodes.rows()
    nodes.clear()
    assert shop.publish(view, T0, assets, 1) == online.Published(rows=len(assets))
    assert nodes.rows() == stock
    assert len(stock) == len(assets)


def test_newer_rows_stay_and_what_left_goes(shop: Shop, nodes: Cluster) -> None:
    assets = ids(300)
    shop.publish(ASSETS, T0, assets[:3], 1)
    shop.publish(WORK_ORDERS, T0, assets, 1)
    newer = snapshot_of(WORK_ORDERS, T0 + HOUR + timedelta(microseconds=1), assets[:50], 2)
    shop.store.write_to_online_store(WORK_ORDERS, newer.to_pandas())
    assert shop.publish(WORK_ORDERS, T0 + HOUR, assets[20:200], 3) == online.Published(rows=180, newer=30, removed=100)
    assert shop.values(WORK_ORDERS, assets) == [{2}] * 50 + [{3}] * 150 + [{None}] * 100
    assert shop.values(ASSETS, assets[:3]) == [{1}] * 3
    assert len(nodes.rows()) == 200
    # by force, or by a rollback, the older ones replace them
    path = shop.snapshot(WORK_ORDERS, T0 + HOUR, assets[:2], 4)
    assert online.publish(shop.store, WORK_ORDERS, T0 + HOUR, path, force=True).rows == 2
    assert shop.values(WORK_ORDERS, assets[:4]) == [{4}] * 2 + [{None}] * 2
    assert online.put_back(shop.store, WORK_ORDERS, T0, shop.snapshot(WORK_ORDERS, T0, assets[:3], 5)).rows == 3
    assert shop.values(WORK_ORDERS, assets[:4]) == [{5}] * 3 + [{None}]


def test_keys_expire_and_no_longer_do(shop: Shop, nodes: Cluster) -> None:
    config = shop.store.config.online_store
    config.key_ttl_seconds = 600
    try:
        shop.publish(WORK_ORDERS, T0, ids(50), 1)
    finally:
        config.key_ttl_seconds = None
    with nodes.client() as client:
        assert all(0 < client.ttl(key) <= 600 for key in keys_of(shop, ids(50)))
        shop.publish(WORK_ORDERS, T0 + HOUR, ids(50), 2)
        assert [client.ttl(key) for key in keys_of(shop, ids(50))] == [-1] * 50
    assert shop.values(WORK_ORDERS, ids(50)) == [{2}] * 50


def test_prune_and_verify_look_at_every_node(shop: Shop, nodes: Cluster) -> None:
    shop.publish(WORK_ORDERS, T0, ids(100), 1)
    lost = snapshot_of(WORK_ORDERS, T0, [f"asset {n}" for n in range(30)], 2)
    shop.store.write_to_online_store(WORK_ORDERS, lost.to_pandas())
    features = len(registered_view(shop.store, WORK_ORDERS).features)
    assert wrong(shop) == 30 * features
    keys = keys_of(shop, ids(100))
    with nodes.client() as client:
        for key in keys:
            client.hset(key, "_ts:gone_features", b"")
            client.hset(key[:-5] + b"xdcmms", "_ts:gone_features", b"")
    assert [unowned_fields(shop.store, delete=delete) for delete in (False, True, False)] == [100, 100, 0]
    assert [online.prune(shop.store, shop.data, WORK_ORDERS) for _ in range(2)] == [30, 0]
    assert wrong(shop) == 0
    assert len(nodes.rows()) == 200, "those of another project stay"


def test_key_that_is_no_hash_is_named_and_all_other_rows_are_written(shop: Shop, nodes: Cluster) -> None:
    assets = [*ids(56), "odd\x07\n name"]
    shop.publish(WORK_ORDERS, T0, assets, 1)
    with nodes.client() as client:
        for key in keys_of(shop, [assets[3], assets[56]]):
            client.set(key, "text")
        with pytest.raises(PipelineError) as failure:
            shop.publish(WORK_ORDERS, T0 + HOUR, assets, 2)
        text = str(failure.value)
        assert text.startswith("Redis: WRONGTYPE: another program has written the keys of ")
        assert assets[3] in text
        assert "odd\\x07\\n name" in text
        assert text.endswith("; 55 rows are new, 2 cannot be read. Delete these keys and run again")
        for key in keys_of(shop, [assets[3], assets[56]]):
            assert client.get(key) == b"text"
            client.delete(key)
    shop.publish(WORK_ORDERS, T0 + HOUR, assets, 2)
    assert shop.values(WORK_ORDERS, assets) == [{2}] * 57


def test_full_node_says_so_and_every_row_is_old_or_new(shop: Shop, nodes: Cluster) -> None:
    assets = ids(1_000)
    shop.publish(WORK_ORDERS, T0, assets, 1)
    with nodes.primaries()[1].client as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(
                PipelineError, match=r"^Redis: .*OOM .*\(maxmemory\).* of 1,000 rows are new"
            ) as failure:
                shop.publish(WORK_ORDERS, T0 + HOUR, assets, 2)
        finally:
            client.config_set("maxmemory", 0)
    new = shop.values(WORK_ORDERS, assets).count({2})
    assert f"; {new:,} of 1,000 rows are new, the others old" in str(failure.value)
    assert shop.values(WORK_ORDERS, assets).count({1}) == 1_000 - new
    assert new < 1_000


# what only clusters do ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few thousand rows be so many blocks that something can happen between them."""
    monkeypatch.setattr(engine, "_ENCODE_ROWS_OF_CLUSTER", 256)


@pytest.mark.usefixtures("small_blocks")
def test_slots_that_move_midway_are_followed(shop: Shop, nodes: Cluster) -> None:
    assets = ids(6_000)
    before = nodes.redirections()
    origin, target, *_ = nodes.primaries()
    moved, stuck = nodes.slots_of(origin)[:400], nodes.slots_of(origin)[400:600]

    def reshard(done: int) -> None:
        if done and "MOVED" not in steps:
            nodes.move(moved, origin, target)
            nodes.move(stuck, origin, target, done=False)
            with nodes.primaries()[2].client as client:
                client.script_flush()
            steps.append("MOVED")

    steps: list[str] = []
    path = shop.snapshot(WORK_ORDERS, T0, assets, 1)
    done = online.publish(shop.store, WORK_ORDERS, T0, path, progress=reshard)
    after = nodes.redirections()
    assert done == online.Published(rows=6_000)
    assert all(after[kind] > before[kind] for kind in ("MOVED", "ASK", "NOSCRIPT"))
    nodes.move(stuck, origin, target)
    assert wrong(shop) == 0
    assert len(nodes.rows()) == 6_000
    nodes.move([*moved, *stuck], target, origin)


def test_replicas_are_waited_for_where_that_is_set(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_CONFIRM_TIMES", 1)
    path = shop.snapshot(WORK_ORDERS, T0, ids(100), 1)
    assert online.publish(shop.store, WORK_ORDERS, T0, path, replicas=1).rows == 100
    with pytest.raises(PipelineError, match=r"^Redis: only 1 of 2 replicas have what a primary has taken"):
        online.publish(shop.store, WORK_ORDERS, T0, path, replicas=2)
    assert wrong(shop) == 0


def test_doctor_looks_at_every_primary(shop: Shop, nodes: Cluster) -> None:
    shop.publish(WORK_ORDERS, T0, ids(100), 1)
    found = {check.name: check for check in check_redis(shop.store.config)}
    # nothing is saved, for the tests' sake; and servers without TLS warn of that
    assert {name for name, check in found.items() if check.state != State.OK} <= {"persistence", "TLS"}
    assert found["mode"].text == "a cluster"
    assert found["role"].text == "primary, 1 replicas"
    assert found["writes"].text == "takes every command of publishing (tried, none executed)"
    second = nodes.primaries()[1]
    with second.client as client:
        client.config_set("maxmemory", 1)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = {check.name: check for check in check_redis(shop.store.config)}
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
    assert found["memory"].state == State.FAILS
    assert found["memory"].text.startswith(f"127.0.0.1:{second.port}: ")
    assert found["eviction"].text.startswith(f"127.0.0.1:{second.port}: allkeys-lru: ")
    with other_redis(shop, f"127.0.0.1:{free_port()}") as store:
        first, rest = check_redis(store.config)
    assert (first.name, first.state, rest.state) == ("connection", State.FAILS, State.NOT_CHECKED)
    assert "Redis Cluster cannot be connected" in first.text


def test_users_of_the_deployment_have_the_rights_they_need_and_no_others(shop: Shop, nodes: Cluster) -> None:
    users = re.findall(r"(?m)^user (\w+) (on) #\w+ (.*)$", (REPOSITORY / "deploy/sql/redis_users.conf").read_text())
    for node in nodes.nodes:
        with node.client as client:
            for name, *rules in users:
                client.execute_command("ACL", "SETUSER", name, f">{PASSWORD}", *" ".join(rules).split())
    publisher, reader = (f"{nodes.connection_string},username={name}" for name, *_ in users)
    shop.publish(WORK_ORDERS, T0, ids(60), 1)
    path = shop.snapshot(WORK_ORDERS, T0 + HOUR, ids(50), 2)
    with other_redis(shop, publisher) as store:
        online.check_online_store(store, ENGINE_REDIS)
        done = online.publish(store, WORK_ORDERS, T0 + HOUR, path, replicas=1)
        assert done == online.Published(rows=50, removed=10)
        assert online.prune(store, shop.data, WORK_ORDERS) == unowned_fields(store, delete=True) == 0
        assert {check.name: check.state for check in check_redis(store.config)}["writes"] == State.OK
    with other_redis(shop, reader) as store:
        assert sum(feature.missing for feature in verify(store, shop.data, WORK_ORDERS, sample=20)) == 0
        with pytest.raises(PipelineError, match=r"^Redis: .*redis_users\.conf"):
            online.publish(store, WORK_ORDERS, T0 + HOUR, path)
    assert shop.values(WORK_ORDERS, ids(60)) == [{2}] * 50 + [{None}] * 10


def test_every_way_to_read_answers_alike(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock Feast, `serving.online_store` and the gateway, each with an asset that another tenant has."""
    assets, now = ids(30), datetime.now(UTC).replace(microsecond=0)
    for view in VIEWS:
        table = snapshot_of(view, now, assets, 1)
        if view == ASSETS:
            tenants = pa.array([TENANTS["aa"]] * 20 + [TENANTS["bb"]] * 10)
            table = table.set_column(table.schema.get_field_index("tenant_id"), "tenant_id", tenants)
        path = snapshot_path(shop.data, view, now)
        write_snapshot(table, path)
        online.publish(shop.store, view, now, path)
    features = shop.store.get_feature_service(predictive_maintenance_v2.name)
    asked = [*assets, "of nobody"]
    stock = shop.store.get_online_features(features, {"asset_id": asked})
    with other_redis(shop, type=WholeRowRedisOnlineStoreConfig().type) as ours:
        assert ours.get_online_features(features, {"asset_id": asked}).proto == stock.proto
        assert asyncio.run(asynchronous(ours, features, asked)).proto == stock.proto
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(shop.path))
    with running(gateway_requests_per_minute=5) as port:
        operator = Client(port, token("operator", "aa"))
        statuses = [answer["status"] for answer in operator.assets(*assets[15:25])]
        assert statuses == ["present"] * 5 + ["not_found"] * 5
        everybody = Client(port, token("super_admin", "aa"))
        assert len(everybody.assets(*assets)) == 30
        assert everybody.get("/health").json()["healthy"]
        for _ in range(10):
            last = operator.post("/assets", json={"assetIds": assets[:1]})
        assert last.status_code == 429


def test_cluster_that_is_not_there_is_one_line(shop: Shop) -> None:
    nowhere = f"127.0.0.1:{free_port()},socket_connect_timeout=1"
    with (
        other_redis(shop, nowhere) as store,
        pytest.raises(PipelineError, match=r"^Redis: Redis Cluster cannot be connected\. .*check that it is up"),
    ):
        online.check_online_store(store, ENGINE_REDIS)


def test_wrong_password_is_named_and_not_shown(shop: Shop, nodes: Cluster) -> None:
    with (
        other_redis(shop, nodes.connection_string.replace(PASSWORD, "open-barley")) as store,
        pytest.raises(PipelineError, match="check the user and the password") as failure,
    ):
        online.check_online_store(store, ENGINE_REDIS)
    assert "open-" not in str(failure.value)


@pytest.mark.usefixtures("small_blocks")
def test_replica_that_is_made_the_primary_midway_is_followed(shop: Shop, nodes: Cluster) -> None:
    old = nodes.primaries()[0]
    path = shop.snapshot(WORK_ORDERS, T0, ids(6_000), 1)

    def hand_over(done: int) -> None:
        if done and old in nodes.primaries():
            with nodes.replica_of(old).client as client:
                client.execute_command("CLUSTER FAILOVER")
            wait_for(lambda: old not in nodes.primaries())

    with retrying_for(60):
        done = online.publish(shop.store, WORK_ORDERS, T0, path, replicas=1, progress=hand_over)
    assert done == online.Published(rows=6_000)
    assert old not in nodes.primaries()
    assert wrong(shop) == 0
    nodes.heal()


@pytest.mark.usefixtures("small_blocks")
def test_primary_that_is_killed_midway_is_replaced_and_all_rows_are_there(shop: Shop, nodes: Cluster) -> None:
    assets = ids(6_000)
    shop.publish(WORK_ORDERS, T0, assets, 1)
    victim = nodes.primaries()[0]
    path = shop.snapshot(WORK_ORDERS, T0 + HOUR, assets, 2)

    def kill(done: int) -> None:
        if done > 1_000 and victim.is_running():
            victim.kill()

    try:
        with pytest.raises(PipelineError, match=r"^Redis: .*; at least \d,\d{3} of 6,000 rows are new, the others old"):
            online.publish(shop.store, WORK_ORDERS, T0 + HOUR, path, progress=kill)
        with retrying_for(60):
            assert online.publish(shop.store, WORK_ORDERS, T0 + HOUR, path).rows == 6_000
        assert wrong(shop) == 0
    finally:
        nodes.heal()


def test_what_no_replica_has_is_lost_with_its_primary_and_found_by_verify(
    shop: Shop, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_CONFIRM_TIMES", 1)
    assets = ids(2_000)
    shop.publish(WORK_ORDERS, T0, assets, 1)
    victim = nodes.primaries()[0]
    replica = nodes.replica_of(victim)
    path = shop.snapshot(WORK_ORDERS, T0 + HOUR, assets, 2)
    try:
        with victim.client as client:
            client.wait(1, 5_000)
            replica.suspend()
            client.execute_command("CLIENT KILL TYPE replica")
        with pytest.raises(PipelineError, match=r"^Redis: only 0 of 1 replicas have"):
            online.publish(shop.store, WORK_ORDERS, T0 + HOUR, path, replicas=1)
        assert online.publish(shop.store, WORK_ORDERS, T0 + HOUR, path).rows == 2_000
        victim.kill()
        replica.resume()
        wait_for(lambda: victim not in nodes.primaries())
        assert wrong(shop) > 0
        with retrying_for(60):
            online.publish(shop.store, WORK_ORDERS, T0 + HOUR, path)
        assert wrong(shop) == 0
    finally:
        replica.resume()
        nodes.heal()

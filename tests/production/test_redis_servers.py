"""Publishing to one server of each kind that is here, with a password and, where it has it, TLS; and by a Sentinel."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from dev.redis_servers import PROGRAMS, Node, SentinelNode, options_text, wait_for
from dev.servers import PostgresServer, RedisServer, free_port
from pipeline.base.errors import PipelineError
from pipeline.base.retries import retrying_for
from pipeline.base.views import ASSETS, ENGINE_FEAST, ENGINE_REDIS
from pipeline.online import publish as online
from pipeline.online.redis.engine import row_encoder, unowned_fields
from pipeline.online.verify import verify
from pipeline.operations.doctor.check import State
from pipeline.operations.doctor.redis import check_redis
from pipeline.registry.feast_store import registered_view
from tests.gateways import Client, running, token
from tests.shops import HOUR, T0, WORK_ORDERS, Shop, ids, opened, other_redis, snapshot_of
from tests.tls import redis_settings

PASSWORD = "open-sesame"


@pytest.fixture(scope="module", params=PROGRAMS)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server of each kind that is here."""
    if not (program := PROGRAMS[request.param]):
        pytest.skip(f"{request.param} is not here: make deploy-tools")
    directory = tmp_path_factory.mktemp("server")
    settings = redis_settings(directory, program) | {"requirepass": PASSWORD, "masterauth": PASSWORD}
    with Node(directory / "node", free_port(), program, settings) as node:
        yield node


@pytest.fixture(scope="module")
def one_shop(
    node: Node, postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    connection = f"127.0.0.1:{node.port},{options_text(node)}"
    with opened(tmp_path_factory.mktemp("shop"), postgres, redis, connection_string=connection) as shop:
        yield shop


@pytest.fixture
def shop(one_shop: Shop, node: Node) -> Shop:
    """The store without snapshots, with a server in which nothing is."""
    with node.client as client:
        client.flushall()
    shutil.rmtree(one_shop.data, ignore_errors=True)
    return one_shop


def rows(node: Node) -> dict[bytes, dict[bytes, bytes]]:
    with node.client as client:
        return {key: client.hgetall(key) for key in client.scan_iter(count=1000)}


@pytest.mark.parametrize("view", [ASSETS, WORK_ORDERS])
def test_every_byte_is_what_feast_writes(shop: Shop, node: Node, view: str) -> None:
    assets = [*ids(500), "", "日本"]
    shop.publish(view, T0, assets, 1, engine=ENGINE_FEAST)
    stock = rows(node)
    with node.client as client:
        client.flushall()
    assert shop.publish(view, T0, assets, 1) == online.Published(rows=len(assets))
    assert rows(node) == stock
    assert len(stock) == len(assets)


def test_order_removal_and_consistency(shop: Shop, node: Node) -> None:
    assets = ids(300)
    shop.publish(WORK_ORDERS, T0, assets, 1)
    newer = snapshot_of(WORK_ORDERS, T0 + 2 * HOUR, assets[:50], 2)
    shop.store.write_to_online_store(WORK_ORDERS, newer.to_pandas())
    assert shop.publish(WORK_ORDERS, T0 + HOUR, assets[:200], 3) == online.Published(rows=200, newer=50, removed=100)
    assert shop.values(WORK_ORDERS, assets) == [{2}] * 50 + [{3}] * 150 + [{None}] * 100
    path = shop.snapshot(WORK_ORDERS, T0 + 3 * HOUR, assets[:10], 4)
    assert online.publish(shop.store, WORK_ORDERS, T0 + 3 * HOUR, path).removed == 190
    assert {feature.wrong for feature in verify(shop.store, shop.data, WORK_ORDERS)} == {0}
    lost = snapshot_of(WORK_ORDERS, T0, ["lost"], 5)
    shop.store.write_to_online_store(WORK_ORDERS, lost.to_pandas())
    encoder = row_encoder(shop.store, registered_view(shop.store, WORK_ORDERS))
    (key,) = encoder.keys(pa.array(assets[:1])).to_pylist()
    with node.client as client:
        client.hset(key, "_ts:gone_features", b"")
    assert [unowned_fields(shop.store, delete=delete) for delete in (False, True, False)] == [1, 1, 0]
    assert online.prune(shop.store, shop.data, WORK_ORDERS) == 1
    assert len(rows(node)) == 10


def test_trouble_is_told_by_its_advice(shop: Shop, node: Node) -> None:
    shop.publish(WORK_ORDERS, T0, ids(300), 1)
    with node.client as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(PipelineError, match=r"^Redis: OOM .*\(maxmemory\).*; 0 of 300 rows are new"):
                shop.publish(WORK_ORDERS, T0 + HOUR, ids(300), 2)
        finally:
            client.config_set("maxmemory", 0)
        encoder = row_encoder(shop.store, registered_view(shop.store, WORK_ORDERS))
        (key,) = encoder.keys(pa.array(ids(1))).to_pylist()
        client.set(key, "text")
        with pytest.raises(PipelineError, match=r"^Redis: WRONGTYPE: another program has written the keys of 0000"):
            shop.publish(WORK_ORDERS, T0 + HOUR, ids(300), 2)
    wrong = f"127.0.0.1:{node.port},{options_text(node)}".replace(PASSWORD, "open-barley")
    with other_redis(shop, wrong) as store, pytest.raises(PipelineError, match="check the user and the password"):
        online.check_online_store(store, ENGINE_REDIS)
    assert shop.values(WORK_ORDERS, ids(300)[1:]) == [{2}] * 299


def test_doctor_finds_nothing_wrong(shop: Shop) -> None:
    shop.publish(WORK_ORDERS, T0, ids(10), 1)
    found = {check.name: check.state for check in check_redis(shop.store.config)}
    # a server that was just started has not saved anything yet
    assert {name for name, state in found.items() if state != State.OK} <= {"persistence", "time-outs", "TLS"}
    assert found["writes"] == State.OK


@contextmanager
def watched(directory: Path, program: Path, **settings: object) -> Iterator[tuple[Node, Node, SentinelNode]]:
    """Yield a master, its replica, and a Sentinel with `settings` that watches them."""
    plain = {"requirepass": PASSWORD, "masterauth": PASSWORD}
    with ExitStack() as stack:
        master = stack.enter_context(Node(directory / "master", free_port(), program, plain))
        of_master = {"replicaof": f"127.0.0.1 {master.port}"}
        replica = Node(directory / "replica", free_port(), program, plain | of_master)
        stack.enter_context(replica)
        sentinel = SentinelNode(directory / "sentinel", free_port(), master, settings)
        stack.enter_context(sentinel)
        with replica.client as client:
            wait_for(lambda: client.info("replication")["master_link_status"] == "up")
        yield master, replica, sentinel


def test_sentinel_leads_to_the_master_and_after_its_death_to_the_next(
    shop: Shop, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(tmp_path, node.program) as (master, replica, sentinel):
        connection = f"127.0.0.1:{sentinel.port},password={PASSWORD},socket_timeout=5,socket_connect_timeout=5"
        options = {"redis_type": "redis_sentinel", "sentinel_master": "dcmms"}
        with other_redis(shop, connection, **options) as store:
            path = shop.snapshot(WORK_ORDERS, T0, ids(200), 1)
            online.publish(store, WORK_ORDERS, T0, path, engine=ENGINE_FEAST)
            stock = rows(master)
            with master.client as client:
                client.flushall()
            assert online.publish(store, WORK_ORDERS, T0, path, replicas=1).rows == 200
            assert rows(master) == stock
            assert len(stock) == 200
            found = {check.name: check.state for check in check_redis(store.config)}
            assert {name for name, state in found.items() if state != State.OK} <= {"persistence", "TLS"}
            with replica.client as client:
                wait_for(lambda: client.dbsize() == 200)
            master.kill()
            path = shop.snapshot(WORK_ORDERS, T0 + HOUR, ids(200), 2)
            with retrying_for(60):
                assert online.publish(store, WORK_ORDERS, T0 + HOUR, path).rows == 200
            assert len(rows(replica)) == 200
            assert {feature.wrong for feature in verify(store, shop.data, WORK_ORDERS)} == {0}
        monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(shop.path.with_name("other.yaml")))
        with running() as port:
            found = Client(port, token("super_admin", "aa")).assets(ids(1)[0])
        assert found[0]["status"] != "not_found"


def test_password_of_sentinels_cannot_be_configured_in_feast(shop: Shop, node: Node, tmp_path: Path) -> None:
    with watched(tmp_path, node.program, requirepass=PASSWORD) as (_, _, sentinel):
        connection = f"127.0.0.1:{sentinel.port},password={PASSWORD}"
        with (
            other_redis(shop, connection, redis_type="redis_sentinel", sentinel_master="dcmms") as store,
            pytest.raises(PipelineError, match=r"^Redis: No master found for 'dcmms'.*Feast has no password for them"),
        ):
            online.check_online_store(store, ENGINE_REDIS)

"""Servers that restart or are away while a run needs them."""

import threading
import time

import psycopg2
import pytest

from tests.faults.net import CLEAR_FAILURE, CLICKHOUSE, COMPLETE, POSTGRES, REDIS, REGISTRY, Net
from tests.faults.proxy import TO_CLIENT, TO_SERVER, Fault

AWAY_SECONDS = 2


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_redis_restarts_amid_publishing(net: Net, share: float) -> None:
    """It saves its data set when it stops and has it again when it starts, as a server with persistence does."""

    def restart() -> None:
        net.world.redis.stop()
        net.world.redis.start()

    place = int(net.total_bytes[REDIS, TO_SERVER] * share)
    assert net.inject(REDIS, Fault(TO_SERVER, place, then=restart)) == COMPLETE


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_dcmms_fails_over_amid_an_extraction(net: Net, share: float) -> None:
    """Its sessions are ended, as by a restart; the database of the registry is another one."""

    def end_sessions() -> None:
        query = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'feature_store'"
        execute(net, query)

    place = int(net.total_bytes[POSTGRES, TO_CLIENT] * share)
    assert net.inject(POSTGRES, Fault(TO_CLIENT, place, then=end_sessions)) == COMPLETE


@pytest.mark.parametrize("name", [POSTGRES, REGISTRY])
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_postgres_restarts(net: Net, name: str, share: float) -> None:
    """Data and registry are in it, and the lock of the run: without the lock, nothing more may be published."""

    def restart() -> None:
        net.world.postgres.stop()
        net.world.postgres.start()

    place = int(net.total_bytes[name, TO_CLIENT] * share)
    assert net.inject(name, Fault(TO_CLIENT, place, then=restart)) in (COMPLETE, CLEAR_FAILURE)


@pytest.mark.parametrize("name", [POSTGRES, REGISTRY, CLICKHOUSE, REDIS])
def test_a_server_that_is_away_for_a_while(net: Net, name: str) -> None:
    assert net.judge(run_while(net, name, back_after=AWAY_SECONDS), f"{name} away") == COMPLETE


@pytest.mark.parametrize("name", [REGISTRY, REDIS])
def test_a_server_that_stays_away(net: Net, name: str) -> None:
    began = time.monotonic()
    outcome = run_while(net, name, back_after=None)
    # Far more than RETRY_SECONDS, for a machine that is busy, and far less than clients wait by themselves.
    assert time.monotonic() - began < 90
    assert net.judge(outcome, f"{name} gone") == CLEAR_FAILURE
    if name == REGISTRY:  # nothing was even begun
        net.world.restore()


def run_while(net: Net, name: str, back_after: float | None) -> object:
    net.world.restore()
    proxy = net.proxies[name]
    proxy.set(None)
    proxy.refuse()
    try:
        if back_after is None:
            return net.run()
        back = threading.Timer(back_after, proxy.listen)
        return net.run(meanwhile=back.start)
    finally:
        if back_after is None:
            proxy.listen()


def execute(net: Net, statement: str) -> None:
    connection = psycopg2.connect(net.world.postgres.admin_url)
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()

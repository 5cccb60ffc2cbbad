"""The gateway under load for long, `make test-load`: publications and a restart of Redis beside it, and its memory.

`LOAD_SECONDS` and `LOAD_REQUESTS` make it shorter. The times are told and not tested: machines are busy.
"""

import asyncio
import json
import os
import statistics
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import psutil
import pytest

from benchmarks.load import ask, request
from benchmarks.publishing import feature_store_yaml
from benchmarks.serving import _ids
from benchmarks.worker import worker
from dev.servers import PostgresServer, RedisServer, free_port
from dev.stack import ensure_database
from gateway.app import PREFIX
from tests.gateways import Client, token
from tests.operations.test_gateway_process import gateway

SECONDS = float(os.environ.get("LOAD_SECONDS", "60"))
REQUESTS = int(os.environ.get("LOAD_REQUESTS", "1000000"))
CONNECTIONS = 4
SAMPLES = 20
# What the memory may grow by after a quarter of the requests: 13 bytes for each of a million.
GROWTH = 10e6

pytestmark = [
    pytest.mark.skipif("LOAD" not in os.environ, reason="takes a quarter of an hour: `make test-load`"),
    pytest.mark.timeout(3_600),
]


class World:
    """A feature store with a Redis of its own; each value of a snapshot is how many hours after `start` it is."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        # None of them in the future, and none older than the shortest ttl.
        self.start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=6)
        self.hour = 0

    def publish(self, seconds: float) -> int:
        """Publish one snapshot after the other for so long, in a process of its own; return how many."""
        first = self.hour
        self.hour = worker(
            "benchmarks.serving", "publish", dict(os.environ), str(first), str(seconds), self.start.isoformat()
        )["hour"]
        return self.hour - first


@pytest.fixture(scope="module")
def world(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("load")
    ensure_database(postgres.admin_url, "registry", "feast")
    with RedisServer(directory / "redis", free_port()) as redis, pytest.MonkeyPatch.context() as patch:
        path = feature_store_yaml(directory, postgres.port, redis.port)
        patch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
        patch.setenv("FEATURE_DATA_DIR", str(directory / "data"))
        patch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
        patch.setenv("PYTHONWARNINGS", "ignore")
        world = World(redis)
        world.publish(0)
        yield world


@contextmanager
def started(tmp_path: Path) -> Iterator[tuple[psutil.Process, int]]:
    with gateway(tmp_path, "--no-access-log") as (process, port):
        yield psutil.Process(process.pid), port


def cpu(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def post(access: str, ids: list[str]) -> bytes:
    body = json.dumps({"assetIds": ids}).encode()
    return request(f"{PREFIX}/assets", {"Authorization": f"Bearer {access}"}, body)


def test_rows_are_whole_and_errors_503_while_snapshots_are_published_and_redis_restarts(
    world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    random, everybody, known = Random(1), token("super_admin"), _ids()
    requests = [post(everybody, random.choices(known, k=3)) for _ in range(1_000)]
    over, statuses, wrong, hours = threading.Event(), Counter[int](), [], set[int]()
    times: dict[str, list[float]] = {"alone": [], "publishing": []}
    phase = "alone"
    published = 0

    with started(tmp_path) as (process, port):
        details = Client(port, everybody).get("/views", params={"details": "true"}).json()["featureViews"]
        features = {view["name"]: [feature["name"] for feature in view["features"]] for view in details}

        def look(_: int, status: int, body: bytes, took: float) -> None:
            statuses[status] += 1
            times[phase].append(took)
            if status == 200:
                for asset in json.loads(body)["features"]:
                    for view, names in features.items():
                        as_of = datetime.fromisoformat(asset["asOf"][view])
                        hour = round((as_of - world.start) / timedelta(hours=1))
                        hours.add(hour)
                        if {float(asset["features"][name]) for name in names} != {hour}:
                            wrong.append((view, hour, asset))

        def events() -> None:
            nonlocal phase, published
            try:
                over.wait(SECONDS / 6)
                used["alone"] = cpu(process) - before
                phase = "publishing"
                published += world.publish(SECONDS * 5 / 12)
                world.redis.stop()
                over.wait(1)
                world.redis.start()
                published += world.publish(SECONDS * 5 / 12)
                used["publishing"] = cpu(process) - before - used["alone"]
            finally:
                over.set()

        used: dict[str, float] = {}
        before = cpu(process)
        thread = threading.Thread(target=events)
        thread.start()
        try:
            asyncio.run(ask(port, requests, CONNECTIONS, over.is_set, look))
        finally:
            over.set()
            thread.join()
        assert Client(port, everybody).post("/assets", json={"assetIds": known[:1]}).status_code == 200

    say = request.config.get_terminal_writer().line
    say(f"\n{sum(statuses.values()):,} requests, {published} snapshots published, statuses {dict(statuses)}")
    for name, taken in times.items():
        percentiles = statistics.quantiles(taken, n=100)
        cost = used[name] / len(taken)
        say(f"{name}: p50 {percentiles[49] * 1e3:.1f}, p95 {percentiles[94] * 1e3:.1f} ms, {cost * 1e3:.2f} ms of CPU")
    assert wrong == []
    assert published >= 2 and len(hours) >= 3, "the load has seen several snapshots"
    assert set(statuses) == {200, 503}


def test_memory_does_not_grow_with_the_number_of_requests(
    world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of many callers, known assets and others, and a part of all requests that is refused."""
    random = Random(2)
    known = _ids() + [f"{number:08x}-0000-4000-8000-000000000000" for number in range(1_000)]
    roles = ("super_admin", "super_admin", "operator", "technician")
    requests = [
        post(
            token(random.choice(roles), id=f"caller {number}") if number % 20 else f"no token {number}",
            random.choices(known, k=random.choice((1, 2, 5))) if number % 10 else ["no uuid"],
        )
        for number in range(5_000)
    ]
    statuses = Counter[int]()
    with started(tmp_path) as (process, port):
        memory = []
        for sample in range(1, SAMPLES + 1):

            def is_over(until: int = REQUESTS * sample // SAMPLES) -> bool:
                return statuses.total() >= until

            asyncio.run(ask(port, requests, CONNECTIONS, is_over, lambda _, status, *__: statuses.update([status])))
            memory.append(process.memory_info().rss)
    request.config.get_terminal_writer().line(
        f"\n{statuses.total():,} requests, statuses {dict(statuses)}, MB {[round(rss / 1e6, 1) for rss in memory]}"
    )
    assert set(statuses) == {200, 400, 401, 403}
    assert max(memory[SAMPLES // 4 :]) - memory[SAMPLES // 4 - 1] < GROWTH

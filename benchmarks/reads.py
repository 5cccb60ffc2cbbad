"""CPU and time of one request for features, by every way to read them, side by side.

The ways take turns within each round, so a busy machine harms all of them alike; each figure is the median of the
rounds. CPU is that of the server's processes per request, of the raw socket that of the client. The load is wrk's where
it is installed, see benchmarks/load.py.
"""

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hiredis
import jwt
import psutil
import yaml

from benchmarks.load import WRK, measured
from benchmarks.publishing import feature_store_yaml
from benchmarks.serving import _ids, _wait_until_healthy
from benchmarks.worker import worker
from dev.servers import PostgresServer, RedisServer, free_port
from dev.stack import REPOSITORY, ensure_database

STOCK = "stock, by list"
SERVICE = "predictive_maintenance_v1"
CONNECTIONS = (1, 4, 16)
ROUNDS = 3
#: Assets per request, and for how many times the seconds they are asked for.
ASSETS = {1: 1, 100: 3}
#: How many different bodies take turns.
BODIES = 500
_SECRET = "a secret of a benchmark, which is no secret"
_TENANT = "00000000-0000-4000-8000-0000000000aa"


@dataclass
class Way:
    """A server and what is asked of it."""

    name: str
    process: psutil.Process
    port: int
    path: str
    body: Callable[[list[str]], object]
    headers: dict[str, str] = field(default_factory=dict)

    def bodies(self, assets: int) -> list[bytes]:
        """Return requests for the features of so many assets each."""
        ids = _ids()
        starts = [number * assets % (len(ids) - assets) for number in range(BODIES)]
        return [json.dumps(self.body(ids[start : start + assets])).encode() for start in starts]

    def cpu(self) -> float:
        """Return the seconds of CPU of the server's processes so far."""
        return sum(sum(p.cpu_times()[:2]) for p in (self.process, *self.process.children(recursive=True)))


def measure_reads(seconds: float, say: Callable[[str], None]) -> list[dict]:
    """Return a record per number of assets, connections and way, each of `ROUNDS` times so many seconds.

    CPU in ms per request, percentiles in ms, requests per second, and what made the load.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reads-")))
        postgres = stack.enter_context(PostgresServer(directory / "postgres", free_port()))
        redis = stack.enter_context(RedisServer(directory / "redis", free_port()))
        ensure_database(postgres.admin_url, "registry", "feast")
        path = feature_store_yaml(directory, postgres.port, redis.port)
        environment = os.environ | {
            "FEAST_FS_YAML_FILE_PATH": str(path),
            "FEATURE_DATA_DIR": str(directory / "data"),
            "FEATURE_STORE_ENV_FILE": os.devnull,
            "PYTHONWARNINGS": "ignore",
            "JWT_SECRET": _SECRET,
            "GATEWAY_REQUESTS_PER_MINUTE": "1000000000",
            "GATEWAY_FEATURE_SERVICE": SERVICE,
        }
        say("publishing")
        worker("benchmarks.serving", "publish", environment, "0", "0")
        keys = _give_to_tenant(redis.port)
        say("starting the servers")
        ways = list(_ways(stack, environment, directory))
        records = []
        for (assets, times), connections in itertools.product(ASSETS.items(), CONNECTIONS):
            bodies = {way.name: way.bodies(assets) for way in ways}
            found: dict[str, list[dict[str, float]]] = {}
            for number in range(ROUNDS + 1):
                say(f"{assets} assets, {connections} connections, round {number} of {ROUNDS}")
                for way in ways:
                    before = way.cpu()
                    load = measured(way.port, way.path, way.headers, bodies[way.name], connections, seconds * times)
                    record = {"cpu_ms": (way.cpu() - before) / load.requests * 1e3}
                    record |= {f"p{p}": value * 1e3 for p, value in load.percentiles.items()}
                    record["per_second"] = load.requests / load.seconds
                    if number:  # the first one warms up
                        found.setdefault(way.name, []).append(record)
                if number and connections == 1:
                    raw = asyncio.run(_raw(redis.port, keys, assets, BODIES))
                    found.setdefault("raw socket", []).append({"cpu_ms": raw * 1e3})
            names = {"assets": assets, "connections": connections, "load": "wrk" if WRK else "asyncio"}
            for way, of_rounds in found.items():
                medians = {name: statistics.median(each[name] for each in of_rounds) for name in of_rounds[0]}
                records.append(names | {"way": way} | medians)
        return records


def _give_to_tenant(port: int) -> list[bytes]:
    """Let all assets belong to a tenant as dCMMS has them; return their keys."""
    from feast.infra.online_stores.helpers import _mmh3
    from feast.protos.feast.types.Value_pb2 import Value
    from redis import Redis

    from serving.online_store import string_keys

    keys = string_keys("dcmms", "asset_id", _ids())
    with Redis(port=port) as client, client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hset(key, _mmh3("asset_features:tenant_id"), Value(string_val=_TENANT).SerializeToString())
        pipe.execute()
    return keys


def _ways(stack: ExitStack, environment: Mapping[str, str], directory: Path) -> Iterator[Way]:
    from features.services import predictive_maintenance_v1 as service

    whole_rows = directory / "whole_rows.yaml"
    config = yaml.safe_load(Path(environment["FEAST_FS_YAML_FILE_PATH"]).read_text())
    config["online_store"]["type"] = "serving.online_store.WholeRowRedisOnlineStore"
    whole_rows.write_text(yaml.safe_dump(config))
    features = [f"{view.name}:{field.name}" for view in service.feature_view_projections for field in view.features]

    def by_list(ids: list[str]) -> object:
        return {"features": features, "entities": {"asset_id": ids}}

    def by_service(ids: list[str]) -> object:
        return {"feature_service": service.name, "entities": {"asset_id": ids}}

    feast = [str(Path(sys.executable).with_name("feast")), "serve", "-h", "127.0.0.1", "-w", "1"]
    feast += ["--max-requests", "0", "--no-access-log", "-p"]
    for name, path in (("stock", environment["FEAST_FS_YAML_FILE_PATH"]), ("whole rows", str(whole_rows))):
        process, port = stack.enter_context(_server(feast, environment | {"FEAST_FS_YAML_FILE_PATH": path}, "/health"))
        yield Way(f"{name}, by list", process, port, "/get-online-features", by_list)
        yield Way(f"{name}, by service", process, port, "/get-online-features", by_service)
    gateway = [sys.executable, "-m", "gateway", "--no-access-log", "--port"]
    process, port = stack.enter_context(_server(gateway, environment, "/openapi.json"))
    for name, role in (("gateway, own tenant", "operator"), ("gateway, all tenants", "super_admin")):
        claims = {"id": role, "tenantId": _TENANT, "email": "a@b.example", "username": "a", "role": role}
        token = jwt.encode(claims | {"exp": int(time.time()) + 7_200}, _SECRET, algorithm="HS256")
        yield Way(
            name,
            process,
            port,
            "/api/v1/ml/features/assets",
            lambda ids: {"assetIds": ids},
            {"Authorization": f"Bearer {token}"},
        )


@contextmanager
def _server(command: list[str], environment: Mapping[str, str], path: str) -> Iterator[tuple[psutil.Process, int]]:
    port = free_port()
    process = subprocess.Popen(
        [*command, str(port)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_healthy(port, path)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait()


async def _raw(port: int, keys: list[bytes], assets: int, requests: int) -> float:
    """Return the seconds of CPU of this process per request of as many HGETALLs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.process_time()
    for number in range(requests):
        start = number * assets % (len(keys) - assets)
        wanted = keys[start : start + assets]
        writer.write(b"".join([b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n" % (len(key), key) for key in wanted]))
        parser, left = hiredis.Reader(), assets
        while left:
            parser.feed(await reader.read(1 << 18))
            while left and parser.gets() is not False:
                left -= 1
    seconds = (time.process_time() - started) / requests
    writer.close()
    await writer.wait_closed()
    return seconds

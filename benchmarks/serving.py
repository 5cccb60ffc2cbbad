"""`feast serve` under load while snapshots are being published: latency, errors, and rows that mix two snapshots.

Every feature of a snapshot tells the hour of the snapshot, so an answer whose features of one view differ has caught a
row half-updated. The load is four connections that ask for all features of one asset again and again, from a process of
its own; answers are parsed and compared after the measurement of their time.
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
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pyarrow as pa

from benchmarks.publishing import feature_store_yaml
from benchmarks.worker import do_one_of, start, worker
from benchmarks.worker import result as result_of
from dev.servers import PostgresServer, RedisServer, free_port
from dev.stack import REPOSITORY, ensure_database

ASSETS = 20_000
CONNECTIONS = 4
FLAGS = {
    "recommended": ["-w", "2", "--max-requests", "0", "--no-access-log"],
    "default": [],
}
_START = datetime(2026, 1, 1, tzinfo=UTC)


def measure_serving(seconds: float, say: Callable[[str], None]) -> list[dict]:
    """Return one record per set of flags: requests, errors, half-updated rows, snapshots meanwhile, latencies in ms."""
    records = []
    with (
        tempfile.TemporaryDirectory(prefix="serving-") as name,
        PostgresServer(Path(name) / "postgres", free_port()) as postgres,
        RedisServer(Path(name) / "redis", free_port()) as redis,
    ):
        ensure_database(postgres.admin_url, "registry", "feast")
        environment = os.environ | {
            "FEAST_FS_YAML_FILE_PATH": str(feature_store_yaml(Path(name), postgres.port, redis.port)),
            "FEATURE_DATA_DIR": str(Path(name) / "data"),
            "FEATURE_STORE_ENV_FILE": os.devnull,
            "PYTHONWARNINGS": "ignore",
        }
        hour = worker("benchmarks.serving", "publish", environment, "0", "0")["hour"]
        for flags, options in FLAGS.items():
            port = free_port()
            say(f"feast serve with the {flags} flags, {seconds:.0f} s")
            server = subprocess.Popen(
                [str(Path(sys.executable).with_name("feast")), "serve", "-h", "127.0.0.1", "-p", str(port), *options],
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            publisher = None
            try:
                _wait_until_healthy(port)
                publisher = start("benchmarks.serving", "publish", environment, str(hour), str(seconds))
                load = worker("benchmarks.serving", "load", environment, str(port), str(seconds))
                last = result_of(publisher)["hour"]
                records.append({"flags": flags, "options": " ".join(options), "seconds": seconds, **load})
                records[-1]["snapshots"] = last - hour
                hour = last
            finally:
                for process in (publisher, server):
                    if process and process.poll() is None:
                        process.terminate()
                        process.wait()
    return records


def _wait_until_healthy(port: int, path: str = "/health") -> None:
    import requests

    deadline = time.monotonic() + 120
    while True:
        try:
            if requests.get(f"http://127.0.0.1:{port}{path}", timeout=2).ok:
                return
        except requests.ConnectionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


# what the processes do ------------------------------------------------------------------------------------------------


def publish(hour: int, seconds: float, start: datetime = _START) -> dict:
    """Publish all views, one snapshot after the other for so long, at least one; return the last snapshot's hour."""
    from entities import asset
    from pipeline.base.specs import SERVICES, VIEWS
    from pipeline.online import publish as online
    from pipeline.registry.feast_store import open_feature_store
    from pipeline.snapshots.files import snapshot_path, write_snapshot

    with open_feature_store() as store:
        if hour == 0:
            store.apply([asset, *VIEWS.values(), *SERVICES.values()])
        end = time.monotonic() + seconds
        while True:
            hour += 1
            as_of = start + timedelta(hours=hour)
            for view in VIEWS:
                path = snapshot_path(Path(os.environ["FEATURE_DATA_DIR"]), view, as_of)
                write_snapshot(_uniform_snapshot(view, as_of, hour), path)
                online.publish(store, view, as_of, path)
            if time.monotonic() >= end:
                return {"hour": hour}


def _uniform_snapshot(view: str, as_of: datetime, value: int) -> pa.Table:
    from pipeline.base.specs import TIMESTAMP, snapshot_schema

    schema = snapshot_schema(view)
    columns = {"asset_id": pa.array(_ids())}
    for field in schema:
        if field.name not in columns:
            scalar = as_of if field.type == TIMESTAMP else str(value) if field.type == pa.string() else value
            columns[field.name] = pa.repeat(pa.scalar(scalar, field.type), ASSETS)
    return pa.table(columns, schema=schema)


def _ids() -> list[str]:
    return [f"{number:08x}-7e57-4308-8ca5-2dc142375e2d" for number in range(ASSETS)]


def load(port: int, seconds: float) -> dict:
    """Ask for so long and return counts, and latencies in ms."""
    latencies, answers, errors = asyncio.run(_load(port, seconds))
    percentiles = statistics.quantiles(latencies, n=100)
    return {
        "requests": len(latencies) + errors,
        "errors": errors + sum(_is_incomplete(answer) for answer in answers),
        "half_updated": sum(_is_half_updated(answer) for answer in answers),
        "p50": statistics.median(latencies) * 1e3,
        "p99": percentiles[98] * 1e3,
        "longest": max(latencies) * 1e3,
    }


async def _load(port: int, seconds: float) -> tuple[list[float], list[bytes], int]:
    latencies, answers, errors = [], [], itertools.count()
    end = time.monotonic() + seconds
    ids = _ids()

    async def client(number: int) -> None:
        random = Random(number)
        reader = writer = None
        while time.monotonic() < end:
            body = json.dumps(
                {
                    "feature_service": "predictive_maintenance_v1",
                    "entities": {"asset_id": [random.choice(ids)]},
                    "full_feature_names": True,
                }
            ).encode()
            started = time.perf_counter()
            try:
                if writer is None or reader.at_eof():  # the server has closed it after its last answer
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(
                    b"POST /get-online-features HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                answer = await reader.readexactly(length)
                if not head.startswith(b"HTTP/1.1 200"):
                    raise ConnectionError(head[:30])
            except (OSError, asyncio.IncompleteReadError):
                next(errors)
                writer = None
                continue
            latencies.append(time.perf_counter() - started)
            answers.append(answer)
            if b"connection: close" in head.lower():
                writer = None

    await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))
    return latencies, answers, next(errors)


def _values_of_views(answer: bytes) -> dict[str, set[float]]:
    content = json.loads(answer)
    values: dict[str, set[float]] = {}
    for name, result in zip(content["metadata"]["feature_names"], content["results"], strict=True):
        view, separator, _ = name.partition("__")
        if separator:
            value = result["values"][0]
            values.setdefault(view, set()).add(None if value is None else float(value))
    return values


def _is_half_updated(answer: bytes) -> bool:
    return any(len(values) > 1 for values in _values_of_views(answer).values())


def _is_incomplete(answer: bytes) -> bool:
    views = _values_of_views(answer)
    return len(views) != 3 or any(None in values for values in views.values())


_TASKS = {
    "publish": lambda hour, seconds, *start: publish(int(hour), float(seconds), *map(datetime.fromisoformat, start)),
    "load": lambda port, seconds: load(int(port), float(seconds)),
}


if __name__ == "__main__":
    do_one_of(_TASKS)

"""Publishing one snapshot to Redis in four ways, side by side on the same Parquet file and the same Redis.

- stock: `feast materialize`
- pipeline: redis-py's pipeline, with values that Feast has serialized beforehand (not counted)
- raw socket: ready bytes over one connection, nothing compared: the limit of this Redis on this machine
- publisher: the Redis engine, from the Parquet file to the registry, with the order guarantee and the removal

Each figure is a process of its own, for its peak memory. The four take turns, so that a slow minute of the machine hits
all of them; `fill` is into an empty database, `update` into one that holds the rows of an earlier instant.
"""

import itertools
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.results import peak_megabytes
from benchmarks.worker import do_one_of, worker
from dev.servers import PostgresServer, RedisServer, free_port
from dev.stack import REPOSITORY, ensure_database

VIEW = "telemetry_features"
METHODS = ("stock", "pipeline", "raw socket", "publisher")
PHASES = ("fill", "update")
_START = datetime(2026, 1, 1, tzinfo=UTC)
# The values and bytes that are ready beforehand, so many rows at a time.
_READY_ROWS = 50_000


def measure_publishing(sizes: dict[int, int], say: Callable[[str], None]) -> list[dict]:
    """Return one record per size, phase and method: rows per second (median) and peak memory in MB (largest).

    `sizes` gives, per number of entities, how many runs the median is of.
    """
    records = []
    with (
        tempfile.TemporaryDirectory(prefix="publishing-") as name,
        PostgresServer(Path(name) / "postgres", free_port()) as postgres,
        RedisServer(Path(name) / "redis", free_port()) as redis,
    ):
        ensure_database(postgres.admin_url, "registry", "feast")
        # saving in the background would disturb whichever method is just running
        _client(redis.port).config_set("save", "")
        yaml_file = feature_store_yaml(Path(name), postgres.port, redis.port)
        environment = {
            "FEAST_FS_YAML_FILE_PATH": str(yaml_file),
            "FEATURE_DATA_DIR": str(Path(name) / "data"),
            "FEATURE_STORE_ENV_FILE": os.devnull,
        }
        worker("benchmarks.publishing", "apply", environment)
        ways = {method: (method, {}) for method in METHODS}
        hours = 0
        for entities, runs in sizes.items():
            count = str(runs * 2 * len(METHODS))
            worker("benchmarks.publishing", "snapshots", environment, str(entities), str(hours), count)
            clear = _client(redis.port).flushall
            for (phase, method), figures in in_turns(ways, entities, runs, hours, environment, clear, say).items():
                records.append({"entities": entities, "runs": runs, "phase": phase, "method": method} | figures)
            hours += runs * 2 * len(METHODS)
    return records


def in_turns(
    ways: Mapping[str, tuple[str, dict[str, str]]],
    entities: int,
    runs: int,
    hour: int,
    environment: dict[str, str],
    clear: Callable[[], object],
    say: Callable[[str], object],
) -> dict[tuple[str, str], dict[str, float]]:
    """Return, per phase and way, rows per second (median) and peak memory in MB (largest).

    A way is a method and settings. Each publication takes the snapshot of the next hour, from `hour` on; `clear`
    empties the online store before the turn of each way.
    """
    found: dict[tuple[str, str], list[dict]] = {(phase, way): [] for phase in PHASES for way in ways}
    hours = itertools.count(hour)
    for run in range(runs):
        for way, (method, settings) in ways.items():
            clear()
            for phase in PHASES:
                say(f"{entities:,} entities, run {run + 1} of {runs}: {way}, {phase}")
                done = worker("benchmarks.publishing", "publish", environment | settings, method, str(next(hours)))
                found[phase, way].append(done)
    return {
        key: {
            "rows_per_second": statistics.median(entities / result["seconds"] for result in results),
            "megabytes": max(result["megabytes"] for result in results),
        }
        for key, results in found.items()
    }


def _client(port: int):
    from redis import Redis

    return Redis(port=port)


def feature_store_yaml(directory: Path, postgres_port: int, redis_port: int) -> Path:
    """Write a feature_store.yaml for these servers into `directory` and return its path."""
    config = yaml.safe_load((REPOSITORY / "feature_store.yaml").read_text())
    config["registry"]["path"] = f"postgresql+psycopg://feast@127.0.0.1:{postgres_port}/registry"
    config["online_store"]["connection_string"] = f"127.0.0.1:{redis_port},socket_timeout=60"
    path = directory / "feature_store.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


# what the processes do ------------------------------------------------------------------------------------------------


def apply_definitions() -> dict:
    """Register the views."""
    from entities import asset
    from pipeline.base.specs import VIEWS
    from pipeline.registry.feast_store import open_feature_store

    with open_feature_store() as store:
        store.apply([asset, *VIEWS.values()])
    return {}


def write_snapshots(entities: int, first_hour: int, count: int) -> dict:
    """Write a snapshot of random values per measurement, an hour apart."""
    from pipeline.base.specs import snapshot_schema
    from pipeline.snapshots.files import snapshot_path, write_snapshot

    generator = np.random.default_rng(entities)
    data_dir = Path(os.environ["FEATURE_DATA_DIR"])
    for hour in range(first_hour, first_hour + count):
        as_of = _START + timedelta(hours=hour)
        path = snapshot_path(data_dir, VIEW, as_of)
        write_snapshot(_snapshot(snapshot_schema(VIEW), entities, as_of, generator), path)
    return {}


def _snapshot(schema: pa.Schema, entities: int, as_of: datetime, generator: np.random.Generator) -> pa.Table:
    """Return rows as a fleet has them: one value in twenty is NULL."""
    columns = []
    for field in schema:
        missing = generator.random(entities) < 0.05
        if field.name == "asset_id":
            columns.append(pa.array([f"{number:08x}-7e57-4308-8ca5-2dc142375e2d" for number in range(entities)]))
        elif pa.types.is_timestamp(field.type):
            columns.append(pa.array(np.full(entities, np.datetime64(as_of.replace(tzinfo=None), "us")), field.type))
        elif pa.types.is_integer(field.type):
            columns.append(pa.array(generator.integers(0, 400, entities), field.type, mask=missing))
        else:
            columns.append(pa.array(generator.random(entities) * 1_000, field.type, mask=missing))
    return pa.table(columns, schema=schema)


def publish(method: str, hour: int) -> dict:
    """Publish the snapshot of one hour and return the seconds and the peak memory of this process."""
    from pipeline.online import publish as online
    from pipeline.registry.feast_store import open_feature_store
    from pipeline.snapshots.files import snapshot_path

    as_of = _START + timedelta(hours=hour)
    path = snapshot_path(Path(os.environ["FEATURE_DATA_DIR"]), VIEW, as_of)
    with open_feature_store() as store:
        seconds = {
            "stock": _publish_stock,
            "pipeline": _publish_pipeline,
            "raw socket": _publish_raw,
            "publisher": _publish_engine,
        }[method](store, as_of, path)
        online.record(store, VIEW, as_of)  # the next publisher finds the state that a run before it leaves
    return {"seconds": seconds, "megabytes": peak_megabytes()}


def _publish_stock(store, as_of: datetime, path: Path) -> float:
    from pipeline.online import publish as online

    started = time.perf_counter()
    online.publish(store, VIEW, as_of, path, engine="feast")
    return time.perf_counter() - started


def _publish_engine(store, as_of: datetime, path: Path) -> float:
    from pipeline.online import publish as online

    started = time.perf_counter()
    done = online.publish(store, VIEW, as_of, path, replicas=int(os.environ.get("REDIS_WAIT_REPLICAS", "0")))
    assert done.newer == 0
    return time.perf_counter() - started


def _publish_pipeline(store, as_of: datetime, path: Path) -> float:
    """Time the pipelines alone; the values are made between them."""
    client, blocks = _encoded_blocks(store, as_of, path)
    seconds = 0.0
    for keys, commands in blocks:
        hashes = _parsed(commands)
        started = time.perf_counter()
        with client.pipeline(transaction=False) as pipeline:
            for key, fields in zip(keys, hashes, strict=True):
                pipeline.hset(key, mapping=fields)
            pipeline.execute()
        seconds += time.perf_counter() - started
    return seconds


def _publish_raw(store, as_of: datetime, path: Path) -> float:
    """Time the sending of ready bytes and the wait for the replies, block by block."""
    client, blocks = _encoded_blocks(store, as_of, path)
    host = client.connection_pool.connection_kwargs
    seconds = 0.0
    with socket.create_connection((host["host"], int(host["port"]))) as connection:
        for keys, commands in blocks:
            data = b"".join(commands)
            started = time.perf_counter()
            reader = threading.Thread(target=_read_replies, args=(connection, len(keys)))
            reader.start()
            connection.sendall(data)
            reader.join()
            seconds += time.perf_counter() - started
    return seconds


def _read_replies(connection: socket.socket, expected: int) -> None:
    while expected:
        data = connection.recv(1 << 20)
        assert data
        assert b"-" not in data
        expected -= data.count(b"\n")


def _encoded_blocks(store, as_of: datetime, path: Path):
    from pipeline.online.redis.engine import redis_client, row_encoder
    from pipeline.online.redis.layout import serialized_stamp
    from pipeline.registry.feast_store import registered_view

    encoder, stamp = row_encoder(store, registered_view(store, VIEW)), serialized_stamp(as_of)

    def blocks() -> Iterator[tuple[list[bytes], list[bytes]]]:
        for batch in pq.ParquetFile(path).iter_batches(_READY_ROWS):
            ids = batch.column("asset_id")
            yield encoder.keys(ids).to_pylist(), encoder.updates(batch, encoder.bulk_keys(ids), stamp).to_pylist()

    return redis_client(store), blocks()


def _parsed(commands: list[bytes]) -> list[dict[bytes, bytes]]:
    """Return the fields of each HSET command."""
    import hiredis

    reader = hiredis.Reader()
    hashes = []
    for command in commands:  # one at a time: after each the reader moves all that it has left
        reader.feed(command)
        words = reader.gets()
        hashes.append(dict(zip(words[2::2], words[3::2], strict=True)))
    return hashes


_TASKS = {
    "apply": apply_definitions,
    "snapshots": lambda entities, first, count: write_snapshots(int(entities), int(first), int(count)),
    "publish": lambda method, hour: publish(method, int(hour)),
}


if __name__ == "__main__":
    do_one_of(_TASKS)

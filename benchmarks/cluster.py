"""Publishing to a Redis cluster, stock Feast and the publisher taking turns: three primaries with a replica each.

All nodes share the machine with the publisher, and the replicas do the same work once more: the ratio counts.
"""

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from benchmarks.publishing import PHASES, feature_store_yaml, worker
from dev.redis_servers import PROGRAMS, cluster
from dev.servers import PostgresServer, free_port
from dev.stack import ensure_database

ENTITIES, RUNS = 50_000, 3
# Each way to publish: its method, and for how many replicas of each primary it waits.
WAYS = {
    "stock": ("stock", 0),
    "the publisher": ("publisher", 0),
    "the publisher, waiting for a replica": ("publisher", 1),
}


def measure_cluster(say: Callable[[str], object]) -> list[dict]:
    """Return one record per phase and way: rows per second, the median of the runs, and peak memory in MB."""
    figures: dict[tuple[str, str], list[dict]] = {(phase, way): [] for phase in PHASES for way in WAYS}
    with (
        TemporaryDirectory(prefix="cluster-benchmark-") as name,
        PostgresServer(Path(name) / "postgres", free_port()) as postgres,
        cluster(Path(name) / "cluster", PROGRAMS["redis-6.2"]) as nodes,
    ):
        ensure_database(postgres.admin_url, "registry", "feast")
        path = feature_store_yaml(Path(name), postgres.port, 0)
        config = yaml.safe_load(path.read_text())
        config["online_store"] |= {"redis_type": "redis_cluster", "connection_string": nodes.connection_string}
        path.write_text(yaml.safe_dump(config))
        environment = {
            "FEAST_FS_YAML_FILE_PATH": str(path),
            "FEATURE_DATA_DIR": str(Path(name) / "data"),
            "FEATURE_STORE_ENV_FILE": os.devnull,
        }
        worker("apply", environment)
        worker("snapshots", environment, str(ENTITIES), "0", str(RUNS * len(figures)))
        hour = 0
        for run in range(RUNS):
            for way, (method, replicas) in WAYS.items():
                nodes.clear()
                for phase in PHASES:
                    say(f"cluster, {ENTITIES:,} entities, run {run + 1} of {RUNS}: {way}, {phase}")
                    waiting = {"REDIS_WAIT_REPLICAS": str(replicas)}
                    figures[phase, way].append(worker("publish", environment | waiting, method, str(hour)))
                    hour += 1
    return [
        {
            "entities": ENTITIES,
            "runs": RUNS,
            "phase": phase,
            "way": way,
            "rows_per_second": statistics.median(ENTITIES / result["seconds"] for result in results),
            "megabytes": max(result["megabytes"] for result in results),
        }
        for (phase, way), results in figures.items()
    ]

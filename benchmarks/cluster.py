"""Publishing to a Redis cluster, stock Feast and the publisher taking turns.

All nodes share the machine with the publisher, and replicas do the same work once more: the ratio counts.
"""

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from benchmarks.publishing import PHASES, feature_store_yaml, worker
from dev.redis_servers import PROGRAMS, Cluster, cluster
from dev.servers import PostgresServer, free_port
from dev.stack import ensure_database

ENTITIES, RUNS = 50_000, 3
# Each way to publish: its method, and for how many replicas of each primary it waits.
STOCK, PUBLISHER, WAITING = ("stock", 0), ("publisher", 0), ("publisher", 1)
CLUSTERS = {
    "3 primaries": (0, {"stock": STOCK, "the publisher": PUBLISHER}),
    "3 primaries, 3 replicas": (
        3,
        {"stock": STOCK, "the publisher": PUBLISHER, "the publisher, REDIS_WAIT_REPLICAS=1": WAITING},
    ),
}


def measure_cluster(say: Callable[[str], object]) -> list[dict]:
    """Return one record per cluster, phase and way: rows per second, the median of the runs, and peak memory in MB."""
    records = []
    for kind, (replicas, ways) in CLUSTERS.items():
        with (
            TemporaryDirectory(prefix="cluster-benchmark-") as name,
            PostgresServer(Path(name) / "postgres", free_port()) as postgres,
            cluster(Path(name) / "cluster", PROGRAMS["redis-6.2"], replicas=replicas) as nodes,
        ):
            environment = _prepared(Path(name), postgres, nodes, 2 * RUNS * len(ways))
            figures: dict[tuple[str, str], list[dict]] = {(phase, way): [] for phase in PHASES for way in ways}
            hour = 0
            for run in range(RUNS):
                for way, (method, waits_for) in ways.items():
                    nodes.clear()
                    for phase in PHASES:
                        say(f"{kind}, {ENTITIES:,} entities, run {run + 1} of {RUNS}: {way}, {phase}")
                        waiting = {"REDIS_WAIT_REPLICAS": str(waits_for)}
                        figures[phase, way].append(worker("publish", environment | waiting, method, str(hour)))
                        hour += 1
        for (phase, way), results in figures.items():
            records.append(
                {
                    "cluster": kind,
                    "entities": ENTITIES,
                    "runs": RUNS,
                    "phase": phase,
                    "way": way,
                    "rows_per_second": statistics.median(ENTITIES / result["seconds"] for result in results),
                    "megabytes": max(result["megabytes"] for result in results),
                }
            )
    return records


def _prepared(directory: Path, postgres: PostgresServer, nodes: Cluster, snapshots: int) -> dict[str, str]:
    """Register the views and write so many snapshots; return the environment of the processes that publish them."""
    ensure_database(postgres.admin_url, "registry", "feast")
    path = feature_store_yaml(directory, postgres.port, 0)
    config = yaml.safe_load(path.read_text())
    config["online_store"] |= {"redis_type": "redis_cluster", "connection_string": nodes.connection_string}
    path.write_text(yaml.safe_dump(config))
    environment = {
        "FEAST_FS_YAML_FILE_PATH": str(path),
        "FEATURE_DATA_DIR": str(directory / "data"),
        "FEATURE_STORE_ENV_FILE": os.devnull,
    }
    worker("apply", environment)
    worker("snapshots", environment, str(ENTITIES), "0", str(snapshots))
    return environment

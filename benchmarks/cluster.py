"""Publishing to a Redis cluster, stock Feast and the publisher taking turns.

All nodes share the machine with the publisher, and replicas do the same work once more: the ratio counts.
"""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from benchmarks.publishing import feature_store_yaml, in_turns
from benchmarks.worker import worker
from dev.redis_servers import PROGRAMS, Cluster, cluster
from dev.servers import PostgresServer, free_port
from dev.stack import ensure_database

ENTITIES, RUNS = 50_000, 3
# Each way to publish: its method and settings.
WAYS = {"stock": ("stock", {}), "the publisher": ("publisher", {})}
WAITING = {"the publisher, REDIS_WAIT_REPLICAS=1": ("publisher", {"REDIS_WAIT_REPLICAS": "1"})}
CLUSTERS = {"3 primaries": (0, WAYS), "3 primaries, 3 replicas": (3, WAYS | WAITING)}


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
            say(kind)
            for (phase, way), figures in in_turns(ways, ENTITIES, RUNS, 0, environment, nodes.clear, say).items():
                record = {"cluster": kind, "entities": ENTITIES, "runs": RUNS, "phase": phase, "way": way}
                records.append(record | figures)
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
    worker("benchmarks.publishing", "apply", environment)
    worker("benchmarks.publishing", "snapshots", environment, str(ENTITIES), "0", str(snapshots))
    return environment

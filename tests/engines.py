"""What an offline store answers: a training set, and the online values that stock Feast materializes from it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from redis import Redis

from dev.servers import PostgresServer, RedisServer
from dev.stack import ensure_database
from pipeline import REPOSITORY
from pipeline.base.specs import TIMESTAMP
from tests.dcmms import T, asset_key

# In a process of its own, whose definitions follow its feature_store.yaml.
_ASK = """
import sys
from datetime import datetime

import pandas as pd
import pyarrow.parquet as pq
from feast import FeatureStore

from pipeline.base.specs import VIEWS
from tests.stores import register

entities, service, answer, start, end = sys.argv[1:]
store = FeatureStore(".")
register(store, list(VIEWS.values()))
job = store.get_historical_features(pd.read_parquet(entities), store.get_feature_service(service))
pq.write_table(job.to_arrow(), answer)
views = ["asset_features", "telemetry_features"]  # one of each database
store.materialize(datetime.fromisoformat(start), datetime.fromisoformat(end), views)
"""
# Assets of made_up_history, one that it does not have, and instants between its snapshots, before all and after a ttl.
_ASSETS = [str(asset_key(number)) for number in [*range(0, 600, 4), 10_000]]
_INSTANTS = [T - timedelta(days=days, hours=1) for days in (30, 13, 7, 0, -20, -80)]
_INTERVAL = [(T - timedelta(days=10)).isoformat(), T.isoformat()]
_SORTED = [("event_timestamp", "ascending"), ("asset_id", "ascending")]


@dataclass(frozen=True)
class Answer:
    """A training set in the order of instant and asset, and all that is online."""

    training_set: pa.Table
    online: dict[bytes, dict[bytes, bytes]]


@dataclass(frozen=True)
class Engine:
    """The offline store of a feature_store.yaml, on the snapshots in a folder; `variables` are its own."""

    yaml: Path
    data_dir: Path
    postgres: PostgresServer
    redis: RedisServer
    variables: Mapping[str, str] = field(default_factory=dict)

    def python(self, *arguments: str | Path) -> str:
        """Run Python, as a process that has to succeed, in the environment of the engine; return what it printed."""
        registry = f"feast_{self.yaml.stem.replace('.', '_')}"
        ensure_database(self.postgres.admin_url, registry, "feast")
        environment = os.environ | {
            "FEATURE_STORE_ENV_FILE": os.devnull,
            "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
            "CLICKHOUSE_HOST": "127.0.0.1",
            "FEATURE_DATA_DIR": str(self.data_dir),
            "FEAST_FS_YAML_FILE_PATH": str(self.yaml),
            "FEAST_REGISTRY_URL": f"postgresql+psycopg://feast@127.0.0.1:{self.postgres.port}/{registry}",
            "REDIS_CONNECTION": f"127.0.0.1:{self.redis.port}",
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env=environment | self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout

    def answer(self, directory: Path, service: str) -> Answer:
        """Return what the engine answers of a feature service on the snapshots of made_up_history."""
        entities, answer = directory / "entities.parquet", directory / f"{self.yaml.stem}.answer.parquet"
        rows = {"asset_id": [a for a in _ASSETS for _ in _INSTANTS], "event_timestamp": _INSTANTS * len(_ASSETS)}
        pq.write_table(
            pa.table(rows, schema=pa.schema({"asset_id": pa.string(), "event_timestamp": TIMESTAMP})), entities
        )
        with Redis(port=self.redis.port) as client:
            client.flushall()
            self.python("-c", _ASK, entities, service, answer, *_INTERVAL)
            online = {key: client.hgetall(key) for key in client.scan_iter()}
        return Answer(pq.read_table(answer).sort_by(_SORTED), online)


def assert_equal(answer: Answer, expected: Answer) -> None:
    """Fail where a value, a NULL or a byte differs from what is expected."""
    names = expected.training_set.column_names
    assert sorted(answer.training_set.column_names) == sorted(names)
    for name in names:
        found = answer.training_set[name].cast(expected.training_set.schema.field(name).type)
        assert found.to_pylist() == expected.training_set[name].to_pylist(), name
    assert answer.online == expected.online

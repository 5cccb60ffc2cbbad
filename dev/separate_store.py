"""A feature store beside the developer's own on the local stack, so that a demo touches nothing but its own."""

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import redis
import yaml
from psycopg2 import sql

from dev.servers import HOST
from dev.stack import REPOSITORY, LocalStack, ensure_database


@dataclass(frozen=True)
class SeparateStore:
    """Registry database, snapshots, Redis database and `feature_store.yaml` under a name of their own.

    `stack` has to be up for whatever talks to its servers.
    """

    stack: LocalStack
    name: str
    redis_database: int

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return self.stack.directory / self.name

    @property
    def snapshots(self) -> Path:
        """The directory of its Parquet snapshots."""
        return self.directory / "features"

    @property
    def feature_store_yaml(self) -> Path:
        """The repository's `feature_store.yaml` with this store's registry and online store."""
        return self.directory / "feature_store.yaml"

    @property
    def registry_database(self) -> str:
        """The PostgreSQL database of its registry."""
        return f"feast_registry_{self.name}"

    def settings(self) -> dict[str, str]:
        """Environment variables that point `materialize_features.py` and Feast at this store."""
        return {
            "FEATURE_DATA_DIR": str(self.snapshots.resolve()),
            "FEAST_FS_YAML_FILE_PATH": str(self.feature_store_yaml.resolve()),
        }

    def prepare(self) -> None:
        """Create what is missing; forget earlier snapshots, online values and that there were any."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with closing(psycopg2.connect(self.stack.postgres.admin_url)) as connection:
            connection.autocommit = True  # drop database runs in no transaction
            statement = sql.SQL("drop database if exists {} with (force)")
            connection.cursor().execute(statement.format(sql.Identifier(self.registry_database)))
        ensure_database(self.stack.postgres.admin_url, self.registry_database, "feast")
        self.feature_store_yaml.write_text(yaml.safe_dump(self._config(), sort_keys=False))
        shutil.rmtree(self.snapshots, ignore_errors=True)
        with redis.Redis(host=HOST, port=self.stack.redis_port, db=self.redis_database) as client:
            client.flushdb()

    def _config(self) -> dict[str, Any]:
        config = yaml.safe_load((REPOSITORY / "feature_store.yaml").read_text())
        registry = self.stack.postgres.url("feast", self.registry_database)
        config["registry"]["path"] = registry.replace("postgresql://", "postgresql+psycopg://")
        _, *options = config["online_store"]["connection_string"].split(",")
        server = f"{HOST}:{self.stack.redis_port}"
        config["online_store"]["connection_string"] = ",".join([server, f"db={self.redis_database}", *options])
        return config

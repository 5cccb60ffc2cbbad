"""Feature stores for tests: the repository's feature_store.yaml, pointed at the test servers."""

import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from feast import FeatureStore, FeatureView, FileSource

from dev.servers import PostgresServer, RedisServer
from dev.stack import ensure_database
from entities import asset, site, work_order
from pipeline import REPOSITORY
from pipeline.base.settings import Settings
from pipeline.base.specs import SERVICES, VIEWS
from pipeline.registry.feast_store import open_feature_store
from pipeline.snapshots.upkeep import MARKER


def write_feature_store_yaml(directory: Path, postgres: PostgresServer, redis: RedisServer, registry: str) -> Path:
    """Write a feature_store.yaml with a new, empty registry database `registry` and return its path."""
    ensure_database(postgres.admin_url, registry, "feast")
    config = yaml.safe_load((REPOSITORY / "feature_store.yaml").read_text())
    config["registry"]["path"] = f"postgresql+psycopg://feast@127.0.0.1:{postgres.port}/{registry}"
    local = config["online_store"]["connection_string"].split(",", 1)[1]
    config["online_store"]["connection_string"] = f"127.0.0.1:{redis.port},{local}"
    path = directory / "feature_store.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def set_online_store(path: Path, **options: object) -> None:
    """Set options of the online store in a feature_store.yaml."""
    config = yaml.safe_load(path.read_text())
    config["online_store"] |= options
    path.write_text(yaml.safe_dump(config))


def apply_definitions(path: Path, data_dir: Path | None = None) -> None:
    """Register the definitions, as `feast apply` does, without its seconds of imports.

    With `data_dir` the snapshots of their sources are there. What was published before is forgotten.
    """
    views = [with_snapshots_in(data_dir, view) if data_dir else view for view in VIEWS.values()]
    with open_feature_store(path) as store:
        register(store, views)


def register(store: FeatureStore, views: list[FeatureView]) -> None:
    """Register `views` and all else that is defined, as if nothing had been published yet."""
    for view in store.list_feature_views():
        store.delete_feature_view(view.name)
    store.apply([asset, work_order, site, *views, *SERVICES.values()])


def with_snapshots_in(data_dir: Path, view: FeatureView) -> FeatureView:
    copy = view.__copy__()
    copy.batch_source = FileSource(
        name=f"{view.name}_snapshots",
        path=str(data_dir / view.name),
        file_format=view.batch_source.file_format,
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    return copy


def use_settings(monkeypatch: pytest.MonkeyPatch, settings: Settings, path: Path, **variables: str) -> None:
    """Set the environment of a run with `settings` and the feature_store.yaml `path`, changed by `variables`."""
    environment = {
        "FEATURE_STORE_ENV_FILE": os.devnull,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "CLICKHOUSE_DSN": settings.clickhouse_dsn.get_secret_value(),
        "FEATURE_DATA_DIR": str(settings.feature_data_dir),
        "FEAST_FS_YAML_FILE_PATH": str(path),
    }
    for name, value in (environment | variables).items():
        monkeypatch.setenv(name, value)


def is_written(path: Path) -> bool:
    """Return whether `path`, below a data directory, is a file of rows, or one that is left unfinished."""
    return path.is_file() and path.name != MARKER


def online_values(path: Path, features: list[str], assets: list[UUID]) -> dict[str, list[Any]]:
    """Return what Feast's SDK reads from the online store, a list of values per feature."""
    with open_feature_store(path) as store:
        answer = store.get_online_features(features, [{"asset_id": str(asset)} for asset in assets]).to_dict()
    del answer["asset_id"]
    return answer

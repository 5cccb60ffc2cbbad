"""The offline store: the snapshots of each feature view, in a directory of Parquet files, on S3 or an Iceberg table.

`<data dir>/<view>/snapshot_date=YYYY-MM-DD/<as-of>.parquet`; the data directory is `FEATURE_DATA_DIR`, by default
`data/` beside this file. Sources carry absolute paths: the DuckDB store resolves a relative one against the
caller's working directory. Where `FEATURE_SNAPSHOTS` names a store, they are there: docs/object-storage.md.
"""

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml
from feast import FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from pipeline.base.places import OBJECTS, checked_store
from settings_file import REPOSITORY, file_values

# At the first `feast apply` there are no snapshots, of which Feast warns for each view. Runs look where the folder is.
logging.getLogger("feast.infra.offline_stores.file_source").addFilter(
    lambda record: "FileSource path does not exist" not in record.getMessage()
)
# In every run of a store whose readers are Spark's.
warnings.filterwarnings("ignore", message="The spark data source API is an experimental feature")


class SnapshotsTable(IcebergSource):
    """An Iceberg table of snapshots, which the first run makes: `feast apply` does not ask for it."""

    def validate(self, config: RepoConfig) -> None:
        """Take it for there."""


class SnapshotObjects(FileSource):
    """Snapshots on S3, for which `feast apply` does not ask: it would ask Amazon, whatever AWS_ENDPOINT_URL says."""

    def validate(self, config: RepoConfig) -> None:
        """Take them for there."""


def sources() -> Callable[[str], DataSource]:
    """Return what makes the source over all snapshots of a view, by the settings of now, which are read once.

    As for the job, the environment wins over the settings file, and empty counts as not set. Raises
    `click.ClickException` where they cannot be meant.
    """
    settings = file_values() | os.environ
    try:
        checked_store(settings.get("FEATURE_SNAPSHOTS") or "")
    except ValueError as error:
        raise click.ClickException(f"FEATURE_SNAPSHOTS {error}") from None
    return partial(_source, _offline_store(settings), settings)


def _source(engine: str, settings: Mapping[str, str], view: str) -> DataSource:
    """Return the source over all snapshots of `view`: a hive-partitioned directory of Parquet files, or a table.

    It is of the class that the offline store takes which feature_store.yaml names: Spark reads the same files,
    ClickHouse a table of the view's name that `deploy/snapshots_to_clickhouse.py` fills.
    """
    place = settings.get("FEATURE_SNAPSHOTS") or ""
    folder = place or str((REPOSITORY / (settings.get("FEATURE_DATA_DIR") or "data")).resolve())
    scheme = place.partition("://")[0]
    kind = engine if engine in ("spark", "clickhouse") else scheme
    common: dict[str, Any] = {
        # Feast's registry takes no source of another class under a name that it has.
        "name": f"{view}_snapshots" + (f"_{kind}" if kind else ""),
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created",
        "description": f"Snapshots of {view}, one per as-of instant.",
        "owner": "ml-platform@dcmms.example",
    }
    if kind == "spark":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        path = f"{folder}/{view}".replace("s3://", "s3a://")  # as Hadoop calls it
        return SparkSource(path=path, file_format="parquet", **common)
    if kind == "clickhouse":
        from feast.infra.offline_stores.contrib.clickhouse_offline_store.clickhouse_source import ClickhouseSource

        return ClickhouseSource(table=view, **common)
    if kind == "iceberg":
        catalog, _, namespace = place.removeprefix("iceberg://").partition("/")
        # Nothing else is in the registry: the address and the credentials are the environment's.
        return SnapshotsTable(
            catalog_type="pyiceberg",
            catalog_name=catalog,
            catalog_properties={"type": _catalog_kind(catalog, settings)},
            warehouse="",
            namespace=namespace,
            table=view,
            **common,
        )
    if kind == "s3":  # where DuckDB takes no directory
        return SnapshotObjects(path=f"{folder}/{view}{OBJECTS}", file_format=ParquetFormat(), **common)
    return FileSource(path=f"{folder}/{view}", file_format=ParquetFormat(), **common)


def _catalog_kind(catalog: str, settings: Mapping[str, str]) -> str:
    """Return the type of a catalog as PyIceberg has it: what the environment says, or what its address tells."""
    known = {name.upper(): value for name, value in settings.items()}
    prefix = f"PYICEBERG_CATALOG__{catalog.upper().replace('-', '_')}__"
    address = known.get(f"{prefix}URI") or ""
    return known.get(f"{prefix}TYPE") or ("rest" if address.startswith("http") else "sql")


def _offline_store(settings: Mapping[str, str]) -> str:
    """Return the type of the offline store in the feature_store.yaml of now; whoever opens it says what is wrong."""
    named = settings.get("FEAST_FS_YAML_FILE_PATH")
    try:
        config = yaml.safe_load(Path(named or REPOSITORY / "feature_store.yaml").read_text(encoding="utf-8"))
        return str(config["offline_store"]["type"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return "duckdb"


# What the definitions take: that of the view.
snapshots_of = sources()

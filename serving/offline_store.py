"""Feast's DuckDB offline store, reading of snapshots in a store only the columns and the time that it needs.

    offline_store:
      type: serving.offline_store.ScanningDuckDBOfflineStore

Stock Feast loads a whole Iceberg table into memory, whatever is asked of it. This one tells the scan which columns and
which instants: Iceberg then leaves out the files of other days. Of snapshots on S3 it reads the same, by what runs read
them with, so that DuckDB needs no extension for it. Answers are the stock store's; so is all that is neither, or has
columns of other names than its features.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
from feast import FeatureView, FileSource, RepoConfig
from feast.data_source import DataSource
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _load_pyiceberg_table_for_write,
    _read_data_source,
    _write_data_source,
)
from feast.infra.offline_stores.ibis import (
    get_historical_features_ibis,
    pull_all_from_table_or_query_ibis,
    pull_latest_from_table_or_query_ibis,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from ibis.expr.types import Table

from pipeline.base.places import OBJECTS, Store
from pipeline.base.specs import snapshot_schema
from pipeline.snapshots.files import EARLIEST, LATEST
from pipeline.snapshots.store import opened

Reader = Callable[[DataSource, str], Table]


class ScanningDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The configuration of the stock DuckDB store under another type."""

    type: str = f"{__name__}.ScanningDuckDBOfflineStore"


class ScanningDuckDBOfflineStore(DuckDBOfflineStore):
    """Stock Feast's DuckDB store with scans that say what they want."""

    @staticmethod
    def pull_latest_from_table_or_query(*given: Any, **named: Any) -> RetrievalJob:
        """Return the newest row of each entity within a time, as the stock store does."""
        return _pulled(pull_latest_from_table_or_query_ibis, given, named)

    @staticmethod
    def pull_all_from_table_or_query(*given: Any, **named: Any) -> RetrievalJob:
        """Return all rows within a time, as the stock store does."""
        return _pulled(pull_all_from_table_or_query_ibis, given, named)

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Return the point-in-time join of `entity_df`, as the stock store does."""
        stamps = pd.to_datetime(entity_df[infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))], utc=True)
        last = stamps.max().to_pydatetime()
        wanted: dict[str, tuple[set[str], datetime | None]] = {}
        for view in feature_views:
            source: Any = view.batch_source
            prefix = f"{view.projection.name_to_use()}:"  # type: ignore[no-untyped-call]
            columns = {ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)}
            columns |= {entity.name for entity in view.entity_columns} | {source.timestamp_field}
            columns |= {source.created_timestamp_column} if source.created_timestamp_column else set()
            first = stamps.min().to_pydatetime() - view.ttl if view.ttl else None
            if source.name in wanted:  # of two views over one table
                others, since = wanted[source.name]
                columns |= others
                first = min(first, since) if first and since else None
            wanted[source.name] = columns, first

        def read(source: DataSource, repo_path: str) -> Table:
            columns, first = wanted[source.name]
            return _scan(columns, first, last)(source, repo_path)

        return get_historical_features_ibis(
            config=config,
            feature_views=feature_views,
            feature_refs=feature_refs,
            entity_df=entity_df,
            registry=registry,
            project=project,
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=filter_by_created_timestamp,
            **_common(config, read),
        )


# Feast passes arguments by name or by place.
_ASKED = (
    "config",
    "data_source",
    "join_key_columns",
    "feature_name_columns",
    "timestamp_field",
    "created_timestamp_column",
    "start_date",
    "end_date",
)


def _pulled(pull: Callable[..., RetrievalJob], given: tuple[Any, ...], named: dict[str, Any]) -> RetrievalJob:
    asked = dict(zip(_ASKED, given, strict=False)) | named
    columns = {*asked["join_key_columns"], *asked["feature_name_columns"], asked["timestamp_field"]}
    columns |= {asked["created_timestamp_column"]} if asked.get("created_timestamp_column") else set()
    read = _scan(columns, asked.get("start_date"), asked.get("end_date"))
    return pull(**asked, **_common(asked["config"], read))


def _common(config: RepoConfig, read: Reader) -> dict[str, Any]:
    return {
        "data_source_reader": read,
        "data_source_writer": _write_data_source,
        "staging_location": config.offline_store.staging_location,
        "staging_location_endpoint_override": config.offline_store.staging_location_endpoint_override,
    }


def _scan(columns: set[str], first: datetime | None, last: datetime | None) -> Reader:
    """Return what reads those `columns` of rows from `first` to `last`, both inclusive."""

    def read(source: DataSource, repo_path: str) -> Table:
        if isinstance(source, FileSource) and source.path.startswith("s3://") and source.path.endswith(OBJECTS):
            return ibis.memtable(_on_s3(source.path, columns, first, last))
        if not isinstance(source, IcebergSource) or source.field_mapping:
            return _read_data_source(source, repo_path)
        stamp, moment = source.timestamp_field, timedelta(microseconds=1)
        bounds = [f"{stamp} >= '{first.astimezone(UTC).isoformat()}'"] if first else []
        # instants of Iceberg have no nanoseconds
        bounds += [f"{stamp} < '{(last.astimezone(UTC) + moment).isoformat()}'"] if last else []
        table = _load_pyiceberg_table_for_write(source)
        scan = table.scan(" and ".join(bounds) or "true", selected_fields=tuple(sorted(columns)))
        return ibis.memtable(scan.to_arrow())

    return read


def _on_s3(path: str, columns: set[str], first: datetime | None, last: datetime | None) -> pa.Table:
    place, _, view = path.removesuffix(OBJECTS).rpartition("/")
    store = opened(Store(place))
    instants = [
        *store.instants(view, first.astimezone(UTC) if first else EARLIEST, last.astimezone(UTC) if last else LATEST)
    ]
    schema = store.schema(view, instants[0]) if instants else snapshot_schema(view)
    return store.read(view, instants, pa.schema([schema.field(name) for name in sorted(columns)]))

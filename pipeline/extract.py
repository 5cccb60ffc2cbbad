"""Extraction of the feature views as of one instant: the SQL beside each definition, completed across databases."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.health_score import health_score
from pipeline.bucket_width import check_bucket_width
from pipeline.clickhouse import ClickHouseSource
from pipeline.errors import PipelineError
from pipeline.postgres import PostgresSource
from pipeline.queries import query_text
from pipeline.schemas import TIMESTAMP, VIEWS, snapshot_schema
from pipeline.site_groups import site_groups
from pipeline.telemetry_survey import survey_telemetry
from pipeline.views import TELEMETRY

# What the SQL of a view returns besides its features: inputs of the features that need both databases.
_NEWEST_SOURCE = pa.field("newest_source_at", TIMESTAMP)
_INPUTS = {
    "asset_features": [
        pa.field("wo_count_30d", pa.int32()),
        pa.field("corrective_wo_count_30d", pa.int32()),
        pa.field("days_since_last_preventive_completion", pa.int32()),
        _NEWEST_SOURCE,
    ],
    "work_order_features": [_NEWEST_SOURCE],
    "telemetry_features": [
        pa.field("power_hours_7d", pa.float64()),
        pa.field("power_hours_30d", pa.float64()),
        _NEWEST_SOURCE,
    ],
}
# So many telemetry rows are read by one query, more in groups of sites. The first are a little more than the 90 d of
# 50,000 assets with five hourly metrics; the second make up for the rows of up to 60 instants.
ROWS_PER_QUERY = 600_000_000
ROWS_PER_BACKFILL_QUERY = 20_000_000
_ALMOST_A_SECOND = timedelta(microseconds=999_999)

# Features that Python computes: the SQL does not return them.
_COMPUTED = {"telemetry_features": {"capacity_factor_7d", "capacity_factor_30d"}}


def query_of(view: str) -> str:
    """Return the SQL that extracts `view`, as its definition's tag `sql` names it."""
    return query_text(VIEWS[view].tags["sql"])


def extracted_schema(view: str) -> pa.Schema:
    """Return the columns that the SQL of `view` returns: the snapshot's without `created`, then the inputs."""
    left_out = {"created", *_COMPUTED.get(view, ())}
    return pa.schema([f for f in snapshot_schema(view) if f.name not in left_out] + _INPUTS[view])


def read_postgres(source: PostgresSource, view: str, instants: Sequence[datetime]) -> pa.Table:
    """Return one row per instant and asset that exists then, columns as `extracted_schema(view)`.

    Raises `PipelineError` where the query fails.
    """
    return source.copy(query_of(view), instants, extracted_schema(view))


def read_telemetry(source: ClickHouseSource, instants: Sequence[datetime], bucket_seconds: int) -> pa.Table:
    """Return one row per instant and asset with telemetry in the 90 d before it, known to PostgreSQL or not.

    The `instants` must be whole days (24 h) apart. Columns as `extracted_schema("telemetry_features")`. Raises
    `PipelineError` where the query fails.
    """
    # buckets start at whole seconds: the earliest that some window may hold, and the latest
    bounds = {
        "first_start": (min(instants) + _ALMOST_A_SECOND).replace(microsecond=0) - timedelta(days=90),
        "last_start": max(instants).replace(microsecond=0) - timedelta(seconds=bucket_seconds),
    }
    survey = survey_telemetry(source, **bounds, bucket_seconds=bucket_seconds)
    query, parameters = _telemetry_query(instants, survey.blocks_with_copies)
    parameters |= bounds | {"bucket_seconds": bucket_seconds}
    most = ROWS_PER_QUERY if len(instants) == 1 else ROWS_PER_BACKFILL_QUERY
    groups = site_groups(source, **bounds, rows_per_group=most) if survey.rows > most else [[]]
    schema = extracted_schema(TELEMETRY)
    return pa.concat_tables(source.stream(query, parameters | {"sites": sites}, schema) for sites in groups)


def _telemetry_query(instants: Sequence[datetime], blocks_with_copies: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """Return the SQL that reads telemetry as of the `instants`, and its parameters that depend on them or on copies."""
    last = max(instants)
    if len(instants) == 1:
        query, parameters = query_of(TELEMETRY), {"as_of": last}
    else:
        query = query_text(f"features/backfill/{TELEMETRY}.sql")
        parameters = {"as_of": last, "offsets": [(last - instant) // timedelta(days=1) for instant in instants]}
    if blocks_with_copies:
        parameters["blocks_with_copies"] = list(blocks_with_copies)
        once = query_text("features/telemetry_once.sql")
        query = f"with telemetry_aggregates as (\n{once}\n)\nselect * from (\n{query}\n)"
    return query, parameters


def extract_postgres(source: PostgresSource, view: str, as_of: datetime) -> pa.Table:
    """Return `read_postgres` of one instant; raises `PipelineError` also where no asset exists then."""
    table = read_postgres(source, view, [as_of])
    if not table.num_rows:
        raise PipelineError(
            f"PostgreSQL holds no asset that exists as of {as_of.isoformat()}: check DATABASE_URL and the as-of instant"
        )
    return table


def extract_telemetry(source: ClickHouseSource, as_of: datetime, bucket_seconds: int) -> pa.Table:
    """Return `read_telemetry` of one instant.

    Raises `PipelineError` also where there is no telemetry, or its buckets are not `bucket_seconds` wide.
    """
    check_bucket_width(source, as_of, bucket_seconds)
    table = read_telemetry(source, [as_of], bucket_seconds)
    if not table.num_rows:
        raise PipelineError(
            f"ClickHouse holds no telemetry in the 90 d before {as_of.isoformat()}: check CLICKHOUSE_DATABASE, the "
            "ingestion and the as-of instant"
        )
    return table


def complete_asset_features(assets: pa.Table, telemetry: pa.Table | None) -> pa.Table:
    """Return `assets` with `health_score` computed where none was recorded.

    `telemetry` gives the anomalies of 7 d; without it that component of the score is left out.
    """
    anomalies = np.full(assets.num_rows, np.nan)
    if telemetry is not None:
        anomalies = _floats(_look_up(telemetry, "anomaly_count_7d", assets["asset_id"]))
    computed = health_score(
        alarms_30d=_floats(assets["recent_alarms_30d"]),
        critical_alarms_30d=_floats(assets["recent_critical_alarms_30d"]),
        wo_count_30d=_floats(assets["wo_count_30d"]),
        corrective_wo_count_30d=_floats(assets["corrective_wo_count_30d"]),
        anomaly_count_7d=anomalies,
        asset_age_months=_floats(assets["asset_age_months"]),
        days_since_preventive=_floats(assets["days_since_last_preventive_completion"]),
    )
    score = pc.coalesce(assets["health_score"], pa.array(computed.astype(np.float32)))
    return assets.set_column(assets.schema.get_field_index("health_score"), "health_score", score)


def complete_telemetry_features(telemetry: pa.Table, assets: pa.Table) -> pa.Table:
    """Return the telemetry of the assets in `assets` with its capacity factors.

    `assets` holds `asset_id` and `installed_capacity_kw` of every asset that exists; other telemetry is dropped.
    """
    known = telemetry.filter(pc.is_in(telemetry["asset_id"], value_set=assets["asset_id"].combine_chunks()))
    capacity = _look_up(assets, "installed_capacity_kw", known["asset_id"])
    for window in ("7d", "30d"):
        possible = pc.multiply(capacity, known[f"power_hours_{window}"])
        factor = pc.divide(known[f"total_generation_kwh_{window}"], possible).cast(pa.float32(), safe=False)
        known = known.append_column(f"capacity_factor_{window}", factor)
    return known


def as_snapshot(view: str, table: pa.Table, created: datetime) -> pa.Table:
    """Return `table` in exactly the snapshot's columns, extracted at `created`, ordered by key."""
    stamped = table.append_column("created", pa.repeat(pa.scalar(created, TIMESTAMP), table.num_rows))
    schema = snapshot_schema(view)
    return stamped.select(schema.names).cast(schema).sort_by("asset_id").combine_chunks()


def _look_up(table: pa.Table, column: str, keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return `column` of `table` for each of `keys`, NULL where `table` has no such asset."""
    return table[column].take(pc.index_in(keys, value_set=table["asset_id"].combine_chunks()))


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as doubles with NaN for NULL."""
    return column.cast(pa.float64()).to_numpy()

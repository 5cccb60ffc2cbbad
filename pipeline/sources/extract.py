"""Extraction of the feature views from both databases: the SQL beside each definition, completed by its spec."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from features.view_spec import ViewSpec
from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.base.specs import SPECS, TIMESTAMP, snapshot_schema
from pipeline.sources.bucket_width import check_bucket_width
from pipeline.sources.clickhouse import ClickHouseSource
from pipeline.sources.postgres import PostgresSource
from pipeline.sources.site_groups import site_groups
from pipeline.sources.telemetry_survey import survey_telemetry

# So many telemetry rows are read by one query, more in groups of sites. The first are a little more than the 90 d of
# 50,000 assets with five hourly metrics; the second make up for the rows of up to 60 instants.
ROWS_PER_QUERY = 600_000_000
ROWS_PER_BACKFILL_QUERY = 20_000_000
_ALMOST_A_SECOND = timedelta(microseconds=999_999)


def views_to_read(views: Sequence[str], engine: str) -> list[str]:
    """Return which views the SQL of `engine` has to be run for, to make the snapshots of `views`."""
    wanted = {*views, *(need.view for view in views for need in SPECS[view].needs)}
    return [name for name, spec in SPECS.items() if name in wanted and spec.engine == engine]


def query_of(view: str) -> str:
    """Return the SQL that extracts `view`, as its definition's tag `sql` names it."""
    return (REPOSITORY / SPECS[view].definition.tags["sql"]).read_text(encoding="utf-8")


def backfill_query_of(view: str) -> str:
    """Return the SQL that extracts `view` for many instants at little more than the cost of one."""
    return (REPOSITORY / "features" / "backfill" / f"{view}.sql").read_text(encoding="utf-8")


def read_postgres(source: PostgresSource, view: str, instants: Sequence[datetime]) -> pa.Table:
    """Return the rows of `view` as of each of the `instants`, columns as the spec's `extracted_schema`.

    Raises `PipelineError` where the query fails.
    """
    query = query_of(view) if len(instants) == 1 else backfill_query_of(view)
    return source.copy(query, instants, SPECS[view].extracted_schema)


def read_telemetry(source: ClickHouseSource, view: str, instants: Sequence[datetime], bucket_seconds: int) -> pa.Table:
    """Return one row of `view` per instant and asset with telemetry in the 90 d before it, known to PostgreSQL or not.

    The `instants` must be whole days (24 h) apart. Columns as the spec's `extracted_schema`. Raises `PipelineError`
    where the query fails.
    """
    # buckets start at whole seconds: the earliest that some window may hold, and the latest
    bounds = {
        "first_start": (min(instants) + _ALMOST_A_SECOND).replace(microsecond=0) - timedelta(days=90),
        "last_start": max(instants).replace(microsecond=0) - timedelta(seconds=bucket_seconds),
    }
    survey = survey_telemetry(source, **bounds, bucket_seconds=bucket_seconds)
    query, parameters = _telemetry_query(view, instants, survey.blocks_with_copies)
    parameters |= bounds | {"bucket_seconds": bucket_seconds}
    most = ROWS_PER_QUERY if len(instants) == 1 else ROWS_PER_BACKFILL_QUERY
    groups = site_groups(source, **bounds, rows_per_group=most) if survey.rows > most else [[]]
    schema = SPECS[view].extracted_schema
    return pa.concat_tables(source.stream(query, parameters | {"sites": sites}, schema) for sites in groups)


def _telemetry_query(
    view: str, instants: Sequence[datetime], blocks_with_copies: Sequence[int]
) -> tuple[str, dict[str, Any]]:
    """Return the SQL that reads `view` as of the `instants`, and its parameters that depend on them or on copies."""
    last = max(instants)
    if len(instants) == 1:
        query, parameters = query_of(view), {"as_of": last}
    else:
        query = backfill_query_of(view)
        parameters = {"as_of": last, "offsets": [(last - instant) // timedelta(days=1) for instant in instants]}
    if blocks_with_copies:
        parameters["blocks_with_copies"] = list(blocks_with_copies)
        once = (REPOSITORY / "features" / "telemetry_once.sql").read_text(encoding="utf-8")
        query = f"with telemetry_aggregates as (\n{once}\n)\nselect * from (\n{query}\n)"
    return query, parameters


def extract_postgres(source: PostgresSource, view: str, as_of: datetime) -> pa.Table:
    """Return `read_postgres` of one instant; raises `PipelineError` also where no asset exists."""
    table = read_postgres(source, view, [as_of])
    if SPECS[view].every_asset and not table.num_rows:
        raise PipelineError(
            f"PostgreSQL holds no asset that exists as of {as_of.isoformat()}: check DATABASE_URL and the as-of instant"
        )
    return table


def extract_telemetry(source: ClickHouseSource, view: str, as_of: datetime, bucket_seconds: int) -> pa.Table:
    """Return `read_telemetry` of one instant.

    Raises `PipelineError` also where there is no telemetry, or its buckets are not `bucket_seconds` wide.
    """
    check_bucket_width(source, as_of, bucket_seconds)
    table = read_telemetry(source, view, [as_of], bucket_seconds)
    if not table.num_rows:
        raise PipelineError(
            f"ClickHouse holds no telemetry in the 90 d before {as_of.isoformat()}: check CLICKHOUSE_DATABASE, the "
            "ingestion and the as-of instant"
        )
    return table


def completed(spec: ViewSpec, rows: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of a view, out of the extracted `rows` of all views as of one instant, with all its features."""
    others = {need.view: rows[need.view] for need in spec.needs if need.view in rows}
    return spec.complete(rows[spec.name], others)


def as_snapshot(view: str, table: pa.Table, created: datetime) -> pa.Table:
    """Return `table` in exactly the snapshot's columns, extracted at `created`, ordered by key."""
    stamped = table.append_column("created", pa.repeat(pa.scalar(created, TIMESTAMP), table.num_rows))
    schema = snapshot_schema(view)
    return stamped.select(schema.names).cast(schema).sort_by(SPECS[view].key).combine_chunks()

"""Extraction of the feature views from both databases: the SQL beside each definition, completed by its spec."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from features.view_spec import ViewSpec
from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.base.shard import Shard
from pipeline.base.specs import SPECS, TIMESTAMP, snapshot_schema
from pipeline.sources.postgres import PostgresSource
from pipeline.sources.queries import NOTHING, query_text

logger = logging.getLogger(__name__)

UNDATED_ROWS = query_text(Path(__file__).parent / "sql" / "undated_rows.sql")
_UNDATED_ROWS_SCHEMA = pa.schema([(name, pa.int64()) for name in ("assets", "work_orders", "alerts")])


def views_to_read(views: Sequence[str], engine: str) -> list[str]:
    """Return which views the SQL of `engine` has to be run for, to make the snapshots of `views`."""
    wanted = {*views, *(need.view for view in views for need in SPECS[view].needs)}
    return [name for name, spec in SPECS.items() if name in wanted and spec.engine == engine]


def query_of(view: str, in_place_of: Mapping[str, str] = NOTHING) -> str:
    """Return the SQL that extracts `view`, as its definition's tag `sql` names it, with fragments as `query_text`."""
    return query_text(REPOSITORY / SPECS[view].definition.tags["sql"], in_place_of)


def backfill_query_of(view: str, in_place_of: Mapping[str, str] = NOTHING) -> str:
    """Return the SQL that extracts a ClickHouse `view` for many instants at little more than the cost of one."""
    return query_text(REPOSITORY / "features" / "backfill" / f"{view}.sql", in_place_of)


def read_postgres(
    source: PostgresSource, view: str, instants: Sequence[datetime], shard: Shard | None = None
) -> pa.Table:
    """Return the rows of `view` as of each of the `instants`, columns as the spec's `extracted_schema`.

    With `shard`, those of its assets. Raises `PipelineError` where the query fails.
    """
    spec = SPECS[view]
    return source.copy(query_of(view), instants, spec.extracted_schema, shard, spec.whole_tables)


def extract_postgres(source: PostgresSource, view: str, as_of: datetime) -> pa.Table:
    """Return `read_postgres` of one instant; raises `PipelineError` also where no asset exists."""
    return with_assets(view, read_postgres(source, view, [as_of]), as_of)


def with_assets(view: str, table: pa.Table, as_of: datetime) -> pa.Table:
    """Return `table`, the rows of `view` as of `as_of`; raise `PipelineError` where it lacks any asset."""
    if SPECS[view].every_asset and not table.num_rows:
        raise PipelineError(
            f"PostgreSQL holds no asset that exists as of {as_of.isoformat()}: check DATABASE_URL and the as-of instant"
        )
    return table


def warn_of_undated_rows(source: PostgresSource, shard: Shard | None = None) -> None:
    """Log how many rows, with `shard` of its assets, no view counts, because their own date is missing or infinite.

    Raises `PipelineError` where the query fails.
    """
    (row,) = source.copy(UNDATED_ROWS, [], _UNDATED_ROWS_SCHEMA, shard).to_pylist()
    if any(row.values()):
        counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in row.items() if count)
        logger.warning("PostgreSQL: rows left out, whose own date is missing or infinite: %s", counts)


def completed(spec: ViewSpec, rows: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of a view, out of the extracted `rows` of all views as of one instant, with all its features."""
    others = {need.view: rows[need.view] for need in spec.needs if need.view in rows}
    return spec.complete(rows[spec.name], others)


def as_snapshot(view: str, table: pa.Table, created: datetime) -> pa.Table:
    """Return `table` in exactly the snapshot's columns, extracted at `created`, ordered by asset."""
    stamped = table.append_column("created", pa.repeat(pa.scalar(created, TIMESTAMP), table.num_rows))
    schema = snapshot_schema(view)
    return stamped.select(schema.names).cast(schema).sort_by("asset_id").combine_chunks()

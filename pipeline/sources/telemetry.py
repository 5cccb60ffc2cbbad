"""Reading the telemetry of ClickHouse: a first look at what is there, then the rows of its views.

It is read in groups of whole sites where it is much: memory then depends on the size of a group, not of the fleet. The
availability of an asset looks at the others of its site, so a site must not be divided; nor two sites between which an
asset has moved.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.base.errors import PipelineError
from pipeline.base.specs import SPECS
from pipeline.sources.clickhouse import ClickHouseSource
from pipeline.sources.extract import backfill_query_of, query_of
from pipeline.sources.queries import FRAGMENTS, query_text

_SQL = Path(__file__).parent / "sql"
BUCKET_GAPS = query_text(_SQL / "bucket_gaps.sql")
ROWS_OF_SITES = query_text(_SQL / "rows_of_sites.sql")
SURVEY = query_text(_SQL / "telemetry_survey.sql")
_BUCKET_GAPS_SCHEMA = pa.schema([(name, pa.int64()) for name in ("gaps", "narrower", "matching", "typical")])
_ROWS_OF_SITES_SCHEMA = pa.schema([("sites", pa.list_(pa.string())), ("row_count", pa.int64())])
_SURVEY_SCHEMA = pa.schema([("row_count", pa.int64()), ("blocks_with_copies", pa.list_(pa.int64()))])

# Fewer distances between buckets than this prove nothing: a new site, or a site that was silent.
_ENOUGH_GAPS = 20
# So many telemetry rows are read by one query, more in groups of sites. The first are a little more than the 90 d of
# 50,000 assets with five hourly metrics; the second make up for the rows of up to 60 instants.
ROWS_PER_QUERY = 600_000_000
ROWS_PER_BACKFILL_QUERY = 20_000_000
_ALMOST_A_SECOND = timedelta(microseconds=999_999)


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
    parameters: dict[str, Any] = {"as_of": last}
    if len(instants) == 1:
        query = query_of(view)
    else:
        query = backfill_query_of(view)
        parameters["offsets"] = [(last - instant) // timedelta(days=1) for instant in instants]
    if blocks_with_copies:
        parameters["blocks_with_copies"] = list(blocks_with_copies)
        once = query_text(FRAGMENTS / "telemetry_once.sql")
        query = f"with telemetry_aggregates as (\n{once})\nselect * from (\n{query})"
    return query, parameters


# the width of buckets -------------------------------------------------------------------------------------------------


def check_bucket_width(source: ClickHouseSource, as_of: datetime, bucket_seconds: int) -> None:
    """Raise `PipelineError` where the buckets before `as_of` are plainly narrower or wider than `bucket_seconds`.

    Narrower: most buckets would overlap their successor. Wider: no two successive buckets are `bucket_seconds` apart.
    """
    parameters = {"as_of": as_of, "bucket_seconds": bucket_seconds}
    (row,) = source.stream(BUCKET_GAPS, parameters, _BUCKET_GAPS_SCHEMA).to_pylist()
    if row["gaps"] < _ENOUGH_GAPS:
        return
    if 2 * row["narrower"] > row["gaps"] or (row["matching"] == 0 and row["typical"] > bucket_seconds):
        raise PipelineError(
            f"ClickHouse: successive telemetry buckets are {row['typical'] / 60:g} minutes apart, but "
            f"TELEMETRY_BUCKET_MINUTES is {bucket_seconds // 60}: set it to the width of the buckets"
        )


# how much there is, and where it is stored twice ----------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """How many rows there are, and the blocks of 64 cells of the clock grid in which a bucket may be stored twice.

    The number of a block is that of its first cell, counted from 1970 in widths of a bucket, divided by 64.
    """

    rows: int
    blocks_with_copies: list[int]


def survey_telemetry(
    source: ClickHouseSource, first_start: datetime, last_start: datetime, bucket_seconds: int
) -> Survey:
    """Return the survey of the buckets that start from `first_start` to `last_start`, both inclusive, whole seconds.

    Two buckets off the clock grid that share a cell of it look like copies: that costs time and changes nothing. Raises
    `PipelineError` where the query fails.
    """
    parameters = {"first_start": first_start, "last_start": last_start, "bucket_seconds": bucket_seconds}
    (row,) = source.stream(SURVEY, parameters, _SURVEY_SCHEMA).to_pylist()
    return Survey(rows=row["row_count"], blocks_with_copies=row["blocks_with_copies"])


# groups of sites ------------------------------------------------------------------------------------------------------


def site_groups(
    source: ClickHouseSource, first_start: datetime, last_start: datetime, rows_per_group: int
) -> list[list[str]]:
    """Return groups of site ids that may be read one after the other, for the buckets that start in these bounds.

    A group has some `rows_per_group` rows, or one larger set of connected sites. Raises `PipelineError` where the query
    fails.
    """
    parameters = {"first_start": first_start, "last_start": last_start}
    rows = source.stream(ROWS_OF_SITES, parameters, _ROWS_OF_SITES_SCHEMA).to_pylist()
    groups: list[list[str]] = []
    room = 0
    for sites, count in connected((row["sites"], row["row_count"]) for row in rows):
        if not groups or count > room:
            groups.append([])
            room = rows_per_group
        groups[-1].extend(sites)
        room -= count
    return groups


def connected(counts: Iterable[tuple[Sequence[str], int]]) -> list[tuple[list[str], int]]:
    """Return the sets of sites that share assets, sorted, each with the sum of its counts."""
    sets: dict[str, tuple[set[str], int]] = {}
    for sites, count in counts:
        members, total = set(sites), count
        # members of one set share one entry, so its identity tells the sets apart
        for known, number in {id(sets[site]): sets[site] for site in sites if site in sets}.values():
            members |= known
            total += number
        merged = (members, total)
        sets.update(dict.fromkeys(members, merged))
    return sorted((sorted(members), total) for members, total in {id(entry): entry for entry in sets.values()}.values())

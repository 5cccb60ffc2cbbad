"""A first look at the telemetry that is to be read: how much it is, and where buckets are stored twice."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from pipeline.sources.clickhouse import ClickHouseSource

# Two buckets of one cell of the clock grid set the same bit of the 64 that a block of a series has, which then has more
# rows than bits. Finding out costs a fraction of a scan; taking copies out costs more than one.
_SURVEY = """
select
    toInt64(sum(part_rows)) as row_count,
    arraySort(groupUniqArrayIf(toInt64(block), part_rows > bitCount(cells))) as blocks_with_copies
from (
    select
        intDiv(intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}), 64) as block,
        count() as part_rows,
        groupBitOr(bitShiftLeft(toUInt64(1), intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}) % 64)) as cells
    from telemetry_aggregates
    where time_bucket >= {first_start:DateTime('UTC')} and time_bucket <= {last_start:DateTime('UTC')}
    group by block, cityHash64(asset_id, metric_name)
)
"""
_SCHEMA = pa.schema([("row_count", pa.int64()), ("blocks_with_copies", pa.list_(pa.int64()))])


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
    row = source.stream(_SURVEY, parameters, _SCHEMA).to_pylist()[0]
    return Survey(rows=row["row_count"], blocks_with_copies=row["blocks_with_copies"])

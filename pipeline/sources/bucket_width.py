"""The width of telemetry buckets is a setting: this check refuses one that the data contradict."""

from datetime import datetime

import pyarrow as pa

from pipeline.base.errors import PipelineError
from pipeline.sources.clickhouse import ClickHouseSource

# Distances in seconds between successive buckets of the series of a few assets. `typical` is their median.
_GAPS = """
with
sampled_assets as (
    select distinct asset_id
    from telemetry_aggregates
    where time_bucket > toDateTime({as_of:DateTime64(6, 'UTC')} - interval 90 day, 'UTC')
        and time_bucket <= toDateTime({as_of:DateTime64(6, 'UTC')}, 'UTC')
    limit 20
),
series as (
    select arrayDifference(arraySort(groupUniqArray(toUInt32(time_bucket)))) as distances
    from telemetry_aggregates
    where time_bucket > toDateTime({as_of:DateTime64(6, 'UTC')} - interval 90 day, 'UTC')
        and time_bucket <= toDateTime({as_of:DateTime64(6, 'UTC')}, 'UTC')
        and asset_id in (select asset_id from sampled_assets)
    group by asset_id, metric_name
)
select
    toInt64(count()) as gaps,
    toInt64(countIf(gap < {bucket_seconds:UInt32})) as narrower,
    toInt64(countIf(gap = {bucket_seconds:UInt32})) as matching,
    toInt64(quantileExact(0.5)(gap)) as typical
from series
array join arrayPopFront(distances) as gap
"""
_SCHEMA = pa.schema([(name, pa.int64()) for name in ("gaps", "narrower", "matching", "typical")])
# Fewer distances than this prove nothing: a new site, or a site that was silent.
_ENOUGH_GAPS = 20


def check_bucket_width(source: ClickHouseSource, as_of: datetime, bucket_seconds: int) -> None:
    """Raise `PipelineError` where the buckets before `as_of` are plainly narrower or wider than `bucket_seconds`.

    Narrower: most buckets would overlap their successor. Wider: no two successive buckets are `bucket_seconds` apart.
    """
    row = source.stream(_GAPS, {"as_of": as_of, "bucket_seconds": bucket_seconds}, _SCHEMA).to_pylist()[0]
    if row["gaps"] < _ENOUGH_GAPS:
        return
    if 2 * row["narrower"] > row["gaps"] or (row["matching"] == 0 and row["typical"] > bucket_seconds):
        raise PipelineError(
            f"ClickHouse: successive telemetry buckets are {row['typical'] / 60:g} minutes apart, but "
            f"TELEMETRY_BUCKET_MINUTES is {bucket_seconds // 60}: set it to the width of the buckets"
        )

-- bucket_gaps: the distances in seconds between successive buckets of the series of a few assets.
--
-- grain       one row; typical is the median distance
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  as_of: the instant, in UTC, before which 90 d are looked at; bucket_seconds: the width that is set

with
sampled_assets as (
    select distinct asset_id
    from telemetry_aggregates
    where
        time_bucket > toDateTime({as_of:DateTime64(6, 'UTC')} - interval 90 day, 'UTC')
        and time_bucket <= toDateTime({as_of:DateTime64(6, 'UTC')}, 'UTC')
    limit 20  -- noqa: AM09, whichever come first
),

series as (
    select arrayDifference(arraySort(groupUniqArray(toUInt32(time_bucket)))) as distances
    from telemetry_aggregates
    where
        time_bucket > toDateTime({as_of:DateTime64(6, 'UTC')} - interval 90 day, 'UTC')
        and time_bucket <= toDateTime({as_of:DateTime64(6, 'UTC')}, 'UTC')
        and asset_id in (select asset_id from sampled_assets)
    group by asset_id, metric_name
)

select
    toInt64(count()) as gaps,
    toInt64(countIf(gap < {bucket_seconds:UInt32})) as narrower,
    toInt64(countIf(gap = {bucket_seconds:UInt32})) as matching,
    toInt64(quantileExact(gap)) as typical
from series
array join arrayPopFront(distances) as gap

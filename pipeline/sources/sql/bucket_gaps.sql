-- bucket_gaps: the distances in seconds between successive buckets of the series of a few assets.
--
-- grain       one row; narrower are the series in which most are less than the width, typical is the median distance
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
    select arrayPopFront(arrayDifference(arraySort(groupUniqArray(toUInt32(time_bucket))))) as gaps_of_series
    from telemetry_aggregates
    where
        time_bucket > toDateTime({as_of:DateTime64(6, 'UTC')} - interval 90 day, 'UTC')
        and time_bucket <= toDateTime({as_of:DateTime64(6, 'UTC')}, 'UTC')
        and asset_id in (select asset_id from sampled_assets)
    group by asset_id, metric_name
)

select
    toInt64(sum(length(gaps_of_series))) as gaps,
    toInt64(count()) as series,
    toInt64(countIf(2 * arrayCount(gap -> gap < {bucket_seconds:UInt32}, gaps_of_series) > length(gaps_of_series)))
        as narrower,
    toInt64(sum(countEqual(gaps_of_series, {bucket_seconds:UInt32}))) as matching,
    toInt64(quantileExactArray(gaps_of_series)) as typical
from series
where notEmpty(gaps_of_series)

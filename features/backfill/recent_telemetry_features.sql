-- recent_telemetry_features of many instants: the rows of features/recent_telemetry_features.sql, value for value, for
-- each of them.
--
-- grain       one row per as-of instant and asset with at least one bucket in the 90 d before it
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once
-- parameters  as those of backfill/telemetry_features.sql
-- fragments   as in the SQL of a single instant
-- method      as that of backfill/telemetry_features.sql
-- owner       ml-platform@dcmms.example

with

(:telemetry_metrics) as metrics,
(:telemetry_as_of) as as_of,
toDateTime(as_of.ceiling - (90 + arrayMax({offsets:Array(UInt16)})) * 86400, 'UTC') as oldest,
toDateTime(as_of.floor - {bucket_seconds:UInt32}, 'UTC') as newest,
false as only_power,

stored as (
    select * from (:telemetry_alone)
    union all
    select * from (:telemetry_once)
),

buckets as (
    select
        *,
        -- seconds from the start of the bucket to the last instant
        as_of.ceiling - toUInt32(time_bucket) as age,
        -- the 24 h, counted back from the last instant, in which it starts: 0, 1, 2, ...
        toUInt16(intDiv(age - 1, 86400)) as day,
        -- whether it ends in the next ones
        modulo(age - 1, 86400) + 1 < {bucket_seconds:UInt32} + as_of.ceiling - as_of.floor as straddles
    from (:telemetry_buckets)
),

-- days, then windows of days: the rows of all instants at once --------------------------------------------------------

days as (
    select
        asset_id,
        metric,
        day,
        straddles,
        max(time_bucket) as day_last_bucket,
        countIf(is_measured) as day_measured,
        countIf(is_measured and avg_value <= 0) as day_stopped,
        sumIf(samples, is_measured) as day_samples,
        -- of the totals and the squares: how many of each unit, the largest first
        [
            sumIf(total_large, is_measured), sumIf(total_small, is_measured), sumIf(total_tiny, is_measured),
            sumIf(squares_huge, is_measured), sumIf(squares_large, is_measured),
            sumIf(squares_small, is_measured), sumIf(squares_tiny, is_measured)
        ] as day_units
    from buckets
    group by asset_id, metric, day, straddles
),

-- one row per day and instant whose 90 d hold it; `back` is 0 for the last day before the instant
days_of_instants as (
    select
        *,
        days_ago,
        day - days_ago as back,
        back between 1 and 29 and not (straddles and back = 1) as is_before
    from days
    array join
        arrayFilter(
            o -> o <= day and day < o + 90 and not (straddles and o = day), {offsets:Array(UInt16)}
        ) as days_ago
),

-- one row per asset, metric and instant; all metrics without a quantity are one
series as (
    select
        asset_id,
        days_ago,
        metric,
        max(day_last_bucket) as newest_start,
        sumIf(day_measured, back = 0) as buckets_1d,
        sumIf(day_stopped, back = 0) as stopped_1d,
        sumIf(day_measured, is_before) as buckets_before,
        sum(day_measured) as buckets_90d,
        sumIf(day_samples, back = 0) as samples_1d,
        sumIf(day_samples, is_before) as samples_before,
        sumIf(day_samples, back < 30) as samples_30d,
        sumForEachIf(day_units, back = 0) as units_1d,
        sumForEachIf(day_units, is_before) as units_before,
        sumForEachIf(day_units, back < 30) as units_30d
    from days_of_instants
    group by asset_id, metric, days_ago
),

assets as (:telemetry_deviations)

select *
from (:telemetry_recent_rows)
order by event_timestamp, asset_id

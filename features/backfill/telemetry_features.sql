-- telemetry_features and recent_telemetry_features of many instants: the rows of features/telemetry_features.sql, value
-- for value, for each of them.
--
-- grain       one row per as-of instant and asset with at least one bucket in the 90 d before it
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once
-- parameters  as_of: the last instant, in UTC; offsets: how many days (24 h) before it each wanted instant lies, 0 for
--             the last itself; the others as in the SQL of a single instant
-- fragments   as in the SQL of a single instant
-- method      Days of a series are added up once, then the days of each window: a bucket is read once for all instants.
-- completed   as the rows of a single instant
-- in Python
-- owner       ml-platform@dcmms.example

with

(:telemetry_metrics) as metrics,
(:telemetry_as_of) as as_of,
toDateTime(as_of.ceiling - (90 + arrayMax({offsets:Array(UInt16)})) * 86400, 'UTC') as oldest,
toDateTime(as_of.floor - {bucket_seconds:UInt32}, 'UTC') as newest,
false as only_power,

stored as (:telemetry_stored),

-- days, then windows of days: the rows of all instants at once --------------------------------------------------------

days as (
    select
        asset_id,
        metric,  -- grouping by it is twice as fast as by the name
        day,
        straddles,
        count() as day_rows,
        sum(anomaly_count) as day_anomalies,
        max(time_bucket) as day_last_bucket,
        countIf(is_measured) as day_measured,
        countIf(is_measured and avg_value <= 0) as day_stopped,
        sumIf(samples, is_measured) as day_samples,
        minIf(min_value, has_min) as day_min,
        maxIf(max_value, has_max) as day_max,
        countIf(has_min) as day_mins,
        countIf(has_max) as day_maxes,
        groupUniqArrayIf(cell, is_measured and metric between 1 and length(metrics.power_names)) as day_power_cells,
        -- of the averages, the totals and the squares: how many of each unit, the largest first
        [
            sumIf(average_small, is_measured), sumIf(average_tiny, is_measured),
            sumIf(total_large, is_measured), sumIf(total_small, is_measured), sumIf(total_tiny, is_measured),
            sumIf(squares_huge, is_measured), sumIf(squares_large, is_measured),
            sumIf(squares_small, is_measured), sumIf(squares_tiny, is_measured)
        ] as day_units
    from (:telemetry_sums)
    group by asset_id, metric, day, straddles
),

-- one row per day and instant whose 90 d hold it; `back` is 0 for the last day before the instant
days_of_instants as (
    select
        *,
        days_ago,
        day - days_ago as back,
        back between 1 and 29 and not (straddles and back = 1) as in_29d
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
        sumIf(day_rows, back < 7) as rows_7d,
        sumIf(day_rows, back < 30) as rows_30d,
        sumIf(day_anomalies, back < 7) as anomalies_7d,
        sumIf(day_anomalies, back < 30) as anomalies_30d,
        sum(day_anomalies) as anomalies_90d,
        sumIf(day_measured, back = 0) as buckets_1d,
        sumIf(day_stopped, back = 0) as stopped_1d,
        sumIf(day_measured, back < 7) as buckets_7d,
        sumIf(day_measured, in_29d) as buckets_29d,
        sumIf(day_measured, back < 30) as buckets_30d,
        sum(day_measured) as buckets_90d,
        sumIf(day_samples, back = 0) as samples_1d,
        sumIf(day_samples, back < 7) as samples_7d,
        sumIf(day_samples, in_29d) as samples_29d,
        sumIf(day_samples, back < 30) as samples_30d,
        minOrNullIf(day_min, back < 7 and day_mins > 0) as min_7d,
        maxOrNullIf(day_max, back < 7 and day_maxes > 0) as max_7d,
        uniqExactArrayIf(day_power_cells, back < 7) as cells_7d,
        sumForEachIf(day_units, back < 7) as units_7d,
        sumForEachIf(day_units, back < 30) as units_30d,
        -- of the totals and the squares alone
        sumForEachIf(arraySlice(day_units, 3), back = 0) as units_1d,
        sumForEachIf(arraySlice(day_units, 3), in_29d) as units_29d,
        0 as power_series  -- telemetry_power gives it
    from days_of_instants
    group by asset_id, metric, days_ago
),

assets as (:telemetry_assets)

select *
from (:telemetry_rows)
order by event_timestamp, asset_id

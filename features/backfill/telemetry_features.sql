-- telemetry_features of many instants: the rows of features/telemetry_features.sql, value for value, for each of them.
--
-- grain       one row per as-of instant and asset with at least one bucket in the 90 d before it
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once. Where some are stored twice, what
--             shared/telemetry_once.sql selects takes the place of the table, as a common table expression.
-- parameters  as_of: the last instant, in UTC; offsets: how many days (24 h) before it each wanted instant lies, 0 for
--             the last itself; bucket_seconds: the width of a bucket; sites: ids of the sites to read, none for all.
-- fragments   as in the SQL of a single instant
-- method      Days of a series are added up once, then the days of each window: a bucket is read once for all instants.
-- completed   as the rows of a single instant
-- in Python
-- owner       ml-platform@dcmms.example

with

(:telemetry_metrics) as metrics,
(:telemetry_as_of) as as_of,
toDateTime(as_of.ceiling - (90 + arrayMax({offsets:Array(UInt16)})) * 86400, 'UTC') as first_start,
toDateTime(as_of.floor - {bucket_seconds:UInt32}, 'UTC') as last_start,

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
        metric,  -- grouping by it is twice as fast as by the name
        day,
        straddles,
        count() as day_rows,
        sum(anomaly_count) as day_anomalies,
        max(time_bucket) as day_last_bucket,
        countIf(is_measured) as day_measured,
        maxIf(avg_value, is_measured) as day_largest_average,
        maxIf(time_bucket, is_measured) as day_last_measured,
        argMaxIf(site_id, time_bucket, is_measured) as day_last_site,
        sumIf(samples, is_measured) as day_samples,
        minIf(min_value, is_measured and isFinite(min_value)) as day_min,
        maxIf(max_value, is_measured and isFinite(max_value)) as day_max,
        countIf(is_measured and isFinite(min_value)) as day_mins,
        countIf(is_measured and isFinite(max_value)) as day_maxes,
        -- of the averages, the totals and the squares: how many of each unit, the largest first
        [
            sumIf(average_small, is_measured), sumIf(average_tiny, is_measured),
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
        day - days_ago as back
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
        sumIf(day_measured, back < 7) as buckets_7d,
        sumIf(day_measured, back < 30) as buckets_30d,
        sum(day_measured) as buckets_90d,
        maxIf(day_largest_average, day_measured > 0) as largest_average,
        argMaxIf(day_last_site, day_last_measured, day_measured > 0) as last_site,
        sumIf(day_samples, back < 7) as samples_7d,
        sumIf(day_samples, back < 30) as samples_30d,
        minOrNullIf(day_min, back < 7 and day_mins > 0) as min_7d,
        maxOrNullIf(day_max, back < 7 and day_maxes > 0) as max_7d,
        sumForEachIf(day_units, back < 7) as units_7d,
        sumForEachIf(day_units, back < 30) as units_30d
    from days_of_instants
    group by asset_id, metric, days_ago
),

assets as (:telemetry_assets),

-- availability: an asset against the others of its site, all instants in arrays as long as `offsets` ------------------

power_of_instants as (
    select
        asset_id,
        days_ago,
        min(metric) as preferred_metric,
        greatest(0, argMin(largest_average, metric) / 100) as threshold,
        count() over (partition by argMin(last_site, metric), days_ago) as site_assets
    from series
    where metric between 1 and length(metrics.power_names) and buckets_90d > 0
    group by asset_id, days_ago
),

-- the power above which an asset produces, at each instant; -1 where another name is the preferred one
power_series as (
    select
        asset_id,
        preferred_metric,
        arrayMap(
            o -> if(has(groupArray(days_ago), o), groupArray(threshold)[indexOf(groupArray(days_ago), o)], -1),
            {offsets:Array(UInt16)}
        ) as thresholds,
        arrayMap(
            o -> has(groupArrayIf(days_ago, site_assets > 2), o), {offsets:Array(UInt16)}
        ) as is_judged
    from power_of_instants
    group by asset_id, preferred_metric
),

power_buckets as (
    select
        buckets.asset_id as asset_id,
        buckets.site_id as site_id,
        buckets.time_bucket as time_bucket,
        buckets.day as day,
        power_series.is_judged as is_judged,
        arrayMap(
            (o, threshold) -> threshold >= 0
            and o <= buckets.day
            and buckets.day < o + 30
            and not (buckets.straddles and o = buckets.day),
            {offsets:Array(UInt16)},
            power_series.thresholds
        ) as reports,
        arrayMap(
            (r, threshold) -> r and buckets.avg_value > threshold, reports, power_series.thresholds
        ) as produces
    from buckets
    inner join power_series
        on buckets.asset_id = power_series.asset_id and buckets.metric = power_series.preferred_metric
    where
        buckets.is_measured
        and buckets.metric between 1 and length(metrics.power_names)
        and buckets.day < 30 + arrayMax({offsets:Array(UInt16)})
),

site_buckets as (
    select
        site_id,
        time_bucket,
        sumForEach(reports) as reporting,
        sumForEach(produces) as producing
    from power_buckets
    group by site_id, time_bucket
),

-- a bucket is productive for an asset when at least half of the others that report in it produce
productive_buckets as (
    select
        power_buckets.asset_id as asset_id,
        power_buckets.produces as produces,
        arrayMap(
            (judged, r, p, all_reporting, all_producing) -> judged
            and r
            and all_reporting > 1
            and 2 * (all_producing - p) >= all_reporting - 1,
            power_buckets.is_judged,
            power_buckets.reports,
            power_buckets.produces,
            site_buckets.reporting,
            site_buckets.producing
        ) as is_productive,
        arrayMap(
            (productive, o) -> productive and power_buckets.day < o + 7, is_productive, {offsets:Array(UInt16)}
        ) as is_productive_7d
    from power_buckets
    inner join site_buckets
        on power_buckets.site_id = site_buckets.site_id and power_buckets.time_bucket = site_buckets.time_bucket
),

availabilities_of_instants as (
    select
        asset_id,
        sumForEach(is_productive_7d) as productive_7d,
        sumForEach(arrayMap((productive, p) -> productive and p, is_productive_7d, produces)) as produced_7d,
        sumForEach(is_productive) as productive_30d,
        sumForEach(arrayMap((productive, p) -> productive and p, is_productive, produces)) as produced_30d
    from productive_buckets
    group by asset_id
),

availabilities as (
    select
        asset_id,
        instants.1 as days_ago,
        instants.2 / nullIf(instants.3, 0) as available_7d,
        instants.4 / nullIf(instants.5, 0) as available_30d
    from availabilities_of_instants
    array join
        arrayZip({offsets:Array(UInt16)}, produced_7d, productive_7d, produced_30d, productive_30d) as instants
)

select *
from (:telemetry_rows)
order by event_timestamp, asset_id

-- telemetry_features of many instants: the rows of features/telemetry_features.sql, value for value, for each of them.
--
-- grain       one row per as-of instant and asset with at least one bucket in the 90 d before it
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once. Where some are stored twice, what
--             features/telemetry_once.sql selects takes the place of the table, as a common table expression.
-- parameters  as_of: the last instant, in UTC; offsets: how many days (24 h) before it each wanted instant lies, 0 for
--             the last itself; bucket_seconds: the width of a bucket; sites: ids of the sites to read, none for all.
--             In clickhouse-client:
--                 --param_as_of='2026-01-01 00:00:00' --param_offsets='[0]' --param_bucket_seconds=3600
--                 --param_sites='[]'
-- method      Days of a series are added up once, then the days of each window: a bucket is read once for all instants.
-- completed   as the rows of a single instant
-- in Python
-- owner       ml-platform@dcmms.example

with

-- the names under which data loggers report a quantity, the preferred one first: add a site's own alias here
['power_kw', 'active_power_kw', 'power_output_kw', 'power_generation'] as power_names,
['voltage_v', 'voltage'] as voltage_names,
['current_a', 'current'] as current_names,
['temperature_c', 'temperature'] as temperature_names,
['frequency_hz', 'grid_frequency_hz'] as frequency_names,
arrayConcat(power_names, voltage_names, current_names, temperature_names, frequency_names) as all_names,

-- a bucket starts and ends at a whole second: the as-of instant, rounded down and up
intDiv(toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}), 1000000) as as_of_floor,
intDiv(toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}) + 999999, 1000000) as as_of_ceiling,

-- A sum of Float64 depends on the order of its terms. So a term is cut into whole multiples of these units, which add
-- up exactly: the same buckets give the same sum in whatever order they come. A larger average than the limit would
-- not fit, and means nothing.
pow(2, -44) as tiny,
pow(2, 3) as small,
pow(2, 50) as large,
pow(2, 97) as huge,
1e15 as limit_average,
1e28 as limit_total,

-- buckets -------------------------------------------------------------------------------------------------------------

buckets as (
    select
        asset_id,
        site_id,
        -- the number of the name in the list, 0 for any other: grouping by it is twice as fast as by the name
        toUInt8(transform(metric_name, all_names, arrayEnumerate(all_names), 0)) as metric,
        time_bucket,
        -- seconds from the start of the bucket to the last instant
        as_of_ceiling - toUInt32(time_bucket) as age,
        -- the 24 h, counted back from the last instant, in which it starts: 0, 1, 2, ...
        toUInt16(intDiv(age - 1, 86400)) as day,
        -- whether it ends in the next ones
        modulo(age - 1, 86400) + 1 < {bucket_seconds:UInt32} + as_of_ceiling - as_of_floor as straddles,
        count as samples,
        -- a bucket without samples or without a finite average is missing for its metric
        samples > 0 and abs(avg_value) < limit_average as is_measured,
        anomaly_count,
        avg_value,
        min_value,
        max_value,
        if(is_measured, avg_value, 0) as average,
        if(abs(sum_value) < limit_total, sum_value, samples * average) as total,
        if(abs(stddev_value) < limit_average, stddev_value, 0) as deviation,
        samples * (deviation * deviation + average * average) as squares,
        -- how many of each unit
        toInt64(average * (1 / small)) as average_small,
        toInt64((average - average_small * small) * (1 / tiny)) as average_tiny,
        toInt64(total * (1 / large)) as total_large,
        total - total_large * large as total_rest,
        toInt64(total_rest * (1 / small)) as total_small,
        toInt64((total_rest - total_small * small) * (1 / tiny)) as total_tiny,
        toInt64(squares * (1 / huge)) as squares_huge,
        squares - squares_huge * huge as squares_rest,
        toInt64(squares_rest * (1 / large)) as squares_large,
        squares_rest - squares_large * large as squares_rest_2,
        toInt64(squares_rest_2 * (1 / small)) as squares_small,
        toInt64((squares_rest_2 - squares_small * small) * (1 / tiny)) as squares_tiny
    from telemetry_aggregates
    where
        time_bucket >= toDateTime(as_of_ceiling - (90 + arrayMax({offsets:Array(UInt16)})) * 86400, 'UTC')
        and time_bucket <= toDateTime(as_of_floor - {bucket_seconds:UInt32}, 'UTC')
        and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
),

-- days, then windows of days: the rows of all instants at once --------------------------------------------------------

days as (
    select
        asset_id,
        metric,
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
        sumIf(average_small, is_measured) as day_average_small,
        sumIf(average_tiny, is_measured) as day_average_tiny,
        sumIf(total_large, is_measured) as day_total_large,
        sumIf(total_small, is_measured) as day_total_small,
        sumIf(total_tiny, is_measured) as day_total_tiny,
        sumIf(squares_huge, is_measured) as day_squares_huge,
        sumIf(squares_large, is_measured) as day_squares_large,
        sumIf(squares_small, is_measured) as day_squares_small,
        sumIf(squares_tiny, is_measured) as day_squares_tiny
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
        metric,
        days_ago,
        multiIf(
            metric = 0, '',
            has(power_names, all_names[metric]), 'power',
            has(voltage_names, all_names[metric]), 'voltage',
            has(current_names, all_names[metric]), 'current',
            has(temperature_names, all_names[metric]), 'temperature',
            'frequency'
        ) as quantity,
        max(day_last_bucket) as last_bucket,
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
        nullIf(sumIf(day_samples, back < 7), 0) as samples_7d,
        nullIf(sumIf(day_samples, back < 30), 0) as samples_30d,
        minOrNullIf(day_min, back < 7 and day_mins > 0) as min_7d,
        maxOrNullIf(day_max, back < 7 and day_maxes > 0) as max_7d,
        sumIf(day_average_small, back < 7) * small + sumIf(day_average_tiny, back < 7) * tiny as average_sum_7d,
        sumIf(day_average_small, back < 30) * small + sumIf(day_average_tiny, back < 30) * tiny as average_sum_30d,
        sumIf(day_total_large, back < 7) * large + sumIf(day_total_small, back < 7) * small
        + sumIf(day_total_tiny, back < 7) * tiny as total_7d,
        sumIf(day_total_large, back < 30) * large + sumIf(day_total_small, back < 30) * small
        + sumIf(day_total_tiny, back < 30) * tiny as total_30d,
        sumIf(day_squares_huge, back < 7) * huge + sumIf(day_squares_large, back < 7) * large
        + sumIf(day_squares_small, back < 7) * small + sumIf(day_squares_tiny, back < 7) * tiny as squares_7d,
        sumIf(day_squares_huge, back < 30) * huge + sumIf(day_squares_large, back < 30) * large
        + sumIf(day_squares_small, back < 30) * small + sumIf(day_squares_tiny, back < 30) * tiny as squares_30d,
        -- mean and pooled population standard deviation, weighted by samples; NULL without samples
        total_7d / samples_7d as mean_7d,
        total_30d / samples_30d as mean_30d,
        -- greatest() of newer engines passes over NULL
        if(samples_7d > 0, sqrt(greatest(squares_7d / samples_7d - mean_7d * mean_7d, 0)), null) as std_7d,
        if(samples_30d > 0, sqrt(greatest(squares_30d / samples_30d - mean_30d * mean_30d, 0)), null) as std_30d
    from days_of_instants
    group by asset_id, metric, days_ago
),

-- one row per asset and instant; of several names of a quantity the preferred one that was reported in the 90 d
assets as (
    select
        asset_id,
        days_ago,
        max(last_bucket) as newest_bucket,
        if(sum(rows_7d) > 0, least(sum(anomalies_7d), 2147483647), null) as all_anomalies_7d,
        if(sum(rows_30d) > 0, least(sum(anomalies_30d), 2147483647), null) as all_anomalies_30d,
        least(sum(anomalies_90d), 2147483647) as all_anomalies_90d,
        argMinIf(
            (mean_7d, std_7d, min_7d, max_7d, mean_30d, std_30d), metric, quantity = 'power' and buckets_90d > 0
        ) as power,
        argMinIf(
            (buckets_7d, buckets_30d, average_sum_7d, average_sum_30d), metric, quantity = 'power' and buckets_90d > 0
        ) as energy,
        argMinIf((mean_7d, std_7d, min_7d, max_7d), metric, quantity = 'voltage' and buckets_90d > 0) as voltage,
        argMinIf((mean_7d, std_7d), metric, quantity = 'current' and buckets_90d > 0) as electric_current,
        argMinIf((mean_7d, std_7d, max_7d), metric, quantity = 'temperature' and buckets_90d > 0) as temperature,
        argMinIf((mean_7d, std_7d), metric, quantity = 'frequency' and buckets_90d > 0) as frequency
    from series
    group by asset_id, days_ago
),

-- availability: an asset against the others of its site, all instants in arrays as long as `offsets` ------------------

power_of_instants as (
    select
        asset_id,
        days_ago,
        min(metric) as preferred_metric,
        greatest(0, argMin(largest_average, metric) / 100) as threshold,
        count() over (partition by argMin(last_site, metric), days_ago) as site_assets
    from series
    where metric between 1 and length(power_names) and buckets_90d > 0
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
        and buckets.metric between 1 and length(power_names)
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

select
    {as_of:DateTime64(6, 'UTC')} - toIntervalDay(assets.days_ago) as event_timestamp,
    lower(toString(assets.asset_id)) as asset_id,
    -- power
    toFloat32(assets.power.1) as rolling_avg_power_7d,
    toFloat32(assets.power.2) as rolling_std_power_7d,
    toFloat32(assets.power.3) as rolling_min_power_7d,
    toFloat32(assets.power.4) as rolling_max_power_7d,
    toFloat32(assets.power.5) as rolling_avg_power_30d,
    toFloat32(assets.power.6) as rolling_std_power_30d,
    -- voltage, current, temperature, frequency
    toFloat32(assets.voltage.1) as rolling_avg_voltage_7d,
    toFloat32(assets.voltage.2) as rolling_std_voltage_7d,
    toFloat32(assets.voltage.3) as rolling_min_voltage_7d,
    toFloat32(assets.voltage.4) as rolling_max_voltage_7d,
    toFloat32(assets.electric_current.1) as rolling_avg_current_7d,
    toFloat32(assets.electric_current.2) as rolling_std_current_7d,
    toFloat32(assets.temperature.1) as rolling_avg_temperature_7d,
    toFloat32(assets.temperature.2) as rolling_std_temperature_7d,
    toFloat32(assets.temperature.3) as rolling_max_temperature_7d,
    toFloat32(assets.frequency.1) as rolling_avg_frequency_7d,
    toFloat32(assets.frequency.2) as rolling_std_frequency_7d,
    -- anomalies
    toInt32(assets.all_anomalies_7d) as anomaly_count_7d,
    toInt32(assets.all_anomalies_30d) as anomaly_count_30d,
    toInt32(assets.all_anomalies_90d) as anomaly_count_90d,
    -- energy
    if(assets.energy.1 > 0, assets.energy.3 * {bucket_seconds:UInt32} / 3600, null) as total_generation_kwh_7d,
    if(assets.energy.2 > 0, assets.energy.4 * {bucket_seconds:UInt32} / 3600, null) as total_generation_kwh_30d,
    toFloat32(24 * assets.energy.4 / nullIf(assets.energy.2, 0)) as avg_daily_generation_kwh,
    -- availability and coverage
    toFloat32(availabilities.available_7d) as availability_7d,
    toFloat32(availabilities.available_30d) as availability_30d,
    toFloat32(
        nullIf(assets.energy.1, 0)
        / nullIf(
            -- whole buckets of the clock grid: from the first that starts in the window to the last that ends in it
            intDiv(as_of_floor - assets.days_ago * 86400, {bucket_seconds:UInt32})
            - intDiv(
                as_of_ceiling - (assets.days_ago + 7) * 86400 + {bucket_seconds:UInt32} - 1, {bucket_seconds:UInt32}
            ),
            0
        )
    ) as telemetry_coverage_7d,
    toFloat32(
        toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}) / 3600000000
        - 24 * assets.days_ago
        - (toUnixTimestamp(assets.newest_bucket) + {bucket_seconds:UInt32}) / 3600
    ) as hours_since_last_telemetry,
    -- inputs of the capacity factor that are no features
    assets.energy.1 * {bucket_seconds:UInt32} / 3600 as power_hours_7d,
    assets.energy.2 * {bucket_seconds:UInt32} / 3600 as power_hours_30d,
    -- the newest fact that this row rests on
    toDateTime64(assets.newest_bucket, 6, 'UTC') + {bucket_seconds:UInt32} as newest_source_at
from assets
left join availabilities on assets.asset_id = availabilities.asset_id and assets.days_ago = availabilities.days_ago
order by event_timestamp, asset_id

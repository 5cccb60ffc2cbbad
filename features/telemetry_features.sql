-- telemetry_features: how an asset has been running.
--
-- grain       one row per asset with at least one bucket in the 90 d before the as-of instant
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  as_of: the instant, in UTC; bucket_seconds: the width of a bucket. In clickhouse-client:
--                 --param_as_of='2026-01-01 00:00:00' --param_bucket_seconds=3600
-- completed   capacity_factor_*: energy over rated power (which PostgreSQL knows) and power_hours_*; assets that
-- in Python   do not exist in PostgreSQL are dropped there
-- owner       ml-platform@dcmms.example

with

-- the names under which data loggers report a quantity, the preferred one first: add a site's own alias here
['power_kw', 'active_power_kw', 'power_output_kw', 'power_generation'] as power_names,
['voltage_v', 'voltage'] as voltage_names,
['current_a', 'current'] as current_names,
['temperature_c', 'temperature'] as temperature_names,
['frequency_hz', 'grid_frequency_hz'] as frequency_names,

-- a bucket starts and ends at a whole second: the as-of instant, rounded down and up
intDiv(toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}), 1000000) as as_of_floor,
intDiv(toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}) + 999999, 1000000) as as_of_ceiling,

-- Sums are taken in whole multiples of 2^-50, in which addition is exact: the same buckets give the same value in
-- whatever order and grouping they are added. Larger numbers than the limit would not fit, and mean nothing.
pow(2, 50) as exact,
1e25 as limit_value,

-- buckets ----------------------------------------------------------------------------------------------------

rows_of_90d as (
    select
        asset_id,
        site_id,
        metric_name,
        time_bucket,
        avg_value,
        min_value,
        max_value,
        sum_value,
        count as samples,
        stddev_value,
        anomaly_count as anomalies,
        -- 0 for a bucket that lies whole inside the last 24 h, 1 inside the last 48 h, ...
        intDiv(as_of_ceiling - toInt64(toUnixTimestamp(time_bucket)) - 1, 86400) as day,
        cityHash64(asset_id, metric_name, day) as series_day
    from telemetry_aggregates
    where
        time_bucket >= toDateTime(as_of_ceiling - 90 * 86400, 'UTC')
        and time_bucket <= toDateTime(as_of_floor - {bucket_seconds:UInt32}, 'UTC')
),

-- Ingestion is at least once. Copies are rare and removing them is dear, so find the days that hold some first.
repeated_days as (
    select series_day
    from rows_of_90d
    group by series_day
    having count() > groupBitmap(toUInt32(time_bucket))
),

-- of the copies of a bucket the one with the larger count, then the larger sum; the rest only makes it definite
single_rows as (
    select *
    from rows_of_90d
    where series_day not in (select series_day from repeated_days)
    union all
    select *
    from (
        select *
        from rows_of_90d
        where series_day in (select series_day from repeated_days)
        order by
            samples desc, if(isNaN(sum_value), -inf, sum_value) desc, avg_value desc, anomalies desc,
            max_value desc, min_value desc, stddev_value desc, site_id desc
        limit 1 by asset_id, metric_name, time_bucket
    )
),

buckets as (
    select
        *,
        samples > 0 and isFinite(avg_value) and abs(avg_value) < limit_value as is_measured
    from single_rows
),

-- one row per asset and metric: windows that concern all metrics, and which names are in use -------------------

series as (
    select
        asset_id,
        metric_name,
        max(time_bucket) as last_bucket,
        countIf(day < 7) as rows_7d,
        countIf(day < 30) as rows_30d,
        sumIf(anomalies, day < 7) as anomalies_7d,
        sumIf(anomalies, day < 30) as anomalies_30d,
        sum(anomalies) as anomalies_90d,
        countIf(is_measured) as measured_90d,
        maxIf(avg_value, is_measured) as largest_avg,
        argMaxIf(site_id, (time_bucket, site_id), is_measured) as last_site_id,
        multiIf(
            has(power_names, metric_name), 'power',
            has(voltage_names, metric_name), 'voltage',
            has(current_names, metric_name), 'current',
            has(temperature_names, metric_name), 'temperature',
            has(frequency_names, metric_name), 'frequency',
            ''
        ) as quantity
    from buckets
    group by asset_id, metric_name
),

-- of several names of one quantity, the first of the list that the asset has reported
chosen_series as (
    select *
    from series
    where quantity != '' and measured_90d > 0
    order by
        indexOf(
            arrayConcat(power_names, voltage_names, current_names, temperature_names, frequency_names), metric_name
        ) asc
    limit 1 by asset_id, quantity
),

assets as (
    select
        asset_id,
        max(last_bucket) as newest_bucket,
        sum(rows_7d) as any_rows_7d,
        sum(rows_30d) as any_rows_30d,
        sum(anomalies_7d) as all_anomalies_7d,
        sum(anomalies_30d) as all_anomalies_30d,
        sum(anomalies_90d) as all_anomalies_90d
    from series
    group by asset_id
),

-- measurements: one row per asset and quantity -------------------------------------------------------------------

sampled as (
    select
        buckets.asset_id as asset_id,
        chosen_series.quantity as quantity,
        buckets.day as day,
        buckets.samples as samples,
        buckets.avg_value as avg_value,
        if(isFinite(buckets.min_value), buckets.min_value, null) as low,
        if(isFinite(buckets.max_value), buckets.max_value, null) as high,
        toInt256(buckets.avg_value * exact) as exact_avg,
        toInt256(
            if(abs(buckets.sum_value) < limit_value, buckets.sum_value, buckets.samples * buckets.avg_value) * exact
        ) as exact_sum,
        toInt256(
            buckets.samples
            * (
                if(abs(buckets.stddev_value) < limit_value, pow(buckets.stddev_value, 2), 0)
                + pow(buckets.avg_value, 2)
            )
            * exact
        ) as exact_squares
    from buckets
    inner join chosen_series
        on buckets.asset_id = chosen_series.asset_id and buckets.metric_name = chosen_series.metric_name
    where buckets.day < 30 and buckets.is_measured
),

sums as (
    select
        asset_id,
        quantity,
        countIf(day < 7) as buckets_7d,
        count() as buckets_30d,
        sumIf(samples, day < 7) as samples_7d,
        sum(samples) as samples_30d,
        minOrNullIf(low, day < 7) as min_7d,
        maxOrNullIf(high, day < 7) as max_7d,
        toFloat64(sumIf(exact_avg, day < 7)) / exact as avg_sum_7d,
        toFloat64(sum(exact_avg)) / exact as avg_sum_30d,
        toFloat64(sumIf(exact_sum, day < 7)) / exact as sum_7d,
        toFloat64(sum(exact_sum)) / exact as sum_30d,
        toFloat64(sumIf(exact_squares, day < 7)) / exact as squares_7d,
        toFloat64(sum(exact_squares)) / exact as squares_30d
    from sampled
    group by asset_id, quantity
),

-- mean and pooled population standard deviation, weighted by samples; without samples they are NULL
statistics as (
    select
        *,
        sum_7d / nullIf(samples_7d, 0) as mean_7d,
        sum_30d / nullIf(samples_30d, 0) as mean_30d,
        sqrt(greatest(squares_7d / nullIf(samples_7d, 0) - pow(mean_7d, 2), 0)) as std_7d,
        sqrt(greatest(squares_30d / nullIf(samples_30d, 0) - pow(mean_30d, 2), 0)) as std_30d
    from sums
),

measurements as (
    select
        asset_id,
        anyOrNullIf(mean_7d, quantity = 'power') as power_mean_7d,
        anyOrNullIf(std_7d, quantity = 'power') as power_std_7d,
        anyOrNullIf(min_7d, quantity = 'power') as power_min_7d,
        anyOrNullIf(max_7d, quantity = 'power') as power_max_7d,
        anyOrNullIf(mean_30d, quantity = 'power') as power_mean_30d,
        anyOrNullIf(std_30d, quantity = 'power') as power_std_30d,
        anyOrNullIf(mean_7d, quantity = 'voltage') as voltage_mean_7d,
        anyOrNullIf(std_7d, quantity = 'voltage') as voltage_std_7d,
        anyOrNullIf(min_7d, quantity = 'voltage') as voltage_min_7d,
        anyOrNullIf(max_7d, quantity = 'voltage') as voltage_max_7d,
        anyOrNullIf(mean_7d, quantity = 'current') as current_mean_7d,
        anyOrNullIf(std_7d, quantity = 'current') as current_std_7d,
        anyOrNullIf(mean_7d, quantity = 'temperature') as temperature_mean_7d,
        anyOrNullIf(std_7d, quantity = 'temperature') as temperature_std_7d,
        anyOrNullIf(max_7d, quantity = 'temperature') as temperature_max_7d,
        anyOrNullIf(mean_7d, quantity = 'frequency') as frequency_mean_7d,
        anyOrNullIf(std_7d, quantity = 'frequency') as frequency_std_7d,
        sumIf(buckets_7d, quantity = 'power') as power_buckets_7d,
        sumIf(buckets_30d, quantity = 'power') as power_buckets_30d,
        sumIf(avg_sum_7d, quantity = 'power') as power_avg_sum_7d,
        sumIf(avg_sum_30d, quantity = 'power') as power_avg_sum_30d
    from statistics
    group by asset_id
),

-- availability: an asset against the others of its site -----------------------------------------------------------

power_series as (
    select
        asset_id,
        metric_name,
        last_site_id as site,
        greatest(0, largest_avg / 100) as production_threshold,
        count() over (partition by last_site_id) as site_assets
    from chosen_series
    where quantity = 'power'
),

power_buckets as (
    select
        buckets.asset_id as asset_id,
        buckets.time_bucket as time_bucket,
        buckets.day as day,
        power_series.site as site,
        power_series.site_assets as site_assets,
        buckets.avg_value > power_series.production_threshold as produces
    from buckets
    inner join power_series
        on buckets.asset_id = power_series.asset_id and buckets.metric_name = power_series.metric_name
    where buckets.day < 30 and buckets.is_measured
),

site_buckets as (
    select
        site,
        time_bucket,
        count() as reporting,
        countIf(produces) as producing
    from power_buckets
    group by site, time_bucket
),

-- a bucket is productive for an asset when at least half of the others that report in it produce
productive_buckets as (
    select
        power_buckets.asset_id as asset_id,
        power_buckets.day as day,
        power_buckets.produces as produces
    from power_buckets
    inner join site_buckets
        on power_buckets.site = site_buckets.site and power_buckets.time_bucket = site_buckets.time_bucket
    where
        power_buckets.site_assets > 2
        and site_buckets.reporting > 1
        and 2 * (site_buckets.producing - power_buckets.produces) >= site_buckets.reporting - 1
),

availabilities as (
    select
        asset_id,
        countIf(produces and day < 7) / nullIf(countIf(day < 7), 0) as available_7d,
        countIf(produces) / count() as available_30d
    from productive_buckets
    group by asset_id
)

select
    toDateTime64({as_of:DateTime64(6, 'UTC')}, 6, 'UTC') as event_timestamp,
    lower(toString(assets.asset_id)) as asset_id,
    -- power
    toFloat32(measurements.power_mean_7d) as rolling_avg_power_7d,
    toFloat32(measurements.power_std_7d) as rolling_std_power_7d,
    toFloat32(measurements.power_min_7d) as rolling_min_power_7d,
    toFloat32(measurements.power_max_7d) as rolling_max_power_7d,
    toFloat32(measurements.power_mean_30d) as rolling_avg_power_30d,
    toFloat32(measurements.power_std_30d) as rolling_std_power_30d,
    -- voltage, current, temperature, frequency
    toFloat32(measurements.voltage_mean_7d) as rolling_avg_voltage_7d,
    toFloat32(measurements.voltage_std_7d) as rolling_std_voltage_7d,
    toFloat32(measurements.voltage_min_7d) as rolling_min_voltage_7d,
    toFloat32(measurements.voltage_max_7d) as rolling_max_voltage_7d,
    toFloat32(measurements.current_mean_7d) as rolling_avg_current_7d,
    toFloat32(measurements.current_std_7d) as rolling_std_current_7d,
    toFloat32(measurements.temperature_mean_7d) as rolling_avg_temperature_7d,
    toFloat32(measurements.temperature_std_7d) as rolling_std_temperature_7d,
    toFloat32(measurements.temperature_max_7d) as rolling_max_temperature_7d,
    toFloat32(measurements.frequency_mean_7d) as rolling_avg_frequency_7d,
    toFloat32(measurements.frequency_std_7d) as rolling_std_frequency_7d,
    -- anomalies
    if(assets.any_rows_7d > 0, toInt32(least(assets.all_anomalies_7d, 2147483647)), null) as anomaly_count_7d,
    if(assets.any_rows_30d > 0, toInt32(least(assets.all_anomalies_30d, 2147483647)), null) as anomaly_count_30d,
    toNullable(toInt32(least(assets.all_anomalies_90d, 2147483647))) as anomaly_count_90d,
    -- energy
    if(
        measurements.power_buckets_7d > 0, measurements.power_avg_sum_7d * {bucket_seconds:UInt32} / 3600, null
    ) as total_generation_kwh_7d,
    if(
        measurements.power_buckets_30d > 0, measurements.power_avg_sum_30d * {bucket_seconds:UInt32} / 3600, null
    ) as total_generation_kwh_30d,
    toFloat32(
        24 * measurements.power_avg_sum_30d / nullIf(measurements.power_buckets_30d, 0)
    ) as avg_daily_generation_kwh,
    -- availability and coverage
    toFloat32(availabilities.available_7d) as availability_7d,
    toFloat32(availabilities.available_30d) as availability_30d,
    toFloat32(
        measurements.power_buckets_7d
        / nullIf(
            -- whole buckets of the clock grid: from the first that starts in the window to the last that ends in it
            intDiv(as_of_floor, {bucket_seconds:UInt32})
            - intDiv(as_of_ceiling - 7 * 86400 + {bucket_seconds:UInt32} - 1, {bucket_seconds:UInt32}),
            0
        )
    ) as telemetry_coverage_7d,
    toFloat32(
        toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}) / 3600000000
        - (toUnixTimestamp(assets.newest_bucket) + {bucket_seconds:UInt32}) / 3600
    ) as hours_since_last_telemetry,
    -- inputs of the capacity factor that are no features
    measurements.power_buckets_7d * {bucket_seconds:UInt32} / 3600 as power_hours_7d,
    measurements.power_buckets_30d * {bucket_seconds:UInt32} / 3600 as power_hours_30d,
    -- the newest fact that this row rests on
    toDateTime64(assets.newest_bucket, 6, 'UTC') + {bucket_seconds:UInt32} as newest_source_at
from assets
left join measurements on assets.asset_id = measurements.asset_id
left join availabilities on assets.asset_id = availabilities.asset_id
order by asset_id
settings join_use_nulls = 1

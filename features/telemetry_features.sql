-- telemetry_features: how an asset has been running.
--
-- grain       one row per asset with at least one bucket in the 90 d before the as-of instant
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once. Where some are stored twice, what
--             features/telemetry_once.sql selects takes the place of the table, as a common table expression.
-- parameters  as_of: the instant, in UTC; bucket_seconds: the width of a bucket; sites: ids of the sites to read, none
--             for all. In clickhouse-client:
--                 --param_as_of='2026-01-01 00:00:00' --param_bucket_seconds=3600 --param_sites='[]'
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
arrayConcat(power_names, voltage_names, current_names, temperature_names, frequency_names) as all_names,

-- a bucket starts and ends at a whole second: windows start at or after the as-of instant rounded up, less their
-- length, and end at or before it rounded down
intDiv(toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}), 1000000) as as_of_floor,
intDiv(toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}) + 999999, 1000000) as as_of_ceiling,
toDateTime(as_of_ceiling - 7 * 86400, 'UTC') as start_7d,
toDateTime(as_of_ceiling - 30 * 86400, 'UTC') as start_30d,
toDateTime(as_of_ceiling - 90 * 86400, 'UTC') as start_90d,
toDateTime(as_of_floor - {bucket_seconds:UInt32}, 'UTC') as newest_possible_start,

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
        tenant_id,
        asset_id,
        site_id,
        metric_name,
        time_bucket,
        count as samples,
        -- a bucket without samples or without a finite average is missing for its metric
        samples > 0 and abs(avg_value) < limit_average as is_measured,
        is_measured and time_bucket >= start_7d as in_7d,
        is_measured and time_bucket >= start_30d as in_30d,
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
        time_bucket >= start_90d
        and time_bucket <= newest_possible_start
        and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
),

-- windows -------------------------------------------------------------------------------------------------------------

-- grouped in the order of the table, so that ClickHouse needs no hash table
recent_series as (
    select
        asset_id,
        metric_name,
        max(time_bucket) as last_start,
        countIf(time_bucket >= start_7d) as row_count_7d,
        count() as row_count_30d,
        sumIf(anomaly_count, time_bucket >= start_7d) as anomaly_sum_7d,
        sum(anomaly_count) as anomaly_sum_30d,
        countIf(in_7d) as bucket_count_7d,
        countIf(is_measured) as bucket_count_30d,
        sumIf(samples, in_7d) as sample_count_7d,
        sumIf(samples, is_measured) as sample_count_30d,
        minOrNullIf(min_value, in_7d and isFinite(min_value)) as smallest_7d,
        maxOrNullIf(max_value, in_7d and isFinite(max_value)) as largest_7d,
        -- of the averages, the totals and the squares: how many of each unit, the largest first
        [
            sumIf(average_small, in_7d), sumIf(average_tiny, in_7d),
            sumIf(total_large, in_7d), sumIf(total_small, in_7d), sumIf(total_tiny, in_7d),
            sumIf(squares_huge, in_7d), sumIf(squares_large, in_7d),
            sumIf(squares_small, in_7d), sumIf(squares_tiny, in_7d)
        ] as units_7d,
        [
            sumIf(average_small, is_measured), sumIf(average_tiny, is_measured),
            sumIf(total_large, is_measured), sumIf(total_small, is_measured), sumIf(total_tiny, is_measured),
            sumIf(squares_huge, is_measured), sumIf(squares_large, is_measured),
            sumIf(squares_small, is_measured), sumIf(squares_tiny, is_measured)
        ] as units_30d
    from buckets
    where time_bucket >= start_30d
    group by tenant_id, asset_id, metric_name
),

-- of what is older few columns are needed, and most are not read
older_series as (
    select
        asset_id,
        metric_name,
        max(time_bucket) as last_start,
        sum(anomaly_count) as anomaly_sum,
        countIf(is_measured) as bucket_count
    from buckets
    where time_bucket < start_30d
    group by tenant_id, asset_id, metric_name
),

-- one row per asset and metric
series as (
    select
        asset_id,
        indexOf(all_names, metric_name) as metric,
        max(last_start) as newest_start,
        sum(row_count_7d) as rows_7d,
        sum(row_count_30d) as rows_30d,
        sum(anomaly_sum_7d) as anomalies_7d,
        sum(anomaly_sum_30d) as anomalies_30d,
        sum(anomaly_sum_30d) + sum(older_anomaly_sum) as anomalies_90d,
        sum(bucket_count_7d) as buckets_7d,
        sum(bucket_count_30d) as buckets_30d,
        sum(bucket_count_30d) + sum(older_bucket_count) as buckets_90d,
        nullIf(sum(sample_count_7d), 0) as samples_7d,
        nullIf(sum(sample_count_30d), 0) as samples_30d,
        min(smallest_7d) as min_7d,
        max(largest_7d) as max_7d,
        sumForEach(units_7d) as all_7d,
        sumForEach(units_30d) as all_30d,
        all_7d[1] * small + all_7d[2] * tiny as average_sum_7d,
        all_30d[1] * small + all_30d[2] * tiny as average_sum_30d,
        all_7d[3] * large + all_7d[4] * small + all_7d[5] * tiny as total_7d,
        all_30d[3] * large + all_30d[4] * small + all_30d[5] * tiny as total_30d,
        all_7d[6] * huge + all_7d[7] * large + all_7d[8] * small + all_7d[9] * tiny as squares_7d,
        all_30d[6] * huge + all_30d[7] * large + all_30d[8] * small + all_30d[9] * tiny as squares_30d,
        -- mean and pooled population standard deviation, weighted by samples; NULL without samples
        total_7d / samples_7d as mean_7d,
        total_30d / samples_30d as mean_30d,
        -- greatest() of newer engines passes over NULL
        if(samples_7d > 0, sqrt(greatest(squares_7d / samples_7d - mean_7d * mean_7d, 0)), null) as std_7d,
        if(samples_30d > 0, sqrt(greatest(squares_30d / samples_30d - mean_30d * mean_30d, 0)), null) as std_30d,
        -- the quantity of which something was measured in the 90 d
        multiIf(
            metric = 0 or buckets_90d = 0, '',
            has(power_names, all_names[metric]), 'power',
            has(voltage_names, all_names[metric]), 'voltage',
            has(current_names, all_names[metric]), 'current',
            has(temperature_names, all_names[metric]), 'temperature',
            'frequency'
        ) as quantity
    from (
        select
            *,
            0 as older_anomaly_sum,
            0 as older_bucket_count
        from recent_series
        union all
        select
            asset_id,
            metric_name,
            last_start,
            0 as row_count_7d,
            0 as row_count_30d,
            0 as anomaly_sum_7d,
            0 as anomaly_sum_30d,
            0 as bucket_count_7d,
            0 as bucket_count_30d,
            0 as sample_count_7d,
            0 as sample_count_30d,
            null as smallest_7d,
            null as largest_7d,
            [] as units_7d,
            [] as units_30d,
            anomaly_sum as older_anomaly_sum,
            bucket_count as older_bucket_count
        from older_series
    )
    group by asset_id, metric_name
),

-- one row per asset; of several names of a quantity the preferred one that was reported in the 90 d
assets as (
    select
        asset_id,
        max(newest_start) as newest_bucket,
        if(sum(rows_7d) > 0, least(sum(anomalies_7d), 2147483647), null) as all_anomalies_7d,
        if(sum(rows_30d) > 0, least(sum(anomalies_30d), 2147483647), null) as all_anomalies_30d,
        least(sum(anomalies_90d), 2147483647) as all_anomalies_90d,
        argMinIf((mean_7d, std_7d, min_7d, max_7d, mean_30d, std_30d), metric, quantity = 'power') as power,
        argMinIf((buckets_7d, buckets_30d, average_sum_7d, average_sum_30d), metric, quantity = 'power') as energy,
        argMinIf((mean_7d, std_7d, min_7d, max_7d), metric, quantity = 'voltage') as voltage,
        argMinIf((mean_7d, std_7d), metric, quantity = 'current') as electric_current,
        argMinIf((mean_7d, std_7d, max_7d), metric, quantity = 'temperature') as temperature,
        argMinIf((mean_7d, std_7d), metric, quantity = 'frequency') as frequency
    from series
    group by asset_id
),

-- availability: an asset against the others of its site ---------------------------------------------------------------

power_series as (
    select
        asset_id,
        indexOf(power_names, metric_name) as metric,
        site_id,
        maxIf(avg_value, is_measured) as largest_at_site,
        maxIf(time_bucket, is_measured) as newest_at_site,
        groupArrayIf(time_bucket, in_30d) as time_buckets,
        groupArrayIf(avg_value, in_30d) as averages
    from buckets
    where metric_name in power_names  -- the column alone: where it fails the others are not read
    group by tenant_id, asset_id, metric_name, site_id
    having countIf(is_measured) > 0
),

power_of_assets as (
    select
        asset_id,
        site_id,
        time_buckets,
        averages,
        metric = min(metric) over (partition by asset_id) as is_preferred,
        -- above this power it produces
        greatest(0, max(largest_at_site) over (partition by asset_id, metric) / 100) as threshold,
        argMax(site_id, newest_at_site) over (partition by asset_id, metric) as newest_site
    from power_series
),

power_at_sites as (
    select
        *,
        uniqExact(asset_id) over (partition by newest_site) > 2 as is_judged
    from power_of_assets
    where is_preferred
),

-- all assets that report in a bucket of a site; `flags`: 1 it produces, 2 its availability is judged
site_buckets as (
    select
        site_id,
        time_bucket,
        groupArray(asset_id) as asset_ids,
        groupArray(produces + 2 * is_judged) as flags,
        count() as reporting,
        sum(produces) as producing
    from (
        select
            asset_id,
            site_id,
            is_judged,
            time_bucket,
            average > threshold as produces
        from power_at_sites
        array join time_buckets as time_bucket, averages as average
    )
    group by site_id, time_bucket
),

-- a bucket is productive for an asset when at least half of the others that report in it produce
availabilities as (
    select
        asset_id,
        countIf(flag = 3 and time_bucket >= start_7d) / nullIf(countIf(time_bucket >= start_7d), 0) as available_7d,
        countIf(flag = 3) / nullIf(count(), 0) as available_30d
    from (
        select
            asset_id,
            time_bucket,
            flag,
            reporting - 1 as others,
            producing - flag % 2 as others_producing
        from site_buckets
        array join asset_ids as asset_id, flags as flag
    )
    where flag >= 2 and others > 0 and 2 * others_producing >= others
    group by asset_id
)

select
    {as_of:DateTime64(6, 'UTC')} as event_timestamp,
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
    assets.energy.1 * {bucket_seconds:UInt32} / 3600 as power_hours_7d,
    assets.energy.2 * {bucket_seconds:UInt32} / 3600 as power_hours_30d,
    -- the newest fact that this row rests on
    toDateTime64(assets.newest_bucket, 6, 'UTC') + {bucket_seconds:UInt32} as newest_source_at
from assets
left join availabilities on assets.asset_id = availabilities.asset_id
order by asset_id
settings optimize_aggregation_in_order = 1

-- telemetry_assets: what the series of an asset say together; of several names of a quantity the preferred one that was
-- reported in the 90 d counts.
--
-- grain       one row per asset and instant
-- source      series, of the query around: one row per asset, metric and instant (days_ago), with the counts of rows,
--             anomalies, measured buckets, their cells and samples of the windows, and the units of their sums, of the
--             averages, the totals and the squares, the largest unit first; power_series, passed on
-- owner       ml-platform@dcmms.example

with
(:telemetry_metrics) as metrics,
(:telemetry_units) as units,
-- a mean of so many buckets is what is usual
72 as enough_buckets,
-- a smaller deviation, as a share of the mean, is an error of rounding
1e-6 as smallest_deviation

select
    asset_id,
    days_ago,
    max(newest_start) as newest_bucket,
    -- NULL, not a smaller one, where an Int32 cannot hold it
    if(sum(rows_7d) > 0 and sum(anomalies_7d) <= 2147483647, sum(anomalies_7d), null) as all_anomalies_7d,
    if(sum(rows_30d) > 0 and sum(anomalies_30d) <= 2147483647, sum(anomalies_30d), null) as all_anomalies_30d,
    if(sum(anomalies_90d) <= 2147483647, sum(anomalies_90d), null) as all_anomalies_90d,
    groupArrayIf(power_series, quantity = 'power') as power_by_name,
    argMinIf((mean_7d, std_7d, min_7d, max_7d, mean_30d, std_30d), metric, quantity = 'power') as power,
    argMinIf(
        (buckets_7d, buckets_30d, average_sum_7d, average_sum_30d, buckets_90d, cells_7d), metric, quantity = 'power'
    ) as energy,
    argMinIf((mean_7d, std_7d, min_7d, max_7d), metric, quantity = 'voltage') as voltage,
    argMinIf((mean_7d, std_7d), metric, quantity = 'current') as electric_current,
    argMinIf((mean_7d, std_7d, max_7d), metric, quantity = 'temperature') as temperature,
    argMinIf((mean_7d, std_7d), metric, quantity = 'frequency') as frequency,
    argMinIf((mean_1d, std_1d, z_1d, buckets_1d, stopped_1d), metric, quantity = 'power') as power_1d,
    argMinIf((mean_1d, std_1d, z_1d), metric, quantity = 'voltage') as voltage_1d,
    argMinIf((mean_1d, std_1d, z_1d), metric, quantity = 'current') as electric_current_1d,
    argMinIf((mean_1d, std_1d, z_1d, mean_1d - mean_30d), metric, quantity = 'temperature') as temperature_1d,
    argMinIf((mean_1d, std_1d, z_1d), metric, quantity = 'frequency') as frequency_1d
from (
    select
        *,
        if(
            buckets_29d >= enough_buckets and std_29d > smallest_deviation * abs(mean_29d),
            abs(mean_1d - mean_29d) / std_29d,
            null
        ) as z_1d
    from (
        select
            *,
            -- mean and pooled population standard deviation, weighted by samples; NULL without samples
            total_1d / weight_1d as mean_1d,
            total_7d / weight_7d as mean_7d,
            total_29d / weight_29d as mean_29d,
            total_30d / weight_30d as mean_30d,
            -- greatest() of newer engines passes over NULL
            if(weight_1d > 0, sqrt(greatest(squares_1d / weight_1d - mean_1d * mean_1d, 0)), null) as std_1d,
            if(weight_7d > 0, sqrt(greatest(squares_7d / weight_7d - mean_7d * mean_7d, 0)), null) as std_7d,
            if(weight_30d > 0, sqrt(greatest(squares_30d / weight_30d - mean_30d * mean_30d, 0)), null) as std_30d,
            if(weight_29d > 0, sqrt(greatest(squares_29d / weight_29d - mean_29d * mean_29d, 0)), null) as std_29d
        from (
            select
                *,
                -- the quantity of which something was measured in the 90 d
                if(metric > 0 and buckets_90d > 0, metrics.quantities[metric], '') as quantity,
                nullIf(samples_1d, 0) as weight_1d,
                nullIf(samples_7d, 0) as weight_7d,
                nullIf(samples_29d, 0) as weight_29d,
                nullIf(samples_30d, 0) as weight_30d,
                units_7d[1] * units.small + units_7d[2] * units.tiny as average_sum_7d,
                units_30d[1] * units.small + units_30d[2] * units.tiny as average_sum_30d,
                units_7d[3] * units.large + units_7d[4] * units.small + units_7d[5] * units.tiny as total_7d,
                units_30d[3] * units.large + units_30d[4] * units.small + units_30d[5] * units.tiny as total_30d,
                units_1d[1] * units.large + units_1d[2] * units.small + units_1d[3] * units.tiny as total_1d,
                units_29d[1] * units.large + units_29d[2] * units.small + units_29d[3] * units.tiny as total_29d,
                units_1d[4] * units.huge + units_1d[5] * units.large + units_1d[6] * units.small
                + units_1d[7] * units.tiny as squares_1d,
                units_29d[4] * units.huge + units_29d[5] * units.large + units_29d[6] * units.small
                + units_29d[7] * units.tiny as squares_29d,
                units_7d[6] * units.huge + units_7d[7] * units.large + units_7d[8] * units.small
                + units_7d[9] * units.tiny as squares_7d,
                units_30d[6] * units.huge + units_30d[7] * units.large + units_30d[8] * units.small
                + units_30d[9] * units.tiny as squares_30d
            from series
        )
    )
)
group by asset_id, days_ago

-- telemetry_deviations: the last day of an asset beside its month; of several names of a quantity the preferred one that
-- was reported in the 90 d counts.
--
-- grain       one row per asset and instant
-- source      series, of the query around: one row per asset, metric and instant (days_ago), with the counts of buckets
--             and samples of the windows, and the units of their sums, of the totals and the squares, the largest first
-- owner       ml-platform@dcmms.example

with
(:telemetry_metrics) as metrics,
(:telemetry_units) as units,
-- a mean of so many buckets is usual
72 as enough_buckets,
-- a smaller deviation, as a share of the mean, is an error of rounding
1e-6 as smallest_deviation

select
    asset_id,
    days_ago,
    max(newest_start) as newest_bucket,
    argMinIf((mean_1d, std_1d, z, mean_30d, buckets_1d, stopped_1d), metric, quantity = 'power') as power,
    argMinIf((mean_1d, std_1d, z), metric, quantity = 'voltage') as voltage,
    argMinIf((mean_1d, std_1d, z), metric, quantity = 'current') as electric_current,
    argMinIf((mean_1d, std_1d, z, mean_30d), metric, quantity = 'temperature') as temperature,
    argMinIf((mean_1d, std_1d, z), metric, quantity = 'frequency') as frequency
from (
    select
        asset_id,
        days_ago,
        metric,
        newest_start,
        buckets_1d,
        stopped_1d,
        -- the quantity of which something was measured in the 90 d
        if(metric > 0 and buckets_90d > 0, metrics.quantities[metric], '') as quantity,
        nullIf(samples_1d, 0) as weight_1d,
        nullIf(samples_before, 0) as weight_before,
        units_1d[1] * units.large + units_1d[2] * units.small + units_1d[3] * units.tiny as total_1d,
        units_before[1] * units.large + units_before[2] * units.small + units_before[3] * units.tiny as total_before,
        units_30d[1] * units.large + units_30d[2] * units.small + units_30d[3] * units.tiny as total_30d,
        units_1d[4] * units.huge + units_1d[5] * units.large + units_1d[6] * units.small
        + units_1d[7] * units.tiny as squares_1d,
        units_before[4] * units.huge + units_before[5] * units.large + units_before[6] * units.small
        + units_before[7] * units.tiny as squares_before,
        -- mean and pooled population standard deviation, weighted by samples; NULL without samples
        total_1d / weight_1d as mean_1d,
        total_before / weight_before as mean_before,
        total_30d / nullIf(samples_30d, 0) as mean_30d,
        if(weight_1d > 0, sqrt(greatest(squares_1d / weight_1d - mean_1d * mean_1d, 0)), null) as std_1d,
        if(
            weight_before > 0, sqrt(greatest(squares_before / weight_before - mean_before * mean_before, 0)), null
        ) as std_before,
        if(
            buckets_before >= enough_buckets and std_before > smallest_deviation * abs(mean_before),
            abs(mean_1d - mean_before) / std_before,
            null
        ) as z
    from series
)
group by asset_id, days_ago

-- telemetry_buckets: the buckets that some window holds, with what is added up of them.
--
-- grain       one row per bucket
-- source      telemetry_aggregates; of the query around: first_start and last_start, the bounds of time_bucket
-- parameters  sites: ids of the sites to read, none for all
-- owner       ml-platform@dcmms.example

with
(:telemetry_metrics) as metrics,
(:telemetry_units) as units,
-- a larger average does not fit into the units, and means nothing
1e15 as limit_average,
1e28 as limit_total

select
    tenant_id,
    asset_id,
    site_id,
    metric_name,
    -- the number of the name in the list, 0 for any other
    toUInt8(transform(metric_name, metrics.names, arrayEnumerate(metrics.names), 0)) as metric,
    time_bucket,
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
    toInt64(average * (1 / units.small)) as average_small,
    toInt64((average - average_small * units.small) * (1 / units.tiny)) as average_tiny,
    toInt64(total * (1 / units.large)) as total_large,
    total - total_large * units.large as total_rest,
    toInt64(total_rest * (1 / units.small)) as total_small,
    toInt64((total_rest - total_small * units.small) * (1 / units.tiny)) as total_tiny,
    toInt64(squares * (1 / units.huge)) as squares_huge,
    squares - squares_huge * units.huge as squares_rest,
    toInt64(squares_rest * (1 / units.large)) as squares_large,
    squares_rest - squares_large * units.large as squares_rest_2,
    toInt64(squares_rest_2 * (1 / units.small)) as squares_small,
    toInt64((squares_rest_2 - squares_small * units.small) * (1 / units.tiny)) as squares_tiny
from telemetry_aggregates
where
    time_bucket >= first_start
    and time_bucket <= last_start
    and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))

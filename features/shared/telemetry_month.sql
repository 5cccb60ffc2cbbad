-- telemetry_month: what series add up to in the last day, in the 29 d before it and in the last 30 d.
--
-- grain       one row per tenant, asset and metric, in the order of the table as in telemetry_recent
-- source      stored, of the query around: buckets of the last 30 d, each once; start_1d, last_start_before
-- owner       ml-platform@dcmms.example

with
is_measured and time_bucket >= start_1d as in_1d,
is_measured and time_bucket <= last_start_before as is_before

select
    asset_id,
    metric_name,
    max(time_bucket) as last_bucket,
    countIf(in_1d) as bucket_count_1d,
    countIf(in_1d and avg_value <= 0) as stopped_count_1d,
    countIf(is_before) as bucket_count_before,
    countIf(is_measured) as bucket_count_30d,
    sumIf(samples, in_1d) as sample_count_1d,
    sumIf(samples, is_before) as sample_count_before,
    sumIf(samples, is_measured) as sample_count_30d,
    -- of the totals and the squares: how many of each unit, the largest first
    [
        sumIf(total_large, in_1d), sumIf(total_small, in_1d), sumIf(total_tiny, in_1d),
        sumIf(squares_huge, in_1d), sumIf(squares_large, in_1d),
        sumIf(squares_small, in_1d), sumIf(squares_tiny, in_1d)
    ] as unit_counts_1d,
    [
        sumIf(total_large, is_before), sumIf(total_small, is_before), sumIf(total_tiny, is_before),
        sumIf(squares_huge, is_before), sumIf(squares_large, is_before),
        sumIf(squares_small, is_before), sumIf(squares_tiny, is_before)
    ] as unit_counts_before,
    [
        sumIf(total_large, is_measured), sumIf(total_small, is_measured), sumIf(total_tiny, is_measured)
    ] as unit_counts_30d,
    0 as older_bucket_count
from (:telemetry_buckets)
group by tenant_id, asset_id, metric_name

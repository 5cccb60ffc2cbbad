-- telemetry_recent: what series add up to in the last 30 d.
--
-- grain       one row per tenant, asset and metric; the groups are in the order of the table, so that ClickHouse, where
--             it reads it in that order, needs no hash table
-- source      stored, of the query around: buckets of the last 30 d, each once; as_of, start_1d, start_7d and
--             last_start_29d
-- owner       ml-platform@dcmms.example

with
(:telemetry_metrics) as metrics,
is_measured and time_bucket >= start_1d as in_1d,
is_measured and time_bucket >= start_7d as in_7d,
-- the 29 d before the last one: a bucket that reaches into that counts in neither
is_measured and time_bucket <= last_start_29d as in_29d,
is_measured and metric between 1 and length(metrics.power_names) as is_power

select
    asset_id,
    metric_name,
    max(time_bucket) as last_bucket,
    countIf(time_bucket >= start_7d) as row_count_7d,
    count() as row_count_30d,
    sumIf(anomaly_count, time_bucket >= start_7d) as anomaly_sum_7d,
    sum(anomaly_count) as anomaly_sum_30d,
    countIf(in_1d) as bucket_count_1d,
    countIf(in_1d and avg_value <= 0) as stopped_count_1d,
    countIf(in_7d) as bucket_count_7d,
    countIf(in_29d) as bucket_count_29d,
    countIf(is_measured) as bucket_count_30d,
    sumIf(samples, in_1d) as sample_count_1d,
    sumIf(samples, in_7d) as sample_count_7d,
    sumIf(samples, in_29d) as sample_count_29d,
    sumIf(samples, is_measured) as sample_count_30d,
    minOrNullIf(min_value, has_min and time_bucket >= start_7d) as smallest_7d,
    maxOrNullIf(max_value, has_max and time_bucket >= start_7d) as largest_7d,
    groupUniqArrayIf(cell, is_power and time_bucket >= start_7d) as power_cells_7d,
    -- of the averages, the totals and the squares: how many of each unit, the largest first
    [
        sumIf(average_small, in_7d), sumIf(average_tiny, in_7d),
        sumIf(total_large, in_7d), sumIf(total_small, in_7d), sumIf(total_tiny, in_7d),
        sumIf(squares_huge, in_7d), sumIf(squares_large, in_7d),
        sumIf(squares_small, in_7d), sumIf(squares_tiny, in_7d)
    ] as unit_counts_7d,
    [
        sumIf(average_small, is_measured), sumIf(average_tiny, is_measured),
        sumIf(total_large, is_measured), sumIf(total_small, is_measured), sumIf(total_tiny, is_measured),
        sumIf(squares_huge, is_measured), sumIf(squares_large, is_measured),
        sumIf(squares_small, is_measured), sumIf(squares_tiny, is_measured)
    ] as unit_counts_30d,
    -- of the totals and the squares alone
    [
        sumIf(total_large, in_1d), sumIf(total_small, in_1d), sumIf(total_tiny, in_1d),
        sumIf(squares_huge, in_1d), sumIf(squares_large, in_1d),
        sumIf(squares_small, in_1d), sumIf(squares_tiny, in_1d)
    ] as unit_counts_1d,
    [
        sumIf(total_large, in_29d), sumIf(total_small, in_29d), sumIf(total_tiny, in_29d),
        sumIf(squares_huge, in_29d), sumIf(squares_large, in_29d),
        sumIf(squares_small, in_29d), sumIf(squares_tiny, in_29d)
    ] as unit_counts_29d,
    0 as older_anomaly_sum,
    0 as older_bucket_count,
    groupUniqArrayIf(site_id, is_power) as power_sites,
    maxOrNullIfResample(0, 90, 1)(avg_value, is_power, day) as power_peaks,  -- noqa: LT01
    groupArrayIf(toUInt32(time_bucket), is_power) as power_starts,
    groupArrayIf(avg_value, is_power) as power_averages
from (:telemetry_sums)
group by tenant_id, asset_id, metric_name

-- telemetry_older: what series add up to before the last 30 d, in the columns of telemetry_recent. Few of the stored
-- ones are needed for it, and most are not read.
--
-- grain       one row per tenant, asset and metric
-- source      stored, of the query around: buckets before the last 30 d, each once; as_of
-- owner       ml-platform@dcmms.example

select
    asset_id,
    metric_name,
    max(time_bucket) as last_bucket,
    0 as row_count_7d,
    0 as row_count_30d,
    0 as anomaly_sum_7d,
    0 as anomaly_sum_30d,
    0 as bucket_count_1d,
    0 as stopped_count_1d,
    0 as bucket_count_7d,
    0 as bucket_count_29d,
    0 as bucket_count_30d,
    0 as sample_count_1d,
    0 as sample_count_7d,
    0 as sample_count_29d,
    0 as sample_count_30d,
    null as smallest_7d,
    null as largest_7d,
    [] as power_cells_7d,
    [] as unit_counts_7d,
    [] as unit_counts_30d,
    [] as unit_counts_1d,
    [] as unit_counts_29d,
    sum(anomaly_count) as older_anomaly_sum,
    countIf(is_measured) as older_bucket_count,
    -- of any metric: telling power apart would cost more
    groupUniqArrayIf(site_id, is_measured) as power_sites,
    maxOrNullIfResample(0, 90, 1)(avg_value, is_measured, day) as power_peaks,  -- noqa: LT01
    [] as power_starts,
    [] as power_averages
from (:telemetry_buckets)
group by tenant_id, asset_id, metric_name

-- telemetry_before: what series add up to before the last 30 d, in the columns of telemetry_month: that they were there.
--
-- grain       one row per tenant, asset and metric
-- source      stored, of the query around: buckets before the last 30 d, each once
-- owner       ml-platform@dcmms.example

select
    asset_id,
    metric_name,
    max(time_bucket) as last_bucket,
    0 as bucket_count_1d,
    0 as stopped_count_1d,
    0 as bucket_count_before,
    0 as bucket_count_30d,
    0 as sample_count_1d,
    0 as sample_count_before,
    0 as sample_count_30d,
    [] as unit_counts_1d,
    [] as unit_counts_before,
    [] as unit_counts_30d,
    countIf(is_measured) as older_bucket_count
from (:telemetry_buckets)
group by tenant_id, asset_id, metric_name

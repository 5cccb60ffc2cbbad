-- Hourly (or 10- or 15-minute) statistics of the raw samples of one metric of one asset.
-- Grain: one row per tenant, asset, metric and bucket; at-least-once ingestion can store a bucket twice.

create table if not exists {database:Identifier}.telemetry_aggregates (
    asset_id UUID,
    tenant_id UUID,
    site_id UUID,
    metric_name String,
    time_bucket DateTime,
    avg_value Float64,
    min_value Float64,
    max_value Float64,
    sum_value Float64,
    count UInt32,
    stddev_value Float64,
    p50_value Float64,
    p95_value Float64,
    p99_value Float64,
    anomaly_count UInt32,
    bucket_date Date materialized toDate(time_bucket),
    bucket_month Date materialized toStartOfMonth(time_bucket)
)
engine = MergeTree
partition by toYYYYMM(time_bucket)
order by (tenant_id, asset_id, metric_name, time_bucket)

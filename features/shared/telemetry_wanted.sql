-- telemetry_wanted: what features read of telemetry_aggregates.
--
-- grain       one row per stored bucket
-- source      ClickHouse of dCMMS: telemetry_aggregates; of the query around: oldest and newest, the first and the last
--             start of a bucket, both inclusive; only_power, whether nothing but power is wanted
-- parameters  sites: ids of the sites to read, none for all; bucket_seconds: the width of a bucket
-- owner       ml-platform@dcmms.example

with (:telemetry_metrics) as metrics

select
    tenant_id,
    asset_id,
    site_id,
    metric_name,
    time_bucket,
    avg_value,
    min_value,
    max_value,
    sum_value,
    count,
    stddev_value,
    anomaly_count,
    -- the cell of the clock grid in which it starts, and the block of 64 of them
    intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}) as cell,
    intDiv(cell, 64) as block
from telemetry_aggregates
where
    time_bucket >= oldest
    and time_bucket <= newest
    and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
    and (not only_power or metric_name in (select arrayJoin(metrics.power_names)))

-- telemetry_wanted: what features read of telemetry_aggregates.
--
-- grain       one row per stored bucket
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  first_start, last_start: the buckets that start from the one to the other, both inclusive, in UTC; sites:
--             ids of the sites to read, none for all; bucket_seconds: the width of a bucket
-- owner       ml-platform@dcmms.example

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
    -- the block of 64 cells of the clock grid in which it starts
    intDiv(intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}), 64) as block
from telemetry_aggregates
where
    time_bucket >= {first_start:DateTime('UTC')}
    and time_bucket <= {last_start:DateTime('UTC')}
    and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))

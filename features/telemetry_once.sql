-- telemetry_once: telemetry_aggregates with each bucket once.
--
-- Ingestion is at least once, so a bucket may be stored twice. Of its copies the one with the larger count is taken,
-- then the larger sum. The SQL of telemetry_features reads this in place of the table where there are copies.
--
-- grain       one row per tenant, asset, metric and bucket, the key of the table
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  first_start, last_start: the buckets that start from the one to the other, both inclusive, in UTC;
--             bucket_seconds: the width of a bucket; sites: ids of the sites to read, none for all;
--             blocks_with_copies: the blocks of 64 cells of the clock grid in which some bucket is stored twice
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
    anomaly_count
from telemetry_aggregates
where
    time_bucket >= {first_start:DateTime('UTC')}
    and time_bucket <= {last_start:DateTime('UTC')}
    and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
    and intDiv(intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}), 64)
    not in (select arrayJoin({blocks_with_copies:Array(UInt32)}))
union all
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
    anomaly_count
from (
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
        anomaly_count
    from telemetry_aggregates
    where
        time_bucket >= {first_start:DateTime('UTC')}
        and time_bucket <= {last_start:DateTime('UTC')}
        and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
        and intDiv(intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}), 64)
        in (select arrayJoin({blocks_with_copies:Array(UInt32)}))
    order by
        -- the order of the table, in which ClickHouse reads it: it neither sorts the rows nor remembers their keys
        tenant_id asc, asset_id asc, metric_name asc, time_bucket asc,
        count desc, if(isNaN(sum_value), -inf, sum_value) desc,
        -- the rest only makes it definite
        avg_value desc, anomaly_count desc, max_value desc, min_value desc, stddev_value desc, site_id desc
    limit 1 by tenant_id, asset_id, metric_name, time_bucket
)

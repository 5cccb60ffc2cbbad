-- telemetry_once: telemetry_aggregates with each bucket once.
--
-- Ingestion is at least once, so a bucket may be stored twice. Of its copies the one with the larger count is taken,
-- then the larger sum. The SQL of telemetry_features reads this in place of the table where there are copies.
--
-- grain       one row per tenant, asset, metric and bucket, the key of the table
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  as telemetry_wanted; blocks_with_copies: the blocks in which some bucket is stored twice
-- owner       ml-platform@dcmms.example

select *
from (:telemetry_wanted)
where block not in (select arrayJoin({blocks_with_copies:Array(UInt32)}))
union all
select *
from (:telemetry_wanted)
where block in (select arrayJoin({blocks_with_copies:Array(UInt32)}))
order by
    -- the order of the table, in which ClickHouse reads it: it neither sorts the rows nor remembers their keys
    tenant_id asc, asset_id asc, metric_name asc, time_bucket asc,
    count desc, if(isNaN(sum_value), -inf, sum_value) desc,
    -- the rest only makes it definite
    avg_value desc, anomaly_count desc, max_value desc, min_value desc, stddev_value desc, site_id desc
limit 1 by tenant_id, asset_id, metric_name, time_bucket

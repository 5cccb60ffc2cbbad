-- telemetry_once: the buckets of the blocks in which some are stored twice, each once.
--
-- Ingestion is at least once. Of the copies of a bucket the one with the larger count is taken, then the larger sum,
-- then the larger average; NaN is smaller than any number.
--
-- grain       one row per tenant, asset, metric and bucket, the key of the table
-- source      as telemetry_wanted
-- parameters  as telemetry_alone
-- owner       ml-platform@dcmms.example

select *
from (:telemetry_wanted)
where
    notEmpty({blocks_with_copies:Array(UInt32)})
    and block in (select arrayJoin({blocks_with_copies:Array(UInt32)}))
order by
    -- the order of the table, in which ClickHouse reads it: it neither sorts the rows nor remembers their keys
    tenant_id asc, asset_id asc, metric_name asc, time_bucket asc,
    count desc, sum_value desc, avg_value desc,
    -- the rest only makes it definite
    anomaly_count desc, max_value desc, min_value desc, stddev_value desc, site_id desc
limit 1 by tenant_id, asset_id, metric_name, time_bucket

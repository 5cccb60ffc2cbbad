-- telemetry_once: telemetry_aggregates with each bucket once.
--
-- Ingestion is at least once, so a bucket may be stored twice. Of its copies the one with the larger count is taken,
-- then the larger sum. The SQL of telemetry_features reads this in place of the table where there are copies.
--
-- grain       one row per asset, metric and bucket
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  first_start, last_start: the buckets that start from the one to the other, both inclusive, in UTC;
--             bucket_seconds: the width of a bucket; sites: ids of the sites to read, none for all
-- owner       ml-platform@dcmms.example

with

numbered_rows as (
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
        -- the number of its cell in the clock grid, and a number for 48 cells of a series
        intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}) as cell,
        cityHash64(asset_id, metric_name, intDiv(cell, 48)) as part
    from telemetry_aggregates
    where
        time_bucket >= {first_start:DateTime('UTC')}
        and time_bucket <= {last_start:DateTime('UTC')}
        and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
),

-- Copies are rare and taking them out is dear: only the parts that hold some go through it. Two buckets of one cell set
-- the same bit, which counts twice in the sum of the bits and once in their union.
parts_with_copies as (
    select part
    from numbered_rows
    group by part
    having sum(bitShiftLeft(toUInt64(1), cell % 48)) != groupBitOr(bitShiftLeft(toUInt64(1), cell % 48))
)

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
from numbered_rows
where part not in (select part from parts_with_copies)
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
    select *
    from numbered_rows
    where part in (select part from parts_with_copies)
    order by
        count desc, if(isNaN(sum_value), -inf, sum_value) desc,
        -- the rest only makes it definite
        avg_value desc, anomaly_count desc, max_value desc, min_value desc, stddev_value desc, site_id desc
    limit 1 by asset_id, metric_name, time_bucket
)

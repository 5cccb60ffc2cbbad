-- telemetry_power: the power of assets where and when they reported it, of which their availability is judged.
--
-- grain       one row per tenant, asset, site and name of power with power data
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once
-- parameters  as_of: the last instant, in UTC; days: how many days (24 h) the windows of 90 d reach back from it, those
--             of 30 d 60 less; the others as in telemetry_features.sql
-- owner       ml-platform@dcmms.example

with

(:telemetry_metrics) as metrics,
(:telemetry_as_of) as as_of,
toDateTime(as_of.ceiling - {days:UInt16} * 86400, 'UTC') as oldest,
toDateTime(as_of.ceiling - ({days:UInt16} - 60) * 86400, 'UTC') as start_30d,
toDateTime(as_of.floor - {bucket_seconds:UInt32}, 'UTC') as newest,
true as only_power,

stored as (:telemetry_stored)

select
    toString(asset_id) as asset,
    toString(site_id) as site,
    toUInt8(indexOf(metrics.names, metric_name)) as metric,
    -- of each day of 24 h before the last instant, the last one first: NULL for one without power data
    maxOrNullIfResample(0, {days:UInt16}, 1)(avg_value, is_measured, day) as peaks,  -- noqa: LT01
    maxOrNullIfResample(0, {days:UInt16}, 1)(  -- noqa: LT01
        avg_value, is_measured and not straddles, day
    ) as early_peaks,
    groupArrayIf(toUInt32(time_bucket), is_measured and time_bucket >= start_30d) as starts,
    groupArrayIf(avg_value, is_measured and time_bucket >= start_30d) as averages
from (:telemetry_buckets)
group by tenant_id, asset_id, metric_name, site_id
having countIf(is_measured) > 0
settings optimize_aggregation_in_order = 1

-- telemetry_power: the power of assets where and when they reported it, of which their availability is judged.
--
-- grain       one row per tenant, asset, site and name of power with power data; an asset of which some buckets are
--             stored twice may have two
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
true as only_power

select
    toString(asset_id) as asset,
    toString(site_id) as site,
    toUInt8(indexOf(metrics.names, metric_name)) as metric,
    peaks,
    early_peaks,
    arrayMap(start -> toUInt32(start), starts) as starts,
    averages
from (
    select *
    from (
        with stored as (:telemetry_alone)  -- noqa: ST03

        select * from (:telemetry_power_series)
    )
    union all
    select *
    from (
        with stored as (:telemetry_once)  -- noqa: ST03

        select * from (:telemetry_power_series)
    )
)
settings optimize_aggregation_in_order = 1

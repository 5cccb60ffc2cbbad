-- telemetry_power_series: what telemetry_power returns of some buckets.
--
-- grain       one row per tenant, asset, site and name of power with power data
-- source      stored, of the query around: buckets of power, each once; as_of and start_30d
-- parameters  as telemetry_power
-- owner       ml-platform@dcmms.example

select
    asset_id,
    site_id,
    metric_name,
    -- of each day of 24 h before the last instant, the last one first: NULL for one without power data
    maxOrNullIfResample(0, {days:UInt16}, 1)(avg_value, is_measured, day) as peaks,  -- noqa: LT01
    maxOrNullIfResample(0, {days:UInt16}, 1)(  -- noqa: LT01
        avg_value, is_measured and not straddles, day
    ) as early_peaks,
    groupArrayIf(time_bucket, is_measured and time_bucket >= start_30d) as starts,
    groupArrayIf(avg_value, is_measured and time_bucket >= start_30d) as averages
from (:telemetry_buckets)
group by tenant_id, asset_id, metric_name, site_id
having countIf(is_measured) > 0

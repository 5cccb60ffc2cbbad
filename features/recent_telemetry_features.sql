-- recent_telemetry_features: how an asset has been running in the last day, beside its month.
--
-- grain       one row per asset with at least one bucket in the 90 d before the as-of instant
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once
-- parameters  as those of telemetry_features.sql
-- fragments   as in telemetry_features.sql
-- owner       ml-platform@dcmms.example

with

(:telemetry_metrics) as metrics,
(:telemetry_as_of) as as_of,
toDateTime(as_of.ceiling - 86400, 'UTC') as start_1d,
toDateTime(as_of.ceiling - 30 * 86400, 'UTC') as start_30d,
toDateTime(as_of.ceiling - 90 * 86400, 'UTC') as first_start,
toDateTime(as_of.floor - {bucket_seconds:UInt32}, 'UTC') as last_start,
toDateTime(as_of.floor - 86400 - {bucket_seconds:UInt32}, 'UTC') as last_start_before,
false as only_power,

-- one row per asset and metric. Blocks without copies are added up in the order of the table, the others apart.
series as (
    select
        asset_id,
        0 as days_ago,
        indexOf(metrics.names, metric_name) as metric,
        max(last_bucket) as newest_start,
        sum(bucket_count_1d) as buckets_1d,
        sum(stopped_count_1d) as stopped_1d,
        sum(bucket_count_before) as buckets_before,
        sum(bucket_count_30d) + sum(older_bucket_count) as buckets_90d,
        sum(sample_count_1d) as samples_1d,
        sum(sample_count_before) as samples_before,
        sum(sample_count_30d) as samples_30d,
        sumForEach(unit_counts_1d) as units_1d,
        sumForEach(unit_counts_before) as units_before,
        sumForEach(unit_counts_30d) as units_30d
    from (
        select *
        from (
            with
            start_30d as oldest,
            last_start as newest,
            stored as (:telemetry_alone)

            select * from (:telemetry_month)
        )
        union all
        select *
        from (
            with
            start_30d as oldest,
            last_start as newest,
            stored as (:telemetry_once)

            select * from (:telemetry_month)
        )
        union all
        select *
        from (
            with
            first_start as oldest,
            start_30d - 1 as newest,
            stored as (:telemetry_alone)

            select * from (:telemetry_before)
        )
        union all
        select *
        from (
            with
            first_start as oldest,
            start_30d - 1 as newest,
            stored as (:telemetry_once)

            select * from (:telemetry_before)
        )
    )
    group by asset_id, metric_name
),

assets as (:telemetry_deviations)

select *
from (:telemetry_recent_rows)
order by asset_id
settings optimize_aggregation_in_order = 1

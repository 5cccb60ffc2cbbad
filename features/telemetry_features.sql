-- telemetry_features: how an asset has been running; and recent_telemetry_features: its last day beside its month.
--
-- grain       one row per asset with at least one bucket in the 90 d before the as-of instant
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once
-- parameters  as_of: the instant, in UTC; bucket_seconds: the width of a bucket; blocks_with_copies: the numbers of the
--             blocks, of 64 cells of the clock grid from 1970 on, in which some bucket is stored twice; sites: ids of
--             the sites to read, none for all
-- fragments   a name after a colon in brackets stands for that file of shared/. In clickhouse-client:
--                 python -m pipeline.sources.queries features/telemetry_features.sql | clickhouse-client \
--                     --param_as_of='2026-01-01 00:00:00' --param_bucket_seconds=3600 --param_blocks_with_copies='[]' \
--                     --param_sites='[]'
-- completed   availability_*: of what shared/telemetry_power.sql returns; capacity_factor_*: energy over rated power
-- in Python   (which PostgreSQL knows) and power_hours_*; assets that do not exist in PostgreSQL are dropped there
-- owner       ml-platform@dcmms.example

with

(:telemetry_metrics) as metrics,
(:telemetry_as_of) as as_of,
toDateTime(as_of.ceiling - 86400, 'UTC') as start_1d,
toDateTime(as_of.ceiling - 7 * 86400, 'UTC') as start_7d,
toDateTime(as_of.ceiling - 30 * 86400, 'UTC') as start_30d,
toDateTime(as_of.ceiling - 90 * 86400, 'UTC') as first_start,
toDateTime(as_of.floor - {bucket_seconds:UInt32}, 'UTC') as last_start,
toDateTime(as_of.floor - 86400 - {bucket_seconds:UInt32}, 'UTC') as last_start_29d,
false as only_power,

-- one row per asset and metric. Blocks without copies are added up in the order of the table, the others apart.
series as (
    select
        asset_id,
        0 as days_ago,
        indexOf(metrics.names, metric_name) as metric,
        max(last_bucket) as newest_start,
        sum(row_count_7d) as rows_7d,
        sum(row_count_30d) as rows_30d,
        sum(anomaly_sum_7d) as anomalies_7d,
        sum(anomaly_sum_30d) as anomalies_30d,
        sum(anomaly_sum_30d) + sum(older_anomaly_sum) as anomalies_90d,
        sum(bucket_count_1d) as buckets_1d,
        sum(stopped_count_1d) as stopped_1d,
        sum(bucket_count_7d) as buckets_7d,
        sum(bucket_count_29d) as buckets_29d,
        sum(bucket_count_30d) as buckets_30d,
        sum(bucket_count_30d) + sum(older_bucket_count) as buckets_90d,
        sum(sample_count_1d) as samples_1d,
        sum(sample_count_7d) as samples_7d,
        sum(sample_count_29d) as samples_29d,
        sum(sample_count_30d) as samples_30d,
        min(smallest_7d) as min_7d,
        max(largest_7d) as max_7d,
        uniqExactArray(power_cells_7d) as cells_7d,
        sumForEach(unit_counts_7d) as units_7d,
        sumForEach(unit_counts_30d) as units_30d,
        sumForEach(unit_counts_1d) as units_1d,
        sumForEach(unit_counts_29d) as units_29d,
        -- of power, by which availability is judged
        cast(
            (
                metric,
                groupUniqArrayArray(power_sites),
                maxForEach(power_peaks),
                groupArrayArray(power_starts),
                groupArrayArray(power_averages)
            ),
            'Tuple(metric UInt8, sites Array(String), peaks Array(Nullable(Float64)), starts Array(UInt32),
                averages Array(Float64))'
        ) as power_series
    from (:telemetry_parts)
    group by asset_id, metric_name
),

assets as (:telemetry_assets)

select *
from (:telemetry_rows)
order by asset_id
settings optimize_aggregation_in_order = 1

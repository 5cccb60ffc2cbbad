-- telemetry_features: how an asset has been running.
--
-- grain       one row per asset with at least one bucket in the 90 d before the as-of instant
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once. Where some are stored twice, what
--             shared/telemetry_once.sql selects takes the place of the table, as a common table expression.
-- parameters  as_of: the instant, in UTC; bucket_seconds: the width of a bucket; sites: ids of the sites to read, none
--             for all
-- fragments   a name after a colon in brackets stands for that file of shared/. In clickhouse-client:
--                 python -m pipeline.sources.queries features/telemetry_features.sql | clickhouse-client \
--                     --param_as_of='2026-01-01 00:00:00' --param_bucket_seconds=3600 --param_sites='[]'
-- completed   capacity_factor_*: energy over rated power (which PostgreSQL knows) and power_hours_*; assets that
-- in Python   do not exist in PostgreSQL are dropped there
-- owner       ml-platform@dcmms.example

with

(:telemetry_metrics) as metrics,
(:telemetry_as_of) as as_of,
toDateTime(as_of.ceiling - 7 * 86400, 'UTC') as start_7d,
toDateTime(as_of.ceiling - 30 * 86400, 'UTC') as start_30d,
toDateTime(as_of.ceiling - 90 * 86400, 'UTC') as first_start,
toDateTime(as_of.floor - {bucket_seconds:UInt32}, 'UTC') as last_start,

buckets as (:telemetry_buckets),

-- windows -------------------------------------------------------------------------------------------------------------

-- grouped in the order of the table, so that ClickHouse needs no hash table
recent_series as (
    with is_measured and time_bucket >= start_7d as in_7d
    select
        asset_id,
        metric_name,
        max(time_bucket) as last_bucket,
        countIf(time_bucket >= start_7d) as row_count_7d,
        count() as row_count_30d,
        sumIf(anomaly_count, time_bucket >= start_7d) as anomaly_sum_7d,
        sum(anomaly_count) as anomaly_sum_30d,
        countIf(in_7d) as bucket_count_7d,
        countIf(is_measured) as bucket_count_30d,
        sumIf(samples, in_7d) as sample_count_7d,
        sumIf(samples, is_measured) as sample_count_30d,
        minOrNullIf(min_value, in_7d and isFinite(min_value)) as smallest_7d,
        maxOrNullIf(max_value, in_7d and isFinite(max_value)) as largest_7d,
        -- of the averages, the totals and the squares: how many of each unit, the largest first
        [
            sumIf(average_small, in_7d), sumIf(average_tiny, in_7d),
            sumIf(total_large, in_7d), sumIf(total_small, in_7d), sumIf(total_tiny, in_7d),
            sumIf(squares_huge, in_7d), sumIf(squares_large, in_7d),
            sumIf(squares_small, in_7d), sumIf(squares_tiny, in_7d)
        ] as unit_counts_7d,
        [
            sumIf(average_small, is_measured), sumIf(average_tiny, is_measured),
            sumIf(total_large, is_measured), sumIf(total_small, is_measured), sumIf(total_tiny, is_measured),
            sumIf(squares_huge, is_measured), sumIf(squares_large, is_measured),
            sumIf(squares_small, is_measured), sumIf(squares_tiny, is_measured)
        ] as unit_counts_30d
    from buckets
    where time_bucket >= start_30d
    group by tenant_id, asset_id, metric_name
),

-- of what is older few columns are needed, and most are not read
older_series as (
    select
        asset_id,
        metric_name,
        max(time_bucket) as last_bucket,
        sum(anomaly_count) as anomaly_sum,
        countIf(is_measured) as bucket_count
    from buckets
    where time_bucket < start_30d
    group by tenant_id, asset_id, metric_name
),

-- one row per asset and metric
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
        sum(bucket_count_7d) as buckets_7d,
        sum(bucket_count_30d) as buckets_30d,
        sum(bucket_count_30d) + sum(older_bucket_count) as buckets_90d,
        sum(sample_count_7d) as samples_7d,
        sum(sample_count_30d) as samples_30d,
        min(smallest_7d) as min_7d,
        max(largest_7d) as max_7d,
        sumForEach(unit_counts_7d) as units_7d,
        sumForEach(unit_counts_30d) as units_30d
    from (
        select
            *,
            0 as older_anomaly_sum,
            0 as older_bucket_count
        from recent_series
        union all
        select
            asset_id,
            metric_name,
            last_bucket,
            0 as row_count_7d,
            0 as row_count_30d,
            0 as anomaly_sum_7d,
            0 as anomaly_sum_30d,
            0 as bucket_count_7d,
            0 as bucket_count_30d,
            0 as sample_count_7d,
            0 as sample_count_30d,
            null as smallest_7d,
            null as largest_7d,
            [] as unit_counts_7d,
            [] as unit_counts_30d,
            anomaly_sum as older_anomaly_sum,
            bucket_count as older_bucket_count
        from older_series
    )
    group by asset_id, metric_name
),

assets as (:telemetry_assets),

-- availability: an asset against the others of its site ---------------------------------------------------------------

power_series as (
    select
        asset_id,
        indexOf(metrics.power_names, metric_name) as metric,
        site_id,
        maxIf(avg_value, is_measured) as largest_at_site,
        maxIf(time_bucket, is_measured) as newest_at_site,
        groupArrayIf(time_bucket, is_measured and time_bucket >= start_30d) as time_buckets,
        groupArrayIf(avg_value, is_measured and time_bucket >= start_30d) as averages
    from buckets
    -- the column alone: where it fails the others are not read. `in` the array itself would look through it row by row.
    where metric_name in (select arrayJoin(metrics.power_names))
    group by tenant_id, asset_id, metric_name, site_id
    having countIf(is_measured) > 0
),

power_of_assets as (
    select
        asset_id,
        site_id,
        time_buckets,
        averages,
        metric = min(metric) over (partition by asset_id) as is_preferred,
        -- above this power it produces
        greatest(0, max(largest_at_site) over (partition by asset_id, metric) / 100) as threshold,
        argMax(site_id, newest_at_site) over (partition by asset_id, metric) as newest_site
    from power_series
),

power_at_sites as (
    select
        *,
        uniqExact(asset_id) over (partition by newest_site) > 2 as is_judged
    from power_of_assets
    where is_preferred
),

-- all assets that report in a bucket of a site; `flags`: 1 it produces, 2 its availability is judged
site_buckets as (
    select
        site_id,
        time_bucket,
        groupArray(asset_id) as asset_ids,
        groupArray(produces + 2 * is_judged) as flags,
        count() as reporting,
        sum(produces) as producing
    from (
        select
            asset_id,
            site_id,
            is_judged,
            time_bucket,
            average > threshold as produces
        from power_at_sites
        array join time_buckets as time_bucket, averages as average
    )
    group by site_id, time_bucket
),

-- a bucket is productive for an asset when at least half of the others that report in it produce
availabilities as (
    select
        asset_id,
        0 as days_ago,
        countIf(flag = 3 and time_bucket >= start_7d) / nullIf(countIf(time_bucket >= start_7d), 0) as available_7d,
        countIf(flag = 3) / nullIf(count(), 0) as available_30d
    from (
        select
            asset_id,
            time_bucket,
            flag,
            reporting - 1 as others,
            producing - flag % 2 as others_producing
        from site_buckets
        array join asset_ids as asset_id, flags as flag
    )
    where flag >= 2 and others > 0 and 2 * others_producing >= others
    group by asset_id
)

select *
from (:telemetry_rows)
order by asset_id
settings optimize_aggregation_in_order = 1

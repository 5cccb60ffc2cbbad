-- work_order_features: how much work an asset has needed lately, of which kind, and how it was handled.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: assets, work_orders, work_order_tasks
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql:
--                 set timezone = 'UTC'; set feature_store.as_of = '2026-01-01T00:00:00Z';
-- owner       ml-platform@dcmms.example

with

instants as (
    select unnest(string_to_array(current_setting('feature_store.as_of'), ','))::timestamptz as as_of
),

existing_assets as (
    select
        instants.as_of,
        assets.id as asset_id
    from instants
    inner join assets on instants.as_of >= assets.created_at::timestamptz
    where not (assets.status = 'decommissioned' and assets.updated_at::timestamptz <= instants.as_of)
),

completed_tasks as (
    select
        work_order_id,
        max(completed_at)::timestamptz as completed_at
    from work_order_tasks
    group by work_order_id
),

-- dCMMS often leaves actual_end empty: the last completed task, then the last edit, stand in for it
work_order_facts as (
    select
        work_orders.id,
        work_orders.asset_id,
        work_orders.type,
        work_orders.priority,
        work_orders.type in ('corrective', 'emergency') as is_failure,
        work_orders.created_at::timestamptz as created_at,
        work_orders.scheduled_end::timestamptz as scheduled_end,
        case when work_orders.status = 'cancelled' then work_orders.updated_at::timestamptz end as cancelled_at,
        case
            when work_orders.status in ('completed', 'closed')
                then coalesce(
                    work_orders.actual_end::timestamptz,
                    completed_tasks.completed_at,
                    work_orders.updated_at::timestamptz
                )
        end as completed_at
    from work_orders
    left join completed_tasks on work_orders.id = completed_tasks.work_order_id
    where work_orders.asset_id is not null
),

counted_work_orders as (
    select
        instants.as_of,
        facts.id,
        facts.asset_id,
        facts.type,
        facts.priority,
        facts.is_failure,
        facts.created_at,
        facts.scheduled_end,
        instants.as_of - facts.created_at as age,
        case when facts.completed_at <= instants.as_of then facts.completed_at end as completed_at
    from instants
    inner join work_order_facts as facts on instants.as_of >= facts.created_at
    where facts.cancelled_at is null or facts.cancelled_at > instants.as_of
),

-- windows are (as_of - w, as_of]; a day is 24 hours
counts as (
    select
        as_of,
        asset_id,
        count(*) filter (where age < interval '168 hours') as created_7d,
        count(*) filter (where age < interval '720 hours') as created_30d,
        count(*) filter (where age < interval '2160 hours') as created_90d,
        count(*) filter (where age < interval '8760 hours') as created_365d,
        count(*) filter (where type = 'corrective' and age < interval '168 hours') as corrective_7d,
        count(*) filter (where type = 'corrective' and age < interval '720 hours') as corrective_30d,
        count(*) filter (where type = 'corrective' and age < interval '2160 hours') as corrective_90d,
        count(*) filter (where type = 'preventive' and age < interval '720 hours') as preventive_30d,
        count(*) filter (where type = 'preventive' and age < interval '2160 hours') as preventive_90d,
        count(*) filter (where type = 'emergency' and age < interval '720 hours') as emergency_30d,
        count(*) filter (where type = 'emergency' and age < interval '2160 hours') as emergency_90d,
        count(*) filter (where priority = 'critical' and age < interval '720 hours') as critical_30d,
        count(*) filter (where priority = 'high' and age < interval '720 hours') as high_30d,
        count(*) filter (where completed_at is not null and age < interval '720 hours') as completed_of_created_30d,
        -- a completion before the creation is bad data: completed, but without a duration
        avg(extract(epoch from completed_at - created_at)) filter (
            where completed_at > as_of - interval '720 hours' and completed_at >= created_at
        ) as completion_seconds_30d,
        count(*) filter (
            where
            scheduled_end > as_of - interval '720 hours'
            and scheduled_end <= as_of
            and completed_at is null
        ) as overdue_30d,
        max(created_at) as last_at,
        max(greatest(created_at, completed_at)) as newest_at,
        max(created_at) filter (where type = 'corrective') as last_corrective_at,
        max(created_at) filter (where type = 'preventive') as last_preventive_at
    from counted_work_orders
    group by as_of, asset_id
),

-- a failure repeats when it comes within 30 d of the completed repair of another one
repeat_failures as (
    select
        failures.as_of,
        failures.asset_id,
        count(*) as total_90d
    from counted_work_orders as failures
    where
        failures.is_failure
        and failures.age < interval '2160 hours'
        and exists (
            select 1
            from counted_work_orders as repairs
            where
                repairs.as_of = failures.as_of
                and repairs.asset_id = failures.asset_id
                and repairs.id <> failures.id
                and repairs.is_failure
                and repairs.completed_at >= repairs.created_at
                and repairs.completed_at <= failures.created_at
                and repairs.completed_at >= failures.created_at - interval '720 hours'
        )
    group by failures.as_of, failures.asset_id
)

select
    assets.as_of as event_timestamp,
    assets.asset_id::text as asset_id,
    -- created in the window
    coalesce(counts.created_7d, 0)::integer as wo_count_7d,
    coalesce(counts.created_30d, 0)::integer as wo_count_30d,
    coalesce(counts.created_90d, 0)::integer as wo_count_90d,
    coalesce(counts.created_365d, 0)::integer as wo_count_365d,
    coalesce(counts.corrective_7d, 0)::integer as corrective_wo_count_7d,
    coalesce(counts.corrective_30d, 0)::integer as corrective_wo_count_30d,
    coalesce(counts.corrective_90d, 0)::integer as corrective_wo_count_90d,
    coalesce(counts.preventive_30d, 0)::integer as preventive_wo_count_30d,
    coalesce(counts.preventive_90d, 0)::integer as preventive_wo_count_90d,
    coalesce(counts.emergency_30d, 0)::integer as emergency_wo_count_30d,
    coalesce(counts.emergency_90d, 0)::integer as emergency_wo_count_90d,
    -- completion
    (counts.completion_seconds_30d / 3600)::real as avg_wo_completion_hours_30d,
    coalesce(counts.overdue_30d, 0)::integer as overdue_wo_count_30d,
    (100.0 * counts.completed_of_created_30d / nullif(counts.created_30d, 0))::real as wo_completion_rate_30d,
    -- priority
    coalesce(counts.critical_30d, 0)::integer as critical_wo_count_30d,
    coalesce(counts.high_30d, 0)::integer as high_priority_wo_count_30d,
    -- ratios
    (3.0 * counts.created_30d / nullif(counts.created_90d, 0))::real as wo_count_trend_30d_vs_90d,
    (1.0 * counts.corrective_30d / nullif(counts.created_30d, 0))::real as corrective_wo_ratio_30d,
    coalesce(repeat_failures.total_90d, 0)::integer as repeat_failure_count_90d,
    -- recency
    floor(extract(epoch from assets.as_of - counts.last_at) / 86400)::integer as days_since_last_wo,
    floor(extract(epoch from assets.as_of - counts.last_corrective_at) / 86400)::integer
        as days_since_last_corrective_wo,
    floor(extract(epoch from assets.as_of - counts.last_preventive_at) / 86400)::integer
        as days_since_last_preventive_wo,
    -- the newest fact that this row rests on
    counts.newest_at as newest_source_at
from existing_assets as assets
left join counts using (as_of, asset_id)
left join repeat_failures using (as_of, asset_id)
order by event_timestamp, asset_id

-- work_order_features: how much work an asset has needed lately, of which kind, and how it was handled.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: assets, work_orders, work_order_tasks
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql, from this folder:
--                 set timezone = 'UTC'; set feature_store.as_of = '2026-01-01T00:00:00Z';
-- method      what is the same as of every instant is found once; the rest for one instant after the other
-- owner       ml-platform@dcmms.example

\set instants `cat shared/instants.sql`
\set asset_facts `cat shared/asset_facts.sql`
\set existing_assets `cat shared/existing_assets.sql`
\set work_order_facts `cat shared/work_order_facts.sql`
\set counted_work_orders `cat shared/counted_work_orders.sql`

with

instants as (:instants),

asset_facts as (:asset_facts),

work_order_facts as (:work_order_facts),

counted_work_orders as (:counted_work_orders),

-- as of every instant ----------------------------------------------------------------------------------------

-- what the windows up to 90 d hold, and the repairs of 30 d more
recent_facts as (
    select *
    from counted_work_orders
    where
        greatest(created_at, completed_at, scheduled_end)
        > (select min(since_90d) from instants) - interval '720 hours'
),

-- a failure repeats when it comes within 30 d of the completed repair of another one; that repair was counted then
-- and always will be, so that it does not matter as of when one asks
repeat_failures as (
    select failures.id
    from recent_facts as failures
    where
        failures.is_failure
        and exists (
            select 1
            from recent_facts as repairs
            where
                repairs.asset_id = failures.asset_id
                and repairs.id <> failures.id
                and repairs.is_failure
                and repairs.completed_at >= repairs.created_at
                and repairs.completed_at <= failures.created_at
                and repairs.completed_at + interval '720 hours' >= failures.created_at
        )
),

recent_work_orders as materialized (
    select
        facts.*,
        repeat_failures.id is not null as is_repeat,
        -- a completion before the creation is bad data: completed, but without a duration
        case
            when facts.completed_at >= facts.created_at then extract(epoch from facts.completed_at - facts.created_at)
        end as completion_seconds
    from recent_facts as facts
    left join repeat_failures using (id)
),

histories as materialized (
    select
        asset_id,
        counted_from,
        counted_until,
        completed_from,
        case
            when created_at <= (select min(since_365d) from instants) then '-infinity'
            when created_at > (select max(since_365d) from instants) then 'infinity'
            else created_at + interval '8760 hours'
        end as within_365d_until,
        count(*)::integer as total,
        max(created_at) as last_at,
        max(created_at) filter (where type = 'corrective') as last_corrective_at,
        max(created_at) filter (where type = 'preventive') as last_preventive_at,
        max(greatest(created_at, completed_at)) filter (where completed_at is not null) as last_completed_at
    from counted_work_orders
    group by asset_id, counted_from, counted_until, completed_from, within_365d_until
)

-- as of one instant ------------------------------------------------------------------------------------------

select features.*
from instants
cross join lateral (
    with

    existing_assets as (:existing_assets),

    created as (
        select
            asset_id,
            count(*) filter (where created_at > instants.since_7d) as total_7d,
            count(*) filter (where created_at > instants.since_30d) as total_30d,
            count(*) as total_90d,
            count(*) filter (where type = 'corrective' and created_at > instants.since_7d) as corrective_7d,
            count(*) filter (where type = 'corrective' and created_at > instants.since_30d) as corrective_30d,
            count(*) filter (where type = 'corrective') as corrective_90d,
            count(*) filter (where type = 'preventive' and created_at > instants.since_30d) as preventive_30d,
            count(*) filter (where type = 'preventive') as preventive_90d,
            count(*) filter (where type = 'emergency' and created_at > instants.since_30d) as emergency_30d,
            count(*) filter (where type = 'emergency') as emergency_90d,
            count(*) filter (where priority = 'critical' and created_at > instants.since_30d) as critical_30d,
            count(*) filter (where priority = 'high' and created_at > instants.since_30d) as high_30d,
            count(*) filter (
                where completed_at <= instants.as_of and created_at > instants.since_30d
            ) as completed_30d,
            count(*) filter (where is_repeat) as repeats_90d
        from recent_work_orders
        where
            created_at > instants.since_90d
            and created_at <= instants.as_of
            and counted_until > instants.as_of
        group by asset_id
    ),

    completed as (
        select
            asset_id,
            avg(completion_seconds) / 3600 as mean_hours
        from recent_work_orders
        where completed_at > instants.since_30d and completed_at <= instants.as_of and created_at <= instants.as_of
        group by asset_id
    ),

    overdue as (
        select
            asset_id,
            count(*) as total
        from recent_work_orders
        where
            scheduled_end > instants.since_30d
            and scheduled_end <= instants.as_of
            and created_at <= instants.as_of
            and counted_until > instants.as_of
            and (completed_at is null or completed_at > instants.as_of)
        group by asset_id
    ),

    so_far as (
        select
            asset_id,
            sum(total) filter (where within_365d_until > instants.as_of) as total_365d,
            max(last_at) as last_at,
            max(last_corrective_at) as last_corrective_at,
            max(last_preventive_at) as last_preventive_at,
            max(last_completed_at) filter (where completed_from <= instants.as_of) as last_completed_at
        from histories
        where counted_from <= instants.as_of and counted_until > instants.as_of
        group by asset_id
    )

    select
        instants.as_of as event_timestamp,
        asset_id::text as asset_id,
        -- created in the window
        coalesce(created.total_7d, 0)::integer as wo_count_7d,
        coalesce(created.total_30d, 0)::integer as wo_count_30d,
        coalesce(created.total_90d, 0)::integer as wo_count_90d,
        coalesce(so_far.total_365d, 0)::integer as wo_count_365d,
        coalesce(created.corrective_7d, 0)::integer as corrective_wo_count_7d,
        coalesce(created.corrective_30d, 0)::integer as corrective_wo_count_30d,
        coalesce(created.corrective_90d, 0)::integer as corrective_wo_count_90d,
        coalesce(created.preventive_30d, 0)::integer as preventive_wo_count_30d,
        coalesce(created.preventive_90d, 0)::integer as preventive_wo_count_90d,
        coalesce(created.emergency_30d, 0)::integer as emergency_wo_count_30d,
        coalesce(created.emergency_90d, 0)::integer as emergency_wo_count_90d,
        -- completion
        completed.mean_hours::real as avg_wo_completion_hours_30d,
        coalesce(overdue.total, 0)::integer as overdue_wo_count_30d,
        (100::double precision * created.completed_30d / nullif(created.total_30d, 0))::real as wo_completion_rate_30d,
        -- priority
        coalesce(created.critical_30d, 0)::integer as critical_wo_count_30d,
        coalesce(created.high_30d, 0)::integer as high_priority_wo_count_30d,
        -- ratios
        (3::double precision * created.total_30d / created.total_90d)::real as wo_count_trend_30d_vs_90d,
        (created.corrective_30d::double precision / nullif(created.total_30d, 0))::real as corrective_wo_ratio_30d,
        coalesce(created.repeats_90d, 0)::integer as repeat_failure_count_90d,
        -- recency; between two instants, days are of 24 hours
        extract(day from instants.as_of - so_far.last_at)::integer as days_since_last_wo,
        extract(day from instants.as_of - so_far.last_corrective_at)::integer as days_since_last_corrective_wo,
        extract(day from instants.as_of - so_far.last_preventive_at)::integer as days_since_last_preventive_wo,
        -- the newest fact that this row rests on
        nullif(greatest(so_far.last_at, so_far.last_completed_at, '0001-01-01'), '0001-01-01') as newest_source_at
    from existing_assets
    left join created using (asset_id)
    left join completed using (asset_id)
    left join overdue using (asset_id)
    left join so_far using (asset_id)
) as features

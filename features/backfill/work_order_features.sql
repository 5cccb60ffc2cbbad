-- work_order_features of many instants at once: the same rows as features/work_order_features.sql, which defines them.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: assets, work_orders, work_order_tasks
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql:
--                 set timezone = 'UTC'; set feature_store.as_of = '2026-01-01T00:00:00Z';
-- method      what a work order adds to a feature, it adds from one instant until another. So the instants are
--             numbered, each work order is a step up at one number and a step down at another, and a feature is the
--             running sum of the steps: many instants cost little more than one
-- owner       ml-platform@dcmms.example

with

-- instants and assets ----------------------------------------------------------------------------------------

instants as (
    select
        as_of,
        (row_number() over (order by as_of))::integer as n
    from (
        select unnest(string_to_array(current_setting('feature_store.as_of'), ','))::timestamptz as as_of
    ) as given
),

timeline as (
    select
        -- an instant comes before t when its threshold is at or before t
        array_agg(as_of + interval '1 microsecond' order by n) as thresholds,
        array_agg(n order by n) as numbers,
        min(as_of) as first_instant,
        max(as_of) as last_instant,
        max(n) as last_n
    from instants
),

-- work orders ------------------------------------------------------------------------------------------------

completed_tasks as (
    select
        work_order_id,
        max(completed_at)::timestamptz as completed_at
    from work_order_tasks
    group by work_order_id
),

-- dCMMS often leaves actual_end empty: the last completed task, then the last edit, stand in for it
known_work_orders as (
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
    where
        work_orders.asset_id is not null
        and work_orders.created_at::timestamptz <= (select last_instant from timeline)
),

work_order_facts as (
    select
        *,
        created_at <= (select first_instant - interval '8760 hours' from timeline)
        and coalesce(completed_at <= (select first_instant - interval '2880 hours' from timeline), true)
        and coalesce(scheduled_end <= (select first_instant - interval '720 hours' from timeline), true)
        and cancelled_at is null as is_history
    from known_work_orders
    -- cancelled before the first instant, it is counted at none
    where coalesce(cancelled_at > (select first_instant from timeline), true)
),

-- most work orders are history already at the first instant: they are in no window any more, the latest one of a type
-- may still be the asset's latest
history as (
    select
        asset_id,
        type,
        max(created_at) as created_at,
        max(greatest(created_at, completed_at)) filter (where completed_at is not null) as completed_at
    from work_order_facts
    where is_history
    group by asset_id, type
),

-- a failure repeats when it comes within 30 d of the completed repair of another one; that repair was counted then
-- and always will be, so that it does not matter as of when one asks
repeat_failures as (
    select failures.id
    from work_order_facts as failures
    where
        failures.is_failure
        and not failures.is_history
        and failures.created_at > (select first_instant from timeline) - interval '2160 hours'
        and exists (
            select 1
            from work_order_facts as repairs
            where
                repairs.asset_id = failures.asset_id
                and repairs.id <> failures.id
                and repairs.is_failure
                and not repairs.is_history
                and repairs.completed_at >= repairs.created_at
                and repairs.completed_at <= failures.created_at
                and repairs.completed_at >= failures.created_at - interval '720 hours'
        )
),

-- from when until when a work order adds something: the instants [from, until). An event at t is in the window
-- (as_of - w, as_of] of the instants [t, t + w); a day is 24 hours. least() and greatest() pass over NULL
spans as (
    select
        facts.asset_id,
        facts.type,
        facts.priority,
        (repeat_failures.id is not null)::integer as repeated,
        facts.created_at,
        least(facts.created_at + interval '168 hours', facts.cancelled_at) as until_7d,
        least(facts.created_at + interval '720 hours', facts.cancelled_at) as until_30d,
        least(facts.created_at + interval '2160 hours', facts.cancelled_at) as until_90d,
        least(facts.created_at + interval '8760 hours', facts.cancelled_at) as until_365d,
        facts.cancelled_at,
        case
            when facts.completed_at is not null then greatest(facts.created_at, facts.completed_at)
        end as completed_at,
        -- a completion before the creation is bad data: completed, but without a duration
        case when facts.completed_at >= facts.created_at then facts.completed_at - facts.created_at end as duration,
        case
            when facts.scheduled_end is not null then greatest(facts.created_at, facts.scheduled_end)
        end as overdue_at,
        least(facts.scheduled_end + interval '720 hours', facts.completed_at, facts.cancelled_at) as overdue_until
    from work_order_facts as facts
    left join repeat_failures on facts.id = repeat_failures.id
    where not facts.is_history
),

-- the same in numbers of instants: the first one at or after t has the number n when n - 1 of them come before t
numbered as (
    select
        asset_id,
        type,
        priority,
        repeated,
        created_at,
        completed_at,
        duration,
        width_bucket(created_at, (select thresholds from timeline)) + 1 as created_n,
        width_bucket(until_7d, (select thresholds from timeline)) + 1 as until_7d_n,
        width_bucket(until_30d, (select thresholds from timeline)) + 1 as until_30d_n,
        width_bucket(until_90d, (select thresholds from timeline)) + 1 as until_90d_n,
        width_bucket(until_365d, (select thresholds from timeline)) + 1 as until_365d_n,
        width_bucket(cancelled_at, (select thresholds from timeline)) + 1 as cancelled_n,
        width_bucket(completed_at, (select thresholds from timeline)) + 1 as completed_n,
        width_bucket(completed_at + interval '720 hours', (select thresholds from timeline)) + 1
            as completed_until_n,
        width_bucket(overdue_at, (select thresholds from timeline)) + 1 as overdue_n,
        width_bucket(overdue_until, (select thresholds from timeline)) + 1 as overdue_until_n
    from spans
),

-- steps ------------------------------------------------------------------------------------------------------

-- the columns are named once, and in the same order below
-- noqa: disable=aliasing.expression,layout.select_targets,layout.indent
-- +1 at the number from which a work order adds something, -1 at the number from which it does so no longer
events as (
    -- a row of the result
    select
        assets.id as asset_id,
        instants.n,
        instants.as_of,
        null::work_order_type as type,
        null::work_order_priority as priority,
        null::integer as created_7d,
        null::integer as created_30d,
        null::integer as created_90d,
        null::integer as created_365d,
        null::integer as repeated_90d,
        null::integer as completed_of_created_30d,
        null::integer as completed_30d,
        null::interval as completion_time_30d,
        null::integer as overdue_30d,
        null::timestamptz as completed_at,
        null::timestamptz as created_at,
        null::timestamptz as passing_at
    from assets
    inner join instants on assets.created_at::timestamptz <= instants.as_of
    where not (assets.status = 'decommissioned' and assets.updated_at::timestamptz <= instants.as_of)
    union all
    -- a creation; one that will be cancelled within the timeline is the latest for a while only, see below
    select
        asset_id,
        created_n,
        null,
        type,
        priority,
        (created_n < until_7d_n)::integer,
        (created_n < until_30d_n)::integer,
        (created_n < until_90d_n)::integer,
        (created_n < until_365d_n)::integer,
        case when created_n < until_90d_n then repeated end,
        null, null, null, null, null,
        case when cancelled_n <= (select last_n from timeline) then null else created_at end,
        null
    from numbered
    union all
    select
        asset_id,
        1,
        null,
        type,
        null, null, null, null, null, null, null, null, null, null,
        completed_at,
        created_at,
        null
    from history
    union all
    -- a completion
    select
        asset_id,
        completed_n,
        null, null, null, null, null, null, null, null,
        (completed_n < until_30d_n)::integer,
        (completed_n < completed_until_n and duration is not null)::integer,
        case when completed_n < completed_until_n then duration end,
        null,
        completed_at,
        null, null
    from numbered
    where completed_n <= (select last_n from timeline)
    union all
    -- the ends of the windows, and overdue from when until when
    select
        numbered.asset_id,
        steps.n,
        null,
        numbered.type,
        numbered.priority,
        steps.created_7d,
        steps.created_30d,
        steps.created_90d,
        steps.created_365d,
        steps.repeated_90d,
        steps.completed_of_created_30d,
        steps.completed_30d,
        steps.completion_time_30d,
        steps.overdue_30d,
        null, null, null
    from numbered
    cross join lateral (
        values
        (created_n, until_7d_n, -1, null, null, null, null, null, null, null::interval, null),
        (created_n, until_30d_n, null, -1, null, null, null, -(completed_n < until_30d_n)::integer, null, null, null),
        (created_n, until_90d_n, null, null, -1, null, -repeated, null, null, null, null),
        (created_n, until_365d_n, null, null, null, -1, null, null, null, null, null),
        (
            completed_n, completed_until_n, null, null, null, null, null, null, -(duration is not null)::integer,
            -duration, null
        ),
        (
            0, case when overdue_n < overdue_until_n then overdue_n end, null, null, null, null, null, null, null, null,
            1
        ),
        (overdue_n, overdue_until_n, null, null, null, null, null, null, null, null, -1)
    ) as steps (
        from_n, n, created_7d, created_30d, created_90d, created_365d, repeated_90d, completed_of_created_30d,
        completed_30d, completion_time_30d, overdue_30d
    )
    where
        -- most work orders have none, and many none within the timeline
        (
            numbered.overdue_n < numbered.overdue_until_n
            or numbered.created_n < (select last_n from timeline)
            and greatest(numbered.until_365d_n, numbered.completed_until_n) > 1
        )
        and steps.from_n < steps.n
        and steps.n <= (select last_n from timeline)
    union all
    -- at every single instant while it is counted, a creation that will be cancelled within the timeline
    select
        asset_id,
        unnest((select numbers from timeline)[created_n:cancelled_n - 1]),
        null,
        type,
        null, null, null, null, null, null, null, null, null, null, null, null,
        created_at
    from numbered
    where created_n < cancelled_n and cancelled_n <= (select last_n from timeline)
    order by asset_id, n
),

-- noqa: enable=all
steps as (
    select
        asset_id,
        n,
        max(as_of) as as_of,
        sum(created_7d)::integer as created_7d,
        sum(created_30d)::integer as created_30d,
        sum(created_90d)::integer as created_90d,
        sum(created_365d)::integer as created_365d,
        (sum(created_7d) filter (where type = 'corrective'))::integer as corrective_7d,
        (sum(created_30d) filter (where type = 'corrective'))::integer as corrective_30d,
        (sum(created_90d) filter (where type = 'corrective'))::integer as corrective_90d,
        (sum(created_30d) filter (where type = 'preventive'))::integer as preventive_30d,
        (sum(created_90d) filter (where type = 'preventive'))::integer as preventive_90d,
        (sum(created_30d) filter (where type = 'emergency'))::integer as emergency_30d,
        (sum(created_90d) filter (where type = 'emergency'))::integer as emergency_90d,
        (sum(created_30d) filter (where priority = 'critical'))::integer as critical_30d,
        (sum(created_30d) filter (where priority = 'high'))::integer as high_30d,
        sum(repeated_90d)::integer as repeated_90d,
        sum(completed_of_created_30d)::integer as completed_of_created_30d,
        sum(completed_30d)::integer as completed_30d,
        sum(completion_time_30d) as completion_time_30d,
        sum(overdue_30d)::integer as overdue_30d,
        max(completed_at) as completed_at,
        max(created_at) as last_at,
        max(created_at) filter (where type = 'corrective') as last_corrective_at,
        max(created_at) filter (where type = 'preventive') as last_preventive_at,
        max(passing_at) as passing_at,
        max(passing_at) filter (where type = 'corrective') as passing_corrective_at,
        max(passing_at) filter (where type = 'preventive') as passing_preventive_at
    from events
    group by asset_id, n
),

counts as (
    select
        asset_id,
        n,
        as_of,
        sum(created_7d) over so_far as created_7d,
        sum(created_30d) over so_far as created_30d,
        sum(created_90d) over so_far as created_90d,
        sum(created_365d) over so_far as created_365d,
        sum(corrective_7d) over so_far as corrective_7d,
        sum(corrective_30d) over so_far as corrective_30d,
        sum(corrective_90d) over so_far as corrective_90d,
        sum(preventive_30d) over so_far as preventive_30d,
        sum(preventive_90d) over so_far as preventive_90d,
        sum(emergency_30d) over so_far as emergency_30d,
        sum(emergency_90d) over so_far as emergency_90d,
        sum(critical_30d) over so_far as critical_30d,
        sum(high_30d) over so_far as high_30d,
        sum(repeated_90d) over so_far as repeated_90d,
        sum(completed_of_created_30d) over so_far as completed_of_created_30d,
        sum(completed_30d) over so_far as completed_30d,
        sum(completion_time_30d) over so_far as completion_time_30d,
        sum(overdue_30d) over so_far as overdue_30d,
        max(completed_at) over so_far as completed_at,
        greatest(max(last_at) over so_far, passing_at) as last_at,
        greatest(max(last_corrective_at) over so_far, passing_corrective_at) as last_corrective_at,
        greatest(max(last_preventive_at) over so_far, passing_preventive_at) as last_preventive_at
    from steps
    window so_far as (partition by asset_id order by n rows between unbounded preceding and current row)
)

select
    as_of as event_timestamp,
    asset_id::text as asset_id,
    -- created in the window
    coalesce(created_7d, 0)::integer as wo_count_7d,
    coalesce(created_30d, 0)::integer as wo_count_30d,
    coalesce(created_90d, 0)::integer as wo_count_90d,
    coalesce(created_365d, 0)::integer as wo_count_365d,
    coalesce(corrective_7d, 0)::integer as corrective_wo_count_7d,
    coalesce(corrective_30d, 0)::integer as corrective_wo_count_30d,
    coalesce(corrective_90d, 0)::integer as corrective_wo_count_90d,
    coalesce(preventive_30d, 0)::integer as preventive_wo_count_30d,
    coalesce(preventive_90d, 0)::integer as preventive_wo_count_90d,
    coalesce(emergency_30d, 0)::integer as emergency_wo_count_30d,
    coalesce(emergency_90d, 0)::integer as emergency_wo_count_90d,
    -- completion
    (extract(epoch from completion_time_30d) / nullif(completed_30d, 0) / 3600)::real as avg_wo_completion_hours_30d,
    coalesce(overdue_30d, 0)::integer as overdue_wo_count_30d,
    (100 * coalesce(completed_of_created_30d, 0) / nullif(created_30d, 0)::double precision)::real
        as wo_completion_rate_30d,
    -- priority
    coalesce(critical_30d, 0)::integer as critical_wo_count_30d,
    coalesce(high_30d, 0)::integer as high_priority_wo_count_30d,
    -- ratios
    (3 * coalesce(created_30d, 0) / nullif(created_90d, 0)::double precision)::real as wo_count_trend_30d_vs_90d,
    (coalesce(corrective_30d, 0) / nullif(created_30d, 0)::double precision)::real as corrective_wo_ratio_30d,
    coalesce(repeated_90d, 0)::integer as repeat_failure_count_90d,
    -- recency; between two instants, days are of 24 hours
    extract(day from as_of - last_at)::integer as days_since_last_wo,
    extract(day from as_of - last_corrective_at)::integer
        as days_since_last_corrective_wo,
    extract(day from as_of - last_preventive_at)::integer
        as days_since_last_preventive_wo,
    -- the newest fact that this row rests on
    greatest(last_at, completed_at) as newest_source_at
from counts
where as_of is not null
order by counts.asset_id, n

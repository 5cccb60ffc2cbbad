-- asset_features of many instants at once: the same rows as features/asset_features.sql, which defines them.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: assets, work_orders, work_order_tasks, alerts, asset_health_scores,
--             wind_turbine_metadata (may be missing: the extraction then puts an empty one in its place)
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql:
--                 set timezone = 'UTC'; set feature_store.as_of = '2026-01-01T00:00:00Z';
-- method      what a work order or an alert adds to a feature, it adds from one instant until another. So the
--             instants are numbered, each fact is a step up at one number and perhaps a step down at another, and
--             a feature is the running sum of its steps: many instants are read at little more than the cost of one
-- completed   health_score holds the recorded score here; where there is none, features/health_score.py computes
-- in Python   it from this row and the anomalies in ClickHouse
-- owner       ml-platform@dcmms.example

with

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
        min(as_of) as first_instant,
        max(as_of) as last_instant,
        max(n) as last_n,
        array_agg(n order by n) as numbers,
        -- an instant comes before t when its threshold is at or before t
        array_agg(as_of + interval '1 microsecond' order by n) as thresholds
    from instants
),

-- rated power ------------------------------------------------------------------------------------------------

-- a number, or a text of a number and a unit; the place decides between several readable figures. Materialized, or
-- every use of the parts would match again
capacity_texts as materialized (
    select
        assets.id as asset_id,
        places.place,
        regexp_match(places.figure, '^\s*\+?((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(w|kw|mw)?\s*$', 'i') as parts
    from assets
    left join wind_turbine_metadata on assets.id = wind_turbine_metadata.asset_id
    cross join lateral (
        values
        (
            1,
            case
                when pg_input_is_valid(assets.specifications::text, 'jsonb')
                    then (assets.specifications::text)::jsonb ->> 'ratedPowerKw'
            end
        ),
        (
            2,
            case
                when pg_input_is_valid(assets.metadata::text, 'jsonb')
                    then (assets.metadata::text)::jsonb ->> 'installed_capacity_kw'
            end
        ),
        (3, wind_turbine_metadata.rated_power_mw::text || ' MW')
    ) as places (place, figure)
),

capacity_candidates as (
    select
        asset_id,
        place,
        -- a figure that no double can hold is no figure
        case
            when pg_input_is_valid(parts[1], 'double precision')
                then parts[1]::numeric * case lower(parts[2]) when 'w' then 0.001 when 'mw' then 1000 else 1 end
        end as kilowatts
    from capacity_texts
    where parts is not null
),

capacities as (
    select distinct on (asset_id)
        asset_id,
        kilowatts
    from capacity_candidates
    where kilowatts > 0 and pg_input_is_valid(kilowatts::text, 'double precision')
    order by asset_id asc, place asc
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
work_order_facts as (
    select
        work_orders.asset_id,
        work_orders.type,
        work_orders.type in ('corrective', 'emergency') as is_failure,
        work_orders.created_at::timestamptz as created_at,
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

-- counted at one of the instants at least
counted_work_orders as (
    select
        asset_id,
        type,
        is_failure,
        created_at,
        completed_at,
        greatest(created_at, completed_at) as newest_at,
        -- a completion before the creation is bad data: completed, but without a duration
        case when completed_at >= created_at then completed_at - created_at end as duration,
        coalesce(completed_at < created_at, false) as is_bad,
        -- a cancellation after the last instant is still unknown
        case when cancelled_at <= (select last_instant from timeline) then cancelled_at end as cancelled_at,
        created_at <= (select first_instant - interval '720 hours' from timeline)
        and coalesce(completed_at <= (select first_instant from timeline), true)
        and coalesce(cancelled_at > (select last_instant from timeline), true) as is_history
    from work_order_facts
    where
        created_at <= (select last_instant from timeline)
        and coalesce(cancelled_at > (select first_instant from timeline) and cancelled_at > created_at, true)
),

-- most work orders are history at the first instant already: nothing about them changes from there to the last one
history as (
    select
        asset_id,
        type,
        count(*)::integer as created,
        min(created_at) as first_created_at,
        max(newest_at) as newest_at,
        max(completed_at) as completed_at,
        (count(*) filter (where is_failure and duration is not null))::integer as restored,
        sum(duration) filter (where is_failure) as restoration_time
    from counted_work_orders
    where is_history
    group by asset_id, type
),

-- the others in numbers of instants: the first instant at or after t has the number n when n - 1 come before t. An
-- event at t is in the window (as_of - w, as_of] of the instants [t, t + w); a day is 24 hours
numbered_work_orders as (
    select
        asset_id,
        type,
        is_failure,
        created_at,
        completed_at,
        newest_at,
        duration,
        width_bucket(created_at, (select thresholds from timeline)) + 1 as created_n,
        width_bucket(least(created_at + interval '720 hours', cancelled_at), (select thresholds from timeline)) + 1
            as until_30d_n,
        width_bucket(cancelled_at, (select thresholds from timeline)) + 1 as cancelled_n,
        case
            when completed_at is not null then width_bucket(newest_at, (select thresholds from timeline)) + 1
        end as completed_n
    from counted_work_orders
    where not is_history
),

-- downtime ---------------------------------------------------------------------------------------------------

-- overlapping failures cause one downtime; it is the same as of every instant after it. An open end is NULL
downtimes as (
    select
        asset_id,
        lower(down) as down_at,
        upper(down) as up_at,
        width_bucket(lower(down), (select thresholds from timeline)) + 1 as down_n,
        coalesce(width_bucket(upper(down), (select thresholds from timeline)), (select last_n from timeline)) + 1
            as up_n
    from (
        select
            asset_id,
            unnest(range_agg(tstzrange(created_at, completed_at))) as down
        from counted_work_orders
        where is_failure and not is_bad and cancelled_at is null
        group by asset_id
    ) as ranges
),

-- it counts from the installation on
installations as (
    select
        assets.id as asset_id,
        sum(
            extract(epoch from least(downtimes.up_at, assets.installation_date::timestamptz) - downtimes.down_at)
        ) as seconds_down_before
    from assets
    inner join downtimes
        on assets.id = downtimes.asset_id and assets.installation_date::timestamptz > downtimes.down_at
    group by assets.id
),

-- work orders that will be cancelled within the timeline. A failure among them is down from its creation on while it is
-- counted; the time up before that, in seconds since 1970, tells how much this adds to the other downtimes
passing_work_orders as (
    select
        passing.asset_id,
        passing.created_n,
        passing.cancelled_n,
        passing.created_at,
        case
            when passing.is_failure
                then extract(epoch from passing.created_at) - coalesce(
                    sum(extract(epoch from least(downtimes.up_at, passing.created_at) - downtimes.down_at)), 0
                )
        end as seconds_up_before
    from numbered_work_orders as passing
    left join downtimes on passing.asset_id = downtimes.asset_id and passing.created_at > downtimes.down_at
    where passing.cancelled_n <= (select last_n from timeline)
    group by passing.asset_id, passing.is_failure, passing.created_n, passing.cancelled_n, passing.created_at
),

-- alerts and recorded scores -----------------------------------------------------------------------------------

numbered_alerts as (
    select
        asset_id,
        triggered_at::timestamptz as triggered_at,
        (severity = 'critical')::integer as critical,
        width_bucket(triggered_at::timestamptz, (select thresholds from timeline)) + 1 as triggered_n,
        width_bucket(triggered_at::timestamptz + interval '720 hours', (select thresholds from timeline)) + 1
            as until_30d_n
    from alerts
    where
        asset_id is not null
        and triggered_at::timestamptz <= (select last_instant from timeline)
        and triggered_at::timestamptz > (select first_instant - interval '720 hours' from timeline)
),

-- a score is the latest one until the next, and at most for 7 d
recorded_scores as (
    select
        asset_id,
        score,
        calculated_at::timestamptz as calculated_at,
        width_bucket(calculated_at::timestamptz, (select thresholds from timeline)) + 1 as calculated_n,
        width_bucket(
            least(
                calculated_at::timestamptz + interval '168 hours',
                lead(calculated_at::timestamptz) over (
                    partition by asset_id order by calculated_at asc, created_at asc, id asc
                )
            ),
            (select thresholds from timeline)
        ) + 1 as until_n
    from asset_health_scores
    where
        calculated_at::timestamptz <= (select last_instant from timeline)
        and calculated_at::timestamptz > (select first_instant - interval '168 hours' from timeline)
),

-- steps ------------------------------------------------------------------------------------------------------

-- the columns are named once, and in the same order below
-- noqa: disable=aliasing.expression,layout.select_targets,layout.indent
-- +1 at the number from which a fact adds something, -1 at the number from which it does so no longer
events as (
    -- a row of the result
    select
        assets.id as asset_id,
        instants.n,
        instants.as_of,
        null::work_order_type as type,
        null::integer as created,
        null::integer as created_30d,
        null::timestamptz as first_created_at,
        null::timestamptz as newest_at,
        null::timestamptz as completed_at,
        null::integer as restored,
        null::interval as restoration_time,
        null::integer as down,
        null::timestamptz as down_at,
        null::interval as down_time,
        null::timestamptz as passing_at,
        null::numeric as seconds_up_before,
        null::integer as alarms,
        null::integer as critical_alarms,
        null::timestamptz as alarm_at,
        null::integer as score,
        null::timestamptz as scored_at
    from assets
    inner join instants on assets.created_at::timestamptz <= instants.as_of
    where not (assets.status = 'decommissioned' and assets.updated_at::timestamptz <= instants.as_of)
    union all
    select
        asset_id, 1, null, type, created, null, first_created_at, newest_at, completed_at, restored, restoration_time,
        null, null, null, null, null, null, null, null, null, null
    from history
    union all
    -- created, 30 d old, cancelled, completed
    select
        work_orders.asset_id, steps.n, null, work_orders.type, steps.created, steps.created_30d, steps.created_at,
        coalesce(steps.created_at, steps.newest_at), steps.completed_at, steps.restored, steps.restoration_time,
        null, null, null, null, null, null, null, null, null, null
    from numbered_work_orders as work_orders
    cross join lateral (
        values
        (
            created_n, 1, (created_n < until_30d_n)::integer,
            -- one that will be cancelled within the timeline is not there for good
            case when cancelled_n is null then created_at end,
            null::timestamptz, null::timestamptz, null::integer, null::interval
        ),
        (case when created_n < until_30d_n then until_30d_n end, null, -1, null, null, null, null, null),
        (cancelled_n, -1, null, null, null, null, null, null),
        (
            completed_n, null, null, null, newest_at, completed_at, (is_failure and duration is not null)::integer,
            case when is_failure then duration end
        )
    ) as steps (n, created, created_30d, created_at, newest_at, completed_at, restored, restoration_time)
    where steps.n <= (select last_n from timeline)
    union all
    -- at every single instant while it is counted, one that will be cancelled within the timeline
    select
        asset_id, unnest((select numbers from timeline)[created_n:cancelled_n - 1]), null, null, null, null, null, null,
        null, null, null, null, null, null, created_at, seconds_up_before, null, null, null, null, null
    from passing_work_orders
    union all
    -- down, and up again; both within one step where no instant lies between them
    select
        downtimes.asset_id, steps.n, null, null, null, null, null, null, null, null, null,
        steps.down, case when steps.down = 1 then downtimes.down_at end, steps.down_time,
        null, null, null, null, null, null, null
    from downtimes
    cross join lateral (
        values
        (case when down_n < up_n then down_n end, 1, null),
        (up_n, case when down_n < up_n then -1 end, up_at - down_at)
    ) as steps (n, down, down_time)
    where steps.n <= (select last_n from timeline)
    union all
    select
        alerts.asset_id, steps.n, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
        steps.step, steps.step * alerts.critical, alerts.triggered_at, null, null
    from numbered_alerts as alerts
    cross join lateral (values (triggered_n, 1), (until_30d_n, -1)) as steps (n, step)
    where alerts.triggered_n < alerts.until_30d_n and steps.n <= (select last_n from timeline)
    union all
    -- at every single instant, the score of then
    select
        asset_id, unnest((select numbers from timeline)[calculated_n:until_n - 1]), null, null, null, null, null, null,
        null, null, null, null, null, null, null, null, null, null, null, score, calculated_at
    from recorded_scores
    order by asset_id, n
),

-- noqa: enable=all
steps as (
    select
        asset_id,
        n,
        max(as_of) as as_of,
        sum(created)::integer as total,
        (sum(created) filter (where type = 'corrective'))::integer as corrective,
        (sum(created) filter (where type = 'preventive'))::integer as preventive,
        (sum(created) filter (where type in ('corrective', 'emergency')))::integer as failures,
        sum(created_30d)::integer as created_30d,
        (sum(created_30d) filter (where type = 'corrective'))::integer as corrective_30d,
        min(first_created_at) as first_created_at,
        max(newest_at) as newest_at,
        max(completed_at) filter (
            where type in ('preventive', 'predictive', 'corrective', 'emergency')
        ) as last_maintained_at,
        max(completed_at) filter (where type = 'corrective') as last_corrected_at,
        max(completed_at) filter (where type = 'preventive') as last_prevented_at,
        sum(restored)::integer as restored,
        sum(restoration_time) as restoration_time,
        sum(down)::integer as down,
        max(down_at) as down_at,
        sum(down_time) as down_time,
        min(passing_at) as first_passing_at,
        max(passing_at) as last_passing_at,
        min(seconds_up_before) as seconds_up_before,
        sum(alarms)::integer as alarms,
        sum(critical_alarms)::integer as critical_alarms,
        max(alarm_at) as alarm_at,
        max(score) as score,
        max(scored_at) as scored_at
    from events
    group by asset_id, n
),

states as (
    select
        asset_id,
        n,
        as_of,
        sum(total) over so_far as total,
        sum(corrective) over so_far as corrective,
        sum(preventive) over so_far as preventive,
        sum(failures) over so_far as failures,
        sum(created_30d) over so_far as created_30d,
        sum(corrective_30d) over so_far as corrective_30d,
        least(min(first_created_at) over so_far, first_passing_at) as first_created_at,
        greatest(max(newest_at) over so_far, last_passing_at) as newest_at,
        max(last_maintained_at) over so_far as last_maintained_at,
        max(last_corrected_at) over so_far as last_corrected_at,
        max(last_prevented_at) over so_far as last_prevented_at,
        sum(restored) over so_far as restored,
        sum(restoration_time) over so_far as restoration_time,
        sum(down) over so_far as down,
        max(down_at) over so_far as down_at,
        sum(down_time) over so_far as down_time,
        seconds_up_before,
        sum(alarms) over so_far as alarms,
        sum(critical_alarms) over so_far as critical_alarms,
        max(alarm_at) over so_far as alarm_at,
        score,
        scored_at
    from steps
    window so_far as (partition by asset_id order by n rows between unbounded preceding and current row)
),

-- one row per asset --------------------------------------------------------------------------------------------

master_data as (
    select
        assets.id as asset_id,
        assets.tenant_id,
        assets.site_id,
        assets.type,
        assets.status,
        assets.manufacturer,
        assets.model,
        assets.created_at::timestamptz as created_at,
        assets.updated_at::timestamptz as updated_at,
        assets.installation_date::timestamptz as installed_at,
        coalesce(installations.seconds_down_before, 0) as seconds_down_before,
        capacities.kilowatts
    from assets
    left join installations on assets.id = installations.asset_id
    left join capacities on assets.id = capacities.asset_id
),

-- what is known at the instant ---------------------------------------------------------------------------------

known as (
    select
        states.*,
        assets.tenant_id,
        assets.site_id,
        assets.type,
        assets.manufacturer,
        assets.model,
        assets.created_at,
        assets.kilowatts,
        case when assets.updated_at <= states.as_of then assets.status end as status,
        case when assets.updated_at <= states.as_of then assets.updated_at end as updated_at,
        case when assets.installed_at <= states.as_of then assets.installed_at end as installed_at,
        case when assets.installed_at <= states.as_of then assets.seconds_down_before else 0 end as seconds_down_before
    from states
    inner join master_data as assets on states.asset_id = assets.asset_id
    where states.as_of is not null
),

-- the time observed, and of that the time down, up to the instant
observed as (
    select
        *,
        extract(epoch from as_of - greatest(installed_at, least(created_at, first_created_at))) as seconds_observed,
        case
            when seconds_up_before is not null
                then
                    extract(epoch from as_of)
                    - greatest(seconds_up_before, extract(epoch from installed_at) - seconds_down_before)
            else
                extract(
                    epoch from coalesce(down_time, interval '0')
                    + case when down > 0 then as_of - down_at else interval '0' end
                )
        end - seconds_down_before as seconds_down
    from known
)

select
    as_of as event_timestamp,
    asset_id::text as asset_id,
    -- master data
    tenant_id::text as tenant_id,
    site_id::text as site_id,
    type::text as asset_type,
    status::text as asset_status,
    extract(year from age(as_of, installed_at))::integer * 12
    + extract(month from age(as_of, installed_at))::integer as asset_age_months,
    -- maintenance so far; between two instants, days are of 24 hours
    coalesce(total, 0)::integer as total_work_orders,
    coalesce(corrective, 0)::integer as corrective_work_orders,
    coalesce(preventive, 0)::integer as preventive_work_orders,
    extract(day from as_of - last_maintained_at)::integer as days_since_last_maintenance,
    extract(day from as_of - last_corrected_at)::integer as days_since_last_corrective_wo,
    (extract(epoch from restoration_time) / nullif(restored, 0) / 3600)::real as mttr_hours,
    (greatest(seconds_observed - seconds_down, 0) / 3600 / nullif(failures, 0))::real as mtbf_hours,
    -- health
    score::real as health_score,
    coalesce(alarms, 0)::integer as recent_alarms_30d,
    coalesce(critical_alarms, 0)::integer as recent_critical_alarms_30d,
    -- nameplate
    kilowatts::double precision as installed_capacity_kw,
    nullif(manufacturer, '')::text as manufacturer,
    nullif(model, '')::text as model,
    -- inputs of the computed health score that are no features of this view
    coalesce(created_30d, 0)::integer as wo_count_30d,
    coalesce(corrective_30d, 0)::integer as corrective_wo_count_30d,
    extract(day from as_of - last_prevented_at)::integer as days_since_last_preventive_completion,
    -- the newest fact that this row rests on
    greatest(created_at, updated_at, newest_at, case when alarms > 0 then alarm_at end, scored_at) as newest_source_at
from observed
order by observed.asset_id, n

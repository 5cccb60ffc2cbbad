-- asset_features: what an asset is, how it has been maintained so far, and how healthy it is.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: assets, work_orders, work_order_tasks, alerts, asset_health_scores,
--             wind_turbine_metadata (may be missing: the extraction then puts an empty one in its place)
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql:
--                 set timezone = 'UTC'; set feature_store.as_of = '2026-01-01T00:00:00Z';
-- completed   health_score holds the recorded score here; where there is none, features/health_score.py computes
-- in Python   it from this row and the anomalies in ClickHouse
-- owner       ml-platform@dcmms.example

with

instants as (
    select unnest(string_to_array(current_setting('feature_store.as_of'), ','))::timestamptz as as_of
),

existing_assets as (
    select
        instants.as_of,
        assets.id as asset_id,
        assets.tenant_id,
        assets.site_id,
        assets.type,
        assets.manufacturer,
        assets.model,
        assets.created_at::timestamptz as created_at,
        case when assets.updated_at::timestamptz <= instants.as_of then assets.status end as status,
        case
            when assets.updated_at::timestamptz <= instants.as_of then assets.updated_at::timestamptz
        end as updated_at,
        case
            when assets.installation_date::timestamptz <= instants.as_of then assets.installation_date::timestamptz
        end as installed_at,
        case
            when pg_input_is_valid(assets.specifications::text, 'jsonb') then (assets.specifications::text)::jsonb
        end as specifications,
        case
            when pg_input_is_valid(assets.metadata::text, 'jsonb') then (assets.metadata::text)::jsonb
        end as metadata
    from instants
    inner join assets on instants.as_of >= assets.created_at::timestamptz
    where not (assets.status = 'decommissioned' and assets.updated_at::timestamptz <= instants.as_of)
),

-- rated power ------------------------------------------------------------------------------------------------

-- a number, or a text of a number and a unit; the place decides between several readable figures
capacity_texts as (
    select
        existing_assets.as_of,
        existing_assets.asset_id,
        places.place,
        regexp_match(places.figure, '^\s*\+?((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(w|kw|mw)?\s*$', 'i') as parts
    from existing_assets
    left join wind_turbine_metadata using (asset_id)
    cross join lateral (
        values
        (1, existing_assets.specifications ->> 'ratedPowerKw'),
        (2, existing_assets.metadata ->> 'installed_capacity_kw'),
        (3, wind_turbine_metadata.rated_power_mw::text || ' MW')
    ) as places (place, figure)
),

capacity_candidates as (
    select
        as_of,
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
    select distinct on (as_of, asset_id)
        as_of,
        asset_id,
        kilowatts
    from capacity_candidates
    where kilowatts > 0 and pg_input_is_valid(kilowatts::text, 'double precision')
    order by as_of asc, asset_id asc, place asc
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

counted_work_orders as (
    select
        instants.as_of,
        facts.asset_id,
        facts.type,
        facts.is_failure,
        facts.created_at,
        case when facts.completed_at <= instants.as_of then facts.completed_at end as completed_at,
        -- a completion before the creation is bad data: completed, but without a duration
        facts.completed_at <= instants.as_of and facts.completed_at < facts.created_at as is_bad
    from instants
    inner join work_order_facts as facts on instants.as_of >= facts.created_at
    where facts.cancelled_at is null or facts.cancelled_at > instants.as_of
),

maintenance as (
    select
        as_of,
        asset_id,
        count(*) as total,
        count(*) filter (where type = 'corrective') as corrective,
        count(*) filter (where type = 'preventive') as preventive,
        count(*) filter (where is_failure) as failures,
        count(*) filter (where created_at > as_of - interval '720 hours') as created_30d,
        count(*) filter (where type = 'corrective' and created_at > as_of - interval '720 hours') as corrective_30d,
        min(created_at) as first_created_at,
        max(greatest(created_at, completed_at)) as newest_at,
        max(completed_at) filter (
            where type in ('preventive', 'predictive', 'corrective', 'emergency')
        ) as last_maintained_at,
        max(completed_at) filter (where type = 'corrective') as last_corrected_at,
        max(completed_at) filter (where type = 'preventive') as last_prevented_at,
        avg(extract(epoch from completed_at - created_at)) filter (
            where is_failure and not is_bad
        ) as restoration_seconds
    from counted_work_orders
    group by as_of, asset_id
),

observed_assets as (
    select
        existing_assets.as_of,
        existing_assets.asset_id,
        greatest(
            existing_assets.installed_at, least(existing_assets.created_at, maintenance.first_created_at)
        ) as observed_from
    from existing_assets
    left join maintenance using (as_of, asset_id)
),

-- overlapping failures cause one downtime
downtime_ranges as (
    select
        work_orders.as_of,
        work_orders.asset_id,
        unnest(
            range_agg(
                tstzrange(
                    greatest(work_orders.created_at, observed_assets.observed_from),
                    coalesce(work_orders.completed_at, work_orders.as_of)
                )
            )
        ) as down
    from counted_work_orders as work_orders
    inner join observed_assets using (as_of, asset_id)
    where
        work_orders.is_failure
        and work_orders.is_bad is not true
        and coalesce(work_orders.completed_at, work_orders.as_of) > observed_assets.observed_from
    group by work_orders.as_of, work_orders.asset_id
),

downtimes as (
    select
        as_of,
        asset_id,
        sum(extract(epoch from upper(down) - lower(down))) as seconds
    from downtime_ranges
    group by as_of, asset_id
),

-- alerts and recorded scores -----------------------------------------------------------------------------------

alarms as (
    select
        instants.as_of,
        alerts.asset_id,
        count(*) as total,
        count(*) filter (where alerts.severity = 'critical') as critical,
        max(alerts.triggered_at)::timestamptz as newest_at
    from instants
    inner join alerts
        on
            instants.as_of >= alerts.triggered_at::timestamptz
            and instants.as_of - interval '720 hours' < alerts.triggered_at::timestamptz
    where alerts.asset_id is not null
    group by instants.as_of, alerts.asset_id
),

recorded_scores as (
    select distinct on (instants.as_of, scores.asset_id)
        instants.as_of,
        scores.asset_id,
        scores.score,
        scores.calculated_at::timestamptz as newest_at
    from instants
    inner join asset_health_scores as scores
        on
            instants.as_of >= scores.calculated_at::timestamptz
            and instants.as_of - interval '168 hours' < scores.calculated_at::timestamptz
    order by instants.as_of asc, scores.asset_id asc, scores.calculated_at desc, scores.created_at desc, scores.id desc
)

select
    assets.as_of as event_timestamp,
    assets.asset_id::text as asset_id,
    -- master data
    assets.tenant_id::text as tenant_id,
    assets.site_id::text as site_id,
    assets.type::text as asset_type,
    assets.status::text as asset_status,
    extract(year from age(assets.as_of, assets.installed_at))::integer * 12
    + extract(month from age(assets.as_of, assets.installed_at))::integer as asset_age_months,
    -- maintenance so far
    coalesce(maintenance.total, 0)::integer as total_work_orders,
    coalesce(maintenance.corrective, 0)::integer as corrective_work_orders,
    coalesce(maintenance.preventive, 0)::integer as preventive_work_orders,
    floor(extract(epoch from assets.as_of - maintenance.last_maintained_at) / 86400)::integer
        as days_since_last_maintenance,
    floor(extract(epoch from assets.as_of - maintenance.last_corrected_at) / 86400)::integer
        as days_since_last_corrective_wo,
    (maintenance.restoration_seconds / 3600)::real as mttr_hours,
    (
        greatest(
            extract(epoch from assets.as_of - observed_assets.observed_from) - coalesce(downtimes.seconds, 0), 0
        ) / 3600 / nullif(maintenance.failures, 0)
    )::real as mtbf_hours,
    -- health
    recorded_scores.score::real as health_score,
    coalesce(alarms.total, 0)::integer as recent_alarms_30d,
    coalesce(alarms.critical, 0)::integer as recent_critical_alarms_30d,
    -- nameplate
    capacities.kilowatts::double precision as installed_capacity_kw,
    nullif(assets.manufacturer, '')::text as manufacturer,
    nullif(assets.model, '')::text as model,
    -- inputs of the computed health score that are no features of this view
    coalesce(maintenance.created_30d, 0)::integer as wo_count_30d,
    coalesce(maintenance.corrective_30d, 0)::integer as corrective_wo_count_30d,
    floor(extract(epoch from assets.as_of - maintenance.last_prevented_at) / 86400)::integer
        as days_since_last_preventive_completion,
    -- the newest fact that this row rests on
    greatest(
        assets.created_at, assets.updated_at, maintenance.newest_at, alarms.newest_at, recorded_scores.newest_at
    ) as newest_source_at
from existing_assets as assets
inner join observed_assets using (as_of, asset_id)
left join maintenance using (as_of, asset_id)
left join downtimes using (as_of, asset_id)
left join alarms using (as_of, asset_id)
left join recorded_scores using (as_of, asset_id)
left join capacities using (as_of, asset_id)
order by event_timestamp, asset_id

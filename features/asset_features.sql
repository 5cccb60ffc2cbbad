-- asset_features: what an asset is, how it has been maintained so far, and how healthy it is.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: assets, work_orders, work_order_tasks, alerts, asset_health_scores,
--             wind_turbine_metadata (may be missing: the extraction then puts an empty one in its place)
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql, from this folder:
--                 set timezone = 'UTC'; set feature_store.as_of = '2026-01-01T00:00:00Z';
-- method      what is the same as of every instant is found once; the rest for one instant after the other
-- completed   health_score holds the recorded score here; where there is none, features/health_score.py computes
-- in Python   it from this row and the anomalies in ClickHouse
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

-- rated power ------------------------------------------------------------------------------------------------

-- what is no JSON holds no figure
readable_assets as (
    select
        id as asset_id,
        case
            when pg_input_is_valid(specifications::text, 'jsonb') then (specifications::text)::jsonb
        end as specifications,
        case when pg_input_is_valid(metadata::text, 'jsonb') then (metadata::text)::jsonb end as metadata
    from assets
),

-- a number, or a text of a number and a unit; the place decides between several readable figures. Materialized, or
-- every use of the parts would match again
capacity_texts as materialized (
    select
        asset_id,
        places.place,
        regexp_match(
            places.figure collate "C",
            '^[ \t\u00a0\u2009]*\+?((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)'
            '[ \t\u00a0\u2009]*(?:([kmg]?w)(?:p|ac|dc)?)?[ \t\u00a0\u2009]*$',
            'i'
        ) as parts
    from readable_assets
    left join wind_turbine_metadata using (asset_id)
    cross join lateral (
        values
        (1, readable_assets.specifications ->> 'ratedPowerKw'),
        (2, readable_assets.metadata ->> 'installed_capacity_kw'),
        (3, wind_turbine_metadata.rated_power_mw::text || ' MW')
    ) as places (place, figure)
),

capacity_candidates as (
    select
        asset_id,
        place,
        -- a figure that no double can hold is no figure
        case
            when pg_input_is_valid(parts[1], 'double precision') and pg_input_is_valid(parts[1], 'numeric')
                then
                    parts[1]::numeric
                    * case lower(parts[2]) when 'w' then 0.001 when 'mw' then 1000 when 'gw' then 1000000 else 1 end
        end as kilowatts
    from capacity_texts
    where parts is not null
),

capacities as materialized (
    select distinct on (asset_id)
        asset_id,
        kilowatts
    from capacity_candidates
    where kilowatts > 0 and pg_input_is_valid(kilowatts::text, 'double precision')
    order by asset_id asc, place asc
),

-- as of every instant ----------------------------------------------------------------------------------------

-- a completion before the creation is bad data: completed, but without a duration
histories as materialized (
    select
        asset_id,
        counted_from,
        counted_until,
        completed_from,
        count(*)::integer as total,
        (count(*) filter (where type = 'corrective'))::integer as corrective,
        (count(*) filter (where type = 'preventive'))::integer as preventive,
        (count(*) filter (where is_failure))::integer as failures,
        min(created_at) as first_at,
        max(created_at) as last_at,
        min(created_at) filter (where is_failure and counted_until < 'infinity') as passing_failure_at,
        max(completed_at) filter (
            where type in ('preventive', 'predictive', 'corrective', 'emergency')
        ) as maintained_at,
        max(completed_at) filter (where type = 'corrective') as corrected_at,
        max(completed_at) filter (where type = 'preventive') as prevented_at,
        max(greatest(created_at, completed_at)) filter (where completed_at is not null) as last_completed_at,
        (count(*) filter (where is_failure and completed_at >= created_at))::integer as restored,
        sum(extract(epoch from completed_at - created_at)) filter (
            where is_failure and completed_at >= created_at
        ) as restoration_seconds
    from counted_work_orders
    group by asset_id, counted_from, counted_until, completed_from
),

-- overlapping failures cause one downtime, which is the same as of every instant after it; an open end is NULL
downtime_ranges as (
    select
        asset_id,
        unnest(range_agg(tstzrange(created_at, completed_at))) as down
    from counted_work_orders
    where is_failure and coalesce(completed_at >= created_at, true) and counted_until = 'infinity'
    group by asset_id
),

-- one row tells the time down until any moment before the next one begins
downtimes as materialized (
    select
        asset_id,
        lower(down) as down_at,
        upper(down) as up_at,
        lead(lower(down), 1, 'infinity') over ranges as next_down_at,
        coalesce(
            sum(upper(down) - lower(down)) over (ranges rows between unbounded preceding and 1 preceding), interval '0'
        ) as time_down_before
    from downtime_ranges
    window ranges as (partition by asset_id order by lower(down))
),

-- the time down before the installation is not observed
installations as materialized (
    select
        assets.asset_id,
        downtimes.time_down_before + (least(downtimes.up_at, assets.installed_at) - downtimes.down_at)
            as time_down_before
    from asset_facts as assets
    inner join downtimes
        on
            assets.asset_id = downtimes.asset_id
            and assets.installed_at >= downtimes.down_at
            and assets.installed_at < downtimes.next_down_at
),

recent_work_orders as materialized (
    select
        asset_id,
        type,
        created_at,
        counted_until
    from counted_work_orders
    where created_at > (select min(instants.since_30d) from instants)
),

recent_alerts as materialized (
    select
        asset_id,
        severity,
        triggered_at::timestamptz as triggered_at
    from alerts
    where asset_id is not null and triggered_at::timestamptz > (select min(instants.since_30d) from instants)
),

recent_scores as materialized (
    select
        asset_id,
        score,
        calculated_at::timestamptz as calculated_at,
        lead(calculated_at::timestamptz, 1, 'infinity') over (
            partition by asset_id order by calculated_at asc, created_at asc, id asc
        ) as next_calculated_at
    from asset_health_scores
    where score between 0 and 100 and calculated_at::timestamptz > (select min(instants.since_7d) from instants)
)

-- as of one instant ------------------------------------------------------------------------------------------

select features.*
from instants
cross join lateral (
    with

    existing_assets as (:existing_assets),

    so_far as (
        select
            asset_id,
            sum(total) as total,
            sum(corrective) as corrective,
            sum(preventive) as preventive,
            sum(failures) as failures,
            min(first_at) as first_at,
            max(last_at) as last_at,
            min(passing_failure_at) as passing_failure_at,
            max(maintained_at) filter (where completed_from <= instants.as_of) as maintained_at,
            max(corrected_at) filter (where completed_from <= instants.as_of) as corrected_at,
            max(prevented_at) filter (where completed_from <= instants.as_of) as prevented_at,
            max(last_completed_at) filter (where completed_from <= instants.as_of) as last_completed_at,
            sum(restored) filter (where completed_from <= instants.as_of) as restored,
            sum(restoration_seconds) filter (where completed_from <= instants.as_of) as restoration_seconds
        from histories
        where counted_from <= instants.as_of and counted_until > instants.as_of
        group by asset_id
    ),

    -- from a failure on that will be cancelled, an asset is down as long as that counts
    observed_assets as (
        select
            *,
            greatest(installed_at, least(created_at, first_at)) as observed_from,
            least(instants.as_of, passing_failure_at) as operated_until
        from existing_assets
        left join so_far using (asset_id)
    ),

    created as (
        select
            asset_id,
            count(*) as total_30d,
            count(*) filter (where type = 'corrective') as corrective_30d
        from recent_work_orders
        where
            created_at > instants.since_30d
            and created_at <= instants.as_of
            and counted_until > instants.as_of
        group by asset_id
    ),

    alarms as (
        select
            asset_id,
            count(*) as total,
            count(*) filter (where severity = 'critical') as critical,
            max(triggered_at) as last_at
        from recent_alerts
        where triggered_at > instants.since_30d and triggered_at <= instants.as_of
        group by asset_id
    ),

    recorded_scores as (
        select
            asset_id,
            score,
            calculated_at
        from recent_scores
        where
            calculated_at > instants.since_7d
            and calculated_at <= instants.as_of
            and next_calculated_at > instants.as_of
    )

    select
        instants.as_of as event_timestamp,
        assets.asset_id::text as asset_id,
        -- master data
        assets.tenant_id::text as tenant_id,
        assets.site_id::text as site_id,
        assets.type::text as asset_type,
        assets.status::text as asset_status,
        extract(year from age(instants.as_of, assets.installed_at))::integer * 12
        + extract(month from age(instants.as_of, assets.installed_at))::integer as asset_age_months,
        -- maintenance so far; between two instants, days are of 24 hours
        coalesce(assets.total, 0)::integer as total_work_orders,
        coalesce(assets.corrective, 0)::integer as corrective_work_orders,
        coalesce(assets.preventive, 0)::integer as preventive_work_orders,
        extract(day from instants.as_of - assets.maintained_at)::integer as days_since_last_maintenance,
        extract(day from instants.as_of - assets.corrected_at)::integer as days_since_last_corrective_wo,
        (assets.restoration_seconds / nullif(assets.restored, 0) / 3600)::real as mttr_hours,
        (
            greatest(
                extract(
                    epoch from assets.operated_until - assets.observed_from
                    + coalesce(installations.time_down_before, interval '0')
                    - coalesce(downtimes.time_down_before, interval '0')
                    - coalesce(least(downtimes.up_at, assets.operated_until) - downtimes.down_at, interval '0')
                ),
                0
            ) / 3600 / nullif(assets.failures, 0)
        )::real as mtbf_hours,
        -- health
        scores.score::real as health_score,
        coalesce(alarms.total, 0)::integer as recent_alarms_30d,
        coalesce(alarms.critical, 0)::integer as recent_critical_alarms_30d,
        -- nameplate
        capacities.kilowatts::double precision as installed_capacity_kw,
        nullif(assets.manufacturer, '')::text as manufacturer,
        nullif(assets.model, '')::text as model,
        -- inputs of the computed health score that are no features of this view
        coalesce(created.total_30d, 0)::integer as wo_count_30d,
        coalesce(created.corrective_30d, 0)::integer as corrective_wo_count_30d,
        extract(day from instants.as_of - assets.prevented_at)::integer as days_since_last_preventive_completion,
        -- the newest fact that this row rests on
        nullif(
            greatest(
                assets.created_at,
                assets.updated_at,
                assets.last_at,
                assets.last_completed_at,
                alarms.last_at,
                scores.calculated_at,
                '0001-01-01'
            ),
            '0001-01-01'
        ) as newest_source_at
    from observed_assets as assets
    left join created using (asset_id)
    left join alarms using (asset_id)
    left join recorded_scores as scores using (asset_id)
    left join capacities using (asset_id)
    left join installations on assets.asset_id = installations.asset_id and assets.installed_at is not null
    left join downtimes
        on
            assets.asset_id = downtimes.asset_id
            and assets.operated_until >= downtimes.down_at
            and assets.operated_until < downtimes.next_down_at
) as features

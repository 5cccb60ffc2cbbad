-- failure_within_7d: the label of predictive maintenance, whether an asset fails within a week of an instant.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: assets, work_orders
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql:
--                 set timezone = 'UTC'; set feature_store.as_of = '2025-12-01T00:00:00Z';
-- looks ahead 1 where a corrective or emergency work order was created in (as-of, as-of + 7 d] and not cancelled
--             since, else 0: wrong for an instant whose 7 d are not over yet, so do not ask for one
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

failures as (
    select
        asset_id,
        created_at::timestamptz as created_at
    from work_orders
    where asset_id is not null and type in ('corrective', 'emergency') and status <> 'cancelled'
),

failing_assets as (
    select distinct
        instants.as_of,
        failures.asset_id
    from instants
    inner join failures
        on instants.as_of < failures.created_at and instants.as_of + interval '168 hours' >= failures.created_at
)

select
    lower(existing_assets.asset_id::text) as asset_id,
    existing_assets.as_of as event_timestamp,
    (failing_assets.asset_id is not null)::int4 as failure_within_7d
from existing_assets
left join failing_assets using (as_of, asset_id)

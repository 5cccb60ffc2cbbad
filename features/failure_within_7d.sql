-- failure_within_7d: the label of predictive maintenance, whether an asset fails within a week of an instant.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: assets, work_orders
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql, from this folder:
--                 set timezone = 'UTC'; set feature_store.as_of = '2025-12-01T00:00:00Z';
-- looks ahead 1 where a corrective or emergency work order was created in (as-of, as-of + 7 d] and not cancelled
--             since, else 0: wrong for an instant whose 7 d are not over yet, so do not ask for one
-- owner       ml-platform@dcmms.example

\set instants `cat shared/instants.sql`
\set asset_facts `cat shared/asset_facts.sql`
\set existing_assets `cat shared/existing_assets.sql`
\set work_order_facts `cat shared/work_order_facts.sql`

with

instants as (:instants),

asset_facts as (:asset_facts),

work_order_facts as (:work_order_facts),

failing_assets as (
    select distinct
        instants.as_of,
        failures.asset_id
    from instants
    inner join work_order_facts as failures
        on instants.as_of < failures.created_at and instants.as_of + interval '168 hours' >= failures.created_at
    where failures.is_failure and failures.cancelled_at is null
)

select
    lower(assets.asset_id::text) as asset_id,
    instants.as_of as event_timestamp,
    (failing_assets.asset_id is not null)::int4 as failure_within_7d
from instants
cross join lateral (:existing_assets) as assets
left join failing_assets on instants.as_of = failing_assets.as_of and assets.asset_id = failing_assets.asset_id

-- undated_rows: the rows of assets that count nowhere, because their own date is missing or infinite.
--
-- grain       one row
-- source      PostgreSQL of dCMMS: assets, work_orders, alerts
-- parameters  none: such a row counts as of no instant
select
    (
        select count(*) from assets
        where created_at is null or created_at in ('-infinity', 'infinity')
    ) as assets,
    (
        select count(*) from work_orders
        where asset_id is not null and (created_at is null or created_at in ('-infinity', 'infinity'))
    ) as work_orders,
    (
        select count(*) from alerts
        where asset_id is not null and (triggered_at is null or triggered_at in ('-infinity', 'infinity'))
    ) as alerts

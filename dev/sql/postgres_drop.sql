-- Removes what the other PostgreSQL files create, whichever variant it is.

drop table if exists
    tenants, sites, assets, work_orders, work_order_tasks, alerts, asset_health_scores, wind_turbine_metadata cascade;

drop type if exists
    asset_type, asset_status, work_order_type, work_order_priority, work_order_status, alert_severity, alert_status
    cascade;

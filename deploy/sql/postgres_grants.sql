-- What postgres_extraction.sql grants: the columns that the queries read, and no more.
-- Generated: python -m pipeline.sources.columns > deploy/sql/postgres_grants.sql

grant select (asset_id, resolved_at, rule_id, severity, tenant_id, triggered_at) on alerts to :"role";

grant select (asset_id, calculated_at, created_at, id, score) on asset_health_scores to :"role";

grant select (created_at, id, installation_date, manufacturer, metadata, model, site_id, specifications, status, tenant_id, type, updated_at) on assets to :"role";

select format('grant select (asset_id, rated_power_mw) on wind_turbine_metadata to %I', :'role')
where to_regclass('wind_turbine_metadata') is not null
\gexec

grant select (completed_at, work_order_id) on work_order_tasks to :"role";

grant select (actual_end, asset_id, created_at, id, priority, scheduled_end, status, type, updated_at) on work_orders to :"role";

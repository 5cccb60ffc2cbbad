-- The secondary indexes of variant t; variant n has primary keys only.

create index on sites (tenant_id);
create index on sites (site_id);

create index on assets (tenant_id);
create index on assets (site_id);
create index on assets (asset_id);
create index on assets (status);

create index on work_orders (tenant_id);
create index on work_orders (site_id);
create index on work_orders (asset_id);
create index on work_orders (status);

create index on alerts (tenant_id);
create index on alerts (site_id);
create index on alerts (asset_id);
create index on alerts (status);

create index on asset_health_scores (asset_id);

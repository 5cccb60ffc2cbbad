-- The tables of dCMMS that the feature store reads, in one of its two production variants.
--
-- Placeholders, filled in by dev/schema.py:
--   ${instant}    timestamp (variant n, UTC wall clock) or timestamptz (variant t)
--   ${json}       text (variant n, may hold anything) or jsonb (variant t)
--   ${install}    timestamp (variant n) or date (variant t)
--   ${energy}     the column sites.energy_type (variant n) or nothing (variant t)
--
-- No foreign keys: nothing that is read depends on them, and a test can insert one row alone.

create type asset_type as enum (
    'inverter', 'transformer', 'panel', 'disconnector', 'meter', 'turbine', 'access_point', 'gateway',
    'weather_station', 'sensor', 'other'
);
create type asset_status as enum ('operational', 'degraded', 'down', 'maintenance', 'decommissioned');
create type work_order_type as enum ('corrective', 'preventive', 'predictive', 'inspection', 'emergency');
create type work_order_priority as enum ('critical', 'high', 'medium', 'low');
create type work_order_status as enum (
    'draft', 'open', 'scheduled', 'in_progress', 'on_hold', 'completed', 'closed', 'cancelled'
);
create type alert_severity as enum ('critical', 'high', 'medium', 'low', 'info');
create type alert_status as enum ('active', 'acknowledged', 'resolved', 'suppressed');

create table tenants (
    id uuid primary key default gen_random_uuid(),
    tenant_id varchar(50) not null unique,
    name varchar(255) not null default '',
    is_active boolean not null default true,
    created_at ${instant} not null default now(),
    updated_at ${instant} not null default now()
);

create table sites (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null,
    site_id varchar(50) not null default '',
    name varchar(255) not null default '',
    type varchar(50) not null default '',
    ${energy}
    capacity_mw numeric(10, 2),
    timezone varchar(50),
    is_active boolean not null default true,
    created_at ${instant} not null default now(),
    updated_at ${instant} not null default now()
);

create table assets (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null,
    site_id uuid not null,
    parent_asset_id uuid,
    asset_id varchar(100) not null default '',
    name varchar(255) not null default '',
    type asset_type not null,
    manufacturer varchar(255),
    model varchar(255),
    serial_number varchar(255),
    installation_date ${install},
    warranty_expiry_date ${install},
    status asset_status not null default 'operational',
    specifications ${json} not null default '{}',
    metadata ${json} not null default '{}',
    created_at ${instant} not null default now(),
    updated_at ${instant} not null default now()
);

create table work_orders (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null,
    site_id uuid not null,
    asset_id uuid,
    work_order_id varchar(50) not null default '',
    title varchar(255) not null default '',
    description text,
    type work_order_type not null,
    priority work_order_priority not null default 'medium',
    status work_order_status not null default 'draft',
    assigned_to uuid,
    created_by uuid not null default gen_random_uuid(),
    scheduled_start ${instant},
    scheduled_end ${instant},
    actual_start ${instant},
    actual_end ${instant},
    estimated_hours numeric(10, 2),
    actual_hours numeric(10, 2),
    version integer not null default 1,
    metadata ${json} not null default '{}',
    created_at ${instant} not null default now(),
    updated_at ${instant} not null default now()
);

create table work_order_tasks (
    id uuid primary key default gen_random_uuid(),
    work_order_id uuid not null,
    task_order integer not null default 1,
    title varchar(255) not null default '',
    is_completed boolean not null default false,
    completed_at ${instant},
    created_at ${instant} not null default now(),
    updated_at ${instant} not null default now()
);

create table alerts (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null,
    site_id uuid not null,
    asset_id uuid,
    alert_id varchar(50) not null default '',
    title varchar(255) not null default '',
    severity alert_severity not null,
    status alert_status not null default 'active',
    rule_id uuid,
    triggered_at ${instant} not null default now(),
    acknowledged_at ${instant},
    resolved_at ${instant},
    metadata ${json} not null default '{}',
    created_at ${instant} not null default now(),
    updated_at ${instant} not null default now()
);

-- Its times are naive in both variants.
create table asset_health_scores (
    id uuid primary key default gen_random_uuid(),
    asset_id uuid not null,
    score integer not null,
    category varchar(20) not null default 'good',
    calculated_at timestamp not null default now(),
    created_at timestamp not null default now()
);

-- An add-on of dCMMS that not every installation has. ${instant} as in postgres.sql.

create table wind_turbine_metadata (
    id uuid primary key default gen_random_uuid(),
    asset_id uuid not null unique,
    rated_power_mw numeric(6, 3),
    hub_height_m numeric(6, 2),
    rotor_diameter_m numeric(6, 2),
    created_at ${instant} not null default now(),
    updated_at ${instant} not null default now()
);

-- telemetry_metrics: the names under which data loggers report a quantity, the preferred one first.
--
-- grain       one row: power_names; names, all of them, power first; quantities, that of each of the names
-- owner       ml-platform@dcmms.example

with [
    -- add a site's own alias here
    ('power', 'power_kw'),
    ('power', 'active_power_kw'),
    ('power', 'power_output_kw'),
    ('power', 'power_generation'),
    ('voltage', 'voltage_v'),
    ('voltage', 'voltage'),
    ('current', 'current_a'),
    ('current', 'current'),
    ('temperature', 'temperature_c'),
    ('temperature', 'temperature'),
    ('frequency', 'frequency_hz'),
    ('frequency', 'grid_frequency_hz')
] as aliases
select
    arrayMap(alias -> alias.1, aliases) as quantities,
    arrayMap(alias -> alias.2, aliases) as names,
    arrayFilter((name, quantity) -> quantity = 'power', names, quantities) as power_names

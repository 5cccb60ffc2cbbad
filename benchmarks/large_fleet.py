"""A large fleet, generated inside the engines: plain rows without dirt, as many as asked for."""

from contextlib import closing

import clickhouse_connect
import psycopg2

from dev.schema import create_clickhouse_schema, create_postgres_schema

# Asset a belongs to site a / 100; ids are the number as a uuid, so that both databases agree without a look-up.
_POSTGRES = """
insert into assets (id, tenant_id, site_id, asset_id, name, type, status, installation_date, specifications,
                    created_at, updated_at)
select
    lpad(to_hex(a), 32, '0')::uuid, lpad('a', 32, '0')::uuid, lpad(to_hex(a / 100), 32, '0')::uuid,
    'A-' || a, 'Asset ' || a, 'inverter', 'operational', timestamp '2018-01-01' + a %% 1000 * interval '1 day',
    '{"ratedPowerKw": 1200}', timestamp '2018-01-01', timestamp '2018-01-01'
from generate_series(0, %(assets)s - 1) as a;

insert into work_orders (id, tenant_id, site_id, asset_id, title, type, priority, status, created_by,
                         scheduled_end, actual_end, created_at, updated_at)
select
    lpad(to_hex(w), 32, '0')::uuid, lpad('a', 32, '0')::uuid, lpad('0', 32, '0')::uuid,
    lpad(to_hex(w %% %(assets)s), 32, '0')::uuid, 'Work order ' || w,
    (array['corrective', 'preventive', 'predictive', 'inspection', 'emergency'])[1 + w / 7 %% 5]::work_order_type,
    (array['critical', 'high', 'medium', 'low'])[1 + w / 11 %% 4]::work_order_priority,
    (array['completed', 'completed', 'closed', 'open', 'cancelled'])[1 + w / 13 %% 5]::work_order_status,
    lpad('a', 32, '0')::uuid, created_at + interval '5 days',
    case when w %% 3 = 0 then created_at + interval '30 hours' end, created_at, created_at + interval '3 days'
from (
    select w, timestamp '2026-01-01' - (hashint4(w)::bigint + 2147483648) %% (1100 * 86400) * interval '1 second'
        as created_at
    from generate_series(0, %(work_orders)s - 1) as w
) as numbered;

insert into work_order_tasks (work_order_id, task_order, title, is_completed, completed_at)
select id, 1, 'Task', true, created_at + interval '20 hours' from work_orders where status = 'completed';

insert into alerts (tenant_id, site_id, asset_id, title, severity, status, rule_id, triggered_at, resolved_at)
select
    lpad('a', 32, '0')::uuid, lpad('0', 32, '0')::uuid, lpad(to_hex(n %% %(assets)s), 32, '0')::uuid, 'Alert',
    (array['critical', 'high', 'medium', 'low', 'info'])[1 + n / 3 %% 5]::alert_severity, 'active',
    case when n %% 10 > 0 then lpad(to_hex(n / 7 %% 2000), 32, '0')::uuid end, triggered_at,
    case when n %% 50 > 0 then triggered_at + n %% 100 * interval '30 minutes' end
from (
    select n, timestamp '2026-01-01' - (hashint4(n)::bigint + 2147483648) %% (400 * 86400) * interval '1 second'
        as triggered_at
    from generate_series(0, %(alerts)s - 1) as n
) as numbered;

analyze;
"""

_CLICKHOUSE = """
insert into telemetry_aggregates
select
    toUUID(concat(substring(key, 1, 8), '-', substring(key, 9, 4), '-', substring(key, 13, 4), '-',
                  substring(key, 17, 4), '-', substring(key, 21))) as asset_id,
    toUUID('00000000-0000-0000-0000-00000000000a') as tenant_id,
    toUUID(concat('00000000-0000-0000-0000-', leftPad(lower(hex(toUInt32(intDiv(asset, 100)))), 12, '0'))) as site_id,
    metric as metric_name,
    toDateTime('2026-01-01 00:00:00', 'UTC') - toIntervalHour(hour + 1) as time_bucket,
    value as avg_value, value * 0.9 as min_value, value * 1.1 as max_value, value * 60 as sum_value, 60 as count,
    value * 0.05 as stddev_value, value as p50_value, value * 1.05 as p95_value, value * 1.08 as p99_value,
    if(cityHash64(n) % 200 = 0, 1, 0) as anomaly_count
from (
    select
        number as n,
        intDiv(n, 5 * {hours:UInt32}) as asset,
        leftPad(lower(hex(toUInt32(asset))), 32, '0') as key,
        n % {hours:UInt32} as hour,
        ['power_kw', 'voltage_v', 'current_a', 'temperature_c', 'frequency_hz'][
            intDiv(n, {hours:UInt32}) % 5 + 1
        ] as metric,
        multiIf(
            metric = 'power_kw', greatest(0, sin(hour / 24 * 6.283) * 1000 + cityHash64(n) % 100),
            metric = 'voltage_v', 400 + cityHash64(n) % 10,
            metric = 'frequency_hz', 50 + cityHash64(n) % 100 / 1000,
            cityHash64(n) % 1000 / 10
        ) as value
    from numbers(toUInt64({assets:UInt32}) * 5 * {hours:UInt32})
)
settings max_insert_threads = 2
"""


def load_large_fleet(
    database_url: str, clickhouse_dsn: str, *, assets: int, days: int, work_orders: int, alerts: int
) -> None:
    """Create both schemas anew and fill them: hourly telemetry of five metrics for `days` before 2026-01-01 UTC.

    A work order falls on each asset in turn, over the 1,100 days before; alerts, of 2,000 rules, over 400 days.
    """
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("set local timezone to 'UTC'")
        create_postgres_schema(connection, "n", replace=True)
        cursor.execute(
            _POSTGRES,
            {"assets": assets, "work_orders": work_orders, "alerts": alerts},
        )
    with closing(clickhouse_connect.get_client(dsn=clickhouse_dsn)) as client:
        create_clickhouse_schema(client, replace=True)
    with closing(clickhouse_connect.get_client(dsn=clickhouse_dsn, database="dcmms_analytics")) as client:
        client.command(_CLICKHOUSE, parameters={"assets": assets, "hours": days * 24})

"""Telemetry on several shards: a Distributed table of another name gives the rows of the one table, bit for bit."""

from collections.abc import Iterator
from contextlib import closing

import clickhouse_connect
import pytest

from dev.schema import create_clickhouse_schema
from pipeline.base.settings import Settings
from pipeline.operations.doctor.check import State
from pipeline.operations.doctor.clickhouse import check_clickhouse
from pipeline.sources.clickhouse import open_clickhouse
from pipeline.sources.telemetry import read_telemetry, site_groups
from tests.clickhouse_http import ClickHouseHttpFront
from tests.dcmms import T, ago

EVERYWHERE = "telemetry_everywhere"
# Both are this engine, and each shows the rows of its own number.
CLUSTER = """
<clickhouse>
    <tcp_port>9000</tcp_port>
    <remote_servers><fleet>
        <shard><replica><host>localhost</host><port>9000</port></replica></shard>
        <shard><replica><host>localhost</host><port>9000</port></replica></shard>
    </fleet></remote_servers>
</clickhouse>
"""
SHARD = """
create view dcmms_analytics.telemetry_of_shard as
select * from dcmms_analytics.telemetry_aggregates where cityHash64(asset_id) % 2 + 1 = shardNum()
"""
DISTRIBUTED = f"""
create table dcmms_analytics.{EVERYWHERE} as dcmms_analytics.telemetry_aggregates
engine = Distributed(fleet, dcmms_analytics, telemetry_of_shard)
"""
# 16 assets at 8 sites, hourly for 35 d, six metrics; every 50th bucket twice, the second copy of more samples.
FILL = """
insert into dcmms_analytics.telemetry_aggregates (
    tenant_id, site_id, asset_id, metric_name, time_bucket,
    avg_value, min_value, max_value, sum_value, count, stddev_value, anomaly_count
)
select
    toUUID('00000000-0000-4000-8000-000000000001') as tenant_id,
    toUUID(concat('00000000-0000-4000-8000-0000000001', leftPad(toString(asset % 8), 2, '0'))) as site_id,
    toUUID(concat('00000000-0000-4000-8000-0000000002', leftPad(toString(asset), 2, '0'))) as asset_id,
    ['power_kw', 'voltage', 'current_a', 'temperature_c', 'frequency_hz', 'humidity'][metric + 1] as metric_name,
    toDateTime('{newest}', 'UTC') - (hour + 1) * 3600 as time_bucket,
    round(sin(asset + metric) * 40 + sin(hour / 24) * 60 + 30, 6) as avg_value,
    avg_value - 3 as min_value,
    avg_value + 5 as max_value,
    avg_value * count as sum_value,
    toUInt32(60 + copy) as count,
    2.5 as stddev_value,
    toUInt32((asset + hour) % 37 = 0) as anomaly_count
from
(
    select
        number % 16 as asset,
        intDiv(number, 16) % 6 as metric,
        intDiv(number, 96) as hour,
        arrayJoin(range(1 + (number % 50 = 0))) as copy
    from numbers(96 * 24 * 35)
)
"""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseHttpFront]:
    """A table, two shards with a part of its rows each, and the Distributed table over both."""
    directory = tmp_path_factory.mktemp("distributed")
    config = directory / "config.xml"
    config.write_text(CLUSTER)
    with ClickHouseHttpFront(directory / "engine", config=config) as front:
        with closing(clickhouse_connect.get_client(host=front.host, port=front.port)) as client:
            create_clickhouse_schema(client, "dcmms_analytics")
            client.command(FILL.format(newest=f"{T:%Y-%m-%d %H:%M:%S}"))
            client.command(SHARD)
            client.command(DISTRIBUTED)
        yield front


def settings_of(front: ClickHouseHttpFront, **changes: str) -> Settings:
    return Settings(database_url="postgresql://nobody@127.0.0.1/none", clickhouse_host=front.url, **changes)


def test_each_shard_has_a_part_of_the_rows(front: ClickHouseHttpFront) -> None:
    with closing(clickhouse_connect.get_client(host=front.host, port=front.port, database="dcmms_analytics")) as client:
        shards = client.query(f"select _shard_num, count() from {EVERYWHERE} group by 1 order by 1").result_rows
        rows = client.command("select count() from telemetry_aggregates")
    assert [number for number, _ in shards] == [1, 2]
    assert min(count for _, count in shards) > 10_000
    assert sum(count for _, count in shards) == rows


def test_rows_are_those_of_the_one_table(front: ClickHouseHttpFront) -> None:
    found, groups = [], []
    for changes in ({}, {"clickhouse_table": EVERYWHERE}):
        with open_clickhouse(settings_of(front, **changes)) as source:
            groups.append(site_groups(source, ago(90), T, rows_per_group=30_000))
            # one pass gives recent_telemetry_features, too
            found.append(read_telemetry(source, "telemetry_features", [T], 3600).sort_by("asset_id"))
    one, distributed = found
    assert one.num_rows == 16
    assert distributed.equals(one)
    assert groups[0] == groups[1] and len(groups[0]) > 1


def test_the_doctor_looks_at_the_table_that_is_set(front: ClickHouseHttpFront) -> None:
    checks = list(check_clickhouse(settings_of(front, clickhouse_table=EVERYWHERE), T))
    assert {check.state for check in checks} <= {State.OK, State.WARNING}
    assert f"{EVERYWHERE} with every column that is read" in [check.text for check in checks]
    checks = list(check_clickhouse(settings_of(front, clickhouse_table="nowhere"), T))
    (fault,) = [check for check in checks if check.state == State.FAILS]
    assert "has no nowhere" in fault.text and "CLICKHOUSE_TABLE" in fault.fix

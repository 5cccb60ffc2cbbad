"""A fleet at two instants, real servers, and what a reader may see of a run from A to B that is disturbed.

The snapshots of A are published; the run for B is killed, or its connections are. Whatever happens, a reader finds
each snapshot file whole and each online row entirely of one run, and the next run ends exactly where an undisturbed one
does.
"""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import clickhouse_connect
import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.online_stores.helpers import _mmh3
from prometheus_client.parser import text_string_to_metric_families
from psycopg2 import sql
from redis import Redis

from dev.schema import create_clickhouse_schema, create_postgres_schema
from dev.servers import PostgresServer, RedisServer, free_port
from dev.stack import ensure_database
from pipeline import REPOSITORY
from pipeline.base.specs import VIEWS
from pipeline.registry.feast_store import open_feature_store
from tests.dcmms import T
from tests.faults.worker import Commands, Outcome
from tests.stores import apply_definitions, is_written, write_feature_store_yaml

A, B = T - timedelta(days=20), T
_DATABASE = "dcmms_analytics"
_REGISTRY, _PREPARED_REGISTRY = "feast_faults", "feast_faults_prepared"
# Redis has 16 numbered databases: the online store, and the state before a run to copy from.
_ONLINE, _PREPARED_ONLINE = 0, 1

# Of 1,300 assets 100 come and 80 go between A and B.
_FLEET = """
insert into assets (id, tenant_id, site_id, asset_id, type, status, specifications, created_at, updated_at)
select
    ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, gen_random_uuid(), gen_random_uuid(), n::text,
    'inverter', (case when n <= 80 then 'decommissioned' else 'operational' end)::asset_status,
    '{"ratedPowerKw": 500}',
    %(b)s - (case when n > 1200 then 10 else 100 + n end) * interval '1 day', %(b)s - interval '5 days'
from generate_series(1, 1300) as n;

insert into work_orders
    (tenant_id, site_id, asset_id, type, priority, status, created_by, created_at, updated_at, actual_start, actual_end)
select
    tenant_id, site_id, id, (array['corrective', 'preventive', 'emergency'])[1 + k %% 3]::work_order_type, 'high',
    'completed', tenant_id, at, at + interval '2 days', at + interval '1 day', at + interval '2 days'
from
    assets, generate_series(0, 5) as k,
    lateral (select %(b)s - (k * 9 + 3) * interval '1 day' - asset_id::int * interval '1 minute') as w (at)
where at > created_at;

insert into alerts (tenant_id, site_id, asset_id, title, severity, status, triggered_at)
select
    tenant_id, site_id, id, 'Alert', (array['critical', 'high', 'low'])[1 + k %% 3]::alert_severity, 'active', at
from
    assets, generate_series(0, 7) as k,
    lateral (select %(b)s - (k * 5 + 2) * interval '1 day' - asset_id::int * interval '1 minute') as w (at)
where at > created_at;
"""
# A day before A and a day before B of each; 20 assets have one only that is older than 90 d at B.
_TELEMETRY = """
insert into telemetry_aggregates (asset_id, tenant_id, site_id, metric_name, time_bucket, avg_value, min_value,
    max_value, sum_value, count, stddev_value, p50_value, p95_value, p99_value, anomaly_count)
select
    toUUID(concat('00000000-0000-4000-8000-', leftPad(lower(hex(number + 1)), 12, '0'))),
    toUUID('00000000-0000-4000-8000-00000000000a'), toUUID('00000000-0000-4000-8000-00000000000b'), metric,
    toDateTime({b:DateTime64(6, 'UTC')}, 'UTC') - (day * 24 + hour) * 3600,
    100 + number % 50 + hour + day as value, value, value, value * 60, 60, 1, value, value, value, hour % 2
from
    (
        select number, arrayJoin(multiIf(number >= 1200, [0], number between 80 and 99, [98], [0, 20])) as day
        from numbers(1300)
    )
    array join range(1, 25) as hour
    array join ['power_kw', 'temperature_c'] as metric
"""


@dataclass(frozen=True)
class State:
    """What a run leaves: rows by key and view, files by path, without `created`, and intervals in the registry."""

    online: Mapping[tuple[bytes, str], tuple[bytes | None, ...]]
    files: Mapping[str, pa.Table]
    intervals: Mapping[str, list[tuple[datetime, datetime]]]

    def snapshots(self) -> dict[str, pa.Table]:
        """Return the files that a Feast source reads."""
        return {path: table for path, table in self.files.items() if not path.startswith("quarantine/")}


class World:
    """The servers, the state before a run, and what an undisturbed run makes of it: `before` and `after`."""

    def __init__(self, directory: Path, postgres: PostgresServer, redis: RedisServer, clickhouse_url: str) -> None:
        self.postgres, self.redis, self.clickhouse_url = postgres, redis, clickhouse_url
        self.data = directory / "data"
        self.metrics = directory / "metrics" / "features.prom"
        self._prepared_data = directory / "prepared"
        self._commands = Commands(directory / "log")
        self._online = Redis(port=redis.port, db=_ONLINE)
        self.yaml = write_feature_store_yaml(directory, postgres, redis, _REGISTRY)
        self._stack = ExitStack()
        self._load_fleet()
        self._prepare()

    def close(self) -> None:
        """Close the connections."""
        self._stack.close()
        self._online.close()

    def run(self, *arguments: str, as_of: datetime | None = B, **options: Any) -> Outcome:
        """Run the command as of B; `variables` change the environment, the other options are those of `Commands`."""
        when = ("--as-of", as_of.isoformat()) if as_of else ()
        return self.command("run", *when, *arguments, **options)

    def command(self, *arguments: str, **options: Any) -> Outcome:
        """Run any command of it; options as for `run`."""
        variables = self.variables | options.pop("variables", {})
        return self._commands.run(*arguments, variables=variables, **options)

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a run, as variables of the environment."""
        return {
            "FEATURE_STORE_ENV_FILE": "/dev/null",
            "DATABASE_URL": self.postgres.url("dcmms", "dcmms_faults"),
            "CLICKHOUSE_HOST": self.clickhouse_url,
            "FEATURE_DATA_DIR": str(self.data),
            "FEAST_FS_YAML_FILE_PATH": str(self.yaml),
            "STATEMENT_TIMEOUT_SECONDS": "20",
        }

    def restore(self) -> None:
        """Go back to the state in which A is published and nothing is known of B."""
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(self._prepared_data, self.data)
        shutil.rmtree(self.metrics.parent, ignore_errors=True)
        self.metrics.parent.mkdir()
        self._online.flushdb()
        with Redis(port=self.redis.port, db=_PREPARED_ONLINE) as prepared, prepared.pipeline(False) as pipeline:
            for key in self._prepared_keys:
                pipeline.copy(key, key, _ONLINE)
            pipeline.execute()
        self._copy_database(_PREPARED_REGISTRY, _REGISTRY)

    def state(self) -> State:
        """Return what is there now; fails on a file that is not whole."""
        keys = sorted(self._online.scan_iter(count=10_000))
        with self._online.pipeline(False) as pipeline:
            for key in keys:
                pipeline.hgetall(key)
            hashes = dict(zip(keys, pipeline.execute(), strict=True))
        online = {
            (key, view): row
            for key, fields in hashes.items()
            for view, names in _FIELDS.items()
            if any(row := tuple(fields.get(name) for name in names))
        }
        assert sum(map(len, hashes.values())) == sum(value is not None for row in online.values() for value in row)
        files = {str(path.relative_to(self.data)): _rows_of(path) for path in self.data.rglob("*.parquet")}
        registry = self._store.registry
        intervals = {
            view: registry.get_feature_view(view, self._store.project).materialization_intervals for view in VIEWS
        }
        return State(online, files, intervals)

    def put_field(self, row: tuple[bytes, str], number: int) -> None:
        """Give one field of an online row its value of B."""
        key, view = row
        self._online.hset(key, _FIELDS[view][number], self.after.online[row][number])

    def remove_row(self, row: tuple[bytes, str]) -> None:
        """Remove the values of a view from an online row."""
        key, view = row
        self._online.hdel(key, *_FIELDS[view])

    def check_readers(self, *allowed: State) -> State:
        """Fail where a reader would find anything that is not whole, each row and each file, in one of `allowed`."""
        now = self.state()
        for row in {row for state in (now, *allowed) for row in state.online}:
            assert any(now.online.get(row) == state.online.get(row) for state in allowed), f"torn or lost row: {row}"
        for path, table in now.snapshots().items():
            assert any(table.equals(state.files[path]) for state in allowed if path in state.files), path
        assert now.files.keys() >= self.before.files.keys(), "a snapshot is lost"
        for view, intervals in now.intervals.items():
            assert any(intervals == state.intervals[view] for state in allowed), (view, intervals)
        leftovers = [path.name for path in self.data.rglob("*") if is_written(path) and path.suffix != ".parquet"]
        assert all(name.startswith(".") and name.endswith(".tmp") for name in leftovers), leftovers
        if self.metrics.exists():
            names = {family.name for family in text_string_to_metric_families(self.metrics.read_text())}
            assert "feature_store_run_exit_code" in names
        self._check_history()
        return now

    def check_recovery(self, besides: Collection[str] = ()) -> None:
        """Run again, undisturbed, and fail where that does not end as if nothing had happened.

        Files named `besides` are left from before.
        """
        outcome = self.run("--metrics-file", str(self.metrics))
        assert outcome.exit_code == 0, outcome.output
        now = self.state()
        assert now.online == self.after.online
        snapshots = {path: table for path, table in now.snapshots().items() if Path(path).name not in besides}
        assert snapshots.keys() == self.after.files.keys()
        assert all(table.equals(self.after.files[path]) for path, table in snapshots.items())
        assert now.intervals == self.after.intervals
        with closing(psycopg2.connect(self.postgres.url("feast", _REGISTRY))) as connection:
            cursor = connection.cursor()
            cursor.execute("select outcome from materialization_runs order by started_at desc")
            (last, *earlier) = [outcome for (outcome,) in cursor]
        assert last == "done"
        assert "running" not in earlier

    def _check_history(self) -> None:
        """Fail where Feast cannot join the snapshots, or joins another one than that of A to rows of A."""
        rows = self.before.files[next(path for path in self.before.files if path.startswith("work_order_features/"))]
        assets = rows["asset_id"].to_pylist()[100:103]
        moments = pd.DataFrame(
            [{"asset_id": asset, "event_timestamp": pd.Timestamp(when)} for when in (A, B) for asset in assets]
        )
        feature = "days_since_last_wo"
        features = [f"{view.name}:{view.features[-1].name}" for view in VIEWS.values()]
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Feast calls DuckDB by old names
            joined = self._store.get_historical_features(moments, [f"work_order_features:{feature}", *features]).to_df()
        assert len(joined) == len(moments)
        of_a = joined[joined["event_timestamp"] == pd.Timestamp(A)].sort_values("asset_id")[feature]
        assert of_a.tolist() == rows[feature].to_pylist()[100:103]

    def _load_fleet(self) -> None:
        url = self.postgres.url("dcmms", "dcmms_faults")
        ensure_database(self.postgres.admin_url, "dcmms_faults", "dcmms")
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            create_postgres_schema(connection, "t")
            cursor.execute("set timezone = 'UTC'")
            cursor.execute(_FLEET, {"b": B})
            cursor.execute("analyze")
        with closing(clickhouse_connect.get_client(dsn=self.clickhouse_url)) as client:
            create_clickhouse_schema(client, _DATABASE)
        with closing(clickhouse_connect.get_client(dsn=self.clickhouse_url, database=_DATABASE)) as client:
            client.command(_TELEMETRY, parameters={"b": B.replace(tzinfo=None)})

    def _prepare(self) -> None:
        apply_definitions(self.yaml, self.data)
        self._store = self._stack.enter_context(open_feature_store(self.yaml))
        outcome = self.run(as_of=A)
        assert outcome.exit_code == 0, outcome.output
        self.before = self.state()
        shutil.copytree(self.data, self._prepared_data)
        self._prepared_keys = self._online.keys()
        with self._online.pipeline(False) as pipeline:
            for key in self._prepared_keys:
                pipeline.copy(key, key, _PREPARED_ONLINE)
            pipeline.execute()
        self._copy_database(_REGISTRY, _PREPARED_REGISTRY)
        self.restore()
        assert self.state() == self.before
        self.undisturbed = self.run("--metrics-file", str(self.metrics), variables={"FEATURE_STORE_DIE_AT": ""})
        assert self.undisturbed.exit_code == 0, self.undisturbed.output
        self.after = self.state()
        self._check_that_mixtures_show()

    def _check_that_mixtures_show(self) -> None:
        """Fail where rows of A and of B do not differ in several values, so that half of each would not be noticed."""
        for view in VIEWS:
            both = [row for row in self.before.online if row[1] == view and row in self.after.online]
            assert len(both) > 1_000
            for row in both:
                pairs = zip(self.before.online[row], self.after.online[row], strict=True)
                assert sum(one != other for one, other in pairs) >= 3, (view, row)
            assert {row for row in self.before.online if row[1] == view} - self.after.online.keys(), "some leave"
            assert {row for row in self.after.online if row[1] == view} - self.before.online.keys(), "some come"

    def _copy_database(self, source: str, target: str) -> None:
        with closing(psycopg2.connect(self.postgres.admin_url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [source])
            names = {"source": sql.Identifier(source), "target": sql.Identifier(target)}
            cursor.execute(sql.SQL("drop database if exists {target} with (force)").format(**names))
            cursor.execute(sql.SQL("create database {target} template {source} owner feast").format(**names))


def _rows_of(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None).drop(["created"])
    except pa.ArrowException as error:
        raise AssertionError(f"not whole: {error}") from error


def _fields_of(view: str) -> list[bytes]:
    return [f"_ts:{view}".encode(), *(_mmh3(f"{view}:{field.name}") for field in VIEWS[view].features)]


_FIELDS = {view: _fields_of(view) for view in VIEWS}


@contextmanager
def clickhouse_front(directory: Path) -> Iterator[str]:
    """Yield the URL of a ClickHouse HTTP interface in a process of its own."""
    command = [sys.executable, "tests/clickhouse_http.py", str(directory), str(free_port())]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as front:
        try:
            yield front.stdout.readline().strip()
        finally:
            front.terminate()


@contextmanager
def opened_world(directory: Path) -> Iterator[World]:
    """Yield a world with servers of its own, which a test may restart."""
    (directory / "clickhouse").mkdir()
    with (
        PostgresServer(directory / "postgres", free_port()) as postgres,
        RedisServer(directory / "redis", free_port()) as redis,
        clickhouse_front(directory / "clickhouse") as clickhouse_url,
        closing(World(directory, postgres, redis, clickhouse_url)) as world,
    ):
        yield world

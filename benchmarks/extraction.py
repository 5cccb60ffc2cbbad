"""Extraction beside its floor, and whole runs, on large fleets.

The floor of a view is one plain GROUP BY scan of the same rows in the same engine: what any extraction has to read.
A whole run is `materialize_features.py` as cron starts it, from its imports to the verified online values.
"""

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.publishing import feature_store_yaml
from benchmarks.results import peak_megabytes
from benchmarks.worker import do_one_of, worker
from dev.servers import PostgresServer, RedisServer, free_port
from dev.stack import ensure_database

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 90
METRICS = 5
# Which buckets are stored a second time for the last measurements, one after the other.
COPIES = {
    "an hour stored twice": "time_bucket = toDateTime('2025-12-20 03:00:00', 'UTC')",
    "1 % at random stored twice": "cityHash64(asset_id, metric_name, time_bucket) % 100 = 0",
}

_worker = partial(worker, "benchmarks.extraction")

ALARMS, ASSETS, WORK_ORDERS = "alarm_features", "asset_features", "work_order_features"
# recent_telemetry_features comes from the same pass
TELEMETRY = "telemetry_features"
OF_VERSION_1 = (ASSETS, TELEMETRY, WORK_ORDERS)
# In 400 d: at 50,000 assets 10 million alerts a year, of 2,000 rules.
ALERTS_PER_ASSET = 220

FLOORS = {
    ALARMS: """
        select rule_id, asset_id, count(*), max(triggered_at), min(resolved_at) from alerts group by rule_id, asset_id
    """,
    ASSETS: """
        select w.asset_id, w.n, a.n
        from (
            select asset_id, count(*) as n, max(w.created_at), max(actual_end), max(t.completed_at)
            from work_orders w left join work_order_tasks t on t.work_order_id = w.id group by asset_id
        ) w left join (
            select asset_id, count(*) as n, max(triggered_at) from alerts group by asset_id
        ) a using (asset_id)
    """,
    WORK_ORDERS: """
        select asset_id, count(*), max(w.created_at), max(actual_end), max(scheduled_end), max(t.completed_at)
        from work_orders w left join work_order_tasks t on t.work_order_id = w.id group by asset_id
    """,
    TELEMETRY: """
        select
            toString(asset_id) as asset, metric_name, avg(avg_value) as a, min(min_value) as b, max(max_value) as c,
            sum(sum_value) as d, sum(count) as e, avg(stddev_value) as f, sum(anomaly_count) as g
        from telemetry_aggregates
        where time_bucket >= toDateTime('2026-01-01 00:00:00', 'UTC') - toIntervalDay(90)
            and time_bucket < toDateTime('2026-01-01 00:00:00', 'UTC')
        group by asset_id, metric_name
    """,
}


def measure_fleets(sizes: list[int], runs: int, say: Callable[[str], None]) -> list[dict]:
    """Return one record per number of assets: rows, seconds of each extraction and its floor, and of a whole run."""
    records = []
    for assets in sizes:
        with (
            tempfile.TemporaryDirectory(prefix="fleet-") as name,
            PostgresServer(Path(name) / "postgres", free_port()) as postgres,
            RedisServer(Path(name) / "redis", free_port()) as redis,
        ):
            for database, role in (("dcmms", "dcmms"), ("registry", "feast")):
                ensure_database(postgres.admin_url, database, role)
            environment = {
                "DATABASE_URL": postgres.url("dcmms", "dcmms"),
                "CLICKHOUSE_DSN": f"chdb://{name}/clickhouse",
                "FEAST_FS_YAML_FILE_PATH": str(feature_store_yaml(Path(name), postgres.port, redis.port)),
                "FEATURE_DATA_DIR": str(Path(name) / "data"),
                "FEATURE_STORE_ENV_FILE": os.devnull,
            }
            say(f"{assets:,} assets: loading {assets * DAYS * 24 * METRICS:,} telemetry rows")
            record = {"assets": assets, "telemetry_rows": assets * DAYS * 24 * METRICS, "runs": runs}
            record |= _worker("load", environment, str(assets))
            say(f"{assets:,} assets: extraction and floors")
            record["views"] = _worker("extract", environment, str(runs))
            whole: dict[str, list[dict]] = {"run": [], "first_run": []}
            for run in range(runs):
                say(f"{assets:,} assets: whole run {run + 1} of {runs}, and one of the views of version 1")
                whole["run"].append(_worker("run", environment))
                whole["first_run"].append(_worker("run", environment, *OF_VERSION_1))
            for name, results in whole.items():
                record |= {f"{name}_{key}": statistics.median(each[key] for each in results) for key in results[0]}
            record["run_megabytes"] = max(result["megabytes"] for result in whole["run"])
            record["with_copies"] = {}
            for copies, condition in COPIES.items():
                say(f"{assets:,} assets: extraction with {copies}")
                record["with_copies"][copies] = _worker("extract-copies", environment, str(runs), condition)
            records.append(record)
    return records


# what the processes do ------------------------------------------------------------------------------------------------


def load(assets: int) -> dict:
    """Fill both databases and register the views."""
    from benchmarks.large_fleet import load_large_fleet
    from benchmarks.publishing import apply_definitions

    started = time.perf_counter()
    load_large_fleet(
        os.environ["DATABASE_URL"],
        os.environ["CLICKHOUSE_DSN"],
        assets=assets,
        days=DAYS,
        work_orders=50 * assets,
        alerts=ALERTS_PER_ASSET * assets,
    )
    seconds = time.perf_counter() - started
    apply_definitions()
    directory = Path(os.environ["CLICKHOUSE_DSN"].removeprefix("chdb://"))
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return {"load_seconds": seconds, "clickhouse_gigabytes": size / 1e9}


def extract_views(runs: int) -> dict:
    """Return, per view, the medians of the seconds of its extraction and its floor, taken in turns."""
    from pipeline.base.settings import load_settings
    from pipeline.sources import extract
    from pipeline.sources.postgres import open_postgres

    views = {}
    with open_postgres(load_settings()) as postgres:

        def scan(view: str) -> None:
            with postgres.connection.cursor() as cursor:
                cursor.execute(FLOORS[view])
                cursor.fetchall()

        for view in (ALARMS, ASSETS, WORK_ORDERS):
            extraction = partial(extract.extract_postgres, postgres, view, AS_OF)
            views[view] = _in_turns(runs, partial(scan, view), extraction)
    return views | {TELEMETRY: extract_telemetry(runs)}


def extract_telemetry(runs: int, *, store_twice: str = "") -> dict[str, float]:
    """Return the medians for telemetry_features, and the peak memory of this process in MB.

    First, the buckets that the condition `store_twice` selects are stored again.
    """
    from pipeline.base.settings import load_settings
    from pipeline.sources import telemetry
    from pipeline.sources.clickhouse import open_clickhouse

    settings = load_settings()
    with open_clickhouse(settings) as clickhouse:
        if store_twice:
            rows = f"select * from telemetry_aggregates where {store_twice}"
            clickhouse.client.command(f"insert into telemetry_aggregates {rows}")

        def scan() -> None:
            with clickhouse.client.query_arrow_stream(FLOORS[TELEMETRY]) as blocks:
                for _ in blocks:
                    pass

        def extract() -> None:
            clickhouse.last_read = None  # what another view of the same SQL would get
            telemetry.extract_telemetry(clickhouse, TELEMETRY, AS_OF, settings.bucket_seconds)

        medians = _in_turns(runs, scan, extract)
    return medians | {"megabytes": peak_megabytes()}


def _in_turns(runs: int, floor: Callable[[], object], extraction: Callable[[], object]) -> dict[str, float]:
    """Return the medians of the seconds and the CPU seconds of both tasks."""
    tasks = {"floor": floor, "extraction": extraction}
    seconds: dict[str, list[float]] = {name + kind: [] for name in tasks for kind in ("", "_cpu")}
    floor()  # what it reads is in memory from here on
    for _ in range(runs):
        for name, task in tasks.items():
            started, cpu = time.perf_counter(), _cpu_seconds()
            task()
            seconds[name].append(time.perf_counter() - started)
            seconds[f"{name}_cpu"].append(_cpu_seconds() - cpu)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def whole_run(*views: str) -> dict:
    """Return what one run of the command takes, of all views or of some: seconds, CPU seconds, megabytes at most.

    The imports are in it.
    """
    started = time.perf_counter()
    from materialize_features import cli

    options = [word for view in views for word in ("--view", view)]
    cli.main(["run", "--as-of", AS_OF.isoformat(), "--quiet", *options], standalone_mode=False)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu_seconds": _cpu_seconds(), "megabytes": peak_megabytes()}


_TASKS = {
    "load": lambda assets: load(int(assets)),
    "extract": lambda runs: extract_views(int(runs)),
    "run": whole_run,
    "extract-copies": lambda runs, condition: extract_telemetry(int(runs), store_twice=condition),
}


if __name__ == "__main__":
    do_one_of(_TASKS)

"""A year of daily snapshots against one, of all views and of version 1's: seconds, ratios and peak memory.

python -m benchmarks.backfill                                        4,000 assets, 455 days: about 6 GB of disk
python -m benchmarks.backfill --assets 400 --work-orders 20000       a tenth of it
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.extraction import OF_VERSION_1
from benchmarks.large_fleet import load_large_fleet
from dev.servers import PostgresServer, free_port
from dev.stack import REPOSITORY, ensure_database
from pipeline.base.views import VIEW_NAMES

# Each measurement is a process of its own, for its peak memory.
_MEASURE = """
import json, sys, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pipeline.runs.backfill import backfill
from pipeline.base.settings import load_settings
from pipeline.runs.one_instant import materialize

instants, views = int(sys.argv[1]), sys.argv[2:]
last = datetime(2026, 1, 1, tzinfo=UTC)
settings = load_settings()
started, cpu = time.perf_counter(), time.process_time()
if instants == 1:
    results = materialize(settings, last, views)
    assert not any(result.error for result in results), results
else:
    backfill(settings, [last - timedelta(days=back) for back in reversed(range(instants))], views)
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
# not getrusage: a process inherits the peak of the one that has started it
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "cpu": cpu, "gigabytes": int(peak.split()[1]) / 1e6}))
"""


def measure_backfill(
    assets: int, days: int, work_orders: int, alerts: int, instants: int, runs: int, say: Callable[[str], None]
) -> list[dict]:
    """Return a record per set of views and number of instants: seconds, CPU seconds and gigabytes.

    Of the single runs it is the median.
    """
    records = []
    with tempfile.TemporaryDirectory() as name, PostgresServer(Path(name) / "postgres", free_port()) as postgres:
        ensure_database(postgres.admin_url, "dcmms", "dcmms")
        environment = {
            "DATABASE_URL": postgres.url("dcmms", "dcmms"),
            "CLICKHOUSE_DSN": f"chdb://{name}/clickhouse",
            "FEATURE_STORE_ENV_FILE": os.devnull,
        }
        say(f"loading {assets:,} assets, {days} days: {assets * days * 120:,} telemetry rows")
        load_large_fleet(
            environment["DATABASE_URL"],
            environment["CLICKHOUSE_DSN"],
            assets=assets,
            days=days,
            work_orders=work_orders,
            alerts=alerts,
        )
        for title, views in (("version 1", OF_VERSION_1), ("all", VIEW_NAMES)):
            data = Path(name) / title
            say(f"{title}: {runs} single runs")
            singles = [_measure(1, data / f"single{run}", environment, views) for run in range(runs)]
            say(f"{title}: backfill of {instants} instants")
            year = _measure(instants, data / "backfill", environment, views)
            single = {key: statistics.median(each[key] for each in singles) for key in singles[0]}
            for count, found in ((1, single), (instants, year)):
                records.append({"assets": assets, "days": days, "views": title, "instants": count, **found})
    return records


def backfill_table(records: list[dict]) -> list[list[str]]:
    """Return head and rows: the records, and what the figures of many instants are to those of one."""
    rows = [["views", "snapshots", "seconds", "CPU seconds", "peak memory"]]
    for single, year in zip(records[::2], records[1::2], strict=True):
        for found in (single, year):
            figures = [f"{found[key]:.1f}" for key in ("seconds", "cpu")]
            rows.append([found["views"], str(found["instants"]), *figures, f"{found['gigabytes']:.2f} GB"])
        ratios = [f"{year[key] / single[key]:.1f}" for key in ("seconds", "cpu")]
        rows.append([year["views"], f"{year['instants']} : 1", *ratios, ""])
    ratio = records[3]["cpu"] / records[1]["cpu"]
    return [*rows, ["all : version 1", str(records[3]["instants"]), "", f"{ratio:.2f}", ""]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--assets", default=4000, show_default=True)
@click.option("--days", default=455, show_default=True, help="Of hourly telemetry of five metrics.")
@click.option("--work-orders", default=200_000, show_default=True)
@click.option("--alerts", default=100_000, show_default=True, help="Of 2,000 rules, in 400 days.")
@click.option("--instants", default=365, show_default=True)
@click.option("--runs", default=3, show_default=True, help="Single runs, of which the median counts.")
def main(assets: int, days: int, work_orders: int, alerts: int, instants: int, runs: int) -> None:
    """Measure a backfill of daily INSTANTS against the single run."""
    console = Console()
    with console.status("starting") as status:
        say = status.update if console.is_terminal else console.print
        head, *rows = backfill_table(measure_backfill(assets, days, work_orders, alerts, instants, runs, say))
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _measure(instants: int, data_dir: Path, environment: dict[str, str], views: Sequence[str]) -> dict[str, float]:
    """Return seconds, CPU seconds and peak memory of one process, with the embedded engine in it."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(instants), *views],
        cwd=REPOSITORY,
        env=os.environ | environment | {"FEATURE_DATA_DIR": str(data_dir), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()

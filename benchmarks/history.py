"""A history of years: what its snapshots cost a reader and a run, before and after `compact`.

Two histories of made-up snapshots of all views: 57 assets, hourly for two years, and 4,000 assets, daily for a year.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.results import peak_megabytes
from benchmarks.training_set import END, made_up_snapshot, make_snapshots, measure, opened_store

FLEET, HOURS = 57, 17_520
ASSETS, DAYS, ROWS = 4_000, 365, 100_000
# What takes seconds to import, before the clock starts.
_IMPORTED = (
    "pipeline.runs.training",
    "pipeline.snapshots.compaction",
    "feast.infra.registry.registry",
    "features.services",
    "pipeline.operations.report.page",
)


def measure_history(say: Callable[[str], object]) -> list[dict]:
    """Return a record for each thing measured: seconds, and peak memory of a process that does nothing else."""
    records = []
    with TemporaryDirectory(prefix="history-benchmark-") as directory:
        hourly, single, yearly = (f"{directory}/{name}" for name in ("hourly", "single", "yearly"))

        def record(what: str, work: Callable[..., Any], folder: str, *arguments: object) -> None:
            say(f"history: {what}")
            files = sum(1 for _ in Path(folder).rglob("*.parquet"))
            records.append({"what": what, "files": files, **alone(timed, folder, work, folder, *arguments)})

        alone(_write_hourly, hourly, hourly, HOURS)
        alone(_write_hourly, single, single, 1)
        record("the look of a run at its folders, one snapshot", look_of_a_run, single)
        record("training set of one instant, single files", training_set_of_one_instant, hourly)
        record(f"`compact` of {HOURS:,} hourly snapshots of {FLEET} assets", compact_all, hourly)
        record("the look of a run at its folders", look_of_a_run, hourly)
        record("training set of one instant", training_set_of_one_instant, hourly)
        record("stock `get_historical_features`, one row, all features", stock_row, hourly)
        alone(make_snapshots, yearly, Path(yearly), ASSETS, DAYS)
        record(f"`compact` of {DAYS} daily snapshots of {ASSETS:,} assets", compact_all, yearly)
        record(f"training set of {ROWS:,} rows over the year, all features", measure, yearly, DAYS, ROWS, False)
    return records


def look_of_a_run(directory: str) -> None:
    """Do what a run does in the folders of its views before and after it reads."""
    from pipeline.base.specs import VIEWS
    from pipeline.snapshots.compaction import compact
    from pipeline.snapshots.files import newest_snapshot, read_snapshot
    from pipeline.snapshots.quality import losses
    from pipeline.snapshots.upkeep import keep_up

    for view in VIEWS:
        keep_up(Path(directory), view)
        compact(Path(directory), view, END - timedelta(days=2), months=1)
        newest = read_snapshot(newest_snapshot(Path(directory), view))
        assert losses(view, newest, Path(directory), END + timedelta(hours=1), 0.2) == []


def compact_all(directory: str) -> None:
    """Compact all views."""
    from pipeline.base.specs import VIEWS
    from pipeline.snapshots.compaction import compact
    from pipeline.snapshots.upkeep import keep_up

    for view in VIEWS:
        keep_up(Path(directory), view)
        compact(Path(directory), view, END)


def training_set_of_one_instant(directory: str) -> None:
    """Join all features of all assets as of an instant a hundred days ago."""
    from pipeline.runs.training import entity_frame, training_set

    instant = END - timedelta(days=100, minutes=30)
    frame = entity_frame(_keys(), instant, instant + timedelta(seconds=1))
    assert training_set(opened_store(directory), frame).num_rows == FLEET


def stock_row(directory: str) -> None:
    """Ask Feast's SDK for all features of one asset as of one instant."""
    import pandas as pd

    from features.services import predictive_maintenance_v1

    row = pd.DataFrame({"asset_id": _keys()[:1], "event_timestamp": [END - timedelta(days=100)]})
    job = opened_store(directory).get_historical_features(row, predictive_maintenance_v1)
    assert len(job.to_df()) == 1


def _keys() -> list[str]:
    return [str(UUID(int=number)) for number in range(1, FLEET + 1)]


def _write_hourly(directory: str, hours: int) -> None:
    from pipeline.base.specs import VIEWS
    from pipeline.snapshots.files import snapshot_path

    for view in VIEWS:
        same = made_up_snapshot(view, pa.array(_keys()), END, np.random.default_rng(1))
        for as_of in (END - timedelta(hours=hour) for hour in range(hours)):
            path = snapshot_path(Path(directory), view, as_of)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(moved(same, as_of), path, compression="zstd")


def moved(snapshot: pa.Table, as_of: datetime) -> pa.Table:
    """Return `snapshot` as of another instant."""
    for place, field in enumerate(snapshot.schema):
        if field.name in ("event_timestamp", "created"):
            stamps = pa.repeat(pa.scalar(as_of, field.type), snapshot.num_rows)
            snapshot = snapshot.set_column(place, field, stamps)
    return snapshot


def timed(work: Callable[..., Any], *arguments: object) -> dict[str, float]:
    for module in _IMPORTED:
        import_module(module)
    began, busy = time.monotonic(), time.process_time()
    work(*arguments)
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - busy,
        "megabytes": peak_megabytes(),
    }


def alone(work: Callable[..., Any], data_dir: str, *arguments: object) -> Any:
    """Return what `work` returns in a process of its own, whose definitions have their snapshots in `data_dir`."""
    Path(data_dir).mkdir(exist_ok=True)
    os.environ["FEATURE_DATA_DIR"] = data_dir
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()

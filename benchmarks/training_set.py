#!/usr/bin/env python
"""How long a training set takes and how much memory: 100,000 rows of all features over a year of daily snapshots.

The snapshots are made up: every feature of every view, one asset in ten without telemetry.
"""

import os
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import UUID

import click
import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from feast import FeatureStore

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LIMIT_SECONDS, LIMIT_GB = 60, 1
END = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = pa.array([str(UUID(int=number)) for number in range(50)])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--assets", type=click.IntRange(min=1), default=4_000, show_default=True)
@click.option("--days", type=click.IntRange(min=1), default=365, show_default=True, help="Daily snapshots.")
@click.option("--rows", type=click.IntRange(min=1), default=100_000, show_default=True, help="At least; all assets.")
@click.option("--plain", is_flag=True, help="Feast's join in one piece, to compare: ten times as dear.")
def main(assets: int, days: int, rows: int, plain: bool) -> None:
    """Measure a training set; exit code 1 above 60 s or 1 GB."""
    with TemporaryDirectory(prefix="training-set-benchmark-") as directory:
        os.environ["FEATURE_DATA_DIR"] = directory  # before the definitions are imported, here and in the other process
        began = time.monotonic()
        size = make_snapshots(Path(directory), assets, days)
        click.echo(
            f"{days} daily snapshots of {assets:,} assets: {size / 1e6:,.0f} MB, {time.monotonic() - began:.0f} s"
        )
        # A process of its own: its peak is the join's alone.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            joined, columns, seconds, gigabytes = process.submit(measure, directory, days, rows, plain).result()
    click.echo(f"{joined:,} rows of {columns} columns: {seconds:.1f} s, peak memory {gigabytes:.2f} GB")
    if seconds > LIMIT_SECONDS or gigabytes > LIMIT_GB:
        raise click.ClickException(f"more than {LIMIT_SECONDS} s or {LIMIT_GB} GB")


def make_snapshots(data_dir: Path, assets: int, days: int) -> int:
    """Write the snapshots of every view and return their bytes."""
    from pipeline.base.specs import VIEWS
    from pipeline.snapshots.files import snapshot_path, write_snapshot

    rng = np.random.default_rng(1)
    keys = pa.array(sorted(str(UUID(bytes=rng.bytes(16))) for _ in range(assets)))
    return sum(
        write_snapshot(made_up_snapshot(view, keys, as_of, rng), snapshot_path(data_dir, view, as_of))
        for view in VIEWS
        for as_of in (END - timedelta(days=day) for day in range(days))
    )


def made_up_snapshot(view: str, keys: pa.StringArray, as_of: datetime, rng: np.random.Generator) -> pa.Table:
    """Return a snapshot with random values, 5 % of them NULL."""
    from pipeline.base.specs import snapshot_schema

    if view == "telemetry_features":
        keys = keys.filter(pa.array(np.arange(len(keys)) % 10 != 0))
    schema = snapshot_schema(view)
    known = {
        "asset_id": keys,
        "event_timestamp": pa.repeat(pa.scalar(as_of, schema.field("event_timestamp").type), len(keys)),
        "created": pa.repeat(pa.scalar(as_of + timedelta(minutes=5), schema.field("created").type), len(keys)),
    }
    columns = [known[field.name] if field.name in known else _random(field.type, len(keys), rng) for field in schema]
    return pa.table(columns, schema=schema)


def _random(kind: pa.DataType, count: int, rng: np.random.Generator) -> pa.Array:
    numbers = pa.array(rng.normal(50, 20, count), mask=rng.random(count) < 0.05)
    if pa.types.is_string(kind):
        return TEXTS.take(pa.array(rng.integers(0, len(TEXTS), count)))
    return numbers.cast(kind, safe=False)


def opened_store(directory: str) -> "FeatureStore":
    """Return a feature store with the definitions, whose snapshots FEATURE_DATA_DIR says to be in `directory`."""
    from feast import FeatureStore, RepoConfig

    from entities import asset
    from features.services import predictive_maintenance_v1
    from pipeline.base.specs import VIEWS

    config = RepoConfig(
        project="dcmms",
        provider="local",
        registry=f"{directory}/registry.db",
        online_store=None,
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([asset, *VIEWS.values(), predictive_maintenance_v1])
    return store


def measure(directory: str, days: int, rows: int, plain: bool) -> tuple[int, int, float, float]:
    """Return rows and columns of the training set, its seconds and the peak memory of this process in GB."""
    from features.services import predictive_maintenance_v1
    from pipeline.runs.training import entity_frame, training_set
    from pipeline.snapshots.files import newest_snapshot, read_snapshot

    store = opened_store(directory)
    assets = read_snapshot(newest_snapshot(Path(directory), "asset_features"), ["asset_id"])["asset_id"].to_pylist()
    instants = -(-rows // len(assets))
    every = timedelta(days=max(days // instants, 1))
    frame = entity_frame(assets, END - instants * every, END, every)
    began = time.monotonic()
    if plain:
        table = store.get_historical_features(frame.to_pandas(), predictive_maintenance_v1).to_arrow()
    else:
        table = training_set(store, frame)
    seconds = time.monotonic() - began
    return table.num_rows, table.num_columns, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()

"""Snapshots in Iceberg tables: what writing one costs beside a file, and reading a few rows with Feast.

Daily snapshots of made-up values of one view; the tables are local files with a catalog in SQLite, so that neither a
network nor an object store is in the figures.
"""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from uuid import UUID

import numpy as np
import pyarrow as pa

from benchmarks.history import alone
from benchmarks.results import peak_megabytes
from benchmarks.training_set import END, made_up_snapshot

VIEW, FEATURE = "work_order_features", "wo_count_7d"
ASSETS, DAYS, ROWS, READS = 4_000, 180, 100, 3
PLACE = "iceberg://bench/dcmms"
STORES = {
    "stock `IcebergSource`": "duckdb",
    "`ScanningDuckDBOfflineStore`": "serving.offline_store.ScanningDuckDBOfflineStore",
}


def measure_iceberg(say: Callable[[str], object]) -> list[dict]:
    """Return a record for each thing measured: seconds, and for reading the peak memory of a process of its own."""
    with TemporaryDirectory(prefix="iceberg-benchmark-") as directory:
        variables = {
            "PYICEBERG_CATALOG__BENCH__URI": f"sqlite:///{directory}/catalog.db",
            "PYICEBERG_CATALOG__BENCH__WAREHOUSE": f"file://{directory}",
            "FEATURE_SNAPSHOTS": PLACE,
        }
        os.environ.update(variables)
        try:
            records = []
            for kind in ("files", "tables"):
                say(f"iceberg: writing to {kind}")
                records.append({"what": f"writing a snapshot to {kind}", "seconds": alone(write, directory, kind)})
            for name, store in STORES.items():
                say(f"iceberg: reading with {name}")
                records.append({"what": f"{ROWS} rows, one feature, {name}", **alone(read, directory, store)})
            return records
        finally:
            for name in variables:
                del os.environ[name]


def write(kind: str) -> float:
    """Write the snapshot of each day; return the median seconds of the last twenty."""
    from pipeline.base.places import Store
    from pipeline.snapshots.files import snapshot_path, write_snapshot

    place = Store(PLACE) if kind == "tables" else Path(os.environ["FEATURE_DATA_DIR"])
    rng, seconds = np.random.default_rng(1), []
    for day in range(DAYS):
        as_of = END - timedelta(days=DAYS - day)
        snapshot = made_up_snapshot(VIEW, _keys(), as_of, rng)
        began = time.monotonic()
        write_snapshot(snapshot, snapshot_path(place, VIEW, as_of))
        seconds.append(time.monotonic() - began)
    return median(seconds[-20:])


def read(kind: str) -> dict[str, float]:
    """Join one feature to a few rows by Feast's SDK with an offline store."""
    import pandas as pd
    from feast import FeatureStore, RepoConfig

    from entities import asset
    from pipeline.base.specs import VIEWS

    config = RepoConfig(
        project="dcmms",
        provider="local",
        registry=f"{os.environ['FEATURE_DATA_DIR']}/{kind}.db",
        online_store=None,
        offline_store={"type": kind},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([asset, VIEWS[VIEW]])
    rows = pd.DataFrame({"asset_id": _keys()[:ROWS].to_pylist(), "event_timestamp": END - timedelta(days=10)})
    seconds = []
    for _ in range(READS):
        began = time.monotonic()
        found = store.get_historical_features(rows, [f"{VIEW}:{FEATURE}"]).to_df()
        seconds.append(time.monotonic() - began)
        assert len(found) == ROWS
    return {"seconds": median(seconds), "megabytes": peak_megabytes()}


def _keys() -> pa.StringArray:
    return pa.array([str(UUID(int=number)) for number in range(1, ASSETS + 1)])

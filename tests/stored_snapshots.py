"""Snapshots for tests of the stores that FEATURE_SNAPSHOTS names."""

import os
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.base.places import DataDir, Store
from pipeline.base.specs import TIMESTAMP, snapshot_schema
from pipeline.snapshots.files import read_snapshot, snapshot_path, snapshots, write_snapshot
from tests.dcmms import asset_key
from tests.object_store import BUCKET, ObjectStore

VIEW = "work_order_features"
FEATURE = "wo_count_7d"
DAY = timedelta(days=1)
KEYS = [str(asset_key(number)) for number in range(1, 21)]


def placed(
    monkeypatch: pytest.MonkeyPatch, kind: str, folder: Path, objects: ObjectStore | None, **variables: str
) -> Store:
    """Return a place of its own, with the environment that leads there, changed by `variables`.

    `kind` is `sql` or `rest`, an Iceberg catalog of that type, or `s3`. `CATALOG__` at the beginning of a name stands
    for what the variables of that catalog begin with.
    """
    name = f"{kind}-{uuid.uuid4().hex[:8]}"
    prefix = f"PYICEBERG_CATALOG__{name.upper().replace('-', '_')}__"
    url = f"iceberg://{name}/dcmms_{name.replace('-', '_')}"
    if kind == "s3":
        url, known = f"s3://{BUCKET}/{name}/snapshots", objects.aws_variables()
    elif kind == "rest":
        known = objects.variables(name)
    else:
        (folder / "warehouse").mkdir()
        known = {f"{prefix}URI": f"sqlite:///{folder}/catalog.db", f"{prefix}WAREHOUSE": f"file://{folder}/warehouse"}
    known |= {variable.replace("CATALOG__", prefix): value for variable, value in variables.items()}
    for variable, value in known.items():
        monkeypatch.setenv(variable, value)
    if kind != "s3":
        from pyiceberg.utils.config import Config

        monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # as a process that begins has it
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
    monkeypatch.setenv("FEATURE_SNAPSHOTS", url)
    return Store(url, folder / "data")


def rows(as_of: datetime, value: int = 1, keys: list[str] = KEYS, view: str = VIEW) -> pa.Table:
    """Return a snapshot whose every number is `value`."""
    known = {"asset_id": keys, "event_timestamp": [as_of] * len(keys), "created": [as_of + DAY / 24] * len(keys)}
    schema = snapshot_schema(view)
    columns = [
        pa.array(known.get(f.name, [str(value) if pa.types.is_string(f.type) else value] * len(keys)), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def created(table: pa.Table, instant: datetime) -> pa.Table:
    return table.set_column(2, table.schema.field(2), pa.array([instant] * len(table), TIMESTAMP))


def put(place: DataDir, as_of: datetime, *given: object) -> None:
    write_snapshot(rows(as_of, *given), snapshot_path(place, VIEW, as_of))


def stems(place: DataDir) -> list[str]:
    return [path.stem for path in snapshots(place, VIEW)][::-1]


def values(place: DataDir, as_of: datetime) -> set[int]:
    return {*read_snapshot(snapshot_path(place, VIEW, as_of))[FEATURE].to_pylist()}

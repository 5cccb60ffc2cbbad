"""Snapshots of a fleet that does not change, and what can be done to the newest one: no server is needed."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import Field
from feast.types import String
from numpy.typing import NDArray

from features.fields import NEVER, range_of
from pipeline.base.specs import TIMESTAMP, VIEWS, snapshot_schema
from pipeline.snapshots.files import read_snapshot, snapshot_path, write_snapshot
from tests.dcmms import T, asset_key

ASSETS, SITES = 600, 30
MAKERS = ["Enercon", "Goldwind", "Nordex", "Siemens", "Vestas"]

Change = Callable[[pa.Table], pa.Table]


def write_history(data_dir: Path, days: tuple[int, ...] = (28, 21, 14, 7, 0), until: datetime = T) -> None:
    """Write a snapshot of every view as of so many days before `until`: the same fleet, each value measured anew."""
    for view in VIEWS:
        for day in days:
            as_of = until - timedelta(days=day)
            write_snapshot(made_up(view, as_of, day), snapshot_path(data_dir, view, as_of))


def change(data_dir: Path, view: str, what: Change, as_of: datetime = T) -> None:
    """Replace the snapshot of `view` as of an instant by what is made of it."""
    path = snapshot_path(data_dir, view, as_of)
    write_snapshot(what(read_snapshot(path)), path)


def with_values(name: str, made: Callable[[NDArray[np.object_]], NDArray[np.object_]]) -> Change:
    """Return the change that makes other values of a feature; None is NULL."""

    def changed(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        values = made(np.array(rows[name].to_pylist(), dtype=object))
        return rows.set_column(place, field, pa.array(values.tolist(), field.type))

    return changed


@cache
def made_up(view: str, as_of: datetime, seed: int) -> pa.Table:
    """Return a snapshot: an asset keeps its texts, its numbers move a little, 5 % of what may be NULL is."""
    rng, schema = np.random.default_rng(seed), snapshot_schema(view)
    columns = {
        "asset_id": pa.array([str(asset_key(number)) for number in range(ASSETS)]),
        "event_timestamp": pa.repeat(pa.scalar(as_of, TIMESTAMP), ASSETS),
        "created": pa.repeat(pa.scalar(as_of + timedelta(minutes=5), TIMESTAMP), ASSETS),
    }
    for number, field in enumerate(VIEWS[view].features):
        columns[field.name] = _values(field, number, rng, schema.field(field.name).type)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _values(field: Field, number: int, rng: np.random.Generator, kind: pa.DataType) -> pa.Array:
    places = np.arange(ASSETS)
    unknown = None if field.tags["null"] == NEVER else places % 20 == number % 20
    if field.name == "site_id":
        return pa.array([str(asset_key(900 + place % SITES)) for place in places])
    if field.dtype == String:
        return pa.array(np.array(MAKERS)[(places * 7 + number) % len(MAKERS)], kind, mask=unknown)
    if "source_limit_hours" in field.tags:
        return pa.array(rng.exponential(0.3, ASSETS), mask=unknown).cast(kind, safe=False)
    level = np.random.default_rng(number).gamma(4, 10, ASSETS)  # what an asset has of it at all times
    values = level * rng.normal(1, 0.05, ASSETS)
    if np.isfinite(highest := range_of(field).highest):
        values = values / 200 * highest
    return pc.max_element_wise(pa.array(values, mask=unknown), 0.0, skip_nulls=False).cast(kind, safe=False)

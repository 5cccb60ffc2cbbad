"""The quality gate between extraction and publishing: what every snapshot keeps to, made of the definitions.

Row by row, as a pandera schema: types, key, instant, and the NULLs and ranges of the fields' tags. As a whole: the
assets that exist, and the rows and known values of the previous snapshot.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import Field
from feast.types import String
from numpy.typing import NDArray
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaError, SchemaErrorReason, SchemaErrors

from features.fields import NEVER, UNKNOWN, range_of
from pipeline.base.errors import first_line
from pipeline.base.specs import SPECS, VIEWS, snapshot_schema
from pipeline.snapshots.files import newest_snapshot, read_snapshot

logger = logging.getLogger(__name__)

# An asset or two more or less are a change, not a failure, whatever share of a small fleet they are.
SMALLEST_LOSS = 3

_UUID_TEXT = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_NO_ASSETS = pa.array([], pa.string())


@dataclass(frozen=True, eq=False)
class BrokenRule:
    """A rule that a snapshot breaks, in words, and what breaks it: `rows` of the snapshot, or `missing` assets.

    `is_loss` says that the rule looks at the previous snapshot, so that a planned change may break it.
    """

    text: str
    rows: NDArray[np.bool_]
    missing: pa.Array = field(default_factory=lambda: _NO_ASSETS)
    is_loss: bool = False


# Row by row -----------------------------------------------------------------------------------------------------


def broken_rows(view: str, snapshot: pa.Table, instants: Sequence[datetime]) -> list[BrokenRule]:
    """Return the rules that rows of `snapshot`, of `view` as of `instants`, break by themselves; none for a sound one.

    Where the columns are not those of the definition, that is the only rule: nothing else can be said of them.
    """
    try:
        # whatever the environment says: pandera can be switched off by variables of its own
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            frame = snapshot.to_pandas(types_mapper=pd.ArrowDtype)
            _schema_of(view, instants).validate(frame, lazy=True, inplace=True)
    except SchemaErrors as errors:
        if wrong := [error for error in errors.schema_errors if error.reason_code in _WRONG_COLUMNS]:
            text = f"the columns are not those of the definition: {first_line(wrong[0], 120)}"
            return [BrokenRule(text, np.ones(snapshot.num_rows, dtype=bool))]
        return [_broken_by(error, snapshot.num_rows) for error in errors.schema_errors]
    return []


_WRONG_COLUMNS = {
    SchemaErrorReason.COLUMN_NOT_IN_DATAFRAME,
    SchemaErrorReason.COLUMN_NOT_IN_SCHEMA,
    SchemaErrorReason.COLUMN_NOT_ORDERED,
    SchemaErrorReason.DUPLICATE_COLUMN_LABELS,
    SchemaErrorReason.WRONG_DATATYPE,
}
_TEXTS = {
    SchemaErrorReason.SERIES_CONTAINS_NULLS: "is NULL",
    SchemaErrorReason.DUPLICATES: "is not unique",
}


def _schema_of(view: str, instants: Sequence[datetime]) -> pandera.DataFrameSchema:
    types = {column.name: pd.ArrowDtype(column.type) for column in snapshot_schema(view)}
    is_key = _check(pandera.Check.str_matches, _UUID_TEXT, says="is no lower-case uuid")
    is_instant = _check(pandera.Check.isin, [pd.Timestamp(i) for i in instants], says="is not the as-of instant")
    columns = {
        "asset_id": pandera.Column(types["asset_id"], is_key),
        "event_timestamp": pandera.Column(types["event_timestamp"], is_instant),
        "created": pandera.Column(types["created"]),
        **{feature.name: _column_of(feature, types[feature.name]) for feature in VIEWS[view].features},
    }
    return pandera.DataFrameSchema(columns, strict=True, ordered=True, unique=["event_timestamp", "asset_id"])


def _column_of(feature: Field, dtype: pd.ArrowDtype) -> pandera.Column:
    is_nullable = feature.tags["null"] != NEVER
    if feature.dtype == String:
        return pandera.Column(dtype, nullable=is_nullable)
    allowed = range_of(feature)
    # NaN lies in no range, and infinity in none that leaves its ends out
    in_range = _check(
        pandera.Check.in_range,
        allowed.lowest,
        allowed.highest,
        include_min=allowed.with_lowest,
        include_max=np.isfinite(allowed.highest),
        says=f"is not in {allowed}",
    )
    return pandera.Column(dtype, in_range, nullable=is_nullable)


def _check(kind: Callable[..., pandera.Check], *arguments: Any, says: str, **options: Any) -> pandera.Check:
    # Pandera copies the values that fail, which may be all of a large fleet: one will do, the rows are known anyway.
    return kind(*arguments, **options, error=says, n_failure_cases=1)


def _broken_by(error: SchemaError, rows: int) -> BrokenRule:
    """Return the rule that pandera found broken; raise its error where it is no rule but a fault of a check."""
    if error.reason_code in _TEXTS:
        failing, says = error.failure_cases["index"], _TEXTS[error.reason_code]
    elif error.reason_code is SchemaErrorReason.DATAFRAME_CHECK:
        failing, says = error.check_output.index[~error.check_output.to_numpy(dtype=bool)], error.check.error
    else:
        raise error
    mask = np.zeros(rows, dtype=bool)
    mask[failing.to_numpy(dtype=np.int64)] = True
    return BrokenRule(f"{error.schema.name or 'asset_id'} {says}", mask)


# As a whole -----------------------------------------------------------------------------------------------------


def wrong_assets(view: str, snapshot: pa.Table, assets: pa.ChunkedArray) -> list[BrokenRule]:
    """Return where `snapshot` has other assets than `assets`, those that exist; one may have no telemetry."""
    existing, present = pc.unique(assets), snapshot["asset_id"].combine_chunks()
    unknown = pc.invert(pc.is_in(present, value_set=existing)).to_numpy(zero_copy_only=False)
    missing = (
        existing.filter(pc.invert(pc.is_in(existing, value_set=present))) if SPECS[view].every_asset else _NO_ASSETS
    )
    broken = []
    if unknown.any():
        broken.append(BrokenRule("asset_id is none of asset_features", unknown))
    if len(missing):
        broken.append(BrokenRule("assets of asset_features have no row", _none_of(snapshot), missing))
    return broken


def losses(view: str, snapshot: pa.Table, data_dir: Path, as_of: datetime, max_drop: float) -> list[BrokenRule]:
    """Return where `snapshot` has lost rows or known values since the newest earlier snapshot of `view`.

    A loss is more than the share `max_drop` of the rows, and at least `SMALLEST_LOSS` of them. Nothing is lost where
    there is no earlier snapshot, or a damaged one, which is logged.
    """
    path = newest_snapshot(data_dir, view, until=as_of - timedelta(microseconds=1))
    if path is None:
        return []
    try:
        return list(_losses_since(path, view, snapshot, max_drop))
    except (OSError, pa.ArrowException, KeyError):
        logger.warning("%s: not compared with the previous snapshot, which cannot be read: %s", view, path)
        return []


def _losses_since(path: Path, view: str, snapshot: pa.Table, max_drop: float) -> Iterator[BrokenRule]:
    footer = pq.read_metadata(path)
    rows, rows_before = snapshot.num_rows, footer.num_rows
    lost = rows_before - rows
    if lost >= SMALLEST_LOSS and lost > max_drop * rows_before:
        keys = read_snapshot(path, ["asset_id"])["asset_id"].combine_chunks()
        gone = keys.filter(pc.invert(pc.is_in(keys, value_set=snapshot["asset_id"].combine_chunks())))
        text = f"{rows:,} rows where the snapshot {path.stem} has {rows_before:,}: assets are gone"
        yield BrokenRule(text, _none_of(snapshot), gone, is_loss=True)
    if not rows or not rows_before:
        return
    nulls_before = _nulls_in(footer)
    for feature in VIEWS[view].features:
        if feature.tags["null"] != UNKNOWN or feature.name not in nulls_before:
            continue
        column, before = snapshot[feature.name], nulls_before[feature.name]
        # the rise of the rate in products of whole numbers: 0.9 - 0.7 would be more than 0.2
        rise = column.null_count * rows_before - before * rows
        if rise >= SMALLEST_LOSS * rows_before and rise > max_drop * rows * rows_before:
            text = f"{feature.name} is NULL ({before / rows_before:.0%} of the snapshot {path.stem})"
            yield BrokenRule(text, column.is_null().to_numpy(), is_loss=True)


def _nulls_in(footer: pq.FileMetaData) -> dict[str, int]:
    """Return how many NULLs each column of a Parquet file with rows has: its footer says so."""
    nulls: dict[str, int] = {}
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            nulls[column.path_in_schema] = nulls.get(column.path_in_schema, 0) + column.statistics.null_count
    return nulls


def _none_of(snapshot: pa.Table) -> NDArray[np.bool_]:
    return np.zeros(snapshot.num_rows, dtype=bool)

"""The quality gate between extraction and publishing: what every snapshot keeps to, made of the definitions.

Row by row: key, instant, and the NULLs and ranges of the fields' tags; where a few rows break a rule, the others go
on. As a whole: the columns, the assets that exist, and the rows and known values of the previous snapshot. What is only
not plausible passes, and is told.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.types import String
from numpy.typing import NDArray

from features.fields import NEVER, UNKNOWN, Range, range_of
from pipeline.base.places import DataDir, Snapshot
from pipeline.base.specs import SPECS, TIMESTAMP, VIEWS, snapshot_schema
from pipeline.snapshots.files import open_snapshot, read_snapshot, snapshots, with_set_aside

logger = logging.getLogger(__name__)

# An asset or two more or less are a change, not a failure, whatever share of a small fleet they are.
SMALLEST_LOSS = 3

# Nor are two or three odd rows.
FEW_ROWS = 3

# So many assets are named in a message.
NAMED = 3

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


def split(
    view: str, snapshot: pa.Table, as_of: datetime, max_rejected: float
) -> tuple[pa.Table | None, list[BrokenRule]]:
    """Return the rows of `snapshot`, of `view` as of `as_of`, that break no rule by themselves, and the broken rules.

    The rows tell which entities have been set aside (`pipeline.snapshots.files.set_aside_in`). They are None where
    these are more than the share `max_rejected` and than `FEW_ROWS`, or all: then something is wrong with the view.
    """
    broken = broken_rows(view, snapshot, as_of)
    if not broken:
        return snapshot, []
    is_broken = np.logical_or.reduce([rule.rows for rule in broken])
    count, rows = np.count_nonzero(is_broken), snapshot.num_rows
    if count == rows or (count > FEW_ROWS and count / rows > max_rejected):
        return None, broken
    keys = snapshot["asset_id"].filter(is_broken)
    return with_set_aside(snapshot.filter(pa.array(~is_broken)), keys), broken


def broken_rows(view: str, snapshot: pa.Table, as_of: datetime) -> list[BrokenRule]:
    """Return the rules that rows of `snapshot`, of `view` as of `as_of`, break by themselves; none for a sound one.

    Where the columns are not those of the definition, that is the only rule: nothing else can be said of them.
    """
    found, defined = ([f"{c.name} {c.type}" for c in schema] for schema in (snapshot.schema, snapshot_schema(view)))
    if found != defined:
        columns = zip_longest(found, defined, fillvalue="nothing")
        other = next(f"{column} in the place of {expected}" for column, expected in columns if column != expected)
        text = f"the columns are not those of the definition: {other}"
        return [BrokenRule(text, np.ones(snapshot.num_rows, dtype=bool))]
    return [
        BrokenRule(text, pc.fill_null(is_broken, False).to_numpy())
        for text, is_broken in _row_rules(view, snapshot, as_of)
        if pc.any(is_broken).as_py()
    ]


def _row_rules(view: str, snapshot: pa.Table, as_of: datetime) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield each rule of `view` in words, and whether a row breaks it; NULL where there is nothing to judge."""
    features = VIEWS[view].features
    never_null = {"asset_id", "event_timestamp", "created"} | {f.name for f in features if f.tags["null"] == NEVER}
    ranges = {f.name: range_of(f) for f in features if f.dtype != String}
    yield "asset_id is no lower-case uuid", pc.invert(pc.match_substring_regex(snapshot["asset_id"], _UUID_TEXT))
    yield "asset_id is not unique", _is_repeated(snapshot["asset_id"])
    is_other = pc.not_equal(snapshot["event_timestamp"], pa.scalar(as_of, TIMESTAMP))
    yield "event_timestamp is not the as-of instant", is_other
    for name in snapshot.column_names:
        if name in never_null:
            yield f"{name} is NULL", snapshot[name].is_null()
        if name in ranges:
            yield f"{name} is not in {ranges[name]}", _is_outside(snapshot[name], ranges[name])


def _is_repeated(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    counts = pc.value_counts(pc.drop_null(keys))
    return pc.is_in(keys, value_set=counts.field("values").filter(pc.greater(counts.field("counts"), 1)))


def _is_outside(column: pa.ChunkedArray, allowed: Range) -> pa.ChunkedArray:
    """Return where `column` is not in the range: NaN lies in none, and infinity in none that leaves its ends out."""
    # of one type, a comparison is ten times as fast
    numbers = column if pa.types.is_floating(column.type) else column.cast(pa.float64())
    lowest, highest = (pa.scalar(end, numbers.type) for end in (allowed.lowest, allowed.highest))
    is_high_enough = pc.greater_equal if allowed.with_lowest else pc.greater
    is_low_enough = pc.less_equal if math.isfinite(allowed.highest) else pc.less
    return pc.invert(pc.and_(is_high_enough(numbers, lowest), is_low_enough(numbers, highest)))


# Plausible and wrong --------------------------------------------------------------------------------------------


def implausible(view: str, rows: pa.Table) -> dict[str, pa.Table]:
    """Return which of `rows`, of `view`, are beyond its plausible ranges: for each of these, the assets and values."""
    return {
        name: rows.select(["asset_id", name]).filter(_is_outside(rows[name], likely))
        for name, likely in SPECS[view].plausible.items()
    }


def warn_of_implausible(view: str, name: str, rows: pa.Table) -> None:
    """Log in one line the assets of `rows`, of one or more instants, as `implausible` returns them; nothing of none."""
    if not rows.num_rows:
        return
    assets = rows.group_by("asset_id", use_threads=False).aggregate([(name, "last")]).sort_by("asset_id")
    named = (
        f"{asset} ({value:.3g})" for asset, value in zip(*assets.slice(0, NAMED).to_pydict().values(), strict=True)
    )
    logger.warning(
        "%s: %s is not in the plausible range %s in %d rows of %d assets, e.g. %s. They pass: see docs/plausibility.md",
        view,
        name,
        SPECS[view].plausible[name],
        rows.num_rows,
        assets.num_rows,
        ", ".join(named),
        extra={"view": view},
    )


# As a whole -----------------------------------------------------------------------------------------------------


def wrong_assets(view: str, snapshot: pa.Table, assets: pa.ChunkedArray) -> list[BrokenRule]:
    """Return where `snapshot` has other assets than `assets`, those that exist; one may have no telemetry.

    Rows that are set aside belong to it: their assets are not missing.
    """
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


def losses(view: str, snapshot: pa.Table, data_dir: DataDir, as_of: datetime, max_drop: float) -> list[BrokenRule]:
    """Return where `snapshot` has lost rows or known values since the newest earlier snapshot of `view`.

    A loss is more than the share `max_drop` of the rows, and at least `SMALLEST_LOSS` of them or all; rows that are set
    aside are not lost. A snapshot that cannot be read is passed over, which is logged, and the one before it taken.
    Nothing is lost where there is no earlier one.
    """
    for path in snapshots(data_dir, view, last=as_of - timedelta(microseconds=1)):
        try:
            return list(_losses_since(path, view, snapshot, max_drop))
        except (OSError, pa.ArrowException, KeyError):
            logger.warning("%s: not compared with the snapshot %s, which cannot be read", view, path)
    return []


def _losses_since(path: Snapshot, view: str, snapshot: pa.Table, max_drop: float) -> Iterator[BrokenRule]:
    footer = open_snapshot(path).metadata
    rows, rows_before = snapshot.num_rows, footer.num_rows
    lost = rows_before - rows
    if (lost >= SMALLEST_LOSS or not rows) and lost > max_drop * rows_before:
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

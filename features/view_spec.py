"""What the extraction has to know of a feature view that its definition does not say: how its rows come about."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, Field
from feast.types import FeastType, Float32, Float64, Int32, String

from features.fields import PLAUSIBLE, Range, has_plausible_range, range_of

TIMESTAMP = pa.timestamp("us", tz="UTC")

_ARROW_TYPES: dict[FeastType, pa.DataType] = {
    String: pa.string(),
    Int32: pa.int32(),
    Float32: pa.float32(),
    Float64: pa.float64(),
}

# Rows of one instant as the SQL returns them, and the rows of the views that it needs, in; the rows with the features
# that Python computes out.
Completion = Callable[[pa.Table, Mapping[str, pa.Table]], pa.Table]


@dataclass(frozen=True)
class Need:
    """Columns that a view needs of the extracted rows of another one, as of the same instant.

    Where the database of the other one fails: with `without`, the rows are made all the same, and it says what they
    lack; else the newest earlier snapshot of `view` stands in. `what` names the columns in messages.
    """

    view: str
    columns: tuple[str, ...]
    what: str
    without: str | None = None


@dataclass(frozen=True)
class ViewSpec:
    """A feature view with its SQL and what Python adds to the SQL's rows.

    The tags of the definition name the `engine` and the file of the `sql`; features/backfill/<view>.sql, where there is
    one, reads many instants at once. The SQL returns asset_id, event_timestamp, the features but for those that are
    `computed` in Python, the `inputs` of `complete`, and newest_source_at: the newest fact that a row rests on.

    `every_asset` says that each asset that exists has a row, so that none may be missing. The rows have columns of the
    `watched` fields too, which are no features: a run tells where they, or features, are not plausible.
    `whole_tables` are those of PostgreSQL of which a row needs more than its own asset's: a shard of a run reads all of
    them.
    """

    definition: FeatureView
    inputs: tuple[pa.Field, ...] = ()
    computed: frozenset[str] = frozenset()
    needs: tuple[Need, ...] = ()
    complete: Completion = lambda rows, _others: rows
    every_asset: bool = True
    watched: tuple[Field, ...] = ()
    whole_tables: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The name of the view."""
        return self.definition.name

    @property
    def engine(self) -> str:
        """The database that its SQL is for: `postgresql` or `clickhouse`."""
        return self.definition.tags["engine"]

    @property
    def rows_of(self) -> str:
        """The view whose SQL returns the rows: its own name, or that of a view with the features among its `inputs`."""
        return Path(self.definition.tags["sql"]).stem

    @cached_property
    def plausible(self) -> dict[str, Range]:
        """The values that are likely of the features, and the watched quantities, whose tags say so."""
        fields = [*self.definition.features, *self.watched]
        return {field.name: range_of(field, PLAUSIBLE) for field in fields if has_plausible_range(field)}

    @cached_property
    def snapshot_schema(self) -> pa.Schema:
        """The exact columns of a snapshot: asset_id, event_timestamp, created (none of them NULL), then the features.

        Raises `KeyError` for a Feast type without an Arrow one.
        """
        features = [pa.field(field.name, _ARROW_TYPES[field.dtype]) for field in self.definition.features]
        return pa.schema(
            [
                pa.field("asset_id", pa.string(), nullable=False),
                pa.field("event_timestamp", TIMESTAMP, nullable=False),
                pa.field("created", TIMESTAMP, nullable=False),
                *features,
            ]
        )

    @cached_property
    def extracted_schema(self) -> pa.Schema:
        """The columns that the SQL returns, asset_id first."""
        left_out = {"created", *self.computed}
        columns = [field for field in self.snapshot_schema if field.name not in left_out]
        return pa.schema([*columns, *self.inputs, pa.field("newest_source_at", TIMESTAMP)])


def look_up(table: pa.Table, column: str, keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return `column` of `table` for each of `keys` of its `asset_id`, NULL where `table` has no such asset."""
    return table[column].take(pc.index_in(keys, value_set=table["asset_id"].combine_chunks()))

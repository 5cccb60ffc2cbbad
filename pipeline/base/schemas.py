"""The Arrow schema of a snapshot, derived from the definition of its feature view."""

from functools import cache

import pyarrow as pa
from feast import FeatureView
from feast.types import Float32, Float64, Int32, String

from features.asset_features import asset_features
from features.telemetry_features import telemetry_features
from features.work_order_features import work_order_features

TIMESTAMP = pa.timestamp("us", tz="UTC")

VIEWS: dict[str, FeatureView] = {view.name: view for view in (asset_features, work_order_features, telemetry_features)}

_ARROW_TYPES = {String: pa.string(), Int32: pa.int32(), Float32: pa.float32(), Float64: pa.float64()}


@cache
def snapshot_schema(view: str) -> pa.Schema:
    """Return the exact columns of a snapshot of `view`: key, event_timestamp, created, then the features in order.

    Key and times are not nullable. Raises `KeyError` for an unknown view or a Feast type without an Arrow one.
    """
    features = [pa.field(field.name, _ARROW_TYPES[field.dtype]) for field in VIEWS[view].features]
    return pa.schema(
        [
            pa.field("asset_id", pa.string(), nullable=False),
            pa.field("event_timestamp", TIMESTAMP, nullable=False),
            pa.field("created", TIMESTAMP, nullable=False),
            *features,
        ]
    )

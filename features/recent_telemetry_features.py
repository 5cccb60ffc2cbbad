"""How an asset has been running in the last day, and how far that is from its own month."""

from collections.abc import Mapping
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.types import Float32

from data_sources import snapshots_of
from entities import asset
from features.fields import ASSET_ID, GRID, WEATHER, feature
from features.view_spec import Need, ViewSpec

_UNITS = {"power": "kW", "voltage": "V", "current": "A", "temperature": "°C", "frequency": "Hz"}

recent_telemetry_features = FeatureView(
    name="recent_telemetry_features",
    entities=[asset],
    ttl=timedelta(days=7),
    source=snapshots_of("recent_telemetry_features"),
    description="The last day of every existing asset with telemetry in the last 90 d, beside its own month.",
    owner="ml-platform@dcmms.example",
    tags={"sql": "features/telemetry_features.sql", "engine": "clickhouse", "moves_with": WEATHER},
    # One pass over the buckets gives both views. As in telemetry_features, measurements have no range.
    schema=[
        ASSET_ID,
        *(
            field
            for quantity, unit in _UNITS.items()
            for field in (
                feature(
                    f"rolling_avg_{quantity}_1d",
                    Float32,
                    unit,
                    f"Mean {quantity} over the last day",
                    moves_with=GRID if quantity == "frequency" else None,
                ),
                feature(
                    f"rolling_std_{quantity}_1d",
                    Float32,
                    unit,
                    f"Standard deviation of {quantity} over the last day",
                    at_least=0,
                    moves_with=GRID if quantity == "frequency" else None,
                ),
            )
        ),
        feature(
            "max_abs_z_1d",
            Float32,
            "1",
            "Largest distance of a quantity's day from the mean of its 29 d before, in standard deviations of these",
            window="1 d, 30 d",
            at_least=0,
        ),
        feature(
            "power_ratio_1d_vs_30d",
            Float32,
            "1",
            "Mean power of a day over that of 30 d; NULL if that is not above 0",
            window="1 d, 30 d",
        ),
        feature(
            "temperature_shift_1d_vs_30d",
            Float32,
            "°C",
            "Mean temperature of the last day less that of 30 d",
            window="1 d, 30 d",
        ),
        feature(
            "zero_power_hours_1d",
            Float32,
            "hours",
            "Hours of the last day's buckets with an average power of at most 0",
        ),
    ],
)


def of_known_assets(telemetry: pa.Table, others: Mapping[str, pa.Table]) -> pa.Table:
    """Return the telemetry of the assets in `others["asset_features"]`; other telemetry is dropped."""
    assets = others["asset_features"]
    return telemetry.filter(pc.is_in(telemetry["asset_id"], value_set=assets["asset_id"].combine_chunks()))


spec = ViewSpec(
    recent_telemetry_features,
    needs=(Need("asset_features", (), what="the assets that exist"),),
    complete=of_known_assets,
    every_asset=False,
)

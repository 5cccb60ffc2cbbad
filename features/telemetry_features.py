"""How an asset has been running: what its sensors measured, what it produced and whether it was available."""

from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.types import Float32, Float64, Int32

from data_sources import snapshots_of
from entities import asset
from features.fields import ARRIVAL, ASSET_ID, GRID, NEVER, NOTHING, UNKNOWN, WEATHER, feature
from features.recent_telemetry_features import spec as recent_telemetry
from features.view_spec import Need, ViewSpec, look_up

telemetry_features = FeatureView(
    name="telemetry_features",
    entities=[asset],
    ttl=timedelta(days=90),
    source=snapshots_of("telemetry_features"),
    description="Measurements of every existing asset with telemetry in the last 90 d, weighted by samples.",
    owner="ml-platform@dcmms.example",
    tags={"sql": "features/telemetry_features.sql", "engine": "clickhouse", "moves_with": WEATHER},
    # Measurements have no range: a sensor that breaks reports -999, and one of them must not hold back a fleet.
    schema=[
        ASSET_ID,
        feature("rolling_avg_power_7d", Float32, "kW", "Mean power over 7 d"),
        feature("rolling_std_power_7d", Float32, "kW", "Standard deviation of power over 7 d", at_least=0),
        feature("rolling_min_power_7d", Float32, "kW", "Lowest power in 7 d"),
        feature("rolling_max_power_7d", Float32, "kW", "Highest power in 7 d"),
        feature("rolling_avg_power_30d", Float32, "kW", "Mean power over 30 d"),
        feature("rolling_std_power_30d", Float32, "kW", "Standard deviation of power over 30 d", at_least=0),
        feature("rolling_avg_voltage_7d", Float32, "V", "Mean voltage over 7 d"),
        feature("rolling_std_voltage_7d", Float32, "V", "Standard deviation of voltage over 7 d", at_least=0),
        feature("rolling_min_voltage_7d", Float32, "V", "Lowest voltage in 7 d"),
        feature("rolling_max_voltage_7d", Float32, "V", "Highest voltage in 7 d"),
        feature("rolling_avg_current_7d", Float32, "A", "Mean current over 7 d"),
        feature("rolling_std_current_7d", Float32, "A", "Standard deviation of current over 7 d", at_least=0),
        feature("rolling_avg_temperature_7d", Float32, "°C", "Mean temperature over 7 d"),
        feature("rolling_std_temperature_7d", Float32, "°C", "Standard deviation of temperature over 7 d", at_least=0),
        feature("rolling_max_temperature_7d", Float32, "°C", "Highest temperature in 7 d"),
        feature("rolling_avg_frequency_7d", Float32, "Hz", "Mean grid frequency over 7 d", moves_with=GRID),
        feature(
            "rolling_std_frequency_7d",
            Float32,
            "Hz",
            "Standard deviation of grid frequency over 7 d",
            at_least=0,
            moves_with=GRID,
        ),
        *(
            feature(
                f"anomaly_count_{days}d",
                Int32,
                "count",
                f"Anomalies over all metrics in {days} d",
                null=UNKNOWN,
                moves_with=NOTHING,
            )
            for days in (7, 30, 90)
        ),
        feature(
            "total_generation_kwh_7d",
            Float64,
            "kWh",
            "Net energy over 7 d: standstill consumption is negative",
        ),
        feature(
            "total_generation_kwh_30d",
            Float64,
            "kWh",
            "Net energy over 30 d: standstill consumption is negative",
        ),
        feature("avg_daily_generation_kwh", Float32, "kWh/d", "Energy of 30 d per 24 h with power data", window="30 d"),
        feature(
            "capacity_factor_7d",
            Float32,
            "1",
            "Energy of 7 d over rated power times hours with power data",
            plausible_at_least=-0.2,
            plausible_at_most=1.3,
        ),
        feature(
            "capacity_factor_30d",
            Float32,
            "1",
            "Energy of 30 d over rated power times hours with power data",
            plausible_at_least=-0.2,
            plausible_at_most=1.3,
        ),
        feature(
            "availability_7d",
            Float32,
            "1",
            "Share of the site's productive time of 7 d in which it produced",
            at_least=0,
            at_most=1,
        ),
        feature(
            "availability_30d",
            Float32,
            "1",
            "Share of the site's productive time of 30 d in which it produced",
            at_least=0,
            at_most=1,
        ),
        feature(
            "telemetry_coverage_7d",
            Float32,
            "1",
            "Share of the clock grid's cells of 7 d in which a bucket with power data starts; 0 where 90 d have some",
            at_least=0,
            at_most=1,
            plausible_at_least=0.5,
            moves_with=ARRIVAL,
        ),
        feature(
            "hours_since_last_telemetry",
            Float32,
            "hours",
            "Time since the newest bucket of any metric ended",
            window="90 d",
            null=NEVER,
            at_most=90 * 24,
            moves_with=ARRIVAL,
            source_limit_hours=24,
        ),
    ],
)


LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def with_capacity_factors(telemetry: pa.Table, others: Mapping[str, pa.Table]) -> pa.Table:
    """Return the telemetry of the assets in `others["asset_features"]` with its capacity factors.

    That has `asset_id` and `installed_capacity_kw` of every asset that exists; other telemetry is dropped.
    """
    assets = others["asset_features"]
    known = telemetry.filter(pc.is_in(telemetry["asset_id"], value_set=assets["asset_id"].combine_chunks()))
    capacity = look_up(assets, "installed_capacity_kw", known["asset_id"])
    for window in ("7d", "30d"):
        possible = pc.multiply(capacity, known[f"power_hours_{window}"])
        factor = pc.divide(known[f"total_generation_kwh_{window}"], possible)
        # of a rated power so small that a Float32 cannot hold the factor there is none; the comparison is false for NaN
        is_held = pc.less_equal(pc.abs(factor), LARGEST_FLOAT32)
        held = pc.if_else(is_held, factor, None).cast(pa.float32(), safe=False)
        known = known.append_column(f"capacity_factor_{window}", held)
    return known


spec = ViewSpec(
    telemetry_features,
    inputs=(
        pa.field("power_hours_7d", pa.float64()),
        pa.field("power_hours_30d", pa.float64()),
        *list(recent_telemetry.snapshot_schema)[3:],
    ),
    computed=frozenset({"capacity_factor_7d", "capacity_factor_30d", "availability_7d", "availability_30d"}),
    needs=(Need("asset_features", ("installed_capacity_kw",), what="assets and their capacities"),),
    complete=with_capacity_factors,
    every_asset=False,
    watched=(
        feature(
            "power_variation_1d",
            Float32,
            "1",
            "Highest less lowest bucket average of power in 1 d, over the larger amount of both; NULL at standstill, "
            "up to 1 % of the usual daily peak, and where less than 12 h have power data",
            # a frozen value is 0 but for the rounding of its averages
            plausible_at_least=1e-6,
        ),
    ),
)

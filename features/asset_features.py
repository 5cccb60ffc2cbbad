"""What an asset is, how it has been maintained so far, and how healthy it is."""

from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.types import Float32, Float64, Int32, String
from numpy.typing import NDArray

from data_sources import snapshots_of
from entities import asset
from features.fields import ALL_TIME, ASSET_ID, AT_T, COMES_AND_GOES, NEVER, TIME, feature
from features.health_score import health_score
from features.view_spec import Need, ViewSpec, look_up

asset_features = FeatureView(
    name="asset_features",
    entities=[asset],
    ttl=timedelta(days=365),
    source=snapshots_of("asset_features"),
    description="Master data, maintenance record and health of every asset that exists at the as-of instant.",
    owner="ml-platform@dcmms.example",
    tags={"sql": "features/asset_features.sql", "engine": "postgresql"},
    schema=[
        ASSET_ID,
        feature(
            "tenant_id", String, "text", "Owner of the asset: tenants.id as lower-case text", window=AT_T, null=NEVER
        ),
        feature("site_id", String, "text", "Site of the asset: sites.id as lower-case text", window=AT_T, null=NEVER),
        feature(
            "asset_type",
            String,
            "text",
            "Kind of equipment: inverter, turbine, transformer, ...",
            window=AT_T,
            null=NEVER,
        ),
        feature(
            "asset_status",
            String,
            "text",
            "Operational status; NULL where the asset's row changed later",
            window=AT_T,
            null=COMES_AND_GOES,
            moves_with=TIME,  # dCMMS keeps no history of it: backfilled snapshots know few
        ),
        feature(
            "asset_age_months",
            Int32,
            "months",
            "Whole months since the installation; NULL without its date, or with a placeholder for one",
            window=AT_T,
            moves_with=TIME,
        ),
        *(
            feature(f"{kind}_work_orders", Int32, "count", meaning, window=ALL_TIME, moves_with=TIME)
            for kind, meaning in (
                ("total", "Work orders so far, without the cancelled ones"),
                ("corrective", "Corrective work orders so far"),
                ("preventive", "Preventive work orders so far"),
            )
        ),
        feature(
            "days_since_last_maintenance",
            Int32,
            "days",
            "Whole days since any maintenance was completed: at its end, its last task or its last edit",
            window=ALL_TIME,
        ),
        feature(
            "days_since_last_corrective_wo",
            Int32,
            "days",
            "Whole days since a corrective repair was completed",
            window=ALL_TIME,
        ),
        feature(
            "mttr_hours",
            Float32,
            "hours",
            "Mean time from a failure's report to its restoration (EN 13306)",
            window=ALL_TIME,
        ),
        feature(
            "mtbf_hours",
            Float32,
            "hours",
            "Mean operating time between failures (EN 15341)",
            window=ALL_TIME,
            moves_with=TIME,  # of an asset with one failure it is its age
        ),
        feature(
            "health_score",
            Float32,
            "points of 100",
            "Latest recorded score of the last 7 d from 0 to 100, else dCMMS's scoring rules",
            window="7 d, 30 d, all time",
            null=NEVER,
        ),
        feature("recent_alarms_30d", Int32, "count", "Alerts triggered in the last 30 d"),
        feature("recent_critical_alarms_30d", Int32, "count", "Critical alerts triggered in the last 30 d"),
        feature(
            "installed_capacity_kw",
            Float64,
            "kW",
            "Rated power, of a number and W, kW, MW or GW (p, ac, dc); NULL where no readable figure is recorded",
            window=AT_T,
            above=0,
        ),
        feature("manufacturer", String, "text", "Manufacturer; NULL if empty", window=AT_T),
        feature("model", String, "text", "Model; NULL if empty", window=AT_T),
    ],
)


def with_health_score(assets: pa.Table, others: Mapping[str, pa.Table]) -> pa.Table:
    """Return `assets` with `health_score` computed where none was recorded.

    `others["telemetry_features"]` has the anomalies of 7 d; without it that component of the score is left out.
    """
    anomalies = np.full(assets.num_rows, np.nan)
    if (telemetry := others.get("telemetry_features")) is not None:
        anomalies = _floats(look_up(telemetry, "anomaly_count_7d", assets["asset_id"]))
    computed = health_score(
        alarms_30d=_floats(assets["recent_alarms_30d"]),
        critical_alarms_30d=_floats(assets["recent_critical_alarms_30d"]),
        wo_count_30d=_floats(assets["wo_count_30d"]),
        corrective_wo_count_30d=_floats(assets["corrective_wo_count_30d"]),
        anomaly_count_7d=anomalies,
        asset_age_months=_floats(assets["asset_age_months"]),
        days_since_preventive=_floats(assets["days_since_last_preventive_completion"]),
    )
    score = pc.coalesce(assets["health_score"], pa.array(computed.astype(np.float32)))
    return assets.set_column(assets.schema.get_field_index("health_score"), "health_score", score)


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column as doubles with NaN for NULL."""
    return np.asarray(column.cast(pa.float64()), dtype=np.float64)


spec = ViewSpec(
    asset_features,
    inputs=(
        pa.field("wo_count_30d", pa.int32()),
        pa.field("corrective_wo_count_30d", pa.int32()),
        pa.field("days_since_last_preventive_completion", pa.int32()),
    ),
    needs=(
        Need(
            "telemetry_features",
            ("anomaly_count_7d",),
            what="the anomalies",
            without="health_score is computed without its telemetry component",
        ),
    ),
    complete=with_health_score,
)

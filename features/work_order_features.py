"""How much work an asset has needed lately, of which kind, and how it was handled."""

import math
from datetime import timedelta

from feast import FeatureView
from feast.types import Float32, Int32

from data_sources import snapshots_of
from entities import asset
from features.fields import ALL_TIME, ASSET_ID, COMES_AND_GOES, feature
from features.view_spec import ViewSpec

work_order_features = FeatureView(
    name="work_order_features",
    entities=[asset],
    ttl=timedelta(days=365),
    source=snapshots_of("work_order_features"),
    description="Work orders of every asset that exists at the as-of instant, without the cancelled ones.",
    owner="ml-platform@dcmms.example",
    tags={"sql": "features/work_order_features.sql", "engine": "postgresql"},
    schema=[
        ASSET_ID,
        feature("wo_count_7d", Int32, "count", "Work orders created in the last 7 d"),
        feature("wo_count_30d", Int32, "count", "Work orders created in the last 30 d"),
        feature("wo_count_90d", Int32, "count", "Work orders created in the last 90 d"),
        feature("wo_count_365d", Int32, "count", "Work orders created in the last 365 d"),
        feature("corrective_wo_count_7d", Int32, "count", "Corrective work orders created in the last 7 d"),
        feature("corrective_wo_count_30d", Int32, "count", "Corrective work orders created in the last 30 d"),
        feature("corrective_wo_count_90d", Int32, "count", "Corrective work orders created in the last 90 d"),
        feature("preventive_wo_count_30d", Int32, "count", "Preventive work orders created in the last 30 d"),
        feature("preventive_wo_count_90d", Int32, "count", "Preventive work orders created in the last 90 d"),
        feature("emergency_wo_count_30d", Int32, "count", "Emergency work orders created in the last 30 d"),
        feature("emergency_wo_count_90d", Int32, "count", "Emergency work orders created in the last 90 d"),
        feature(
            "avg_wo_completion_hours_30d",
            Float32,
            "hours",
            "Mean creation-to-completion time of those completed in 30 d",
            null=COMES_AND_GOES,
        ),
        feature("overdue_wo_count_30d", Int32, "count", "Work orders due in the last 30 d and not completed"),
        feature(
            "wo_completion_rate_30d",
            Float32,
            "percent",
            "Share of those created in the last 30 d that are completed",
            null=COMES_AND_GOES,
        ),
        feature(
            "critical_wo_count_30d",
            Int32,
            "count",
            "Work orders of critical priority created in the last 30 d",
        ),
        feature(
            "high_priority_wo_count_30d",
            Int32,
            "count",
            "Work orders of high priority created in the last 30 d",
        ),
        feature(
            "wo_count_trend_30d_vs_90d",
            Float32,
            "ratio",
            "Daily rate of 30 d over daily rate of 90 d; 1 is steady",
            window="30 d, 90 d",
            null=COMES_AND_GOES,
            at_least=0,
            at_most=3,
        ),
        feature(
            "corrective_wo_ratio_30d",
            Float32,
            "ratio",
            "Corrective share of the work orders created in the last 30 d",
            null=COMES_AND_GOES,
            at_least=0,
            at_most=1,
        ),
        feature(
            "repeat_failure_count_90d",
            Int32,
            "count",
            "Failures in 90 d within 30 d after another failure's repair",
        ),
        feature(
            "days_since_last_wo",
            Int32,
            "days",
            "Whole days since a work order was created; NULL if never",
            window=ALL_TIME,
            source_limit_hours=math.inf,
        ),
        feature(
            "days_since_last_corrective_wo",
            Int32,
            "days",
            "Whole days since a corrective work order was created",
            window=ALL_TIME,
        ),
        feature(
            "days_since_last_preventive_wo",
            Int32,
            "days",
            "Whole days since a preventive work order was created",
            window=ALL_TIME,
        ),
    ],
)

spec = ViewSpec(work_order_features)

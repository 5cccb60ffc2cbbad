"""Which alarms an asset has raised lately, and what such alarms have led to in its tenant before."""

import math
from datetime import timedelta

from feast import FeatureView
from feast.types import Float32, Int32

from data_sources import snapshots_of
from entities import asset
from features.fields import ALL_TIME, ASSET_ID, AT_T, COMES_AND_GOES, NEVER, TIME, WEATHER, feature
from features.view_spec import ViewSpec

alarm_features = FeatureView(
    name="alarm_features",
    entities=[asset],
    ttl=timedelta(days=30),
    source=snapshots_of("alarm_features"),
    description="Alarms of every asset that exists at the as-of instant, and how often their rules announced failures.",
    owner="ml-platform@dcmms.example",
    tags={"sql": "features/alarm_features.sql", "engine": "postgresql"},
    schema=[
        ASSET_ID,
        feature("alarms_1d", Int32, "count", "Alarms triggered in the last day"),
        feature("alarms_7d", Int32, "count", "Alarms triggered in the last 7 d"),
        feature("critical_alarms_1d", Int32, "count", "Critical alarms triggered in the last day"),
        feature("high_alarms_1d", Int32, "count", "Alarms of high severity triggered in the last day"),
        feature("medium_alarms_1d", Int32, "count", "Alarms of medium severity triggered in the last day"),
        feature("low_alarms_1d", Int32, "count", "Alarms of low severity triggered in the last day"),
        feature("info_alarms_1d", Int32, "count", "Informative alarms triggered in the last day"),
        feature("distinct_alarm_rules_1d", Int32, "count", "Different rules whose alarms were triggered in a day"),
        feature("distinct_alarm_rules_7d", Int32, "count", "Different rules whose alarms were triggered in 7 d"),
        feature("max_alarms_per_hour_7d", Int32, "count", "Most alarms of the last 7 d in one clock hour of UTC"),
        feature(
            "hours_since_last_alarm",
            Float32,
            "hours",
            "Time since the latest alarm",
            window=ALL_TIME,
            moves_with=WEATHER,  # a storm raises those of a whole site
            source_limit_hours=math.inf,
        ),
        feature(
            "hours_since_last_critical_alarm", Float32, "hours", "Time since the latest critical alarm", window=ALL_TIME
        ),
        feature("open_alarms", Int32, "count", "Alarms that are not resolved", window=AT_T),
        feature(
            "days_since_oldest_open_alarm",
            Int32,
            "days",
            "Whole days since the oldest alarm that is not resolved",
            window=AT_T,
            null=COMES_AND_GOES,
            moves_with=TIME,
        ),
        *(
            feature(
                f"alarm_rule_risk_{days}d",
                Float32,
                "1",
                f"Chance that a rule of the alarms of {days} d announces a failure within a week, by the 372 d before",
                window=f"{days} d",
                null=NEVER,
                at_least=0,
                at_most=1,
                moves_with=TIME,  # the rates are of a history that grows
            )
            for days in (1, 7)
        ),
    ],
)

# The risk of a rule is that of its tenant.
spec = ViewSpec(alarm_features, whole_tables=frozenset({"alerts", "work_orders"}))

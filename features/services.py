"""What each model version reads: one feature service per version."""

from feast import FeatureService

from features.asset_features import asset_features
from features.telemetry_features import telemetry_features
from features.work_order_features import work_order_features

# Two views have a `days_since_last_corrective_wo`: completed in asset_features, created in work_order_features.
# A service answers by feature name, so it can carry one of them: the model reads the second.
_ASSET_FEATURES = [f.name for f in asset_features.features if f.name != "days_since_last_corrective_wo"]

predictive_maintenance_v1 = FeatureService(
    name="predictive_maintenance_v1",
    features=[asset_features[_ASSET_FEATURES], telemetry_features, work_order_features],
    description="Failures of an asset a week ahead, version 1.",
    owner="ml-platform@dcmms.example",
    tags={"model": "predictive_maintenance", "version": "1"},
)

"""What each model version reads: one feature service per version."""

from feast import FeatureService

from features.alarm_features import alarm_features
from features.asset_features import asset_features
from features.recent_telemetry_features import recent_telemetry_features
from features.telemetry_features import telemetry_features
from features.work_order_features import work_order_features

# Two views have a `days_since_last_corrective_wo`: completed in asset_features, created in work_order_features.
# A service answers by feature name, so it can carry one of them: the models read the second.

# Models are in use that were trained on version 1: it names its features and never changes.
_V1_ASSET_FEATURES = """
    tenant_id site_id asset_type asset_status asset_age_months total_work_orders corrective_work_orders
    preventive_work_orders days_since_last_maintenance mttr_hours mtbf_hours health_score recent_alarms_30d
    recent_critical_alarms_30d installed_capacity_kw manufacturer model
"""
_V1_WORK_ORDER_FEATURES = """
    wo_count_7d wo_count_30d wo_count_90d wo_count_365d corrective_wo_count_7d corrective_wo_count_30d
    corrective_wo_count_90d preventive_wo_count_30d preventive_wo_count_90d emergency_wo_count_30d
    emergency_wo_count_90d avg_wo_completion_hours_30d overdue_wo_count_30d wo_completion_rate_30d
    critical_wo_count_30d high_priority_wo_count_30d wo_count_trend_30d_vs_90d corrective_wo_ratio_30d
    repeat_failure_count_90d days_since_last_wo days_since_last_corrective_wo days_since_last_preventive_wo
"""
_V1_TELEMETRY_FEATURES = """
    rolling_avg_power_7d rolling_std_power_7d rolling_min_power_7d rolling_max_power_7d rolling_avg_power_30d
    rolling_std_power_30d rolling_avg_voltage_7d rolling_std_voltage_7d rolling_min_voltage_7d
    rolling_max_voltage_7d rolling_avg_current_7d rolling_std_current_7d rolling_avg_temperature_7d
    rolling_std_temperature_7d rolling_max_temperature_7d rolling_avg_frequency_7d rolling_std_frequency_7d
    anomaly_count_7d anomaly_count_30d anomaly_count_90d total_generation_kwh_7d total_generation_kwh_30d
    avg_daily_generation_kwh capacity_factor_7d capacity_factor_30d availability_7d availability_30d
    telemetry_coverage_7d hours_since_last_telemetry
"""

predictive_maintenance_v1 = FeatureService(
    name="predictive_maintenance_v1",
    features=[
        asset_features[_V1_ASSET_FEATURES.split()],
        telemetry_features[_V1_TELEMETRY_FEATURES.split()],
        work_order_features[_V1_WORK_ORDER_FEATURES.split()],
    ],
    description="Failures of an asset a week ahead, version 1.",
    owner="ml-platform@dcmms.example",
    tags={"model": "predictive_maintenance", "version": "1"},
)

# Version 2 has the features of version 1, how alarms come and what their rules led to, and the last day beside the
# month. It takes up whatever the views declare.
predictive_maintenance_v2 = FeatureService(
    name="predictive_maintenance_v2",
    features=[
        asset_features[[f.name for f in asset_features.features if f.name != "days_since_last_corrective_wo"]],
        telemetry_features,
        work_order_features,
        alarm_features,
        recent_telemetry_features,
    ],
    description="Failures of an asset a week ahead, version 2: alarms and their rules, and the last day.",
    owner="ml-platform@dcmms.example",
    tags={"model": "predictive_maintenance", "version": "2"},
)

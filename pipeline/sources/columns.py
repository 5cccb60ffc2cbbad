"""The columns of dCMMS's two databases that the SQL reads: what the doctor looks for, and deploy/sql grants."""

POSTGRES_COLUMNS = {
    "assets": (
        "id",
        "tenant_id",
        "site_id",
        "type",
        "manufacturer",
        "model",
        "installation_date",
        "status",
        "specifications",
        "metadata",
        "created_at",
        "updated_at",
    ),
    "work_orders": (
        "id",
        "asset_id",
        "type",
        "priority",
        "status",
        "scheduled_end",
        "actual_end",
        "created_at",
        "updated_at",
    ),
    "work_order_tasks": ("work_order_id", "completed_at"),
    "alerts": ("asset_id", "severity", "triggered_at"),
    "asset_health_scores": ("id", "asset_id", "score", "calculated_at", "created_at"),
    "wind_turbine_metadata": ("asset_id", "rated_power_mw"),
}
# Sites without wind turbines may lack these tables; columns they do not lack.
OPTIONAL_TABLES = ("wind_turbine_metadata",)

TELEMETRY_TABLE = "telemetry_aggregates"
TELEMETRY_COLUMNS = (
    "tenant_id",
    "asset_id",
    "site_id",
    "metric_name",
    "time_bucket",
    "avg_value",
    "min_value",
    "max_value",
    "sum_value",
    "count",
    "stddev_value",
    "anomaly_count",
)

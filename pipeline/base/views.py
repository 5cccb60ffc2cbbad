"""The names of feature views and publishing engines, for code that must not wait for Feast to be imported."""

ASSETS = "asset_features"
WORK_ORDERS = "work_order_features"
TELEMETRY = "telemetry_features"

VIEW_NAMES = (ASSETS, WORK_ORDERS, TELEMETRY)

ENGINE_REDIS = "redis"
ENGINE_FEAST = "feast"
ENGINES = (ENGINE_REDIS, ENGINE_FEAST)

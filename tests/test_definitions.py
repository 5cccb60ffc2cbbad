"""The definitions: every feature of the contract, with its type, its meaning and a column of its view's SQL."""

import re
from datetime import timedelta

import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float32, Float64, Int32, String

from entities import asset, site, work_order
from features.services import predictive_maintenance_v1
from pipeline import REPOSITORY
from pipeline.base.specs import SPECS, TIMESTAMP, VIEWS, snapshot_schema
from pipeline.sources.extract import query_of
from tests.dcmms import Dcmms, T

# The contract, by hand: names, types and units, in the order of the columns.
ASSET_FEATURES = """
    tenant_id                      String   text
    site_id                        String   text
    asset_type                     String   text
    asset_status                   String   text
    asset_age_months               Int32    months
    total_work_orders              Int32    count
    corrective_work_orders         Int32    count
    preventive_work_orders         Int32    count
    days_since_last_maintenance    Int32    days
    days_since_last_corrective_wo  Int32    days
    mttr_hours                     Float32  hours
    mtbf_hours                     Float32  hours
    health_score                   Float32  points of 100
    recent_alarms_30d              Int32    count
    recent_critical_alarms_30d     Int32    count
    installed_capacity_kw          Float64  kW
    manufacturer                   String   text
    model                          String   text
"""
WORK_ORDER_FEATURES = """
    wo_count_7d                    Int32    count
    wo_count_30d                   Int32    count
    wo_count_90d                   Int32    count
    wo_count_365d                  Int32    count
    corrective_wo_count_7d         Int32    count
    corrective_wo_count_30d        Int32    count
    corrective_wo_count_90d        Int32    count
    preventive_wo_count_30d        Int32    count
    preventive_wo_count_90d        Int32    count
    emergency_wo_count_30d         Int32    count
    emergency_wo_count_90d         Int32    count
    avg_wo_completion_hours_30d    Float32  hours
    overdue_wo_count_30d           Int32    count
    wo_completion_rate_30d         Float32  percent
    critical_wo_count_30d          Int32    count
    high_priority_wo_count_30d     Int32    count
    wo_count_trend_30d_vs_90d      Float32  ratio
    corrective_wo_ratio_30d        Float32  ratio
    repeat_failure_count_90d       Int32    count
    days_since_last_wo             Int32    days
    days_since_last_corrective_wo  Int32    days
    days_since_last_preventive_wo  Int32    days
"""
TELEMETRY_FEATURES = """
    rolling_avg_power_7d           Float32  kW
    rolling_std_power_7d           Float32  kW
    rolling_min_power_7d           Float32  kW
    rolling_max_power_7d           Float32  kW
    rolling_avg_power_30d          Float32  kW
    rolling_std_power_30d          Float32  kW
    rolling_avg_voltage_7d         Float32  V
    rolling_std_voltage_7d         Float32  V
    rolling_min_voltage_7d         Float32  V
    rolling_max_voltage_7d         Float32  V
    rolling_avg_current_7d         Float32  A
    rolling_std_current_7d         Float32  A
    rolling_avg_temperature_7d     Float32  °C
    rolling_std_temperature_7d     Float32  °C
    rolling_max_temperature_7d     Float32  °C
    rolling_avg_frequency_7d       Float32  Hz
    rolling_std_frequency_7d       Float32  Hz
    anomaly_count_7d               Int32    count
    anomaly_count_30d              Int32    count
    anomaly_count_90d              Int32    count
    total_generation_kwh_7d        Float64  kWh
    total_generation_kwh_30d       Float64  kWh
    avg_daily_generation_kwh       Float32  kWh/d
    capacity_factor_7d             Float32  1
    capacity_factor_30d            Float32  1
    availability_7d                Float32  1
    availability_30d               Float32  1
    telemetry_coverage_7d          Float32  1
    hours_since_last_telemetry     Float32  hours
"""

_TYPES = {"String": String, "Int32": Int32, "Float32": Float32, "Float64": Float64}


def _features(table: str) -> dict[str, tuple[object, str]]:
    rows = (line.split(maxsplit=2) for line in table.strip().splitlines())
    return {name: (_TYPES[dtype], unit) for name, dtype, unit in rows}


FEATURES = {
    "asset_features": _features(ASSET_FEATURES),
    "work_order_features": _features(WORK_ORDER_FEATURES),
    "telemetry_features": _features(TELEMETRY_FEATURES),
}
TTL_DAYS = {"asset_features": 365, "work_order_features": 365, "telemetry_features": 90}
ENGINES = {"asset_features": "postgresql", "work_order_features": "postgresql", "telemetry_features": "clickhouse"}

each_view = pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))


def described(name: str, text: str) -> bool:
    """Return whether `text` is one line that says more than the name."""
    return len(text) > 10 and "\n" not in text and text != name


# feature views ----------------------------------------------------------------------------------------------------


def test_contract_has_69_features_in_three_views() -> None:
    assert {name: len(features) for name, features in FEATURES.items()} == {
        "asset_features": 18,
        "work_order_features": 22,
        "telemetry_features": 29,
    }
    assert VIEWS.keys() == FEATURES.keys()
    assert all(name == view.name for name, view in VIEWS.items())


@each_view
def test_names_types_and_order_are_those_of_the_contract(view: FeatureView) -> None:
    declared = [(field.name, field.dtype) for field in view.features]
    assert declared == [(name, dtype) for name, (dtype, _) in FEATURES[view.name].items()]


@each_view
def test_description_of_each_field_ends_with_its_unit(view: FeatureView) -> None:
    for field in view.features:
        _, unit = FEATURES[view.name][field.name]
        assert field.description.endswith(f" [{unit}]"), field.name
        assert field.tags["unit"] == unit, field.name
        assert described(field.name, field.description.removesuffix(f"[{unit}]")), field.name
    descriptions = [field.description for field in view.features]
    assert len(set(descriptions)) == len(descriptions)


@each_view
def test_view_is_keyed_by_asset_and_lives_as_long_as_the_contract_says(view: FeatureView) -> None:
    assert view.entities == ["asset"]
    (key,) = view.entity_columns
    assert (key.name, key.dtype) == ("asset_id", String)
    assert key.description.endswith("[text]")
    assert view.ttl == timedelta(days=TTL_DAYS[view.name])
    assert view.online


@each_view
def test_view_has_owner_description_and_tags(view: FeatureView) -> None:
    assert "@" in view.owner
    assert described(view.name, view.description)
    assert view.tags == {"sql": f"features/{view.name}.sql", "engine": ENGINES[view.name]}
    assert (REPOSITORY / view.tags["sql"]).is_file()


@each_view
def test_source_names_its_time_columns(view: FeatureView) -> None:
    source = view.batch_source
    assert (source.timestamp_field, source.created_timestamp_column) == ("event_timestamp", "created")
    assert source.path.startswith("/")
    assert source.path.endswith(f"/{view.name}")
    assert "@" in source.owner
    assert described(source.name, source.description)


@each_view
def test_snapshot_has_key_times_and_features(view: FeatureView) -> None:
    schema = snapshot_schema(view.name)
    assert schema.names == ["asset_id", "event_timestamp", "created", *FEATURES[view.name]]
    assert [str(field.type) for field in schema][:3] == ["string", "timestamp[us, tz=UTC]", "timestamp[us, tz=UTC]"]
    arrow = {String: pa.string(), Int32: pa.int32(), Float32: pa.float32(), Float64: pa.float64()}
    assert [field.type for field in schema][3:] == [arrow[dtype] for dtype, _ in FEATURES[view.name].values()]
    assert [field.name for field in schema if not field.nullable] == ["asset_id", "event_timestamp", "created"]


# entities and feature services ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entity", "name", "join_key"),
    [(asset, "asset", "asset_id"), (work_order, "work_order", "work_order_id"), (site, "site", "site_id")],
)
def test_entity(entity: Entity, name: str, join_key: str) -> None:
    assert (entity.name, entity.join_key, entity.value_type) == (name, join_key, ValueType.STRING)
    assert described(name, entity.description)
    assert entity.tags["owner"]


def test_service_has_every_feature_once() -> None:
    projections = predictive_maintenance_v1.feature_view_projections
    fields: dict[str, list[Field]] = {projection.name: projection.features for projection in projections}
    expected = {view: list(features) for view, features in FEATURES.items()}
    # completed there, created in work_order_features: an answer is by feature name, so it can carry one of them
    expected["asset_features"].remove("days_since_last_corrective_wo")
    assert {view: [field.name for field in listed] for view, listed in fields.items()} == expected

    names = [name for features in expected.values() for name in features]
    assert len(names) == len(set(names)) == 68
    assert set(names) == {name for features in FEATURES.values() for name in features}


def test_service_has_name_owner_and_description() -> None:
    assert predictive_maintenance_v1.name == "predictive_maintenance_v1"
    assert "@" in predictive_maintenance_v1.owner
    assert described(predictive_maintenance_v1.name, predictive_maintenance_v1.description)


# what the databases return ------------------------------------------------------------------------------------------

_POSTGRES = {
    "text": pa.string(),
    "integer": pa.int32(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "timestamp with time zone": TIMESTAMP,
}
_CLICKHOUSE = {
    "String": pa.string(),
    "Int32": pa.int32(),
    "Float32": pa.float32(),
    "Float64": pa.float64(),
    "DateTime64(6, 'UTC')": TIMESTAMP,
}


def columns_of_postgres(dcmms: Dcmms, view: str) -> list[tuple[str, pa.DataType]]:
    """Return name and type of the columns of the SQL of `view`, in its order."""
    with dcmms.postgres.cursor() as cursor:
        cursor.execute("select set_config('feature_store.as_of', %s, true)", (T.isoformat(),))
        cursor.execute(f"select * from ({query_of(view)}) as view limit 0")
        names, oids = zip(*((column.name, column.type_code) for column in cursor.description), strict=True)
        cursor.execute("select array(select format_type(oid, null) from unnest(%s) as oid)", (list(oids),))
        (types,) = cursor.fetchone()
    dcmms.postgres.rollback()
    return [(name, _POSTGRES[database_type]) for name, database_type in zip(names, types, strict=True)]


def columns_of_clickhouse(dcmms: Dcmms, view: str) -> list[tuple[str, pa.DataType]]:
    """Return name and type of the columns of the SQL of `view`, in its order; nullable as the others."""
    parameters = {"as_of": T, "bucket_seconds": 3600, "offsets": [0], "sites": []}
    rows = dcmms.clickhouse.query(f"describe ({query_of(view)})", parameters=parameters).result_rows
    return [(name, _CLICKHOUSE[re.sub(r"^Nullable\((.*)\)$", r"\1", kind)]) for name, kind, *_ in rows]


# What the databases cannot say of a view: it needs both, see pipeline.sources.extract.
COMPUTED = {"capacity_factor_7d", "capacity_factor_30d"}


@pytest.mark.parametrize("view", VIEWS)
def test_sql_returns_the_fields(dcmms: Dcmms, view: str) -> None:
    read = columns_of_clickhouse if ENGINES[view] == "clickhouse" else columns_of_postgres
    columns = read(dcmms, view)
    schema = SPECS[view].extracted_schema
    in_sql_order = [schema.field("event_timestamp"), schema.field("asset_id"), *list(schema)[2:]]
    assert columns == [(field.name, field.type) for field in in_sql_order]

    features = [name for name in FEATURES[view] if name not in COMPUTED]
    assert [name for name, _ in columns[2 : 2 + len(features)]] == features

"""The definitions: every feature of the contract, with its type, its meaning and a column of its view's SQL."""

import re
from datetime import timedelta

import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureView, ValueType
from feast.types import Float32, Float64, Int32, String

from entities import asset, site, work_order
from features.fields import ARRIVAL, GRID, NOTHING, TIME, WEATHER
from features.services import predictive_maintenance_v1
from pipeline import REPOSITORY
from pipeline.base.specs import SERVICES, SPECS, TIMESTAMP, VIEWS, snapshot_schema
from pipeline.sources.extract import query_of
from pipeline.sources.telemetry import POWER_BY_NAME, query_parameters
from tests.dcmms import Dcmms, T

_TYPES = {"String": String, "Int32": Int32, "Float32": Float32, "Float64": Float64}


def _published(view: str) -> dict[str, tuple[object, str]]:
    """Return type and unit of each feature of `view` as docs/features.md, the contract, has them."""
    section = (REPOSITORY / "docs/features.md").read_text().split(f"\n## {view}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \|", section, re.MULTILINE)
    return {name: (_TYPES[dtype], unit) for name, dtype, unit in rows}


FEATURES = {view: _published(view) for view in VIEWS}

each_view = pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))


def described(name: str, text: str) -> bool:
    """Return whether `text` is one line that says more than the name."""
    return len(text) > 10 and "\n" not in text and text != name


# feature views ----------------------------------------------------------------------------------------------------


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
def test_view_is_keyed_by_asset_and_does_not_live_for_ever(view: FeatureView) -> None:
    assert view.entities == ["asset"]
    (key,) = view.entity_columns
    assert (key.name, key.dtype) == ("asset_id", String)
    assert key.description.endswith("[text]")
    assert view.ttl >= timedelta(days=1)
    assert view.online


@each_view
def test_view_has_owner_description_and_tags(view: FeatureView) -> None:
    assert "@" in view.owner
    assert described(view.name, view.description)
    spec = SPECS[view.name]
    assert view.tags.items() >= {"sql": f"features/{spec.rows_of}.sql", "engine": spec.engine}.items()
    assert view.tags.keys() <= {"sql", "engine", "moves_with"}
    moved = {tagged.tags.get("moves_with", NOTHING) for tagged in (view, *view.features)}
    assert moved <= {WEATHER, GRID, TIME, ARRIVAL, NOTHING}
    assert spec.rows_of in VIEWS
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
    assert entity.owner


def _members(service: FeatureService) -> list[str]:
    """Return view, name and type of each feature of a service, sorted."""
    return sorted(f"{p.name} {f.name} {f.dtype}" for p in service.feature_view_projections for f in p.features)


def test_version_1_is_frozen() -> None:
    frozen = (REPOSITORY / "tests/predictive_maintenance_v1.txt").read_text().splitlines()
    assert len(frozen) == 68
    assert _members(predictive_maintenance_v1) == frozen, "models are in use that read these: a change makes a version"


@pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))
def test_service_names_each_feature_once_and_says_what_it_is_for(service: FeatureService) -> None:
    names = [member.split()[1] for member in _members(service)]
    assert len(names) == len(set(names))
    assert "@" in service.owner
    assert described(service.name, service.description)


def test_newest_service_has_every_feature() -> None:
    newest = list(SERVICES.values())[-1]
    everything = {
        f"{view} {name} {dtype}" for view, features in FEATURES.items() for name, (dtype, _) in features.items()
    }
    # completed there, created in work_order_features: an answer is by feature name, so it can carry one of them
    assert everything - set(_members(newest)) == {"asset_features days_since_last_corrective_wo Int32"}


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
    """Return name and type of the columns of the SQL of `view` but for power, in its order; nullable as the others."""
    parameters = query_parameters(T, [0], 3600, [])
    *rows, power = dcmms.clickhouse.query(f"describe ({query_of(view)})", parameters=parameters).result_rows
    assert power[0] == POWER_BY_NAME.name
    return [(name, _CLICKHOUSE[re.sub(r"^Nullable\((.*)\)$", r"\1", kind)]) for name, kind, *_ in rows]


@pytest.mark.parametrize("view", VIEWS)
def test_sql_returns_the_fields(dcmms: Dcmms, view: str) -> None:
    read = columns_of_clickhouse if SPECS[view].engine == "clickhouse" else columns_of_postgres
    columns = read(dcmms, view)
    schema = SPECS[SPECS[view].rows_of].extracted_schema
    in_sql_order = [schema.field("event_timestamp"), schema.field("asset_id"), *list(schema)[2:]]
    assert columns == [(field.name, field.type) for field in in_sql_order]

    features = [name for name in FEATURES[view] if name not in SPECS[view].computed]
    assert [name for name, _ in columns if name in features] == features

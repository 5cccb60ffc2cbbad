"""Functions that somebody has put into the registry: what opens it refuses them, and runs none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from feast import OnDemandFeatureView
from feast.infra.registry.sql import feature_views, on_demand_feature_views, stream_feature_views
from feast.protos.feast.core.FeatureView_pb2 import FeatureView
from feast.protos.feast.core.OnDemandFeatureView_pb2 import OnDemandFeatureView as OnDemandFeatureViewProto
from feast.protos.feast.core.StreamFeatureView_pb2 import StreamFeatureView
from sqlalchemy import Table, delete, insert

from dev.servers import PostgresServer, RedisServer
from pipeline.operations.doctor.registry import check_registry
from pipeline.registry.feast_store import load_store_config, open_feature_store, registry_engine
from tests.commands import invoke
from tests.stores import apply_definitions, write_feature_store_yaml

PROJECT = "dcmms"


@pytest.fixture(scope="module")
def store(
    postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pytest.MonkeyPatch]:
    """A registry with the definitions, in the environment."""
    directory = tmp_path_factory.mktemp("stored-code")
    path = write_feature_store_yaml(directory, postgres, redis, "feast_stored_code")
    apply_definitions(path, directory / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURE_STORE_ENV_FILE", "/nonexistent")
        patch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
        patch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        patch.setenv("CLICKHOUSE_HOST", "127.0.0.1:1")
        patch.setenv("FEATURE_DATA_DIR", str(directory / "data"))
        yield patch


def on_demand(source: str) -> OnDemandFeatureViewProto:
    view = OnDemandFeatureViewProto()
    view.spec.name, view.spec.mode = "stowaway", "python"
    view.spec.feature_transformation.user_defined_function.body_text = source
    view.spec.feature_transformation.user_defined_function.name = "f"
    return view


def streaming(source: str) -> StreamFeatureView:
    view = StreamFeatureView()
    view.spec.name = "stowaway"
    view.spec.user_defined_function.body_text = source
    return view


def transforming(source: str) -> FeatureView:
    view = FeatureView()
    view.spec.name = "stowaway"
    view.spec.feature_transformation.user_defined_function.body_text = source
    return view


def nested(source: str) -> FeatureView:
    view = FeatureView()
    view.spec.name = "stowaway"
    view.spec.source_views.add().CopyFrom(transforming(source).spec)
    return view


def put(table: Table, view: Any, project: str = PROJECT) -> None:
    values = {"feature_view_name": "stowaway", "project_id": project, "last_updated_timestamp": 0}
    with open_feature_store() as opened, registry_engine(opened).begin() as connection:
        connection.execute(insert(table).values(values | {"feature_view_proto": view.SerializeToString()}))


@pytest.fixture
def remove(store: pytest.MonkeyPatch) -> Iterator[None]:
    """Take out of the registry what a test has put in."""
    with open_feature_store() as opened:
        yield
        with registry_engine(opened).begin() as connection:
            for table in (feature_views, stream_feature_views, on_demand_feature_views):
                connection.execute(delete(table).where(table.c.feature_view_name == "stowaway"))


@pytest.mark.usefixtures("remove")
@pytest.mark.parametrize(
    ("table", "view"),
    [
        (on_demand_feature_views, on_demand),
        (stream_feature_views, streaming),
        (feature_views, transforming),
        (feature_views, nested),
    ],
)
def test_code_in_the_registry_is_refused_and_not_run(table: Table, view: Callable[[str], Any], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    stored = view(f"open({str(canary)!r}, 'w').close()\ndef f(rows): return rows")
    put(table, stored)
    for command in (("--as-of", "2026-01-01T00:00:00Z"), ("status",), ("verify",), ("prune",)):
        result = invoke(*command)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert "stowaway would run code in everything that reads the registry" in result.stderr
        assert result.stderr.count("\n") == 1
    *_, code, definitions = check_registry(load_store_config())
    assert (code.name, code.state, definitions.state) == ("code", "fails", "not checked")
    assert "by SQL" in code.fix
    assert not canary.exists()
    if table is on_demand_feature_views:  # as in every reader of stock Feast, before it finds that there is no source
        with pytest.raises(ValueError, match="must be provided"):
            OnDemandFeatureView.from_proto(stored)
        assert canary.exists()


@pytest.mark.usefixtures("remove")
def test_another_projects_code_is_its_own_and_a_stream_without_code_is_none(tmp_path: Path) -> None:
    put(on_demand_feature_views, on_demand("raise SystemExit"), project="other")
    plain = StreamFeatureView()
    plain.spec.name = "stowaway"
    plain.spec.tags["owner"] = "somebody"
    put(stream_feature_views, plain)
    with open_feature_store() as opened:
        assert opened.list_feature_views()
    code = next(check for check in check_registry(load_store_config()) if check.name == "code")
    assert code.state == "ok"

"""Feast's registry: reachable, with the rights for registry, lock and ledger, and in step with the definitions."""

from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView
from feast.data_source import DataSource
from feast.diff.registry_diff import diff_registry_objects
from feast.infra.offline_stores.contrib.clickhouse_offline_store.clickhouse_source import ClickhouseSource
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.registry.registry import FeastObjectType
from feast.infra.registry.sql import (
    SqlRegistryConfig,
    entities,
    feature_services,
    feature_views,
    on_demand_feature_views,
    stream_feature_views,
)
from feast.infra.registry.sql import metadata as feast_tables
from feast.protos.feast.core.Entity_pb2 import Entity as EntityProto
from feast.protos.feast.core.FeatureService_pb2 import FeatureService as FeatureServiceProto
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.OnDemandFeatureView_pb2 import OnDemandFeatureView as OnDemandFeatureViewProto
from feast.protos.feast.core.StreamFeatureView_pb2 import StreamFeatureView as StreamFeatureViewProto
from feast.repo_config import RepoConfig
from sqlalchemy import Column, Connection, Engine, NullPool, create_engine, select, text
from sqlalchemy.exc import SQLAlchemyError

import entities as declared_entities
from data_sources import sources
from pipeline.base.errors import PipelineError, first_line
from pipeline.base.specs import SERVICES, VIEWS
from pipeline.operations.doctor.check import Check, State, Subject
from pipeline.operations.doctor.transport import check_transport
from pipeline.registry.ledger import RUNS
from pipeline.registry.lock import check_sessions, lock_holders
from pipeline.registry.stored_code import refuse_code

REGISTRY = Subject("Registry")
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 15

_GRANTS = "deploy/sql/postgres_registry.sql"
_APPLY = "run `feast apply` with the same environment"
_RIGHTS = text(Path(__file__).with_name("registry_rights.sql").read_text(encoding="utf-8"))
_MAY_CREATE = text(
    "select current_schema(), coalesce(has_schema_privilege(current_schema(), 'create'), false), current_user"
)


def check_registry(config: RepoConfig) -> Iterator[Check]:
    """Yield the checks of the registry and of what the runs keep in its database; nothing is written to it."""
    registry = config.registry
    if not isinstance(registry, SqlRegistryConfig) or not registry.path.startswith("postgres"):
        yield REGISTRY.fails(
            "type",
            "is not in PostgreSQL, where the lock of the runs and their ledger are",
            "set registry_type: sql and a path postgresql+psycopg://... in feature_store.yaml",
        )
        return
    try:
        engine = _engine(registry)
        connection = engine.connect()
    except Exception as error:  # SQLAlchemy, its driver, and the codecs of names each raise their own kinds
        yield REGISTRY.fails(
            "connection",
            first_line(error),
            "check FEAST_REGISTRY_URL (registry.path), that the server is up and lets this host in",
        )
        yield REGISTRY.not_checked(("TLS", "tables", "rights", "lock", "code", "definitions"), "no connection")
        return
    with connection:
        try:
            check_sessions(engine)
            yield from _connected(connection.execution_options(postgresql_readonly=True), config.project)
        except PipelineError as error:
            yield REGISTRY.failed("session", error)
        except SQLAlchemyError as error:
            yield REGISTRY.fails("session", first_line(error), "look at the server's log; then run doctor again")


def _engine(registry: SqlRegistryConfig) -> Engine:
    options = registry.sqlalchemy_config_kwargs
    arguments = options.get("connect_args", {}) | {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "feature_store doctor",
    }
    return create_engine(registry.path, poolclass=NullPool, connect_args=arguments)


def _connected(connection: Connection, project: str) -> Iterator[Check]:
    driver: Any = connection.connection.dbapi_connection
    info = driver.info
    yield REGISTRY.ok("connection", f"{info.user}@{info.host}:{info.port}/{info.dbname}")
    encrypted = bool(driver.pgconn.ssl_in_use)
    yield check_transport(
        REGISTRY,
        info.host,
        encrypted=encrypted,
        verified=encrypted and info.get_parameters().get("sslmode") == "verify-full",
        fix="append ?sslmode=verify-full&sslrootcert=/path/to/ca.pem to FEAST_REGISTRY_URL",
    )
    connection.execute(text("select set_config('statement_timeout', :limit, true)"), {"limit": f"{STATEMENT_SECONDS}s"})
    tables = [RUNS.name, *feast_tables.tables]
    found = {name: (exists, may) for name, exists, may in connection.execute(_RIGHTS, {"names": tables})}
    missing = [name for name in feast_tables.tables if not found[name][0]]
    if missing:
        yield REGISTRY.fails("tables", f"Feast's are not there: {', '.join(missing)}", f"{_APPLY}, which makes them")
    else:
        yield REGISTRY.ok("tables", f"{len(feast_tables.tables)} of Feast")
    rights = _rights(connection, found)
    yield rights
    yield _lock(connection, project)
    if missing or rights.state == State.FAILS:
        yield REGISTRY.not_checked(("code", "definitions"), "needs the tables and rights above")
        return
    code = _code(connection, project)
    yield code
    if code.state == State.FAILS:
        yield REGISTRY.not_checked(("definitions",), "reading them would run the code")
    else:
        yield from _definitions(connection, project)


def _rights(connection: Connection, found: Mapping[str, tuple[bool, bool]]) -> Check:
    """Return whether the role may write Feast's tables and the ledger, or make the ledger."""
    refused = [name for name, (exists, may) in found.items() if exists and not may]
    schema, may_create, user = connection.execute(_MAY_CREATE).one()
    if refused:
        return REGISTRY.fails(
            "rights",
            f"{user} may not select, insert and update {', '.join(refused)}",
            f"let it own these tables: see {_GRANTS}",
        )
    if not found[RUNS.name][0]:
        if not may_create:
            return REGISTRY.fails(
                "rights",
                f"{user} may make no table in schema {schema or '(none on the search_path)'}, and the first run makes "
                f"the ledger {RUNS.name}",
                f"grant create on its schema: see {_GRANTS}",
            )
        return REGISTRY.ok("rights", f"Feast's tables; the first run will make the ledger in schema {schema}")
    return REGISTRY.ok("rights", f"Feast's tables and the ledger in schema {schema}")


def _lock(connection: Connection, project: str) -> Check:
    holders = "; ".join(map(str, lock_holders(connection, project)))
    return REGISTRY.ok("lock", f"a run is busy: {holders}" if holders else "free, no run is busy")


def _code(connection: Connection, project: str) -> Check:
    kinds: dict[Column[bytes], Any] = {
        feature_views.c.feature_view_proto: FeatureViewProto,
        stream_feature_views.c.feature_view_proto: StreamFeatureViewProto,
        on_demand_feature_views.c.feature_view_proto: OnDemandFeatureViewProto,
    }
    try:
        refuse_code(view for column, proto in kinds.items() for view in _stored(connection, project, column, proto))
    except PipelineError as error:
        return REGISTRY.failed("code", error)
    return REGISTRY.ok("code", "no view that would run any in its readers")


def _stored(connection: Connection, project: str, column: Column[bytes], proto: Any) -> Iterator[Any]:
    rows = connection.execute(select(column).where(column.table.c.project_id == project)).scalars()
    return (proto.FromString(bytes(row)) for row in rows)


def _definitions(connection: Connection, project: str) -> Iterator[Check]:
    """Yield what `feast apply` would change: what runs and readers depend on fails, words only are a warning."""
    broken, worded = [], []
    for kind, stored, declared in _objects(connection, project):
        for name, definition in declared.items():
            if name not in stored:
                broken.append(f"{kind} {name} is not registered")
                continue
            changes = _changes(stored[name], definition)
            if decisive := [change for change in changes if change not in _WORDS]:
                broken.append(f"{kind} {name}: {_in_detail(stored[name], definition, decisive)}")
            elif changes:
                worded.append(f"{kind} {name}: {', '.join(changes)}")
        worded += [f"{kind} {name} is registered and no longer defined" for name in stored if name not in declared]
    if broken:
        more = f" (and {len(broken) - 3} more)" if len(broken) > 3 else ""
        yield REGISTRY.fails("definitions", f"{'; '.join(broken[:3])}{more}", _APPLY)
    elif worded:
        yield REGISTRY.warning("definitions", f"only in words: {'; '.join(worded[:3])}", _APPLY)
    else:
        yield REGISTRY.ok("definitions", f"project {project} is as defined, sources and all")


# Properties that neither runs nor readers depend on.
_WORDS = {"description", "tags", "owner"}
_TYPES = {Entity: FeastObjectType.ENTITY, FeatureView: FeastObjectType.FEATURE_VIEW}


def _objects(connection: Connection, project: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield each kind of object with those registered and those defined, by name."""

    def registered(column: Column[bytes], proto: Any, kind: Any) -> dict[str, Any]:
        objects = [kind.from_proto(stored) for stored in _stored(connection, project, column, proto)]
        return {item.name: item for item in objects if item.name != "__dummy"}

    own = [item for item in vars(declared_entities).values() if isinstance(item, Entity)]
    yield "entity", registered(entities.c.entity_proto, EntityProto, Entity), {item.name: item for item in own}
    yield (
        "feature view",
        registered(feature_views.c.feature_view_proto, FeatureViewProto, FeatureView),
        _with_sources_of_today(),
    )
    yield (
        "feature service",
        registered(feature_services.c.feature_service_proto, FeatureServiceProto, FeatureService),
        SERVICES,
    )


def _with_sources_of_today() -> dict[str, FeatureView]:
    """Return the views with their sources where the settings of now have them."""
    views, source_of = {name: copy(view) for name, view in VIEWS.items()}, sources()
    for name, view in views.items():
        view.batch_source = source_of(name)
    return views


def _changes(stored: Any, definition: Any) -> list[str]:
    kind = _TYPES.get(type(definition), FeastObjectType.FEATURE_SERVICE)
    difference = diff_registry_objects(stored, definition, kind)
    changes = [change.property_name for change in difference.feast_object_property_diffs]
    # the registry adds to a source when it was registered
    if "batch_source" in changes and (
        stored.batch_source == definition.batch_source or _is_of_an_engine(stored.batch_source, definition.batch_source)
    ):
        changes.remove("batch_source")
    # of a service it is in the sources of its views, too
    if "features" in changes and kind == FeastObjectType.FEATURE_SERVICE and _typed(stored) == _typed(definition):
        changes.remove("features")
    return changes


def _is_of_an_engine(stored: DataSource, definition: DataSource) -> bool:
    """Return whether a source is what the yaml of Spark or ClickHouse in deploy/ makes of the one that is defined."""
    if isinstance(stored, ClickhouseSource):
        return True
    return isinstance(stored, SparkSource) and stored.path == getattr(definition, "path", None)


def _typed(service: FeatureService) -> set[tuple[str, str, str]]:
    return {(view.name, f.name, str(f.dtype)) for view in service.feature_view_projections for f in view.features}


def _in_detail(stored: Any, definition: Any, changes: list[str]) -> str:
    """Return the changed properties; of a source the path, of features the names."""
    details = []
    for change in changes:
        path = getattr(stored.batch_source, "path", None) if change == "batch_source" else None
        if path and path != getattr(definition.batch_source, "path", None):
            details.append(f"its snapshots are registered in {path}")
        elif change == "features":
            names = sorted(_features(stored) ^ _features(definition))
            details.append(f"features {', '.join(names)}" if names else "types of features")
        else:
            details.append(change)
    return ", ".join(details)


def _features(item: Any) -> set[str]:
    """Return the names of the features of a view, or of all views of a service."""
    views = item.feature_view_projections if isinstance(item, FeatureService) else [item]
    return {field.name for view in views for field in view.features}

"""The Feast feature store that a run publishes through: its configuration, its registry and what is registered."""

import inspect
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from feast import FeatureStore, FeatureView, FileSource
from feast.errors import FeastObjectNotFoundException
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from feast.infra.online_stores.redis import RedisOnlineStoreConfig, RedisType
from feast.infra.registry.sql import SqlRegistry
from feast.repo_config import FeastConfigError, RepoConfig, load_repo_config
from pydantic import ValidationError
from redis import Redis
from sqlalchemy import Engine
from yaml import MarkedYAMLError, YAMLError

from pipeline import REPOSITORY
from pipeline.base import libpq
from pipeline.base.addresses import checked_postgres_url, checked_redis_connection
from pipeline.base.errors import PipelineError, Unavailable, first_line, redacted
from pipeline.base.places import OBJECTS, DataDir, Folder, Store
from pipeline.base.retries import attempts
from pipeline.base.settings import check_text
from pipeline.base.specs import VIEWS
from pipeline.registry.stored_code import refuse_code
from settings_file import in_environment, settings_file

# Of a connection that cannot be closed, as after a signal, the pool would write a stack trace among the lines of a run.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)


def load_store_config(path: Path | None = None) -> RepoConfig:
    """Return the configuration in `path`, by default `FEAST_FS_YAML_FILE_PATH`, or the repository's.

    Variables are those of the environment and of the settings file. Raises `PipelineError` where the file is missing,
    malformed or names a variable that is not set (Feast takes it literally), or an address in it would be misread.
    """
    with in_environment():
        return _loaded(path or store_config_path())


def store_config_path() -> Path:
    """Return the file of the configuration, with the environment as it is."""
    return Path(os.environ.get("FEAST_FS_YAML_FILE_PATH") or REPOSITORY / "feature_store.yaml")


def variables_in(path: Path) -> list[str]:
    """Return the variables that a feature_store.yaml names; raises `PipelineError` where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}") from error
    return sorted(set(re.findall(r"\$\{?(\w+)", re.sub(r"(?m)^\s*#.*$", "", text))))


def _loaded(path: Path) -> RepoConfig:
    check_text(variables_in(path))
    if unset := [name for name in variables_in(path) if name not in os.environ]:
        raise PipelineError(f"{path}: {', '.join(unset)} is not set in the environment or in {settings_file()}")
    try:
        config = load_repo_config(Path.cwd(), path)
        _check_addresses(config)
    except YAMLError as error:
        line = error.problem_mark.line + 1 if isinstance(error, MarkedYAMLError) and error.problem_mark else "?"
        raise PipelineError(
            f"{path.name} is no YAML in line {line}. In the value of a variable write ' as '' where the file has it "
            "in single quotes."
        ) from None
    except Exception as error:  # Feast and pydantic each raise their own kinds
        if re.search(r"offline_store:[^#]*?\btype:\s*['\"]?iceberg\b", path.read_text(encoding="utf-8")):
            raise PipelineError(
                f"{path.name}: Feast has no offline_store of the type iceberg. Write type: duckdb, and set "
                "FEATURE_SNAPSHOTS to iceberg://catalog/namespace: docs/object-storage.md"
            ) from None
        raise PipelineError(f"{path.name}: {_fault(error)}. See deploy/feature_store.yaml.") from None
    return config


@contextmanager
def open_feature_store(path: Path | None = None) -> Iterator[FeatureStore]:
    """Yield the feature store that `load_store_config` configures.

    The registry's connections are closed at the end. Raises `PipelineError` where `load_store_config` does, and where
    the registry is out of reach or holds views that would run code.
    """
    store = attempts()(_connected, _keeping_connections(load_store_config(path)))
    try:
        _refuse_code(store)
        yield store
    finally:
        if isinstance(store.registry, SqlRegistry):
            for engine in {store.registry.read_engine, store.registry.write_engine}:
                engine.dispose()


def _keeping_connections(config: RepoConfig) -> RepoConfig:
    """Let the registry's connections serve again and again.

    The file has a new one made for each use, for the workers that `feast serve` forks. Nothing is forked here, and
    Feast uses hundreds to register the definitions.
    """
    options = getattr(config.registry, "sqlalchemy_config_kwargs", {})
    if options.get("pool_recycle") == 0:
        options["pool_recycle"] = -1
    return config


def _connected(config: RepoConfig) -> FeatureStore:
    try:
        store = FeatureStore(config=config)
        store.registry.list_projects()
    except Exception as error:  # Feast, SQLAlchemy and its driver each raise their own kinds
        advice = "Check its path in feature_store.yaml, and that its database is up."
        raise registry_error(error, f"Feast registry: {first_line(error)}. {advice}") from error
    return store


def _refuse_code(store: FeatureStore) -> None:
    registry = getattr(store.registry, "cached_registry_proto", None) or store.registry.proto()
    views = (*registry.feature_views, *registry.stream_feature_views, *registry.on_demand_feature_views)
    refuse_code(view for view in views if view.spec.project == store.project)


def registry_engine(store: FeatureStore) -> Engine:
    """Return the connections to the registry's database, which the lock and the ledger share.

    Raises `PipelineError` where the registry is not in a database.
    """
    if not isinstance(store.registry, SqlRegistry):
        raise PipelineError("Feast registry: the lock and the ledger need registry_type: sql in feature_store.yaml")
    return store.registry.write_engine


def registry_error(error: Exception, text: str | None = None) -> PipelineError:
    """Return what to raise for `error`, of Feast, SQLAlchemy or the driver: `Unavailable` where it may pass."""
    cause = getattr(error, "orig", error)
    may_pass = isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) and libpq.may_pass(
        cause.sqlstate, str(cause)
    )
    text = text or f"Feast registry: {first_line(error)}. Is its database up?"
    return Unavailable(text) if may_pass else PipelineError(text)


def find_view(store: FeatureStore, name: str) -> FeatureView | None:
    """Return the registered feature view `name`, None where it is not registered."""
    return attempts()(_read_view, store, name)


def registered_view(store: FeatureStore, name: str) -> FeatureView:
    """Return the registered feature view `name`.

    Raises `PipelineError` where it is not registered, or with other names or types than its definition has.
    """
    view = find_view(store, name)
    if view is None:
        raise PipelineError(f"{name} is not registered in project {store.project}: run `feast apply`")
    if {(field.name, field.dtype) for field in view.features} != {(f.name, f.dtype) for f in VIEWS[name].features}:
        raise PipelineError(f"{name} is registered with other features than its definition has: run `feast apply`")
    return view


def registered_folder(view: FeatureView) -> Folder | None:
    """Return where the snapshots of `view` are registered to be, None where that is no place of ours."""
    source = view.batch_source
    if isinstance(source, FileSource):
        if source.path.startswith("s3://") and source.path.endswith(OBJECTS):
            place, _, name = source.path.removesuffix(OBJECTS).rpartition("/")
            return Store(place) / name
        return Path(source.path).resolve() if "://" not in source.path else None
    if isinstance(source, IcebergSource):
        return Store(f"iceberg://{source.catalog_name}/{source.namespace}") / source.iceberg_table
    return None


def is_kept_in(view: FeatureView, data_dir: DataDir) -> bool:
    """Return whether the snapshots of a registered view are in its folder of `data_dir`, or in no place of ours."""
    folder = data_dir / view.name
    return registered_folder(view) in (None, folder.resolve() if isinstance(folder, Path) else folder)


def check_data_dir(view: FeatureView, data_dir: DataDir) -> None:
    """Raise `PipelineError` where the snapshots of a registered view are somewhere else than in `data_dir`."""
    if not is_kept_in(view, data_dir):
        setting = "FEATURE_SNAPSHOTS" if isinstance(data_dir, Store) else "FEATURE_DATA_DIR"
        raise PipelineError(
            f"{view.name} is registered with its snapshots in {registered_folder(view)}, and {setting} is "
            f"{data_dir}: set it as it was, or run `feast apply` with it"
        )


def _check_addresses(config: RepoConfig) -> None:
    """Raise `ValueError` where a driver would misread an address, and keep the passwords in them out of messages."""
    for name in ("path", "read_path"):
        url = getattr(config.registry, name, None)
        if url and str(url).startswith("postgres"):
            _named(f"registry.{name}", checked_postgres_url, str(url))
    online = config.online_store
    if isinstance(online, RedisOnlineStoreConfig):
        options = inspect.signature(Redis).parameters.values()
        known = {each.name: each.annotation for each in options} if online.redis_type == RedisType.redis else None
        _named("online_store.connection_string", checked_redis_connection, online.connection_string, known)


def _named(name: str, check: Callable[..., str], *arguments: object) -> None:
    try:
        check(*arguments)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _fault(error: Exception) -> str:
    """Return what is wrong with a configuration; pydantic would repeat the values, passwords too."""
    cause = error.args[0] if isinstance(error, FeastConfigError) else error
    if isinstance(cause, ValidationError):
        faults = []
        for detail in cause.errors(include_url=False, include_input=False, include_context=False):
            place = ".".join(map(str, detail["loc"])) or "the file"
            faults.append(f"{place}: {redacted(detail['msg']).removeprefix('Value error, ').rstrip('.')}")
        return "; ".join(faults)
    return first_line(error)


def _read_view(store: FeatureStore, name: str) -> FeatureView | None:
    view = None
    try:
        view = store.get_feature_view(name)
        for entity in view.entities:
            store.get_entity(entity)
    except FeastObjectNotFoundException as error:
        if view:  # `feast teardown` removes the entities and leaves the views
            raise PipelineError(f"{name} is registered without its entity: {error}: run `feast apply`") from error
    except Exception as error:  # SQLAlchemy and the registry's driver each raise their own kinds
        raise registry_error(error) from error
    return view

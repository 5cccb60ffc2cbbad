"""The Feast feature store that a run publishes through: its configuration, its registry and what is registered."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException

from pipeline.config import REPOSITORY
from pipeline.errors import PipelineError, first_line
from pipeline.passing_faults import pipeline_error
from pipeline.retries import attempts
from pipeline.schemas import VIEWS


@contextmanager
def open_feature_store(path: Path | None = None) -> Iterator[FeatureStore]:
    """Yield the feature store that `path`, by default `FEAST_FS_YAML_FILE_PATH`, or the repository configures.

    The registry's connections are closed at the end. Raises `PipelineError` where the file is missing, malformed or
    names a variable that is not set (Feast takes it literally), or the registry is out of reach.
    """
    path = path or Path(os.environ.get("FEAST_FS_YAML_FILE_PATH") or REPOSITORY / "feature_store.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}") from error
    variables = re.findall(r"\$\{?(\w+)", re.sub(r"(?m)^\s*#.*$", "", text))
    if unset := sorted({name for name in variables if name not in os.environ}):
        raise PipelineError(f"{path}: {', '.join(unset)} is not set in the environment")
    store = attempts()(_connected, path)
    try:
        yield store
    finally:
        for engine in {getattr(store.registry, name, None) for name in ("read_engine", "write_engine")} - {None}:
            engine.dispose()


def _connected(path: Path) -> FeatureStore:
    try:
        store = FeatureStore(fs_yaml_file=path)
        store.registry.list_projects()
    except Exception as error:  # Feast, pydantic, yaml, SQLAlchemy and its driver each raise their own kinds
        text = f"{path.name}: {first_line(error)}. Check it, and that the registry database is up."
        raise pipeline_error(error, text) from error
    return store


def registry_error(error: BaseException) -> PipelineError:
    """Return what to raise for `error`, of the registry or its driver."""
    return pipeline_error(error, f"Feast registry: {first_line(error)}. Is its database up?")


def registered_view(store: FeatureStore, name: str) -> FeatureView:
    """Return the registered feature view `name`.

    Raises `PipelineError` where it is not registered, or with other names or types than its definition has.
    """
    view = attempts()(_read_view, store, name)
    if {(field.name, field.dtype) for field in view.features} != {(f.name, f.dtype) for f in VIEWS[name].features}:
        raise PipelineError(f"{name} is registered with other features than its definition has: run `feast apply`")
    return view


def _read_view(store: FeatureStore, name: str) -> FeatureView:
    try:
        return store.get_feature_view(name)
    except FeastObjectNotFoundException:
        raise PipelineError(f"{name} is not registered in project {store.project}: run `feast apply`") from None
    except Exception as error:  # SQLAlchemy and the registry's driver each raise their own kinds
        raise registry_error(error) from error

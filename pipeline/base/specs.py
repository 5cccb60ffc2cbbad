"""The feature views with all that is declared of them, found by their modules: features/<view>.py has a `spec`."""

from importlib import import_module

import pyarrow as pa
from feast import FeatureService, FeatureView

import features.services
from features.view_spec import TIMESTAMP as TIMESTAMP
from features.view_spec import ViewSpec
from pipeline.base.views import VIEW_NAMES

SPECS: dict[str, ViewSpec] = {name: import_module(f"features.{name}").spec for name in VIEW_NAMES}

VIEWS: dict[str, FeatureView] = {name: spec.definition for name, spec in SPECS.items()}

SERVICES: dict[str, FeatureService] = {
    item.name: item for item in vars(features.services).values() if isinstance(item, FeatureService)
}


def snapshot_schema(view: str) -> pa.Schema:
    """Return the exact columns of a snapshot of `view`; raises `KeyError` for an unknown one."""
    return SPECS[view].snapshot_schema

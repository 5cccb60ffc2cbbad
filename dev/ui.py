"""Feast's own pages on the definitions: a `feast ui` of their own for pictures and tests, and where to look."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from dev.servers import HOST, free_port
from dev.stack import REPOSITORY
from dev.web import started

#: What each page is asked for, below the address of the server.
PAGES = {
    "view": "/p/dcmms/feature-view/asset_features",
    "feature": "/p/dcmms/feature-view/asset_features/feature/mttr_hours",
    "lineage": "/p/dcmms/lineage",
    "service": "/p/dcmms/feature-service/predictive_maintenance_v2",
    "entity": "/p/dcmms/entity/asset",
}


def apply_to_a_file(directory: Path) -> Path:
    """Register the definitions in a registry that is a file, and return the feature_store.yaml that names it."""
    from feast import FeatureStore

    from entities import asset, project, site, work_order
    from pipeline.base.specs import SERVICES, VIEWS

    config = yaml.safe_load((REPOSITORY / "feature_store.yaml").read_text())
    config["registry"] = str(directory / "registry.db")
    path = directory / "feature_store.yaml"
    path.write_text(yaml.safe_dump(config))
    FeatureStore(fs_yaml_file=path).apply([project, asset, work_order, site, *VIEWS.values(), *SERVICES.values()])
    return path


@contextmanager
def feast_ui(feature_store_yaml: Path) -> Iterator[str]:
    """Run `feast ui` on a free port of the loopback interface for the length of the block; yield its address."""
    url = f"http://{HOST}:{(port := free_port())}"
    command = [Path(sys.executable).parent / "feast", "ui", "-h", HOST, "-p", str(port)]
    environment = os.environ | {"FEAST_FS_YAML_FILE_PATH": str(feature_store_yaml)}
    with started(command, environment, feature_store_yaml.with_name("ui.log")) as server:
        server.wait("feast ui", url)
        yield url

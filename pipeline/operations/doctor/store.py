"""feature_store.yaml: readable, well-formed, and of a kind that the runs can publish to."""

import os

import feast
from feast.infra.online_stores.redis import RedisOnlineStoreConfig
from feast.repo_config import RepoConfig

from pipeline.base.errors import PipelineError
from pipeline.online.redis.layout import TESTED_FEAST
from pipeline.operations.doctor.check import Check, Subject
from pipeline.operations.doctor.settings import origins
from pipeline.registry.feast_store import load_store_config, store_config_path, variables_in
from settings_file import in_environment

STORE = Subject("Feast")
# Feast's servers take a token with its value as the user's name for one of their own, before its signature is checked.
_BYPASS = "INTRA_COMMUNICATION_BASE64"


def read_store_config() -> tuple[list[Check], RepoConfig | None]:
    """Return the checks of the feature store's configuration, and the configuration where it is good."""
    try:
        config = load_store_config()
    except PipelineError as error:
        fix = "set FEAST_FS_YAML_FILE_PATH and what that file names in the environment or the settings file"
        return [STORE.fails("configuration", str(error), fix)], None
    with in_environment():
        path = store_config_path()
    where = origins(["FEAST_FS_YAML_FILE_PATH", *variables_in(path)])
    configuration = STORE.ok("configuration", f"project {config.project} of {path}: {where}")
    return [configuration, _version(config), _authentication()], config


def _version(config: RepoConfig) -> Check:
    if feast.__version__ not in TESTED_FEAST:
        return STORE.fails(
            "version",
            f"{feast.__version__}, and the layout of the values in Redis is tested with {', '.join(TESTED_FEAST)}",
            "install requirements.txt, or publish with --engine feast",
        )
    if isinstance(config.online_store, RedisOnlineStoreConfig) and config.entity_key_serialization_version != 3:
        return STORE.fails(
            "version",
            f"entity_key_serialization_version is {config.entity_key_serialization_version}",
            "set it to 3 in feature_store.yaml",
        )
    return STORE.ok("version", f"{feast.__version__}, whose layout of the values in Redis is tested")


def _authentication() -> Check:
    with in_environment():
        if not os.environ.get(_BYPASS):
            return STORE.ok("authentication", "no word lets anybody past it")
    return STORE.fails(
        "authentication",
        f"{_BYPASS} is set: a feature server with `auth` lets in whoever says its value in a token, signed or not",
        f"take {_BYPASS} out of the environment and the settings file, of the feature servers, too",
    )

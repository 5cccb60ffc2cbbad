"""The names of feature views and publishing engines, for code that must not wait for Feast to be imported."""

from pipeline import REPOSITORY

# A view has a module of its own name, and the SQL beside it.
VIEW_NAMES = tuple(sorted(path.stem for path in (REPOSITORY / "features").glob("*_features.py")))

# The view that has a row for each asset that exists.
ASSETS = "asset_features"

ENGINE_REDIS = "redis"
ENGINE_FEAST = "feast"
ENGINES = (ENGINE_REDIS, ENGINE_FEAST)

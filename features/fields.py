"""How a feature is declared: name, type, unit, window and meaning in one line."""

import re

from feast import Field
from feast.types import FeastType, String

AT_T = "at T"
ALL_TIME = "all time"


def feature(name: str, dtype: FeastType, unit: str, meaning: str, window: str | None = None) -> Field:
    """Return the field of one feature; its description is the meaning with the unit in brackets, its tags the rest.

    `unit` is "1" for a plain number between 0 and 1 or a ratio, "text" for a category, "count" for a number of things.
    `window` is how far before the as-of instant T the facts reach; a name that ends in `_30d` says it itself. Raises
    `ValueError` where neither does.
    """
    return Field(
        name=name,
        dtype=dtype,
        description=f"{meaning} [{unit}]",
        tags={"unit": unit, "window": window or _window_in(name)},
    )


def _window_in(name: str) -> str:
    days = re.search(r"_(\d+)d$", name)
    if not days:
        raise ValueError(f"{name}: no window in its name, so give one")
    return f"{days[1]} d"


ASSET_ID = Field(name="asset_id", dtype=String, description="The asset: assets.id as lower-case text [text]")

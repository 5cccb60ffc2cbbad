"""How a feature is declared: name, type, unit and meaning in one line."""

from feast import Field
from feast.types import FeastType, String


def feature(name: str, dtype: FeastType, unit: str, meaning: str) -> Field:
    """Return the field of one feature; its description is the meaning with the unit in brackets, its tag the unit.

    `unit` is "1" for a plain number between 0 and 1 or a ratio, "text" for a category, "count" for a number of things.
    """
    return Field(name=name, dtype=dtype, description=f"{meaning} [{unit}]", tags={"unit": unit})


ASSET_ID = Field(name="asset_id", dtype=String, description="The asset: assets.id as lower-case text [text]")

"""How a feature is declared: name, type, unit, window, allowed values and meaning in one line."""

import math
import re
from typing import NamedTuple

from feast import Field
from feast.types import FeastType, String

AT_T = "at T"
ALL_TIME = "all time"

# When a feature may be NULL. The quality gate refuses the first and a sudden rise of the second; the third depends on
# what happened lately: a month without work orders has no mean completion time.
NEVER = "never"
UNKNOWN = "unknown"
COMES_AND_GOES = "comes and goes"

# What the tags of likely values start with.
PLAUSIBLE = "plausible_"

# What moves the values of many assets at once while nothing is wrong, which `report` takes into account: weather does
# it to a site, and comes again in a year; the grid to all that are connected; time makes ages and all-time counts grow.
# How late facts arrive, a backfilled snapshot cannot know. A view may say it for its features, one of these `NOTHING`.
WEATHER, GRID, TIME, ARRIVAL, NOTHING = "weather", "grid", "time", "arrival", "nothing"

# Units whose values are not negative unless a feature is signed, and the largest value where there is one.
_LARGEST = {"count": None, "days": None, "months": None, "hours": None, "percent": 100, "points of 100": 100}


class Range(NamedTuple):
    """The values that a feature may have: finite ones from `lowest` to `highest`, with or without `lowest` itself."""

    lowest: float
    highest: float
    with_lowest: bool

    def __str__(self) -> str:
        """Return the interval as mathematics writes it, such as [0, 100], (0, inf) or (-inf, inf)."""
        opening, closing = "[" if self.with_lowest else "(", ")" if math.isinf(self.highest) else "]"
        return f"{opening}{self.lowest:g}, {self.highest:g}{closing}"


def feature(
    name: str,
    dtype: FeastType,
    unit: str,
    meaning: str,
    window: str | None = None,
    *,
    null: str | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    signed: bool = False,
    plausible_at_least: float | None = None,
    plausible_at_most: float | None = None,
    moves_with: str | None = None,
    psi_warns: float | None = None,
    psi_alarms: float | None = None,
    source_limit_hours: float | None = None,
) -> Field:
    """Return the field of one feature; its description is the meaning with the unit in brackets, its tags the rest.

    `unit` is "1" for a plain number between 0 and 1 or a ratio, "text" for a category, "count" for a number of things.
    `window` is how far before the as-of instant T the facts reach; a name that ends in `_30d` says it itself. Raises
    `ValueError` where neither does.

    `moves_with`, and the PSI that warns and alarms, are for `report`: docs/watching.md. So is `source_limit_hours` of a
    feature that is the time since an asset's newest fact: at a site, the youngest must not be older; `inf` is no limit.

    `null` is `NEVER`, `UNKNOWN` or `COMES_AND_GOES`, by default never for a count and unknown for anything else.
    `at_least`, `above` and `at_most` bound the values; durations and counts are not negative, percents and points end
    at 100 without saying so, but for a `signed` feature, such as days left, whose unit implies no bound. A bound
    belongs here only if every value that the definition can give lies within it. Values beyond `plausible_at_least` and
    `plausible_at_most` pass, and a run tells of them.
    """
    if unit in _LARGEST and not signed:
        at_least, at_most = at_least or 0, at_most or _LARGEST[unit]
    bounds = {
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "plausible_at_least": plausible_at_least,
        "plausible_at_most": plausible_at_most,
        "psi_warns": psi_warns,
        "psi_alarms": psi_alarms,
        "source_limit_hours": source_limit_hours,
    }
    return Field(
        name=name,
        dtype=dtype,
        description=f"{meaning} [{unit}]",
        tags={
            "unit": unit,
            "window": window or _window_in(name),
            "null": null or (NEVER if unit == "count" else UNKNOWN),
            **{bound: f"{value:g}" for bound, value in bounds.items() if value is not None},
            **({"moves_with": moves_with} if moves_with else {}),
        },
    )


def range_of(field: Field, kind: str = "") -> Range:
    """Return the values that the tags of a numeric feature allow; with `PLAUSIBLE`, those that it is likely to have."""
    tags = field.tags
    return Range(
        lowest=float(tags.get(f"{kind}at_least", tags.get(f"{kind}above", "-inf"))),
        highest=float(tags.get(f"{kind}at_most", "inf")),
        with_lowest=f"{kind}at_least" in tags,
    )


def has_plausible_range(field: Field) -> bool:
    """Return whether the tags of a feature say which values it is likely to have."""
    return any(tag.startswith(PLAUSIBLE) for tag in field.tags)


def _window_in(name: str) -> str:
    days = re.search(r"_(\d+)d$", name)
    if not days:
        raise ValueError(f"{name}: no window in its name, so give one")
    return f"{days[1]} d"


ASSET_ID = Field(name="asset_id", dtype=String, description="The asset: assets.id as lower-case text [text]")

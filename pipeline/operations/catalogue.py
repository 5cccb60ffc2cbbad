"""The feature catalogue: docs/features.md, generated from the definitions."""

from feast import FeatureService, FeatureView, Field

from features.failure_within_7d import LABEL, LABEL_SQL
from features.fields import PLAUSIBLE, has_plausible_range, range_of
from pipeline.base.specs import SERVICES, SPECS, VIEWS

_HEAD = """\
# Feature catalogue

<!-- Generated: python materialize_features.py catalogue > docs/features.md -->

Every feature is known as of one instant T, from facts at or before T. A window of 7 d is (T - 7 d, T]; "at T" is the
state then, "all time" everything so far. NULL is unknown, 0 is a measured zero. The unit "1" is a plain number.

The quality gate holds every row to the columns NULL and range. "never": each row has a value; "unknown": NULL must
not spread to many more rows than before; "comes and goes": it may. Numbers are finite and in the range where there is
one. What sensors measure has none: a broken one must not hold back a fleet. A value out of a plausible range passes,
and a run tells of it: see [plausibility.md](plausibility.md).
"""

_LABEL = f"""\
## Label

`{LABEL}` (Int32, 1 or 0): a corrective or emergency work order of the asset was created in (T, T + 7 d] and has not
been cancelled. SQL: [{LABEL_SQL}](../{LABEL_SQL}). It looks ahead: it belongs into training sets, never into a view.

    python materialize_features.py training-set --start 2025-01-01 --end 2025-12-24 --output training.parquet

joins it with the features as of each T: each value is that of the newest snapshot at or before T within the view's ttl.
Backfilled snapshots count from their instant. With `--live-snapshots`, right for snapshots that a schedule wrote, they
count from when they were created: what the online store would have answered at T (`filter_by_created_timestamp`).
"""


def catalogue() -> str:
    """Return the Markdown text of the catalogue: every view with its features, the label, the feature services."""
    parts = [
        _HEAD,
        *(_view_section(view) for view in VIEWS.values()),
        _LABEL,
        *(_service_section(service) for service in SERVICES.values()),
    ]
    return "\n".join(parts)


def _view_section(view: FeatureView) -> str:
    headings = ("feature", "type", "unit", "window", "NULL", "range", "meaning")
    rows = [headings, ("---",) * len(headings), *(_feature_row(f) for f in view.features)]
    watched = [
        f"Watched, and no feature: {name}, {ranges}. {meaning}.\n"
        for name, *_, ranges, meaning in map(_feature_row, SPECS[view.name].watched)
    ]
    facts = [
        f"{len(view.features)} features",
        f"entity `{view.entities[0]}`, key `{view.join_keys[0]}`",
        f"{view.tags['engine']}, SQL [{view.tags['sql']}](../{view.tags['sql']})",
        f"ttl {view.ttl.days} d" if view.ttl else "no ttl",
        f"owner {view.owner}",
    ]
    head = [f"## {view.name}", "", view.description, "", " · ".join(facts), ""]
    return "\n".join([*head, *map(_table_row, rows), "", *watched])


def _feature_row(field: Field) -> tuple[str, ...]:
    unit = field.tags["unit"]
    meaning = field.description.removesuffix(f" [{unit}]")
    tags = field.tags
    allowed = [str(range_of(field))] if tags.keys() & {"at_least", "above", "at_most"} else []
    likely = [f"plausible {range_of(field, PLAUSIBLE)}"] if has_plausible_range(field) else []
    ranges = "; ".join([*allowed, *likely])
    return f"`{field.name}`", str(field.dtype), unit, tags["window"], tags["null"], ranges, meaning


def _table_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _service_section(service: FeatureService) -> str:
    lines = [f"## Feature service {service.name}", "", f"{service.description} It reads:", ""]
    for projection in service.feature_view_projections:
        asked = {field.name for field in projection.features}
        left_out = [f"`{field.name}`" for field in VIEWS[projection.name].features if field.name not in asked]
        without = f" without {', '.join(left_out)}" if left_out else ""
        lines.append(f"- {len(asked)} features of `{projection.name}`{without}")
    return "\n".join([*lines, ""])

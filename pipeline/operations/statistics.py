"""Statistics of features as of an instant: what `store.get_feature_statistics` of older Feasts gave."""

from collections.abc import Sequence
from datetime import datetime

import duckdb
import pyarrow as pa
from feast import FeatureStore

from pipeline.base.errors import PipelineError
from pipeline.base.specs import TIMESTAMP
from pipeline.registry.feast_store import find_view, registered_folder
from pipeline.snapshots.files import newest_snapshot, read_snapshot, schema_of, snapshot_instant

# One row per feature. `min` to `max`, in the unit of the feature, are those of numbers, and NULL of texts.
_NUMBERS = ("mean", "std", "min", "p25", "p50", "p75", "max")
STATISTICS = pa.schema(
    [
        pa.field("feature", pa.string()),
        pa.field("as_of", TIMESTAMP),
        pa.field("count", pa.int64()),
        pa.field("null_count", pa.int64()),
        pa.field("null_rate", pa.float64()),
        pa.field("distinct", pa.int64()),
        *(pa.field(name, pa.float64()) for name in _NUMBERS),
    ]
)


def feature_statistics(
    store: FeatureStore, features: Sequence[str] | None, feature_view: str, as_of: datetime | None = None
) -> pa.Table:
    """Return a row of `STATISTICS` for each of `features`, names or `view:name`, in their order; of all with None.

    They are those of the newest snapshot of the registered view, at or before `as_of` where it is given. `count` is the
    rows whose value is not NULL, `std` that of a sample, `null_rate` 0 to 1, the quartiles are interpolated. Raises
    `PipelineError` where the view, a feature of it or such a snapshot does not exist.
    """
    view = find_view(store, feature_view)
    if view is None:
        raise PipelineError(f"{feature_view} is not registered in project {store.project}: run `feast apply`")
    known = [field.name for field in view.features]
    names = known if features is None else [name.removeprefix(f"{feature_view}:") for name in features]
    if unknown := [name for name in names if name not in known]:
        raise PipelineError(f"{feature_view} has no feature {', '.join(unknown)}: it has {', '.join(known)}")
    folder = registered_folder(view)
    path = newest_snapshot(folder.parent, folder.name, until=as_of) if folder else None
    if path is None:
        by_then = f" as of {as_of.isoformat()} or before" if as_of else ""
        raise PipelineError(f"{feature_view} has no snapshot{by_then} in {folder}")
    if missing := [name for name in names if name not in schema_of(path).names]:
        raise PipelineError(f"the snapshot {path} has no {', '.join(missing)}: a run brings it to the columns of now")
    if not names:
        return STATISTICS.empty_table()
    rows = read_snapshot(path, [*dict.fromkeys(names)])
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as engine:
        engine.register("snapshot", rows)
        query = " union all ".join(_statistics(place, rows.schema.field(name)) for place, name in enumerate(names))
        found = engine.sql(f"select * exclude (place) from ({query}) order by place").to_arrow_table()
    instant = pa.repeat(pa.scalar(snapshot_instant(path), TIMESTAMP), len(names))
    return found.add_column(1, "as_of", instant).cast(STATISTICS)


def _statistics(place: int, column: pa.Field) -> str:
    """Return the query of one row."""
    name = '"' + column.name.replace('"', '""') + '"'
    number = f"{name}::double" if pa.types.is_primitive(column.type) else "null::double"
    return f"""
        select
            {place} as place,
            '{column.name.replace("'", "''")}' as feature,
            count({name}) as "count",
            count(*) - count({name}) as null_count,
            (count(*) - count({name})) / nullif(count(*), 0) as null_rate,
            count(distinct {name}) as "distinct",
            avg({number}) as mean,
            stddev_samp({number}) as std,
            min({number}) as "min",
            quantile_cont({number}, 0.25) as p25,
            quantile_cont({number}, 0.5) as p50,
            quantile_cont({number}, 0.75) as p75,
            max({number}) as "max"
        from snapshot
    """

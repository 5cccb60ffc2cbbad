"""Training sets: what was known of an asset at an instant, joined with what happened to it afterwards.

An entity frame names the rows (asset and instant), PostgreSQL says which of them failed within a week, and
the snapshots of Feast's offline store add the features as of each row's instant.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore, FeatureView, FileSource
from feast.data_format import ParquetFormat
from feast.errors import FeastObjectNotFoundException
from feast.infra.offline_stores.duckdb import DuckDBOfflineStoreConfig

from features.failure_within_7d import LABEL, LABEL_HORIZON, LABEL_SQL
from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError, WrongOption, first_line
from pipeline.base.places import Folder
from pipeline.base.retries import retrying_for
from pipeline.base.settings import Settings
from pipeline.base.specs import TIMESTAMP, snapshot_schema
from pipeline.registry.feast_store import open_feature_store, registered_folder, registered_view, registry_error
from pipeline.snapshots.as_of_join import as_of_join
from pipeline.snapshots.parquet import write_parquet
from pipeline.sources.postgres import PostgresSource, open_postgres
from pipeline.sources.queries import query_text

logger = logging.getLogger(__name__)

SERVICE = "predictive_maintenance_v1"
WEEK = timedelta(days=7)

FRAME_SCHEMA = pa.schema([pa.field("asset_id", pa.string()), pa.field("event_timestamp", TIMESTAMP)])
_KEYS = ("asset_id", "event_timestamp", "created")
_LABELLED_SCHEMA = FRAME_SCHEMA.append(pa.field(LABEL, pa.int32()))
_ROW = "entity_row"
_ORDER = [(name, "ascending") for name in ("event_timestamp", "asset_id", _ROW)]


# The entity frame -----------------------------------------------------------------------------------------------


def entity_frame(assets: Sequence[str], start: datetime, end: datetime, every: timedelta = WEEK) -> pa.Table:
    """Return one row per asset and instant `start`, `start + every`, ... before `end`; columns as `FRAME_SCHEMA`.

    Raises `WrongOption` where an instant has no time zone, `start` is not before `end` or `every` not positive.
    """
    for name, instant in (("start", start), ("end", end)):
        if instant.tzinfo is None:
            raise WrongOption(
                f"The {name} {instant.isoformat()} has no time zone: write {instant.isoformat()}Z for UTC"
            )
    if start >= end:
        raise WrongOption(f"The start {start.isoformat()} is not before the end {end.isoformat()}")
    if every <= timedelta(0):
        raise WrongOption(f"Instants cannot be {every} apart: a step is longer than nothing")
    instants = np.arange(_utc(start), _utc(end), np.timedelta64(every))
    columns = [np.tile(np.asarray(assets, dtype=object), len(instants)), np.repeat(instants, len(assets))]
    return pa.table([pa.array(columns[0], pa.string()), pa.array(columns[1]).cast(TIMESTAMP)], schema=FRAME_SCHEMA)


def checked_frame(frame: pa.Table) -> pa.Table:
    """Return `frame` with `asset_id` and `event_timestamp` as `FRAME_SCHEMA` in front, its other columns as they are.

    Keys may be text or UUIDs in any case, instants timestamps of any unit and zone; a part of a microsecond is cut off.
    Raises `PipelineError` where one of the two is missing, of another type, NULL or out of range, there is no row, or
    a column is there twice or has the label's name.
    """
    names = [*frame.column_names, LABEL]
    if missing := [name for name in FRAME_SCHEMA.names if name not in names]:
        raise PipelineError(f"The entity frame has no column {' and no '.join(missing)}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise PipelineError(f"The entity frame has a column {twice[0]}, which the training set has, too: rename it")
    if not frame.num_rows:
        raise PipelineError("The entity frame is empty")
    if nulls := [name for name in FRAME_SCHEMA.names if frame[name].null_count]:
        raise PipelineError(f"{nulls[0]} of the entity frame is NULL in {frame[nulls[0]].null_count} rows")
    others = frame.drop_columns(FRAME_SCHEMA.names).replace_schema_metadata()
    columns = [_keys(frame["asset_id"]), _instants(frame["event_timestamp"]), *others.columns]
    return pa.table(columns, schema=pa.schema([*FRAME_SCHEMA, *others.schema]))


def _keys(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if kind == pa.uuid():
        uuids = pa.table({"asset_id": column})
        column = duckdb.from_arrow(uuids).select("asset_id::text as asset_id").to_arrow_table()["asset_id"]
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise PipelineError(f"asset_id of the entity frame is {kind}, no text: write assets.id as text or UUID")
    return pc.utf8_lower(column.cast(pa.string()))


def _instants(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise PipelineError(f"event_timestamp of the entity frame is {kind}, no instant with a time zone: write UTC")
    try:
        instants = (pc.floor_temporal(column, unit="microsecond") if kind.unit == "ns" else column).cast(TIMESTAMP)
        pc.min_max(instants).as_py()
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise PipelineError("event_timestamp of the entity frame is not within the years 1 to 9999") from error
    return instants


def known_assets(source: PostgresSource) -> list[str]:
    """Return the keys of all assets that dCMMS has, whenever they existed."""
    query = "select lower(id::text) as asset_id from assets order by 1"
    assets: list[str] = source.copy(query, [], pa.schema([FRAME_SCHEMA.field("asset_id")]))["asset_id"].to_pylist()
    return assets


# The label ------------------------------------------------------------------------------------------------------


def failure_labels(source: PostgresSource, frame: pa.Table, known_until: datetime | None = None) -> pa.Table:
    """Return the rows of `frame` that have a label, with `failure_within_7d` (1 or 0), ordered by instant and asset.

    1: a corrective or emergency work order was created in (T, T + 7 d] and has not been cancelled. Left out are
    assets that do not exist at T, and instants whose 7 d are not over at `known_until`, by default now: what the
    database does not know yet is no 0. Raises `PipelineError` for assets unknown to PostgreSQL, and where no row
    is left.
    """
    known_until = known_until or datetime.now(UTC)
    _refuse_unknown_assets(source, frame)
    last = known_until - LABEL_HORIZON
    due = frame.filter(pc.less_equal(frame["event_timestamp"], pa.scalar(last, TIMESTAMP)))
    if due.num_rows < frame.num_rows:
        logger.info("%d rows after %s have no label yet: left out", frame.num_rows - due.num_rows, last.isoformat())
    if not due.num_rows:
        raise PipelineError(f"No row has a label yet: the 7 d after it must be over, so the last is {last.isoformat()}")
    instants = pc.unique(due["event_timestamp"]).to_pylist()
    labels = source.copy(query_text(REPOSITORY / LABEL_SQL), instants, _LABELLED_SCHEMA)
    keys = due.select(FRAME_SCHEMA.names).append_column(_ROW, pa.array(np.arange(due.num_rows)))
    labelled = keys.join(labels, FRAME_SCHEMA.names, join_type="inner").sort_by(_ORDER)
    if not labelled.num_rows:
        raise PipelineError("None of the assets exists at its instant: start later, or check DATABASE_URL")
    return due.take(labelled[_ROW]).append_column(_LABELLED_SCHEMA.field(LABEL), labelled[LABEL]).combine_chunks()


def _refuse_unknown_assets(source: PostgresSource, frame: pa.Table) -> None:
    assets = pc.unique(frame["asset_id"])
    unknown = assets.filter(pc.invert(pc.is_in(assets, value_set=pa.array(known_assets(source), pa.string()))))
    if len(unknown):
        raise PipelineError(
            f"PostgreSQL knows no asset {unknown[0]}"
            + (f", nor {len(unknown) - 1} others of the entity frame" if len(unknown) > 1 else "")
            + ": asset_id is assets.id; check DATABASE_URL"
        )


# The features ---------------------------------------------------------------------------------------------------


def training_set(
    store: FeatureStore, frame: pa.Table, *, service: str = SERVICE, live_snapshots: bool = False
) -> pa.Table:
    """Return `frame` with the features of `service` as of each row's instant T, in the rows' order.

    A value is that of the asset's newest snapshot at or before T within the view's ttl, NULL without one: Feast's
    point-in-time join, of which our snapshots get one of their own (`as_of_join`), since Feast's pairs each row with
    every snapshot within the ttl. `frame` has `asset_id`, `event_timestamp` and whatever else goes along.

    `live_snapshots` is Feast's `filter_by_created_timestamp`; which one is right depends on how the snapshots came:

    * False for backfilled snapshots. They were computed long after their instant, from facts at or before it, and
      that is their proof against leaks; by their `created` none of them was there at T.
    * True for snapshots that a schedule wrote at their own time, and for them alone. A snapshot counts from when it
      was `created`: not the one that was still being computed at T, nor one that was computed again later from
      corrected facts. The model then learns from exactly what the online store would have answered at T.

    A history that was backfilled up to some day and scheduled since: join the rows before and after it apart.

    Raises `PipelineError` where the service or a view is not registered, a view has no snapshot for these rows, or
    `frame` has a column of a feature's name.
    """
    definition = _registered_service(store, service)
    views = {p.name: registered_view(store, p.name) for p in definition.feature_view_projections}
    schemas = {p.name: _schema_of(p.name, [f.name for f in p.features]) for p in definition.feature_view_projections}
    features = pa.schema([field for schema in schemas.values() for field in schema if field.name not in _KEYS])
    if clash := [name for name in frame.column_names if name in features.names]:
        raise PipelineError(f"The entity frame has a column {clash[0]}, as a feature of {service} is called: rename it")
    keys = frame.select(FRAME_SCHEMA.names)
    folders = {name: folder for name, view in views.items() if (folder := _folder(store, view))}
    if len(folders) == len(views):
        parts = [
            as_of_join(keys, folders[name], schemas[name], view.ttl, live_snapshots=live_snapshots)
            for name, view in views.items()
        ]
        columns = [column for part in parts for column in part.columns]
    else:
        columns = _joined_by_store(store, keys, definition, live_snapshots).select(features.names).columns
    values = pa.table(columns, names=features.names).cast(features)
    return pa.table([*frame.columns, *values.columns], schema=pa.schema([*frame.schema, *features])).combine_chunks()


def _registered_service(store: FeatureStore, name: str) -> FeatureService:
    try:
        return store.get_feature_service(name)
    except FeastObjectNotFoundException:
        raise PipelineError(f"{name} is not registered in project {store.project}: run `feast apply`") from None
    except Exception as error:  # SQLAlchemy and the registry's driver each raise their own kinds
        raise registry_error(error) from error


def _folder(store: FeatureStore, view: FeatureView) -> Folder | None:
    """Return where DuckDB can read the snapshots of `view`, on a disk or in a store of ours; None where it cannot."""
    source = view.batch_source
    if not isinstance(store.config.offline_store, DuckDBOfflineStoreConfig) or (
        isinstance(source, FileSource) and not isinstance(source.file_format, ParquetFormat)
    ):
        return None
    return registered_folder(view)


def _joined_by_store(store: FeatureStore, keys: pa.Table, service: FeatureService, live_snapshots: bool) -> pa.Table:
    """Return the features of `service` for `keys`, in their order, as the offline store of `store` joins them."""
    keys = keys.append_column("place", pa.array(np.arange(keys.num_rows)))
    # Stores differ in whether they answer equal rows once or twice, and in the order of all of them.
    distinct = keys.group_by(FRAME_SCHEMA.names).aggregate([("place", "min")]).rename_columns({"place_min": _ROW})
    try:
        job = store.get_historical_features(distinct.to_pandas(), service, filter_by_created_timestamp=live_snapshots)
        joined = job.to_arrow()
    except Exception as error:  # each offline store's engine raises its own kinds
        raise PipelineError(f"Offline store: {first_line(error)}. Check the snapshots in FEATURE_DATA_DIR.") from error
    rows = keys.join(distinct, FRAME_SCHEMA.names).sort_by("place")[_ROW]
    return joined.take(pc.index_in(rows, value_set=joined[_ROW].combine_chunks()))


def _schema_of(view: str, features: list[str]) -> pa.Schema:
    """Return the key and the times of a snapshot of `view`, then those `features`."""
    return pa.schema([snapshot_schema(view).field(name) for name in (*_KEYS, *features)])


def _utc(instant: datetime) -> np.datetime64:
    """Return an aware instant as NumPy has it: UTC, in microseconds."""
    return np.datetime64(instant.astimezone(UTC).replace(tzinfo=None), "us")


# The command ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingSetSummary:
    """What a training set holds: rows, distinct assets and instants, rows with a failure, features; and its cost."""

    rows: int
    assets: int
    instants: int
    positives: int
    features: int
    seconds: float

    def table(self) -> str:
        """Return the figures as lines of text, a name and a number each."""
        lines = [(name, f"{value:,.1f}" if name == "seconds" else f"{value:,}") for name, value in vars(self).items()]
        return "\n".join(f"{name:<10}{value:>12}" for name, value in lines)


def write_training_set(
    settings: Settings,
    output: Path,
    rows: Path | tuple[datetime, datetime, timedelta],
    *,
    service: str = SERVICE,
    live_snapshots: bool = False,
) -> TrainingSetSummary:
    """Write a labelled training set to the Parquet file `output`, whole or not at all, and return what is in it.

    The `rows` are those of a Parquet file, or all assets at the instants of a start (inclusive), an end (exclusive) and
    a step. See `training_set` for `service` and `live_snapshots`. Raises `PipelineError` where a part does.
    """
    began = time.monotonic()
    if not output.parent.is_dir():
        raise PipelineError(f"There is no folder {output.parent} for the training set: make it, or choose another")
    if output.is_dir():
        raise PipelineError(f"{output} is a folder: name a file in it")
    given = checked_frame(_read_frame(rows)) if isinstance(rows, Path) else rows
    with retrying_for(settings.retry_seconds), open_feature_store() as store:
        with open_postgres(settings) as source:
            frame = entity_frame(known_assets(source), *given) if isinstance(given, tuple) else given
            logger.info("labels: %s rows", f"{frame.num_rows:,}")
            labelled = failure_labels(source, frame)
        logger.info("features: joining %s rows", f"{labelled.num_rows:,}")
        table = training_set(store, labelled, service=service, live_snapshots=live_snapshots)
    write_parquet(table, output)
    return TrainingSetSummary(
        rows=table.num_rows,
        assets=pc.count_distinct(table["asset_id"]).as_py(),
        instants=pc.count_distinct(table["event_timestamp"]).as_py(),
        positives=pc.sum(table[LABEL]).as_py(),
        features=table.num_columns - labelled.num_columns,
        seconds=time.monotonic() - began,
    )


def _read_frame(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise PipelineError(f"The entity frame {path} cannot be read as Parquet: {first_line(error)}") from error

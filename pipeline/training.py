"""Training sets: what was known of an asset at an instant, joined with what happened to it afterwards.

An entity frame names the rows (asset and instant), PostgreSQL says which of them failed within a week, and
`FeatureStore.get_historical_features` adds the features as of each row's instant.
"""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException
from feast.repo_config import RepoConfig
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.errors import PipelineError, first_line
from pipeline.feast_store import open_feature_store, registered_view, registry_error
from pipeline.parquet import write_parquet
from pipeline.postgres import PostgresSource, open_postgres
from pipeline.queries import query_text
from pipeline.retries import retrying_for
from pipeline.schemas import TIMESTAMP, snapshot_schema

logger = logging.getLogger(__name__)

SERVICE = "predictive_maintenance_v1"
LABEL = "failure_within_7d"
LABEL_SQL = "features/failure_within_7d.sql"
LABEL_HORIZON = timedelta(days=7)
WEEK = timedelta(days=7)

FRAME_SCHEMA = pa.schema([pa.field("asset_id", pa.string()), pa.field("event_timestamp", TIMESTAMP)])
_LABELLED_SCHEMA = FRAME_SCHEMA.append(pa.field(LABEL, pa.int32()))
_ORDER = [("event_timestamp", "ascending"), ("asset_id", "ascending")]
_ROW = "entity_row"


# The entity frame -----------------------------------------------------------------------------------------------


def entity_frame(assets: Sequence[str], start: datetime, end: datetime, every: timedelta = WEEK) -> pa.Table:
    """Return one row per asset and instant `start`, `start + every`, ... before `end`; columns as `FRAME_SCHEMA`.

    Raises `PipelineError` where an instant has no time zone, `start` is not before `end` or `every` not positive.
    """
    for name, instant in (("start", start), ("end", end)):
        if instant.tzinfo is None:
            raise PipelineError(
                f"The {name} {instant.isoformat()} has no time zone: write {instant.isoformat()}Z for UTC"
            )
    if start >= end:
        raise PipelineError(f"The start {start.isoformat()} is not before the end {end.isoformat()}")
    if every <= timedelta(0):
        raise PipelineError(f"Instants cannot be {every} apart: a step is longer than nothing")
    instants = np.arange(_utc(start), _utc(end), np.timedelta64(every))
    columns = [np.tile(np.asarray(assets, dtype=object), len(instants)), np.repeat(instants, len(assets))]
    return pa.table([pa.array(columns[0], pa.string()), pa.array(columns[1]).cast(TIMESTAMP)], schema=FRAME_SCHEMA)


def checked_frame(frame: pa.Table) -> pa.Table:
    """Return the columns `asset_id` and `event_timestamp` of `frame` as `FRAME_SCHEMA`; the others are dropped.

    Raises `PipelineError` where one is missing, an instant has no time zone, a value is NULL, or there is no row.
    """
    if missing := [name for name in FRAME_SCHEMA.names if name not in frame.column_names]:
        raise PipelineError(f"The entity frame has no column {' and no '.join(missing)}")
    kind = frame.schema.field("event_timestamp").type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise PipelineError(f"event_timestamp of the entity frame is {kind}, an instant without a time zone: write UTC")
    frame = frame.select(FRAME_SCHEMA.names)
    if not frame.num_rows:
        raise PipelineError("The entity frame is empty")
    if nulls := [name for name in FRAME_SCHEMA.names if frame[name].null_count]:
        raise PipelineError(f"{nulls[0]} of the entity frame is NULL in {frame[nulls[0]].null_count} rows")
    return frame.set_column(0, "asset_id", pc.utf8_lower(frame["asset_id"].cast(pa.string()))).cast(FRAME_SCHEMA)


def known_assets(source: PostgresSource) -> list[str]:
    """Return the keys of all assets that dCMMS has, whenever they existed."""
    query = "select lower(id::text) as asset_id from assets order by 1"
    return source.copy(query, [], pa.schema([FRAME_SCHEMA.field("asset_id")]))["asset_id"].to_pylist()


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
    labels = source.copy(query_text(LABEL_SQL), instants, _LABELLED_SCHEMA)
    labelled = due.join(labels, FRAME_SCHEMA.names, join_type="inner").select(_LABELLED_SCHEMA.names)
    if not labelled.num_rows:
        raise PipelineError("None of the assets exists at its instant: start later, or check DATABASE_URL")
    return labelled.sort_by(_ORDER).combine_chunks()


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
    point-in-time join. `frame` has `asset_id`, `event_timestamp` and whatever else goes along, such as the label.

    `live_snapshots` is Feast's `filter_by_created_timestamp`; which one is right depends on how the snapshots came:

    * False for backfilled snapshots. They were computed long after their instant, from facts at or before it, and
      that is their proof against leaks; by their `created` none of them was there at T.
    * True for snapshots that a schedule wrote at their own time, and for them alone. A snapshot counts from when it
      was `created`: not the one that was still being computed at T, nor one that was computed again later from
      corrected facts. The model then learns from exactly what the online store would have answered at T.

    A history that was backfilled up to some day and scheduled since: join the rows before and after it apart.

    Raises `PipelineError` where the service or a view is not registered, or a view has no snapshot for these rows.
    """
    definition = _registered_service(store, service)
    views = {
        projection.name: registered_view(store, projection.name) for projection in definition.feature_view_projections
    }
    references = {
        p.name: [f"{p.name_to_use()}:{f.name}" for f in p.features] for p in definition.feature_view_projections
    }
    instants = np.unique(frame["event_timestamp"].to_numpy())
    lookback = {name: _lookback(view, instants) for name, view in views.items()}

    numbered = frame.append_column(_ROW, pa.array(np.arange(frame.num_rows)))
    with _narrowed(store, views, lookback) as narrow:
        joined = _join(narrow, numbered, [r for wanted in references.values() for r in wanted], live_snapshots)
    for name, wanted in references.items():
        joined = _completed(store, joined, numbered, wanted, live_snapshots)
        if live_snapshots and _unknown(joined, wanted).true_count == frame.num_rows:
            raise PipelineError(
                f"{name}: no snapshot was there yet at the instant of any row. Backfilled ones never were: join them "
                "without --live-snapshots"
            )
    return joined.drop_columns(_ROW).cast(_training_schema(frame, definition)).combine_chunks()


def _registered_service(store: FeatureStore, name: str) -> FeatureService:
    try:
        return store.get_feature_service(name)
    except FeastObjectNotFoundException:
        raise PipelineError(f"{name} is not registered in project {store.project}: run `feast apply`") from None
    except Exception as error:  # SQLAlchemy and the registry's driver each raise their own kinds
        raise registry_error(error) from error


# Feast's join pairs each row with every snapshot of its asset within the ttl, then keeps the newest: 365 pairs for one
# value. The same answer at a tenth of the cost: first a join over the last two snapshots, then one over the whole ttl
# for the rows whose asset is in neither.


@contextmanager
def _narrowed(
    store: FeatureStore, views: dict[str, FeatureView], lookback: dict[str, timedelta]
) -> Iterator[FeatureStore]:
    """Yield a feature store of `views` whose ttl is `lookback`; its registry is a file that is gone afterwards."""
    with TemporaryDirectory(prefix="training-set-") as directory:
        config = RepoConfig(
            project=store.project,
            provider="local",
            registry=str(Path(directory) / "registry.db"),
            online_store=None,
            offline_store=store.config.offline_store,
            entity_key_serialization_version=store.config.entity_key_serialization_version,
            repo_path=store.config.repo_path,
        )
        narrow = FeatureStore(config=config)
        for name, view in views.items():
            view = copy(view)
            view.ttl = lookback[name]
            narrow.registry.apply_feature_view(view, store.project)
        for entity in store.list_entities():
            narrow.registry.apply_entity(entity, store.project)
        yield narrow


def _lookback(view: FeatureView, instants: NDArray[np.datetime64]) -> timedelta:
    """Return how far before each of `instants` the last two snapshots of `view` reach, at most its ttl.

    Raises `PipelineError` where none of the instants has a snapshot within the ttl; logs those before the first one.
    """
    snapshots = _snapshot_instants(view)
    newest = np.searchsorted(snapshots, instants, side="right") - 1
    served = newest >= 0
    age = instants[served] - snapshots[newest[served]]
    if not (age <= np.timedelta64(view.ttl)).any():
        first, last = (f"{instant.astype('datetime64[s]')}Z" for instant in instants[[0, -1]])
        raise PipelineError(
            f"{view.name} has no snapshot for instants between {first} and {last}: make some with "
            "`python materialize_features.py backfill`"
        )
    if not served.all():
        logger.warning(
            "%s: %d of %d instants lie before its first snapshot, %sZ: its features are NULL there",
            view.name,
            np.count_nonzero(~served),
            len(instants),
            snapshots[0].astype("datetime64[s]"),
        )
    before = instants[served] - snapshots[np.maximum(newest[served] - 1, 0)]
    return min(view.ttl, _rounded_up(before.max().item()))


def _rounded_up(span: timedelta) -> timedelta:
    """Return `span` in whole seconds below a day and whole days above: ibis takes no other, and 0 means for ever."""
    unit = timedelta(seconds=1) if span < timedelta(days=1) else timedelta(days=1)
    return max(-(-span // unit), 1) * unit


def _snapshot_instants(view: FeatureView) -> NDArray[np.datetime64]:
    """Return the as-of instants of the snapshots of `view`, ascending, as their file names have them."""
    names = (path.stem for path in Path(view.batch_source.path).glob("snapshot_date=*/*.parquet"))
    return np.array(sorted(_utc(datetime.fromisoformat(name)) for name in names), dtype="datetime64[us]")


def _join(store: FeatureStore, frame: pa.Table, references: list[str], live_snapshots: bool) -> pa.Table:
    """Return `frame` with the features `references`, joined by `store`, in the order of its rows."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"fetch_arrow_table\(\) is deprecated", DeprecationWarning)  # ibis's
            job = store.get_historical_features(
                frame.to_pandas(), references, filter_by_created_timestamp=live_snapshots
            )
            return job.to_arrow().sort_by(_ROW)
    except Exception as error:  # each offline store's engine raises its own kinds
        raise PipelineError(f"Offline store: {first_line(error)}. Check the snapshots in FEATURE_DATA_DIR.") from error


def _completed(
    store: FeatureStore, joined: pa.Table, frame: pa.Table, references: list[str], live_snapshots: bool
) -> pa.Table:
    """Return `joined` with the features `references` of one view filled in where no lookback has reached them."""
    unknown = _unknown(joined, references)
    if not unknown.true_count:
        return joined
    older = _join(store, frame.filter(unknown), references, live_snapshots)
    place = pc.index_in(joined[_ROW], value_set=older[_ROW].combine_chunks())
    for name in _names(references):
        column = pc.coalesce(joined[name], older[name].take(place))
        joined = joined.set_column(joined.schema.get_field_index(name), name, column)
    return joined


def _unknown(joined: pa.Table, references: list[str]) -> pa.BooleanArray:
    """Return for each row whether all its features of a view are NULL: its asset is in no snapshot that was joined."""
    known = np.zeros(joined.num_rows, dtype=bool)
    for name in _names(references):
        known |= joined[name].is_valid().to_numpy()
    return pa.array(~known)


def _names(references: list[str]) -> list[str]:
    return [reference.split(":")[1] for reference in references]


def _training_schema(frame: pa.Table, service: FeatureService) -> pa.Schema:
    """Return the columns of `frame`, then the features of `service` in the types of their snapshots."""
    projections = service.feature_view_projections
    features = [snapshot_schema(p.name).field(feature.name) for p in projections for feature in p.features]
    return pa.schema([*frame.schema, *features])


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
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    every: timedelta = WEEK,
    entities: Path | None = None,
    live_snapshots: bool = False,
) -> TrainingSetSummary:
    """Write a labelled training set to the Parquet file `output`, whole or not at all, and return what is in it.

    The rows are those of the Parquet file `entities`, or all assets at the instants from `start` (inclusive) to `end`
    (exclusive). See `training_set` for `live_snapshots`. Raises `PipelineError` where one of the parts does.
    """
    began = time.monotonic()
    if not output.parent.is_dir():
        raise PipelineError(f"There is no folder {output.parent} for the training set: make it, or choose another")
    if output.is_dir():
        raise PipelineError(f"{output} is a folder: name a file in it")
    own_frame = checked_frame(_read_frame(entities)) if entities else None
    with retrying_for(settings.retry_seconds), open_feature_store() as store:
        with open_postgres(settings) as source:
            frame = entity_frame(known_assets(source), start, end, every) if own_frame is None else own_frame
            logger.info("labels: %s rows", f"{frame.num_rows:,}")
            labelled = failure_labels(source, frame)
        logger.info("features: joining %s rows", f"{labelled.num_rows:,}")
        table = training_set(store, labelled, live_snapshots=live_snapshots)
    write_parquet(table, output)
    return TrainingSetSummary(
        rows=table.num_rows,
        assets=pc.count_distinct(table["asset_id"]).as_py(),
        instants=pc.count_distinct(table["event_timestamp"]).as_py(),
        positives=pc.sum(table[LABEL]).as_py(),
        features=table.num_columns - len(_LABELLED_SCHEMA),
        seconds=time.monotonic() - began,
    )


def _read_frame(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise PipelineError(f"The entity frame {path} cannot be read as Parquet: {first_line(error)}") from error

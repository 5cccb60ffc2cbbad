"""Training sets: the frame, the label at every edge, Feast's join by an independent one, and the command."""

import os
from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from feast import FeatureStore, RepoConfig

from data_sources import sources
from entities import asset
from features.services import predictive_maintenance_v1
from materialize_features import cli
from pipeline.base.errors import PipelineError
from pipeline.base.specs import TIMESTAMP, VIEWS, snapshot_schema
from pipeline.runs import training
from pipeline.runs.training import (
    FRAME_SCHEMA,
    checked_frame,
    entity_frame,
    failure_labels,
    training_set,
)
from pipeline.snapshots.files import snapshot_path, write_snapshot
from pipeline.sources.postgres import open_postgres
from tests.dcmms import MICROSECOND, Dcmms, T, ago, asset_key

DAY = timedelta(days=1)
HORIZON_OVER = T + 7 * DAY
KEYS = [str(asset_key(number)) for number in range(1, 7)]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A feature store of the definitions over the snapshots in `data_dir`."""
    monkeypatch.setenv("FEATURE_DATA_DIR", str(data_dir))
    store = open_store(tmp_path, "duckdb")
    store.apply([asset, *(_over(data_dir, name) for name in VIEWS), predictive_maintenance_v1])
    return store


def open_store(folder: Path, offline_store: str) -> FeatureStore:
    config = RepoConfig(
        project="dcmms",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store=None,
        offline_store={"type": offline_store},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def _over(data_dir: Path, name: str):
    """Return the definition of a view with the source below `data_dir`."""
    view = copy(VIEWS[name])
    view.batch_source = sources()(name)
    assert view.batch_source.path == str(data_dir / name)
    return view


def frame_of(*rows: tuple[str, datetime]) -> pa.Table:
    keys, instants = zip(*rows, strict=True)
    return pa.table([pa.array(keys), pa.array(instants, TIMESTAMP)], schema=FRAME_SCHEMA)


def write(data_dir: Path, view: str, as_of: datetime, value: float, keys: list[str], created: datetime) -> None:
    """Write a snapshot whose every number is `value` and whose every text is its decimal."""
    schema = snapshot_schema(view)
    known = {"asset_id": keys, "event_timestamp": [as_of] * len(keys), "created": [created] * len(keys)}
    columns = [
        known.get(field.name, [f"{value:g}" if pa.types.is_string(field.type) else value] * len(keys))
        for field in schema
    ]
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
    write_snapshot(table, snapshot_path(data_dir, view, as_of))


# the entity frame -------------------------------------------------------------------------------------------------


def test_frame_is_every_asset_at_every_instant_before_the_end() -> None:
    frame = entity_frame(["a", "b"], T, T + timedelta(days=14))
    assert frame.schema == FRAME_SCHEMA
    assert frame.to_pylist() == [
        {"asset_id": key, "event_timestamp": instant} for instant in (T, T + 7 * DAY) for key in ("a", "b")
    ]
    assert entity_frame(["a"], T, T + 7 * DAY + MICROSECOND).num_rows == 2
    assert entity_frame(["a"], T, T + DAY, timedelta(hours=6)).num_rows == 4


@pytest.mark.parametrize(
    ("start", "end", "every", "message"),
    [
        (T, T, DAY, "is not before the end"),
        (T + DAY, T, DAY, "is not before the end"),
        (T.replace(tzinfo=None), T, DAY, "The start 2026-03-11T10:00:00 has no time zone"),
        (T, T.replace(tzinfo=None), DAY, "The end 2026-03-11T10:00:00 has no time zone"),
        (T, T + DAY, timedelta(0), "a step is longer than nothing"),
    ],
)
def test_frame_refuses(start: datetime, end: datetime, every: timedelta, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        entity_frame(["a"], start, end, every)


def test_own_frame_becomes_keys_and_instants_in_utc_and_keeps_its_other_columns() -> None:
    paris = pa.timestamp("ns", tz="Europe/Paris")
    own = pa.table({"note": [["x"]], "event_timestamp": pa.array([T], paris), "asset_id": [KEYS[0].upper()]})
    own = own.replace_schema_metadata({"pandas": "{}"})
    assert checked_frame(own).equals(frame_of((KEYS[0], T)).append_column("note", pa.array([["x"]])), True)


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([UUID(key).bytes for key in KEYS], pa.uuid()),
        pa.array([key.upper() for key in KEYS], pa.large_string()),
        pa.array(KEYS).dictionary_encode(),
    ],
    ids=["uuid", "large string", "dictionary"],
)
def test_keys_may_be_uuids_or_any_text(keys: pa.Array) -> None:
    own = pa.table({"asset_id": keys, "event_timestamp": pa.array([T] * len(KEYS), TIMESTAMP)})
    assert checked_frame(own).equals(frame_of(*((key, T) for key in KEYS)))


def test_a_part_of_a_microsecond_is_cut_off() -> None:
    nanoseconds = [-1, 999, 1000, 1999]
    own = pa.table({"asset_id": ["a"] * 4, "event_timestamp": pa.array(nanoseconds, pa.timestamp("ns", "UTC"))})
    assert checked_frame(own)["event_timestamp"].cast(pa.int64()).to_pylist() == [-1, 0, 1, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"asset_id": ["a"]}, "has no column event_timestamp"),
        (
            {"asset_id": ["a"], "event_timestamp": [T.replace(tzinfo=None)]},
            r"timestamp\[us\], no instant with a time zone",
        ),
        ({"asset_id": ["a"], "event_timestamp": ["2026-01-01T00:00:00Z"]}, "is string, no instant with a time zone"),
        ({"asset_id": ["a"], "event_timestamp": [1_767_225_600]}, "is int64, no instant with a time zone: write UTC"),
        ({"asset_id": ["a"], "event_timestamp": [T.date()]}, "is date32.*, no instant with a time zone"),
        ({"asset_id": ["a"], "event_timestamp": pa.array([2**62], pa.timestamp("s", "UTC"))}, "years 1 to 9999"),
        ({"asset_id": ["a"], "event_timestamp": pa.array([2**62], TIMESTAMP)}, "years 1 to 9999"),
        ({"asset_id": [UUID(KEYS[0]).bytes], "event_timestamp": [T]}, "is binary, no text: write assets.id as text or"),
        ({"asset_id": [7], "event_timestamp": [T]}, "is int64, no text"),
        ({"asset_id": pa.array([], pa.string()), "event_timestamp": pa.array([], TIMESTAMP)}, "is empty"),
        ({"asset_id": ["a", None], "event_timestamp": [T, T]}, "asset_id of the entity frame is NULL in 1 rows"),
        (
            {"asset_id": ["a"], "event_timestamp": [T], "failure_within_7d": [1]},
            "has a column failure_within_7d, which",
        ),
    ],
)
def test_own_frame_is_refused(columns: dict, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        checked_frame(pa.table(columns))


def test_own_frame_with_a_column_twice_is_refused() -> None:
    frame = frame_of((KEYS[0], T))
    with pytest.raises(PipelineError, match="has a column asset_id, which the training set has, too"):
        checked_frame(frame.append_column("asset_id", frame["asset_id"]))


# the label --------------------------------------------------------------------------------------------------------


def labels(dcmms: Dcmms, frame: pa.Table, known_until: datetime = HORIZON_OVER) -> dict[tuple[str, datetime], int]:
    with open_postgres(dcmms.settings) as source:
        rows = failure_labels(source, frame, known_until).to_pylist()
    return {(row["asset_id"], row["event_timestamp"]): row["failure_within_7d"] for row in rows}


def test_label_is_a_failure_work_order_created_in_the_week_after(dcmms: Dcmms) -> None:
    cases = {
        "at T itself": ({}, T, 0),
        "just after T": ({}, T + MICROSECOND, 1),
        "at the end of the week": ({}, T + 7 * DAY, 1),
        "just after the week": ({}, T + 7 * DAY + MICROSECOND, 0),
        "emergency": ({"type": "emergency"}, T + DAY, 1),
        "preventive": ({"type": "preventive"}, T + DAY, 0),
        "predictive": ({"type": "predictive"}, T + DAY, 0),
        "inspection": ({"type": "inspection"}, T + DAY, 0),
        "a draft is a reported need": ({"status": "draft"}, T + DAY, 1),
        "cancelled, whenever": ({"status": "cancelled", "updated_at": T + 9 * DAY}, T + DAY, 0),
    }
    keys = [dcmms.asset(number) for number in range(len(cases))]
    for key, (columns, created_at, _) in zip(keys, cases.values(), strict=True):
        dcmms.work_order(key, created_at, **columns)
    dcmms.work_order(keys[1], T + DAY)
    dcmms.work_order(None, T + DAY)
    found = labels(dcmms, frame_of(*((str(key), T) for key in keys)))
    expected = {(str(key), T): label for key, (_, _, label) in zip(keys, cases.values(), strict=True)}
    assert {name: found[key, T] for name, (key, _) in zip(cases, expected, strict=True)} == {
        name: label for name, (_, _, label) in cases.items()
    }
    assert found == expected


def test_only_assets_that_exist_and_weeks_that_are_over_have_a_label(dcmms: Dcmms) -> None:
    kept = [
        dcmms.asset(1, created_at=T),
        dcmms.asset(2, status="decommissioned", updated_at=T + MICROSECOND),
        dcmms.asset(3, status="down", updated_at=T),
    ]
    gone = [
        dcmms.asset(4, created_at=T + MICROSECOND),
        dcmms.asset(5, status="decommissioned", updated_at=T),
    ]
    frame = frame_of(*((str(key), instant) for key in kept + gone for instant in (T, T + MICROSECOND)))
    assert labels(dcmms, frame) == {(str(key), T): 0 for key in kept}
    with pytest.raises(PipelineError, match=r"No row has a label yet.* the last is 2026-03-11T10:00:00"):
        labels(dcmms, frame_of((str(kept[0]), T + MICROSECOND)))
    with pytest.raises(PipelineError, match="None of the assets exists at its instant"):
        labels(dcmms, frame_of((str(gone[0]), T)))


def test_label_goes_beside_what_else_a_row_has(dcmms: Dcmms) -> None:
    dcmms.asset(1)
    dcmms.work_order(asset_key(1), T + DAY)
    frame = frame_of((KEYS[0], T), (KEYS[0], T - DAY), (KEYS[0], T))
    frame = frame.append_column("notes", pa.array([["b"], ["a"], ["c", "d"]]))
    with open_postgres(dcmms.settings) as source:
        labelled = failure_labels(source, frame, HORIZON_OVER)
    assert labelled.column_names == ["asset_id", "event_timestamp", "notes", "failure_within_7d"]
    assert labelled["notes"].to_pylist() == [["a"], ["b"], ["c", "d"]]
    assert labelled["failure_within_7d"].to_pylist() == [1, 1, 1]


def test_unknown_assets_are_named(dcmms: Dcmms) -> None:
    dcmms.asset(1)
    with pytest.raises(PipelineError, match=f"PostgreSQL knows no asset {KEYS[1]}: asset_id is assets.id"):
        labels(dcmms, frame_of((KEYS[0], T), (KEYS[1], T)))
    with pytest.raises(PipelineError, match=f"no asset {KEYS[1]}, nor 1 others"):
        labels(dcmms, frame_of((KEYS[0], T), (KEYS[1], T), (KEYS[2], T)))


# the features -----------------------------------------------------------------------------------------------------


def known_at(frame: pa.Table, snapshots: pd.DataFrame, ttl: timedelta, live_snapshots: bool) -> list[float | None]:
    """Return the value of the newest snapshot that counts for each row: each row against each snapshot."""
    values = []
    for row in frame.to_pylist():
        counts = snapshots[(snapshots.asset_id == row["asset_id"]) & (snapshots.as_of <= row["event_timestamp"])]
        counts = counts[counts.as_of >= row["event_timestamp"] - ttl]
        if live_snapshots:
            counts = counts[counts.created <= row["event_timestamp"]]
        values.append(None if counts.empty else counts.sort_values("as_of").value.iloc[-1])
    return values


@pytest.mark.filterwarnings(r"ignore:fetch_arrow_table\(\) is deprecated:DeprecationWarning")  # ibis's
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("live_snapshots", [False, True], ids=["backfilled", "live"])
def test_join_is_the_newest_snapshot_that_counts(
    store: FeatureStore, data_dir: Path, seed: int, live_snapshots: bool
) -> None:
    rng = np.random.default_rng(seed)
    history = {view: random_history(data_dir, view, rng) for view in VIEWS}
    instants = [T - timedelta(hours=int(hours)) for hours in rng.integers(0, 24 * 500, 8)]
    # Among them instants of snapshots, and the last instant at which one counts.
    instants += [history["asset_features"].as_of[0], history["telemetry_features"].as_of[3] + timedelta(days=90)]
    frame = frame_of(*((key, instant) for instant in instants for key in KEYS))
    frame = frame.append_column("failure_within_7d", pa.array(rng.integers(0, 2, frame.num_rows), pa.int32()))
    table = training_set(store, frame, live_snapshots=live_snapshots)
    assert table.select(frame.column_names).equals(frame)
    for view, features in {p.name: p.features for p in predictive_maintenance_v1.feature_view_projections}.items():
        expected = known_at(frame, history[view], VIEWS[view].ttl, live_snapshots)
        for feature in features:
            assert table.schema.field(feature.name).type == snapshot_schema(view).field(feature.name).type
            assert table[feature.name].cast(pa.float64()).to_pylist() == expected, feature.name
    feasts = store.get_historical_features(
        frame.to_pandas(), predictive_maintenance_v1, filter_by_created_timestamp=live_snapshots
    )
    order = [("event_timestamp", "ascending"), ("asset_id", "ascending")]
    assert feasts.to_arrow().select(table.column_names).cast(table.schema).sort_by(order).equals(table.sort_by(order))


def random_history(data_dir: Path, view: str, rng: np.random.Generator) -> pd.DataFrame:
    """Write snapshots with gaps, of assets that come and go, some created late; return one line per asset of each."""
    lines = []
    for number, hours in enumerate(sorted(set(rng.integers(0, 24 * 500, 40).tolist()))):
        as_of = T - timedelta(hours=hours)
        keys = [key for key in KEYS if rng.random() < (0.9 if key < KEYS[3] else 0.2)]
        created = as_of + timedelta(hours=float(rng.choice([0.0, 0.1, 30.0, 4000.0])))
        if keys:
            write(data_dir, view, as_of, float(number), keys, created)
            lines += [(key, as_of, created, float(number)) for key in keys]
    return pd.DataFrame(lines, columns=["asset_id", "as_of", "created", "value"])


@pytest.fixture
def week_of_snapshots(data_dir: Path) -> Iterator[list[datetime]]:
    """Daily snapshots of three assets, created 5 minutes after their instant."""
    days = [T - day * DAY for day in range(7)]
    for view in VIEWS:
        for number, as_of in enumerate(days):
            write(data_dir, view, as_of, number, KEYS[:3], as_of + timedelta(minutes=5))
    return days


def test_live_snapshots_count_from_when_they_were_created(store: FeatureStore, week_of_snapshots: list) -> None:
    frame = frame_of((KEYS[0], T))
    assert training_set(store, frame)["wo_count_7d"].to_pylist() == [0]
    assert training_set(store, frame, live_snapshots=True)["wo_count_7d"].to_pylist() == [1]


def test_a_correction_is_no_live_value(store: FeatureStore, data_dir: Path, week_of_snapshots: list) -> None:
    write(data_dir, "work_order_features", week_of_snapshots[2], 99, KEYS[:3], T)
    frame = frame_of((KEYS[0], week_of_snapshots[2] + timedelta(hours=1)))
    assert training_set(store, frame)["wo_count_7d"].to_pylist() == [99]
    assert training_set(store, frame, live_snapshots=True)["wo_count_7d"].to_pylist() == [3]


def test_rows_without_a_snapshot_are_refused(store: FeatureStore, data_dir: Path) -> None:
    with pytest.raises(PipelineError, match="_features has no snapshot for instants between 2026-03-11T10:00:00Z and"):
        training_set(store, frame_of((KEYS[0], T)))
    for view in VIEWS:
        write(data_dir, view, ago(90), 1, KEYS, T)
    training_set(store, frame_of((KEYS[0], T)))
    with pytest.raises(
        PipelineError, match=r"telemetry_features has no snapshot for .*materialize_features\.py backfill"
    ):
        training_set(store, frame_of((KEYS[0], T + MICROSECOND)))
    with pytest.raises(PipelineError, match=r"asset_features: no snapshot was there yet .* without --live-snapshots"):
        training_set(store, frame_of((KEYS[0], ago(1))), live_snapshots=True)


def test_instants_before_the_first_snapshot_are_reported(
    store: FeatureStore, week_of_snapshots: list, caplog: pytest.LogCaptureFixture
) -> None:
    table = training_set(store, frame_of((KEYS[0], ago(9)), (KEYS[0], T)))
    assert table["wo_count_7d"].to_pylist() == [None, 0]
    assert "1 of 2 instants have no snapshot within the ttl before them, the first 2026-03-02T10:00:00Z" in caplog.text


@pytest.mark.filterwarnings("ignore:Downcasting object dtype arrays:FutureWarning")  # of Feast's dask store
def test_another_offline_store_joins_by_itself(
    store: FeatureStore, week_of_snapshots: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = frame_of((KEYS[0], T), (KEYS[1], T - DAY), (KEYS[0], T)).append_column("n", pa.array([[1]] * 3))
    expected = training_set(store, frame)
    assert expected["wo_count_7d"].to_pylist() == [0, 1, 0]
    monkeypatch.setattr(training, "as_of_join", None)
    assert training_set(open_store(tmp_path, "dask"), frame).equals(expected)


def test_a_column_of_a_features_name_is_named(store: FeatureStore) -> None:
    frame = frame_of((KEYS[0], T)).append_column("wo_count_7d", pa.array([1]))
    with pytest.raises(PipelineError, match="has a column wo_count_7d, as a feature of predictive_maintenance_v1 is"):
        training_set(store, frame)


def test_a_service_that_is_not_registered_is_named(store: FeatureStore) -> None:
    with pytest.raises(PipelineError, match="predictive_maintenance_v9 is not registered in project dcmms: run `feast"):
        training_set(store, frame_of((KEYS[0], T)), service="predictive_maintenance_v9")


# the command ------------------------------------------------------------------------------------------------------

START = T - 6 * DAY
RANGE = ("--start", START.isoformat(), "--end", T.isoformat(), "--every", "1d")


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def fleet(
    dcmms: Dcmms, store: FeatureStore, tmp_path: Path, week_of_snapshots: list, monkeypatch: pytest.MonkeyPatch
) -> Dcmms:
    """Three assets with a week of snapshots, one of which fails, and the settings in the environment."""
    for number in (1, 2, 3):
        dcmms.asset(number)
    dcmms.work_order(asset_key(2), T - DAY)
    yaml = tmp_path / "feature_store.yaml"
    yaml.write_text(
        "project: dcmms\nprovider: local\nentity_key_serialization_version: 3\noffline_store: {type: duckdb}\n"
        f"registry: {tmp_path / 'registry.db'}\nonline_store: {{path: {tmp_path / 'online.db'}}}\n"
    )
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", "/nonexistent")
    monkeypatch.setenv("DATABASE_URL", dcmms.settings.database_url.get_secret_value())
    monkeypatch.setenv("CLICKHOUSE_DSN", dcmms.settings.clickhouse_dsn.get_secret_value())
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(yaml))
    return dcmms


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["training-set", *map(str, arguments)])


@pytest.mark.usefixtures("fleet")
def test_command_writes_one_parquet_file(tmp_path: Path) -> None:
    output = tmp_path / "training.parquet"
    result = invoke(*RANGE, "--output", output)
    assert result.exit_code == 0, result.output
    table = pq.read_table(output)
    assert table.column_names == [
        *("asset_id", "event_timestamp", "failure_within_7d"),
        *(field.name for p in predictive_maintenance_v1.feature_view_projections for field in p.features),
    ]
    assert table.num_rows == 18
    assert sorted(zip(table["event_timestamp"].to_pylist(), table["asset_id"].to_pylist(), strict=True)) == [
        (START + day * DAY, key) for day in range(6) for key in KEYS[:3]
    ]
    positives = table.filter(pa.compute.equal(table["failure_within_7d"], 1))
    assert positives["asset_id"].to_pylist() == [KEYS[1]] * 5
    assert positives["wo_count_7d"].to_pylist() == [6, 5, 4, 3, 2]
    figures = dict(line.split() for line in result.stdout.splitlines())
    assert figures.pop("seconds")
    assert figures == {"rows": "18", "assets": "3", "instants": "6", "positives": "5", "features": "68"}


@pytest.mark.usefixtures("fleet")
def test_command_takes_an_entity_frame_and_is_quiet(tmp_path: Path) -> None:
    rows, output = tmp_path / "rows.parquet", tmp_path / "training.parquet"
    frame = frame_of((KEYS[1], T - 3 * DAY), (KEYS[0], T - 4 * DAY)).append_column("weight", pa.array([0.5, 2.0]))
    pq.write_table(frame, rows)
    result = invoke("--entities", rows, "--output", output, "--live-snapshots", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    table = pq.read_table(output)
    assert table["wo_count_7d"].to_pylist() == [5, 4]
    assert table["weight"].to_pylist() == [2.0, 0.5]


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--start", "2026-03-11", "--end", "2026-03-11"), "is not before the end"),
        (("--start", "2026-03-11T00:00:00", "--end", "2026-03-12"), "2026-03-11T00:00:00 has no time zone"),
        (("--start", "yesterday", "--end", "2026-03-12"), "yesterday is no date"),
        (("--start", "2026-03-01", "--end", "2026-03-12", "--every", "90m"), "90m is no whole number of hours"),
        (("--start", "2026-03-01", "--end", "2026-03-12", "--every", "0d"), "0d is no whole number of hours"),
        (("--start", "2024-03-01", "--end", "2024-03-12"), "has no snapshot for instants between 2024-03-01T00:00:00Z"),
        ((*RANGE, "--output", "missing/folder/training.parquet"), "There is no folder missing/folder"),
        (("--entities", "missing.parquet"), "The entity frame missing.parquet cannot be read"),
        (("--entities", "naive.parquet"), "no instant with a time zone"),
        (("--entities", "unknown.parquet"), f"PostgreSQL knows no asset {KEYS[5]}"),
        ((*RANGE, "--output", "."), ". is a folder: name a file in it"),
    ],
)
def test_bad_input_gives_one_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    pq.write_table(frame_of((KEYS[5], T - DAY)), "unknown.parquet")
    pq.write_table(pa.table({"asset_id": ["a"], "event_timestamp": [datetime(2026, 1, 1)]}), "naive.parquet")  # noqa: DTZ001
    before = sorted(folder.rglob("*"))
    result = invoke(*(() if "--output" in arguments else ("--output", "training.parquet")), *arguments)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    is_option = any(option in message for option in ("is not before", "has no time zone", "is no date", "whole number"))
    assert result.exit_code == (64 if is_option else 1), result.output
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("arguments", [(), ("--start", "2026-01-01"), (*RANGE, "--entities", "rows.parquet")])
def test_rows_come_from_a_range_or_a_file(arguments: tuple[str, ...]) -> None:
    result = invoke("--output", "training.parquet", *arguments)
    assert result.exit_code == os.EX_USAGE
    assert "Give --start and --end, or --entities" in result.stderr


def test_an_older_training_set_survives_a_failure(fleet: Dcmms, tmp_path: Path) -> None:
    output = tmp_path / "training.parquet"
    output.write_bytes(b"kept")
    assert invoke("--start", "2024-03-01", "--end", "2024-03-12", "--output", output).exit_code == 1
    assert output.read_bytes() == b"kept"
    assert invoke(*RANGE, "--output", output).exit_code == 0
    assert pq.read_table(output).num_rows == 18


@pytest.mark.usefixtures("fleet")
def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(table: pa.Table, file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    output = tmp_path / "folder" / "training.parquet"
    output.parent.mkdir()
    monkeypatch.setattr("pipeline.snapshots.parquet.pq.write_table", write_half)
    result = invoke(*RANGE, "--output", output)
    assert result.exit_code == 1
    assert "training.parquet cannot be written: No space left on device" in result.stderr
    assert list(output.parent.iterdir()) == []


def test_horizon_of_the_label_is_the_sql_files() -> None:
    sql = training.query_text(training.REPOSITORY / training.LABEL_SQL)
    assert f"interval '{training.LABEL_HORIZON // timedelta(hours=1)} hours'" in sql
    assert datetime(2026, 3, 11, 10, tzinfo=UTC) == T

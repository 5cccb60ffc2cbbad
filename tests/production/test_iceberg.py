"""What only Iceberg has: states of the table, its partitions, and files that no state has."""

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.base.places import Store
from pipeline.snapshots import iceberg
from pipeline.snapshots.quarantine import move_newer
from pipeline.snapshots.store import opened
from pipeline.snapshots.upkeep import keep_up
from tests.dcmms import T
from tests.object_store import ObjectStore
from tests.stored_snapshots import DAY, KEYS, VIEW, placed, put


@pytest.fixture(params=["sql", "rest"])
def place(
    request: pytest.FixtureRequest, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    return placed(monkeypatch, request.param, tmp_path, objects)


def test_a_reader_keeps_the_state_of_the_table(place: Store) -> None:
    put(place, T - DAY, 1)
    put(place, T, 1)
    table = opened(place)._found(VIEW)
    put(place, T, 2, KEYS[:5])
    assert table.scan().to_arrow().num_rows == 2 * len(KEYS)
    assert [str(field.transform) for field in table.spec().fields] == ["day"]


def test_states_of_the_table_do_not_pile_up(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iceberg, "_STATES", 6)
    for number in range(8):
        put(place, T + number * DAY, number)
    assert len(opened(place)._found(VIEW).metadata.snapshots) <= 7
    move_newer(place, VIEW, T + 3 * DAY)
    table = opened(place)._found(VIEW)
    (tag,) = [ref for name, ref in table.refs().items() if name.startswith("rolled-back-")]
    monkeypatch.setattr(iceberg, "_READERS", timedelta(0))
    keep_up(place, VIEW)
    assert opened(place)._found(VIEW).scan(snapshot_id=tag.snapshot_id).to_arrow().num_rows == 8 * len(KEYS)


def test_what_no_state_has_is_removed(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        put(place, T, number)
    assert iceberg._remove_orphans(opened(place)._found(VIEW)) == 0
    monkeypatch.setattr(iceberg, "_READERS", timedelta(0))
    monkeypatch.setattr(iceberg, "_YOUNG", timedelta(seconds=-60))
    keep_up(place, VIEW)
    table = opened(place)._found(VIEW)
    assert len(table.metadata.snapshots) == 1
    assert iceberg._remove_orphans(table) >= 6
    assert table.scan().to_arrow().num_rows == len(KEYS)

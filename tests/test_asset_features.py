"""asset_features: hand-computed rows at the edges, for both schema variants."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from features.asset_features import with_health_score
from pipeline.base.specs import SPECS
from pipeline.sources.extract import extract_postgres, query_of
from pipeline.sources.postgres import open_postgres
from tests.dcmms import MICROSECOND, SITE, TENANT, Dcmms, T, ago, asset_key, window_edges

VIEW = "asset_features"


def test_new_asset_without_history(dcmms: Dcmms) -> None:
    asset = dcmms.asset(created_at=ago(0), updated_at=ago(0))
    assert dcmms.row(VIEW, asset) == {
        "asset_id": str(asset),
        "event_timestamp": T,
        "tenant_id": str(TENANT),
        "site_id": str(SITE),
        "asset_type": "turbine",
        "asset_status": "operational",
        "asset_age_months": None,
        "total_work_orders": 0,
        "corrective_work_orders": 0,
        "preventive_work_orders": 0,
        "days_since_last_maintenance": None,
        "days_since_last_corrective_wo": None,
        "mttr_hours": None,
        "mtbf_hours": None,
        "health_score": None,
        "recent_alarms_30d": 0,
        "recent_critical_alarms_30d": 0,
        "installed_capacity_kw": None,
        "manufacturer": None,
        "model": None,
        "wo_count_30d": 0,
        "corrective_wo_count_30d": 0,
        "days_since_last_preventive_completion": None,
        "newest_source_at": T,
    }


def test_asset_with_a_history_has_one_row(dcmms: Dcmms) -> None:
    asset = dcmms.asset(
        type="inverter",
        status="degraded",
        manufacturer="SMA",
        model="Sunny Central 2200",
        installation_date=datetime(2024, 1, 11, tzinfo=UTC),
        specifications='{"ratedPowerKw": 2200}',
        created_at=ago(100),
        updated_at=ago(1),
    )
    neighbour = dcmms.asset(2)
    # failures: 12 h and 36 h until restored, apart from each other
    dcmms.work_order(asset, ago(80), status="completed", actual_end=ago(79.5))
    dcmms.work_order(asset, ago(20), type="emergency", id=asset_key(100), status="closed", updated_at=ago(3))
    dcmms.task(asset_key(100), ago(19))
    dcmms.task(asset_key(100), ago(18.5))
    dcmms.work_order(asset, ago(10), type="preventive", status="completed", actual_end=ago(8))
    dcmms.work_order(asset, ago(2), type="inspection", status="draft")
    dcmms.work_order(neighbour, ago(5))
    for days in (1, 2, 40):
        dcmms.alert(asset, ago(days), "critical")
    dcmms.alert(asset, ago(29))
    dcmms.alert(neighbour, ago(1))
    dcmms.score(asset, ago(6), 90)
    dcmms.score(asset, ago(5), 71)
    dcmms.score(neighbour, ago(1), 11)

    assert dcmms.row(VIEW, asset) == {
        "asset_id": str(asset),
        "event_timestamp": T,
        "tenant_id": str(TENANT),
        "site_id": str(SITE),
        "asset_type": "inverter",
        "asset_status": "degraded",
        "asset_age_months": 26,
        "total_work_orders": 4,
        "corrective_work_orders": 1,
        "preventive_work_orders": 1,
        "days_since_last_maintenance": 8,
        "days_since_last_corrective_wo": 79,
        "mttr_hours": 24.0,
        "mtbf_hours": (100 * 24 - 12 - 36) / 2,
        "health_score": 71.0,
        "recent_alarms_30d": 3,
        "recent_critical_alarms_30d": 2,
        "installed_capacity_kw": 2200.0,
        "manufacturer": "SMA",
        "model": "Sunny Central 2200",
        "wo_count_30d": 3,
        "corrective_wo_count_30d": 0,
        "days_since_last_preventive_completion": 8,
        "newest_source_at": ago(1),
    }
    assert len(dcmms.extract(VIEW)) == 2


# which assets have a row, and what is known of them --------------------------------------------------------------


def test_assets_that_do_not_exist_yet_or_any_more_have_no_row(dcmms: Dcmms) -> None:
    dcmms.asset(1, created_at=ago(seconds=-1))
    dcmms.asset(2, status="decommissioned", updated_at=ago(0))
    still_there = dcmms.asset(3, status="decommissioned", updated_at=ago(0) + timedelta(microseconds=1))
    assert [(row["asset_id"], row["asset_status"]) for row in dcmms.extract(VIEW)] == [(str(still_there), None)]


@pytest.mark.parametrize("status", ["operational", "degraded", "down", "maintenance"])
def test_status_is_known_if_the_row_has_not_changed_since(dcmms: Dcmms, status: str) -> None:
    dcmms.asset(1, status=status, updated_at=T)
    dcmms.asset(2, status=status, updated_at=T + MICROSECOND)
    assert dcmms.column(VIEW, "asset_status") == [status, None]


def test_empty_manufacturer_and_model_are_null(dcmms: Dcmms) -> None:
    dcmms.asset(1, manufacturer="", model="")
    dcmms.asset(2, manufacturer='Senvion, "SE"\nHamburg', model=" ")
    assert dcmms.column(VIEW, "manufacturer") == [None, 'Senvion, "SE"\nHamburg']
    assert dcmms.column(VIEW, "model") == [None, " "]


# as of → installed on → whole months
AGES: dict[str, dict[str, int | None]] = {
    "2026-02-28T00:00:00Z": {
        "2026-02-28": 0,
        "2026-01-28": 1,
        "2026-01-29": 0,
        "2026-01-31": 0,
        "2025-08-31": 5,
        "2026-03-01": None,
    },
    "2026-02-27T23:59:59.999999Z": {"2026-02-28": None, "2026-01-28": 0, "2026-01-27": 1},
    "2026-03-01T00:00:00Z": {"2026-02-28": 0, "2026-02-01": 1, "2026-01-31": 1, "2024-02-29": 24},
    "2025-02-28T00:00:00Z": {"2024-02-29": 11, "2024-02-28": 12, "2025-01-31": 0},
    "2024-02-29T00:00:00Z": {
        "2024-01-29": 1,
        "2024-01-30": 0,
        "2023-02-28": 12,
        "2023-03-01": 11,
        "2020-02-29": 48,
    },
    "2026-01-01T00:00:00Z": {"2025-12-31": 0, "2025-12-01": 1, "2025-01-02": 11, "2025-01-01": 12, "1999-12-31": 312},
}


@pytest.mark.parametrize("as_of", AGES)
def test_age_is_in_whole_months(dcmms: Dcmms, as_of: str) -> None:
    for number, installed_on in enumerate(AGES[as_of]):
        dcmms.asset(number, installation_date=installed_on)
    measured = dcmms.column(VIEW, "asset_age_months", datetime.fromisoformat(as_of))
    assert dict(zip(AGES[as_of], measured, strict=True)) == AGES[as_of]


@pytest.mark.parametrize("variant", ["n"], indirect=True)
def test_age_counts_from_the_time_of_day_where_it_is_known(dcmms: Dcmms) -> None:
    dcmms.asset(1, installation_date=datetime(2026, 2, 11, 10, tzinfo=UTC))
    dcmms.asset(2, installation_date=datetime(2026, 2, 11, 10, 0, 0, 1, tzinfo=UTC))
    dcmms.asset(3, installation_date=T)
    dcmms.asset(4, installation_date=T + MICROSECOND)
    assert dcmms.column(VIEW, "asset_age_months") == [1, 0, 0, None]


def test_session_time_zone_of_the_client_changes_nothing(dcmms: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = dcmms.asset(installation_date=datetime(2026, 2, 11, tzinfo=UTC), created_at=ago(40))
    dcmms.work_order(asset, ago(30) + MICROSECOND, status="completed", actual_end=ago(29))
    dcmms.alert(asset, ago(0))
    dcmms.score(asset, ago(0), 80)
    expected = dcmms.row(VIEW, asset)
    monkeypatch.setenv("PGTZ", "Australia/Adelaide")
    monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
    assert dcmms.row(VIEW, asset) == expected
    assert (expected["asset_age_months"], expected["wo_count_30d"], expected["recent_alarms_30d"]) == (1, 1, 1)
    assert expected["health_score"] == 80


def test_several_instants_give_the_rows_of_each(dcmms: Dcmms) -> None:
    asset = dcmms.asset(1, created_at=ago(60))
    dcmms.asset(2, created_at=ago(1))
    dcmms.work_order(asset, ago(40), status="completed", actual_end=ago(20))
    instants = [ago(50), ago(30), T]
    with open_postgres(dcmms.settings) as source:
        table = source.copy(query_of(VIEW), instants, SPECS[VIEW].extracted_schema)
    rows = table.sort_by([("event_timestamp", "ascending"), ("asset_id", "ascending")]).to_pylist()
    assert rows == [row for instant in instants for row in dcmms.extract(VIEW, instant)]
    assert [row["mttr_hours"] for row in rows] == [None, None, 480.0, None]


# counted work orders and their completion -------------------------------------------------------------------------


def test_work_orders_are_counted_by_type(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    for kind, count in {"corrective": 1, "preventive": 2, "predictive": 3, "inspection": 4, "emergency": 5}.items():
        for _ in range(count):
            dcmms.work_order(asset, ago(1000), type=kind)
    dcmms.work_order(None, ago(1000))
    dcmms.work_order(asset_key(9), ago(1000))
    row = dcmms.row(VIEW, asset)
    assert row["total_work_orders"] == 15
    assert row["corrective_work_orders"] == 1
    assert row["preventive_work_orders"] == 2


def test_counted_are_created_by_then_and_not_cancelled_by_then(dcmms: Dcmms) -> None:
    cases: list[tuple[datetime, dict[str, Any], int]] = [
        (T, {}, 1),
        (T + MICROSECOND, {}, 0),
        (ago(9), {"status": "draft"}, 1),
        (ago(9), {"status": "on_hold"}, 1),
        (ago(9), {"status": "cancelled", "updated_at": ago(8)}, 0),
        (ago(9), {"status": "cancelled", "updated_at": T}, 0),
        (ago(9), {"status": "cancelled", "updated_at": T + MICROSECOND}, 1),
        (ago(9), {"status": "open", "updated_at": T + MICROSECOND}, 1),
    ]
    for number, (created_at, columns, _) in enumerate(cases):
        dcmms.work_order(dcmms.asset(number), created_at, **columns)
    expected = [counted for *_, counted in cases]
    assert dcmms.column(VIEW, "total_work_orders") == expected
    assert dcmms.column(VIEW, "corrective_work_orders") == expected
    assert dcmms.column(VIEW, "wo_count_30d") == expected
    assert dcmms.column(VIEW, "corrective_wo_count_30d") == expected


def test_work_orders_of_the_health_score_are_those_of_30_days(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    inside, outside = window_edges(30)
    for created_at in inside + outside:
        dcmms.work_order(asset, created_at)
    dcmms.work_order(asset, inside[0], type="emergency")
    row = dcmms.row(VIEW, asset)
    assert (row["wo_count_30d"], row["corrective_wo_count_30d"]) == (3, 2)


# status, actual_end, completed_at of the tasks, updated_at → days since the completion
COMPLETIONS: list[tuple[str, datetime | None, list[datetime | None], datetime, int | None]] = [
    ("completed", ago(4), [ago(3), ago(2)], ago(1), 4),
    ("closed", ago(4), [], ago(1), 4),
    ("completed", None, [ago(3), ago(2), None], ago(1), 2),
    ("closed", None, [ago(2), ago(3)], ago(1), 2),
    ("completed", None, [None], ago(1), 1),
    ("closed", None, [], ago(1), 1),
    # at T and after it
    ("completed", T, [], T, 0),
    ("completed", T + MICROSECOND, [ago(2)], ago(1), None),
    ("completed", None, [ago(3), T], T, 0),
    ("completed", None, [ago(3), T + MICROSECOND], T + MICROSECOND, None),
    # a task that was done after the last edit is no fact about the closing
    ("closed", None, [ago(7), ago(1)], ago(1), 1),
    ("closed", None, [ago(7), ago(1) + MICROSECOND], ago(1), 7),
    ("closed", None, [ago(7), ago(-1)], ago(1), 7),
    ("closed", None, [ago(-1)], ago(8), 8),
    ("completed", None, [], T, 0),
    ("completed", None, [], T + MICROSECOND, None),
    # edited after T: the completion was before
    ("completed", ago(4), [], T + MICROSECOND, 4),
    ("closed", None, [ago(3)], T + MICROSECOND, 3),
    # another status is not completed, whatever its columns say
    ("in_progress", ago(4), [ago(3)], ago(1), None),
    ("on_hold", ago(4), [ago(3)], ago(1), None),
    ("open", ago(4), [ago(3)], ago(1), None),
    ("scheduled", ago(4), [ago(3)], ago(1), None),
    ("draft", ago(4), [ago(3)], ago(1), None),
    ("cancelled", ago(4), [ago(3)], T + MICROSECOND, None),
]


def test_completed_at_is_actual_end_else_the_last_task_else_the_last_edit(dcmms: Dcmms) -> None:
    for number, (status, actual_end, tasks, updated_at, _) in enumerate(COMPLETIONS):
        work_order = asset_key(100 + number)
        dcmms.work_order(
            dcmms.asset(number), ago(9), id=work_order, status=status, actual_end=actual_end, updated_at=updated_at
        )
        for completed_at in tasks:
            dcmms.task(work_order, completed_at)
    expected = [days for *_, days in COMPLETIONS]
    assert dcmms.column(VIEW, "days_since_last_corrective_wo") == expected
    assert dcmms.column(VIEW, "days_since_last_maintenance") == expected


def test_days_since_maintenance_depend_on_the_type(dcmms: Dcmms) -> None:
    for number, kind in enumerate(["preventive", "predictive", "corrective", "emergency", "inspection"]):
        asset = dcmms.asset(number)
        dcmms.work_order(asset, ago(9), type=kind, status="completed", actual_end=ago(5))
        dcmms.work_order(asset, ago(9), type=kind, status="completed", actual_end=ago(7))
        dcmms.work_order(asset, ago(1), type=kind)
    assert dcmms.column(VIEW, "days_since_last_maintenance") == [5, 5, 5, 5, None]
    assert dcmms.column(VIEW, "days_since_last_corrective_wo") == [None, None, 5, None, None]
    assert dcmms.column(VIEW, "days_since_last_preventive_completion") == [5, None, None, None, None]


def test_days_are_whole(dcmms: Dcmms) -> None:
    for number, completed_at in enumerate([ago(5), ago(5) + MICROSECOND, ago(6) + MICROSECOND, ago(400)]):
        dcmms.work_order(dcmms.asset(number), ago(500), status="completed", actual_end=completed_at)
    assert dcmms.column(VIEW, "days_since_last_corrective_wo") == [5, 4, 5, 400]
    assert dcmms.column(VIEW, "days_since_last_maintenance") == [5, 4, 5, 400]


# mean time to restoration and between failures --------------------------------------------------------------------


def completed(hours: float, at: datetime, **columns: Any) -> dict[str, Any]:
    """Return the columns of a work order that was completed `at`, `hours` after its creation."""
    return {"created_at": at - timedelta(hours=hours), "status": "completed", "actual_end": at, **columns}


def test_mttr_is_the_mean_of_completed_failures(dcmms: Dcmms) -> None:
    of_15_hours = [completed(10, ago(50)), completed(20, ago(1), type="emergency")]
    cases: list[tuple[list[dict[str, Any]], float | None]] = [
        (of_15_hours, 15.0),
        ([*of_15_hours, completed(0, ago(2))], 10.0),
        ([*of_15_hours, completed(90, ago(2), type="preventive"), completed(90, ago(2), type="predictive")], 15.0),
        ([*of_15_hours, {"created_at": ago(80)}], 15.0),  # still open
        ([*of_15_hours, completed(-1, ago(5))], 15.0),  # bad data: ends before it begins
        ([*of_15_hours, completed(90, ago(5), status="in_progress")], 15.0),
        ([*of_15_hours, completed(90, ago(5), status="cancelled")], 15.0),
        ([*of_15_hours, completed(90, T)], 40.0),
        ([*of_15_hours, completed(90, T + MICROSECOND)], 15.0),
        ([completed(-1, ago(5))], None),
        ([{"created_at": ago(80)}], None),
        ([completed(0, ago(5))], 0.0),
    ]
    for number, (work_orders, _) in enumerate(cases):
        asset = dcmms.asset(number)
        for work_order in work_orders:
            dcmms.work_order(asset, **work_order)
    assert dcmms.column(VIEW, "mttr_hours") == [mttr for _, mttr in cases]


def test_mtbf_is_operating_time_per_failure(dcmms: Dcmms) -> None:
    """The assets exist for 100 d, which is 2400 h."""
    cases: dict[str, tuple[list[dict[str, Any]], float | None]] = {
        "no work order": ([], None),
        "no failure": ([completed(24, ago(50), type="preventive")], None),
        "one of a day": ([completed(24, ago(50))], 2376.0),
        "apart": ([completed(24, ago(50)), completed(24, ago(20), type="emergency")], 1176.0),
        "overlapping": ([completed(24, ago(50)), completed(24, ago(49.5))], (2400 - 36) / 2),
        "one within the other": ([completed(48, ago(50)), completed(4, ago(51))], (2400 - 48) / 2),
        "one after the other": ([completed(24, ago(50)), completed(24, ago(51))], (2400 - 48) / 2),
        "the same twice": ([completed(24, ago(50)), completed(24, ago(50))], (2400 - 24) / 2),
        "open": ([{"created_at": ago(2)}], 2352.0),
        "open twice": ([{"created_at": ago(2)}, {"created_at": ago(1)}], (2400 - 48) / 2),
        "completed at T": ([completed(48, T)], 2352.0),
        "completed after T": ([completed(96, ago(-2))], 2352.0),
        "of no length": ([completed(0, ago(2))], 2400.0),
        "reported at T": ([{"created_at": T}], 2400.0),
        "bad data": ([completed(-24, ago(3))], 2400.0),
        "bad data beside another": ([completed(-24, ago(3)), completed(24, ago(50))], (2400 - 24) / 2),
        "cancelled": ([completed(24, ago(50)), completed(24, ago(9), status="cancelled")], 2376.0),
        "cancelled after T": (
            [completed(24, ago(50)), completed(24, ago(9), status="cancelled", updated_at=T + MICROSECOND)],
            (2400 - 24 - 240) / 2,
        ),
        "down from the first hour": ([{"created_at": ago(100)}], 0.0),
    }
    for number, (work_orders, _) in enumerate(cases.values()):
        asset = dcmms.asset(number, created_at=ago(100))
        for work_order in work_orders:
            dcmms.work_order(asset, **work_order)
    measured = dict(zip(cases, dcmms.column(VIEW, "mtbf_hours"), strict=True))
    assert measured == {case: mtbf for case, (_, mtbf) in cases.items()}


# columns of the asset, its work orders → hours per failure
OBSERVED_FROM: dict[str, tuple[dict[str, Any], list[dict[str, Any]], float]] = {
    "creation of the asset": ({"created_at": ago(100)}, [completed(24, ago(50))], 2376),
    "installation before it": (
        {"created_at": ago(100), "installation_date": ago(200, hours=10)},
        [completed(24, ago(50))],
        2376,
    ),
    "first failure, before the asset was recorded": ({"created_at": ago(10)}, [completed(24, ago(19))], 480 - 24),
    "first work order of any type": (
        {"created_at": ago(10)},
        [{"created_at": ago(20), "type": "inspection"}, completed(24, ago(5))],
        480 - 24,
    ),
    "first counted work order": (
        {"created_at": ago(10)},
        [
            {"created_at": ago(30), "status": "cancelled"},
            {"created_at": ago(20), "type": "inspection"},
            completed(24, ago(5)),
        ],
        480 - 24,
    ),
    "installation, after the first work order": (
        {"created_at": ago(100), "installation_date": ago(10, hours=10)},
        [completed(240, ago(9))],
        250 - 34,
    ),
    "installation, after all failures": (
        {"created_at": ago(100), "installation_date": ago(10, hours=10)},
        [completed(24, ago(40)), completed(24, ago(20))],
        250 / 2,
    ),
    "installation, between recording and first work order": (
        {"created_at": ago(10), "installation_date": ago(15, hours=10)},
        [completed(24, ago(19))],
        370,
    ),
    "not an installation in the future": (
        {"created_at": ago(100), "installation_date": ago(-1, hours=10)},
        [completed(24, ago(50))],
        2376,
    ),
}


def test_mtbf_is_observed_from_installation_or_first_record(dcmms: Dcmms) -> None:
    for number, (columns, work_orders, _) in enumerate(OBSERVED_FROM.values()):
        asset = dcmms.asset(number, **columns)
        for work_order in work_orders:
            dcmms.work_order(asset, **work_order)
    measured = dict(zip(OBSERVED_FROM, dcmms.column(VIEW, "mtbf_hours"), strict=True))
    assert measured == {case: mtbf for case, (*_, mtbf) in OBSERVED_FROM.items()}


# alerts and health scores -----------------------------------------------------------------------------------------


def test_alerts_of_30_days(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    inside, outside = window_edges(30)
    for triggered_at in inside + outside:
        dcmms.alert(asset, triggered_at, "critical")
    for severity in ("high", "medium", "low", "info"):
        dcmms.alert(asset, ago(3), severity)
    dcmms.alert(None, ago(3), "critical")
    dcmms.alert(dcmms.asset(2), ago(3), "low")
    assert dcmms.column(VIEW, "recent_alarms_30d") == [6, 1]
    assert dcmms.column(VIEW, "recent_critical_alarms_30d") == [2, 0]


def test_recorded_score_of_7_days(dcmms: Dcmms) -> None:
    (first, last), outside = window_edges(7)
    cases: list[tuple[dict[datetime, int], float | None]] = [
        ({first: 40}, 40.0),
        ({last: 41}, 41.0),
        ({outside[0]: 42}, None),
        ({outside[1]: 43}, None),
        ({ago(3): 60, ago(2): 50, ago(4): 70, ago(8): 80, ago(-1): 90}, 50.0),
        ({ago(1): 0}, 0.0),
        ({ago(1): 100}, 100.0),
        # out of 0 to 100 it is passed over, wherever it lies
        ({ago(1): 110, ago(2): 50, ago(3): 60}, 50.0),
        ({ago(1): -1, ago(2): 101, ago(3): 60, ago(-1): 500}, 60.0),
        ({ago(1): 110, ago(8): 50}, None),
        ({ago(1): -(2**31), ago(2): 2**31 - 1}, None),
    ]
    for number, (scores, _) in enumerate(cases):
        asset = dcmms.asset(number)
        for calculated_at, score in scores.items():
            dcmms.score(asset, calculated_at, score)
    assert dcmms.column(VIEW, "health_score") == [score for _, score in cases]


def test_health_score_is_computed_where_none_was_recorded(dcmms: Dcmms) -> None:
    """Components are alarms, work orders, telemetry, age, maintenance, with weights 0.3, 0.2, 0.3, 0.1, 0.1."""
    recorded, with_telemetry, without_telemetry, without_age = (
        dcmms.asset(number, installation_date=installed)
        for number, installed in enumerate(["2026-01-01", "2026-01-01", "2026-01-01", None])
    )
    dcmms.score(recorded, ago(1), 12)
    for asset in (recorded, with_telemetry, without_telemetry, without_age):
        dcmms.alert(asset, ago(1), "critical")
        dcmms.work_order(asset, ago(29))
        dcmms.work_order(asset, ago(99), type="preventive", status="completed", actual_end=ago(61))
    telemetry = pa.table(
        {
            "asset_id": [str(without_age), str(with_telemetry), str(recorded)],
            "anomaly_count_7d": pa.array([None, 16, 16], pa.int32()),
        }
    )
    with open_postgres(dcmms.settings) as source:
        assets = extract_postgres(source, VIEW, T)

    scores = with_health_score(assets, {"telemetry_features": telemetry})["health_score"]
    assert scores.type == pa.float32()
    assert scores.to_pylist() == pytest.approx(
        [
            12,
            0.3 * 90 + 0.2 * 85 + 0.3 * 50 + 0.1 * 100 + 0.1 * 75,
            (0.3 * 90 + 0.2 * 85 + 0.1 * 100 + 0.1 * 75) / 0.7,
            (0.3 * 90 + 0.2 * 85 + 0.1 * 75) / 0.6,
        ]
    )
    without = with_health_score(assets, {})["health_score"].to_pylist()
    assert without[:2] == pytest.approx([12, (0.3 * 90 + 0.2 * 85 + 0.1 * 100 + 0.1 * 75) / 0.7])


# installed capacity -------------------------------------------------------------------------------------------------

# a JSON value → kW
FIGURES: dict[str, float | None] = {
    "2050": 2050.0,
    "2050.5": 2050.5,
    "0.5": 0.5,
    "1e3": 1000.0,
    '"2050"': 2050.0,
    '"55 kW"': 55.0,
    '"55kw"': 55.0,
    '"2.05 MW"': 2050.0,
    '" 1.5mw "': 1500.0,
    '"900000 W"': 900.0,
    '"900000w"': 900.0,
    '"\\t+55 KW\\t"': 55.0,
    '"400 kWp"': 400.0,
    '"0.5 MWp"': 500.0,
    '"500 kWac"': 500.0,
    '"500KWDC"': 500.0,
    '"1.5 GWp"': 1_500_000.0,
    '"900 Wp"': 0.9,
    '"12\\u00a0kW"': 12.0,
    '"\\u2009 12\\u2009\\u00a0MW "': 12_000.0,
    '"+5"': 5.0,
    '"3."': 3.0,
    '"1e3"': 1000.0,
    '"1E+3 kW"': 1000.0,
    "1e-40": 1e-40,
    '"1e-40"': 1e-40,
    '".5 MW"': 500.0,
    '"2.5e3"': 2500.0,
    "0": None,
    "-5": None,
    '"-5"': None,
    '"0 kW"': None,
    '""': None,
    '" "': None,
    '"kW"': None,
    '"55 hp"': None,
    '"55 kWh"': None,
    '"55 kW peak"': None,
    '"500 kVA"': None,
    '"500 kW p"': None,
    '"500 p"': None,
    '"500 kWpac"': None,
    '"12\\u202fkW"': None,
    '"12\\nkW"': None,
    '"12\\u212aW"': None,  # the sign of kelvin is no K
    '"\\u0661\\u0662 kW"': None,
    '"1\\u00a0000 kW"': None,
    f'"1.{"0" * 20_000} kW"': None,  # more digits than a numeric has
    '"55 / 60 kW"': None,
    '"2,05 MW"': None,
    '"NaN"': None,
    '"Infinity"': None,
    '"n/a"': None,
    '"1e400"': None,
    "1e400": None,
    '"1e307 MW"': None,
    '"1e-400"': None,
    "null": None,
    "true": None,
    "[55]": None,
    '{"value": 55}': None,
}


@pytest.mark.parametrize(("column", "key"), [("specifications", "ratedPowerKw"), ("metadata", "installed_capacity_kw")])
def test_capacity_is_a_number_or_a_number_with_a_unit(dcmms: Dcmms, column: str, key: str) -> None:
    for number, figure in enumerate(FIGURES):
        dcmms.asset(number, **{column: f'{{"{key}": {figure}}}'})
    measured = dict(zip(FIGURES, dcmms.column(VIEW, "installed_capacity_kw"), strict=True))
    assert measured == FIGURES


def turbine_metadata(dcmms: Dcmms, asset_number: int, rated_power_mw: str | None) -> None:
    row = {"asset_id": asset_key(asset_number), "rated_power_mw": rated_power_mw}
    dcmms.insert("wind_turbine_metadata", [row])


# specifications, metadata, rated power in MW → kW
PLACES: list[tuple[str, str, str | None, float | None]] = [
    ('{"ratedPowerKw": 1}', '{"installed_capacity_kw": 2}', "0.003", 1.0),
    ('{"ratedPowerKw": "55 hp"}', '{"installed_capacity_kw": 2}', "0.003", 2.0),
    ('{"ratedPowerKw": 0}', '{"installed_capacity_kw": 2}', None, 2.0),
    ('{"ratedPowerKw": "1e400"}', '{"installed_capacity_kw": "2"}', None, 2.0),
    ("{}", '{"installed_capacity_kw": 2}', "0.003", 2.0),
    ("{}", '{"installed_capacity_kw": -2}', "0.003", 3.0),
    ("{}", "{}", "2.050", 2050.0),
    ("{}", "{}", "0", None),
    ("{}", "{}", "-1", None),
    ("{}", "{}", "NaN", None),
    ("{}", "{}", None, None),
    # JSON that is no object is passed over, as are the keys of the other place
    ("[1]", '{"installed_capacity_kw": 2}', None, 2.0),
    ("1", '"installed_capacity_kw"', "0.003", 3.0),
    ("null", "[]", "0.003", 3.0),
    ('[{"ratedPowerKw": 1}]', "true", "0.003", 3.0),
    ('{"installed_capacity_kw": 1}', '{"ratedPowerKw": 2}', None, None),
    ('{"specifications": {"ratedPowerKw": 1}}', '{"INSTALLED_CAPACITY_KW": 2}', None, None),
]


def test_capacity_is_the_first_readable_place(dcmms: Dcmms) -> None:
    for number, (specifications, metadata, rated_power_mw, _) in enumerate(PLACES):
        dcmms.asset(number, specifications=specifications, metadata=metadata)
        turbine_metadata(dcmms, number, rated_power_mw)
    assert dcmms.column(VIEW, "installed_capacity_kw") == [kilowatts for *_, kilowatts in PLACES]


@pytest.mark.parametrize("variant", ["n"], indirect=True)
def test_text_that_is_not_json_is_passed_over(dcmms: Dcmms) -> None:
    texts = ["", "55 kW", "{ratedPowerKw: 55}", '{"ratedPowerKw": 55', "{'ratedPowerKw': 55}", '{"a": "\\u0000"}']
    for number, text in enumerate(texts):
        dcmms.asset(number, specifications=text, metadata='{"installed_capacity_kw": 2}')
    dcmms.asset(len(texts), specifications="{}", metadata="none")
    assert dcmms.column(VIEW, "installed_capacity_kw") == [2.0] * len(texts) + [None]


@contextmanager
def no_wind_turbine_metadata(dcmms: Dcmms) -> Iterator[None]:
    """Take the table away for a while, as at sites without wind turbines."""
    with dcmms.postgres.cursor() as cursor:
        cursor.execute("alter table wind_turbine_metadata rename to put_aside")
    dcmms.postgres.commit()
    try:
        yield
    finally:
        with dcmms.postgres.cursor() as cursor:
            cursor.execute("alter table put_aside rename to wind_turbine_metadata")
        dcmms.postgres.commit()


def test_wind_turbine_metadata_may_be_missing(dcmms: Dcmms) -> None:
    for number, specifications in enumerate(["{}", '{"ratedPowerKw": "55 kW"}']):
        dcmms.asset(number, specifications=specifications)
        turbine_metadata(dcmms, number, "2.050")
    with no_wind_turbine_metadata(dcmms):
        assert dcmms.column(VIEW, "installed_capacity_kw") == [None, 55.0]
    assert dcmms.column(VIEW, "installed_capacity_kw") == [2050.0, 55.0]

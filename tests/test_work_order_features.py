"""work_order_features: hand-computed rows at the edges, for both schema variants."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.dcmms import MICROSECOND, Dcmms, T, ago, asset_key, window_edges

VIEW = "work_order_features"

NO_WORK_ORDERS = {
    "event_timestamp": T,
    "wo_count_7d": 0,
    "wo_count_30d": 0,
    "wo_count_90d": 0,
    "wo_count_365d": 0,
    "corrective_wo_count_7d": 0,
    "corrective_wo_count_30d": 0,
    "corrective_wo_count_90d": 0,
    "preventive_wo_count_30d": 0,
    "preventive_wo_count_90d": 0,
    "emergency_wo_count_30d": 0,
    "emergency_wo_count_90d": 0,
    "avg_wo_completion_hours_30d": None,
    "overdue_wo_count_30d": 0,
    "wo_completion_rate_30d": None,
    "critical_wo_count_30d": 0,
    "high_priority_wo_count_30d": 0,
    "wo_count_trend_30d_vs_90d": None,
    "corrective_wo_ratio_30d": None,
    "repeat_failure_count_90d": 0,
    "days_since_last_wo": None,
    "days_since_last_corrective_wo": None,
    "days_since_last_preventive_wo": None,
    "newest_source_at": None,
}


def completed(hours: float, at: datetime, **columns: Any) -> dict[str, Any]:
    """Return the columns of a work order that was completed `at`, `hours` after its creation."""
    return {"created_at": at - timedelta(hours=hours), "status": "completed", "actual_end": at, **columns}


def measure(dcmms: Dcmms, feature: str, cases: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the feature of each case: an asset with these work orders."""
    for number, work_orders in enumerate(cases.values()):
        asset = dcmms.asset(number)
        for work_order in work_orders:
            dcmms.work_order(asset, **work_order)
    return dict(zip(cases, dcmms.column(VIEW, feature), strict=True))


def test_asset_without_work_orders(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    dcmms.work_order(dcmms.asset(2), ago(1))
    dcmms.work_order(None, ago(1))
    dcmms.work_order(asset_key(9), ago(1))
    assert dcmms.row(VIEW, asset) == {"asset_id": str(asset)} | NO_WORK_ORDERS
    assert len(dcmms.extract(VIEW)) == 2


def test_asset_with_work_orders_has_one_row(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    dcmms.work_order(asset, **completed(24, ago(19)), priority="critical")
    dcmms.work_order(asset, ago(5), type="emergency", priority="high", scheduled_end=ago(4), id=asset_key(100))
    dcmms.task(asset_key(100), ago(4.5))
    dcmms.task(asset_key(100), None)
    dcmms.work_order(asset, **completed(12, ago(6), type="preventive"))
    dcmms.work_order(asset, ago(2), type="inspection", status="draft", priority="low")
    dcmms.work_order(asset, ago(60))
    dcmms.work_order(asset, ago(61), type="preventive")
    dcmms.work_order(asset, ago(200))
    assert dcmms.row(VIEW, asset) == {
        "asset_id": str(asset),
        "event_timestamp": T,
        "wo_count_7d": 3,
        "wo_count_30d": 4,
        "wo_count_90d": 6,
        "wo_count_365d": 7,
        "corrective_wo_count_7d": 0,
        "corrective_wo_count_30d": 1,
        "corrective_wo_count_90d": 2,
        "preventive_wo_count_30d": 1,
        "preventive_wo_count_90d": 2,
        "emergency_wo_count_30d": 1,
        "emergency_wo_count_90d": 1,
        "avg_wo_completion_hours_30d": 18.0,
        "overdue_wo_count_30d": 1,
        "wo_completion_rate_30d": 50.0,
        "critical_wo_count_30d": 1,
        "high_priority_wo_count_30d": 1,
        "wo_count_trend_30d_vs_90d": 2.0,
        "corrective_wo_ratio_30d": 0.25,
        "repeat_failure_count_90d": 1,
        "days_since_last_wo": 2,
        "days_since_last_corrective_wo": 20,
        "days_since_last_preventive_wo": 6,
        "newest_source_at": ago(2),
    }


def test_assets_that_do_not_exist_yet_or_any_more_have_no_row(dcmms: Dcmms) -> None:
    dcmms.asset(1, created_at=T)
    dcmms.asset(2, created_at=T + MICROSECOND)
    dcmms.asset(3, status="decommissioned", updated_at=T)
    dcmms.asset(4, status="decommissioned", updated_at=T + MICROSECOND)
    for number in (1, 2, 3, 4):
        dcmms.work_order(asset_key(number), ago(1))
    assert dcmms.column(VIEW, "asset_id") == [str(asset_key(1)), str(asset_key(4))]


def test_session_time_zone_of_the_client_changes_nothing(dcmms: Dcmms, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = dcmms.asset()
    for created_at in window_edges(7)[0]:
        dcmms.work_order(asset, created_at, scheduled_end=T)
    expected = dcmms.row(VIEW, asset)
    monkeypatch.setenv("PGTZ", "America/Los_Angeles")
    assert dcmms.row(VIEW, asset) == expected
    assert (expected["wo_count_7d"], expected["overdue_wo_count_30d"]) == (2, 2)


# created in the window --------------------------------------------------------------------------------------------

# feature → days of its window, the columns that its work orders have
COUNTS: dict[str, tuple[int, dict[str, str]]] = {
    "wo_count_7d": (7, {}),
    "wo_count_30d": (30, {}),
    "wo_count_90d": (90, {}),
    "wo_count_365d": (365, {}),
    "corrective_wo_count_7d": (7, {"type": "corrective"}),
    "corrective_wo_count_30d": (30, {"type": "corrective"}),
    "corrective_wo_count_90d": (90, {"type": "corrective"}),
    "preventive_wo_count_30d": (30, {"type": "preventive"}),
    "preventive_wo_count_90d": (90, {"type": "preventive"}),
    "emergency_wo_count_30d": (30, {"type": "emergency"}),
    "emergency_wo_count_90d": (90, {"type": "emergency"}),
    "critical_wo_count_30d": (30, {"priority": "critical"}),
    "high_priority_wo_count_30d": (30, {"priority": "high"}),
}


@pytest.mark.parametrize("feature", COUNTS)
def test_count_of_those_created_in_the_window(dcmms: Dcmms, feature: str) -> None:
    days, columns = COUNTS[feature]
    asset = dcmms.asset()
    inside, outside = window_edges(days)
    for created_at in inside + outside:
        dcmms.work_order(asset, created_at, **columns)
    others = [{"type": kind} for kind in ("corrective", "preventive", "predictive", "inspection", "emergency")]
    others += [{"priority": priority} for priority in ("critical", "high", "medium", "low")]
    for other in others:
        dcmms.work_order(dcmms.asset(2 + others.index(other)), ago(1), **other)
    counts = dcmms.column(VIEW, feature)
    assert counts[0] == 2
    if columns:
        plain = {"type": "corrective", "priority": "medium"}
        assert counts[1:] == [int(columns.items() <= (plain | other).items()) for other in others]
    else:
        assert counts[1:] == [1] * len(others)


def test_counted_are_created_by_then_and_not_cancelled_by_then(dcmms: Dcmms) -> None:
    cases: dict[str, tuple[dict[str, Any], int]] = {
        "draft": ({"status": "draft"}, 1),
        "completed": ({"status": "completed", "actual_end": ago(1)}, 1),
        "cancelled before T": ({"status": "cancelled", "updated_at": ago(2)}, 0),
        "cancelled at T": ({"status": "cancelled", "updated_at": T}, 0),
        "cancelled after T": ({"status": "cancelled", "updated_at": T + MICROSECOND}, 1),
        "edited after T": ({"status": "open", "updated_at": T + MICROSECOND}, 1),
    }
    work_orders = {case: [{"created_at": ago(3), **columns}] for case, (columns, _) in cases.items()}
    assert measure(dcmms, "wo_count_7d", work_orders) == {case: count for case, (_, count) in cases.items()}


def test_trend_is_the_daily_rate_of_30_days_over_that_of_90(dcmms: Dcmms) -> None:
    work_orders = {
        "none": [],
        "none in 90 d": [{"created_at": ago(90)}],
        "none in 30 d": [{"created_at": ago(30)}, {"created_at": ago(80)}],
        "steady": [{"created_at": ago(10)}, {"created_at": ago(40)}, {"created_at": ago(70)}],
        "all in 30 d": [{"created_at": ago(10)}, {"created_at": ago(20)}],
        "falling": [{"created_at": ago(day)} for day in (10, 40, 50, 60, 70, 80)],
    }
    assert measure(dcmms, "wo_count_trend_30d_vs_90d", work_orders) == {
        "none": None,
        "none in 90 d": None,
        "none in 30 d": 0.0,
        "steady": 1.0,
        "all in 30 d": 3.0,
        "falling": 0.5,
    }


def test_corrective_ratio(dcmms: Dcmms) -> None:
    emergency, preventive = ({"created_at": ago(3), "type": kind} for kind in ("emergency", "preventive"))
    corrective, older = {"created_at": ago(3)}, {"created_at": ago(30)}
    work_orders = {
        "none": [],
        "none in 30 d": [older],
        "no corrective": [emergency, preventive, older],
        "one of four": [corrective, emergency, preventive, preventive, older],
        "all": [corrective, corrective],
    }
    assert measure(dcmms, "corrective_wo_ratio_30d", work_orders) == {
        "none": None,
        "none in 30 d": None,
        "no corrective": 0.0,
        "one of four": 0.25,
        "all": 1.0,
    }


def test_days_since_the_latest_creation(dcmms: Dcmms) -> None:
    for number, created_at in enumerate([T, ago(1) + MICROSECOND, ago(1), ago(400)]):
        asset = dcmms.asset(number)
        dcmms.work_order(asset, created_at, status="completed", actual_end=T)
        dcmms.work_order(asset, ago(401), type="preventive")
        dcmms.work_order(asset, ago(402), type="preventive")
    other = dcmms.asset(4)
    dcmms.work_order(other, ago(5), type="emergency")
    dcmms.work_order(other, ago(4), status="cancelled", updated_at=ago(3))
    dcmms.work_order(other, T + MICROSECOND)
    assert dcmms.column(VIEW, "days_since_last_wo") == [0, 0, 1, 400, 5]
    assert dcmms.column(VIEW, "days_since_last_corrective_wo") == [0, 0, 1, 400, None]
    assert dcmms.column(VIEW, "days_since_last_preventive_wo") == [401, 401, 401, 401, None]


# completion ---------------------------------------------------------------------------------------------------------


def test_completion_time_of_those_completed_in_the_window(dcmms: Dcmms) -> None:
    inside, outside = window_edges(30)
    in_the_window = [completed(hours, at) for hours, at in zip((1000, 20), inside, strict=True)]
    out_of_it = [completed(9, at) for at in outside]
    work_orders = {
        "none": [],
        "open": [{"created_at": ago(3)}],
        "edges": in_the_window + out_of_it,
        "outside": out_of_it,
        "of any type": [completed(10, ago(3), type="inspection"), completed(20, ago(3), type="preventive")],
        "bad data": [completed(-1, ago(3))],
        "bad data beside others": [completed(-1, ago(3)), completed(8, ago(3))],
        "of no length": [completed(0, ago(3)), completed(8, ago(3))],
        "closed, by its last edit": [{"created_at": ago(3), "status": "closed", "updated_at": ago(2)}],
        "in progress, with an end": [completed(9, ago(3), status="in_progress")],
        "cancelled, with an end": [completed(9, ago(3), status="cancelled")],
        "completed, edited after T": [completed(9, ago(3), updated_at=T + MICROSECOND)],
    }
    assert measure(dcmms, "avg_wo_completion_hours_30d", work_orders) == {
        "none": None,
        "open": None,
        "edges": 510.0,
        "outside": None,
        "of any type": 15.0,
        "bad data": None,
        "bad data beside others": 8.0,
        "of no length": 4.0,
        "closed, by its last edit": 24.0,
        "in progress, with an end": None,
        "cancelled, with an end": None,
        "completed, edited after T": 9.0,
    }


def test_completion_by_tasks_is_that_of_the_last_one(dcmms: Dcmms) -> None:
    cases: list[tuple[str, list[datetime | None], float | None]] = [
        ("completed", [ago(8), ago(6), None], 3 * 24),
        ("closed", [ago(8), ago(1)], 8 * 24),
        # done after the last edit
        ("closed", [ago(8), ago(1) + MICROSECOND], 24),
        ("closed", [ago(-1)], 8 * 24),
        ("completed", [None], 8 * 24),
        ("in_progress", [ago(8)], None),
    ]
    for number, (status, tasks, _) in enumerate(cases):
        work_order = asset_key(100 + number)
        dcmms.work_order(dcmms.asset(number), ago(9), id=work_order, status=status, updated_at=ago(1))
        for completed_at in tasks:
            dcmms.task(work_order, completed_at)
    assert dcmms.column(VIEW, "avg_wo_completion_hours_30d") == [hours for *_, hours in cases]


def test_completion_rate_of_those_created_in_the_window(dcmms: Dcmms) -> None:
    (first, last), (before, after) = window_edges(30)
    done = {"status": "completed", "actual_end": T}
    work_orders = {
        "none": [],
        "none in 30 d": [{"created_at": before, **done}, {"created_at": after, "status": "completed"}],
        "open": [{"created_at": ago(3)}],
        "edges": [{"created_at": at, **done} for at in (first, last)] + [{"created_at": before}],
        "one of four": [completed(9, ago(3))] + [{"created_at": ago(3), "type": "inspection"}] * 3,
        "completed after T": [{"created_at": ago(3), "status": "completed", "actual_end": T + MICROSECOND}],
        "in progress, with an end": [completed(9, ago(3), status="in_progress")],
        "bad data": [completed(-9, ago(3))],
        "cancelled": [completed(9, ago(3)), completed(9, ago(3), status="cancelled")],
        "to be cancelled after T": [
            completed(9, ago(3)),
            completed(9, ago(3), status="cancelled", updated_at=T + MICROSECOND),
        ],
    }
    assert measure(dcmms, "wo_completion_rate_30d", work_orders) == {
        "none": None,
        "none in 30 d": None,
        "open": 0.0,
        "edges": 100.0,
        "one of four": 25.0,
        "completed after T": 0.0,
        "in progress, with an end": 0.0,
        "bad data": 100.0,
        "cancelled": 100.0,
        "to be cancelled after T": 50.0,
    }


def test_overdue_are_those_due_in_the_window_and_not_completed(dcmms: Dcmms) -> None:
    inside, outside = window_edges(30)
    due = {"created_at": ago(60), "scheduled_end": ago(3)}
    work_orders = {
        "without a date": [{"created_at": ago(60)}],
        "edges": [{"created_at": ago(60), "scheduled_end": at} for at in inside + outside],
        "open": [due],
        "draft": [due | {"status": "draft"}],
        "in progress, with an end": [due | {"status": "in_progress", "actual_end": ago(4)}],
        "completed in time": [due | {"status": "completed", "actual_end": ago(4)}],
        "completed late": [due | {"status": "completed", "actual_end": T}],
        "completed after T": [due | {"status": "completed", "actual_end": T + MICROSECOND}],
        "completed, bad data": [due | {"status": "completed", "actual_end": ago(61)}],
        "cancelled": [due | {"status": "cancelled", "updated_at": T}],
        "cancelled after T": [due | {"status": "cancelled", "updated_at": T + MICROSECOND}],
        "due before its creation": [{"created_at": ago(1), "scheduled_end": ago(3)}],
        "created after T": [{"created_at": T + MICROSECOND, "scheduled_end": ago(3)}],
        "of any type": [due | {"type": kind} for kind in ("inspection", "preventive", "predictive", "emergency")],
    }
    assert measure(dcmms, "overdue_wo_count_30d", work_orders) == {
        "without a date": 0,
        "edges": 2,
        "open": 1,
        "draft": 1,
        "in progress, with an end": 1,
        "completed in time": 0,
        "completed late": 0,
        "completed after T": 1,
        "completed, bad data": 0,
        "cancelled": 0,
        "cancelled after T": 1,
        "due before its creation": 1,
        "created after T": 0,
        "of any type": 4,
    }


# repeat failures ----------------------------------------------------------------------------------------------------


def test_repeat_failures_come_0_to_30_days_after_the_repair_of_another(dcmms: Dcmms) -> None:
    repair = completed(24, ago(50))
    again = {"created_at": ago(40)}
    cases: dict[str, tuple[list[dict[str, Any]], int]] = {
        "once": ([again], 0),
        "never repaired": ([{"created_at": ago(50)}, again], 0),
        "repeat": ([repair, again], 1),
        "at the repair": ([repair, {"created_at": ago(50)}], 1),
        "before the repair": ([repair, {"created_at": ago(50) - MICROSECOND}], 0),
        "30 d later": ([repair, {"created_at": ago(20)}], 1),
        "more than 30 d later": ([repair, {"created_at": ago(20) + MICROSECOND}], 0),
        "in the window": ([completed(24, ago(95)), {"created_at": ago(90) + MICROSECOND}], 1),
        "before the window": ([completed(24, ago(95)), {"created_at": ago(90)}], 0),
        "at T": ([completed(24, ago(5)), {"created_at": T}], 1),
        "after T": ([completed(24, ago(5)), {"created_at": T + MICROSECOND}], 0),
        "emergency": ([repair | {"type": "emergency"}, again | {"type": "emergency"}], 1),
        "after maintenance": ([repair | {"type": "preventive"}, again], 0),
        "maintenance after": ([repair, again | {"type": "preventive"}], 0),
        "after bad data": ([completed(-24, ago(50)), again], 0),
        "after a cancelled one": ([repair | {"status": "cancelled"}, again], 0),
        "cancelled": ([repair, again | {"status": "cancelled"}], 0),
        "in progress, with an end": ([repair | {"status": "in_progress"}, again], 0),
        "of no length": ([completed(0, ago(40))], 0),
        "after two repairs": ([repair, completed(24, ago(45)), again], 2),
        "a chain": ([repair, completed(24, ago(40)), completed(24, ago(30)), {"created_at": ago(1)}], 3),
    }
    work_orders = {case: rows for case, (rows, _) in cases.items()}
    expected = {case: count for case, (_, count) in cases.items()}
    assert measure(dcmms, "repeat_failure_count_90d", work_orders) == expected


def test_repair_of_another_asset_makes_no_repeat(dcmms: Dcmms) -> None:
    dcmms.work_order(dcmms.asset(1), **completed(24, ago(50)))
    dcmms.work_order(dcmms.asset(2), ago(40))
    dcmms.work_order(None, ago(40))
    assert dcmms.column(VIEW, "repeat_failure_count_90d") == [0, 0]

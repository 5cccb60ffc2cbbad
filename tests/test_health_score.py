"""health_score: dCMMS's scoring rules at each edge of each component."""

import numpy as np
import pytest

from features.health_score import health_score

NAN = float("nan")
PERFECT = {
    "alarms_30d": 0,
    "critical_alarms_30d": 0,
    "wo_count_30d": 0,
    "corrective_wo_count_30d": 0,
    "anomaly_count_7d": 0,
    "asset_age_months": 0,
    "days_since_preventive": 0,
}


def points_of(weight: float, **inputs: float) -> float:
    """Return the points of the one component that `inputs` move, all others being at 100."""
    return 100 - (100 - float(health_score(**PERFECT | inputs))) / weight


def test_perfect_asset_has_100_points() -> None:
    assert health_score(**PERFECT) == pytest.approx(100)


@pytest.mark.parametrize(
    ("alarms", "critical", "points"),
    [
        (0, 0, 100),
        (1, 0, 90),
        (1, 1, 90),  # a critical alarm counts twice: n = 2
        (2, 0, 90),
        (2, 1, 70),
        (3, 0, 70),
        (5, 0, 70),
        (6, 0, 50),
        (5, 5, 50),
        (10, 0, 50),
        (11, 0, 28),  # 30 - 2 * 1
        (10, 1, 28),
        (19, 0, 12),
        (20, 0, 10),
        (21, 0, 10),
        (1000, 1000, 10),
    ],
)
def test_alarms(alarms: int, critical: int, points: float) -> None:
    assert points_of(0.30, alarms_30d=alarms, critical_alarms_30d=critical) == pytest.approx(points)


@pytest.mark.parametrize(
    ("work_orders", "corrective", "points"),
    [
        (0, 0, 100),
        (1, 0, 100),
        (1, 1, 85),  # n = 1.5
        (2, 0, 85),
        (2, 2, 85),  # n = 3
        (3, 0, 85),
        (3, 1, 70),  # n = 3.5
        (4, 0, 70),
        (4, 4, 70),  # n = 6
        (6, 0, 70),
        (6, 1, 50),  # n = 6.5
        (10, 0, 50),
        (10, 1, 30),  # n = 10.5 is past the last step, but the tail looks at the 10 work orders alone
        (7, 7, 39),  # n = 10.5: 30 - 3 * (7 - 10)
        (11, 0, 27),
        (16, 0, 12),
        (17, 0, 10),
        (1000, 0, 10),
    ],
)
def test_work_orders(work_orders: int, corrective: int, points: float) -> None:
    assert points_of(0.20, wo_count_30d=work_orders, corrective_wo_count_30d=corrective) == pytest.approx(points)


@pytest.mark.parametrize(
    ("anomalies", "points"),
    [(0, 100), (1, 90), (5, 90), (6, 70), (15, 70), (16, 50), (30, 50), (31, 29), (49, 11), (50, 10), (51, 10)],
)
def test_telemetry(anomalies: int, points: float) -> None:
    assert points_of(0.30, anomaly_count_7d=anomalies) == pytest.approx(points)


@pytest.mark.parametrize(
    ("months", "points"),
    [
        (6, 100),
        (7, 95),
        (12, 95),
        (13, 90),
        (24, 90),
        (25, 80),
        (60, 80),
        (61, 70 - 1 / 12),
        (72, 69),
        (299, 70 - 239 / 12),
        (300, 50),
        (301, 50),
    ],
)
def test_age(months: int, points: float) -> None:
    assert points_of(0.10, asset_age_months=months) == pytest.approx(points)


@pytest.mark.parametrize(
    ("days", "points"),
    [
        (30, 100),
        (31, 90),
        (60, 90),
        (61, 75),
        (90, 75),
        (91, 60),
        (180, 60),
        (181, 39.9),
        (379, 20.1),
        (380, 20),
        (381, 20),
        (NAN, 60),  # never
    ],
)
def test_maintenance(days: float, points: float) -> None:
    assert points_of(0.10, days_since_preventive=days) == pytest.approx(points)


# The points of each component of this asset: alarms 50, work orders 70, telemetry 90, age 80, maintenance 75.
WORN = {
    "alarms_30d": 8,
    "critical_alarms_30d": 2,
    "wo_count_30d": 4,
    "corrective_wo_count_30d": 2,
    "anomaly_count_7d": 5,
    "asset_age_months": 60,
    "days_since_preventive": 90,
}


@pytest.mark.parametrize(
    ("unknown", "score"),
    [
        ([], 0.3 * 50 + 0.2 * 70 + 0.3 * 90 + 0.1 * 80 + 0.1 * 75),
        (["alarms_30d"], (0.2 * 70 + 0.3 * 90 + 0.1 * 80 + 0.1 * 75) / 0.7),
        (["critical_alarms_30d"], (0.2 * 70 + 0.3 * 90 + 0.1 * 80 + 0.1 * 75) / 0.7),
        (["wo_count_30d"], (0.3 * 50 + 0.3 * 90 + 0.1 * 80 + 0.1 * 75) / 0.8),
        (["corrective_wo_count_30d"], (0.3 * 50 + 0.3 * 90 + 0.1 * 80 + 0.1 * 75) / 0.8),
        (["anomaly_count_7d"], (0.3 * 50 + 0.2 * 70 + 0.1 * 80 + 0.1 * 75) / 0.7),
        (["asset_age_months"], (0.3 * 50 + 0.2 * 70 + 0.3 * 90 + 0.1 * 75) / 0.9),
        (["anomaly_count_7d", "asset_age_months"], (0.3 * 50 + 0.2 * 70 + 0.1 * 75) / 0.6),
        (list(WORN), 60),  # nothing known: never maintained is all that is left
    ],
)
def test_unknown_component_is_left_out_and_the_others_scaled_up(unknown: list[str], score: float) -> None:
    assert health_score(**WORN | dict.fromkeys(unknown, NAN)) == pytest.approx(score)


def test_arrays_are_scored_element_by_element() -> None:
    anomalies = np.array([0, 5, NAN, 1000])
    scores = health_score(**WORN | {"anomaly_count_7d": anomalies})
    assert scores.dtype == np.float64
    assert scores == pytest.approx([44.5 + 30, 44.5 + 27, 44.5 / 0.7, 44.5 + 3])


def test_no_assets_have_no_scores() -> None:
    assert health_score(**dict.fromkeys(PERFECT, np.empty(0))).shape == (0,)


def test_every_score_lies_between_0_and_100() -> None:
    counts = [0, 1, 7, 10, 11, 10**6, NAN]
    alarms, work_orders, anomalies, months, days = np.meshgrid(counts, counts, counts, counts, counts)
    scores = health_score(
        alarms_30d=alarms,
        critical_alarms_30d=alarms,
        wo_count_30d=work_orders,
        corrective_wo_count_30d=work_orders,
        anomaly_count_7d=anomalies,
        asset_age_months=months,
        days_since_preventive=days,
    )
    assert not np.isnan(scores).any()
    # The worst is 10 points of alarms, work orders and telemetry, 20 of maintenance, and the age unknown.
    assert scores.min() == pytest.approx((0.3 * 10 + 0.2 * 10 + 0.3 * 10 + 0.1 * 20) / 0.9)
    assert scores.max() == pytest.approx(100)

"""The health score of an asset by dCMMS's own scoring rules: the one feature that needs both databases."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALARMS, WORK_ORDERS, TELEMETRY, AGE, MAINTENANCE = 0.30, 0.20, 0.30, 0.10, 0.10


def health_score(
    *,
    alarms_30d: ArrayLike,
    critical_alarms_30d: ArrayLike,
    wo_count_30d: ArrayLike,
    corrective_wo_count_30d: ArrayLike,
    anomaly_count_7d: ArrayLike,
    asset_age_months: ArrayLike,
    days_since_preventive: ArrayLike,
) -> NDArray[np.float64]:
    """Return the weighted score, 0 (worst) to 100 (best), element by element; NaN means unknown on both sides.

    A component with an unknown input is left out and the weights of the others are scaled up to 1. The exception is
    `days_since_preventive`, where unknown means never (60 points). `days_since_preventive` is in whole days,
    `asset_age_months` in whole months, the others are counts.
    """
    alarms = _points(_array(alarms_30d) + _array(critical_alarms_30d), {0: 100, 2: 90, 5: 70, 10: 50}, _alarm_tail)

    work_orders = _array(wo_count_30d)
    weighted = work_orders + 0.5 * _array(corrective_wo_count_30d)
    work = _points(weighted, {1: 100, 3: 85, 6: 70, 10: 50}, lambda _: np.maximum(30 - 3 * (work_orders - 10), 10))

    telemetry = _points(
        _array(anomaly_count_7d), {0: 100, 5: 90, 15: 70, 30: 50}, lambda n: np.maximum(30 - (n - 30), 10)
    )
    age = _points(
        _array(asset_age_months), {6: 100, 12: 95, 24: 90, 60: 80}, lambda m: np.maximum(70 - (m - 60) / 12, 50)
    )
    days = _array(days_since_preventive)
    maintenance = _points(days, {30: 100, 60: 90, 90: 75, 180: 60}, lambda d: np.maximum(40 - (d - 180) / 10, 20))
    maintenance = np.where(np.isnan(days), 60.0, maintenance)

    components = np.stack(np.broadcast_arrays(alarms, work, telemetry, age, maintenance))
    weights = np.array([ALARMS, WORK_ORDERS, TELEMETRY, AGE, MAINTENANCE])
    known = ~np.isnan(components)
    weighted_sum = np.tensordot(weights, np.where(known, components, 0.0), axes=1)
    return weighted_sum / np.tensordot(weights, known.astype(float), axes=1)


def _array(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _alarm_tail(count: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(30 - 2 * (count - 10), 10)


def _points(
    values: NDArray[np.float64],
    steps: dict[int, int],
    tail: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the points of the first step whose upper limit holds a value, `tail(value)` above the last; NaN as NaN."""
    conditions = [np.isnan(values), *(values <= limit for limit in steps)]
    return np.select(conditions, [np.nan, *map(float, steps.values())], default=tail(values))

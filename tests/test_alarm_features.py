"""alarm_features: hand-computed rows at the edges, for both schema variants."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.dcmms import MICROSECOND, TENANT, Dcmms, T, ago, asset_key, window_edges

VIEW = "alarm_features"
# The rule whose alarms the tests count, one that is always there to make the tenant's mean, and the other tenant.
RULE, OTHER_RULE = UUID(int=1), UUID(int=2)
OTHER_TENANT = UUID(int=77)

NO_ALARMS = {
    "event_timestamp": T,
    "alarms_1d": 0,
    "alarms_7d": 0,
    "critical_alarms_1d": 0,
    "high_alarms_1d": 0,
    "medium_alarms_1d": 0,
    "low_alarms_1d": 0,
    "info_alarms_1d": 0,
    "distinct_alarm_rules_1d": 0,
    "distinct_alarm_rules_7d": 0,
    "max_alarms_per_hour_7d": 0,
    "hours_since_last_alarm": None,
    "hours_since_last_critical_alarm": None,
    "open_alarms": 0,
    "days_since_oldest_open_alarm": None,
    "alarm_rule_risk_1d": 0.0,
    "alarm_rule_risk_7d": 0.0,
    "newest_source_at": None,
}
JUST_NOW = T - timedelta(minutes=30)


def risk(judged: int, followed: int, all_judged: int | None = None, all_followed: int | None = None) -> Any:
    """Return the expected risk of a rule, of these counts of its own and of all rules of the tenant."""
    all_judged = judged if all_judged is None else all_judged
    all_followed = followed if all_followed is None else all_followed
    prior = (all_followed + 1) / (all_judged + 10)
    return pytest.approx((followed + 10 * prior) / (judged + 10), rel=1e-6)


def test_asset_without_alarms(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    dcmms.alert(dcmms.asset(2), ago(1), rule_id=RULE)
    dcmms.alert(None, ago(1), rule_id=RULE)
    dcmms.alert(asset_key(9), ago(1), rule_id=RULE)
    for never in ("infinity", "-infinity"):
        dcmms.alert(asset, never, rule_id=RULE)
    dcmms.alert(asset, T + MICROSECOND, rule_id=RULE)
    assert dcmms.row(VIEW, asset) == {"asset_id": str(asset)} | NO_ALARMS
    assert len(dcmms.extract(VIEW)) == 2


def test_asset_with_alarms_has_one_row(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    dcmms.alert(asset, ago(300), "low", rule_id=RULE, resolved_at=ago(299))
    dcmms.work_order(asset, ago(295), type="emergency")
    dcmms.alert(asset, ago(200), "critical", rule_id=OTHER_RULE)
    dcmms.alert(asset, ago(50), rule_id=RULE)
    dcmms.alert(asset, ago(6), "info", resolved_at=ago(-1))
    dcmms.alert(asset, ago(0.5), "medium", rule_id=RULE, resolved_at=ago(0.4))
    dcmms.alert(asset, ago(0.5), "high", rule_id=RULE, resolved_at=ago(0.4))
    dcmms.alert(asset, ago(3), "critical", rule_id=OTHER_RULE, resolved_at=T)
    rule, other = (1 + 10 * 2 / 13) / 12, (10 * 2 / 13) / 11
    assert dcmms.row(VIEW, asset) == {
        "asset_id": str(asset),
        "event_timestamp": T,
        "alarms_1d": 2,
        "alarms_7d": 4,
        "critical_alarms_1d": 0,
        "high_alarms_1d": 1,
        "medium_alarms_1d": 1,
        "low_alarms_1d": 0,
        "info_alarms_1d": 0,
        "distinct_alarm_rules_1d": 1,
        "distinct_alarm_rules_7d": 2,
        "max_alarms_per_hour_7d": 2,
        "hours_since_last_alarm": 12.0,
        "hours_since_last_critical_alarm": 72.0,
        "open_alarms": 3,
        "days_since_oldest_open_alarm": 200,
        "alarm_rule_risk_1d": pytest.approx(rule, rel=1e-6),
        "alarm_rule_risk_7d": pytest.approx(1 - (1 - rule) * (1 - other), rel=1e-6),
        "newest_source_at": ago(0.5),
    }


# the windows of counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, 7])
def test_alarms_and_rules_of_a_window(dcmms: Dcmms, days: int) -> None:
    inside, outside = window_edges(days)
    for number, at in enumerate([*inside, *outside], start=1):
        dcmms.alert(dcmms.asset(number), at, rule_id=RULE)
    assert dcmms.column(VIEW, f"alarms_{days}d") == [1, 1, 0, 0]
    assert dcmms.column(VIEW, f"distinct_alarm_rules_{days}d") == [1, 1, 0, 0]
    assert [value > 0 for value in dcmms.column(VIEW, f"alarm_rule_risk_{days}d")] == [True, True, False, False]


def test_alarms_of_a_day_by_severity(dcmms: Dcmms) -> None:
    severities = ("critical", "high", "medium", "low", "info")
    inside, outside = window_edges(1)
    for number, severity in enumerate(severities, start=1):
        asset = dcmms.asset(number)
        for at in (*inside, *outside):
            dcmms.alert(asset, at, severity)
    for number, severity in enumerate(severities):
        assert dcmms.column(VIEW, f"{severity}_alarms_1d") == [2 if place == number else 0 for place in range(5)]


def test_alarms_of_one_rule_count_as_one_rule_and_those_of_none_as_no_rule(dcmms: Dcmms) -> None:
    for number, rules in enumerate([[RULE, RULE], [RULE, OTHER_RULE], [None, None], [None, RULE]], start=1):
        asset = dcmms.asset(number)
        for rule in rules:
            dcmms.alert(asset, JUST_NOW, rule_id=rule)
    assert dcmms.column(VIEW, "distinct_alarm_rules_1d") == [1, 2, 0, 1]
    assert dcmms.column(VIEW, "alarms_1d") == [2, 2, 2, 2]
    one = 10 * 0.1 / 10
    risks = dcmms.column(VIEW, "alarm_rule_risk_1d")
    assert risks == pytest.approx([one, 1 - (1 - one) ** 2, 0, one], rel=1e-6)


def test_most_alarms_in_a_clock_hour_of_the_window(dcmms: Dcmms) -> None:
    hour = datetime(2026, 3, 9, 14, tzinfo=T.tzinfo)
    begins_in_window = ago(7) + MICROSECOND
    cases = [
        [hour, hour + timedelta(minutes=59, seconds=59), hour + timedelta(hours=1)],
        [hour - MICROSECOND, hour, hour + timedelta(hours=1)],
        # of an hour that the window cuts, what lies inside
        [ago(7), begins_in_window, begins_in_window + timedelta(minutes=1)],
        [],
    ]
    for number, case in enumerate(cases, start=1):
        asset = dcmms.asset(number)
        for at in case:
            dcmms.alert(asset, at)
    assert dcmms.column(VIEW, "max_alarms_per_hour_7d") == [2, 1, 2, 0]


# recency and open alarms ------------------------------------------------------------------------------------------


def test_hours_since_the_latest_alarm(dcmms: Dcmms) -> None:
    for number, (at, severity) in enumerate(
        [(T, "critical"), (ago(hours=36), "critical"), (ago(2000), "critical"), (ago(1), "high")], start=1
    ):
        asset = dcmms.asset(number)
        dcmms.alert(asset, at, severity)
        dcmms.alert(asset, T + MICROSECOND, severity)
    assert dcmms.column(VIEW, "hours_since_last_alarm") == [0.0, 36.0, 48_000.0, 24.0]
    assert dcmms.column(VIEW, "hours_since_last_critical_alarm") == [0.0, 36.0, 48_000.0, None]


def test_an_alarm_is_open_until_it_is_resolved(dcmms: Dcmms) -> None:
    triggered = ago(900)
    for number, resolved in enumerate([None, "infinity", "-infinity", T + MICROSECOND, T, ago(899), ago(901)], start=1):
        dcmms.alert(dcmms.asset(number), triggered, resolved_at=resolved)
    assert dcmms.column(VIEW, "open_alarms") == [1, 1, 1, 1, 0, 0, 0]
    assert dcmms.column(VIEW, "days_since_oldest_open_alarm") == [900, 900, 900, 900, None, None, None]


# what alarms have led to ------------------------------------------------------------------------------------------


def test_alarms_of_a_rule_that_are_judged(dcmms: Dcmms) -> None:
    """Those of (T - 372 d, T - 7 d], of any asset of the tenant, even one that is unknown or gone."""
    asset = dcmms.asset()
    dcmms.alert(asset, JUST_NOW, rule_id=RULE)
    for number, at in enumerate((ago(7), ago(372) + MICROSECOND, ago(7) + MICROSECOND, ago(372)), start=2):
        dcmms.alert(dcmms.asset(number), at, rule_id=RULE)
    assert dcmms.row(VIEW, asset)["alarm_rule_risk_1d"] == risk(judged=2, followed=0)
    dcmms.alert(dcmms.asset(6, status="decommissioned"), ago(100), rule_id=RULE)
    dcmms.alert(asset_key(7), ago(100), rule_id=RULE)
    assert dcmms.row(VIEW, asset)["alarm_rule_risk_1d"] == risk(judged=4, followed=0)
    dcmms.alert(None, ago(100), rule_id=RULE)
    dcmms.alert(asset, ago(100), rule_id=None)
    assert dcmms.row(VIEW, asset)["alarm_rule_risk_1d"] == risk(judged=4, followed=0)


WEEK = timedelta(days=7)
TRIGGERED = ago(100)


@pytest.mark.parametrize(
    ("columns", "is_followed"),
    [
        ({"created_at": TRIGGERED + MICROSECOND}, True),
        ({"created_at": TRIGGERED + WEEK}, True),
        ({"created_at": TRIGGERED}, False),
        ({"created_at": TRIGGERED + WEEK + MICROSECOND}, False),
        ({"created_at": ago(97), "type": "emergency", "status": "draft"}, True),
        ({"created_at": ago(97), "type": "preventive"}, False),
        ({"created_at": ago(97), "type": "predictive"}, False),
        ({"created_at": ago(97), "type": "inspection"}, False),
        ({"created_at": ago(97), "status": "cancelled", "updated_at": ago(50)}, False),
        ({"created_at": ago(97), "status": "cancelled", "updated_at": T}, False),
        ({"created_at": ago(97), "status": "cancelled", "updated_at": T + MICROSECOND}, True),
        ({"created_at": "infinity"}, False),
        ({"created_at": "4713-01-01 BC"}, False),
    ],
)
def test_what_follows_an_alarm(dcmms: Dcmms, columns: dict[str, Any], is_followed: bool) -> None:
    asset, neighbour = dcmms.asset(1), dcmms.asset(2)
    dcmms.alert(asset, JUST_NOW, rule_id=RULE)
    dcmms.alert(neighbour, TRIGGERED, rule_id=RULE)
    dcmms.work_order(neighbour, **columns)
    # the failure of another asset follows no alarm of this one
    dcmms.work_order(asset, ago(97))
    assert dcmms.row(VIEW, asset)["alarm_rule_risk_1d"] == risk(judged=1, followed=int(is_followed))


def test_alarms_and_failures_around_the_last_judged_week(dcmms: Dcmms) -> None:
    """An alarm is judged once its week is over, and by the failures until then: the last lies at T at the latest."""
    asset = dcmms.asset()
    dcmms.alert(asset, ago(7), rule_id=RULE)
    dcmms.work_order(asset, T + MICROSECOND)
    dcmms.alert(asset, JUST_NOW, rule_id=RULE)
    assert dcmms.row(VIEW, asset)["alarm_rule_risk_1d"] == risk(judged=1, followed=0)
    dcmms.work_order(asset, T)
    assert dcmms.row(VIEW, asset)["alarm_rule_risk_1d"] == risk(judged=1, followed=1)


def test_several_failures_after_an_alarm_count_once_and_several_alarms_before_one_each(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    for days in (101, 100, 99, 90):
        dcmms.alert(asset, ago(days), rule_id=RULE)
    for days in (98, 97, 96.5):
        dcmms.work_order(asset, ago(days))
    dcmms.work_order(asset, ago(96.4), status="cancelled", updated_at=T + MICROSECOND)
    dcmms.alert(asset, JUST_NOW, rule_id=RULE)
    assert dcmms.row(VIEW, asset)["alarm_rule_risk_1d"] == risk(judged=4, followed=3)


def test_a_failure_counts_until_it_is_cancelled_at_whatever_instants_are_asked_for_together(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    dcmms.alert(asset, ago(100), rule_id=RULE)
    dcmms.work_order(asset, ago(95), status="cancelled", updated_at=ago(10))
    dcmms.work_order(asset, ago(94), status="cancelled", updated_at=ago(20))
    for days in (30, 10.5, 10, 0):
        dcmms.alert(asset, ago(days + 0.02), rule_id=OTHER_RULE)
        dcmms.alert(asset, ago(days + 0.01), rule_id=RULE)
    assert [dcmms.row(VIEW, asset, ago(days))["alarm_rule_risk_1d"] > 0.2 for days in (30, 10.5, 10, 0)] == [
        True, True, False, False,
    ]  # fmt: skip


def test_a_rule_without_a_past_has_the_mean_of_its_tenant(dcmms: Dcmms) -> None:
    asset = dcmms.asset()
    for days in range(20, 30):
        dcmms.alert(asset, ago(days), rule_id=OTHER_RULE)
    dcmms.work_order(asset, ago(25.5))
    dcmms.alert(asset, JUST_NOW, rule_id=RULE)
    assert dcmms.row(VIEW, asset)["alarm_rule_risk_1d"] == risk(0, 0, all_judged=10, all_followed=4)


def test_statistics_of_a_rule_never_cross_tenants(dcmms: Dcmms) -> None:
    here, there = dcmms.asset(1), dcmms.asset(2, tenant_id=OTHER_TENANT)
    for asset, tenant in ((here, TENANT), (there, OTHER_TENANT)):
        dcmms.alert(asset, JUST_NOW, rule_id=RULE, tenant_id=tenant)
    before = dcmms.row(VIEW, here)
    for days in range(20, 60):
        dcmms.alert(there, ago(days), rule_id=RULE, tenant_id=OTHER_TENANT)
        dcmms.work_order(there, ago(days - 0.5), tenant_id=OTHER_TENANT)
    assert dcmms.row(VIEW, here) == before
    assert dcmms.row(VIEW, here)["alarm_rule_risk_1d"] == risk(0, 0)
    assert dcmms.row(VIEW, there)["alarm_rule_risk_1d"] == risk(40, 40)

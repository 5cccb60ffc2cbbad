"""Every feature once more, the slow and obvious way: loops over plain rows, one small function per feature family.

The oracle of the property tests. It shares no code with `pipeline/` or `features/` and is written from the catalogue of
the features alone, so that a misreading has to be made twice to go unnoticed. Clarity wins over speed everywhere.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

Row = dict[str, Any]
Number = int | float
# Of a row: a time, none, or one of PostgreSQL's two infinities as text.
Instant = datetime | str | None

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LARGEST_INT32 = 2**31 - 1
LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127

FAILURE_TYPES = ("corrective", "emergency")
MAINTENANCE_TYPES = ("preventive", "predictive", "corrective", "emergency")

# Around the number and the unit of a rated power: blank, tab, no-break space, thin space.
BLANKS = " \t\u00a0\u2009"
UNITS = {"": 1.0, "w": 0.001, "kw": 1.0, "mw": 1000.0, "gw": 1_000_000.0}
UNITS |= {f"{unit}{of}": factor for unit, factor in UNITS.items() if unit for of in ("p", "ac", "dc")}

# What stands for an unknown date in databases that must have one.
PLACEHOLDERS = (date(1, 1, 1), date(1900, 1, 1), date(1970, 1, 1))

# The names of one quantity, first choice first.
ALIASES = {
    "power": ("power_kw", "active_power_kw", "power_output_kw", "power_generation"),
    "voltage": ("voltage_v", "voltage"),
    "current": ("current_a", "current"),
    "temperature": ("temperature_c", "temperature"),
    "frequency": ("frequency_hz", "grid_frequency_hz"),
}


@dataclass(frozen=True)
class Fleet:
    """Plain rows of the source tables, by their column names. Times are aware; JSON columns hold text."""

    assets: list[Row] = field(default_factory=list)
    work_orders: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    alerts: list[Row] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)
    wind: list[Row] = field(default_factory=list)
    buckets: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """A counted work order as it is known as of T."""

    id: UUID
    type: str
    priority: str
    created: datetime
    completed: datetime | None  # None: not completed as of T
    scheduled_end: datetime | None

    @property
    def is_failure(self) -> bool:
        return self.type in FAILURE_TYPES

    @property
    def is_bad(self) -> bool:
        """A completion before the creation: no duration, no downtime."""
        return self.completed is not None and self.completed < self.created

    @property
    def hours(self) -> float | None:
        """Creation to completion, None while open or where the completion is bad data."""
        if self.completed is None or self.is_bad:
            return None
        return (self.completed - self.created) / HOUR


def reference_features(fleet: Fleet, as_of: datetime, width_seconds: int) -> dict[str, dict[str, Row]]:
    """Return the feature rows as of `as_of`: {view: {asset_id: {feature: value}}}.

    Args:
        fleet: the rows of both databases.
        as_of: the instant T, aware.
        width_seconds: width of the telemetry buckets.
    """
    assets = [asset for asset in fleet.assets if exists(asset, as_of)]
    jobs = {asset["id"]: jobs_of(fleet, asset["id"], as_of) for asset in assets}
    capacity = {asset["id"]: installed_capacity_kw(asset, fleet.wind) for asset in assets}
    telemetry = Telemetry(fleet.buckets, as_of, timedelta(seconds=width_seconds))
    telemetry_rows = {
        str(asset["id"]): telemetry.features(asset["id"], capacity[asset["id"]])
        for asset in assets
        if telemetry.has_row(asset["id"])
    }
    work_order_rows = {str(asset["id"]): work_order_features(jobs[asset["id"]], as_of) for asset in assets}
    asset_rows = {}
    for asset in assets:
        row = asset_features(fleet, asset, jobs[asset["id"]], capacity[asset["id"]], as_of)
        anomalies = telemetry_rows.get(str(asset["id"]), {}).get("anomaly_count_7d")
        row["health_score"] = health_score(fleet, asset["id"], row, jobs[asset["id"]], anomalies, as_of)
        asset_rows[str(asset["id"])] = row
    return {
        "asset_features": asset_rows,
        "work_order_features": work_order_rows,
        "telemetry_features": telemetry_rows,
        "alarm_features": {str(asset["id"]): alarm_features(fleet, asset, as_of) for asset in assets},
        "recent_telemetry_features": {
            asset_id: telemetry.recent_features(UUID(asset_id)) for asset_id in telemetry_rows
        },
    }


# ---- what is known as of T --------------------------------------------------------------------------------------


def known(instant: Instant) -> datetime | None:
    """Return an instant, None where it is missing or infinite."""
    return instant if isinstance(instant, datetime) else None


def by(instant: Instant, as_of: datetime) -> bool:
    """Tell whether an instant is known to lie at or before `as_of`."""
    found = known(instant)
    return found is not None and found <= as_of


def exists(asset: Row, as_of: datetime) -> bool:
    decommissioned = asset["status"] == "decommissioned" and by(asset["updated_at"], as_of)
    return by(asset["created_at"], as_of) and not decommissioned


def jobs_of(fleet: Fleet, asset_id: UUID, as_of: datetime) -> list[Job]:
    """Return the counted work orders of an asset."""
    jobs = []
    for work_order in fleet.work_orders:
        cancelled = work_order["status"] == "cancelled" and by(work_order["updated_at"], as_of)
        if work_order["asset_id"] != asset_id or not by(work_order["created_at"], as_of) or cancelled:
            continue
        completed = completed_at(work_order, fleet.tasks)
        jobs.append(
            Job(
                id=work_order["id"],
                type=work_order["type"],
                priority=work_order["priority"],
                created=work_order["created_at"],
                completed=completed if by(completed, as_of) else None,
                scheduled_end=known(work_order["scheduled_end"]),
            )
        )
    return jobs


def completed_at(work_order: Row, tasks: list[Row]) -> datetime | None:
    """Return when the work order was completed, which may be after T; None in a status that says it is not."""
    if work_order["status"] not in ("completed", "closed"):
        return None
    if known(work_order["actual_end"]) is not None:
        return work_order["actual_end"]
    edited = known(work_order["updated_at"])
    if edited is None:
        return None
    done = [
        task["completed_at"]
        for task in tasks
        if task["work_order_id"] == work_order["id"] and by(task["completed_at"], edited)
    ]
    return max(done, default=edited)


def within(instant: Instant, as_of: datetime, days: int) -> bool:
    found = known(instant)
    return found is not None and as_of - days * DAY < found <= as_of


def days_since(instants: Iterable[datetime], as_of: datetime) -> int | None:
    """Return the whole days since the latest of the instants, None without any."""
    latest = max(instants, default=None)
    return None if latest is None else (as_of - latest) // DAY


def mean(values: Sequence[Number]) -> float | None:
    return math.fsum(values) / len(values) if values else None


# ---- asset_features ---------------------------------------------------------------------------------------------


def asset_features(fleet: Fleet, asset: Row, jobs: list[Job], capacity: float | None, as_of: datetime) -> Row:
    """Return all features of the view but `health_score`."""
    alerts = [
        alert for alert in fleet.alerts if alert["asset_id"] == asset["id"] and within(alert["triggered_at"], as_of, 30)
    ]
    installed = installed_at(asset, as_of)
    return {
        "tenant_id": str(asset["tenant_id"]),
        "site_id": str(asset["site_id"]),
        "asset_type": asset["type"],
        "asset_status": asset["status"] if by(asset["updated_at"], as_of) else None,
        "asset_age_months": None if installed is None else whole_months(installed, as_of),
        "total_work_orders": len(jobs),
        "corrective_work_orders": sum(job.type == "corrective" for job in jobs),
        "preventive_work_orders": sum(job.type == "preventive" for job in jobs),
        "days_since_last_maintenance": days_since_completion(jobs, MAINTENANCE_TYPES, as_of),
        "days_since_last_corrective_wo": days_since_completion(jobs, ("corrective",), as_of),
        "mttr_hours": mean([job.hours for job in jobs if job.is_failure and job.hours is not None]),
        "mtbf_hours": mtbf_hours(asset, jobs, as_of),
        "recent_alarms_30d": len(alerts),
        "recent_critical_alarms_30d": sum(alert["severity"] == "critical" for alert in alerts),
        "installed_capacity_kw": capacity,
        "manufacturer": asset["manufacturer"] or None,
        "model": asset["model"] or None,
    }


def installed_at(asset: Row, as_of: datetime) -> datetime | None:
    installed = known(asset["installation_date"])
    if installed is None or installed > as_of or installed.date() in PLACEHOLDERS:
        return None
    return installed


def whole_months(start: datetime, end: datetime) -> int:
    """Return the complete months: one is complete when day of the month and time of day are reached again."""
    months = (end.year - start.year) * 12 + end.month - start.month
    reached = (end.day, end.time()) >= (start.day, start.time())
    return months if reached else months - 1


def days_since_completion(jobs: list[Job], types: Sequence[str], as_of: datetime) -> int | None:
    return days_since((job.completed for job in jobs if job.type in types and job.completed is not None), as_of)


def mtbf_hours(asset: Row, jobs: list[Job], as_of: datetime) -> float | None:
    failures = [job for job in jobs if job.is_failure]
    if not failures:
        return None
    observed_from = min([asset["created_at"], *(job.created for job in jobs)])
    installed = installed_at(asset, as_of)
    if installed is not None:
        observed_from = max(observed_from, installed)
    down = [(job.created, job.completed or as_of) for job in failures if not job.is_bad]
    downtime = union_length(((max(start, observed_from), min(end, as_of)) for start, end in down))
    return max((as_of - observed_from - downtime) / HOUR, 0.0) / len(failures)


def union_length(intervals: Iterable[tuple[datetime, datetime]]) -> timedelta:
    """Return the length of the union; an interval that ends before it starts is empty."""
    total, covered_until = timedelta(0), None
    for start, end in sorted(intervals):
        start = start if covered_until is None else max(start, covered_until)
        if end > start:
            total += end - start
            covered_until = end
    return total


def installed_capacity_kw(asset: Row, wind: list[Row]) -> float | None:
    """Return the first usable of the three places, in their order."""
    rated_mw = [row["rated_power_mw"] for row in wind if row["asset_id"] == asset["id"]]
    places = [
        kilowatts(json_member(asset["specifications"], "ratedPowerKw")),
        kilowatts(json_member(asset["metadata"], "installed_capacity_kw")),
        float(rated_mw[0]) * 1000 if rated_mw and rated_mw[0] is not None else None,
    ]
    return next((place for place in places if place is not None and 0 < place < math.inf), None)


def json_member(text: str, key: str) -> Any:
    """Return a member of the object in a JSON text, None if it is no JSON, no object or has no such member."""

    def no_json(constant: str) -> None:
        raise ValueError(f"{constant} is Python's, not JSON's")

    try:
        value = json.loads(text, parse_constant=no_json)
    except ValueError:
        return None
    return value.get(key) if isinstance(value, dict) else None


def kilowatts(value: Any) -> float | None:
    """Return the power that a JSON number or a text of a number and a unit tells."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.strip(BLANKS)
    number = re.match(r"\+?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE | re.ASCII)
    unit = text[number.end() :].strip(BLANKS) if number else "?"
    if not unit.isascii() or unit.lower() not in UNITS:
        return None
    return float(number[0]) * UNITS[unit.lower()]


# ---- health_score -----------------------------------------------------------------------------------------------


def health_score(
    fleet: Fleet, asset_id: UUID, row: Row, jobs: list[Job], anomalies: int | None, as_of: datetime
) -> float | None:
    recorded = [
        (score["calculated_at"], score["score"])
        for score in fleet.scores
        if score["asset_id"] == asset_id and within(score["calculated_at"], as_of, 7) and 0 <= score["score"] <= 100
    ]
    if recorded:
        return float(max(recorded)[1])
    recent = [job for job in jobs if within(job.created, as_of, 30)]
    corrective = sum(job.type == "corrective" for job in recent)
    components = [
        (0.30, alarm_component(row["recent_alarms_30d"] + row["recent_critical_alarms_30d"])),
        (0.20, work_order_component(len(recent), corrective)),
        (0.30, telemetry_component(anomalies)),
        (0.10, age_component(row["asset_age_months"])),
        (0.10, maintenance_component(days_since_completion(jobs, ("preventive",), as_of))),
    ]
    known = [(weight, component) for weight, component in components if component is not None]
    return sum(weight * component for weight, component in known) / sum(weight for weight, _ in known)


def alarm_component(n: int) -> float:
    if n == 0:
        return 100
    if n <= 2:
        return 90
    if n <= 5:
        return 70
    if n <= 10:
        return 50
    return max(30 - 2 * (n - 10), 10)


def work_order_component(count: int, corrective: int) -> float:
    n = count + 0.5 * corrective
    if n <= 1:
        return 100
    if n <= 3:
        return 85
    if n <= 6:
        return 70
    if n <= 10:
        return 50
    return max(30 - 3 * (count - 10), 10)


def telemetry_component(n: int | None) -> float | None:
    if n is None:
        return None
    if n == 0:
        return 100
    if n <= 5:
        return 90
    if n <= 15:
        return 70
    if n <= 30:
        return 50
    return max(30 - (n - 30), 10)


def age_component(months: int | None) -> float | None:
    if months is None:
        return None
    if months <= 6:
        return 100
    if months <= 12:
        return 95
    if months <= 24:
        return 90
    if months <= 60:
        return 80
    return max(70 - (months - 60) / 12, 50)


def maintenance_component(days: int | None) -> float:
    if days is None:
        return 60
    if days <= 30:
        return 100
    if days <= 60:
        return 90
    if days <= 90:
        return 75
    if days <= 180:
        return 60
    return max(40 - (days - 180) / 10, 20)


# ---- work_order_features ----------------------------------------------------------------------------------------


def work_order_features(jobs: list[Job], as_of: datetime) -> Row:
    """Return all features of the view for the counted work orders of one asset."""

    def created(days: int, accept: Callable[[Job], bool] = lambda job: True) -> int:
        return sum(within(job.created, as_of, days) and accept(job) for job in jobs)

    def created_of_type(days: int, type_: str) -> int:
        return created(days, lambda job: job.type == type_)

    def days_since_created(*types: str) -> int | None:
        return days_since((job.created for job in jobs if not types or job.type in types), as_of)

    def ratio(part: Number, whole: Number) -> float | None:
        return part / whole if whole else None

    return {
        **{f"wo_count_{days}d": created(days) for days in (7, 30, 90, 365)},
        **{f"corrective_wo_count_{days}d": created_of_type(days, "corrective") for days in (7, 30, 90)},
        **{f"preventive_wo_count_{days}d": created_of_type(days, "preventive") for days in (30, 90)},
        **{f"emergency_wo_count_{days}d": created_of_type(days, "emergency") for days in (30, 90)},
        "avg_wo_completion_hours_30d": mean(
            [job.hours for job in jobs if within(job.completed, as_of, 30) and job.hours is not None]
        ),
        "overdue_wo_count_30d": sum(within(job.scheduled_end, as_of, 30) and job.completed is None for job in jobs),
        "wo_completion_rate_30d": ratio(100 * created(30, lambda job: job.completed is not None), created(30)),
        "critical_wo_count_30d": created(30, lambda job: job.priority == "critical"),
        "high_priority_wo_count_30d": created(30, lambda job: job.priority == "high"),
        "wo_count_trend_30d_vs_90d": ratio(3 * created(30), created(90)),
        "corrective_wo_ratio_30d": ratio(created_of_type(30, "corrective"), created(30)),
        "repeat_failure_count_90d": created(90, lambda job: is_repeat_failure(job, jobs)),
        "days_since_last_wo": days_since_created(),
        "days_since_last_corrective_wo": days_since_created("corrective"),
        "days_since_last_preventive_wo": days_since_created("preventive"),
    }


def is_repeat_failure(job: Job, jobs: list[Job]) -> bool:
    """Tell whether a failure came within 30 d of the completion of another failure of the same asset."""
    return job.is_failure and any(
        timedelta(0) <= job.created - other.completed <= 30 * DAY
        for other in jobs
        if other.id != job.id and other.is_failure and other.completed is not None and not other.is_bad
    )


# ---- alarm_features ---------------------------------------------------------------------------------------------


def alarm_features(fleet: Fleet, asset: Row, as_of: datetime) -> Row:
    """Return all features of the view for one asset."""
    alarms = [row for row in fleet.alerts if row["asset_id"] == asset["id"] and by(row["triggered_at"], as_of)]
    last_day, last_week = ([row for row in alarms if within(row["triggered_at"], as_of, days)] for days in (1, 7))
    rules_1d, rules_7d = ({row["rule_id"] for row in rows} - {None} for rows in (last_day, last_week))
    hours = Counter(row["triggered_at"].replace(minute=0, second=0, microsecond=0) for row in last_week)
    still_open = [row["triggered_at"] for row in alarms if not by(row["resolved_at"], as_of)]
    risk_of = rule_risks(fleet, asset["tenant_id"], as_of)
    return {
        "alarms_1d": len(last_day),
        "alarms_7d": len(last_week),
        **{
            f"{severity}_alarms_1d": sum(row["severity"] == severity for row in last_day)
            for severity in ("critical", "high", "medium", "low", "info")
        },
        "distinct_alarm_rules_1d": len(rules_1d),
        "distinct_alarm_rules_7d": len(rules_7d),
        "max_alarms_per_hour_7d": max(hours.values(), default=0),
        "hours_since_last_alarm": hours_since((row["triggered_at"] for row in alarms), as_of),
        "hours_since_last_critical_alarm": hours_since(
            (row["triggered_at"] for row in alarms if row["severity"] == "critical"), as_of
        ),
        "open_alarms": len(still_open),
        "days_since_oldest_open_alarm": (as_of - min(still_open)) // DAY if still_open else None,
        "alarm_rule_risk_1d": 1 - math.prod(1 - risk_of(rule) for rule in rules_1d),
        "alarm_rule_risk_7d": 1 - math.prod(1 - risk_of(rule) for rule in rules_7d),
    }


def hours_since(instants: Iterable[datetime], as_of: datetime) -> float | None:
    latest = max(instants, default=None)
    return None if latest is None else (as_of - latest) / HOUR


def rule_risks(fleet: Fleet, tenant_id: UUID, as_of: datetime) -> Callable[[UUID], float]:
    """Return the function that tells the risk of a rule in a tenant: how often a failure followed its alarms."""
    judged: Counter[UUID] = Counter()
    followed: Counter[UUID] = Counter()
    for row in fleet.alerts:
        triggered = known(row["triggered_at"])
        if None in (row["asset_id"], row["rule_id"], triggered) or row["tenant_id"] != tenant_id:
            continue
        if as_of - 372 * DAY < triggered <= as_of - 7 * DAY:
            judged[row["rule_id"]] += 1
            followed[row["rule_id"]] += any(
                job.is_failure and triggered < job.created <= triggered + 7 * DAY
                for job in jobs_of(fleet, row["asset_id"], as_of)
            )
    prior = (followed.total() + 1) / (judged.total() + 10)
    return lambda rule: (followed[rule] + 10 * prior) / (judged[rule] + 10)


# ---- telemetry_features -----------------------------------------------------------------------------------------


class Telemetry:
    """The buckets of all assets that lie whole in the 90 d before T, each bucket once."""

    def __init__(self, buckets: list[Row], as_of: datetime, width: timedelta) -> None:
        self.as_of = as_of
        self.width = width
        self.buckets = [row for row in once_each(buckets) if self.inside(row["time_bucket"], 90)]
        self.power = {
            asset_id: self.quantity(asset_id, "power") for asset_id in {row["asset_id"] for row in self.buckets}
        }
        self.threshold = {asset_id: self.least_production(rows) for asset_id, rows in self.power.items()}
        self.whole_cells_7d = sum(
            as_of - 7 * DAY <= start and start + width <= as_of
            for start in (EPOCH + number * width for number in range(self.cell(as_of - 8 * DAY), self.cell(as_of) + 1))
        )

    def inside(self, start: datetime, days: int) -> bool:
        return self.as_of - days * DAY <= start and start + self.width <= self.as_of

    def cell(self, instant: datetime) -> int:
        """Return the number of the cell of the clock grid: multiples of the width since 1970."""
        return (instant - EPOCH) // self.width

    def of(self, asset_id: UUID, days: int) -> list[Row]:
        """Return the asset's buckets of any metric in the window."""
        return [row for row in self.buckets if row["asset_id"] == asset_id and self.inside(row["time_bucket"], days)]

    def has_row(self, asset_id: UUID) -> bool:
        return bool(self.of(asset_id, 90)) and not self.is_narrow(asset_id)

    def is_narrow(self, asset_id: UUID) -> bool:
        """Tell whether some metric has more than 1.5 times as many starts as cells of the clock grid hold them."""
        starts: dict[str, set[datetime]] = defaultdict(set)
        for row in self.of(asset_id, 90):
            starts[row["metric_name"]].add(row["time_bucket"])
        return any(len(each) > 1.5 * len({self.cell(start) for start in each}) for each in starts.values())

    def quantity(self, asset_id: UUID, quantity: str) -> list[Row]:
        """Return the 90 d of the one alias that counts, without the buckets that are missing for it."""
        present = [row for row in self.of(asset_id, 90) if row["count"] > 0 and abs(row["avg_value"]) < 1e15]
        for alias in ALIASES[quantity]:
            reported = [row for row in present if row["metric_name"] == alias]
            if reported:
                return reported
        return []

    def features(self, asset_id: UUID, capacity_kw: float | None) -> Row:
        """Return all features of the view for one asset."""
        features: Row = {}
        for quantity, days, statistics in (
            ("power", 7, ("avg", "std", "min", "max")),
            ("power", 30, ("avg", "std")),
            ("voltage", 7, ("avg", "std", "min", "max")),
            ("current", 7, ("avg", "std")),
            ("temperature", 7, ("avg", "std", "max")),
            ("frequency", 7, ("avg", "std")),
        ):
            values = [row for row in self.quantity(asset_id, quantity) if self.inside(row["time_bucket"], days)]
            for statistic in statistics:
                features[f"rolling_{statistic}_{quantity}_{days}d"] = STATISTICS[statistic](values) if values else None
        for days in (7, 30, 90):
            features[f"anomaly_count_{days}d"] = self.anomalies(asset_id, days)
        for days in (7, 30):
            hours = self.power_hours(asset_id, days)
            energy = self.energy_kwh(asset_id, days)
            features[f"total_generation_kwh_{days}d"] = energy
            known = energy is not None and capacity_kw is not None
            features[f"capacity_factor_{days}d"] = held(energy, capacity_kw * hours) if known else None
            features[f"availability_{days}d"] = self.availability(asset_id, days)
        generated = features["total_generation_kwh_30d"]
        features["avg_daily_generation_kwh"] = (
            None if generated is None else generated / (self.power_hours(asset_id, 30) / 24)
        )
        features["telemetry_coverage_7d"] = self.coverage_7d(asset_id)
        newest = max(bucket["time_bucket"] for bucket in self.of(asset_id, 90)) + self.width
        features["hours_since_last_telemetry"] = (self.as_of - newest) / HOUR
        return features

    def recent_features(self, asset_id: UUID) -> Row:
        """Return all features of recent_telemetry_features for one asset."""
        features: Row = {}
        deviations = []
        for quantity in ALIASES:
            buckets = self.quantity(asset_id, quantity)
            last_day = [row for row in buckets if self.inside(row["time_bucket"], 1)]
            before = [
                row
                for row in buckets
                if self.inside(row["time_bucket"], 30) and row["time_bucket"] + self.width <= self.as_of - DAY
            ]
            for statistic in ("avg", "std"):
                name = f"rolling_{statistic}_{quantity}_1d"
                features[name] = STATISTICS[statistic](last_day) if last_day else None
            if last_day and len(before) >= 72 and varies(before):
                deviations.append(abs(weighted_mean(last_day) - weighted_mean(before)) / pooled_std(before))
        power, month = features["rolling_avg_power_1d"], self.month_mean(asset_id, "power")
        warmth, month_warmth = features["rolling_avg_temperature_1d"], self.month_mean(asset_id, "temperature")
        stopped = [value <= 0 for value in self.power_in(asset_id, 1).values()]
        return features | {
            "max_abs_z_1d": max(deviations, default=None),
            "power_ratio_1d_vs_30d": None if power is None or month <= 0 else held(power, month),
            "temperature_shift_1d_vs_30d": None if warmth is None else warmth - month_warmth,
            "zero_power_hours_1d": sum(stopped) * (self.width / HOUR) if stopped else None,
        }

    def month_mean(self, asset_id: UUID, quantity: str) -> float | None:
        """Return the mean of 30 d, None without any bucket."""
        buckets = [row for row in self.quantity(asset_id, quantity) if self.inside(row["time_bucket"], 30)]
        return weighted_mean(buckets) if buckets else None

    def anomalies(self, asset_id: UUID, days: int) -> int | None:
        buckets = self.of(asset_id, days)
        count = sum(bucket["anomaly_count"] for bucket in buckets)
        return count if buckets and count <= LARGEST_INT32 else None

    def power_in(self, asset_id: UUID, days: int) -> dict[datetime, float]:
        """Return the average power by start of the bucket, for the buckets with power data in the window."""
        return {
            bucket["time_bucket"]: bucket["avg_value"]
            for bucket in self.power[asset_id]
            if self.inside(bucket["time_bucket"], days)
        }

    def power_hours(self, asset_id: UUID, days: int) -> float:
        return len(self.power_in(asset_id, days)) * (self.width / HOUR)

    def energy_kwh(self, asset_id: UUID, days: int) -> float | None:
        power = self.power_in(asset_id, days)
        return math.fsum(power.values()) * (self.width / HOUR) if power else None

    def coverage_7d(self, asset_id: UUID) -> float | None:
        """Return the cells of the clock grid in which buckets with power data start, over the whole ones."""
        if not self.power[asset_id]:
            return None
        return min(1, len({self.cell(start) for start in self.power_in(asset_id, 7)}) / self.whole_cells_7d)

    def least_production(self, power: list[Row]) -> float:
        """Return the power above which an asset produces: 1 % of its usual daily peak, and 0 at least."""
        days: dict[int, list[float]] = defaultdict(list)
        for bucket in power:
            whole_days, rest = divmod(self.as_of - bucket["time_bucket"], DAY)
            days[whole_days if rest else whole_days - 1].append(bucket["avg_value"])
        peaks = sorted(max(values) for values in days.values())
        return max(0.0, peaks[(len(peaks) - 1) // 2] / 100) if peaks else 0.0

    def availability(self, asset_id: UUID, days: int) -> float | None:
        productive = [
            bucket["avg_value"] > self.threshold[asset_id]
            for bucket in self.power[asset_id]
            if self.inside(bucket["time_bucket"], days) and self.is_productive(bucket)
        ]
        return sum(productive) / len(productive) if productive else None

    def is_productive(self, bucket: Row) -> bool:
        """Tell whether at least half of the others that have power data in the bucket at its site produce."""
        others = {
            asset_id: [row for row in rows if row["site_id"] == bucket["site_id"]]
            for asset_id, rows in self.power.items()
            if asset_id != bucket["asset_id"]
        }
        if sum(bool(rows) for rows in others.values()) < 2:
            return False
        votes = [
            row["avg_value"] > self.threshold[asset_id]
            for asset_id, rows in others.items()
            for row in rows
            if row["time_bucket"] == bucket["time_bucket"]
        ]
        return bool(votes) and 2 * sum(votes) >= len(votes)


def held(dividend: float, divisor: float) -> float | None:
    """Return the quotient, None where a Float32 cannot hold it."""
    quotient = dividend / divisor if divisor else math.inf
    return quotient if abs(quotient) <= LARGEST_FLOAT32 else None


def once_each(buckets: list[Row]) -> list[Row]:
    """Return one copy of each bucket: the one with the larger count, then the larger sum, then the larger average."""
    kept: dict[tuple[UUID, UUID, str, datetime], Row] = {}
    for row in buckets:
        key = (row["tenant_id"], row["asset_id"], row["metric_name"], row["time_bucket"])
        if key not in kept or rank(row) > rank(kept[key]):
            kept[key] = row
    return list(kept.values())


def rank(row: Row) -> tuple[Any, ...]:
    """Return what copies of a bucket are ordered by; NaN is smaller than any number."""
    numbers = (row["sum_value"], row["avg_value"])
    return (row["count"], *((not math.isnan(number), 0 if math.isnan(number) else number) for number in numbers))


def total(row: Row) -> float:
    return row["sum_value"] if math.isfinite(row["sum_value"]) else row["count"] * row["avg_value"]


def deviation(row: Row) -> float:
    return row["stddev_value"] if math.isfinite(row["stddev_value"]) else 0.0


def extreme(choose: Callable[[list[float]], float], column: str, buckets: list[Row]) -> float | None:
    """Return the lowest or highest value of those that a Float32 can hold."""
    values = [row[column] for row in buckets if abs(row[column]) <= LARGEST_FLOAT32]
    return choose(values) if values else None


def weighted_mean(buckets: list[Row]) -> float:
    return math.fsum(total(row) for row in buckets) / sum(row["count"] for row in buckets)


def pooled_std(buckets: list[Row]) -> float:
    """Return the population standard deviation of all samples; in fractions, so that large squares do not cancel."""
    samples = sum(row["count"] for row in buckets)
    mean = sum(Fraction(total(row)) for row in buckets) / samples
    squares = (row["count"] * (Fraction(deviation(row)) ** 2 + Fraction(row["avg_value"]) ** 2) for row in buckets)
    return math.sqrt(max(sum(squares) / samples - mean**2, 0))


def varies(buckets: list[Row]) -> bool:
    """Tell whether the standard deviation is more than a rounding error of the mean."""
    return pooled_std(buckets) > 1e-6 * abs(weighted_mean(buckets))


STATISTICS: dict[str, Callable[[list[Row]], float | None]] = {
    "avg": weighted_mean,
    "std": pooled_std,
    "min": lambda buckets: extreme(min, "min_value", buckets),
    "max": lambda buckets: extreme(max, "max_value", buckets),
}

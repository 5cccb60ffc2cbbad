"""Hypothesis strategies for small dCMMS fleets full of odd times and dirt.

Everything is described by small choices (an edge, a jitter, a pattern), which hypothesis draws fast: a run of telemetry
buckets is one place near a window's edge, one length and a cycle of a few values, not a draw per bucket.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.dcmms import bucket
from tests.reference import ALIASES, DAY, EPOCH, FAILURE_TYPES, Fleet, Instant, Row, known

# How many fleets each property is tried on. The same ones are drawn in every run: a larger number adds to them.
FLEETS = int(os.environ.get("PROPERTY_FLEETS", "20"))
# A telemetry extraction costs most of a second whatever it reads: so many fleets without common ids share one.
BATCH = 5

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)

ASSET_TYPES = (
    "turbine", "inverter", "transformer", "panel", "disconnector", "meter", "access_point", "gateway",
    "weather_station", "sensor", "other",
)  # fmt: skip
ASSET_STATUSES = ("operational", "degraded", "down", "maintenance", "decommissioned")
WORK_ORDER_TYPES = ("corrective", "corrective", "emergency", "preventive", "predictive", "inspection")
PRIORITIES = ("critical", "high", "medium", "low")
WORK_ORDER_STATUSES = (
    "completed",
    "closed",
    "completed",
    "closed",
    "completed",
    "closed",
    "completed",
    "open",
    "cancelled",
    "draft",
    "scheduled",
    "in_progress",
    "on_hold",
)
# The rules of alarms: all tenants have the same, so that what they led to in one might slip into another.
RULES = tuple(UUID(int=number) for number in (1, 2, 3))
SEVERITIES = ("critical", "high", "medium", "low", "info")
ALERT_STATUSES = ("active", "acknowledged", "resolved", "suppressed")

# An ordinary moment, leap days, month and year ends, and the hours in which clocks change in Europe and America: where
# a local time slips in anywhere, a window or a month is an hour or a day off.
MOMENTS = tuple(
    datetime.fromisoformat(text)
    for text in (
        "2025-06-11T10:00:00Z",
        "2024-02-29T00:00:00Z",
        "2024-02-29T23:59:59.999999Z",
        "2025-02-28T12:00:00Z",
        "2025-03-01T00:00:00Z",
        "2025-03-09T07:30:00Z",
        "2025-03-30T01:00:00Z",
        "2025-03-31T02:15:00Z",
        "2025-04-05T23:00:00Z",
        "2025-10-26T00:30:00Z",
        "2025-10-26T01:00:00.000001Z",
        "2024-11-03T06:00:00Z",
        "2025-01-01T00:00:00Z",
        "2024-12-31T23:00:00.5Z",
        "2024-02-29T10:30:00Z",
        "2025-03-30T00:45:00Z",
        "2025-11-02T05:30:00Z",
    )
)

# What separates a fact inside a window from one outside: the edges of all windows, and a little either way.
EDGES = tuple(days * DAY for days in (0, 1, 7, 30, 90, 365))
JITTERS = (timedelta(0), -MICROSECOND, MICROSECOND, -SECOND, SECOND, timedelta(hours=-1), timedelta(hours=5), DAY)

# Rated powers as people and importers write them, usable or not; the last ones are no JSON at all.
CAPACITIES = (
    "55", "2050.5", "1e3", "1e400", "1e-40", "0", "-5", "0.001", "null", "true", "[55]", '{"kW": 55}',
    '"55 kW"', '"2.05 MW"', '"500000w"', '"  75  KW "', '"80kw"', '"120"', '"1e3 kW"', '".5"', '"55."', '"+55"',
    '"0 kW"', '"-5 kW"', '"55 hp"', '"kW"', '""', '"2,05 MW"', '"55 kW peak"', '"1.2.3"', '"NaN"', '"Infinity"',
    '"0x10"', '"5_5"', '"1e-400"', '"1e400"', '"55 kWh"', '"1 GW"', '"500 kVA"', '"500 kW p"', '"5 p"',
)  # fmt: skip
FIGURES = ("400", "0.5", "1e3", "+5", ".5", "3.", "1E-2", "2,5")
BLANKS = ("", " ", " ", "\u00a0", "\\u2009", "\\t \\u00a0", "\\n", "\u202f")
UNITS = ("", "W", "kW", "KW", "MW", "gw", "kWp", "MWP", "Wp", "kWac", "GWAC", "mwdc", "kWpp", "kVA", "\u212aW")
NO_OBJECTS = ("{}", "[]", "null", "17", '"ratedPowerKw"', '{"other": 1}')
NO_JSON = ("", "not JSON", '{"ratedPowerKw": 55', "{'ratedPowerKw': 55}", '{"ratedPowerKw": NaN}')

METRICS = tuple(name for names in ALIASES.values() for name in names)
UNKNOWN_METRICS = ("humidity", "Power_kW", "")


INFINITIES = ("infinity", "-infinity")
PLACEHOLDERS = tuple(datetime(year, 1, 1, tzinfo=UTC) for year in (1, 1900, 1970))


@st.composite
def stored(draw: st.DrawFn, instant: datetime | None) -> Instant:
    """Draw an instant as a column may hold it: now and then an infinity stands there instead."""
    return draw(st.sampled_from((*(instant,) * 22, *INFINITIES)))


def rarely(value: st.SearchStrategy[Any], otherwise: Any) -> st.SearchStrategy[Any]:
    """Draw `otherwise` three times out of four."""
    return st.sampled_from((False, False, False, True)).flatmap(lambda hit: value if hit else st.just(otherwise))


@st.composite
def as_ofs(draw: st.DrawFn) -> datetime:
    """Draw an instant T: a special moment, or some hour, minute, second or microsecond."""
    moment = draw(st.sampled_from(MOMENTS))
    days = draw(st.integers(0, 400))
    return moment - days * DAY * draw(st.booleans()) + draw(st.sampled_from((0, 0, 1, 60, 1800, 3599))) * SECOND


@st.composite
def instants(draw: st.DrawFn, as_of: datetime, others: Sequence[datetime] = ()) -> datetime:
    """Draw an instant at, just before or just after the edge of a window before T, or of 30 d after one of `others`."""
    anchors = [as_of - edge for edge in EDGES]
    for other in others[-2:]:
        anchors += [other, other + 30 * DAY]
    instant = draw(st.sampled_from(anchors)) + draw(st.sampled_from(JITTERS))
    return instant - draw(rarely(st.integers(1, 9000), 0)) * timedelta(hours=7)


def optional_instants(as_of: datetime, others: Sequence[datetime] = ()) -> st.SearchStrategy[datetime | None]:
    """Draw an instant or None."""
    return st.none() | instants(as_of, others)


def generated(fleets: int) -> settings:
    """Return the settings of a property that is tried on at least `fleets` fleets."""
    return settings(
        max_examples=math.ceil(fleets / BATCH),
        derandomize=True,
        database=None,
        deadline=None,
        # Shrinking would take thousands of extractions, and a failure names asset and feature anyway.
        phases=(Phase.generate,),
        # A batch is meant to be large, and an example is as slow as two databases are.
        suppress_health_check=(HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.too_slow),
    )


# ---- PostgreSQL --------------------------------------------------------------------------------------------------


@st.composite
def assets(draw: st.DrawFn, key: UUID, tenant: UUID, site: UUID, as_of: datetime) -> Row:
    """Draw an asset."""
    created = draw(rarely(instants(as_of), as_of - 500 * DAY))
    status = draw(st.sampled_from(ASSET_STATUSES) if draw(st.booleans()) else st.just("operational"))
    return {
        "id": key,
        "tenant_id": tenant,
        "site_id": site,
        "asset_id": f"tag {key}",
        "name": "Asset",
        "type": draw(st.sampled_from(ASSET_TYPES)),
        "status": status,
        "manufacturer": draw(st.sampled_from((None, "", "Senvion", 'Häger & "Sons", \n\\N'))),
        "model": draw(st.sampled_from((None, "", "MM82", "NULL"))),
        "installation_date": draw(installation_dates(as_of)),
        "specifications": draw(json_texts("ratedPowerKw")),
        "metadata": draw(json_texts("installed_capacity_kw")),
        "created_at": draw(stored(created)),
        "updated_at": draw(stored(draw(rarely(instants(as_of), created)))),
    }


@st.composite
def installation_dates(draw: st.DrawFn, as_of: datetime) -> Instant:
    """Draw none, an anniversary in months of T (or a little beside it), a month's end, an instant or no real date."""
    kind = draw(st.sampled_from(("none", "months", "months", "end", "instant", "placeholder", "infinite")))
    if kind == "none":
        return None
    if kind == "infinite":
        return draw(st.sampled_from(INFINITIES))
    if kind == "placeholder":
        return draw(st.sampled_from(PLACEHOLDERS)) + draw(st.sampled_from((timedelta(0), DAY - MICROSECOND, DAY)))
    if kind == "instant":
        return draw(instants(as_of))
    years, months = divmod(draw(st.sampled_from((0, 1, 6, 7, 12, 24, 25, 60, 61, 300))), 12)
    month = as_of.year * 12 + as_of.month - 1 - years * 12 - months
    first = as_of.replace(year=month // 12, month=month % 12 + 1, day=1)
    if kind == "end":
        return first.replace(hour=0, minute=0, second=0, microsecond=0) - DAY * draw(st.integers(1, 3))
    return first + (as_of.day - 1) * DAY + draw(st.sampled_from(JITTERS))


@st.composite
def json_texts(draw: st.DrawFn, key: str) -> str:
    """Draw the text of a JSON column: an object with a rated power, something else, or no JSON."""
    kind = draw(st.sampled_from(("plain", "capacity", "spelled", "no object", "no json")))
    if kind == "plain":
        return "{}"
    if kind == "spelled":
        parts = [draw(st.sampled_from(choices)) for choices in (BLANKS, FIGURES, BLANKS, UNITS, BLANKS)]
        return f'{{"{key}": "{"".join(parts)}"}}'
    if kind == "capacity":
        return f'{{"note": "a \\" b", "{key}": {draw(st.sampled_from(CAPACITIES))}}}'
    return draw(st.sampled_from(NO_OBJECTS if kind == "no object" else NO_JSON))


@st.composite
def work_orders(
    draw: st.DrawFn, key: UUID, asset: Row | None, as_of: datetime, completions: list[datetime]
) -> tuple[Row, list[Row]]:
    """Draw a work order and its tasks; `completions` are those of the asset so far, to repeat failures after."""
    created = draw(instants(as_of, completions))
    length = draw(
        st.sampled_from((timedelta(0), MICROSECOND, 2 * DAY, 31 * DAY, -SECOND, -40 * DAY, timedelta(hours=3)))
    )
    ended = draw(st.sampled_from((None, None, created + length, created + length)) | instants(as_of, [created]))
    updated = draw(st.just(created) | instants(as_of, [created]))
    work_order = {
        "id": key,
        "tenant_id": asset["tenant_id"] if asset else key,
        "site_id": asset["site_id"] if asset else key,
        "asset_id": asset["id"] if asset else None,
        "type": draw(st.sampled_from(WORK_ORDER_TYPES)),
        "priority": draw(st.sampled_from(PRIORITIES)),
        "status": draw(st.sampled_from(WORK_ORDER_STATUSES)),
        "scheduled_end": draw(stored(draw(optional_instants(as_of)))),
        "actual_start": draw(stored(draw(st.sampled_from((None, created))))),
        "actual_end": draw(stored(ended)),
        "created_by": key,
        "created_at": draw(stored(created)),
        "updated_at": draw(stored(updated)),
    }
    done = [
        draw(stored(draw(optional_instants(as_of, [created, updated]))))
        for _ in range(draw(st.sampled_from((0, 0, 1, 2))))
    ]
    tasks = [
        {"work_order_id": key, "task_order": number, "completed_at": instant} for number, instant in enumerate(done)
    ]
    return work_order, tasks


@st.composite
def alarm_instants(draw: st.DrawFn, as_of: datetime, failures: Sequence[datetime]) -> datetime:
    """Draw when an alarm is triggered: about the edges of its windows, and where a failure just follows it or not."""
    anchors = [as_of - days * DAY for days in (0, 1, 7, 14, 372)]
    anchors += [failure - days * DAY for failure in failures for days in (0, 3, 7)]
    return draw(st.sampled_from(anchors)) + draw(st.sampled_from(JITTERS))


@st.composite
def alerts(draw: st.DrawFn, asset: Row | None, as_of: datetime, failures: Sequence[datetime] = ()) -> Row:
    """Draw an alert; `failures` are when those of its asset were reported."""
    triggered = draw(alarm_instants(as_of, failures) | instants(as_of))
    return {
        "tenant_id": asset["tenant_id"] if asset else UUID(int=0),
        "site_id": asset["site_id"] if asset else UUID(int=0),
        "asset_id": asset["id"] if asset else None,
        "title": "Alert",
        "severity": draw(st.sampled_from(SEVERITIES)),
        "status": draw(st.sampled_from(ALERT_STATUSES)),
        "rule_id": draw(st.sampled_from((*RULES, *RULES, None))),
        "triggered_at": draw(stored(triggered)),
        "resolved_at": draw(stored(draw(optional_instants(as_of, [triggered])))),
    }


@st.composite
def scores(draw: st.DrawFn, asset: Row, as_of: datetime) -> list[Row]:
    """Draw recorded health scores of an asset, one at an instant: nothing tells which of two would be the latest."""
    times = draw(rarely(st.lists(instants(as_of), max_size=3, unique=True), []))
    points = st.integers(0, 100) | st.sampled_from((-1, 101, 110, -(2**31), 2**31 - 1))
    return [
        {"asset_id": asset["id"], "score": draw(points), "category": "fair", "calculated_at": draw(stored(instant))}
        for instant in times
    ]


# ---- ClickHouse --------------------------------------------------------------------------------------------------

# Averages within a bucket. Most are exact in binary; 1.0 is just 1 % of 100, the largest that is not yet production.
CYCLES = (
    (100.0,),
    (100.0, 1.0),
    (100.0, 1.0, 1.0625, 0.0),
    (0.0,),
    (-3.5,),
    (0.1, 0.2, 0.3),
    (2050.0, -1.5, math.nan, 0.125),
    (50.0, math.inf),
    (math.nan,),
    (230.4, 229.9, 231.7),
    (0.5, 100.0, -math.inf, 0.0, 0.0),
)


@st.composite
def stretches(draw: st.DrawFn, as_of: datetime, width: timedelta) -> list[datetime]:
    """Draw the starts of a few buckets across the edge of a window, with or without gaps.

    Most lie on the clock grid, others equally far behind it; some overlap, or are narrower than they should be.
    """
    edge = draw(st.sampled_from((0, 0, 1, 7, 7, 30, 90)))
    length, stride = draw(st.sampled_from((1, 3, 8, 12))), draw(st.sampled_from((1, 1, 2, 5)))
    offset = draw(rarely(st.sampled_from((width / 2, width / 3, SECOND, width - SECOND)), timedelta(0)))
    first = (as_of - edge * DAY - EPOCH) // width - draw(st.integers(-2, 9))
    starts = [EPOCH + (first + number * stride) * width + offset for number in range(length)]
    overlapping = draw(rarely(st.integers(1, length), 0))
    starts += [start + width / draw(st.sampled_from((2, 3, 60))) for start in starts[:overlapping]]
    if draw(st.integers(0, 15)) == 0:
        starts += [start + number * width / 6 for start in starts for number in range(1, 6)]
    # now and then about as many before the last day as make a mean usual, from the 30th day on or until its beginning
    if usual := draw(rarely(st.sampled_from((71, 72, 72, 73, 80)), 0)):
        lasts = ((as_of - DAY - EPOCH) // width, (as_of - 30 * DAY - EPOCH) // width + usual)
        last = draw(st.sampled_from(lasts)) + draw(st.integers(-2, 1))
        starts += [EPOCH + (last - number) * width + offset for number in range(usual)]
        starts.append(EPOCH + ((as_of - EPOCH) // width - 3) * width + offset)
    return sorted(set(starts))


# What may be wrong with the columns of a bucket whose average is right.
FLAWS: tuple[Row, ...] = (
    {"sum_value": math.nan},
    {"sum_value": math.inf},
    {"sum_value": -math.inf},
    {"stddev_value": math.nan},
    {"stddev_value": math.inf},
    {"min_value": -math.inf, "max_value": math.inf},
    {"min_value": -1e300, "max_value": 3.5e38},
    {"min_value": math.nan, "max_value": math.nan},
)


@st.composite
def runs(
    draw: st.DrawFn, metric: str, starts: list[datetime], sites: tuple[UUID, UUID, datetime], **columns: Any
) -> list[Row]:
    """Draw the buckets of one metric at `starts`, some of them stored again; `columns` are those that all share.

    `sites` are where the asset was before an instant, where it has been since, and that instant.
    """
    cycle, phase = draw(st.sampled_from(CYCLES)), draw(st.integers(0, 3))
    counts = draw(st.sampled_from(((60,), (60, 1), (3600, 60, 0), (0,))))
    spread, spread_within = draw(st.sampled_from((0.0, 2.5))), draw(st.sampled_from((0.0, 0.5, 12.25)))
    anomalies = draw(st.sampled_from(((0,), (0, 1), (0, 7, 0, 2), (0, 0, 40), (0, 2**31 - 1))))
    copy = draw(st.sampled_from((None, None, "same", "fewer samples", "smaller sum", "smaller average", "elsewhere")))
    flaws = draw(rarely(st.lists(st.sampled_from(FLAWS), min_size=1, max_size=2), []))
    # 2 ** 16 is exact in binary, and its square too
    spurious = draw(rarely(st.sampled_from((0, 1, 2)), None))
    before, since, moved = sites
    rows = []
    for number, start in enumerate(starts):
        value = 2.0**16 if number == spurious else cycle[(number + phase) % len(cycle)]
        row = bucket(
            metric=metric,
            start=start,
            value=value,
            count=counts[number % len(counts)],
            min_value=value - spread,
            max_value=value + spread,
            stddev_value=spread_within,
            anomaly_count=anomalies[number % len(anomalies)],
            site_id=before if start < moved else since,
            **columns,
        )
        for flaw in flaws[number % 2 : number % 2 + 1]:
            row |= flaw
        rows += [row, *stored_again(row, copy)]
    return rows


@st.composite
def telemetry(
    draw: st.DrawFn, asset_ids: list[UUID], tenant: UUID, sites: list[UUID], as_of: datetime, width: timedelta
) -> list[Row]:
    """Draw the buckets of a fleet: stretches in which all assets may report power, and each asset's own runs."""
    power = ALIASES["power"]
    together = draw(st.lists(stretches(as_of, width), min_size=1, max_size=2))
    buckets = []
    for asset_id in asset_ids:
        # Where its telemetry says it stands, which may be another site than PostgreSQL says.
        site = draw(st.sampled_from(sites))
        moved = as_of - draw(st.sampled_from((3, 7, 10, 40))) * DAY
        columns = {
            "asset": asset_id,
            "tenant_id": tenant,
            "sites": (draw(rarely(st.sampled_from(sites), site)), site, moved),
        }
        asset_runs = []
        for starts in together:
            metric = draw(st.sampled_from((power[0], power[0], power[0], *power[1:], None)))
            asset_runs += [draw(runs(metric, starts, **columns))] if metric else []
        for _ in range(draw(st.sampled_from((0, 1, 1, 2)))):
            starts = draw(stretches(as_of, width))
            metrics = draw(st.lists(st.sampled_from(METRICS + UNKNOWN_METRICS), min_size=1, max_size=4, unique=True))
            asset_runs += [draw(runs(metric, starts, **columns)) for metric in metrics]
        buckets += one_story(asset_runs)
    return buckets


def stored_again(row: Row, how: str | None) -> list[Row]:
    """Return the copies of a bucket that came before or after the one that counts."""
    if how == "same":
        return [dict(row)]
    if how == "fewer samples" and row["count"]:
        return [row | {"count": row["count"] - 1, "avg_value": 7.0, "sum_value": 1e6, "anomaly_count": 99}]
    value = row["avg_value"] - 8.0
    if how == "smaller sum" and row["count"] and math.isfinite(value):
        return [row | {"avg_value": value, "sum_value": value * row["count"], "anomaly_count": 99}]
    if how == "smaller average":
        return [row | {"avg_value": value, "anomaly_count": 99}] if math.isfinite(value) else []
    if how == "elsewhere":
        return [row | {"site_id": UUID(int=row["site_id"].int + 1), "count": row["count"] + 1}]
    return []


def one_story(asset_runs: list[list[Row]]) -> list[Row]:
    """Return the buckets of an asset, each as the first run tells it: copies come from `stored_again` alone."""
    teller: dict[tuple[str, datetime], int] = {}
    return [
        row
        for number, run in enumerate(asset_runs)
        for row in run
        if teller.setdefault((row["metric_name"], row["time_bucket"]), number) == number
    ]


# ---- the fleet ---------------------------------------------------------------------------------------------------


@st.composite
def fleets(draw: st.DrawFn, number: int, as_of: datetime, width: timedelta) -> Fleet:
    """Draw a fleet of 1 to 5 assets on up to 3 sites, with ids of its own by `number`, to be read as of `as_of`."""

    def key(kind: str, index: int) -> UUID:
        return UUID(f"{number:08x}-{kind.encode().hex()[:4]}-4000-8000-{index:012x}")

    tenant = key("tenant", 0)
    sites = [key("site", index) for index in range(draw(st.integers(1, 3)))]
    fleet = Fleet()
    for index in range(draw(st.integers(1, 5))):
        site = draw(st.sampled_from(sites))
        asset = draw(assets(key("asset", index), tenant, site, as_of))
        fleet.assets.append(asset)
        completions: list[datetime] = []
        for _ in range(draw(st.sampled_from((0, 1, 2, 4, 6)))):
            work_order, tasks = draw(work_orders(key("work", len(fleet.work_orders)), asset, as_of, completions))
            completions += [work_order["actual_end"]] if isinstance(work_order["actual_end"], datetime) else []
            fleet.work_orders.append(work_order)
            fleet.tasks.extend(tasks)
        for copy in range(draw(rarely(st.sampled_from((3, 10, 30)), 0)) if fleet.work_orders else 0):
            fleet.work_orders.append(fleet.work_orders[-1] | {"id": key("many", 100 * index + copy)})
        failures = [
            row["created_at"]
            for row in fleet.work_orders
            if row["asset_id"] == asset["id"] and row["type"] in FAILURE_TYPES and known(row["created_at"])
        ]
        for copies in draw(st.lists(st.sampled_from((1, 1, 1, 3, 12)), max_size=6)):
            fleet.alerts.extend([draw(alerts(asset, as_of, failures))] * copies)
        fleet.scores.extend(draw(scores(asset, as_of)))
        if draw(st.sampled_from((False, False, True))):
            rated = draw(st.sampled_from((None, 2.05, 0, 0.001, 100.5)))
            fleet.wind.append({"asset_id": asset["id"], "rated_power_mw": rated})
    if draw(st.booleans()):
        orphan, tasks = draw(work_orders(key("orphan", 0), None, as_of, []))
        fleet.work_orders.append(orphan)
        fleet.tasks.extend(tasks)
        fleet.alerts.append(draw(alerts(None, as_of)))
    unknown = [key("ghost", index) for index in range(draw(st.sampled_from((0, 1, 2))))]
    reporting = [*(asset["id"] for asset in fleet.assets), *unknown]
    return replace(fleet, buckets=draw(telemetry(reporting, tenant, sites, as_of, width)))


@dataclass(frozen=True)
class Batch:
    """Fleets that share nothing but the instants as of which they are read and the width of their buckets."""

    instants: list[datetime]
    width: timedelta
    fleets: list[Fleet]

    def __repr__(self) -> str:  # of a failing example: all rows would fill a book
        return f"{len(self.fleets)} fleets as of {self.instants}, buckets of {self.width}"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Draw instants, a bucket width and `BATCH` fleets without common ids: one extraction is a proof of each.

    The fleets are made for the first instant; the others look at them from somewhere else. A further, plain fleet has
    something to read at each instant: a database without any asset or telemetry is an error of its own.
    """
    as_of = draw(as_ofs())
    instants = [
        as_of,
        as_of - draw(st.sampled_from((MICROSECOND, SECOND, 7 * DAY, 30 * DAY, 11 * DAY + 1234 * SECOND))),
    ]
    width = timedelta(minutes=draw(st.sampled_from((60, 60, 60, 15, 10, 1))))
    generated = [draw(fleets(number, as_of, width)) for number in range(1, BATCH + 1)]
    return Batch(instants, width, [plain_fleet(instants, width), *generated])


def plain_fleet(instants: list[datetime], width: timedelta) -> Fleet:
    """Return one asset without a history that reported power for a day before each of the instants."""
    key = UUID(int=1)
    asset = {"id": key, "tenant_id": key, "site_id": key, "type": "meter", "status": "operational"}
    asset |= dict.fromkeys(("manufacturer", "model", "installation_date"))
    asset |= dict.fromkeys(("specifications", "metadata"), "{}") | {"asset_id": "plain", "name": "Plain"}
    asset |= dict.fromkeys(("created_at", "updated_at"), min(instants) - 100 * DAY)
    starts = {EPOCH + ((as_of - EPOCH) // width - n) * width for as_of in instants for n in range(DAY // width)}
    buckets = [bucket(key, "power_kw", start, 10.0, tenant_id=key, site_id=key) for start in sorted(starts)]
    return Fleet(assets=[asset], buckets=buckets)


def as_stored(fleet: Fleet, variant: str) -> Fleet:
    """Return the fleet as the schema variant can hold it: t has dates of installation and only valid JSON."""
    if variant == "n":
        return fleet
    assets = [
        asset
        | {
            "installation_date": midnight(asset["installation_date"]),
            **{column: "{}" for column in ("specifications", "metadata") if asset[column] in NO_JSON},
        }
        for asset in fleet.assets
    ]
    return replace(fleet, assets=assets)


def midnight(instant: Instant) -> Instant:
    """Return the start of the instant's day in UTC, and what is no instant as it is."""
    return (
        instant if not isinstance(instant, datetime) else datetime(instant.year, instant.month, instant.day, tzinfo=UTC)
    )

"""What the SQL relies on of dCMMS's two databases: of each column that is read, the kind of its type, NULL, values.

A type of another kind makes a query fail or, worse, mean something else: an instant that has become a date has happened
at midnight, before it was known. A NULL where the SQL does without leaves a row out, or a feature NULL that never is.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of type: in words, as a type of the Open Data Contract Standard, and as the servers name those of it."""

    name: str
    logical: str
    types: frozenset[str]


class Column(NamedTuple):
    """A column; `null` where the SQL can do with NULLs, `values` where the features tell some apart."""

    kind: Kind
    null: bool = False
    values: tuple[str, ...] = ()


def _kind(name: str, logical: str, *types: str) -> Kind:
    return Kind(name, logical, frozenset(types))


# What PostgreSQL calls an enumerated type here, whatever name it has.
ENUM = "enum"

_INSTANTS = ("timestamp without time zone", "timestamp with time zone")
UUID = _kind("a UUID", "string", "uuid")
# Rows are told apart, found and ordered by it, and no more.
KEY = _kind("a key", "string", "uuid", "integer", "bigint", "text", "character varying", "UUID", "String")
TEXT = _kind("a text", "string", ENUM, "text", "character varying", "character", "String")
INSTANT = _kind("an instant", "timestamp", *_INSTANTS, "DateTime", "DateTime64")
DAY = _kind("a day or an instant", "timestamp", "date", *_INSTANTS)
JSON = _kind("JSON or a text of it", "object", "json", "jsonb", "text", "character varying")
NUMBER = _kind(
    *("a number", "number", "smallint", "integer", "bigint", "numeric", "real", "double precision"),
    *("Float32", "Float64", "Decimal"),
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
)


def _or_null(kind: Kind) -> Column:
    return Column(kind, null=True)


TABLES = {
    "alerts": {
        "asset_id": _or_null(UUID),
        "resolved_at": _or_null(INSTANT),
        "rule_id": _or_null(KEY),
        "severity": Column(TEXT, values=("critical", "high", "medium", "low", "info")),
        "tenant_id": Column(UUID),
        "triggered_at": Column(INSTANT),
    },
    "asset_health_scores": {
        "asset_id": _or_null(UUID),
        "calculated_at": Column(INSTANT),
        "created_at": _or_null(INSTANT),
        "id": _or_null(KEY),
        "score": _or_null(NUMBER),
    },
    "assets": {
        "created_at": Column(INSTANT),
        "id": Column(UUID),
        "installation_date": _or_null(DAY),
        "manufacturer": _or_null(TEXT),
        "metadata": _or_null(JSON),
        "model": _or_null(TEXT),
        "site_id": Column(UUID),
        "specifications": _or_null(JSON),
        "status": Column(TEXT, values=("operational", "degraded", "down", "maintenance", "decommissioned")),
        "tenant_id": Column(UUID),
        "type": Column(TEXT),
        "updated_at": Column(INSTANT),
    },
    "wind_turbine_metadata": {
        "asset_id": _or_null(UUID),
        "rated_power_mw": _or_null(NUMBER),
    },
    "work_order_tasks": {
        "completed_at": _or_null(INSTANT),
        "work_order_id": _or_null(KEY),
    },
    "work_orders": {
        "actual_end": _or_null(INSTANT),
        "asset_id": _or_null(UUID),
        "created_at": Column(INSTANT),
        "id": Column(KEY),
        "priority": Column(TEXT, values=("critical", "high", "medium", "low")),
        "scheduled_end": _or_null(INSTANT),
        "status": Column(
            TEXT,
            values=("draft", "open", "scheduled", "in_progress", "on_hold", "completed", "closed", "cancelled"),
        ),
        "type": Column(TEXT, values=("corrective", "preventive", "predictive", "inspection", "emergency")),
        "updated_at": Column(INSTANT),
    },
}

# Sites without wind turbines may lack these tables; columns they do not lack.
OPTIONAL_TABLES = ("wind_turbine_metadata",)

# A figure that is NULL counts as one that was not measured.
TELEMETRY = {
    "tenant_id": _or_null(KEY),
    "asset_id": Column(KEY),
    "site_id": Column(KEY),
    "metric_name": Column(TEXT),
    "time_bucket": Column(INSTANT),
    "avg_value": _or_null(NUMBER),
    "min_value": _or_null(NUMBER),
    "max_value": _or_null(NUMBER),
    "sum_value": _or_null(NUMBER),
    "count": _or_null(NUMBER),
    "stddev_value": _or_null(NUMBER),
    "anomaly_count": _or_null(NUMBER),
}

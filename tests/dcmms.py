"""A small dCMMS to fill row by row: real PostgreSQL and ClickHouse behind a few words of the field."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg2.extras
import pyarrow as pa
import pyarrow.compute as pc
from clickhouse_connect.driver.client import Client
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from pipeline.base.settings import Settings
from pipeline.base.specs import SPECS, TIMESTAMP
from pipeline.sources import extract
from pipeline.sources.clickhouse import open_clickhouse
from pipeline.sources.postgres import open_postgres
from pipeline.sources.telemetry import extract_telemetry

TENANT = UUID("00000000-0000-4000-8000-00000000000a")
SITE = UUID("00000000-0000-4000-8000-00000000000b")
# The as-of instant of the tests, at no particular place on any clock grid but the hour's.
T = datetime(2026, 3, 11, 10, tzinfo=UTC)
LONG_AGO = T - timedelta(days=3000)
# The resolution of every instant in the databases: the smallest step across the edge of a window.
MICROSECOND = timedelta(microseconds=1)

psycopg2.extras.register_uuid()

_TABLES = "tenants, sites, assets, work_orders, work_order_tasks, alerts, asset_health_scores, wind_turbine_metadata"
_BUCKET_COLUMNS = (
    "asset_id",
    "tenant_id",
    "site_id",
    "metric_name",
    "time_bucket",
    "avg_value",
    "min_value",
    "max_value",
    "sum_value",
    "count",
    "stddev_value",
    "p50_value",
    "p95_value",
    "p99_value",
    "anomaly_count",
)


def ago(days: float = 0, *, hours: float = 0, seconds: float = 0) -> datetime:
    """Return the instant that long before T; negative numbers are after T."""
    return T - timedelta(days=days, hours=hours, seconds=seconds)


def window_edges(days: float) -> tuple[list[datetime], list[datetime]]:
    """Return the first and last instants inside `(T - days, T]`, and the nearest ones outside."""
    return [ago(days) + MICROSECOND, T], [ago(days), T + MICROSECOND]


def asset_key(number: int) -> UUID:
    """Return the id of the asset `number` of a test."""
    return UUID(f"00000000-0000-4000-8000-{number:012x}")


class Dcmms:
    """Both databases, empty at the start of a test. Rows get the columns named, the rest is plain.

    Times are aware; where the schema has naive columns they are stored as UTC wall clock, as dCMMS does.
    """

    def __init__(self, postgres: Connection, clickhouse: Client, settings: Settings) -> None:
        self.postgres = postgres
        self.clickhouse = clickhouse
        self.settings = settings
        with postgres.cursor() as cursor:
            cursor.execute("set timezone = 'UTC'")
            cursor.execute(f"truncate {_TABLES}")
        postgres.commit()
        clickhouse.command("truncate table telemetry_aggregates")

    def insert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows that name the same columns."""
        columns = list(rows[0])
        statement = sql.SQL("insert into {} ({}) values %s").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with self.postgres.cursor() as cursor:
            psycopg2.extras.execute_values(
                cursor, statement.as_string(cursor), [tuple(row[column] for column in columns) for row in rows]
            )
        self.postgres.commit()

    def asset(self, number: int = 1, **columns: Any) -> UUID:
        """Insert an operational turbine, created long ago, and return its id."""
        key = asset_key(number)
        plain = {
            "id": key,
            "tenant_id": TENANT,
            "site_id": SITE,
            "asset_id": f"WTG-{number:02}",
            "name": f"Turbine {number}",
            "type": "turbine",
            "status": "operational",
            "created_at": LONG_AGO,
            "updated_at": LONG_AGO,
        }
        self.insert("assets", [plain | columns])
        return key

    def work_order(self, asset: UUID | None, created_at: datetime | str, **columns: Any) -> None:
        """Insert an open corrective work order; `updated_at` is its creation unless named."""
        plain = {
            "tenant_id": TENANT,
            "site_id": SITE,
            "asset_id": asset,
            "type": "corrective",
            "priority": "medium",
            "status": "open",
            "created_by": TENANT,
            "created_at": created_at,
            "updated_at": created_at,
        }
        self.insert("work_orders", [plain | columns])

    def task(self, work_order: UUID, completed_at: datetime | str | None) -> None:
        """Insert a task of a work order."""
        self.insert(
            "work_order_tasks",
            [{"work_order_id": work_order, "task_order": 1, "title": "Task", "completed_at": completed_at}],
        )

    def alert(self, asset: UUID | None, triggered_at: datetime | str, severity: str = "high", **columns: Any) -> None:
        """Insert an active alert without a rule."""
        plain = {
            "tenant_id": TENANT,
            "site_id": SITE,
            "asset_id": asset,
            "title": "Alert",
            "severity": severity,
            "status": "active",
            "triggered_at": triggered_at,
        }
        self.insert("alerts", [plain | columns])

    def score(self, asset: UUID, calculated_at: datetime | str, score: int) -> None:
        """Insert a recorded health score, whose times are naive in both variants."""
        self.insert(
            "asset_health_scores",
            [{"asset_id": asset, "score": score, "category": "fair", "calculated_at": calculated_at}],
        )

    def growing_fleet(self) -> None:
        """Insert two assets at T - 2 d, three later, a work order more each day, and a day of power of the first."""
        for number in (1, 2):
            for day in (0, 1, 2):
                self.work_order(self.asset(number) if not day else asset_key(number), ago(day, hours=1))
        self.asset(3, created_at=ago(1, hours=1))
        self.buckets(*[bucket(asset_key(1), "power_kw", ago(hours=hour), 100.0) for hour in range(1, 25)])

    def buckets(self, *rows: Mapping[str, Any]) -> None:
        """Insert telemetry buckets, see `bucket`."""
        self.clickhouse.insert(
            "telemetry_aggregates", [[row[column] for column in _BUCKET_COLUMNS] for row in rows], _BUCKET_COLUMNS
        )

    def extract(self, view: str, as_of: datetime = T) -> list[dict[str, Any]]:
        """Return the rows that the SQL of `view` gives as of `as_of`, ordered by asset; a backfill gives the same."""
        if SPECS[view].engine == "clickhouse":
            with open_clickhouse(self.settings) as source:
                return extract_telemetry(source, view, as_of, self.settings.bucket_seconds).to_pylist()
        with open_postgres(self.settings) as source:
            table = extract.extract_postgres(source, view, as_of).sort_by("asset_id")
            history = extract.read_postgres(source, view, [as_of - timedelta(days=30), as_of]).sort_by("asset_id")
        assert history.filter(pc.equal(history["event_timestamp"], pa.scalar(as_of, TIMESTAMP))).equals(table)
        return table.to_pylist()

    def column(self, view: str, feature: str, as_of: datetime = T) -> list[Any]:
        """Return one feature of all assets, in the order of their numbers."""
        return [row[feature] for row in sorted(self.extract(view, as_of), key=lambda row: row["asset_id"])]

    def row(self, view: str, asset: UUID, as_of: datetime = T) -> dict[str, Any]:
        """Return the one row of an asset."""
        (row,) = [row for row in self.extract(view, as_of) if row["asset_id"] == str(asset)]
        return row


def bucket(asset: UUID, metric: str, start: datetime, value: float = 100.0, **columns: Any) -> dict[str, Any]:
    """Return an hourly bucket of 60 samples that starts at `start`; all figures are `value` unless named."""
    count = columns.get("count", 60)
    average = columns.get("avg_value", value)
    plain = {
        "asset_id": asset,
        "tenant_id": TENANT,
        "site_id": SITE,
        "metric_name": metric,
        "time_bucket": start,
        "avg_value": average,
        "min_value": average,
        "max_value": average,
        "sum_value": average * count,
        "count": count,
        "stddev_value": 0.0,
        "p50_value": average,
        "p95_value": average,
        "p99_value": average,
        "anomaly_count": 0,
    }
    return plain | columns

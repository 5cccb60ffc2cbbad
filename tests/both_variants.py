"""A generated fleet in the real databases: PostgreSQL in both schema variants at once, and ClickHouse."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection

from dev.servers import PostgresServer
from pipeline.base.settings import Settings
from pipeline.base.specs import SPECS
from pipeline.base.views import ASSETS
from pipeline.snapshots.quality import broken_rows, wrong_assets
from pipeline.sources import extract
from pipeline.sources.clickhouse import open_clickhouse
from pipeline.sources.postgres import open_postgres
from pipeline.sources.telemetry import read_telemetry
from tests.conftest import DATABASE
from tests.dcmms import Dcmms
from tests.fleets import as_stored
from tests.reference import Fleet, Row

VARIANTS = ("n", "t")
POSTGRES_VIEWS = tuple(view for view, spec in SPECS.items() if spec.engine == "postgresql")
CLICKHOUSE_VIEWS = tuple(view for view, spec in SPECS.items() if spec.engine == "clickhouse")

Views = dict[str, dict[str, Row]]
"""The rows of an extraction: {view: {asset_id: {column: value}}}."""


class BothVariants:
    """Both variants of PostgreSQL, which share the telemetry of one ClickHouse, to load and extract again and again."""

    def __init__(self, connections: dict[str, Connection], clickhouse: Client, settings: dict[str, Settings]) -> None:
        self._connections = connections
        self._clickhouse = clickhouse
        self._settings = settings

    def load(self, fleets: Iterable[Fleet]) -> None:
        """Replace everything in all databases by these fleets."""
        fleets = list(fleets)
        for variant, connection in self._connections.items():
            dcmms = Dcmms(connection, self._clickhouse, self._settings[variant])
            stored = [as_stored(fleet, variant) for fleet in fleets]
            for table, rows in (
                ("assets", [row for fleet in stored for row in fleet.assets]),
                ("work_orders", [row for fleet in stored for row in fleet.work_orders]),
                ("work_order_tasks", [row | {"title": "Task"} for fleet in stored for row in fleet.tasks]),
                ("alerts", [row for fleet in stored for row in fleet.alerts]),
                ("asset_health_scores", [row for fleet in stored for row in fleet.scores]),
                ("wind_turbine_metadata", [row for fleet in stored for row in fleet.wind]),
            ):
                if rows:
                    dcmms.insert(table, rows)
        dcmms.buckets(*(row for fleet in fleets for row in fleet.buckets))

    def extract(self, as_of: datetime, width: timedelta) -> dict[str, Views]:
        """Return the snapshots of all views as of `as_of` by variant, as a run would write them."""
        with open_clickhouse(self._settings["n"]) as source:
            # not `extract_telemetry`: of a batch, more than half may be narrow, as of a site it may not
            telemetry = {
                view: read_telemetry(source, view, [as_of], int(width.total_seconds())) for view in CLICKHOUSE_VIEWS
            }
        return {variant: self._views(variant, as_of, telemetry) for variant in VARIANTS}

    def read_postgres(self, variant: str, view: str, instants: Sequence[datetime]) -> pa.Table:
        """Return the rows of a view of PostgreSQL at all `instants`, in order of instant and asset."""
        with open_postgres(self._settings[variant]) as source:
            rows = extract.read_postgres(source, view, instants)
        return rows.sort_by([("event_timestamp", "ascending"), ("asset_id", "ascending")])

    def read_telemetry(self, view: str, instants: Sequence[datetime], width: timedelta) -> pa.Table:
        """Return the rows of a view of ClickHouse at all `instants`, in order of instant and asset."""
        with open_clickhouse(self._settings["n"]) as source:
            rows = read_telemetry(source, view, instants, int(width.total_seconds()))
        return rows.sort_by([("event_timestamp", "ascending"), ("asset_id", "ascending")])

    def _views(self, variant: str, as_of: datetime, telemetry: dict[str, pa.Table]) -> Views:
        with open_postgres(self._settings[variant]) as source:
            read = {view: extract.extract_postgres(source, view, as_of) for view in POSTGRES_VIEWS}
        assets = read[ASSETS]
        read |= telemetry
        created = datetime.now(UTC)
        snapshots = {view: extract.as_snapshot(view, extract.completed(SPECS[view], read), created) for view in read}
        for view, snapshot in snapshots.items():
            # dirt that the definitions allow for is no reason to hold a view back
            broken = [*broken_rows(view, snapshot, as_of), *wrong_assets(view, snapshot, assets["asset_id"])]
            assert [rule.text for rule in broken] == [], view
        return {view: by_asset(snapshot.drop_columns(["created"]).to_pylist()) for view, snapshot in snapshots.items()}


def by_asset(rows: list[Row]) -> dict[str, Row]:
    """Return the rows by asset, of which each must have one."""
    keyed = {row["asset_id"]: row for row in rows}
    assert len(keyed) == len(rows), "an asset has more than one row"
    return keyed


@contextmanager
def open_both_variants(postgres: PostgresServer, clickhouse: Client, directory: Path) -> Iterator[BothVariants]:
    """Yield the databases of both variants; `directory` is that of the embedded engine."""
    with ExitStack() as stack:
        urls = {variant: postgres.url("dcmms", f"dcmms_{variant}") for variant in VARIANTS}
        yield BothVariants(
            {variant: stack.enter_context(closing(psycopg2.connect(url))) for variant, url in urls.items()},
            clickhouse,
            {
                variant: Settings(database_url=url, clickhouse_dsn=f"chdb://{directory}", clickhouse_database=DATABASE)
                for variant, url in urls.items()
            },
        )

"""The PostgreSQL tables of the fleet, with the dirt that real ones hold."""

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa

from dev.fleet.alarms import Alarms, alert_columns
from dev.fleet.catalog import SITES, TENANT_TAG, Assets, identifiers, manufacturers, rated_power, tenant_id
from dev.fleet.clock import Booleans, Clock, Floats, stream
from dev.fleet.failures import FAILED, Episodes
from dev.fleet.maintenance import Bookkeeping, WorkOrders, task_columns, work_order_columns

_INSTANT = pa.timestamp("us", "UTC")
_SCORED_EVERY = 20
_FLEET_KNOWN_HOURS = 30 * 24.0


def postgres_tables(
    assets: Assets,
    episodes: Episodes,
    serviced: Booleans,
    orders: WorkOrders,
    books: Bookkeeping,
    alarms: Alarms,
    clock: Clock,
    seed: int,
) -> dict[str, pa.Table]:
    """Return the tables in insert order, columns as in variant n; `serviced`: in service on the last day."""
    rated = rated_power(assets)
    work_orders = work_order_columns(orders, books, assets, clock)
    alerts = alert_columns(alarms, assets, clock, seed)
    columns = {
        "tenants": _tenants(clock),
        "sites": _sites(clock),
        "assets": _assets(assets, episodes, serviced, rated.specifications, rated.metadata, clock),
        "work_orders": _spoil_work_orders(work_orders, orders, clock),
        "work_order_tasks": task_columns(orders, books, work_orders["id"], clock),
        "alerts": _spoil_alerts(alerts),
        "asset_health_scores": _health_scores(assets, episodes, clock, seed),
        "wind_turbine_metadata": _turbines(assets, rated.turbine_mw, clock),
    }
    return {name: pa.table({key: _array(values) for key, values in table.items()}) for name, table in columns.items()}


def _array(values: object) -> pa.Array:
    array = pa.array(values)
    return array.cast(_INSTANT) if pa.types.is_timestamp(array.type) else array


def _first_known(clock: Clock, count: int) -> np.ndarray:
    """Return the instant at which dCMMS was set up, a month before the grid."""
    return clock.instants(np.full(count, -_FLEET_KNOWN_HOURS))


def _tenants(clock: Clock) -> dict[str, object]:
    return {
        "id": [tenant_id()],
        "tenant_id": [TENANT_TAG],
        "name": ["Iberdanica Renewables"],
        "is_active": [True],
        "created_at": _first_known(clock, 1),
        "updated_at": _first_known(clock, 1),
    }


def _sites(clock: Clock) -> dict[str, object]:
    return {
        "id": [site.id for site in SITES],
        "tenant_id": [tenant_id()] * len(SITES),
        "site_id": [site.tag for site in SITES],
        "name": [site.name for site in SITES],
        "type": ["photovoltaic", "wind farm", "hybrid plant"],
        "energy_type": [site.energy_type for site in SITES],
        "capacity_mw": [Decimal("1.40"), Decimal("31.75"), None],
        "timezone": [site.timezone for site in SITES],
        "is_active": [True] * len(SITES),
        "created_at": _first_known(clock, len(SITES)),
        "updated_at": _first_known(clock, len(SITES)),
    }


def _assets(
    assets: Assets,
    episodes: Episodes,
    serviced: Booleans,
    specifications: list[str],
    metadata: list[str],
    clock: Clock,
) -> dict[str, object]:
    count = len(assets)
    created = np.maximum(assets.installed, -_FLEET_KNOWN_HOURS)
    status, changed = _statuses(assets, episodes, serviced, created, clock)
    installed = np.floor(assets.installed / 24) * 24
    # Dirt: a date that nobody entered, and one in the future.
    installed[3::_SCORED_EVERY] = np.nan
    installed[2 :: 3 * _SCORED_EVERY] = clock.hours + 200 * 24
    return {
        "id": assets.id,
        "tenant_id": np.full(count, tenant_id()),
        "site_id": np.array([site.id for site in SITES])[assets.site],
        "asset_id": assets.tag,
        "name": assets.name,
        "type": assets.type,
        "manufacturer": _with_empty(manufacturers(assets)),
        "model": np.where(np.arange(count) % 13 == 12, None, assets.model.astype(object)),
        "serial_number": np.array([f"SN{identifier[:8].upper()}" for identifier in assets.id]),
        "installation_date": clock.instants(installed),
        "warranty_expiry_date": clock.instants(installed + 5 * 8_766),
        "status": status,
        "specifications": np.array(specifications),
        "metadata": np.array(metadata),
        "created_at": clock.instants(created),
        "updated_at": clock.instants(changed),
    }


def _with_empty(names: list[str | None]) -> list[str | None]:
    """Dirt: every eleventh manufacturer is the empty string."""
    return ["" if row % 11 == 10 else name for row, name in enumerate(names)]


def _statuses(
    assets: Assets, episodes: Episodes, serviced: Booleans, created: Floats, clock: Clock
) -> tuple[np.ndarray, Floats]:
    """Return each asset's status at the end of the grid, and the hour it was set."""
    now = episodes.where(episodes.begin < clock.hours)
    failing = (now.event <= clock.hours) & (now.restored > clock.hours) & (now.kind == FAILED)
    ailing = (now.begin < clock.hours - 48) & (now.event > clock.hours) & (now.strength > 0)
    status = np.full(len(assets), "operational", dtype="U14")
    changed = created.copy()
    past = now.restored <= clock.hours
    np.maximum.at(changed, now.asset[past], now.restored[past])
    for rows, name, since in ((ailing, "degraded", now.begin + 24), (failing, "down", now.event)):
        status[now.asset[rows]] = name
        changed[now.asset[rows]] = since[rows]
    status[serviced] = "maintenance"
    changed[serviced] = clock.hours - 1
    gone = ~np.isnan(assets.removed)
    status[gone], changed[gone] = "decommissioned", assets.removed[gone]
    return status, np.minimum(changed, clock.hours)


def _spoil_work_orders(columns: dict[str, object], orders: WorkOrders, clock: Clock) -> dict[str, object]:
    """Dirt: an end before its start (and before the creation), and ends in the future."""
    done = np.flatnonzero(~np.isnan(orders.done) & (orders.asset >= 0))
    backwards, future, planned = done[::97], done[2::301], done[1::97]
    created = columns["created_at"]
    columns["actual_start"][backwards] = created[backwards]
    columns["actual_end"][backwards] = created[backwards] - np.timedelta64(30, "h")
    columns["actual_end"][future] = np.datetime64((clock.end + timedelta(days=365)).replace(tzinfo=None), "us")
    columns["scheduled_start"][planned] = columns["created_at"][planned] + np.timedelta64(72, "h")
    columns["scheduled_end"][planned] = columns["created_at"][planned] + np.timedelta64(24, "h")
    return columns


def _spoil_alerts(columns: dict[str, object]) -> dict[str, object]:
    """Dirt: a logger whose clock was a year ahead, and alerts that lost their asset."""
    columns["triggered_at"][5::997] += np.timedelta64(365, "D")
    columns["asset_id"][3::211] = None
    return columns


def _health_scores(assets: Assets, episodes: Episodes, clock: Clock, seed: int) -> dict[str, object]:
    """Return weekly scores of the few assets that somebody scores."""
    rng = stream(seed, "scores")
    scored = np.arange(1, len(assets), _SCORED_EVERY)
    asset = np.repeat(scored, max(1, int(clock.hours // 168)))
    hour = clock.hours - 20 - 168 * (np.arange(len(asset)) % max(1, int(clock.hours // 168)))
    ailing = (episodes.asset == asset[:, None]) & (episodes.begin < hour[:, None]) & (episodes.restored > hour[:, None])
    score = np.clip(rng.normal(88, 5, len(asset)) - 35 * ailing.any(axis=1), 5, 100).astype(int)
    alive = (hour > np.maximum(assets.installed[asset], 0)) & ~(hour > assets.removed[asset])
    count = int(alive.sum())
    return {
        "id": identifiers("score", count),
        "asset_id": assets.id[asset[alive]],
        "score": score[alive],
        "category": np.where(score >= 80, "good", np.where(score >= 60, "fair", "poor"))[alive],
        "calculated_at": clock.instants(hour[alive]),
        "created_at": clock.instants(hour[alive]),
    }


def _turbines(assets: Assets, megawatts: Floats, clock: Clock) -> dict[str, object]:
    rows = np.flatnonzero(~np.isnan(megawatts))
    return {
        "id": identifiers("turbine", len(rows)),
        "asset_id": assets.id[rows],
        "rated_power_mw": [Decimal(f"{value:.3f}") for value in megawatts[rows]],
        "hub_height_m": np.where(megawatts[rows] < 2.2, 80.0, 98.0),
        "created_at": _first_known(clock, len(rows)),
        "updated_at": _first_known(clock, len(rows)),
    }

"""What the maintenance crew does: work orders and their tasks."""

from dataclasses import dataclass

import numpy as np

from dev.fleet.catalog import SITES, Assets, identifiers, tenant_id
from dev.fleet.clock import Booleans, Clock, Floats, Integers, stream
from dev.fleet.failures import CAUGHT, FAILED, Episodes

_CREW = 8
_TASKS = ("Isolate and lock out", "Inspect and measure", "Repair or replace", "Return to service")
_INTERVAL_HOURS = {"inverter": 120 * 24, "turbine": 90 * 24, "transformer": 180 * 24}
_OTHER_INTERVAL_HOURS = 270 * 24
_NO_ASSET = -1
_SERVICED_LAST = 4


@dataclass(frozen=True)
class WorkOrders:
    """Work orders as columns; every array has the shape (work orders,), times in hours, NaN for none."""

    asset: Integers
    """Row of `Assets`, or -1: a work order of the site alone."""
    site: Integers
    title: np.ndarray
    type: np.ndarray
    priority: np.ndarray
    created: Floats
    scheduled_start: Floats
    scheduled_end: Floats
    started: Floats
    done: Floats
    """Completion, or NaN: never."""
    status: np.ndarray
    """As of the end of the grid; empty until `_as_of_end` has set it."""


def plan_preventive(assets: Assets, clock: Clock, seed: int) -> WorkOrders:
    """Return the preventive work orders of the schedule, from before the grid to a month after its end."""
    rng = stream(seed, "preventive")
    interval = np.array([_INTERVAL_HOURS.get(kind, _OTHER_INTERVAL_HOURS) for kind in assets.type])[:, None]
    visits = np.arange(int((clock.hours + 720) // interval.min()) + 2)[None, :]
    phase = rng.random((len(assets), 1))
    # Whatever the seed, one asset is in service on the last day.
    phase[_SERVICED_LAST] = ((clock.hours - 17) / interval[_SERVICED_LAST] + 0.5) % 1
    due = interval * (visits + phase - 0.5)
    # Crews work by day: visits begin at 07:00 UTC.
    due = np.round(due / 24) * 24 + 7
    asset, visit = np.nonzero((due > assets.installed[:, None] + 720) & (due < clock.hours + 720))
    due = due[asset, visit]
    # What was due on the last day is not late yet.
    past = due < clock.hours - 24
    late = np.where(past & (rng.random(len(due)) < 0.2), rng.uniform(24, 12 * 24, len(due)), 0)
    done = due + late + rng.uniform(3, 9, len(due))
    done[past & (rng.random(len(due)) < 0.04)] = np.nan
    return _orders(
        assets,
        asset,
        title="Scheduled service",
        type="preventive",
        priority=rng.choice(["low", "medium"], len(due), p=[0.3, 0.7]),
        created=due - rng.uniform(14, 28, len(due)) * 24,
        scheduled_start=due,
        scheduled_end=due + 10,
        started=done - rng.uniform(2, 7, len(due)),
        done=done,
    )


def standstill(preventive: WorkOrders, assets: Assets, clock: Clock) -> Booleans:
    """Return in which buckets an asset is stopped for service. Shape (assets, buckets)."""
    stopped = np.zeros((len(assets), clock.buckets + 1), dtype=np.int64)
    begin = clock.bucket_of(preventive.started)
    end = np.maximum(clock.bucket_of(preventive.done), begin)
    np.add.at(stopped, (preventive.asset, begin), 1)
    np.add.at(stopped, (preventive.asset, end), -1)
    return np.cumsum(stopped, axis=1)[:, :-1] > 0


def all_work_orders(assets: Assets, episodes: Episodes, preventive: WorkOrders, clock: Clock, seed: int) -> WorkOrders:
    """Return every work order that exists at the end of the grid, by creation."""
    rng = stream(seed, "work orders")
    parts = [
        preventive,
        _corrective(assets, episodes, rng),
        _predictive(assets, episodes, rng),
        _inspections(assets, clock, rng),
        _notes(assets, clock, rng),
        _of_the_site(clock, rng),
    ]
    orders = _joined(parts)
    order = np.argsort(orders.created, kind="stable")
    orders = _chosen(orders, order)
    removed = np.where(orders.asset >= 0, assets.removed[orders.asset], np.nan)
    exists = (orders.created >= 0) & (orders.created < np.fmin(removed, clock.hours))
    return _as_of_end(_chosen(orders, exists), clock, rng)


def _corrective(assets: Assets, episodes: Episodes, rng: np.random.Generator) -> WorkOrders:
    failures = episodes.where(episodes.kind == FAILED)
    count = len(failures)
    created = failures.event + rng.uniform(0.05, 1.5, count)
    # What takes days to mend is serious enough for an emergency more often.
    emergency = rng.random(count) < np.where(failures.of_mode("repair_hours") >= 48, 0.3, 0.15)
    return _orders(
        assets,
        failures.asset,
        title=np.char.add(failures.of_mode("title"), " failure"),
        type=np.where(emergency, "emergency", "corrective"),
        priority=np.where(emergency, "critical", rng.choice(["high", "medium", "low"], count, p=[0.5, 0.4, 0.1])),
        created=created,
        scheduled_start=np.where(rng.random(count) < 0.5, created + 4, np.nan),
        scheduled_end=created + rng.choice([24.0, 48.0, 120.0], count),
        started=created + 0.3 * (failures.restored - created),
        done=np.maximum(failures.restored, created + 0.5),
    )


def _predictive(assets: Assets, episodes: Episodes, rng: np.random.Generator) -> WorkOrders:
    caught = episodes.where((episodes.kind == CAUGHT) & (episodes.strength > 0))
    count = len(caught)
    created = caught.event - (caught.event - caught.begin) * rng.uniform(0.05, 0.4, count)
    return _orders(
        assets,
        caught.asset,
        title=np.char.add(caught.of_mode("title"), " wear found by monitoring"),
        type="predictive",
        priority=rng.choice(["high", "medium"], count),
        created=created,
        scheduled_start=caught.event,
        scheduled_end=caught.event + 24,
        started=caught.event,
        done=caught.restored,
    )


def _inspections(assets: Assets, clock: Clock, rng: np.random.Generator) -> WorkOrders:
    asset = np.repeat(np.arange(len(assets)), rng.poisson(2.5 * clock.hours / 8_766, len(assets)))
    created = np.maximum(rng.uniform(0, clock.hours, len(asset)), assets.installed[asset])
    done = created + rng.lognormal(4.3, 0.8, len(asset))
    done[rng.random(len(asset)) < 0.05] = np.nan
    return _orders(
        assets,
        asset,
        title="Visual inspection",
        type="inspection",
        priority="low",
        created=created,
        scheduled_end=created + 7 * 24,
        started=np.maximum(done - 2, created),
        done=done,
    )


def _notes(assets: Assets, clock: Clock, rng: np.random.Generator) -> WorkOrders:
    """Return reported needs that stay drafts, and work orders that were cancelled."""
    asset = np.repeat(np.arange(len(assets)), rng.poisson(1.2 * clock.hours / 8_766, len(assets)))
    asset = np.concatenate([asset, [0, 1, 1]])
    status = np.concatenate([rng.choice(["draft", "cancelled"], len(asset) - 3), ["draft", "cancelled", "draft"]])
    created = np.maximum(rng.uniform(0, 0.95 * clock.hours, len(asset)), assets.installed[asset])
    kinds = rng.choice(["corrective", "preventive", "inspection"], len(asset), p=[0.2, 0.4, 0.4])
    return _orders(assets, asset, title="Noise reported", type=kinds, priority="low", created=created, status=status)


def _of_the_site(clock: Clock, rng: np.random.Generator) -> WorkOrders:
    """Return work orders without an asset: access roads, fences, mowing."""
    site = np.repeat(np.arange(len(SITES)), 1 + rng.poisson(3 * clock.hours / 8_766, len(SITES)))
    created = rng.uniform(0, 0.9 * clock.hours, len(site))
    return _orders(
        None,
        np.full(len(site), _NO_ASSET),
        site=site,
        title="Mow and check the fence",
        type="preventive",
        priority="low",
        created=created,
        scheduled_end=created + 14 * 24,
        done=created + rng.uniform(24, 20 * 24, len(site)),
    )


def _orders(assets: Assets | None, asset: Integers, **columns: object) -> WorkOrders:
    """Fill a `WorkOrders` up: scalars are repeated, times that are not given are NaN, texts empty."""
    if assets is not None:
        columns["site"] = assets.site[asset]
    times = ("created", "scheduled_start", "scheduled_end", "started", "done")
    filled = {name: columns.get(name, np.nan if name in times else "") for name in WorkOrders.__annotations__}
    filled["asset"] = asset
    return WorkOrders(**{name: np.broadcast_to(value, asset.shape).copy() for name, value in filled.items()})


def _joined(parts: list[WorkOrders]) -> WorkOrders:
    return WorkOrders(
        **{name: np.concatenate([vars(part)[name] for part in parts]) for name in WorkOrders.__annotations__}
    )


def _chosen(orders: WorkOrders, rows: Integers | Booleans) -> WorkOrders:
    return WorkOrders(**{name: column[rows] for name, column in vars(orders).items()})


def _as_of_end(orders: WorkOrders, clock: Clock, rng: np.random.Generator) -> WorkOrders:
    """Set each status as it stands at the end of the grid, and forget what lies after it."""
    done = np.where(orders.done <= clock.hours, orders.done, np.nan)
    started = np.where(orders.started <= clock.hours, orders.started, np.nan)
    count = len(done)
    pending = np.where(orders.scheduled_start > clock.hours, "scheduled", rng.choice(["open", "on_hold"], count))
    status = np.select(
        [orders.status != "", ~np.isnan(done), ~np.isnan(started)],
        [orders.status, np.where(rng.random(count) < 0.4, "closed", "completed"), "in_progress"],
        pending,
    )
    return WorkOrders(**(vars(orders) | {"done": done, "started": started, "status": status}))


@dataclass(frozen=True)
class Bookkeeping:
    """How far the crew has written down what it did."""

    actual_start: Floats
    actual_end: Floats
    updated: Floats
    tasks_of: Integers
    """Row of `WorkOrders` of each task."""
    task_order: Integers
    task_done: Floats
    """Completion of each task, NaN while open."""


def keep_books(orders: WorkOrders, clock: Clock, seed: int) -> Bookkeeping:
    """Decide where each completion is on record: `actual_end`, the tasks, or only `updated_at`."""
    rng = stream(seed, "books")
    count = len(orders.done)
    done = ~np.isnan(orders.done)
    way = rng.choice(3, count, p=[0.4, 0.35, 0.25])
    by_field, by_tasks = done & (way == 0), done & (way == 1)
    later = orders.done + rng.exponential(20, count)
    untouched = orders.created + rng.exponential(6, count)
    updated = np.select(
        [by_field | by_tasks, done, ~np.isnan(orders.started)],
        [later, orders.done, orders.started],
        untouched,
    )

    tasks = np.where(by_tasks, rng.integers(1, 5, count), np.where(done & ~by_field, 0, rng.integers(0, 3, count)))
    tasks_of = np.repeat(np.arange(count), tasks)
    task_order = np.arange(len(tasks_of)) - np.repeat(np.cumsum(tasks) - tasks, tasks) + 1
    begin = np.where(np.isnan(orders.started), orders.created, orders.started)[tasks_of]
    share = task_order / tasks[tasks_of]
    return Bookkeeping(
        actual_start=np.where(by_field, orders.started, np.nan),
        actual_end=np.where(by_field, orders.done, np.nan),
        updated=np.minimum(updated, clock.hours),
        tasks_of=tasks_of,
        task_order=task_order,
        task_done=begin + share * (orders.done[tasks_of] - begin),
    )


def work_order_columns(orders: WorkOrders, books: Bookkeeping, assets: Assets, clock: Clock) -> dict[str, object]:
    """Return the columns of the PostgreSQL table ``work_orders``."""
    count = len(orders.done)
    users = identifiers("user", _CREW)
    number = np.arange(count)
    ids = np.append(assets.id, "")[orders.asset]
    return {
        "id": identifiers("work order", count),
        "tenant_id": np.full(count, tenant_id()),
        "site_id": np.array([site.id for site in SITES])[orders.site],
        "asset_id": np.where(orders.asset == _NO_ASSET, None, ids.astype(object)),
        "work_order_id": np.array([f"WO-{n + 1:06d}" for n in number]),
        "title": orders.title,
        "type": orders.type,
        "priority": orders.priority,
        "status": orders.status,
        "assigned_to": np.where(orders.status == "draft", None, users[number % _CREW].astype(object)),
        "created_by": users[number * 3 % _CREW],
        "scheduled_start": clock.instants(orders.scheduled_start),
        "scheduled_end": clock.instants(orders.scheduled_end),
        "actual_start": clock.instants(books.actual_start),
        "actual_end": clock.instants(books.actual_end),
        "version": 1 + number % 4,
        "metadata": np.full(count, "{}"),
        "created_at": clock.instants(orders.created),
        "updated_at": clock.instants(books.updated),
    }


def task_columns(orders: WorkOrders, books: Bookkeeping, work_order_ids: np.ndarray, clock: Clock) -> dict[str, object]:
    """Return the columns of the PostgreSQL table ``work_order_tasks``."""
    count = len(books.tasks_of)
    created = orders.created[books.tasks_of]
    return {
        "id": identifiers("task", count),
        "work_order_id": work_order_ids[books.tasks_of],
        "task_order": books.task_order,
        "title": np.array(_TASKS)[books.task_order - 1] if count else np.array([], dtype=str),
        "is_completed": ~np.isnan(books.task_done),
        "completed_at": clock.instants(books.task_done),
        "created_at": clock.instants(created),
        "updated_at": clock.instants(np.fmax(created, np.nan_to_num(books.task_done, nan=-np.inf))),
    }

"""No-leak: whatever is added, changed or deleted after T, every row as of T stays as it is, to the last digit.

What dCMMS keeps no history of is left alone, as the catalogue excepts it: columns without a date, a status whose only
date is `updated_at`, and what that date decides. A work order that is closed without `actual_end` was completed with
the latest task until its `updated_at`: where that is after T, so are the tasks that may change.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given
from hypothesis import strategies as st

from dev.servers import PostgresServer
from tests.both_variants import BothVariants, open_both_variants
from tests.dcmms import bucket
from tests.fleets import (
    ASSET_STATUSES,
    BATCH,
    EPOCH,
    FLEETS,
    INFINITIES,
    METRICS,
    MICROSECOND,
    PRIORITIES,
    RULES,
    SECOND,
    SEVERITIES,
    WORK_ORDER_STATUSES,
    WORK_ORDER_TYPES,
    Batch,
    batches,
    generated,
)
from tests.reference import DAY, Fleet, Instant, Row, by, completed_at, known

COMPLETED = ("completed", "closed")


@pytest.fixture(scope="module")
def databases(postgres: PostgresServer, clickhouse: Client, clickhouse_directory: Path) -> Iterator[BothVariants]:
    with open_both_variants(postgres, clickhouse, clickhouse_directory) as both:
        yield both


@pytest.mark.timeout(1800)
def test_what_happens_after_t_changes_no_row_as_of_t(
    databases: BothVariants, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[str] = Counter()

    @given(batches(), st.integers(0, 2**32 - 1))
    @generated(FLEETS)
    def compare(batch: Batch, seed: int) -> None:
        as_of, later = batch.instants[0], Later(batch, seed)
        databases.load(batch.fleets)
        before = databases.extract(as_of, batch.width)
        databases.load([later.fleet(fleet) for fleet in batch.fleets])
        assert databases.extract(as_of, batch.width) == before, f"after T = {as_of}: {dict(later.edits)}"
        seen.update(later.edits)
        seen["fleets"] += BATCH

    compare()
    with capsys.disabled():
        print("\n" + ", ".join(f"{count:,} {what}" for what, count in seen.items()), end=" ")  # noqa: T201
    assert seen["fleets"] >= FLEETS


class Later:
    """What becomes of the fleets of a batch after T; the first of its instants is T, `seed` decides what happens."""

    def __init__(self, batch: Batch, seed: int) -> None:
        self.as_of = batch.instants[0]
        self.width = batch.width
        self.edits: Counter[str] = Counter()
        self._random = Random(seed)
        self._keys = 0

    def fleet(self, fleet: Fleet) -> Fleet:
        """Return the fleet with facts after T deleted, changed and added, counted in `edits`."""
        assets = [self.asset(row) for row in self.survivors(fleet.assets, "created_at", "assets")]
        survivors = self.survivors(fleet.work_orders, "created_at", "work orders")
        tasks = [*self.tasks(fleet.tasks, survivors), *self.later_tasks(survivors)]
        work_orders = [self.work_order(row, tasks) for row in survivors]
        changed = replace(
            fleet,
            assets=assets + self.some(assets, self.later_asset, "assets added"),
            work_orders=work_orders + self.some(work_orders, self.later_work_order, "work orders added"),
            tasks=tasks,
            alerts=[self.alert(row) for row in self.survivors(fleet.alerts, "triggered_at", "alerts")],
            scores=self.survivors(fleet.scores, "calculated_at", "scores"),
            buckets=[self.bucket(row) for row in fleet.buckets if not self.is_after_t(row) or self.chance(2)],
        )
        changed.alerts.extend(self.some(assets, self.later_alert, "alerts added"))
        changed.scores.extend(self.some(assets, self.later_score, "scores added"))
        for asset in changed.assets:
            changed.buckets.extend(self.later_buckets(asset))
        return changed

    # ---- chance

    def chance(self, one_in: int) -> bool:
        return self._random.randrange(one_in) == 0

    def instant(self, after: datetime | None = None) -> datetime:
        """Return an instant after T, or `after` another one, often just after it."""
        delays = (MICROSECOND, SECOND, timedelta(hours=5), DAY, 8 * DAY, 31 * DAY, 400 * DAY)
        return (after or self.as_of) + self._random.choice(delays)

    def is_later(self, instant: Instant) -> bool:
        """Tell whether something happened after T; what is missing or infinite did not."""
        found = known(instant)
        return found is not None and found > self.as_of

    def key(self) -> UUID:
        self._keys += 1
        return UUID(f"ffffffff-0000-4000-8000-{self._keys:012x}")

    def some(self, rows: list[Row], make: Callable[[Row], Row], what: str) -> list[Row]:
        """Return a new row for some of `rows`."""
        made = [make(row) for row in rows if self.chance(2)]
        self.edits[what] += len(made)
        return made

    def survivors(self, rows: list[Row], date: str, what: str) -> list[Row]:
        """Return the rows without some of those that are dated after T."""
        kept = [row for row in rows if not self.is_later(row[date]) or self.chance(2)]
        self.edits[f"{what} deleted"] += len(rows) - len(kept)
        return kept

    def edited(self, row: Row, what: str, **columns: object) -> Row:
        self.edits[what] += 1
        return row | columns

    # ---- assets

    def asset(self, row: Row) -> Row:
        """Change an asset that came after T, or the status of one that was edited after T."""
        if self.is_later(row["created_at"]):
            return self.edited(row, "assets changed", created_at=self.instant(), type="other", installation_date=None)
        if self.is_later(row["updated_at"]):
            status = self._random.choice(ASSET_STATUSES)
            return self.edited(row, "assets changed", status=status, updated_at=self.instant())
        return row

    def later_asset(self, row: Row) -> Row:
        created = self.instant()
        return row | {"id": self.key(), "created_at": created, "updated_at": created}

    # ---- work orders and tasks

    def work_order(self, row: Row, tasks: list[Row]) -> Row:
        """Change what has a date after T, and edit what no other date than `updated_at` depends on."""
        if self.is_later(row["created_at"]):
            return self.edited(row, "work orders changed", **self.anything(), created_at=self.instant())
        if not by(row["scheduled_end"], self.as_of):
            row = row | {"scheduled_end": self._random.choice((None, *INFINITIES, self.instant()))}
        if row["status"] == "cancelled" and by(row["updated_at"], self.as_of):
            return row
        completed = completed_at(row, tasks)
        if not by(completed, self.as_of):
            return self.edited(row, "work orders closed or reopened", **self.outcome(row, tasks))
        edit = {"updated_at": self.instant()}
        if completed_at(row | edit, tasks) == completed:
            return self.edited(row, "work orders edited", **edit)
        return row

    def outcome(self, row: Row, tasks: list[Row]) -> Row:
        """Return what an open work order may become after T: closed, cancelled, or still open."""
        status = self._random.choice(WORK_ORDER_STATUSES)
        ended = self.instant()
        if status in COMPLETED and self.chance(2):
            return {"status": status, "actual_end": ended, "updated_at": ended}
        if status in COMPLETED and completed_at(row | {"status": status, "updated_at": ended}, tasks) <= self.as_of:
            status = "in_progress"  # its tasks or its end were done before T: closed now, it would be since then
        return {"status": status, "updated_at": ended}

    def anything(self) -> Row:
        return {
            "type": self._random.choice(WORK_ORDER_TYPES),
            "priority": self._random.choice(PRIORITIES),
            "status": self._random.choice(WORK_ORDER_STATUSES),
            "actual_end": self._random.choice((None, self.instant(), self.as_of - DAY)),
            "scheduled_end": self._random.choice((None, self.instant(), self.as_of - DAY)),
        }

    def later_work_order(self, row: Row) -> Row:
        created = self.instant()
        return row | self.anything() | {"id": self.key(), "created_at": created, "updated_at": self.instant()}

    def tasks(self, tasks: list[Row], work_orders: list[Row]) -> list[Row]:
        """Change and delete tasks done after T, and do some that were not done."""
        last = {row["id"]: self.last_of_tasks(row) for row in work_orders}
        changed = []
        for task in tasks:
            if task["work_order_id"] not in last:
                continue
            after = last[task["work_order_id"]]
            if by(task["completed_at"], after):
                changed.append(task)
            elif self.chance(2):
                changed.append(self.edited(task, "tasks changed", completed_at=self.instant(after)))
            else:
                self.edits["tasks deleted"] += 1
        return changed

    def later_tasks(self, work_orders: list[Row]) -> list[Row]:
        return self.some(
            work_orders,
            lambda row: {
                "work_order_id": row["id"], "task_order": 9, "completed_at": self.instant(self.last_of_tasks(row)),
            },
            "tasks added",
        )  # fmt: skip

    def last_of_tasks(self, work_order: Row) -> datetime:
        """Return T, or until when a task may tell when the work order was completed, where that is later."""
        is_told_by_tasks = work_order["status"] in COMPLETED and known(work_order["actual_end"]) is None
        return work_order["updated_at"] if is_told_by_tasks and self.is_later(work_order["updated_at"]) else self.as_of

    # ---- alerts and scores

    def alert(self, row: Row) -> Row:
        """Change an alert of after T; of an earlier one, only what became of it."""
        if self.is_later(row["triggered_at"]):
            rule = self._random.choice(RULES)
            return self.edited(row, "alerts changed", triggered_at=self.instant(), severity="critical", rule_id=rule)
        if by(row["resolved_at"], self.as_of):
            return row
        resolved = self._random.choice((None, *INFINITIES, self.instant()))
        return self.edited(row, "alerts resolved", status="resolved", resolved_at=resolved)

    def later_alert(self, asset: Row) -> Row:
        columns = {"asset_id": asset["id"], "tenant_id": asset["tenant_id"], "site_id": asset["site_id"]}
        severity = self._random.choice(SEVERITIES)
        return columns | {
            "title": "Alert", "severity": severity, "status": "active", "rule_id": self._random.choice(RULES),
            "triggered_at": self.instant(), "resolved_at": None,
        }  # fmt: skip

    def later_score(self, asset: Row) -> Row:
        return {"asset_id": asset["id"], "score": 1, "category": "poor", "calculated_at": self.instant()}

    # ---- telemetry

    def is_after_t(self, row: Row) -> bool:
        """Tell whether a bucket ends after T."""
        return row["time_bucket"] + self.width > self.as_of

    def bucket(self, row: Row) -> Row:
        """Change a bucket that ends after T."""
        if not self.is_after_t(row):
            return row
        return self.edited(row, "buckets changed", avg_value=1e6, sum_value=1e9, max_value=1e6, anomaly_count=1000)

    def later_buckets(self, asset: Row) -> list[Row]:
        """Return buckets that end after T, the first of them begins before or at T; the asset may have moved."""
        first = (self.as_of - EPOCH) // self.width
        metrics = self._random.sample(METRICS, self._random.randrange(3))
        starts = [EPOCH + (first + number) * self.width for number in (0, 1, 2, 300)]
        columns = {"tenant_id": asset["tenant_id"], "site_id": self._random.choice((asset["site_id"], self.key()))}
        rows = [
            bucket(asset["id"], metric, start, 1e6, anomaly_count=500, **columns)
            for metric in metrics
            for start in starts
        ]
        self.edits["buckets added"] += len(rows)
        return rows

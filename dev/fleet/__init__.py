"""The demo fleet: an invented solar, wind and hybrid fleet with everything dCMMS would hold about it.

One tenant and three sites, built from a seed: weather drives the machines, a hidden condition drives the
failures, and failures leave telemetry, alerts and work orders behind, with the dirt of real databases.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa

from dev.fleet.alarms import all_alarms
from dev.fleet.catalog import NOT_JSON, QUANTITIES, SITES, Assets, build_assets
from dev.fleet.clock import Clock
from dev.fleet.failures import Signs, hidden_condition, signs_of, simulate_episodes
from dev.fleet.maintenance import all_work_orders, keep_books, plan_preventive, standstill
from dev.fleet.records import postgres_tables
from dev.fleet.telemetry import SECOND_ALIAS, UNKNOWN_ASSET, telemetry_tables

__all__ = ["NOT_JSON", "SECOND_ALIAS", "SITES", "UNKNOWN_ASSET", "Fleet", "generate"]


@dataclass(frozen=True)
class Fleet:
    """What `dev.load.load_fleet` loads."""

    tables: dict[str, pa.Table]
    """PostgreSQL tables by name, in insert order, columns as in variant n."""
    clock: Clock
    """First and last instant, bucket width."""
    seed: int
    _assets: Assets
    _signs: Signs

    def telemetry(self) -> Iterator[pa.Table]:
        """Yield ``telemetry_aggregates`` in tables of a few hundred thousand rows, anew at each call.

        Rows are sorted by asset and time within a table, except for second copies of buckets at its end.
        """
        return telemetry_tables(self._assets, self._signs, self.clock, self.seed)

    @property
    def expected_telemetry_rows(self) -> int:
        """About how many rows `telemetry` yields: without gaps and second copies."""
        series = sum(int(self._assets.measures(quantity).sum()) for quantity in QUANTITIES)
        return (series + 2) * self.clock.buckets


def generate(
    *,
    seed: int = 7,
    assets: int = 60,
    days: int = 400,
    end: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    width_minutes: int = 60,
) -> Fleet:
    """Build the demo fleet; the same arguments give the same rows.

    Args:
        seed: of everything that is drawn; the ids of sites and assets do not depend on it.
        assets: number of assets on the three sites together.
        days: length of the history before `end`, d.
        end: last instant, with a time zone; rounded down to a whole bucket.
        width_minutes: length of a telemetry bucket, min.

    Raises:
        ValueError: fewer than 12 assets or 14 days, no zone, or a width that does not divide a day.
    """
    if days < 14:
        raise ValueError(f"days is {days}; a fleet has a history of at least 14")
    clock = Clock.ending(end, days, width_minutes)
    roster = build_assets(assets, clock, seed)
    condition = hidden_condition(roster, clock, seed)
    episodes = simulate_episodes(roster, condition, clock, seed)
    preventive = plan_preventive(roster, clock, seed)
    stopped = standstill(preventive, roster, clock)
    signs = signs_of(episodes, condition, clock, seed)
    signs = replace(signs, down=signs.down | stopped)
    orders = all_work_orders(roster, episodes, preventive, clock, seed)
    tables = postgres_tables(
        roster,
        episodes,
        stopped[:, -round(24 / clock.width_hours) :].any(axis=1),
        orders,
        keep_books(orders, clock, seed),
        all_alarms(roster, episodes, clock, seed),
        clock,
        seed,
    )
    return Fleet(tables, clock, seed, roster, signs)

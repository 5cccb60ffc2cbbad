"""Every feature of generated fleets, from the real databases of both schema variants, against the slow reference.

Each fleet is compared in all views and both variants; PROPERTY_FLEETS tells how many, see `tests.fleets`.
"""

import math
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given
from hypothesis import strategies as st

from dev.servers import PostgresServer
from pipeline.base.specs import SPECS
from tests.both_variants import CLICKHOUSE_VIEWS, POSTGRES_VIEWS, VARIANTS, BothVariants, Views, open_both_variants
from tests.fleets import BATCH, FLEETS, Batch, as_stored, batches, generated
from tests.reference import Fleet, Row, reference_features

FLOAT64 = {"installed_capacity_kw", "total_generation_kwh_7d", "total_generation_kwh_30d"}
# The product's sums of squares lose the last digits where the deviation is small beside the mean: with values up to
# 2,050 and 16 digits, an exact 0 may come out as sqrt(2050 ** 2 * 1e-16 * a few) = 5e-5 times a few.
STD_TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def databases(postgres: PostgresServer, clickhouse: Client, clickhouse_directory: Path) -> Iterator[BothVariants]:
    with open_both_variants(postgres, clickhouse, clickhouse_directory) as both:
        yield both


@pytest.mark.timeout(1800)
def test_every_feature_equals_the_reference(databases: BothVariants, capsys: pytest.CaptureFixture[str]) -> None:
    seen: Counter[str] = Counter()

    @given(batches())
    @generated(FLEETS)
    def compare(batch: Batch) -> None:
        databases.load(batch.fleets)
        for as_of in batch.instants:
            for variant, actual in databases.extract(as_of, batch.width).items():
                assert event_timestamps(actual) == {as_of}
                stored = [as_stored(fleet, variant) for fleet in batch.fleets]
                expected = reference_of(stored, as_of, batch.width)
                differences = list(differences_between(expected, actual))
                assert not differences, report(variant, as_of, batch.width, stored, differences)
                seen.update({f"rows of {view}": len(rows) for view, rows in expected.items()})
        seen["fleets"] += BATCH

    compare()
    with capsys.disabled():
        print("\n" + ", ".join(f"{count:,} {what}" for what, count in seen.items()), end=" ")  # noqa: T201
    assert seen["fleets"] >= FLEETS


@pytest.mark.timeout(1800)
def test_many_instants_equal_each_by_itself(databases: BothVariants) -> None:
    """A view has at many instants at once the rows that it has at each, at the edges of its windows too.

    Of the edges three at a time: a query for each by itself is what takes long.
    """
    edges = [timedelta(microseconds=1), *(timedelta(days=days) for days in (1, 7, 30, 90, 365, 372))]

    @given(batches(), st.lists(st.sampled_from(edges), min_size=3, max_size=3, unique=True))
    @generated(FLEETS)
    def compare(batch: Batch, back: list[timedelta]) -> None:
        databases.load(batch.fleets)
        instants = sorted({as_of - days for as_of in batch.instants for days in (timedelta(), *back)})
        for variant, view in product(VARIANTS, POSTGRES_VIEWS):
            together = databases.read_postgres(variant, view, instants)
            single = pa.concat_tables(databases.read_postgres(variant, view, [instant]) for instant in instants)
            assert together.equals(single), f"{view}, variant {variant}"
        last = batch.instants[0]
        instants = [last - timedelta(days=days) for days in (31, 8, 1, 0)]
        for view in {SPECS[view].rows_of for view in CLICKHOUSE_VIEWS}:  # one pass gives the rows of both
            together = databases.read_telemetry(view, instants, batch.width)
            single = pa.concat_tables(databases.read_telemetry(view, [instant], batch.width) for instant in instants)
            assert together.equals(single), view

    compare()


def event_timestamps(views: Views) -> set[datetime]:
    return {row["event_timestamp"] for rows in views.values() for row in rows.values()}


def reference_of(fleets: list[Fleet], as_of: datetime, width: timedelta) -> Views:
    """Return the expected rows of all fleets together, which know nothing of each other."""
    together: Views = {}
    for fleet in fleets:
        for view, rows in reference_features(fleet, as_of, int(width.total_seconds())).items():
            together.setdefault(view, {}).update(rows)
    return together


def differences_between(expected: Views, actual: Views) -> Iterator[tuple[str, str, str, Any, Any]]:
    """Yield (view, asset, feature, expected, actual) wherever the two differ in a row, a feature or a value."""
    for view, rows in expected.items():
        for asset_id in sorted(rows.keys() | actual[view].keys()):
            if asset_id not in rows or asset_id not in actual[view]:
                yield view, asset_id, "(row)", asset_id in rows, asset_id in actual[view]
                continue
            row = {column: value for column, value in actual[view][asset_id].items() if column not in KEYS}
            for feature in sorted(row.keys() | rows[asset_id].keys()):
                wanted, got = rows[asset_id].get(feature, "no such feature"), row.get(feature, "no such feature")
                if not same(feature, wanted, got):
                    yield view, asset_id, feature, wanted, got


KEYS = {"asset_id", "event_timestamp"}


def same(feature: str, expected: Any, actual: Any) -> bool:
    """Tell whether two values are equal: floats within their type's precision, everything else exactly."""
    if not (isinstance(expected, float | int) and isinstance(actual, float)):
        return expected == actual and type(expected) is type(actual)
    relative = 1e-9 if feature in FLOAT64 else 1e-6
    absolute = STD_TOLERANCE if feature.startswith("rolling_std") else 1e-9
    return math.isclose(expected, actual, rel_tol=relative, abs_tol=absolute)


def report(variant: str, as_of: datetime, width: timedelta, fleets: list[Fleet], differences: list[tuple]) -> str:
    """Return the differences and the source rows of the first asset that has one."""
    asset_id = differences[0][1]
    lines = [f"variant {variant}, T = {as_of}, width {width}; view, asset, feature, expected, actual:"]
    lines += [f"  {difference}" for difference in differences[:20]]
    for fleet in fleets:
        if any(str(asset["id"]) == asset_id for asset in fleet.assets):
            lines += [f"  {row}" for row in facts_of(fleet, asset_id)]
    return "\n".join(lines)


def facts_of(fleet: Fleet, asset_id: str) -> Iterator[Row]:
    """Yield the rows that mention an asset, and the tasks of its work orders."""
    work_orders = {row["id"] for row in fleet.work_orders if str(row["asset_id"]) == asset_id}
    yield from (row for row in fleet.assets if str(row["id"]) == asset_id)
    yield from (row for row in fleet.tasks if row["work_order_id"] in work_orders)
    for rows in (fleet.work_orders, fleet.alerts, fleet.scores, fleet.wind, fleet.buckets):
        yield from (row for row in rows if str(row["asset_id"]) == asset_id)

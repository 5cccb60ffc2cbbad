"""Real runs to failure in dCMMS's tables: 100 turbofans of C-MAPSS, FD001, until each fails.

Source: A. Saxena and K. Goebel, "Turbofan Engine Degradation Simulation Data Set", NASA Prognostics Center of
Excellence, 2008; a work of the United States government, which has no copyright there. `turbofans.csv.gz` holds
`train_FD001.txt` as it is, less the settings and 16 of the 21 sensors. *Real* means that others made it to judge
predictions by: each engine wears in its own way, under noise, until it fails. The engines themselves are simulated.

What is loaded, and how:

- An engine flies three times a day, eight hours each, and every hour is a bucket with the one reading that there is of
  its flight. Lives of 128 to 362 flights take 43 to 121 d.
- Five of the sensors stand for the five quantities that features know, chosen by their kind before anything was
  computed: the temperature behind the turbine (T50), the fan's speed (Nf) as frequency; and, for want of electricity,
  the fuel flow (phi) as power, the compressor's pressure (P30) as voltage, and the cooling air (W31) as current.
- The failure is a corrective work order at the end of the last flight, and the engine leaves the fleet with it.
- The source has neither alarms nor maintenance nor the age of an engine, and none are made up.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pandas as pd
import pyarrow as pa

FILE = Path(__file__).with_name("turbofans.csv.gz")
START = datetime(2025, 1, 1, tzinfo=UTC)
"""The first flight of all engines."""

HOURS_PER_FLIGHT = 8
_KELVIN_PER_RANKINE = 5 / 9
_SECONDS_PER_MINUTE = 60
_NAMESPACE = UUID("4f4fb0f5-3a5c-5a6b-8e1e-2f2d7a1c9b60")
_TENANT, _SITE = uuid5(_NAMESPACE, "tenant"), uuid5(_NAMESPACE, "site")
_INSTANT = pa.timestamp("us", "UTC")


class Turbofans:
    """The engines as `dev.load.load_fleet` takes a fleet: tables of PostgreSQL, and telemetry."""

    def __init__(self) -> None:
        self._flights = pd.read_csv(FILE)
        self.tables = _tables(self._flights)

    @property
    def expected_telemetry_rows(self) -> int:
        """How many rows `telemetry` yields."""
        return 5 * HOURS_PER_FLIGHT * len(self._flights)

    def telemetry(self) -> Iterator[pa.Table]:
        """Yield the stored columns of `telemetry_aggregates`, a table per quantity."""
        hours = self._flights.loc[self._flights.index.repeat(HOURS_PER_FLIGHT)]
        bucket = _after(hours.groupby("unit").cumcount())
        averages = {
            "temperature_c": hours["T50"] * _KELVIN_PER_RANKINE - 273.15,
            "frequency_hz": hours["Nf"] / _SECONDS_PER_MINUTE,
            "power_kw": hours["phi"],
            "voltage_v": hours["P30"],
            "current_a": hours["W31"],
        }
        ids = {unit: asset_id(unit).bytes for unit in hours["unit"].unique()}
        keys = {
            "asset_id": pa.array(hours["unit"].map(ids), pa.binary(16)),
            "tenant_id": pa.repeat(pa.scalar(_TENANT.bytes, pa.binary(16)), len(hours)),
            "site_id": pa.repeat(pa.scalar(_SITE.bytes, pa.binary(16)), len(hours)),
            "time_bucket": pa.array(bucket).cast(pa.timestamp("s", "UTC")),
            "count": pa.repeat(pa.scalar(1, pa.uint32()), len(hours)),
            "stddev_value": np.zeros(len(hours)),
            "anomaly_count": pa.repeat(pa.scalar(0, pa.uint32()), len(hours)),
        }
        of_one_sample = ("avg_value", "min_value", "max_value", "sum_value", "p50_value", "p95_value", "p99_value")
        for metric, values in averages.items():
            metrics = {"metric_name": pa.repeat(metric, len(hours))}
            yield pa.table(keys | metrics | dict.fromkeys(of_one_sample, values.to_numpy()))


def asset_id(unit: int) -> UUID:
    """Return the `assets.id` of an engine, from its number in the source."""
    return uuid5(_NAMESPACE, f"engine {unit}")


def _after(hours: pd.Series) -> pd.Series:
    """Return the instants, without zone in UTC, so many hours after the start."""
    return pd.Timestamp(START).tz_localize(None) + pd.to_timedelta(hours, unit="h")


def _tables(flights: pd.DataFrame) -> dict[str, pa.Table]:
    lives = flights.groupby("unit")["cycle"].max()
    engines = [str(asset_id(unit)) for unit in lives.index]
    failed = pa.array(_after(lives * HOURS_PER_FLIGHT)).cast(_INSTANT)
    started = pa.repeat(pa.scalar(START, _INSTANT), len(lives))
    owner = {name: pa.repeat(str(value), len(lives)) for name, value in (("tenant_id", _TENANT), ("site_id", _SITE))}
    one = {"created_at": started[:1], "updated_at": started[:1]}
    return {
        "tenants": pa.table({"id": [str(_TENANT)], "tenant_id": ["C-MAPSS"], "name": ["FD001"]} | one),
        "sites": pa.table(
            {"id": [str(_SITE)], "tenant_id": [str(_TENANT)], "site_id": ["FD001"], "name": ["C-MAPSS FD001"]}
            | {"type": ["turbofans"]}
            | one
        ),
        "assets": pa.table(
            {"id": engines, "asset_id": [f"engine {unit}" for unit in lives.index]}
            | owner
            | {"type": pa.repeat("turbine", len(lives)), "status": pa.repeat("decommissioned", len(lives))}
            | {"created_at": started, "updated_at": failed}
        ),
        "work_orders": pa.table(
            {"id": [str(uuid5(_NAMESPACE, f"failure of {unit}")) for unit in lives.index], "asset_id": engines}
            | owner
            | {"title": pa.repeat("failed", len(lives)), "type": pa.repeat("corrective", len(lives))}
            | {"status": pa.repeat("open", len(lives)), "created_at": failed, "updated_at": failed}
        ),
    }

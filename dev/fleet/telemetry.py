"""Telemetry of one site: physics per bucket, then the statistics that dCMMS stores."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dev.fleet.catalog import QUANTITIES, SITES, Assets, identifier, tenant_id
from dev.fleet.clock import Booleans, Clock, Floats, Integers, autoregressive, stream
from dev.fleet.failures import Signs
from dev.fleet.weather import Weather, simulate

ROWS_PER_TABLE = 400_000
SAMPLES_PER_HOUR = 60
SECOND_ALIAS = "active_power_kw"
"""The other name under which the first inverter reports its power a second time."""
UNKNOWN_ASSET = identifier("asset", "SKA/WTG-99")
"""A turbine that ClickHouse has and PostgreSQL does not."""

SCHEMA = pa.schema(
    [
        ("asset_id", pa.dictionary(pa.int32(), pa.string())),
        ("tenant_id", pa.dictionary(pa.int32(), pa.string())),
        ("site_id", pa.dictionary(pa.int32(), pa.string())),
        ("metric_name", pa.dictionary(pa.int32(), pa.string())),
        ("time_bucket", pa.timestamp("s", "UTC")),
        ("avg_value", pa.float64()),
        ("min_value", pa.float64()),
        ("max_value", pa.float64()),
        ("sum_value", pa.float64()),
        ("count", pa.uint32()),
        ("stddev_value", pa.float64()),
        ("p50_value", pa.float64()),
        ("p95_value", pa.float64()),
        ("p99_value", pa.float64()),
        ("anomaly_count", pa.uint32()),
    ]
)


@dataclass(frozen=True)
class _Physics:
    """Bucket means of a site's assets; every array has the shape (assets, buckets)."""

    power: Floats
    """kW."""
    rated: Floats
    """Largest power, kW; shape (assets, 1)."""
    voltage: Floats
    """V."""
    current: Floats
    """A."""
    temperature: Floats
    """°C."""
    frequency: Floats
    """Hz."""
    variability: Floats
    """Standard deviation of the raw power samples within a bucket, kW."""


def telemetry_tables(assets: Assets, signs: Signs, clock: Clock, seed: int) -> Iterator[pa.Table]:
    """Yield the telemetry by site and quantity, in tables of about `ROWS_PER_TABLE` rows at most."""
    group = max(1, ROWS_PER_TABLE // clock.buckets)
    frequency = _grid_frequency(clock, seed)
    for index, site in enumerate(SITES):
        members = np.flatnonzero(assets.site == index)
        weather = simulate(site.climate, clock, seed, site.tag)
        here = Signs(**{name: column[members] for name, column in vars(signs).items()})
        physics = _physics(assets, members, weather, here, frequency, clock, stream(seed, "physics", site.tag))
        reported = _reported(assets, members, here, clock, stream(seed, "gaps", site.tag))
        for quantity in QUANTITIES:
            rng = stream(seed, "samples", site.tag, quantity)
            measuring = np.flatnonzero(assets.measures(quantity)[members])
            for rows in np.array_split(measuring, -(-len(measuring) // group)) if len(measuring) else ():
                yield _table(
                    assets.id[members[rows]],
                    site.id,
                    site.aliases[quantity],
                    _statistics(physics, quantity, rows, here, rng),
                    reported[rows],
                    clock,
                    rng,
                )
        yield from _strays(index, assets.id[members[:1]], physics, here, reported[:1], clock, seed)


def _strays(
    index: int,
    first: np.ndarray,
    physics: _Physics,
    signs: Signs,
    reported: Booleans,
    clock: Clock,
    seed: int,
) -> Iterator[pa.Table]:
    """Yield what should not be: a second logger's power, and an asset that PostgreSQL does not know."""
    rng = stream(seed, "strays", SITES[index].tag)
    power = _statistics(physics, "power", np.array([0]), signs, rng)
    if index == 0:
        yield _table(first, SITES[0].id, SECOND_ALIAS, power, reported, clock, rng)
    if index == 1:
        yield _table(np.array([UNKNOWN_ASSET]), SITES[1].id, SITES[1].aliases["power"], power, reported, clock, rng)


def _physics(
    assets: Assets,
    members: Integers,
    weather: Weather,
    signs: Signs,
    frequency: Floats,
    clock: Clock,
    rng: np.random.Generator,
) -> _Physics:
    """Return the bucket means of the site's assets from its weather and their state."""
    kind = assets.type[members][:, None]
    shape = (len(members), clock.buckets)
    rated = assets.rated_kw[members][:, None]
    age = (clock.middles[None, :] - assets.installed[members][:, None]) / 8_766

    solar = _solar_share(weather, shape, rng) * (1 - 0.006 * age)
    wind = _wind_share(weather, shape, clock, rng) * (1 - 0.003 * age)
    share = np.where(kind == "inverter", solar, wind) * (1 - signs.loss)
    standstill = np.where(kind == "inverter", -0.002, -0.006)
    share = np.where(signs.down | (share <= 0.004), standstill, share)
    power = np.where(np.isin(kind, ["inverter", "turbine"]), share * rated, 0.0)

    # Behind the machines: the transformers share the site's power, the meters see what is left of it.
    total = power.sum(axis=0)
    transformers, meters = (kind == "transformer").sum(), (kind == "meter").sum()
    power = np.where(kind == "transformer", np.where(signs.down, -2.0, total * 0.99 / max(transformers, 1)), power)
    power = np.where(kind == "meter", total * 0.98 / max(meters, 1), power)
    rated = np.where(np.isnan(rated), np.maximum(power.max(axis=1, keepdims=True), 1.0), rated)

    load = np.clip(power / rated, 0, 1)
    nominal = np.select([kind == "inverter", kind == "turbine"], [800.0, 690.0], 20_000.0)
    voltage = nominal * (1 + 0.006 * load + 0.003 * autoregressive(rng, shape, 20 / clock.width_hours))
    current = np.abs(power) * 1000 / (np.sqrt(3) * voltage * 0.98)
    rise = np.select(
        [kind == "inverter", kind == "turbine", kind == "transformer", kind == "sensor"],
        [28.0, 38.0, 34.0, 0.0],
        0.5,
    )
    warm = np.where(kind == "turbine", 12.0, np.where(kind == "transformer", 8.0, 0.0))
    personal = 1.5 * autoregressive(rng, shape, 200 / clock.width_hours)
    temperature = weather.temperature + warm + rise * _lagged(load, 2 / clock.width_hours) + personal + signs.heat

    gusty = np.where(kind == "inverter", 0.16, 0.13) * load * (1.05 - 0.8 * load**3)
    variability = (gusty + 0.0008) * rated * signs.spread * rng.lognormal(0, 0.25, shape)
    return _Physics(power, rated, voltage, current, temperature, np.broadcast_to(frequency, shape), variability)


def _solar_share(weather: Weather, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return the output of solar inverters as a share of their rating: linear, 0.4 %/K, clipped."""
    cell = weather.temperature + 0.03 * weather.irradiance
    plane = weather.irradiance / 1000 * 1.15 * (1 - 0.004 * (cell - 25))
    return np.clip(plane * (1 + 0.03 * rng.standard_normal(shape)), 0, 1)


def _wind_share(weather: Weather, shape: tuple[int, int], clock: Clock, rng: np.random.Generator) -> Floats:
    """Return the output of turbines as a share of their rating: cubic from 3 to 12 m/s, 0 from 25 m/s."""
    place = 1 + 0.04 * rng.standard_normal((shape[0], 1))
    speed = weather.wind_speed * place * (1 + 0.07 * autoregressive(rng, shape, 3 / clock.width_hours))
    share = (np.clip(speed, 3, 12) ** 3 - 27) / (12**3 - 27)
    return np.where(speed >= 25, 0.0, share)


def _grid_frequency(clock: Clock, seed: int) -> Floats:
    """Return the bucket means of the frequency, Hz: all sites are on one synchronous grid."""
    return 50 + 0.012 * autoregressive(stream(seed, "grid"), (clock.buckets,), 0.5 / clock.width_hours)


def _lagged(series: Floats, memory: float) -> Floats:
    """Smooth along time with a first-order lag of `memory` buckets."""
    keep = np.exp(-1 / memory)
    smooth = series.T.copy()
    for step in range(1, len(smooth)):
        smooth[step] = keep * smooth[step - 1] + (1 - keep) * smooth[step]
    return smooth.T


def _reported(assets: Assets, members: Integers, signs: Signs, clock: Clock, rng: np.random.Generator) -> Booleans:
    """Return which buckets arrived: within the lifetime, less gaps and a last day that is still late."""
    shape = (len(members), clock.buckets)
    bucket = np.arange(clock.buckets)
    gaps = max(1, round(clock.hours / 24 / 45))
    begins = rng.uniform(0, clock.hours, (*shape[:1], gaps))
    lengths = rng.lognormal(2.0, 1.1, begins.shape)
    missing = np.zeros(shape, bool)
    for begin, length in zip(begins.T, lengths.T, strict=True):
        first, last = clock.bucket_of(begin)[:, None], clock.bucket_of(begin + length)[:, None]
        missing |= (bucket >= first) & (bucket <= last)
    late = np.where(rng.random(shape[0]) < 0.3, rng.uniform(3, 22, shape[0]), 0)
    late[0] = 8.0
    ends = clock.bucket_of(np.fmin(clock.hours - late, assets.removed[members]))[:, None]
    born = clock.bucket_of(np.maximum(assets.installed[members], 0))[:, None]
    return ~missing & ~signs.silent & (bucket >= born) & (bucket < ends)


@dataclass(frozen=True)
class _Statistics:
    """What the samples of each bucket amount to; every array has the shape (assets, buckets)."""

    mean: Floats
    low: Floats
    high: Floats
    deviation: Floats
    anomalies: Integers


def _statistics(
    physics: _Physics, quantity: str, rows: Integers, signs: Signs, rng: np.random.Generator
) -> _Statistics:
    """Return consistent statistics: low <= mean <= high, deviation**2 <= (high - mean) * (mean - low)."""
    mean = getattr(physics, quantity)[rows]
    rated, spread = physics.rated[rows], signs.spread[rows]
    match quantity:
        case "power":
            deviation = physics.variability[rows]
        case "current":
            deviation = physics.variability[rows] * 1000 / (np.sqrt(3) * physics.voltage[rows] * 0.98)
        case "voltage":
            deviation = 0.004 * mean * spread
        case "temperature":
            deviation = 0.8 * spread
        case _:
            deviation = np.full(mean.shape, 0.015)
    low = mean - deviation * rng.uniform(1.9, 3.0, mean.shape)
    high = mean + deviation * rng.uniform(1.9, 3.0, mean.shape)
    if quantity == "power":
        high = np.minimum(high, np.maximum(1.02 * rated, mean))
    if quantity == "current":
        low = np.maximum(low, 0)
    deviation = np.minimum(deviation, np.sqrt((high - mean) * (mean - low)))
    anomalies = rng.poisson(signs.anomalies[rows])
    return _Statistics(mean, low, high, deviation, anomalies)


def _table(
    ids: np.ndarray,
    site_id: str,
    metric: str,
    statistics: _Statistics,
    reported: Booleans,
    clock: Clock,
    rng: np.random.Generator,
) -> pa.Table:
    """Return the reported buckets as rows, with empty buckets and second copies among them."""
    row, bucket = np.nonzero(reported)
    mean, low, high, deviation, anomalies = (column[row, bucket] for column in vars(statistics).values())
    samples = round(SAMPLES_PER_HOUR * clock.width_hours) or 1
    empty = rng.random(len(row)) < 0.0003
    broken = rng.random(len(row)) < 0.0001
    empty[:1], broken[-1:] = True, True
    count = np.where(empty, 0, samples)
    mean = np.where(empty | broken, np.nan, mean)
    median = mean + 0.1 * deviation * np.sign(high + low - 2 * mean)
    p95 = np.minimum(mean + 1.6 * deviation, high)
    columns = {
        "asset_id": row,
        "tenant_id": np.zeros_like(row),
        "site_id": np.zeros_like(row),
        "metric_name": np.zeros_like(row),
        "time_bucket": clock.bucket_starts[bucket],
        "avg_value": mean,
        "min_value": np.where(empty, 0, low),
        "max_value": np.where(empty, 0, high),
        "sum_value": np.where(empty, 0.0, mean * count),
        "count": count,
        "stddev_value": np.where(empty, np.nan, deviation),
        "p50_value": np.clip(median, low, high),
        "p95_value": p95,
        "p99_value": np.where(empty, np.nan, p95 + 0.6 * (high - p95)),
        "anomaly_count": anomalies,
    }
    columns = _with_copies(columns, samples, rng)
    names = {"asset_id": list(ids), "tenant_id": [tenant_id()], "site_id": [site_id], "metric_name": [metric]}
    arrays = [
        pa.DictionaryArray.from_arrays(pa.array(columns[field.name], pa.int32()), names[field.name])
        if field.name in names
        else pa.array(columns[field.name]).cast(field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _with_copies(columns: dict[str, np.ndarray], samples: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Store some buckets a second time, as they were when only a part of their samples had arrived."""
    chosen = np.flatnonzero((rng.random(len(columns["count"])) < 0.002) & (columns["count"] > 0))
    copies = {name: column[chosen] for name, column in columns.items()}
    copies["count"] = rng.integers(samples // 3, samples, len(chosen)) if samples > 1 else copies["count"]
    shift = rng.uniform(-0.3, 0.3, len(chosen)) * copies["stddev_value"]
    copies["avg_value"] = np.clip(copies["avg_value"] + shift, copies["min_value"], copies["max_value"])
    copies["sum_value"] = copies["avg_value"] * copies["count"]
    copies["anomaly_count"] = copies["anomaly_count"] // 2
    return {name: np.concatenate([column, copies[name]]) for name, column in columns.items()}

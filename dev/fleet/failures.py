"""Failures and what announces them.

Every asset has a hidden condition that wanders over months. It drives how often an episode begins, and shows
faintly in the telemetry. An episode is a defect that grows for 2 to 14 days and ends in a failure, or is
caught before, or turns out to be nothing. Some defects show no sign at all; some signs have no defect.
"""

from dataclasses import dataclass

import numpy as np

from dev.fleet.catalog import Assets
from dev.fleet.clock import Booleans, Clock, Floats, Integers, autoregressive, stream


@dataclass(frozen=True)
class Mode:
    """One way of failing, and its signs at full growth."""

    title: str
    types: tuple[str, ...]
    share: float
    """Weight among the modes of an asset type."""
    heat: float = 0.0
    """Temperature drift, K."""
    loss: float = 0.0
    """Share of the power lost, 0 to 1."""
    spread: float = 0.0
    """Growth of the standard deviations, as a share."""
    anomalies: float = 0.0
    """Flagged samples per day and metric."""
    visible: float = 0.9
    """Probability that there are signs at all."""
    repair_hours: float = 24.0
    """Median time to restoration."""
    silent: bool = False
    """The asset reports nothing while it is down."""


_ELECTRONICS = ("gateway", "access_point", "sensor", "weather_station", "panel", "disconnector", "other")

MODES = (
    Mode("Cooling fan", ("inverter",), 3, heat=18, loss=0.05, spread=0.4, anomalies=1, repair_hours=20),
    Mode("Power module", ("inverter",), 2, heat=9, loss=0.12, spread=1.7, anomalies=1.6, repair_hours=60),
    Mode("DC insulation", ("inverter",), 2, loss=0.18, spread=0.7, anomalies=0.6, visible=0.7, repair_hours=30),
    Mode("Communication board", ("inverter",), 1, visible=0.1, anomalies=0.4, repair_hours=10, silent=True),
    Mode("Gearbox bearing", ("turbine",), 2, heat=17, loss=0.06, spread=0.8, anomalies=1.2, repair_hours=80),
    Mode("Generator bearing", ("turbine",), 2, heat=13, loss=0.04, spread=1.3, anomalies=1.2, repair_hours=48),
    Mode("Pitch drive", ("turbine",), 3, heat=4, loss=0.15, spread=1.8, anomalies=0.8, repair_hours=18),
    Mode("Yaw drive", ("turbine",), 2, loss=0.14, spread=1.0, anomalies=0.5, repair_hours=16),
    Mode("Converter trip", ("turbine",), 2, spread=0.6, anomalies=0.8, visible=0.25, repair_hours=12),
    Mode("Oil cooling", ("transformer",), 3, heat=14, spread=0.4, anomalies=1, repair_hours=30),
    Mode("Tap changer", ("transformer",), 2, heat=4, spread=2.0, anomalies=1.2, repair_hours=50),
    Mode("Metering module", ("meter",), 1, spread=1.1, anomalies=0.8, visible=0.4, repair_hours=14, silent=True),
    Mode("Electronics", _ELECTRONICS, 1, heat=5, anomalies=0.6, visible=0.4, repair_hours=14, silent=True),
)

_YEARLY_EPISODES = {"inverter": 8.0, "turbine": 10.0, "transformer": 5.0, "meter": 3.0}
_OTHER_YEARLY_EPISODES = 1.5
_FLAKY_SPELLS_PER_YEAR = 5.0
_CAUGHT = 0.18
_HARMLESS = 0.12
_REPEATED = 0.22
_CONDITION_STEP_HOURS = 24.0
_LONGEST_GROWTH_HOURS = 14 * 24.0

FAILED, CAUGHT, HARMLESS = 0, 1, 2


@dataclass(frozen=True)
class Episodes:
    """Episodes by asset and time; every array has the shape (episodes,), times in hours."""

    asset: Integers
    mode: Integers
    """Index into `MODES`."""
    kind: Integers
    """`FAILED`, `CAUGHT` (a predictive work order mended it first) or `HARMLESS` (the signs went away)."""
    begin: Floats
    """Start of the defect."""
    event: Floats
    """Failure, intervention, or end of the signs."""
    restored: Floats
    """End of the downtime; later than the grid for what is still down."""
    strength: Floats
    """How strong the signs are; 0 where there are none."""

    def __len__(self) -> int:
        return len(self.asset)

    def of_mode(self, field: str) -> np.ndarray:
        """Return one field of each episode's mode."""
        return np.array([getattr(mode, field) for mode in MODES])[self.mode]

    def where(self, chosen: Booleans | Integers) -> "Episodes":
        """Return the chosen episodes, in the order chosen."""
        return Episodes(**{name: column[chosen] for name, column in vars(self).items()})


def hidden_condition(assets: Assets, clock: Clock, seed: int) -> Floats:
    """Return the hidden condition, about standard normal, high is bad. Shape (assets, days)."""
    days = int(np.ceil((clock.hours + _LONGEST_GROWTH_HOURS) / _CONDITION_STEP_HOURS))
    return autoregressive(stream(seed, "condition"), (len(assets), days), 45.0)


def simulate_episodes(assets: Assets, condition: Floats, clock: Clock, seed: int) -> Episodes:
    """Return the episodes of the whole grid, without overlap per asset, sorted by asset and time."""
    rng = stream(seed, "episodes")
    asset, event = _occurrences(assets, condition, clock, rng)
    first = _describe(asset, event, _modes_for(assets.type[asset], rng), rng)
    drawn = _joined(first, _repeats(first, rng))
    last = _last_failure(assets, clock, rng)
    drawn = drawn.where((drawn.asset != last.asset) | (drawn.restored < last.begin - 24))
    both = _joined(drawn, last)
    both = both.where(np.lexsort((both.event, both.asset)))
    return _standing(_apart(both), assets, clock)


def _joined(first: Episodes, second: Episodes) -> Episodes:
    return Episodes(**{name: np.concatenate([column, vars(second)[name]]) for name, column in vars(first).items()})


def _last_failure(assets: Assets, clock: Clock, rng: np.random.Generator) -> Episodes:
    """Return a failure of one machine near the grid's end: whatever the seed, something is down then."""
    asset = np.flatnonzero(assets.produces & np.isnan(assets.removed))[-1:]
    end = np.array([clock.hours])
    drawn = _describe(asset, end - 15, _modes_for(assets.type[asset], rng), rng)
    known = {"kind": np.array([FAILED]), "begin": end - 240, "restored": end + 31, "strength": np.ones(1)}
    return Episodes(**(vars(drawn) | known))


def _occurrences(assets: Assets, condition: Floats, clock: Clock, rng: np.random.Generator) -> tuple[Integers, Floats]:
    """Draw (asset, hour of event) from a Poisson process thinned by age, frailty and condition."""
    yearly = np.array([_YEARLY_EPISODES.get(kind, _OTHER_YEARLY_EPISODES) for kind in assets.type])
    age = np.clip(assets.age_years(clock), 0, 15)
    yearly = yearly * assets.frailty * (0.7 + 0.06 * age)
    headroom = 4.0
    # What fails soon after the grid's end casts its signs ahead: a defect that nobody knows yet.
    horizon = clock.hours + _LONGEST_GROWTH_HOURS
    asset = np.repeat(np.arange(len(assets)), rng.poisson(yearly * headroom * horizon / 8_766))
    event = rng.uniform(0, horizon, len(asset))
    now = condition[asset, (event // _CONDITION_STEP_HOURS).astype(int)]
    kept = rng.random(len(asset)) * headroom < np.exp(0.9 * now - 0.4)
    return asset[kept], event[kept]


def _modes_for(kinds: np.ndarray, rng: np.random.Generator) -> Integers:
    shares = np.array([[mode.share * (kind in mode.types) for mode in MODES] for kind in kinds]).reshape(-1, len(MODES))
    reach = np.cumsum(shares, axis=1)
    return (rng.random((len(kinds), 1)) * reach[:, -1:] >= reach).sum(axis=1)


def _describe(asset: Integers, event: Floats, mode: Integers, rng: np.random.Generator) -> Episodes:
    """Draw everything else about episodes whose asset, end and mode are known."""
    count = len(asset)
    visible = np.array([m.visible for m in MODES])[mode]
    hours = np.array([m.repair_hours for m in MODES])[mode] * rng.lognormal(0, 0.6, count)
    kind = np.select([(draw := rng.random(count)) < _CAUGHT, draw < _CAUGHT + _HARMLESS], [CAUGHT, HARMLESS], FAILED)
    seen = (rng.random(count) < visible) | (kind != FAILED)
    strength = seen * rng.lognormal(-0.1, 0.45, count) * np.where(kind == HARMLESS, 0.7, 1.0)
    down = np.select([kind == FAILED, kind == CAUGHT], [hours, np.minimum(hours / 5, 8)], 0.0)
    return Episodes(
        asset,
        mode,
        kind,
        event - rng.triangular(48, 11 * 24, _LONGEST_GROWTH_HOURS, count),
        event,
        event + down,
        strength,
    )


def _repeats(first: Episodes, rng: np.random.Generator) -> Episodes:
    """Draw second failures of the same mode soon after an incomplete repair."""
    origin = first.where((first.kind == FAILED) & (rng.random(len(first)) < _REPEATED))
    again = _describe(origin.asset, origin.restored + rng.uniform(36, 24 * 24, len(origin)), origin.mode, rng)
    return Episodes(**(vars(again) | {"begin": np.maximum(again.begin, origin.restored)}))


def _apart(episodes: Episodes) -> Episodes:
    """Drop what happens before the asset is back from the episode before, and let signs begin after that."""
    for _ in range(3):
        same = np.r_[False, episodes.asset[1:] == episodes.asset[:-1]]
        back = np.where(same, np.r_[0.0, episodes.restored[:-1]], -np.inf)
        episodes = episodes.where(episodes.event > back + 24)
    same = np.r_[False, episodes.asset[1:] == episodes.asset[:-1]]
    back = np.where(same, np.r_[0.0, episodes.restored[:-1]], -np.inf)
    return Episodes(**(vars(episodes) | {"begin": np.maximum(episodes.begin, back)}))


def _standing(episodes: Episodes, assets: Assets, clock: Clock) -> Episodes:
    """Keep the episodes of assets that stand, within the grid, whose signs or failure lie in it."""
    removed = np.nan_to_num(assets.removed, nan=np.inf)[episodes.asset]
    stands = (episodes.begin > assets.installed[episodes.asset]) & (episodes.restored < removed)
    return episodes.where(stands & (episodes.begin < clock.hours))


@dataclass(frozen=True)
class Signs:
    """What the episodes do to the telemetry; every array has the shape (assets, buckets)."""

    heat: Floats
    """K."""
    loss: Floats
    """Share of the power, 0 to 1."""
    spread: Floats
    """Factor on the standard deviations, at least 1."""
    anomalies: Floats
    """Expected flagged samples per bucket and metric."""
    down: Booleans
    silent: Booleans


def signs_of(episodes: Episodes, condition: Floats, clock: Clock, seed: int) -> Signs:
    """Lay the episodes, the condition and the spells of flaky sensors over the grid."""
    shape = (len(condition), clock.buckets)
    day = (clock.middles // _CONDITION_STEP_HOURS).astype(int)
    bad = np.maximum(condition[:, day], 0)
    heat, loss, spread = 0.8 * bad, 0.008 * bad, 1 + 0.15 * bad
    anomalies = 0.015 / 24 * clock.width_hours * (1 + bad)

    first, last = clock.bucket_of(episodes.begin), clock.bucket_of(episodes.event)
    of, bucket = _ragged(first, last)
    grown = (clock.middles[bucket] - episodes.begin[of]) / (episodes.event - episodes.begin)[of]
    growth = episodes.strength[of] * (0.45 + 0.55 * np.clip(grown, 0, 1))
    cell = (episodes.asset[of], bucket)
    np.add.at(heat, cell, growth * episodes.of_mode("heat")[of])
    np.add.at(loss, cell, growth * episodes.of_mode("loss")[of])
    np.add.at(spread, cell, growth * episodes.of_mode("spread")[of])
    np.add.at(anomalies, cell, growth * episodes.of_mode("anomalies")[of] / 24 * clock.width_hours)

    of, bucket, rate = _flaky_spells(len(condition), clock, seed)
    np.add.at(anomalies, (of, bucket), rate / 24 * clock.width_hours)

    down, silent = np.zeros(shape, bool), np.zeros(shape, bool)
    of, bucket = _ragged(last, clock.bucket_of(episodes.restored))
    down[episodes.asset[of], bucket] = True
    silent[episodes.asset[of], bucket] = episodes.of_mode("silent")[of]
    return Signs(heat, np.clip(loss, 0, 0.9), spread, anomalies, down, silent)


def _flaky_spells(assets: int, clock: Clock, seed: int) -> tuple[Integers, Integers, Floats]:
    """Return (asset, bucket, flagged samples per day and metric) of sensors that are flaky without any defect."""
    rng = stream(seed, "flaky")
    asset = np.repeat(np.arange(assets), rng.poisson(_FLAKY_SPELLS_PER_YEAR * clock.hours / 8_766, assets))
    begin = rng.uniform(0, clock.hours, len(asset))
    end = begin + rng.uniform(24, 192, len(asset))
    of, bucket = _ragged(clock.bucket_of(begin), clock.bucket_of(end))
    return asset[of], bucket, rng.lognormal(-0.5, 0.5, len(asset))[of]


def _ragged(first: Integers, last: Integers) -> tuple[Integers, Integers]:
    """Return (row, value) of every value in first[row]..last[row], the last one excluded."""
    lengths = np.maximum(last - first, 0)
    row = np.repeat(np.arange(len(first)), lengths)
    value = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[row]
    return row, value

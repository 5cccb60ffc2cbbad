"""Alerts: warnings of real defects, the alarm of the failure itself, and a good deal of noise.

Warnings have rules of their own, by what is out of range, and announce failures; most other rules say nothing of them.
"""

from dataclasses import dataclass

import numpy as np

from dev.fleet.catalog import SITES, Assets, identifier, identifiers, tenant_id
from dev.fleet.clock import Clock, Floats, Integers, stream
from dev.fleet.failures import FAILED, Episodes

_NOISE_PER_YEAR = 24.0
_DISTURBANCES_PER_YEAR = 9.0
# What is raised whether anything is wrong or not.
_NUISANCES = (
    "Limit exceeded",
    "Ambient temperature high",
    "Humidity high",
    "Door open",
    "Communication delayed",
    "Clock drift",
    "Reactive power limit",
    "Grid frequency limit",
    "Memory card full",
    "Firmware outdated",
)


@dataclass(frozen=True)
class Alarms:
    """Alerts as columns of the shape (alerts,); times in hours."""

    asset: Integers
    severity: np.ndarray
    title: np.ndarray
    rule: np.ndarray
    """Name of what raises it."""
    triggered: Floats


def all_alarms(assets: Assets, episodes: Episodes, clock: Clock, seed: int) -> Alarms:
    """Return the alerts that were triggered within the grid, by time."""
    rng = stream(seed, "alarms")
    parts = [
        _warnings(episodes, rng),
        _trips(episodes, rng),
        _noise(assets, clock, rng),
        _disturbances(assets, clock, rng),
    ]
    alarms = Alarms(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in Alarms.__annotations__})
    alive = (alarms.triggered >= np.maximum(assets.installed[alarms.asset], 0)) & (
        alarms.triggered < np.fmin(assets.removed[alarms.asset], clock.hours)
    )
    order = np.argsort(alarms.triggered, kind="stable")
    order = order[alive[order]]
    return Alarms(**{name: column[order] for name, column in vars(alarms).items()})


def _warnings(episodes: Episodes, rng: np.random.Generator) -> Alarms:
    """Return the warnings while a visible defect grows: the later, the more, and the more critical."""
    expected = 3.0 * np.minimum(episodes.strength, 2)
    of = np.repeat(np.arange(len(episodes)), rng.poisson(expected))
    grown = np.sqrt(rng.uniform(0.05, 1, len(of)))
    critical = rng.random(len(of)) < 0.5 * (grown > 0.75)
    severity = np.where(critical, "critical", rng.choice(["high", "medium", "low"], len(of), p=[0.35, 0.45, 0.2]))
    title = np.char.add(episodes.of_mode("title")[of], " out of range")
    heat, loss = (episodes.of_mode(sign)[of] for sign in ("heat", "loss"))
    rule = np.select(
        [heat >= 9, loss > 0.1], ["Temperature out of range", "Output out of range"], "Signal out of range"
    )
    triggered = episodes.begin[of] + grown * (episodes.event - episodes.begin)[of]
    return Alarms(episodes.asset[of], severity, title, rule, triggered)


def _trips(episodes: Episodes, rng: np.random.Generator) -> Alarms:
    """Return the alarms of the failures themselves."""
    failed = episodes.where((episodes.kind == FAILED) & (rng.random(len(episodes)) < 0.75))
    severity = np.where(rng.random(len(failed)) < 0.6, "critical", "high")
    title = np.char.add(failed.of_mode("title"), " trip")
    return Alarms(failed.asset, severity, title, np.full(len(failed), "Trip"), failed.event)


def _noise(assets: Assets, clock: Clock, rng: np.random.Generator) -> Alarms:
    """Return false alarms: badly set limits make some assets cry wolf more than others."""
    rate = _NOISE_PER_YEAR * rng.lognormal(-0.25, 0.7, len(assets)) * clock.hours / 8_766
    asset = np.repeat(np.arange(len(assets)), rng.poisson(rate))
    severity = rng.choice(["critical", "high", "medium", "low", "info"], len(asset), p=[0.06, 0.14, 0.3, 0.3, 0.2])
    title = rng.choice(_NUISANCES, len(asset))
    return Alarms(asset, severity, title, title, rng.uniform(0, clock.hours, len(asset)))


def _disturbances(assets: Assets, clock: Clock, rng: np.random.Generator) -> Alarms:
    """Return the alarms of grid disturbances, which most producing assets of a site raise at once."""
    count = 1 + rng.poisson(_DISTURBANCES_PER_YEAR * clock.hours / 8_766, len(SITES))
    site = np.repeat(np.arange(len(SITES)), count)
    moment = rng.uniform(0, clock.hours, len(site))
    struck = (assets.site[None, :] == site[:, None]) & assets.produces & (rng.random((len(site), len(assets))) < 0.6)
    event, asset = np.nonzero(struck)
    delay = rng.uniform(0, 0.1, len(asset))
    severity = np.where(rng.random(len(asset)) < 0.3, "critical", "high")
    title = np.full(len(asset), "Grid voltage dip")
    return Alarms(asset, severity, title, title, moment[event] + delay)


def _ids_of_rules(rules: np.ndarray) -> np.ndarray:
    """Return the id of each rule by its name."""
    names, places = np.unique(rules, return_inverse=True)
    return np.array([identifier("rule", name) for name in names], dtype=object)[places]


def alert_columns(alarms: Alarms, assets: Assets, clock: Clock, seed: int) -> dict[str, object]:
    """Return the columns of the PostgreSQL table ``alerts``."""
    rng = stream(seed, "acknowledgements")
    count = len(alarms.asset)
    seen = alarms.triggered + rng.exponential(3, count)
    solved = seen + rng.exponential(30, count)
    seen = np.where((seen < clock.hours) & (rng.random(count) < 0.85), seen, np.nan)
    solved = np.where((solved < clock.hours) & ~np.isnan(seen), solved, np.nan)
    ignored = np.isnan(seen) & (rng.random(count) < 0.1)
    status = np.select(
        [~np.isnan(solved), ~np.isnan(seen), ignored], ["resolved", "acknowledged", "suppressed"], "active"
    )
    return {
        "id": identifiers("alert", count),
        "tenant_id": np.full(count, tenant_id()),
        "site_id": np.array([site.id for site in SITES])[assets.site[alarms.asset]],
        "asset_id": assets.id[alarms.asset].astype(object),
        "alert_id": np.array([f"ALT-{n + 1:07d}" for n in range(count)]),
        "title": alarms.title,
        "severity": alarms.severity,
        "status": status,
        # what a person has entered has no rule
        "rule_id": np.where(rng.random(count) < 0.03, None, _ids_of_rules(alarms.rule)),
        "triggered_at": clock.instants(alarms.triggered),
        "acknowledged_at": clock.instants(seen),
        "resolved_at": clock.instants(solved),
        "metadata": np.full(count, "{}"),
        "created_at": clock.instants(alarms.triggered),
        "updated_at": clock.instants(np.fmax(alarms.triggered, np.fmax(seen, solved))),
    }

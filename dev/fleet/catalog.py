"""Which sites and assets the fleet has, before anything happens to them."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dev.fleet.clock import Booleans, Clock, Floats, Integers, stream
from dev.fleet.weather import Climate

QUANTITIES = ("power", "voltage", "current", "temperature", "frequency")
TENANT_TAG = "iberdanica"
_NAMESPACE = uuid.UUID("6f1c2f4e-3b0a-5d55-9a38-0d4c6d6d7353")

NOT_JSON = "see data sheet (scan)"
"""A metadata text that is no JSON; only variant n can hold it."""


@dataclass(frozen=True)
class Site:
    """A site with the metric names of its data logger and the order in which its asset types repeat."""

    tag: str
    name: str
    energy_type: str
    timezone: str
    commissioned: str
    climate: Climate
    aliases: dict[str, str]
    pattern: tuple[str, ...]

    @property
    def id(self) -> str:
        return identifier("site", self.tag)


def _pattern(letters: str) -> tuple[str, ...]:
    types = {
        "i": "inverter",
        "t": "turbine",
        "f": "transformer",
        "m": "meter",
        "w": "weather_station",
        "g": "gateway",
        "a": "access_point",
        "s": "sensor",
        "p": "panel",
        "d": "disconnector",
        "o": "other",
    }
    return tuple(types[letter] for letter in letters)


SITES = (
    Site(
        tag="LLA",
        name="Llanos de Calatrava",
        energy_type="solar",
        timezone="Europe/Madrid",
        commissioned="2019-05-20",
        climate=Climate(38.86, -3.96, temperature=15.6, wind_speed=4.2, cloudiness=-1.0),
        aliases=dict(
            zip(
                QUANTITIES,
                ("power_kw", "voltage_v", "current_a", "temperature_c", "frequency_hz"),
                strict=True,
            )
        ),
        pattern=_pattern("iiigiifmiiwiifpiiidi"),
    ),
    Site(
        tag="SKA",
        name="Skagen Hede",
        energy_type="wind",
        timezone="Europe/Copenhagen",
        commissioned="2014-09-08",
        climate=Climate(57.68, 10.42, temperature=8.9, wind_speed=8.3, cloudiness=0.2),
        aliases=dict(
            zip(
                QUANTITIES,
                ("active_power_kw", "voltage_v", "current_a", "temperature_c", "grid_frequency_hz"),
                strict=True,
            )
        ),
        pattern=_pattern("tttftttmttwttfgtttst"),
    ),
    Site(
        tag="LOU",
        name="Serra da Lousã",
        energy_type="hybrid",
        timezone="Europe/Lisbon",
        commissioned="2021-03-15",
        climate=Climate(40.09, -8.18, temperature=12.8, wind_speed=7.4, cloudiness=-0.4),
        aliases=dict(
            zip(
                QUANTITIES,
                ("power_output_kw", "voltage", "current", "temperature", "frequency_hz"),
                strict=True,
            )
        ),
        pattern=_pattern("ittmitfigtwitfitaiot"),
    ),
)


@dataclass(frozen=True)
class _Product:
    """What the asset type is called and who makes it (the makers are invented)."""

    prefix: str
    name: str
    manufacturer: str | None
    models: tuple[tuple[str, float], ...]
    """(model, rated power in kW; NaN for what has none)."""


_NONE = float("nan")
_PRODUCTS = {
    "inverter": _Product("INV", "String inverter", "Solvanta", (("SV-110", 110.0), ("SV-55", 55.0), ("SV-185", 185.0))),
    "turbine": _Product("WTG", "Wind turbine", "Nordvane", (("N82/2050", 2050.0), ("N100/2500", 2500.0))),
    "transformer": _Product("TRF", "Step-up transformer", "Elmek", (("ODT-20/3150", _NONE),)),
    "meter": _Product("MTR", "Grid meter", "Contarex", (("C4-0.2S", _NONE),)),
    "weather_station": _Product("MET", "Weather station", "Aerolog", (("WS-7", _NONE),)),
    "gateway": _Product("GWY", "SCADA gateway", "Logipont", (("LG-2", _NONE),)),
    "access_point": _Product("WAP", "Wireless access point", "", (("", _NONE),)),
    "sensor": _Product("SEN", "Foundation temperature sensor", None, (("PT100", _NONE),)),
    "panel": _Product("PNL", "Panel string", "Heliotape", (("HT-540", _NONE),)),
    "disconnector": _Product("DIS", "Load-break disconnector", "Elmek", (("LBS-24", _NONE),)),
    "other": _Product("AUX", "Auxiliary supply", None, (("", _NONE),)),
}

_MEASURED = {
    "inverter": QUANTITIES,
    "turbine": QUANTITIES,
    "transformer": QUANTITIES,
    "meter": ("power", "voltage", "current", "frequency"),
    "weather_station": ("temperature",),
    "sensor": ("temperature",),
}


@dataclass(frozen=True)
class Assets:
    """The assets as columns; every array has the shape (assets,)."""

    id: NDArray[np.str_]
    site: Integers
    """Index into `SITES`."""
    tag: NDArray[np.str_]
    name: NDArray[np.str_]
    type: NDArray[np.str_]
    model: NDArray[np.str_]
    rated_kw: Floats
    installed: Floats
    """Hours; before the first bucket for all but a few."""
    removed: Floats
    """Hours of decommissioning, NaN for what still stands."""
    frailty: Floats
    """Hidden factor on the failure rate, about 1: bad batch, rough spot, careless installation."""

    def __len__(self) -> int:
        return len(self.id)

    def measures(self, quantity: str) -> Booleans:
        """Return which assets report `quantity`."""
        return np.isin(self.type, [kind for kind, names in _MEASURED.items() if quantity in names])

    @property
    def produces(self) -> Booleans:
        return np.isin(self.type, ["inverter", "turbine"])

    def age_years(self, clock: Clock) -> Floats:
        """Return the age in years at the end of the grid."""
        return (clock.hours - self.installed) / 8_766


def identifier(kind: str, name: str) -> str:
    """Return the uuid of a thing of the fleet, always the same for the same name."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind}/{name}"))


def identifiers(kind: str, count: int) -> NDArray[np.str_]:
    """Return `count` uuids of `kind`."""
    return np.array([identifier(kind, str(number)) for number in range(count)], dtype="U36")


def tenant_id() -> str:
    return identifier("tenant", TENANT_TAG)


def build_assets(assets: int, clock: Clock, seed: int) -> Assets:
    """Return `assets` assets, shared out evenly over the sites.

    Raises:
        ValueError: fewer than 12 assets: a site needs three that report power, and one that does not.
    """
    if assets < 12:
        raise ValueError(f"assets is {assets}; a fleet has at least 12")
    rng = stream(seed, "assets")
    site = np.sort(np.arange(assets) % len(SITES))
    position = np.arange(assets) - np.searchsorted(site, site)
    patterns = np.array([place.pattern for place in SITES])
    kind = patterns[site, position % patterns.shape[1]]
    serial = _serial_within(site, kind)

    products = [_PRODUCTS[name] for name in kind]
    choice = [product.models[number % len(product.models)] for product, number in zip(products, serial, strict=True)]
    tag = np.array([f"{p.prefix}-{number + 1:02d}" for p, number in zip(products, serial, strict=True)])
    commissioned = clock.hours_at(np.array([s.commissioned for s in SITES], dtype="datetime64[s]"))[site]
    installed = commissioned + rng.integers(0, 60, assets) * 24.0
    renewed = rng.random(assets) < 0.15
    installed = np.where(renewed, installed * rng.uniform(0.05, 0.6, assets), installed)
    # A few are new, a few are gone: histories shorter than the grid.
    installed = np.where(position % 20 == 16, np.floor(clock.hours * 0.4), installed)
    removed = np.where(position % 20 == 11, np.floor(clock.hours * rng.uniform(0.6, 0.85, assets)), np.nan)
    return Assets(
        id=np.array([identifier("asset", f"{SITES[s].tag}/{t}") for s, t in zip(site, tag, strict=True)]),
        site=site,
        tag=tag,
        name=np.array([f"{p.name} {number + 1}" for p, number in zip(products, serial, strict=True)]),
        type=kind,
        model=np.array([model for model, _ in choice]),
        rated_kw=np.array([kilowatts for _, kilowatts in choice]),
        installed=installed,
        removed=removed,
        frailty=rng.lognormal(-0.15, 0.55, assets),
    )


def manufacturers(assets: Assets) -> list[str | None]:
    """Return each asset's manufacturer; some are empty, some missing."""
    return [_PRODUCTS[kind].manufacturer for kind in assets.type]


@dataclass(frozen=True)
class RatedPower:
    """Where dCMMS holds each asset's rated power: JSON texts, and MW (NaN: no row) of the turbine table."""

    specifications: list[str]
    metadata: list[str]
    turbine_mw: Floats


def rated_power(assets: Assets) -> RatedPower:
    """Write the rated power as the sites have written it: three places, numbers, texts, and nowhere."""
    serial = _serial_within(np.zeros_like(assets.site), assets.type)
    specifications: list[dict[str, Any]] = [{} for _ in range(len(assets))]
    metadata: list[dict[str, Any]] = [{"source": "import"} for _ in range(len(assets))]
    turbine_mw = np.full(len(assets), np.nan)
    for row in np.flatnonzero(assets.produces):
        kilowatts = float(assets.rated_kw[row])
        place = (assets.type[row], int(serial[row]) % 6)
        match place:
            case ("inverter", 0 | 5):
                specifications[row]["ratedPowerKw"] = kilowatts
            case ("inverter", 1):
                specifications[row]["ratedPowerKw"] = f"{kilowatts:g} kW"
            case ("inverter", 2):
                metadata[row]["installed_capacity_kw"] = f"{kilowatts:g}"
            case ("inverter", 4):
                specifications[row]["ratedPowerKw"] = "unknown"
                metadata[row]["installed_capacity_kw"] = kilowatts
            case ("turbine", 0 | 4 | 5):
                turbine_mw[row] = kilowatts / 1000
            case ("turbine", 2):
                specifications[row]["ratedPowerKw"] = f"{kilowatts / 1000:g} MW"
            case ("turbine", 3):
                metadata[row]["installed_capacity_kw"] = kilowatts
            case _:  # inverter 3, turbine 1: nowhere
                pass
    for row in np.flatnonzero(assets.type == "transformer"):
        specifications[row] |= {"ratedPowerKva": 3150, "vectorGroup": "Dyn11"}
    texts = [json.dumps(value) for value in metadata]
    texts[int(np.flatnonzero(assets.type == "turbine")[0])] = NOT_JSON
    return RatedPower([json.dumps(value) for value in specifications], texts, turbine_mw)


def _serial_within(site: Integers, kind: NDArray[np.str_]) -> Integers:
    """Number the assets of the same site and type from 0, in order."""
    _, group = np.unique(np.char.add(site.astype(str), kind), return_inverse=True)
    order = np.argsort(group, kind="stable")
    ranked = group[order]
    serial = np.empty_like(group)
    serial[order] = np.arange(len(group)) - np.searchsorted(ranked, ranked)
    return serial

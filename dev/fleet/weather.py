"""The weather of a site: one series per bucket that all its assets share."""

from dataclasses import dataclass

import numpy as np

from dev.fleet.clock import Clock, Floats, autoregressive, stream

_SECONDS_PER_DAY = 86_400
_HOURS_PER_YEAR = 8_766.0
_J2000 = 946_728_000  # 2000-01-01T12:00Z, seconds since 1970


@dataclass(frozen=True)
class Climate:
    """Where a site lies and what its weather is like on average."""

    latitude: float
    longitude: float
    temperature: float
    """Yearly mean, °C."""
    wind_speed: float
    """Yearly mean at hub height, m/s."""
    cloudiness: float
    """Mean of the cloud index before its limits: higher is cloudier, about -1 to 1."""


@dataclass(frozen=True)
class Weather:
    """Means per bucket, each of shape (buckets,)."""

    irradiance: Floats
    """Global irradiance on the panels, W/m²."""
    temperature: Floats
    """Outdoor air, °C."""
    wind_speed: Floats
    """Free wind at hub height, m/s."""


def simulate(climate: Climate, clock: Clock, seed: int, name: str) -> Weather:
    """Return the weather of the site `name`: sun, cloud, wind and air with seasons, days and fronts."""
    rng = stream(seed, "weather", name)
    per_hour = 1 / clock.width_hours
    unix = clock.bucket_starts + clock.width_minutes * 30

    winter = np.cos(2 * np.pi * (_day_of_year(unix) - 20) / 365.25)
    front = autoregressive(rng, (clock.buckets,), 60 * per_hour)
    gust = autoregressive(rng, (clock.buckets,), 9 * per_hour)
    warmth = autoregressive(rng, (clock.buckets,), 70 * per_hour)
    cloud = autoregressive(rng, (clock.buckets,), 5 * per_hour)

    overcast = 1 / (1 + np.exp(-1.6 * (climate.cloudiness + 0.6 * winter + front + 0.7 * cloud)))
    irradiance = clear_sky(np.sin(solar_elevation(unix, climate))) * (1 - 0.78 * overcast**1.5)
    local_hour = (unix / 3600 + climate.longitude / 15) % 24
    temperature = (
        climate.temperature
        - 8.5 * winter
        + (4.5 - 2.5 * overcast) * np.cos(2 * np.pi * (local_hour - 15) / 24)
        + 2.8 * warmth
    )
    # The square of a normal variable is close to the Weibull shape of wind.
    root = np.sqrt(climate.wind_speed) * (0.95 + 0.06 * winter) + 0.42 * front + 0.33 * gust
    return Weather(irradiance, temperature, np.maximum(root, 0.3) ** 2)


def solar_elevation(unix: Floats, climate: Climate) -> Floats:
    """Return the sun's elevation in radians at instants in seconds since 1970.

    Low-precision formulas of the Astronomical Almanac (page C5, good to 0.01 degrees for 1950-2050).
    """
    days = (unix - _J2000) / _SECONDS_PER_DAY
    anomaly = np.radians(357.528 + 0.9856003 * days)
    longitude = np.radians(280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.radians(23.439 - 4e-7 * days)
    declination = np.arcsin(np.sin(obliquity) * np.sin(longitude))
    ascension = np.arctan2(np.cos(obliquity) * np.sin(longitude), np.cos(longitude))
    sidereal = np.radians((18.697374558 + 24.06570982441908 * days) * 15 + climate.longitude)
    latitude = np.radians(climate.latitude)
    return np.arcsin(
        np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(sidereal - ascension)
    )


def clear_sky(sine: Floats) -> Floats:
    """Return the irradiance under a clear sky, W/m², from the sine of the elevation (Haurwitz, 1945)."""
    up = np.maximum(sine, 1e-3)
    return np.where(sine > 0, 1098 * up * np.exp(-0.057 / up), 0.0)


def _day_of_year(unix: Floats) -> Floats:
    return (unix / 3600 % _HOURS_PER_YEAR) / 24

"""The time grid of a generated fleet, and its random streams.

Instants inside the generator are *hours*: float64 hours since the first bucket's start; NaN is "never".
"""

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Clock:
    """Buckets ``[start + k * width, start + (k + 1) * width)``, the last of which ends at `end`."""

    start: datetime
    end: datetime
    width_minutes: int

    @classmethod
    def ending(cls, end: datetime, days: int, width_minutes: int) -> "Clock":
        """Return the grid of the `days` before `end`, rounded down to the bucket grid since 1970.

        Raises:
            ValueError: `end` has no time zone, or 24 h are no whole number of buckets.
        """
        if end.tzinfo is None:
            raise ValueError(f"end is {end.isoformat()} without a time zone; give an instant such as 2026-01-01T00:00Z")
        if width_minutes < 1 or 1440 % width_minutes:
            raise ValueError(f"width_minutes is {width_minutes}; it must divide a day, as 10, 15 or 60 do")
        width = width_minutes * 60
        last = datetime.fromtimestamp(int(end.timestamp()) // width * width, UTC)
        return cls(last - timedelta(days=days), last, width_minutes)

    @property
    def width_hours(self) -> float:
        return self.width_minutes / 60

    @property
    def hours(self) -> float:
        """Length of the whole grid, h."""
        return (self.end - self.start) / timedelta(hours=1)

    @property
    def buckets(self) -> int:
        return round(self.hours / self.width_hours)

    @property
    def middles(self) -> Floats:
        """Middle of every bucket, hours; shape (buckets,)."""
        return (np.arange(self.buckets) + 0.5) * self.width_hours

    @property
    def bucket_starts(self) -> Integers:
        """Start of every bucket, seconds since 1970; shape (buckets,)."""
        return int(self.start.timestamp()) + np.arange(self.buckets) * (self.width_minutes * 60)

    def bucket_of(self, hours: Floats) -> Integers:
        """Return the index of the bucket that holds each instant, clipped to 0..buckets."""
        index = np.floor(np.nan_to_num(hours, nan=np.inf) / self.width_hours)
        return np.clip(index, 0, self.buckets).astype(np.int64)

    def instants(self, hours: Floats) -> NDArray[np.datetime64]:
        """Return hours as UTC ``datetime64[us]`` of whole seconds; NaN becomes NaT."""
        seconds = np.round(np.nan_to_num(hours) * 3600).astype("timedelta64[s]")
        instants = (np.datetime64(int(self.start.timestamp()), "s") + seconds).astype("datetime64[us]")
        return np.where(np.isnan(hours), np.datetime64("NaT"), instants)

    def hours_at(self, instants: NDArray[np.datetime64]) -> Floats:
        """Return UTC instants as hours."""
        return (instants - np.datetime64(int(self.start.timestamp()), "s")) / np.timedelta64(1, "h")


def stream(seed: int, *names: str) -> np.random.Generator:
    """Return a random stream of its own for `names`: one part of the fleet does not move another's draws."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def autoregressive(rng: np.random.Generator, shape: tuple[int, ...], memory: float) -> Floats:
    """Return AR(1) series, mean 0 and variance 1, along the last axis; `memory`: time constant in steps."""
    keep = np.exp(-1 / memory)
    series = np.moveaxis(rng.standard_normal(shape), -1, 0).copy()
    series[1:] *= np.sqrt(1 - keep**2)
    for step in range(1, len(series)):
        series[step] += keep * series[step - 1]
    return np.ascontiguousarray(np.moveaxis(series, 0, -1))

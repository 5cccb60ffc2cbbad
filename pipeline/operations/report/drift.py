"""Drift: how far the distribution of a feature is from that of its baseline, by the population stability index (PSI).

PSI = sum over bins of (q - p) ln(q / p), with p the share of the baseline in a bin and q that of now (S. Lewis, An
Introduction to Credit Scoring, 1994). Half a value is added to each count, so that an empty bin has a logarithm. What
chance alone makes of it is about chi-square / n: B. Yurdakul, Statistical Properties of PSI, 2018.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# So many values, at most, have a bin each; of more texts the most frequent ones do.
MOST_VALUES = 20
# A number that stands for fewer assets than this, on average, is a measurement and no category.
_ASSETS_PER_VALUE = 2
NULL, OTHERS, NEW = "NULL", "others", "new"
# Chance alone makes a larger PSI than `of_chance` once in 10,000 comparisons: the quantile of the normal distribution.
_RARE = 3.719


@dataclass(frozen=True)
class Drift:
    """Two distributions over the same bins: how many values of the baseline and of now are in each.

    The bins are those of the baseline: one per value where these are few, else its deciles; then NULL, and for values
    that the baseline does not have `NEW`.
    """

    labels: list[str]
    before: NDArray[np.int64]
    now: NDArray[np.int64]

    @property
    def psi(self) -> float:
        """The population stability index; 0 where one of the two has no row."""
        if not (self.before.sum() and self.now.sum()):
            return 0.0
        p, q = ((each + 0.5) / (each + 0.5).sum() for each in (self.before, self.now))
        return float(np.sum((q - p) * np.log(q / p)))

    @property
    def main_cause(self) -> int:
        """The place of the bin that adds most to the PSI."""
        p, q = ((each + 0.5) / (each + 0.5).sum() for each in (self.before, self.now))
        return int(np.argmax((q - p) * np.log(q / p)))

    def of_chance(self, before: int, now: int) -> float:
        """Return the PSI that samples of so many independent values have by chance alone once in 10,000 times."""
        bins = int(np.count_nonzero(self.before + self.now))
        return _chi_square(bins - 1) * (1 / before + 1 / now) if bins > 1 and before and now else 0.0

    def shares(self, place: int) -> tuple[float, float]:
        """Return which share of the baseline and of now is in the bin at `place`."""
        before, now = (float(each[place] / max(each.sum(), 1)) for each in (self.before, self.now))
        return before, now


def compared(before: pa.ChunkedArray, now: pa.ChunkedArray) -> Drift:
    """Return the drift of `now` against `before`, two columns of one type."""
    known = before.drop_null()
    counts = pc.value_counts(known)
    is_text = not pa.types.is_primitive(before.type)
    if is_text or len(counts) <= min(MOST_VALUES, len(known) // _ASSETS_PER_VALUE):
        return _by_value(before, now, counts)
    return _by_decile(before, now)


def _by_value(before: pa.ChunkedArray, now: pa.ChunkedArray, counts: pa.StructArray) -> Drift:
    values, number = counts.field("values"), counts.field("counts")
    frequent = values.take(pc.array_sort_indices(number, order="descending")[:MOST_VALUES])
    if pa.types.is_primitive(values.type):
        frequent = frequent.take(pc.array_sort_indices(frequent))
    has_others = len(values) > len(frequent)
    labels = [*map(named, frequent.to_pylist()), *([OTHERS] if has_others else []), NEW, NULL]

    def binned(column: pa.ChunkedArray) -> NDArray[np.int64]:
        place = pc.fill_null(pc.index_in(column, value_set=frequent), len(labels) - 2)
        if has_others:
            is_other = pc.and_(pc.equal(place, len(labels) - 2), pc.is_in(column, value_set=values))
            place = pc.if_else(is_other, len(frequent), place)
        place = pc.if_else(column.is_null(), len(labels) - 1, place)
        return np.bincount(place.to_numpy(), minlength=len(labels))

    return Drift(labels, binned(before), binned(now))


def _by_decile(before: pa.ChunkedArray, now: pa.ChunkedArray) -> Drift:
    values = numbers(before)
    edges = np.unique(np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf"))
    ends = [named(float(edge)) for edge in edges]
    labels = [f"up to {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), f"above {ends[-1]}"]

    def binned(column: pa.ChunkedArray) -> NDArray[np.int64]:
        place = np.searchsorted(edges, numbers(column), side="left")
        return np.append(np.bincount(place, minlength=len(labels)), column.null_count)

    return Drift([*labels, NULL], binned(before), binned(now))


def numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return the values of a numeric column as doubles, without its NULLs."""
    return np.asarray(column.drop_null().cast(pa.float64()), dtype=np.float64)


def histograms(columns: Sequence[NDArray[np.float64]], bins: int = 24) -> tuple[list[NDArray[np.int64]], float, float]:
    """Return histograms of equal width over one axis, and where that begins and ends.

    The axis goes from the smallest to the largest value of all, but for the outermost thousandth at each end, whose
    values are in the first and the last bin.
    """
    known = [column for column in columns if len(column)]
    if not known:
        return [np.zeros(bins, dtype=np.int64) for _ in columns], 0.0, 0.0
    first = float(min(np.quantile(column, 0.001, method="inverted_cdf") for column in known))
    last = float(max(np.quantile(column, 0.999, method="inverted_cdf") for column in known))
    if first == last:
        last = first + (abs(first) or 1.0) * 0.1
    return [np.histogram(np.clip(column, first, last), bins, (first, last))[0] for column in columns], first, last


def named(value: object) -> str:
    """Return a value as people read it: a number with three or so digits."""
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 1000 or value == int(value) else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _chi_square(degrees: int) -> float:
    """Return the quantile of the chi-square distribution that is exceeded once in 10,000 times (Wilson, Hilferty)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + _RARE * math.sqrt(spread)) ** 3

"""The availability of assets, time based, against the others of their site, and how much their power varies.

The idea is that of IEC 61400-26 and IEC TS 63019: where the site's own conditions or missing information keep an asset
from producing, that is no downtime.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

POWER = pa.schema(
    [
        ("asset", pa.string()),
        ("site", pa.string()),
        ("metric", pa.uint8()),
        ("peaks", pa.list_(pa.float64())),
        ("early_peaks", pa.list_(pa.float64())),
        ("starts", pa.list_(pa.uint32())),
        ("averages", pa.list_(pa.float64())),
    ]
)
"""Rows of assets, each at one site and under one name of power, the preferred one the lowest `metric`.

`starts` (seconds since 1970) and `averages` (kW) are of buckets with power data, those of the last 30 d before the
earliest instant at least. `peaks` are the largest averages (kW) of each day of 24 h before the last instant, the last
day first, NULL without power data; `early_peaks` the same without the buckets that end in the next day.
"""

DAY = 86_400
# In days.
_WINDOWS = (7, 30)
# What `availabilities` returns, in this order.
COLUMNS = ("availability_7d", "availability_30d", "power_variation_1d")
# So many buckets are judged at a time: memory depends on it, not on the fleet.
_BUCKETS_AT_ONCE = 5_000_000


@dataclass(frozen=True)
class Instant:
    """An as-of instant: how many days it lies before the last one, and the bounds of windows and buckets (s from 1970).

    `ceiling` is the instant in whole seconds rounded up, from which windows reach back; `last_start` the latest start
    of a bucket, `width` seconds wide, that has ended.
    """

    days_ago: int
    ceiling: int
    last_start: int
    width: int


def availabilities(power: pa.Table, instants: Sequence[Instant]) -> tuple[pa.Array, NDArray[np.float64]]:
    """Return the assets of `power` and an array [instant, column, asset] of the `COLUMNS`, NaN where there is no value.

    `power` is a table as `POWER`. An asset produces in a bucket when its average is above 0 and above 1 % of its usual
    daily peak. A bucket is productive for it when at least half of the others that have power data in it at its site
    produce; it counts where at least two others have power data at that site in the 90 d. Availability is the share of
    the productive buckets in which the asset produces. The variation of power is the highest less the lowest average of
    the last day over the larger of their amounts: of assets with at least half a day of power data there, some of it
    beyond 1 % of the usual daily peak in amount, which is standstill.
    """
    if not power.num_rows:
        return power["asset"].combine_chunks(), np.empty((len(instants), len(COLUMNS), 0))
    asset, site = (pc.dictionary_encode(power[name].combine_chunks()) for name in ("asset", "site"))
    by_site = np.argsort(site.indices.to_numpy(), kind="stable")
    series = _Series(
        asset=asset.indices.to_numpy()[by_site],
        site=site.indices.to_numpy()[by_site],
        metric=power["metric"].to_numpy()[by_site],
        peaks=_matrix(power["peaks"])[by_site],
        early_peaks=_matrix(power["early_peaks"])[by_site],
        assets=len(asset.dictionary),
    )
    lengths = pc.list_value_length(power["starts"]).to_numpy()[by_site]
    judgements = [_judgement(series, instant.days_ago) for instant in instants]
    # [instant, window, productive or also produced in, asset]
    counts = np.zeros((len(instants), len(_WINDOWS), 2, series.assets), dtype=np.int64)
    last_days = [_LastDay(series.assets) for _ in instants]
    for first, end in _whole_sites(series.site, lengths):
        buckets = _buckets(power.take(by_site[first:end]), series.site[first:end], first)
        for number, instant in enumerate(instants):
            counts[number] += _counts(series, buckets, judgements[number], instant, last_days[number])
    with np.errstate(invalid="ignore"):
        shares = counts[:, :, 1] / counts[:, :, 0]
        variations = [day.variation(instant) for day, instant in zip(last_days, instants, strict=True)]
    return asset.dictionary, np.concatenate([shares, np.array(variations)[:, np.newaxis]], axis=1)


@dataclass(frozen=True)
class _Series:
    """The rows of `POWER` but for their buckets: numbers of asset and site, and peaks as [row, day], NaN for none."""

    asset: NDArray[np.int32]
    site: NDArray[np.int32]
    metric: NDArray[np.uint8]
    peaks: NDArray[np.float64]
    early_peaks: NDArray[np.float64]
    assets: int


@dataclass(frozen=True)
class _Judgement:
    """As of an instant: which rows count, which of them are judged, and the power above which the asset produces."""

    counts: NDArray[np.bool_]
    is_judged: NDArray[np.bool_]
    threshold: NDArray[np.float64]


@dataclass(frozen=True)
class _Buckets:
    """Buckets of some sites, sorted by start: the row of each, its start and average, and the number of its place.

    A place is a start at a site; their numbers grow with the start.
    """

    row: NDArray[np.int64]
    start: NDArray[np.uint32]
    average: NDArray[np.float64]
    place: NDArray[np.int64]

    def only(self, which: slice | NDArray[np.bool_]) -> "_Buckets":
        """Return those of them."""
        return _Buckets(self.row[which], self.start[which], self.average[which], self.place[which])


class _LastDay:
    """The highest and the lowest average power of each asset in a day, and the number of its buckets."""

    def __init__(self, assets: int) -> None:
        self._lowest, self._highest = np.full(assets, np.inf), np.full(assets, -np.inf)
        self._buckets = np.zeros(assets, dtype=np.int64)
        self._standstill = np.zeros(assets)

    def add(self, asset: NDArray[np.int32], average: NDArray[np.float64], threshold: NDArray[np.float64]) -> None:
        np.minimum.at(self._lowest, asset, average)
        np.maximum.at(self._highest, asset, average)
        self._standstill[asset] = threshold
        self._buckets += np.bincount(asset, minlength=len(self._buckets))

    def variation(self, instant: Instant) -> NDArray[np.float64]:
        largest = np.maximum(np.abs(self._lowest), np.abs(self._highest))
        is_known = (2 * self._buckets * instant.width >= DAY) & (largest > self._standstill)
        variation: NDArray[np.float64] = np.where(is_known, (self._highest - self._lowest) / largest, np.nan)
        return variation


def _matrix(lists: pa.ChunkedArray) -> NDArray[np.float64]:
    flat: NDArray[np.float64] = pc.list_flatten(lists).to_numpy()
    return flat.reshape(len(lists), -1)


def _judgement(series: _Series, days_ago: int) -> _Judgement:
    """Judge by the 90 d before the instant: the first of its days ends there, so what ends later is not in it."""
    peaks = np.column_stack([series.early_peaks[:, days_ago], series.peaks[:, days_ago + 1 : days_ago + 90]])
    has_power = ~np.isnan(peaks).all(axis=1)
    preferred = np.full(series.assets, np.iinfo(np.uint8).max, dtype=np.uint8)
    np.minimum.at(preferred, series.asset[has_power], series.metric[has_power])
    counts = has_power & (series.metric == preferred[series.asset])
    # of all sites of an asset together
    peaks_of_assets = pd.DataFrame(peaks[counts]).groupby(series.asset[counts]).max()
    threshold = np.full(series.assets, np.nan)
    threshold[peaks_of_assets.index] = np.maximum(_lower_median(peaks_of_assets.to_numpy()) / 100, 0)
    pairs = np.unique(series.site[counts].astype(np.int64) << 32 | series.asset[counts])
    assets_at_site = np.bincount(pairs >> 32, minlength=series.site.max(initial=0) + 1)
    return _Judgement(counts, counts & (assets_at_site[series.site] > 2), threshold[series.asset])


def _lower_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower median of each row but for its NaN; NaN where there is nothing else."""
    known = np.sum(~np.isnan(values), axis=1)
    middle = np.maximum(known - 1, 0) // 2
    lower: NDArray[np.float64] = np.sort(values, axis=1)[np.arange(len(values)), middle]  # NaN comes last
    return lower


def _whole_sites(site: NDArray[np.int32], buckets: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Yield the first and the end of groups of rows, sorted by site, of some `_BUCKETS_AT_ONCE` or one larger site."""
    ends = np.flatnonzero(np.diff(site, append=-1)) + 1
    before = np.concatenate([[0], np.cumsum(buckets, dtype=np.int64)])
    first = 0
    while first < len(site):
        next_site = np.searchsorted(ends, first, side="right")
        last_site = np.searchsorted(before[ends], before[first] + _BUCKETS_AT_ONCE, side="right") - 1
        end = int(ends[max(next_site, last_site)])
        yield first, end
        first = end


def _buckets(rows: pa.Table, site: NDArray[np.int32], first: int) -> _Buckets:
    lengths = pc.list_value_length(rows["starts"]).to_numpy()
    start = pc.list_flatten(rows["starts"]).to_numpy()
    by_start = np.argsort(start, kind="stable")
    start = start[by_start]
    row = np.repeat(np.arange(len(lengths)), lengths)[by_start]
    place, _ = pd.factorize(site[row].astype(np.int64) << 32 | start)
    return _Buckets(row + first, start, pc.list_flatten(rows["averages"]).to_numpy()[by_start], place)


def _counts(
    series: _Series, buckets: _Buckets, judgement: _Judgement, instant: Instant, last_day: _LastDay
) -> NDArray[np.int64]:
    """Return per asset the productive buckets and those of them in which it produced: [window, which, asset]."""
    window = slice(
        _place_of(instant.ceiling - max(_WINDOWS) * DAY, buckets.start),
        _place_of(instant.last_start + 1, buckets.start),
    )
    taken = buckets.only(window)
    if not (counts := judgement.counts[taken.row]).all():
        taken = taken.only(counts)
    row, start, average = taken.row, taken.start, taken.average
    asset, threshold = series.asset[row], judgement.threshold[row]
    late = slice(_place_of(instant.ceiling - DAY, start), None)
    last_day.add(asset[late], average[late], threshold[late])
    place = taken.place - taken.place.min(initial=0)  # so that counts are of the places in the window alone
    produces = average > threshold
    present, producing = np.bincount(place), np.bincount(place[produces], minlength=place.max(initial=-1) + 1)
    # twice the producing others less the others: of the bucket of an asset that does not produce, and never without any
    surplus = np.where(present > 1, 2 * producing - present + 1, -1)
    productive = judgement.is_judged[row] & (surplus[place] >= 2 * produces)
    both = productive, productive & produces
    in_windows = [slice(_place_of(instant.ceiling - days * DAY, start), None) for days in _WINDOWS]
    return np.array(
        [[np.bincount(asset[since][which[since]], minlength=series.assets) for which in both] for since in in_windows]
    )


def _place_of(bound: int, starts: NDArray[np.uint32]) -> int:
    """Return where in `starts`, which are sorted, the first one from `bound` on is."""
    return int(np.searchsorted(starts, np.uint32(max(bound, 0))))

"""Reading the telemetry of ClickHouse: a first look at what is there, then the rows of its views.

It is read in groups of whole sites where it is much: memory then depends on the size of a group, not of the fleet. The
availability of an asset looks at the others of its site, so a site must not be divided; nor two sites between which an
asset has moved.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import heapreplace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.availability import COLUMNS, POWER, Instant, availabilities
from pipeline.base.errors import PipelineError
from pipeline.base.specs import SPECS, TIMESTAMP
from pipeline.sources.clickhouse import ClickHouseSource
from pipeline.sources.extract import backfill_query_of, query_of
from pipeline.sources.queries import FRAGMENTS, NOTHING, query_text

logger = logging.getLogger(__name__)

_SQL = Path(__file__).parent / "sql"
BUCKET_GAPS = query_text(_SQL / "bucket_gaps.sql")
ROWS_OF_SITES = query_text(_SQL / "rows_of_sites.sql")
SURVEY = query_text(_SQL / "telemetry_survey.sql")
NARROW_ASSETS = query_text(_SQL / "narrow_assets.sql")
# What the SQL of one instant says of power, of each name that an asset has reported, in the columns of `POWER`.
POWER_BY_NAME = pa.field(
    "power_by_name",
    pa.list_(
        pa.struct(
            [
                POWER.field("metric"),
                pa.field("sites", pa.list_(pa.string())),
                *map(POWER.field, ("peaks", "starts", "averages")),
            ]
        )
    ),
)
# Where no bucket is stored twice, ClickHouse need not understand what would become of copies, and reads in order.
_WITHOUT_COPIES = {"telemetry_parts": "telemetry_parts_alone", "telemetry_stored": "telemetry_alone"}
_BUCKET_GAPS_SCHEMA = pa.schema([(name, pa.int64()) for name in ("gaps", "series", "narrower", "matching", "typical")])
_ROWS_OF_SITES_SCHEMA = pa.schema([("sites", pa.list_(pa.string())), ("row_count", pa.int64())])
_SURVEY_SCHEMA = pa.schema([("row_count", pa.int64()), ("blocks_with_copies", pa.list_(pa.int64()))])
_NARROW_ASSETS_SCHEMA = pa.schema([("event_timestamp", TIMESTAMP), ("asset_id", pa.string())])

# Fewer distances between buckets than this prove nothing: a new site, or a site that was silent.
_ENOUGH_GAPS = 20
# So many telemetry rows are read by one query, more in groups of sites. The first are a little more than the 90 d of
# 50,000 assets with five hourly metrics; the second make up for the rows of up to 92 instants.
ROWS_PER_QUERY = 600_000_000
ROWS_PER_BACKFILL_QUERY = 20_000_000
# So many assets are named in a warning.
NAMED = 3

# Sites that share assets, each set with its rows.
SetsOfSites = Sequence[tuple[Sequence[str], int]]
# The site of no asset.
_NO_SITE = "ffffffff-ffff-ffff-ffff-ffffffffffff"

WINDOW = timedelta(days=90)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALMOST_A_SECOND = timedelta(microseconds=999_999)


def extract_telemetry(
    source: ClickHouseSource, view: str, as_of: datetime, bucket_seconds: int, share: SetsOfSites | None = None
) -> pa.Table:
    """Return `read_telemetry` of one instant; where there is no telemetry at all, no rows and a warning.

    Raises `PipelineError` also where its buckets are not `bucket_seconds` wide.
    """
    check_bucket_width(source, as_of, bucket_seconds)
    table = read_telemetry(source, view, [as_of], bucket_seconds, share)
    return table if share is not None else with_telemetry(view, table, as_of)


def with_telemetry(view: str, table: pa.Table, as_of: datetime) -> pa.Table:
    """Return `table`, the rows of `view` as of `as_of`; warn where it has none."""
    if not table.num_rows:
        logger.warning(
            "%s: ClickHouse holds no telemetry in the 90 d before %s, so no asset has a row: check "
            "CLICKHOUSE_DATABASE, the ingestion and the as-of instant",
            view,
            as_of.isoformat(),
            extra={"view": view},
        )
    return table


def read_telemetry(
    source: ClickHouseSource,
    view: str,
    instants: Sequence[datetime],
    bucket_seconds: int,
    share: SetsOfSites | None = None,
) -> pa.Table:
    """Return one row of `view` per instant and asset with telemetry in the 90 d before it, known to PostgreSQL or not.

    Views of one SQL are read in one pass: the second gets the rows of the first. With a `share` of `shares_of_sites`
    the assets are those at its sites.

    The `instants` must be whole days (24 h) apart. Columns as the spec's `extracted_schema`, and those of
    `features.availability` where the view has them. An asset whose buckets are narrower than `bucket_seconds` in the
    90 d before an instant has no row there, and a warning names it. Raises `PipelineError` where a query fails.
    """
    view = SPECS[view].rows_of
    if source.last_read and source.last_read[0] == (view, *instants, bucket_seconds):
        return source.last_read[1]
    source.last_read = None  # its rows would stay while others are read
    last = max(instants)
    offsets = [(last - instant) // DAY for instant in instants]
    bounds = _bounds(instants, bucket_seconds)
    most = ROWS_PER_QUERY if len(instants) == 1 else ROWS_PER_BACKFILL_QUERY
    tables = []
    for sites in [[]] if share is None else grouped(share, most) or [[_NO_SITE]]:
        survey = survey_telemetry(source, **bounds, bucket_seconds=bucket_seconds, sites=sites)
        parameters = query_parameters(last, offsets, bucket_seconds, survey.blocks_with_copies) | {"sites": sites}
        is_much = share is None and survey.rows > most
        groups = site_groups(source, **bounds, rows_per_group=most) if is_much else [sites]
        table = pa.concat_tables(_read_sites(source, view, parameters | {"sites": group}) for group in groups)
        if survey.blocks_with_copies:
            table = _without_narrow_assets(source, view, table, parameters | bounds)
        tables.append(table)
    table = pa.concat_tables(tables)
    source.last_read = (view, *instants, bucket_seconds), table
    return table


def _bounds(instants: Sequence[datetime], bucket_seconds: int) -> dict[str, datetime]:
    """Return the earliest start of a bucket that some window may hold, and the latest: they are whole seconds."""
    return {
        "first_start": (min(instants) + _ALMOST_A_SECOND).replace(microsecond=0) - WINDOW,
        "last_start": max(instants).replace(microsecond=0) - timedelta(seconds=bucket_seconds),
    }


def query_parameters(
    last: datetime, offsets: Sequence[int], bucket_seconds: int, blocks_with_copies: Sequence[int]
) -> dict[str, Any]:
    """Return the parameters of the SQL of telemetry, for all sites; `offsets` are the days from each instant to `last`.

    The `blocks_with_copies` are those of a `Survey`.
    """
    return {
        "as_of": last,
        "offsets": list(offsets),
        "days": WINDOW.days + max(offsets),
        "bucket_seconds": bucket_seconds,
        "blocks_with_copies": list(blocks_with_copies),
        "sites": [],
    }


def _read_sites(source: ClickHouseSource, view: str, parameters: dict[str, Any]) -> pa.Table:
    """Return the rows of some sites, or of all."""
    schema, fragments = SPECS[view].extracted_schema, _fragments(parameters)
    is_single = parameters["offsets"] == [0]
    query = query_of(view, fragments) if is_single else backfill_query_of(view, fragments)
    if COLUMNS[0] not in SPECS[view].computed:
        return source.stream(query, parameters, schema)
    rows = source.stream(query, parameters, schema.append(POWER_BY_NAME) if is_single else schema)
    power = _power_of(rows, source, parameters) if is_single else _read_power(source, parameters)
    rows = rows.select(schema.names)  # the arrays of power are large
    return _with_availabilities(rows, power, parameters)


def _read_power(source: ClickHouseSource, parameters: Mapping[str, Any]) -> pa.Table:
    query = query_text(FRAGMENTS / "telemetry_power.sql", _fragments(parameters))
    return source.stream(query, parameters, POWER)


def _fragments(parameters: Mapping[str, Any]) -> Mapping[str, str]:
    """Return which fragments stand for others: where there are no copies, none of the SQL is of them."""
    return NOTHING if parameters["blocks_with_copies"] else _WITHOUT_COPIES


def _power_of(rows: pa.Table, source: ClickHouseSource, parameters: Mapping[str, Any]) -> pa.Table:
    """Return the `POWER` in `rows` of one instant.

    They do not say which of it was at which of the sites of an asset that has moved: its sites are read again.
    """
    by_name = rows[POWER_BY_NAME.name].combine_chunks()
    power = pa.Table.from_struct_array(by_name.flatten())
    power = power.append_column("asset", rows["asset_id"].take(pc.list_parent_indices(by_name)))
    # no bucket that is read ends after the only instant
    power = power.append_column("early_peaks", power["peaks"])
    assets = pc.unique(power["asset"].filter(pc.greater(pc.list_value_length(power["sites"]), 1)))
    has_moved = pc.is_in(power["asset"], value_set=assets)
    # of each name: one may be of a site where the others are not
    sites = pc.unique(pc.list_flatten(power["sites"].filter(has_moved)))
    power = power.append_column("site", pc.list_element(power["sites"], 0)).select(POWER.names).cast(POWER)
    if not len(assets):
        return power
    at_sites = _read_power(source, {**parameters, "sites": sites.to_pylist()})
    moved = at_sites.filter(pc.is_in(at_sites["asset"], value_set=assets))
    return pa.concat_tables([power.filter(pc.invert(has_moved)), moved])


def _with_availabilities(rows: pa.Table, power: pa.Table, parameters: dict[str, Any]) -> pa.Table:
    """Return `rows` with the `COLUMNS` of `features.availability`, of the `power` of all assets of their sites."""
    as_ofs = [parameters["as_of"] - days * DAY for days in parameters["offsets"]]
    instants = [
        Instant(
            days_ago=days,
            ceiling=-((EPOCH - as_of) // SECOND),
            last_start=(as_of - EPOCH) // SECOND - parameters["bucket_seconds"],
            width=parameters["bucket_seconds"],
        )
        for days, as_of in zip(parameters["offsets"], as_ofs, strict=True)
    ]
    assets, values = availabilities(power, instants)
    values = np.pad(values, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)  # the last one is for all others
    asset = pc.index_in(rows["asset_id"], value_set=assets).fill_null(len(assets)).to_numpy()
    number = pc.index_in(rows["event_timestamp"], value_set=pa.array(as_ofs, TIMESTAMP)).to_numpy()
    for place, name in enumerate(COLUMNS):
        column = pa.array(values[number, place, asset], pa.float32(), from_pandas=True)
        rows = rows.append_column(name, column)
    return rows


def _without_narrow_assets(
    source: ClickHouseSource, view: str, table: pa.Table, parameters: Mapping[str, Any]
) -> pa.Table:
    """Return `table` without the rows of assets whose buckets are too narrow as of the instant, and name those."""
    narrow = source.stream(NARROW_ASSETS, parameters, _NARROW_ASSETS_SCHEMA)
    if not narrow.num_rows:
        return table
    assets = pc.unique(narrow["asset_id"]).sort().to_pylist()
    logger.warning(
        "%s: %d assets have buckets that are narrower than TELEMETRY_BUCKET_MINUTES (%d), and no row: %s",
        view,
        len(assets),
        parameters["bucket_seconds"] // 60,
        ", ".join(assets[:NAMED]) + (", ..." if len(assets) > NAMED else ""),
        extra={"view": view},
    )
    is_narrow = pc.is_in(_row_keys(table), value_set=_row_keys(narrow).combine_chunks())
    return table.filter(pc.invert(is_narrow))


def _row_keys(rows: pa.Table) -> pa.ChunkedArray:
    """Return what tells rows of all assets and instants apart, as text."""
    instant = rows["event_timestamp"].cast(pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(rows["asset_id"], instant, " ")


# the width of buckets -------------------------------------------------------------------------------------------------


def check_bucket_width(source: ClickHouseSource, as_of: datetime, bucket_seconds: int) -> None:
    """Raise `PipelineError` where the buckets before `as_of` are plainly narrower or wider than `bucket_seconds`.

    Narrower: in most series most buckets would overlap their successor. Wider: no two successive buckets are
    `bucket_seconds` apart.
    """
    parameters = {"as_of": as_of, "bucket_seconds": bucket_seconds}
    (row,) = source.stream(BUCKET_GAPS, parameters, _BUCKET_GAPS_SCHEMA).to_pylist()
    if row["gaps"] < _ENOUGH_GAPS:
        return
    if 2 * row["narrower"] > row["series"] or (row["matching"] == 0 and row["typical"] > bucket_seconds):
        raise PipelineError(
            f"ClickHouse: successive telemetry buckets are {row['typical'] / 60:g} minutes apart, but "
            f"TELEMETRY_BUCKET_MINUTES is {bucket_seconds // 60}: set it to the width of the buckets"
        )


# how much there is, and where it is stored twice ----------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """How many rows there are, and the blocks of 64 cells of the clock grid in which a bucket may be stored twice.

    The number of a block is that of its first cell, counted from 1970 in widths of a bucket, divided by 64.
    """

    rows: int
    blocks_with_copies: list[int]


def survey_telemetry(
    source: ClickHouseSource,
    first_start: datetime,
    last_start: datetime,
    bucket_seconds: int,
    sites: Sequence[str] = (),
) -> Survey:
    """Return the survey of the buckets that start from `first_start` to `last_start`, both inclusive, whole seconds.

    It is of some `sites`, or of all. Two buckets off the clock grid that share a cell of it look like copies: that
    costs time and changes nothing. Raises `PipelineError` where the query fails.
    """
    parameters = {
        "first_start": first_start,
        "last_start": last_start,
        "bucket_seconds": bucket_seconds,
        "sites": list(sites),
    }
    (row,) = source.stream(SURVEY, parameters, _SURVEY_SCHEMA).to_pylist()
    return Survey(rows=row["row_count"], blocks_with_copies=row["blocks_with_copies"])


# groups of sites ------------------------------------------------------------------------------------------------------


def site_groups(
    source: ClickHouseSource, first_start: datetime, last_start: datetime, rows_per_group: int
) -> list[list[str]]:
    """Return groups of site ids that may be read one after the other, for the buckets that start in these bounds.

    A group has some `rows_per_group` rows, or one larger set of connected sites. Raises `PipelineError` where the query
    fails.
    """
    return grouped(_sets_of_sites(source, first_start, last_start), rows_per_group)


def shares_of_sites(source: ClickHouseSource, as_of: datetime, bucket_seconds: int, count: int) -> list[SetsOfSites]:
    """Return the sites with telemetry in the 90 d before `as_of` in `count` shares of about as many rows.

    Sites that share assets are in one of them. Raises `PipelineError` where the query fails.
    """
    shares: list[list[tuple[Sequence[str], int]]] = [[] for _ in range(count)]
    rows = [(0, number) for number in range(count)]
    sets = _sets_of_sites(source, **_bounds([as_of], bucket_seconds))
    for sites, size in sorted(sets, key=lambda entry: entry[1], reverse=True):  # the largest first, to the smallest
        total, number = rows[0]
        shares[number].append((sites, size))
        heapreplace(rows, (total + size, number))
    return list(shares)


def _sets_of_sites(source: ClickHouseSource, first_start: datetime, last_start: datetime) -> SetsOfSites:
    parameters = {"first_start": first_start, "last_start": last_start}
    rows = source.stream(ROWS_OF_SITES, parameters, _ROWS_OF_SITES_SCHEMA).to_pylist()
    return connected((row["sites"], row["row_count"]) for row in rows)


def grouped(sets: SetsOfSites, rows_per_group: int) -> list[list[str]]:
    """Return the sites of `sets` in groups of some `rows_per_group` rows, or one larger set."""
    groups: list[list[str]] = []
    room = 0
    for sites, count in sets:
        if not groups or count > room:
            groups.append([])
            room = rows_per_group
        groups[-1].extend(sites)
        room -= count
    return groups


def connected(counts: Iterable[tuple[Sequence[str], int]]) -> list[tuple[list[str], int]]:
    """Return the sets of sites that share assets, sorted, each with the sum of its counts."""
    sets: dict[str, tuple[set[str], int]] = {}
    for sites, count in counts:
        members, total = set(sites), count
        # members of one set share one entry, so its identity tells the sets apart
        for known, number in {id(sets[site]): sets[site] for site in sites if site in sets}.values():
            members |= known
            total += number
        merged = (members, total)
        sets.update(dict.fromkeys(members, merged))
    return sorted((sorted(members), total) for members, total in {id(entry): entry for entry in sets.values()}.values())

"""Telemetry in groups of whole sites: memory then depends on the size of a group, not of the fleet.

The availability of an asset looks at the others of its site, so a site must not be divided; nor two sites between
which an asset has moved.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import pyarrow as pa

from pipeline.sources.clickhouse import ClickHouseSource

# How many rows there are of the assets that have been at the same sites: nearly always one site each.
_SITES = """
select
    arrayMap(site -> toString(site), sites) as sites,
    toInt64(sum(asset_rows)) as row_count
from (
    select
        arraySort(groupUniqArray(site_id)) as sites,
        count() as asset_rows
    from telemetry_aggregates
    where
        time_bucket >= {first_start:DateTime('UTC')}
        and time_bucket <= {last_start:DateTime('UTC')}
    group by asset_id
)
group by sites
order by sites
"""
_SCHEMA = pa.schema([("sites", pa.list_(pa.string())), ("row_count", pa.int64())])


def site_groups(
    source: ClickHouseSource, first_start: datetime, last_start: datetime, rows_per_group: int
) -> list[list[str]]:
    """Return groups of site ids that may be read one after the other, for the buckets that start in these bounds.

    A group has some `rows_per_group` rows, or one larger set of connected sites. Raises `PipelineError` where the query
    fails.
    """
    rows = source.stream(_SITES, {"first_start": first_start, "last_start": last_start}, _SCHEMA).to_pylist()
    groups: list[list[str]] = []
    room = 0
    for sites, count in connected((row["sites"], row["row_count"]) for row in rows):
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

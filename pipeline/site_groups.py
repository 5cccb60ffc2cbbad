"""Telemetry in groups of whole sites: memory then depends on the size of a group, not of the fleet.

The availability of an asset looks at the others of its site, so a site must not be divided; nor two sites between
which an asset has moved.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from pipeline.clickhouse import ClickHouseSource

ASSETS_PER_GROUP = 1_000

# How many assets have been at which sites: nearly always one site each.
_SITES = """
select
    arrayMap(site -> toString(site), sites) as sites,
    toInt64(count()) as assets
from (
    select arraySort(groupUniqArray(site_id)) as sites
    from telemetry_aggregates
    where
        time_bucket >= toDateTime({start:DateTime64(6, 'UTC')}, 'UTC')
        and time_bucket <= toDateTime({end:DateTime64(6, 'UTC')}, 'UTC')
    group by asset_id
)
group by sites
order by sites
"""
_SCHEMA = pa.schema([("sites", pa.list_(pa.string())), ("assets", pa.int64())])


def site_groups(source: ClickHouseSource, first: datetime, last: datetime) -> list[list[str]]:
    """Return groups of site ids that may be read one after the other for instants from `first` to `last`.

    A group has `ASSETS_PER_GROUP` assets, or one larger set of connected sites. An empty group stands for all sites.
    Raises `PipelineError` where the query fails.
    """
    rows = source.stream(_SITES, {"start": first - timedelta(days=90), "end": last}, _SCHEMA).to_pylist()
    groups: list[list[str]] = []
    room = 0
    for sites, assets in connected((row["sites"], row["assets"]) for row in rows):
        if not groups or assets > room:
            groups.append([])
            room = ASSETS_PER_GROUP
        groups[-1].extend(sites)
        room -= assets
    return groups if len(groups) > 1 else [[]]


def connected(counts: Iterable[tuple[Sequence[str], int]]) -> list[tuple[list[str], int]]:
    """Return the sets of sites that share assets, sorted, each with its number of assets."""
    sets: dict[str, tuple[set[str], int]] = {}
    for sites, assets in counts:
        members, total = set(sites), assets
        # members of one set share one entry, so its identity tells the sets apart
        for known, number in {id(sets[site]): sets[site] for site in sites if site in sets}.values():
            members |= known
            total += number
        merged = (members, total)
        sets.update(dict.fromkeys(members, merged))
    return sorted((sorted(members), total) for members, total in {id(entry): entry for entry in sets.values()}.values())

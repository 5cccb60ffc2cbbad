"""How fresh a view is, as a whole and at each site: its snapshot, the facts it rests on, what is online."""

from datetime import datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
from feast import FeatureStore, Field

from pipeline.base.clock import duration
from pipeline.base.specs import VIEWS
from pipeline.online.freshness import SAMPLE, event_timestamps
from pipeline.operations.report.facts import Freshness
from pipeline.operations.report.judging import (
    AGE,
    FEW,
    ONLINE,
    ROWS,
    ROWS_ALARM,
    ROWS_WARN,
    SOURCE,
    Finding,
    Level,
    percent,
)
from pipeline.registry.feast_store import find_view

_HOURS = {"hours": timedelta(hours=1), "days": timedelta(days=1)}
# `now` and `before` have the asset_id and the site of each row, `now` also the age of its newest fact.
_BY_SITE = """
    select
        coalesce(now.site, before.site) as site,
        coalesce(now.asset_rows, 0) as asset_rows,
        before.asset_rows as asset_rows_before,
        now.youngest as youngest
    from (select site, count(*) as asset_rows, min(age) as youngest from now_rows group by site) as now
    full join (select site, count(*) as asset_rows from before_rows group by site) as before on now.site = before.site
    order by site
"""
_SOME_OF_EACH_SITE = """
    select asset_id, site
    from (select asset_id, site, random() as chance from now_rows)
    qualify row_number() over (partition by site order by chance) <= $each
"""

# As of when some assets of a site are online, None for one that is not.
Online = dict[str, list[datetime | None]]


def with_sites(view: str, rows: pa.Table, sites: pa.ChunkedArray) -> pa.Table:
    """Return asset_id, site ('' where it is unknown) and age of the newest fact of each row of a view.

    The age is in the unit of the feature that tells it, NULL where the view has none.
    """
    source = source_feature(view)
    age = rows[source.name] if source else pa.nulls(rows.num_rows, pa.float64())
    return pa.table({"asset_id": rows["asset_id"], "site": sites.fill_null(""), "age": age})


def freshness(
    view: str, instant: datetime, now: pa.Table, before: pa.Table | None, online: Online, newest_source: datetime | None
) -> tuple[Freshness, list[Freshness]]:
    """Return how fresh a view is as a whole, and at each site; `now` and `before` are as `with_sites` returns them.

    `newest_source` is for a view whose rows do not tell it themselves.
    """
    with duckdb.connect() as engine:
        engine.register("now_rows", now)
        engine.register("before_rows", now.slice(0, 0) if before is None else before)
        by_site = engine.sql(_BY_SITE).fetchall()
    source = source_feature(view)
    sites = [
        Freshness(
            view,
            site,
            rows,
            None if before is None else rows_before or 0,
            instant if rows else None,
            instant - youngest * _HOURS[source.tags["unit"]] if source and youngest is not None else None,
            *_of_online(online.get(site, [])),
        )
        for site, rows, rows_before, youngest in by_site
    ]
    newest = max((site.newest_source for site in sites if site.newest_source), default=newest_source)
    all_online = _of_online([stamp for stamps in online.values() for stamp in stamps])
    rows_before = None if before is None else before.num_rows
    return Freshness(view, "", now.num_rows, rows_before, instant, newest, *all_online), sites


def online_by_site(store: FeatureStore, view: str, rows: pa.Table) -> Online | None:
    """Return what is online of some assets of each site, chosen at random; None for a view that was never published.

    Raises `PipelineError` where the registry or the online store is out of reach.
    """
    registered = find_view(store, view)
    if registered is None or not registered.most_recent_end_time:
        return None
    with duckdb.connect() as engine:
        engine.register("now_rows", rows)
        sites = engine.sql("select count(distinct site) from now_rows").fetchall()[0][0]
        each = max(FEW, SAMPLE // max(sites, 1))
        chosen = engine.sql(_SOME_OF_EACH_SITE, params={"each": each}).to_arrow_table()
    stamps = event_timestamps(store, registered, chosen["asset_id"].to_pylist())
    found: Online = {}
    for site, stamp in zip(chosen["site"].to_pylist(), stamps, strict=True):
        found.setdefault(site, []).append(stamp)
    return found


def _of_online(stamps: list[datetime | None]) -> tuple[datetime | None, int, int]:
    known = [stamp for stamp in stamps if stamp]
    return min(known, default=None), len(stamps), len(stamps) - len(known)


def source_feature(view: str) -> Field | None:
    """Return the feature that is the time since the newest fact of an asset, where the view has one."""
    return next((each for each in VIEWS[view].features if "source_limit_hours" in each.tags), None)


def _source_limit(view: str) -> timedelta:
    source = source_feature(view)
    hours = float(source.tags["source_limit_hours"]) if source else np.inf
    return timedelta(hours=hours) if np.isfinite(hours) else timedelta.max


def on_view(view: Freshness, as_of: datetime, limit: timedelta) -> list[Finding]:
    """Return what is wrong with a view as a whole."""
    found, name = [], view.view
    age = as_of - (view.newest_event or as_of)
    if age > limit:
        said = f"the newest snapshot of {name} is {_age(age)} old: runs fail, or do not come"
        found.append(Finding(Level.ALARM, AGE, name, said, weight=50))
    if view.online and as_of - view.online > limit and view.online < (view.newest_event or as_of):
        said = f"what is online of {name} is {_age(as_of - view.online)} old, its newest snapshot {_age(age)}"
        found.append(Finding(Level.ALARM, ONLINE, name, said, weight=49))
    if view.missing:
        said = f"{view.missing:,} of {view.asked:,} assets of {name} that were looked for are not online"
        found.append(Finding(Level.ALARM, ONLINE, name, said, weight=48))
    if view.rows_before is not None and (loss := view.rows_before - view.rows) >= FEW:
        share = loss / view.rows_before
        if share >= ROWS_WARN:
            said = f"{name} has {view.rows:,} rows, {view.rows_before:,} before: {percent(share)} are gone"
            level = Level.ALARM if share >= ROWS_ALARM else Level.WARNING
            found.append(Finding(level, ROWS, name, said, weight=20 + share))
    return found


def on_site(site: Freshness) -> list[Finding]:
    """Return what is wrong with a view at one site."""
    limit = _source_limit(site.view)
    name, of = site.view, f"site {site.site or 'unknown'}"
    if site.rows_before and not site.rows and site.rows_before >= FEW:
        said = f"{name} has no row of {of} any more, {site.rows_before:,} before"
        return [Finding(Level.ALARM, ROWS, name, said, site=site.site, weight=19)]
    found = []
    if site.rows_before and (loss := site.rows_before - site.rows) >= FEW and loss >= ROWS_ALARM * site.rows_before:
        said = f"{name} has {site.rows:,} rows of {of}, {site.rows_before:,} before"
        found.append(Finding(Level.WARNING, ROWS, name, said, site=site.site, weight=10 + loss / site.rows_before))
    if site.newest_source and site.newest_event and (age := site.newest_event - site.newest_source) > limit / 2:
        level = Level.ALARM if age > limit else Level.WARNING
        said = f"the newest data of {of} in {name} is {_age(age)} old"
        found.append(Finding(level, SOURCE, name, said, site=site.site, weight=15))
    return found


def _age(age: timedelta) -> str:
    return duration(age.total_seconds())

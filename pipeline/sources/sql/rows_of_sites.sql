-- rows_of_sites: how many rows there are of the assets that have been at the same sites, nearly always one site each.
--
-- grain       one row per set of sites
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  first_start, last_start: the buckets that start from the one to the other, both inclusive, in UTC

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

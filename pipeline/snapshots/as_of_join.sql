-- as_of_join: which snapshot holds what was known of an asset at an instant.
--
-- grain       one row per row of entity_rows that one of the snapshots serves: the newest row of its asset that counts
--             at its instant and is not as of an instant before its `oldest`
-- source      entity_rows: entity_row, asset_id, event_timestamp, oldest; snapshots of a view: the keys and times, no
--             feature; both Arrow
-- parameters  live_snapshots: whether a row counts only from when it was `created`
-- engine      DuckDB
-- owner       ml-platform@dcmms.example

with

known as (
    select
        asset_id,
        event_timestamp,
        created,
        case when $live_snapshots then greatest(event_timestamp, created) else event_timestamp end as counts_from
    from snapshots
    where asset_id in (select entity_rows.asset_id from entity_rows)
),

-- What counts from later on but is as of an earlier instant is never the newest: a snapshot that was computed again
-- when the next one was there already. Without these the newest is the one that has counted last.
newest as (
    select *
    from known
    qualify
        event_timestamp >= max(event_timestamp) over (partition by asset_id order by counts_from)
        and row_number() over (partition by asset_id, counts_from order by event_timestamp desc, created desc) = 1
)

select
    entity_rows.entity_row,
    newest.asset_id,
    newest.event_timestamp,
    newest.created
from entity_rows
asof inner join newest
    on entity_rows.asset_id = newest.asset_id and entity_rows.event_timestamp >= newest.counts_from
where newest.event_timestamp >= entity_rows.oldest

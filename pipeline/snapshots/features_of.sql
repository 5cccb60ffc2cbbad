-- features_of: the features of a view for rows whose snapshots are known.
--
-- grain       one row per row of entity_rows, in the order of entity_row; NULLs where none is found
-- source      entity_rows: entity_row; found: as as_of_join returns it; both Arrow. snapshots: the files of which found
--             tells, as an Arrow dataset of the columns that are asked for
-- engine      DuckDB
-- owner       ml-platform@dcmms.example

select snapshots.* exclude (asset_id, event_timestamp, created) -- noqa: ambiguous.column_count
from entity_rows
left join found on entity_rows.entity_row = found.entity_row
asof left join snapshots
    on
        found.asset_id = snapshots.asset_id
        and found.event_timestamp = snapshots.event_timestamp
        and found.created >= snapshots.created
order by entity_rows.entity_row

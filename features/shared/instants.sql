-- instants: as of when the rows of a view are asked for, and where the windows (as_of - w, as_of] begin.
--
-- grain       one row per instant of the setting feature_store.as_of
with

given as (
    select unnest(string_to_array(current_setting('feature_store.as_of'), ','))::timestamptz as as_of
)

-- a day is 24 hours, also where clocks change
select
    as_of,
    as_of - interval '24 hours' as since_1d,
    as_of - interval '168 hours' as since_7d,
    as_of - interval '720 hours' as since_30d,
    as_of - interval '2160 hours' as since_90d,
    as_of - interval '8760 hours' as since_365d
from given

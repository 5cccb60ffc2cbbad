-- telemetry_parts_alone: what series add up to in the blocks in which no bucket is stored twice, in the order of the
-- table.
--
-- grain       two rows at most per tenant, asset and metric: the last 30 d, and what is before
-- source      as telemetry_recent; first_start, start_30d and last_start of the query around
-- parameters  as telemetry_alone
-- owner       ml-platform@dcmms.example

select *
from (
    with
    start_30d as oldest,
    last_start as newest,
    stored as (:telemetry_alone)

    select * from (:telemetry_recent)
)
union all
select *
from (
    with
    first_start as oldest,
    start_30d - 1 as newest,
    stored as (:telemetry_alone)

    select * from (:telemetry_older)
)

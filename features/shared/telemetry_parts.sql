-- telemetry_parts: what series add up to. Blocks without copies are added up in the order of the table, the others
-- apart. Where no bucket is stored twice, pipeline/ takes telemetry_parts_alone in its place.
--
-- grain       four rows at most per tenant, asset and metric
-- source      as telemetry_parts_alone
-- parameters  as telemetry_alone
-- owner       ml-platform@dcmms.example

select * from (:telemetry_parts_alone)
union all
select *
from (
    with
    start_30d as oldest,
    last_start as newest,
    stored as (:telemetry_once)

    select * from (:telemetry_recent)
)
union all
select *
from (
    with
    first_start as oldest,
    start_30d - 1 as newest,
    stored as (:telemetry_once)

    select * from (:telemetry_older)
)

-- telemetry_stored: what features read of telemetry_aggregates, each bucket once. Where none is stored twice, pipeline/
-- takes telemetry_alone in its place.
--
-- grain       one row per bucket
-- source      as telemetry_wanted
-- parameters  as telemetry_alone
-- owner       ml-platform@dcmms.example

select * from (:telemetry_alone)
union all
select * from (:telemetry_once)

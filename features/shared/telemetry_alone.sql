-- telemetry_alone: the buckets of the blocks in which none is stored twice, in the order of the table.
--
-- grain       one row per bucket
-- source      as telemetry_wanted
-- parameters  as telemetry_wanted; blocks_with_copies: the blocks in which some bucket is stored twice
-- owner       ml-platform@dcmms.example

select *
from (:telemetry_wanted)
where
    empty({blocks_with_copies:Array(UInt32)})
    or block not in (select arrayJoin({blocks_with_copies:Array(UInt32)}))

-- telemetry_survey: how many rows there are, and the blocks of 64 cells of the clock grid in which some bucket may be
-- stored twice.
--
-- Two buckets of one cell set the same bit of the 64 that a block of a series has, which then has more rows than bits.
-- Finding out costs a fraction of a scan; taking copies out costs more than one.
--
-- grain       one row
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  first_start, last_start: the buckets that start from the one to the other, both inclusive, in UTC;
--             bucket_seconds: the width of a bucket; sites: ids of the sites to look at, none for all

select
    toInt64(sum(part_rows)) as row_count,
    arraySort(groupUniqArrayIf(toInt64(block), part_rows > bitCount(cells))) as blocks_with_copies
from (
    select
        intDiv(intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}), 64) as block,
        count() as part_rows,
        groupBitOr(bitShiftLeft(toUInt64(1), intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}) % 64)) as cells
    from telemetry_aggregates
    where
        time_bucket >= {first_start:DateTime('UTC')}
        and time_bucket <= {last_start:DateTime('UTC')}
        and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
    group by block, cityHash64(asset_id, metric_name)
)

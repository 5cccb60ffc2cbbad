-- narrow_assets: the assets whose buckets are narrower than the width that is set.
--
-- As of an instant that is an asset of which some metric has more than 1.5 times as many different starts of buckets in
-- the 90 d before as cells of the clock grid in which they start.
--
-- grain       one row per as-of instant and narrow asset
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  as_of, offsets, bucket_seconds, blocks_with_copies, sites: as in the SQL of telemetry_features;
--             first_start, last_start: as in telemetry_survey.sql

with

(:telemetry_as_of) as as_of,

-- Two buckets of one cell are copies where they start equally far into it; where they do not, they overlap.
suspects as (
    select any(asset_id) as suspect
    from telemetry_aggregates
    where
        time_bucket >= {first_start:DateTime('UTC')}
        and time_bucket <= {last_start:DateTime('UTC')}
        and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
        and intDiv(intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}), 64) in (
            select arrayJoin({blocks_with_copies:Array(UInt32)})
        )
    group by intDiv(intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}), 64), cityHash64(asset_id, metric_name)
    having
        min(toUInt32(time_bucket) % {bucket_seconds:UInt32}) < max(toUInt32(time_bucket) % {bucket_seconds:UInt32})
        and count() > bitCount(
            groupBitOr(bitShiftLeft(toUInt64(1), intDiv(toUInt32(time_bucket), {bucket_seconds:UInt32}) % 64))
        )
),

starts as (
    select distinct
        asset_id,
        metric_name,
        toUInt32(time_bucket) as start
    from telemetry_aggregates
    where
        asset_id in (select suspect from suspects)
        and time_bucket >= {first_start:DateTime('UTC')}
        and time_bucket <= {last_start:DateTime('UTC')}
        and (empty({sites:Array(UUID)}) or site_id in (select arrayJoin({sites:Array(UUID)})))
)

select distinct
    {as_of:DateTime64(6, 'UTC')} - toIntervalDay(days_ago) as event_timestamp,
    lower(toString(asset_id)) as asset_id
from (
    select
        asset_id,
        days_ago
    from starts
    array join {offsets:Array(UInt16)} as days_ago
    where
        start >= as_of.ceiling - (days_ago + 90) * 86400
        and start + {bucket_seconds:UInt32} <= as_of.floor - days_ago * 86400
    group by asset_id, metric_name, days_ago
    having count() > 1.5 * uniqExact(intDiv(start, {bucket_seconds:UInt32}))
)

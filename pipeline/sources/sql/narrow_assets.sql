-- narrow_assets: which of some assets have buckets that are narrower than the width that is set.
--
-- An asset is narrow as of an instant when some metric of it has more than 1.5 times as many different starts of buckets in
-- the 90 d before as cells of the clock grid in which they start.
--
-- grain       one row per as-of instant and narrow asset
-- source      ClickHouse of dCMMS: telemetry_aggregates
-- parameters  suspects: the assets; as_of, offsets, bucket_seconds: as in the SQL of telemetry_features

with (:telemetry_as_of) as as_of

select distinct
    {as_of:DateTime64(6, 'UTC')} - toIntervalDay(days_ago) as event_timestamp,
    lower(toString(asset_id)) as asset_id
from (
    select
        asset_id,
        metric_name,
        days_ago
    from (
        select distinct
            asset_id,
            metric_name,
            toUInt32(time_bucket) as start
        from telemetry_aggregates
        where
            asset_id in (select arrayJoin({suspects:Array(UUID)}))
            and time_bucket >= {first_start:DateTime('UTC')}
            and time_bucket <= {last_start:DateTime('UTC')}
    )
    array join {offsets:Array(UInt16)} as days_ago
    where
        start >= as_of.ceiling - (days_ago + 90) * 86400
        and start + {bucket_seconds:UInt32} <= as_of.floor - days_ago * 86400
    group by asset_id, metric_name, days_ago
    having count() > 1.5 * uniqExact(intDiv(start, {bucket_seconds:UInt32}))
)

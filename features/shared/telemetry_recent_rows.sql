-- telemetry_recent_rows: the features of recent_telemetry_features, of its types and in its order.
--
-- grain       one row per asset and instant
-- source      assets, of the query around: one row per asset and instant (days_ago), as telemetry_deviations gives them
-- parameters  as_of: the last instant, in UTC; bucket_seconds: the width of a bucket
-- owner       ml-platform@dcmms.example

with 3.4028234663852886e38 as largest_float32

select
    {as_of:DateTime64(6, 'UTC')} - toIntervalDay(assets.days_ago) as event_timestamp,
    lower(toString(assets.asset_id)) as asset_id,
    -- the last day
    toFloat32(assets.power.1) as rolling_avg_power_1d,
    toFloat32(assets.power.2) as rolling_std_power_1d,
    toFloat32(assets.voltage.1) as rolling_avg_voltage_1d,
    toFloat32(assets.voltage.2) as rolling_std_voltage_1d,
    toFloat32(assets.electric_current.1) as rolling_avg_current_1d,
    toFloat32(assets.electric_current.2) as rolling_std_current_1d,
    toFloat32(assets.temperature.1) as rolling_avg_temperature_1d,
    toFloat32(assets.temperature.2) as rolling_std_temperature_1d,
    toFloat32(assets.frequency.1) as rolling_avg_frequency_1d,
    toFloat32(assets.frequency.2) as rolling_std_frequency_1d,
    -- beside the month
    toFloat32(
        arrayReduce(
            'maxOrNull',
            [
                assets.power.3, assets.voltage.3, assets.electric_current.3, assets.temperature.3, assets.frequency.3
            ]
        )
    ) as max_abs_z_1d,
    -- NULL where a Float32 cannot hold it
    if(
        assets.power.4 > 0 and abs(assets.power.1 / assets.power.4) <= largest_float32,
        toFloat32(assets.power.1 / assets.power.4),
        null
    ) as power_ratio_1d_vs_30d,
    toFloat32(assets.temperature.1 - assets.temperature.4) as temperature_shift_1d_vs_30d,
    toFloat32(if(assets.power.5 > 0, assets.power.6 * {bucket_seconds:UInt32} / 3600, null)) as zero_power_hours_1d,
    -- the newest fact that this row rests on
    toDateTime64(assets.newest_bucket, 6, 'UTC') + {bucket_seconds:UInt32} as newest_source_at
from assets

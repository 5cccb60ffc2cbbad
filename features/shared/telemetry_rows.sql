-- telemetry_rows: the features, of the types and in the order of their two views, and the power of the asset.
--
-- grain       one row per asset and instant
-- source      assets, of the query around: one row per asset and instant (days_ago), as telemetry_assets gives them
-- parameters  as_of: the last instant, in UTC; bucket_seconds: the width of a bucket
-- owner       ml-platform@dcmms.example

with
(:telemetry_as_of) as as_of,
3.4028234663852886e38 as largest_float32

select
    {as_of:DateTime64(6, 'UTC')} - toIntervalDay(assets.days_ago) as event_timestamp,
    lower(toString(assets.asset_id)) as asset_id,
    -- power
    toFloat32(assets.power.1) as rolling_avg_power_7d,
    toFloat32(assets.power.2) as rolling_std_power_7d,
    toFloat32(assets.power.3) as rolling_min_power_7d,
    toFloat32(assets.power.4) as rolling_max_power_7d,
    toFloat32(assets.power.5) as rolling_avg_power_30d,
    toFloat32(assets.power.6) as rolling_std_power_30d,
    -- voltage, current, temperature, frequency
    toFloat32(assets.voltage.1) as rolling_avg_voltage_7d,
    toFloat32(assets.voltage.2) as rolling_std_voltage_7d,
    toFloat32(assets.voltage.3) as rolling_min_voltage_7d,
    toFloat32(assets.voltage.4) as rolling_max_voltage_7d,
    toFloat32(assets.electric_current.1) as rolling_avg_current_7d,
    toFloat32(assets.electric_current.2) as rolling_std_current_7d,
    toFloat32(assets.temperature.1) as rolling_avg_temperature_7d,
    toFloat32(assets.temperature.2) as rolling_std_temperature_7d,
    toFloat32(assets.temperature.3) as rolling_max_temperature_7d,
    toFloat32(assets.frequency.1) as rolling_avg_frequency_7d,
    toFloat32(assets.frequency.2) as rolling_std_frequency_7d,
    -- anomalies
    toInt32(assets.all_anomalies_7d) as anomaly_count_7d,
    toInt32(assets.all_anomalies_30d) as anomaly_count_30d,
    toInt32(assets.all_anomalies_90d) as anomaly_count_90d,
    -- energy
    if(assets.energy.1 > 0, assets.energy.3 * {bucket_seconds:UInt32} / 3600, null) as total_generation_kwh_7d,
    if(assets.energy.2 > 0, assets.energy.4 * {bucket_seconds:UInt32} / 3600, null) as total_generation_kwh_30d,
    toFloat32(24 * assets.energy.4 / nullIf(assets.energy.2, 0)) as avg_daily_generation_kwh,
    -- coverage: 0 where power was reported before the 7 d only
    toFloat32(
        if(
            assets.energy.5 > 0,
            least(
                1,
                assets.energy.6
                / nullIf(
                    -- the whole cells: from the first that starts in the window to the last that ends in it
                    intDiv(as_of.floor - assets.days_ago * 86400, {bucket_seconds:UInt32})
                    - intDiv(
                        as_of.ceiling - (assets.days_ago + 7) * 86400 + {bucket_seconds:UInt32} - 1,
                        {bucket_seconds:UInt32}
                    ),
                    0
                )
            ),
            null
        )
    ) as telemetry_coverage_7d,
    toFloat32(
        toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}) / 3600000000
        - 24 * assets.days_ago
        - (toUnixTimestamp(assets.newest_bucket) + {bucket_seconds:UInt32}) / 3600
    ) as hours_since_last_telemetry,
    -- inputs of the capacity factor that are no features
    assets.energy.1 * {bucket_seconds:UInt32} / 3600 as power_hours_7d,
    assets.energy.2 * {bucket_seconds:UInt32} / 3600 as power_hours_30d,
    -- recent_telemetry_features: the last day
    toFloat32(assets.power_1d.1) as rolling_avg_power_1d,
    toFloat32(assets.power_1d.2) as rolling_std_power_1d,
    toFloat32(assets.voltage_1d.1) as rolling_avg_voltage_1d,
    toFloat32(assets.voltage_1d.2) as rolling_std_voltage_1d,
    toFloat32(assets.electric_current_1d.1) as rolling_avg_current_1d,
    toFloat32(assets.electric_current_1d.2) as rolling_std_current_1d,
    toFloat32(assets.temperature_1d.1) as rolling_avg_temperature_1d,
    toFloat32(assets.temperature_1d.2) as rolling_std_temperature_1d,
    toFloat32(assets.frequency_1d.1) as rolling_avg_frequency_1d,
    toFloat32(assets.frequency_1d.2) as rolling_std_frequency_1d,
    -- the last day beside the month
    toFloat32(
        arrayReduce(
            'maxOrNull',
            [
                assets.power_1d.3,
                assets.voltage_1d.3,
                assets.electric_current_1d.3,
                assets.temperature_1d.3,
                assets.frequency_1d.3
            ]
        )
    ) as max_abs_z_1d,
    -- NULL where a Float32 cannot hold it
    if(
        assets.power.5 > 0 and abs(assets.power_1d.1 / assets.power.5) <= largest_float32,
        toFloat32(assets.power_1d.1 / assets.power.5),
        null
    ) as power_ratio_1d_vs_30d,
    toFloat32(assets.temperature_1d.4) as temperature_shift_1d_vs_30d,
    toFloat32(
        if(assets.power_1d.4 > 0, assets.power_1d.5 * {bucket_seconds:UInt32} / 3600, null)
    ) as zero_power_hours_1d,
    -- the newest fact that this row rests on
    toDateTime64(assets.newest_bucket, 6, 'UTC') + {bucket_seconds:UInt32} as newest_source_at,
    assets.power_by_name
from assets

-- telemetry_features and recent_telemetry_features of many instants: the rows of features/telemetry_features.sql, value
-- for value, for each of them.
--
-- grain       one row per as-of instant and asset with at least one bucket in the 90 d before it
-- source      ClickHouse of dCMMS: telemetry_aggregates, each bucket once
-- parameters  as_of: the last instant, in UTC; offsets: how many days (24 h) before it each wanted instant lies, 0 for
--             the last itself; days: 90 more than the largest of them; the others as in the SQL of a single instant
-- fragments   as in the SQL of a single instant
-- method      Days of a series are added up once, the days of windows by differences of running sums, which are
--             exact (shared/telemetry_units.sql): neither buckets nor days are read once per instant.
-- completed   as the rows of a single instant
-- in Python
-- owner       ml-platform@dcmms.example

with

(:telemetry_metrics) as metrics,
(:telemetry_as_of) as as_of,
toDateTime(as_of.ceiling - {days:UInt16} * 86400, 'UTC') as first_start,
toDateTime(as_of.ceiling - ({days:UInt16} - 60) * 86400, 'UTC') as start_30d,
toDateTime(as_of.floor - {bucket_seconds:UInt32}, 'UTC') as last_start,
false as only_power,

-- arrays of what the days of a series have, into arrays of what windows have: one per day that may be the last before
-- an instant. What straddles into the day after has not ended by the instant, and is late for its last day alone.
{days:UInt16} - 89 as instants,
(day_sums, late_sums, first, length) -> arrayMap(
    (until, before, late) -> until - before - late,
    arraySlice(arrayPushFront(arrayCumSum(day_sums), 0), first + length + 1, instants),
    arraySlice(arrayPushFront(arrayCumSum(day_sums), 0), first + 1, instants),
    arraySlice(late_sums, first + 1, instants)
) as in_windows,
-- the `number`th of the sums, in windows of `length` days that begin `first` days before the last one
(number, first, length) -> in_windows(
    arrayMap(sums -> sums[number], all_sums), arrayMap(sums -> sums[number], all_late_sums), first, length
) as sums_of,
(first, length) -> arrayMap(
    (a, b, c, d, e, f, g, h, i) -> [a, b, c, d, e, f, g, h, i],
    sums_of(6, first, length), sums_of(7, first, length),
    sums_of(8, first, length), sums_of(9, first, length), sums_of(10, first, length),
    sums_of(11, first, length), sums_of(12, first, length), sums_of(13, first, length), sums_of(14, first, length)
) as units_of,
(in_time, all_days) -> arrayZip(
    arraySlice(in_time, 1, instants), arraySlice(all_days, 2, instants), arraySlice(all_days, 3, instants),
    arraySlice(all_days, 4, instants), arraySlice(all_days, 5, instants), arraySlice(all_days, 6, instants),
    arraySlice(all_days, 7, instants)
) as weeks_of,

-- one row per asset, metric and day; its buckets that straddle into the next one apart
days as (
    select *
    from (
        with
        start_30d as oldest,
        last_start as newest,
        stored as (:telemetry_stored)

        select
            asset_id,
            metric,  -- grouping by it is twice as fast as by the name
            day,
            straddles,
            max(time_bucket) as last_bucket,
            minOrNullIf(min_value, has_min) as lowest,
            maxOrNullIf(max_value, has_max) as highest,
            groupUniqArrayIf(cell, is_measured and metric between 1 and length(metrics.power_names)) as power_cells,
            -- of rows, anomalies, measured buckets, those of standstill and samples; of the averages, the totals and
            -- the squares: how many of each unit, the largest first
            [
                toInt64(count()), toInt64(sum(anomaly_count)),
                toInt64(countIf(is_measured)), toInt64(countIf(is_measured and avg_value <= 0)),
                toInt64(sumIf(samples, is_measured)),
                sumIf(average_small, is_measured), sumIf(average_tiny, is_measured),
                sumIf(total_large, is_measured), sumIf(total_small, is_measured), sumIf(total_tiny, is_measured),
                sumIf(squares_huge, is_measured), sumIf(squares_large, is_measured),
                sumIf(squares_small, is_measured), sumIf(squares_tiny, is_measured)
            ] as sums
        from (:telemetry_sums)
        group by asset_id, metric, day, straddles
    )
    union all
    -- of what lies before all 30 d little is needed
    select *
    from (
        with
        first_start as oldest,
        start_30d - 1 as newest,
        stored as (:telemetry_stored)

        select
            asset_id,
            metric,
            day,
            straddles,
            max(time_bucket) as last_bucket,
            null as lowest,
            null as highest,
            [] as power_cells,
            [toInt64(count()), toInt64(sum(anomaly_count)), toInt64(countIf(is_measured))] as sums
        from (:telemetry_buckets)
        group by asset_id, metric, day, straddles
    )
),

-- one row per asset and metric, with arrays of its days, the last one first; all metrics without a quantity are one
by_day as (
    select
        asset_id,
        metric,
        maxResample(0, {days:UInt16}, 1)(last_bucket, day) as last_buckets,  -- noqa: LT01
        maxIfResample(0, {days:UInt16}, 1)(last_bucket, not straddles, day) as last_buckets_in_time,  -- noqa: LT01
        minOrNullResample(0, {days:UInt16}, 1)(lowest, day) as all_lowest,  -- noqa: LT01
        minOrNullIfResample(0, {days:UInt16}, 1)(lowest, not straddles, day) as all_lowest_in_time,  -- noqa: LT01
        maxOrNullResample(0, {days:UInt16}, 1)(highest, day) as all_highest,  -- noqa: LT01
        maxOrNullIfResample(0, {days:UInt16}, 1)(highest, not straddles, day) as all_highest_in_time,  -- noqa: LT01
        groupArrayArrayResample(0, {days:UInt16}, 1)(power_cells, day) as all_cells,  -- noqa: LT01
        groupArrayArrayIfResample(0, {days:UInt16}, 1)(  -- noqa: LT01
            power_cells, not straddles, day
        ) as all_cells_in_time,
        sumForEachResample(0, {days:UInt16}, 1)(sums, day) as all_sums,  -- noqa: LT01
        sumForEachIfResample(0, {days:UInt16}, 1)(sums, straddles, day) as all_late_sums  -- noqa: LT01
    from days
    group by asset_id, metric
),

-- one row per asset, metric and instant
series as (
    select
        asset_id,
        days_ago,
        metric,
        newest_start,
        rows_7d,
        rows_30d,
        anomalies_7d,
        anomalies_30d,
        anomalies_90d,
        buckets_1d,
        stopped_1d,
        buckets_7d,
        buckets_29d,
        buckets_30d,
        buckets_90d,
        samples_1d,
        samples_7d,
        samples_29d,
        samples_30d,
        nullIf(least_7d, inf) as min_7d,
        nullIf(largest_7d, -inf) as max_7d,
        cells_7d,
        units_7d,
        units_30d,
        -- of the totals and the squares alone
        arraySlice(all_units_1d, 3) as units_1d,
        arraySlice(all_units_29d, 3) as units_29d,
        0 as power_series  -- telemetry_power gives it
    from by_day
    array join
        range(instants) as days_ago,
        -- of the last day, or else of the last one before it that has any
        arrayMap(
            (in_time, before) -> if(in_time > 0, in_time, before),
            arraySlice(last_buckets_in_time, 1, instants),
            arraySlice(arrayReverseFill(bucket -> bucket > 0, last_buckets), 2, instants)
        ) as newest_start,
        sums_of(1, 0, 7) as rows_7d,
        sums_of(1, 0, 30) as rows_30d,
        sums_of(1, 0, 90) as rows_90d,
        sums_of(2, 0, 7) as anomalies_7d,
        sums_of(2, 0, 30) as anomalies_30d,
        sums_of(2, 0, 90) as anomalies_90d,
        sums_of(3, 0, 1) as buckets_1d,
        sums_of(4, 0, 1) as stopped_1d,
        sums_of(3, 0, 7) as buckets_7d,
        sums_of(3, 1, 29) as buckets_29d,
        sums_of(3, 0, 30) as buckets_30d,
        sums_of(3, 0, 90) as buckets_90d,
        sums_of(5, 0, 1) as samples_1d,
        sums_of(5, 0, 7) as samples_7d,
        sums_of(5, 1, 29) as samples_29d,
        sums_of(5, 0, 30) as samples_30d,
        arrayMap(
            week -> least(week.1, week.2, week.3, week.4, week.5, week.6, week.7),
            weeks_of(
                arrayMap(value -> coalesce(value, inf), all_lowest_in_time),
                arrayMap(value -> coalesce(value, inf), all_lowest)
            )
        ) as least_7d,
        arrayMap(
            week -> greatest(week.1, week.2, week.3, week.4, week.5, week.6, week.7),
            weeks_of(
                arrayMap(value -> coalesce(value, -inf), all_highest_in_time),
                arrayMap(value -> coalesce(value, -inf), all_highest)
            )
        ) as largest_7d,
        arrayMap(
            week -> arrayUniq(arrayConcat(week.1, week.2, week.3, week.4, week.5, week.6, week.7)),
            weeks_of(all_cells_in_time, all_cells)
        ) as cells_7d,
        units_of(0, 7) as units_7d,
        units_of(0, 30) as units_30d,
        units_of(0, 1) as all_units_1d,
        units_of(1, 29) as all_units_29d
    where rows_90d > 0 and has({offsets:Array(UInt16)}, days_ago)
),

assets as (:telemetry_assets)

select *
from (:telemetry_rows)
order by event_timestamp, asset_id

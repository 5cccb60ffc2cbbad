-- telemetry_sums: buckets with what is added up of them: averages, totals and squares, as whole numbers of units.
--
-- Each level rests on the one below by its columns: one that repeated what it rests on would take ClickHouse longer to
-- understand than the rows of a small fleet to read.
--
-- grain       one row per bucket
-- source      stored, of the query around: buckets, each once
-- owner       ml-platform@dcmms.example

with (:telemetry_units) as units

select
    *,
    toInt64((total_rest - total_small * units.small) * (1 / units.tiny)) as total_tiny,
    toInt64(squares_rest_2 * (1 / units.small)) as squares_small,
    toInt64((squares_rest_2 - squares_small * units.small) * (1 / units.tiny)) as squares_tiny
from (
    select
        *,
        toInt64((average - average_small * units.small) * (1 / units.tiny)) as average_tiny,
        toInt64(total_rest * (1 / units.small)) as total_small,
        toInt64(squares_rest * (1 / units.large)) as squares_large,
        squares_rest - squares_large * units.large as squares_rest_2
    from (
        select
            *,
            toInt64(average * (1 / units.small)) as average_small,
            toInt64(total * (1 / units.large)) as total_large,
            total - total_large * units.large as total_rest,
            samples * (deviation * deviation + average * average) as squares,
            toInt64(squares * (1 / units.huge)) as squares_huge,
            squares - squares_huge * units.huge as squares_rest
        from (:telemetry_buckets)
    )
)

-- telemetry_units: of what sums of telemetry consist.
--
-- A sum of Float64 depends on the order of its terms. So a term is cut into whole multiples of these units, which add
-- up exactly: the same buckets give the same sum in whatever order they come.
--
-- grain       one row
-- owner       ml-platform@dcmms.example

select
    pow(2, -44) as tiny,
    pow(2, 3) as small,
    pow(2, 50) as large,
    pow(2, 97) as huge

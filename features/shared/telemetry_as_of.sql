-- telemetry_as_of: the as-of instant in whole seconds since 1970, rounded down and up.
--
-- A bucket starts and ends at a whole second: windows start at or after the instant rounded up, less their length, and
-- end at or before it rounded down.
--
-- grain       one row
-- parameters  as_of: the instant, in UTC
-- owner       ml-platform@dcmms.example

select
    intDiv(toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}), 1000000) as floor,
    intDiv(toUnixTimestamp64Micro({as_of:DateTime64(6, 'UTC')}) + 999999, 1000000) as ceiling

-- telemetry_buckets: buckets, and what of each means something.
--
-- grain       one row per bucket
-- source      stored and as_of, of the query around: buckets, each once, and the last instant
-- parameters  bucket_seconds: the width of a bucket
-- owner       ml-platform@dcmms.example

with
(:telemetry_metrics) as metrics,
-- a larger average does not fit into the units, and means nothing
1e15 as limit_average,
1e28 as limit_total,
3.4028234663852886e38 as largest_float32

select
    tenant_id,
    asset_id,
    site_id,
    metric_name,
    -- the number of the name in the list, 0 for any other
    toUInt8(transform(metric_name, metrics.names, arrayEnumerate(metrics.names), 0)) as metric,
    time_bucket,
    cell,
    -- seconds from its start to the last instant
    as_of.ceiling - toUInt32(time_bucket) as age,
    -- the 24 h, counted back from the last instant, in which it starts: 0, 1, 2, ...
    toUInt16(intDiv(age - 1, 86400)) as day,
    -- whether it ends in the next ones
    modulo(age - 1, 86400) + 1 < {bucket_seconds:UInt32} + as_of.ceiling - as_of.floor as straddles,
    count as samples,
    -- a bucket without samples or without a finite average is missing for its metric
    samples > 0 and abs(avg_value) < limit_average as is_measured,
    anomaly_count,
    avg_value,
    min_value,
    max_value,
    -- what a Float32 cannot hold is no lowest and no highest value
    is_measured and abs(min_value) <= largest_float32 as has_min,
    is_measured and abs(max_value) <= largest_float32 as has_max,
    if(is_measured, avg_value, 0) as average,
    if(abs(sum_value) < limit_total, sum_value, samples * average) as total,
    if(abs(stddev_value) < limit_average, stddev_value, 0) as deviation
from stored

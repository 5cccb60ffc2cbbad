-- The user that reads dCMMS's ClickHouse: SELECT on telemetry_aggregates, and no writing.
--
-- Run by a user with access management. PASSWORD_SHA256 is a placeholder for the SHA-256 of the password, in hex, so
-- that no log and no history gets the password itself:
--     hash=$(printf %s "$PASSWORD" | sha256sum | cut -d ' ' -f 1)
--     sed "s/PASSWORD_SHA256/$hash/" deploy/sql/clickhouse.sql | clickhouse-client --secure --host ... --multiquery
--
-- The time limit of a query is what a run asks for by STATEMENT_TIMEOUT_SECONDS, up to the `max` here. That takes
-- `readonly = 2`: with 1 a client may set nothing, and the run is refused.

create settings profile if not exists feature_store
settings readonly = 2, max_execution_time = 900 min 1 max 3600;

create user if not exists feature_store
identified with sha256_hash by 'PASSWORD_SHA256'
default database dcmms_analytics
settings profile 'feature_store';

grant select on dcmms_analytics.telemetry_aggregates to feature_store;

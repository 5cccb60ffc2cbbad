-- Who holds an advisory lock of this database: process id and, as far as this role may see it, application, address and
-- start of the session. Parameters: the higher and the lower 32 bits of the lock's key, both without a sign.
select
    pid,
    nullif(application_name, '') as application,
    host(client_addr) as address,
    backend_start at time zone 'UTC' as since
from pg_locks
left join pg_stat_activity using (pid)
where
    locktype = 'advisory'
    and granted
    and objsubid = 1
    and database = (
        select oid from pg_database
        where datname = current_database()
    )
    and classid::bigint = :high
    and objid::bigint = :low

-- The server, and whether this role may do more than read. Parameter: the tables that are read.
select
    current_setting('server_version_num')::integer / 10000 as major_version,
    current_setting('server_version') as version,
    rolsuper
    or coalesce(has_schema_privilege(current_schema(), 'create'), false)
    or exists (
        select
        from unnest(%(tables)s) as wanted (name)
        where has_table_privilege(to_regclass(wanted.name), 'insert, update, delete, truncate')
    ) as may_write
from pg_roles
where rolname = current_user

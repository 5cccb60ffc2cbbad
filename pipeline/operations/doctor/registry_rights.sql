-- Of each table that registry and ledger need: is it there, and may this role write it? Parameter: their names.
select
    wanted.name,
    to_regclass(wanted.name) is not null as is_there,
    has_table_privilege(to_regclass(wanted.name), 'select')
    and has_table_privilege(to_regclass(wanted.name), 'insert')
    and has_table_privilege(to_regclass(wanted.name), 'update') as may_write
from unnest(cast(:names as text[])) as wanted (name)

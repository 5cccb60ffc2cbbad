-- Of each column of the tables that are read: may this role read it? A table that is missing has one row of NULLs.
select
    wanted.name as table_name,
    attribute.attname as column_name,
    has_column_privilege(attribute.attrelid, attribute.attnum, 'select') as may_read
from unnest(%(tables)s) as wanted (name)
left join pg_attribute as attribute
    on attribute.attrelid = to_regclass(wanted.name) and attribute.attnum > 0 and not attribute.attisdropped

-- Of each column of the tables that are read: its type (of a domain the one that it narrows), may it be NULL, the
-- values of an enumerated type, and may this role read it. A table that is missing has one row of NULLs. Of the columns
-- of a view or a foreign table nobody says whether they may be NULL.
select
    wanted.name as table_name,
    attribute.attname as column_name,
    format_type(base.oid, null) as type_name,
    relation.relkind in ('r', 'p') and not (attribute.attnotnull or own_type.typnotnull) as may_be_null,
    array(
        select label.enumlabel::text
        from pg_enum as label
        where label.enumtypid = base.oid
    ) as labels,
    has_column_privilege(attribute.attrelid, attribute.attnum, 'select') as may_read
from unnest(%(tables)s) as wanted (name)
left join pg_class as relation on relation.oid = to_regclass(wanted.name)
left join pg_attribute as attribute
    on relation.oid = attribute.attrelid and attribute.attnum > 0 and not attribute.attisdropped
left join pg_type as own_type on attribute.atttypid = own_type.oid
left join pg_type as base on base.oid = coalesce(nullif(own_type.typbasetype, 0), own_type.oid)

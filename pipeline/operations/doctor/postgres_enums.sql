-- The values that each column of an enumerated type may have, of the tables that are read.
select
    wanted.name || '.' || attribute.attname as column_name,
    array_agg(label.enumlabel::text) as labels
from unnest(%(tables)s) as wanted (name)
inner join pg_attribute as attribute
    on attribute.attrelid = to_regclass(wanted.name) and attribute.attnum > 0 and not attribute.attisdropped
inner join pg_enum as label on attribute.atttypid = label.enumtypid
group by column_name
order by column_name

-- asset_facts: what dCMMS says of its assets, and since when.
--
-- grain       one row per asset with a date of its own
-- needs       instants
-- missing     an instant that is infinite; an installation on one of the days that stand for an unknown one, or after
--             the last of the instants, where a date may lie beyond any instant
select
    id as asset_id,
    tenant_id,
    site_id,
    type,
    status,
    manufacturer,
    model,
    created_at::timestamptz as created_at,
    case when isfinite(updated_at) then updated_at::timestamptz end as updated_at,
    case
        when
            isfinite(installation_date)
            and installation_date::date not in ('0001-01-01', '1900-01-01', '1970-01-01')
            and installation_date <= (select max(instants.as_of) from instants)
            then installation_date::timestamptz
    end as installed_at
from assets
where created_at not in ('-infinity', 'infinity')

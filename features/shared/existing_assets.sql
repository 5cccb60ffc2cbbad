-- existing_assets: the assets that exist as of an instant, and what is known of them then.
--
-- grain       one row per asset
-- needs       asset_facts; instants, of which one row is joined laterally
-- unknown     dCMMS keeps no history of a row: what has changed after the instant is NULL
-- noqa: disable=references.from
select
    asset_id,
    tenant_id,
    site_id,
    type,
    manufacturer,
    model,
    created_at,
    case when updated_at <= instants.as_of then status end as status,
    case when updated_at <= instants.as_of then updated_at end as updated_at,
    case when installed_at <= instants.as_of then installed_at end as installed_at
from asset_facts
where created_at <= instants.as_of and (status = 'decommissioned' and updated_at <= instants.as_of) is not true

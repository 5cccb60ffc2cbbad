-- existing_assets: the assets that exist as of an instant, and what is known of them then.
--
-- grain       one row per asset
-- needs       instants, of which one row is joined laterally
-- unknown     dCMMS keeps no history of a row: what has changed after the instant is NULL
-- noqa: disable=references.from
select
    id as asset_id,
    tenant_id,
    site_id,
    type,
    manufacturer,
    model,
    created_at::timestamptz as created_at,
    case when updated_at::timestamptz <= instants.as_of then status end as status,
    case when updated_at::timestamptz <= instants.as_of then updated_at::timestamptz end as updated_at,
    case when installation_date::timestamptz <= instants.as_of then installation_date::timestamptz end as installed_at
from assets
where
    created_at::timestamptz <= instants.as_of
    and not (status = 'decommissioned' and updated_at::timestamptz <= instants.as_of)

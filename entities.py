"""The things that features describe, the key by which each is looked up, and the project that they belong to."""

from feast import Entity, Project, ValueType

# The name that feature_store.yaml has, too.
project = Project(
    name="dcmms",
    description="Features of the solar and wind equipment that dCMMS looks after.",
    owner="ml-platform@dcmms.example",
)

asset = Entity(
    name="asset",
    join_keys=["asset_id"],
    value_type=ValueType.STRING,
    description="A piece of equipment of a solar or wind site: assets.id of dCMMS as lower-case text.",
    tags={"source": "postgresql.assets"},
    owner="ml-platform@dcmms.example",
)

work_order = Entity(
    name="work_order",
    join_keys=["work_order_id"],
    value_type=ValueType.STRING,
    description="A maintenance job: work_orders.id of dCMMS as lower-case text.",
    tags={"source": "postgresql.work_orders"},
    owner="ml-platform@dcmms.example",
)

site = Entity(
    name="site",
    join_keys=["site_id"],
    value_type=ValueType.STRING,
    description="A solar, wind or hybrid plant: sites.id of dCMMS as lower-case text.",
    tags={"source": "postgresql.sites"},
    owner="ml-platform@dcmms.example",
)

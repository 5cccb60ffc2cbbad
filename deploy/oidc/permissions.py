"""Who may do what with `feast serve` where its `auth` is oidc: copy to the repository's root, then `feast apply`.

Without any `Permission` every valid token may do all: leave this file where it is, or `feast apply` removes them.
"""

from feast import FeatureService, FeatureView
from feast.permissions.action import AuthzedAction
from feast.permissions.permission import Permission
from feast.permissions.policy import RoleBasedPolicy

# What asks for features, by views or by services.
reading = Permission(
    name="reading",
    types=[FeatureView, FeatureService],
    actions=[AuthzedAction.READ_ONLINE],
    policy=RoleBasedPolicy(roles=["features_reader", "features_writer"]),
)

# What writes over HTTP. Runs of materialize_features.py do not: they need no token, but the user of Redis.
writing = Permission(
    name="writing",
    types=[FeatureView],
    actions=[AuthzedAction.WRITE_ONLINE],
    policy=RoleBasedPolicy(roles=["features_writer"]),
)

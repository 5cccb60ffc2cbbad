"""The label of predictive maintenance: whether an asset fails within a week of an instant. No feature of any view."""

from datetime import timedelta

LABEL = "failure_within_7d"
LABEL_SQL = "features/failure_within_7d.sql"
LABEL_HORIZON = timedelta(days=7)

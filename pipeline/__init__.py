"""What `materialize_features.py` does: extract features as of one instant, keep snapshots of them, publish them."""

__version__ = "0.2.0"

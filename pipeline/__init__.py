"""The pipeline that extracts features from dCMMS's databases, keeps their snapshots and publishes them."""

from pathlib import Path

__version__ = "0.2.0"

REPOSITORY = Path(__file__).resolve().parents[1]

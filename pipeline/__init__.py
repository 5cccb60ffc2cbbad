"""The pipeline that extracts features from dCMMS's databases, keeps their snapshots and publishes them."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

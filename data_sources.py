"""The offline store: one directory of Parquet snapshots per feature view.

`<data dir>/<view>/snapshot_date=YYYY-MM-DD/<as-of>.parquet`; the data directory is `FEATURE_DATA_DIR`, by default
`data/` beside this file. Sources carry absolute paths: the DuckDB store resolves a relative one against the
caller's working directory.
"""

import logging
import os
from pathlib import Path

from feast import FileSource
from feast.data_format import ParquetFormat

from settings_file import REPOSITORY, file_values

# At the first `feast apply` there are no snapshots, of which Feast warns for each view. Runs look where the folder is.
logging.getLogger("feast.infra.offline_stores.file_source").addFilter(
    lambda record: "FileSource path does not exist" not in record.getMessage()
)


def data_dir() -> Path:
    """Return the absolute directory that holds the snapshots of every feature view: where the job writes them.

    As for the job, the environment wins over the settings file, and empty counts as not set.
    """
    settings = file_values() | os.environ
    return (REPOSITORY / (settings.get("FEATURE_DATA_DIR") or "data")).resolve()


def snapshots_of(view: str) -> FileSource:
    """Return the source over all snapshots of `view`: a hive-partitioned directory of Parquet files."""
    return FileSource(
        name=f"{view}_snapshots",
        path=str(data_dir() / view),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
        description=f"Snapshots of {view}, one Parquet file per as-of instant.",
        owner="ml-platform@dcmms.example",
    )

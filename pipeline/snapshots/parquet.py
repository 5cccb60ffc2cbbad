"""Writing a Parquet file so that no reader ever sees half of it."""

import logging
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.base.errors import PipelineError
from pipeline.base.fault_points import fault_point

logger = logging.getLogger(__name__)

# What a killed process has left is harmless. Nothing that is still being written is as old as this.
_LEFTOVER_SECONDS = 24 * 3600

# A reader that goes by batches then holds a part of the file, not all of it.
ROW_GROUP_ROWS = 16_384


def write_parquet(rows: pa.Table | pa.RecordBatchReader, path: Path) -> int:
    """Write `rows` to `path`, replacing what is there, and return the size of the file in bytes.

    Each batch of a reader is a row group of its own, or several if it is large. The file is written and synced beside
    its place under a name that no reader looks for, then renamed. Raises `PipelineError` where the folder cannot be
    made or written; what was there then still stands.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                fault_point("parquet: opened")
                if isinstance(rows, pa.Table):
                    pq.write_table(rows, file, compression="zstd", row_group_size=ROW_GROUP_ROWS)
                else:
                    with pq.ParquetWriter(file, rows.schema, compression="zstd") as writer:
                        for batch in rows:
                            writer.write_batch(batch, row_group_size=ROW_GROUP_ROWS)
                file.flush()
                os.fsync(file.fileno())
            fault_point("parquet: written")
            temporary.replace(path)
            fault_point("parquet: renamed")
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)
        return path.stat().st_size
    except OSError as error:
        raise PipelineError(
            f"{path} cannot be written: {error.strerror or error}. Check the folder, its rights and its space."
        ) from error


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove the unfinished files of killed processes, those that `pattern` finds below `folder`, when they are old.

    A file that cannot be removed is a warning.
    """
    for path in folder.glob(pattern):
        try:
            if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                path.unlink()
        except FileNotFoundError:  # somebody else was faster
            continue
        except OSError as error:
            logger.warning("%s, left by a run that died, cannot be removed: %s", path, error.strerror or error)


def _sync_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

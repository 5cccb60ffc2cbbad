"""Where snapshots are: below a folder of a local disk, or in a store that FEATURE_SNAPSHOTS names.

A folder, that of a view in it and a snapshot are each a `Path`, or one of these values. They only name a place, and
compare by it: `pipeline.snapshots` reads and writes there.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Store:
    """A place for the snapshots of all views: `iceberg://<catalog>/<namespace>` or `s3://<bucket>/<prefix>`.

    `folder` is the local one, for what goes into quarantine where the store holds no files.
    """

    url: str
    folder: Path = field(default=Path(), compare=False)

    def __truediv__(self, view: str) -> "StoredView":
        return StoredView(self, view)

    def __str__(self) -> str:
        return self.url

    @property
    def holds_files(self) -> bool:
        """Whether it has a folder for each view, and one for the quarantine."""
        return self.url.startswith("s3://")


@dataclass(frozen=True)
class StoredView:
    """The snapshots of one view, `name`, in the store `parent`."""

    parent: Store
    name: str

    def __str__(self) -> str:
        return f"{self.parent}/{self.name}"


@dataclass(frozen=True)
class StoredSnapshot:
    """The snapshot of a view as of an instant in UTC, which may be there or not."""

    folder: StoredView
    as_of: datetime

    @property
    def stem(self) -> str:
        """The instant, as in the name of a file."""
        return instant_stem(self.as_of)

    def __str__(self) -> str:
        return f"{self.folder}/{self.stem}"


@dataclass(frozen=True)
class StoredFile:
    """A file of rows that are no snapshot, in a store that holds files."""

    parent: Store
    key: str

    def __str__(self) -> str:
        return f"{self.parent}/{self.key}"


# What readers look for below a view's place on S3.
OBJECTS = "/*/*.parquet"
_FORMS = (r"iceberg://[a-z][a-z0-9-]*/[a-z][a-z0-9_]*", r"s3://[a-z0-9][a-z0-9.-]+(/\w[\w.=-]*)+")


def checked_store(url: str) -> str:
    """Return the value of FEATURE_SNAPSHOTS; raises `ValueError`, in words that follow its name, where it is no place.

    Empty is none: snapshots are in folders.
    """
    if url and not any(re.fullmatch(form, url, re.ASCII) for form in _FORMS):
        raise ValueError(
            "is neither s3://bucket/prefix, nor iceberg://catalog/namespace (lower case, no underscore in the name of "
            "the catalog), nor empty for folders in FEATURE_DATA_DIR: docs/object-storage.md"
        )
    return url


DataDir = Path | Store
Folder = Path | StoredView
Snapshot = Path | StoredSnapshot
File = Path | StoredFile


def instant_stem(as_of: datetime) -> str:
    """Return an instant in UTC as ISO 8601 basic format."""
    utc = as_of.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}" + (f".{utc.microsecond:06d}" if utc.microsecond else "") + "Z"


def local_folder(data_dir: DataDir) -> Path:
    """Return the folder on a local disk that belongs to a place of snapshots."""
    return data_dir.folder if isinstance(data_dir, Store) else data_dir

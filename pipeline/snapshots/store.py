"""What a store of snapshots has to do. Local folders do it by the functions of `files`, `upkeep` and `compaction`.

These functions take places of both kinds, and ask the store of a place that is none of a local disk.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Generic, TypeVar

import pyarrow as pa

from pipeline.base.errors import PipelineError
from pipeline.base.places import Store

File = TypeVar("File")
# Told instants in order and how old the last of them is: those that are kept.
ThinOut = Callable[[Sequence[datetime], timedelta], list[datetime]]


@dataclass(frozen=True)
class Part(Generic[File]):
    """The files of a day or month, the instants in them, and which of these are kept."""

    files: list[File]
    instants: list[datetime]
    kept: list[datetime]


@dataclass
class Compacted:
    """What compaction did in a view: files that are gone, files in their place, snapshots removed for good."""

    before: int = 0
    after: int = 0
    removed: int = 0

    def add(self, work: Iterable[Part[File]]) -> None:
        """Count in what was done."""
        for part in work:
            self.before += len(part.files)
            self.after += bool(part.kept)
            self.removed += len(part.instants) - len(part.kept)


class SnapshotStore(ABC):
    """The snapshots of all views somewhere else than on a local disk.

    Readers see a snapshot whole or not at all. Each method raises `PipelineError` where the store fails, `Unavailable`
    where that may pass; what was there then still stands. What is damaged raises `pyarrow.ArrowException`.
    """

    @abstractmethod
    def instants(self, view: str, first: datetime, last: datetime) -> Iterator[datetime]:
        """Yield the instants from `first` to `last`, both inclusive, that have a snapshot of `view`, newest first."""

    @abstractmethod
    def read(self, view: str, instants: Sequence[datetime], schema: pa.Schema | None = None) -> pa.Table:
        """Return the rows as of the `instants`, in the order of instant and asset.

        The columns are those of `schema`, cast, NULL where there is none of that name; all that there are by default.
        """

    @abstractmethod
    def schema(self, view: str, as_of: datetime) -> pa.Schema:
        """Return the columns of one snapshot, with its notes as metadata as in the footer of a file."""

    def why_unreadable(self, _view: str, _as_of: datetime) -> str | None:
        """Return what is wrong with a snapshot that is listed, as far as that is known at once; None for nothing."""
        return None

    @abstractmethod
    def write(self, view: str, as_of: datetime, table: pa.Table) -> int:
        """Put `table`, with its notes, in the place of the snapshot as of `as_of`, in one step; return its bytes.

        A snapshot that is the same stays, and a row whose values were there already keeps its `created`.
        """

    @abstractmethod
    def remove_newer(self, view: str, as_of: datetime) -> int:
        """Take the snapshots as of later instants out, but not for good; return how many they were."""

    @abstractmethod
    def lacks_columns(self, view: str) -> bool:
        """Return whether there are snapshots, and a column of the definition is missing or of another type in one."""

    @abstractmethod
    def keep_up(self, view: str) -> None:
        """Bring all snapshots to the columns of the definition, as `pipeline.snapshots.upkeep.keep_up` does."""

    @abstractmethod
    def compact(
        self,
        view: str,
        before: datetime,
        thin_out: ThinOut | None,
        now: datetime,
        online: datetime | None,
        months: int | None,
    ) -> Compacted:
        """Make one file of the snapshots of each day that is over at `before`, and remove those not kept at `now`.

        See `pipeline.snapshots.compaction.compact`.
        """


@lru_cache(maxsize=8)
def opened(place: Store) -> SnapshotStore:
    """Return what reads and writes snapshots at `place`. Raises `PipelineError` where it cannot be opened."""
    scheme = place.url.split("://")[0]
    if scheme == "iceberg":
        from pipeline.snapshots.iceberg import IcebergTables

        return IcebergTables(place)
    if scheme == "s3":
        from pipeline.snapshots.objects import ParquetObjects

        return ParquetObjects(place)
    raise PipelineError(f"FEATURE_SNAPSHOTS: {place.url} is no place for snapshots")

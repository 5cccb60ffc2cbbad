"""The course of rows and NULLs over the kept snapshots, from the footers of their files: no column is read.

A file of a day or month holds many snapshots. Where a group of its rows holds one alone, its statistics say so; where
it holds several, which are small then, DuckDB counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow.parquet as pq

from pipeline.base.places import DataDir, Store
from pipeline.snapshots.files import can_be_read, dated_files, snapshot_instant, snapshots
from pipeline.snapshots.store import opened

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Dated = TypeVar("Dated")

# So many snapshots of a view are looked at, evenly chosen. A picture shows no more.
MOST_INSTANTS = 60


@dataclass
class Moment:
    """How many rows a snapshot has, and how many NULLs each column; a column that it lacks is not there."""

    rows: int = 0
    nulls: dict[str, int] = field(default_factory=dict)

    def rate(self, column: str) -> float | None:
        """Return the share of NULLs, None without rows or without the column."""
        return self.nulls[column] / self.rows if self.rows and column in self.nulls else None

    def add(self, rows: int, nulls: dict[str, int]) -> None:
        """Count further rows in."""
        self.rows += rows
        for name, count in nulls.items():
            self.nulls[name] = self.nulls.get(name, 0) + count


def course(data_dir: DataDir, view: str, first: datetime, last: datetime) -> dict[datetime, Moment]:
    """Return the moments of the snapshots of `view` from `first` to `last`, in order, at most `MOST_INSTANTS`.

    A file that cannot be read is passed over with a warning. Raises `Replaced` where one is gone meanwhile.
    """
    if isinstance(data_dir, Store):
        instants = _some([snapshot_instant(path) for path in snapshots(data_dir, view, first, last)][::-1])
        if not instants:
            return {}
        rows = opened(data_dir).read(view, instants)
        with duckdb.connect(config={"autoinstall_known_extensions": False}) as engine:
            return {instant: Moment() for instant in instants} | _counts(engine.from_arrow(rows), instants)
    dated = _some(list(dated_files(data_dir, view, first, last))[::-1])
    files: dict[Path, set[datetime]] = {}
    for instant, file in dated:
        files.setdefault(file, set()).add(instant)
    found: dict[datetime, Moment] = {}
    for file, wanted in files.items():
        if can_be_read(file):
            found |= _moments(file, wanted)
    return dict(sorted(found.items()))


def _some(dated: list[Dated]) -> list[Dated]:
    """Return at most `MOST_INSTANTS` of them, evenly chosen."""
    if len(dated) <= MOST_INSTANTS:
        return dated
    return [dated[place] for place in np.linspace(0, len(dated) - 1, MOST_INSTANTS).round().astype(int)]


def _moments(file: Path, wanted: set[datetime]) -> dict[datetime, Moment]:
    footer = pq.read_metadata(file)
    found = {instant: Moment() for instant in wanted}
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
        stamps = columns["event_timestamp"].statistics
        if any(column.statistics is None or column.statistics.null_count is None for column in columns.values()):
            return _counted(file, wanted)
        first, last = stamps.min.astimezone(UTC), stamps.max.astimezone(UTC)
        if first == last:
            if first in wanted:
                nulls = {name: column.statistics.null_count for name, column in columns.items()}
                found[first].add(group.num_rows, nulls)
        elif any(first <= instant <= last for instant in wanted):
            return _counted(file, wanted)
    return found


def _counted(file: Path, wanted: set[datetime]) -> dict[datetime, Moment]:
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as engine:
        return _counts(engine.read_parquet(str(file), hive_partitioning=False), wanted)


def _counts(rows: duckdb.DuckDBPyRelation, wanted: Iterable[datetime]) -> dict[datetime, Moment]:
    """Return the moments of the `wanted` instants, of rows of several."""
    names = rows.columns
    counts = ", ".join(f'count(*) - count("{name}")' for name in names)
    instants = [duckdb.ConstantExpression(each) for each in wanted]
    found = rows.filter(duckdb.ColumnExpression("event_timestamp").isin(*instants)).aggregate(
        f"epoch_us(event_timestamp), count(*), {counts}", "event_timestamp"
    )
    return {
        _EPOCH + timedelta(microseconds=stamp): Moment(count, dict(zip(names, nulls, strict=True)))
        for stamp, count, *nulls in found.fetchall()
    }

"""The course of rows and NULLs over the kept snapshots, from the footers of their files: no column is read.

A file of a day or month holds many snapshots. Where a group of its rows holds one alone, its statistics say so; where
it holds several, which are small then, DuckDB counts.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq

from pipeline.snapshots.files import can_be_read, dated_files

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


def course(data_dir: Path, view: str, first: datetime, last: datetime) -> dict[datetime, Moment]:
    """Return the moments of the snapshots of `view` from `first` to `last`, in order, at most `MOST_INSTANTS`.

    A file that cannot be read is passed over with a warning. Raises `Replaced` where one is gone meanwhile.
    """
    dated = list(dated_files(data_dir, view, first, last))[::-1]
    if len(dated) > MOST_INSTANTS:
        dated = [dated[place] for place in np.linspace(0, len(dated) - 1, MOST_INSTANTS).round().astype(int)]
    files: dict[Path, set[datetime]] = {}
    for instant, file in dated:
        files.setdefault(file, set()).add(instant)
    found: dict[datetime, Moment] = {}
    for file, wanted in files.items():
        if can_be_read(file):
            found |= _moments(file, wanted)
    return dict(sorted(found.items()))


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
    names = pq.read_schema(file).names
    counts = ", ".join(f'count(*) - count("{name}")' for name in names)
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as engine:
        engine.execute("set timezone = 'UTC'")
        rows = engine.execute(
            f"select event_timestamp, count(*), {counts} from read_parquet(?, hive_partitioning = false)"
            " where list_contains(?, event_timestamp) group by all",
            [str(file), sorted(wanted)],
        ).fetchall()
    return {
        instant.astimezone(UTC): Moment(count, dict(zip(names, nulls, strict=True))) for instant, count, *nulls in rows
    }

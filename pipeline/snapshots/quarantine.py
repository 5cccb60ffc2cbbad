"""Where the rows go that a quality gate has rejected, and what is said of them; and the files that are no snapshots.

`<data dir>/quarantine/<view>/<as-of>.parquet`: the columns of a snapshot and `reason`, where no Feast source reads.
"""

import os
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base.errors import PipelineError
from pipeline.base.fault_points import fault_point
from pipeline.base.places import DataDir, File, Store, StoredFile, local_folder
from pipeline.snapshots.bucket import Bucket
from pipeline.snapshots.exchange import sharing
from pipeline.snapshots.files import file_name, file_of, has_snapshot_name, snapshots, take_apart
from pipeline.snapshots.parquet import write_parquet
from pipeline.snapshots.quality import NAMED, BrokenRule
from pipeline.snapshots.store import opened


def quarantine_path(data_dir: DataDir, view: str, as_of: datetime) -> File:
    """Return where the rejected rows of `view` as of `as_of` are kept."""
    if isinstance(data_dir, Store) and data_dir.holds_files:
        return StoredFile(data_dir, f"quarantine/{view}/{file_name(as_of)}")
    return quarantine_folder(data_dir, view) / file_name(as_of)


def quarantine_folder(data_dir: DataDir, view: str) -> Path:
    """Return where the rejected rows and the removed files of `view` are kept."""
    return local_folder(data_dir) / "quarantine" / view


def free_path(path: Path, data_dir: Path, view: str) -> Path:
    """Return where the file at `path` can go in the quarantine of `view`, whose folder is made if need be.

    The name is its own unless that is taken; that of a snapshot is, by rejected rows of its instant, if not now then
    later.
    """
    folder = quarantine_folder(data_dir, view)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = count(1 if has_snapshot_name(path) else 0)
    names = (f"{path.stem}.{number}{path.suffix}" if number else path.name for number in numbers)
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def move_newer(data_dir: DataDir, view: str, as_of: datetime) -> int:
    """Move the snapshots of `view` as of later instants than `as_of` into quarantine; return how many they were.

    Raises `PipelineError` where a folder cannot be written; what is there then is whole, in one place or the other. A
    store keeps them itself, in its own way.
    """
    if isinstance(data_dir, Store):
        return opened(data_dir).remove_newer(view, as_of)
    newer = list(snapshots(data_dir, view, first=as_of + timedelta(microseconds=1)))
    for path in newer:
        if not path.is_file() and (file := file_of(path)):
            take_apart(file)  # that of a day or month, maybe with the snapshot of the instant itself
        try:
            with sharing(data_dir):
                shutil.move(path, free_path(path, data_dir, view))
        except OSError as error:
            raise PipelineError(f"{path} cannot be moved to {quarantine_folder(data_dir, view)}: {error}") from error
        fault_point("rollback: moved")
    return len(newer)


def set_aside(snapshot: pa.Table, broken: Sequence[BrokenRule], path: File | None) -> int:
    """Write `rejected_rows` to `path`, if there is one, over those of an earlier try, and return how many they are.

    Raises `PipelineError` where the folder cannot be written.
    """
    rejected = rejected_rows(snapshot, broken)
    if isinstance(path, StoredFile):
        Bucket(path.parent.url).write(path.key, rejected)
    elif path:
        write_parquet(rejected, path)
    return int(rejected.num_rows)


def rejected_rows(snapshot: pa.Table, broken: Sequence[BrokenRule]) -> pa.Table:
    """Return the rows of `snapshot` that break a rule, each with all its rules as `reason`, then the missing assets."""
    is_rejected = np.logical_or.reduce([rule.rows for rule in broken])
    reasons = [pc.if_else(pa.array(rule.rows[is_rejected]), rule.text, None) for rule in broken]
    reason = pc.binary_join_element_wise(*reasons, "; ", null_handling="skip")
    rows = snapshot.filter(pa.array(is_rejected)).append_column("reason", reason)
    # of a missing asset nothing is known but the key
    nullable = pa.schema([field.with_nullable(True) for field in rows.schema])
    missing = [
        pa.table({snapshot.column_names[0]: rule.missing, "reason": pa.repeat(rule.text, len(rule.missing))})
        for rule in broken
        if len(rule.missing)
    ]
    return pa.concat_tables([rows.cast(nullable), *missing], promote_options="default")


def in_words(
    snapshot: pa.Table,
    broken: Sequence[BrokenRule],
    path: File | None,
    if_planned: str = "run again with --accept-drop",
) -> str:
    """Return in one line why `snapshot` is held back: the broken rules, where their rows are and what to do.

    `path` is that of the quarantine, None where nothing is kept.
    """
    advice = (
        f"If the change is planned, {if_planned}."
        if all(rule.is_loss for rule in broken)
        else "Correct the source and run again."
    )
    return f"rejected by the quality gate: {_rules(snapshot, broken)}.{_kept_in(path)} {advice}"


def few_in_words(snapshot: pa.Table, broken: Sequence[BrokenRule], path: File | None) -> str:
    """Return in one line that `snapshot` goes on without the rows that break a rule, as `in_words`."""
    return (
        f"set aside by the quality gate: {_rules(snapshot, broken)}.{_kept_in(path)} The other rows go on; what is "
        "online of these stays. Correct the source."
    )


def _rules(snapshot: pa.Table, broken: Sequence[BrokenRule]) -> str:
    more = f" (rules broken besides: {len(broken) - NAMED})" if len(broken) > NAMED else ""
    return "; ".join(_rule(snapshot, rule) for rule in broken[:NAMED]) + more


def _rule(snapshot: pa.Table, rule: BrokenRule) -> str:
    if len(rule.missing):
        return f"{rule.text}: {len(rule.missing):,}, e.g. {_listed(rule.missing)}"
    key = snapshot.column_names[0]
    keys = snapshot[key].filter(pa.array(rule.rows))
    return f"{rule.text} in {len(keys):,} of {snapshot.num_rows:,} rows, e.g. {key} {_listed(keys)}"


def _listed(keys: pa.Array | pa.ChunkedArray) -> str:
    return ", ".join(map(str, keys[:NAMED].to_pylist()))


def _kept_in(path: File | None) -> str:
    return f" Rows and reasons: {path}." if path else ""

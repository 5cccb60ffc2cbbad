"""Replacing many files of a folder by others in one step: who lists it finds the ones or the others, never both.

A folder beside it is made of hard links to the files that stay and of the new files, then both change their names at
once (`renameat2` of Linux). Who is just listing the old one has a moment for it, then its files go. Before the change a
kill leaves the old state and a folder that nobody reads, after it the new state and the old files in that folder. The
next replacement removes it.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.base.errors import PipelineError
from pipeline.base.fault_points import fault_point

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

# Its time says up to when the files of a folder have been looked at: see `pipeline.snapshots.upkeep`.
MARKER = ".definition"
# How long the replaced files stay: who has opened the folder and reads its names would find only those that are left.
_LISTING_SECONDS = 0.2
# The clock of a disk goes in steps, by the kernel's timer.
_TICK_SECONDS = 0.02


@contextmanager
def sharing(data_dir: Path) -> Iterator[None]:
    """Let no folder in `data_dir` be replaced during the block, in which single files are."""
    descriptor = None
    with suppress(OSError):  # not there yet, or a disk without such locks, on which no folder is replaced
        descriptor = _locked(data_dir, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Let nobody else change or replace files of a view in `data_dir` during the block.

    Raises `PipelineError` where the folder cannot be locked.
    """
    try:
        descriptor = _locked(data_dir, fcntl.LOCK_EX)
    except OSError as error:
        raise PipelineError(f"{data_dir} cannot be locked: {error.strerror}. Put it on a local disk.") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(folder: Path, kind: int) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_files(folder: Path, gone: Collection[Path], write: Callable[[Path], object]) -> None:
    """Put what `write` writes below the path that it is given in the place of the files `gone`, in one step.

    For within `alone`. Raises `PipelineError` where the disk cannot do that, or somebody else changes files meanwhile;
    the folder is then as it was.
    """
    beside = _beside(folder)
    try:
        if folder.is_symlink():
            raise OSError(errno.EXDEV, "it is a link")
        _remove(beside)
        try:
            _try_exchange(beside)
            before, is_looked_at = _files(folder), _is_looked_at(folder, gone)
            _link(before, folder, beside, gone)
            fault_point("compact: linked")
            write(beside)
            after = _files(beside)
            fault_point("compact: written")
            if _files(folder) != before:
                raise PipelineError(
                    f"{folder} is being changed by another program: it stays as it is. Try again later."
                )
            _exchange(beside, folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        fault_point("compact: exchanged")
        _sync(folder.parent)
        time.sleep(_LISTING_SECONDS)
        _remove(beside)
        fault_point("compact: removed")
        if is_looked_at and _files(folder) == after:  # those that have stayed look changed, by their links
            time.sleep(_TICK_SECONDS)
            os.utime(folder / MARKER)
    except OSError as error:
        raise PipelineError(
            f"{folder} stays as it is: {error.strerror or error}. Files are replaced together only on a local disk of "
            "Linux, with room for them and the right to write"
        ) from error


def remove_replaced(folder: Path) -> None:
    """Remove what a killed replacement of files in `folder` has left; raises `PipelineError` where it cannot."""
    if _beside(folder).exists():
        with alone(folder.parent):
            try:
                _remove(_beside(folder))
            except OSError as error:
                raise PipelineError(f"{error.filename} cannot be removed: {error.strerror}") from error


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return the paths in `folder` of all files below it, links as such, and what changes when they do."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            found[str(path.relative_to(folder))] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _link(files: Collection[str], folder: Path, target: Path, gone: Collection[Path]) -> None:
    """Make `target` a copy of `folder` of links to its `files` but for those `gone`."""
    shutil.copymode(folder, target)
    left_out = {str(path.relative_to(folder)) for path in gone}
    for name in sorted({*files} - left_out):
        place, source = target / name, folder / name
        if not place.parent.exists():
            place.parent.mkdir(parents=True)
            shutil.copymode(source.parent, place.parent)
        os.link(source, place, follow_symlinks=False)


def _is_looked_at(folder: Path, gone: Collection[Path]) -> bool:
    """Return whether no file but those `gone` has changed since all were looked at."""
    try:
        since = (folder / MARKER).stat().st_mtime_ns
    except FileNotFoundError:
        return False
    changed = (path for path in folder.rglob("*.parquet") if path.lstat().st_ctime_ns >= since)
    return all(path in gone for path in changed)


def _try_exchange(beside: Path) -> None:
    """Make the folder `beside`; raise `OSError` where the disk cannot exchange folders, before there is work for it."""
    one, other = beside / "one", beside / "other"
    for folder in (beside, one, other):
        folder.mkdir()
    _exchange(one, other)
    one.rmdir()
    other.rmdir()


def _exchange(one: Path, other: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if rename is None or rename(*names):
        number = ctypes.get_errno()
        raise OSError(number, f"folders cannot be exchanged ({os.strerror(number)})")


def _sync(folder: Path) -> None:
    """Make what has been renamed in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

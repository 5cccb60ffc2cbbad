"""The folder of the snapshots: there or to be made, writable, with room, and without leftovers."""

import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import PipelineError
from pipeline.base.places import DataDir, Store
from pipeline.base.settings import Settings
from pipeline.base.views import VIEW_NAMES
from pipeline.operations.doctor.check import Check, Subject
from pipeline.snapshots.files import newest_snapshot
from pipeline.snapshots.upkeep import look

SNAPSHOTS = Subject("Snapshots")
# Room for so many more runs like the last one is little; and no disk should be fuller than this.
FEW_RUNS = 100
LITTLE_BYTES = 1 << 30
# A temporary file belongs to a run that is writing it, or, after so long, to one that died.
LEFTOVER_SECONDS = 3600


def check_snapshots(settings: Settings) -> Iterator[Check]:
    """Yield the checks of `FEATURE_DATA_DIR`. The file that tries whether it can be written never has a name.

    Of a store that holds files only these are looked at: nothing of a view is in the folder.
    """
    stored, folder = settings.snapshots, settings.feature_data_dir
    if isinstance(stored, Store) and stored.holds_files:
        yield _files(stored)
        return
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"doctor")
            probe.flush()
    except OSError as error:
        yield SNAPSHOTS.fails(
            "folder",
            f"{place} cannot be written: {error.strerror}",
            "give the user of the runs the right to write there, or set FEATURE_DATA_DIR to another folder",
        )
        yield SNAPSHOTS.not_checked(("privacy", "space", "leftovers", "files"), "needs the folder")
        return
    text = f"{folder} can be written" if place == folder else f"{folder} is not there yet; {place} can be written"
    yield SNAPSHOTS.ok("folder", text)
    yield _privacy(folder)
    yield _space(folder, place)
    yield _leftovers(folder)
    yield _files(stored)


def _privacy(folder: Path) -> Check:
    if not folder.exists():
        return SNAPSHOTS.ok("privacy", "the first run makes it, for its user and group")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & stat.S_IRWXO:
        text = f"everybody on this machine may enter {folder} (mode {mode:o})"
        return SNAPSHOTS.warning("privacy", text, f"chmod o= {folder}")
    return SNAPSHOTS.ok("privacy", f"mode {mode:o}")


def _space(folder: Path, place: Path) -> Check:
    free = shutil.disk_usage(place).free
    newest = [path for view in VIEW_NAMES if (path := newest_snapshot(folder, view)) and path.is_file()]
    run = sum(path.stat().st_size for path in newest)
    text = f"{_size(free)} free" + (f", {free // run:,} runs like the last one" if run else "")
    fix = "move old snapshot_date=* folders away (training needs those of its period), or give the disk more room"
    if free <= 2 * run:
        return SNAPSHOTS.fails("space", f"{text}: the next run may not fit", fix)
    if free < max(FEW_RUNS * run, LITTLE_BYTES):
        return SNAPSHOTS.warning("space", text, fix)
    return SNAPSHOTS.ok("space", text)


def _leftovers(folder: Path) -> Check:
    before = time.time() - LEFTOVER_SECONDS
    left = [path for path in folder.rglob(".*.tmp") if path.is_file() and path.stat().st_mtime < before]
    if not left:
        return SNAPSHOTS.ok("leftovers", "none of runs that died")
    size = _size(sum(path.stat().st_size for path in left))
    return SNAPSHOTS.warning(
        "leftovers",
        f"{len(left)} temporary files of runs that died, {size}, e.g. {left[0]}",
        f"find {folder} -name '.*.tmp' -mmin +60 -delete",
    )


def _files(place: DataDir) -> Check:
    try:
        found = [look(place, view) for view in VIEW_NAMES]
    except PipelineError as error:
        return SNAPSHOTS.fails("files", error.what, error.advice or "see docs/object-storage.md")
    if any(each.is_older for each in found):
        text, fix = f"snapshots in {place} are of an older definition", "the next run brings them to the columns of now"
        return SNAPSHOTS.warning("files", text, fix)
    strays = [path for each in found for path in (*each.strays, *each.unsettled)]
    older = [path for each in found for path in each.older]
    texts = []
    if strays:
        texts.append(f"{len(strays)} files are no snapshots that can be read, e.g. {strays[0]}")
    if older:
        texts.append(f"{len(older)} snapshots are of an older definition, e.g. {older[0]}")
    if texts:
        fix = "the next run moves the former into quarantine/, brings the latter to the columns of now: docs/history.md"
        return SNAPSHOTS.warning("files", f"{' and '.join(texts)}: Feast's own readers stumble", fix)
    return SNAPSHOTS.ok("files", "snapshots alone, with the columns of the definitions")


def _size(number: float) -> str:
    units = iter(("kB", "MB", "GB", "TB"))
    unit = "bytes"
    while number >= 1000 and (larger := next(units, None)):
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"

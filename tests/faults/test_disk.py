"""A disk that is full, and files that a run which died has left on it."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import REPOSITORY
from pipeline.snapshots.files import snapshot_path
from tests.faults.net import CLEAR_FAILURE, Net
from tests.faults.worker import Outcome
from tests.faults.world import A, B, World

# A file system of a few pages, which its owner fills: mount it, work on it, keep what is there in the end.
_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=128k tmpfs "$1" && cp -a "$2/." "$1" || exit 99
data=$1 kept=$3; shift 3
"$@"; code=$?
cp -a "$data/." "$kept"; exit $code
"""


@pytest.mark.parametrize("largest_file", [6_000, 13_000, 40_000])
def test_file_that_cannot_grow(net: Net, largest_file: int) -> None:
    """The limit of the process on the size of a file: none, one or two of the three snapshots fit."""
    net.world.restore()
    outcome = net.run(largest_file=largest_file)
    assert "cannot be written: File too large. Check the folder, its rights and its space." in outcome.output
    assert net.judge(outcome, f"files up to {largest_file} bytes") == CLEAR_FAILURE


def test_full_file_system(net: Net, tmp_path: Path) -> None:
    world = net.world
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("no user namespaces here, so no file system of our own")
    world.restore()
    kept = tmp_path / "kept"
    kept.mkdir()
    copy = shutil.copytree(world.data, tmp_path / "copy")
    command = [sys.executable, "materialize_features.py", "--as-of", B.isoformat()]
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _ON_A_SMALL_DISK, "sh", world.data, copy, kept, *command],
        env=os.environ | world.variables,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(world.data)
    shutil.copytree(kept, world.data)
    full = r"cannot be (written|kept up): No space left on device\. Check the folder, its rights and its space\."
    assert re.search(full, result.stderr)
    outcome = Outcome(result.returncode, 0.0, result.stderr + result.stdout, {})
    assert net.judge(outcome, "full file system") == CLEAR_FAILURE


def test_leftovers_of_dead_runs_are_removed_a_day_later(world: World) -> None:
    world.restore()
    places = [snapshot_path(world.data, "asset_features", A).parent, world.data / "quarantine" / "asset_features"]
    folder = world.metrics.parent
    old = [place / ".20260301T000000Z-4711.tmp" for place in places] + [folder / "features.prom.4711.140001"]
    young = [place / ".20260311T000000Z-4712.tmp" for place in places] + [folder / "features.prom.4712.140001"]
    others = [folder / "other.prom", folder / "features.prom.old"]
    for path in [*old, *young, *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"PAR1, and no more")
    for path in [*old, *others]:
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    world.check_readers(world.before)
    assert world.run("--metrics-file", str(world.metrics)).exit_code == 0
    assert [path for path in old if path.exists()] == []
    assert all(path.exists() for path in [*young, *others])

"""The properties hold whatever the time zone of the process is: the embedded engine and the servers start in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleets import FLEETS

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(900)
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_the_properties_in_another_time_zone(zone: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/test_properties.py", "tests/test_no_leak.py"],
        cwd=REPOSITORY,
        env=os.environ | {"TZ": zone, "PROPERTY_FLEETS": str(max(5, FLEETS // 8))},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2_000:]

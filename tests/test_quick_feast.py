"""Our own processes import Feast without the checks of its calls."""

import subprocess
import sys

import pytest

from pipeline import REPOSITORY

PROGRAM = """
import sys
{}
from feast import FeatureView
print("typeguard" in FeatureView.__init__.__code__.co_names)
"""
COMMAND = 'from materialize_features import cli; cli(["catalogue"], standalone_mode=False)'
GATEWAY = """
import gateway.__main__, pipeline.base.settings
try:
    gateway.__main__.app()
except Exception:  # it has no settings
    pass
"""


@pytest.mark.parametrize(("first", "checks"), [("", True), (COMMAND, False), (GATEWAY, False)])
def test_only_feast_by_itself_checks_its_calls(first: str, checks: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == str(checks)

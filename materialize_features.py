#!/usr/bin/env python
"""Materialize the features of dCMMS: extract as of one instant, keep snapshots, publish the newest values."""

import sys
from pathlib import Path

# Works from any working directory, and when another program runs this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from pipeline.commands.cli import cli

if __name__ == "__main__":
    cli()

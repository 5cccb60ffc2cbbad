"""`report`: what it costs to watch a large fleet over a month of daily snapshots.

The snapshots are made up: every feature of every view, the same rows every other day.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import numpy as np
import pyarrow as pa

from benchmarks.history import alone, moved, timed
from benchmarks.training_set import END, made_up_snapshot

ASSETS, SNAPSHOTS = 50_000, 30
LIMIT_SECONDS, LIMIT_MEGABYTES = 20, 1_000


def measure_watching(say: Callable[[str], object]) -> list[dict]:
    """Return one record: seconds and peak memory of a report with its page, the bytes of the page."""
    with TemporaryDirectory(prefix="watching-benchmark-") as directory:
        say(f"report: {SNAPSHOTS} snapshots of {ASSETS:,} assets")
        features = alone(_write, directory, directory)
        say("report")
        measured = alone(timed, directory, report_and_page, directory)
        size = (Path(directory) / "report.html").stat().st_size
        return [{"assets": ASSETS, "features": features, "snapshots": SNAPSHOTS, "page_bytes": size, **measured}]


def report_and_page(directory: str) -> None:
    """Make the report as of the last instant, and write its page."""
    from pipeline.base.settings import Settings
    from pipeline.base.views import VIEW_NAMES
    from pipeline.operations.report.page import write_page
    from pipeline.operations.report.report import make_report

    settings = Settings(
        _env_file=None,
        database_url="postgresql://nobody@127.0.0.1/none",
        clickhouse_dsn="http://127.0.0.1",
        feature_data_dir=directory,
    )
    report = make_report(settings, None, VIEW_NAMES, END)
    assert all(each.psi is not None for each in report.features)
    write_page(report, Path(directory) / "report.html")


def _write(directory: str) -> int:
    """Write the snapshots, and return how many features they have."""
    from pipeline.base.specs import VIEWS
    from pipeline.snapshots.files import snapshot_path
    from pipeline.snapshots.parquet import write_parquet

    keys = pa.array([str(UUID(int=number)) for number in range(1, ASSETS + 1)])
    for view in VIEWS:
        made = [made_up_snapshot(view, keys, END, np.random.default_rng(seed)) for seed in (1, 2)]
        for day in range(SNAPSHOTS):
            as_of = END - timedelta(days=day)
            write_parquet(moved(made[day % 2], as_of), snapshot_path(Path(directory), view, as_of))
    return sum(len(view.features) for view in VIEWS.values())

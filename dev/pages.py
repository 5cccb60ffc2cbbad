"""`make pictures`: the pages of docs/watching.md.

The report of the demo fleet on a quiet day and with faults that are put in, and Feast's own pages on the definitions.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dev import fleet, load, ui
from dev.servers import PostgresServer, free_port
from dev.stack import REPOSITORY, ensure_database
from dev.steps import run_step

CHROMIUM = "chromium"
AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
#: Of the history, in days: the snapshots are weekly, and there is one of a year ago.
_DAYS, _KEPT = 470, (364, 28, 21, 14, 7, 0)
_WIDTH, _HEIGHT, _COLOURS = 1000, 1200, 64
_UI_WIDTH, _UI_HEIGHT, _UI_SECONDS, _UI_COLOURS = 1400, 1000, 20, 256


def write_pictures(folder: Path) -> list[Path]:
    """Write report-quiet.png, report-drifted.png, ui-view.png and ui-lineage.png into `folder`, and return them.

    Raises `click.ClickException` where there is no chromium or it fails.
    """
    if not shutil.which(CHROMIUM):
        raise click.ClickException("chromium is not installed: apt install chromium")
    pictures = []
    with TemporaryDirectory(prefix="report-pictures-") as directory:
        data = Path(directory) / "features"
        run_step("snapshots of the demo fleet", lambda: _snapshots(Path(directory), data))
        for name, faults in (("quiet", None), ("drifted", _put_faults_in)):
            if faults:
                run_step("put faults in", lambda: _put_faults_in(data))
            page, picture = Path(directory) / f"{name}.html", folder / f"report-{name}.png"
            run_step(f"the page of a {name} day", lambda page=page: _report(data, page))
            screenshot(page, picture)
            _with_few_colours(picture)
            pictures.append(picture)
        pictures += _of_ui(Path(directory), folder)
    return pictures


def _of_ui(directory: Path, folder: Path) -> list[Path]:
    pictures = []
    with ui.feast_ui(ui.apply_to_a_file(directory)) as url:
        for name in ("view", "lineage"):
            picture = folder / f"ui-{name}.png"
            screenshot(url + ui.PAGES[name], picture, width=_UI_WIDTH, height=_UI_HEIGHT, seconds=_UI_SECONDS)
            _with_few_colours(picture, _UI_COLOURS)
            pictures.append(picture)
    return pictures


def screenshot(
    page: Path | str,
    picture: Path,
    *,
    width: int = _WIDTH,
    height: int = _HEIGHT,
    dark: bool = False,
    seconds: int = 2,
) -> None:
    """Take a picture of a file or address in headless chromium, after so many `seconds` of the page's own time.

    Raises `click.ClickException` where that fails.
    """
    options = [
        "--headless",
        "--no-sandbox",
        "--hide-scrollbars",
        f"--window-size={width},{height}",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        f"--virtual-time-budget={1000 * seconds}",
        f"--screenshot={picture}",
    ]
    address = page.as_uri() if isinstance(page, Path) else page
    done = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, check=False)
    if done.returncode or not picture.exists():
        raise click.ClickException(f"{CHROMIUM} failed: {done.stderr[-500:]}")


def _with_few_colours(picture: Path, colours: int = _COLOURS) -> None:
    """Make the file a fifth as large: a page has few colours."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(picture, optimize=True)


def _snapshots(directory: Path, data: Path) -> None:
    from pipeline.base.settings import Settings
    from pipeline.base.views import VIEW_NAMES
    from pipeline.runs.backfill import backfill

    with PostgresServer(directory / "postgres", free_port()) as server:
        ensure_database(server.admin_url, "dcmms", "dcmms")
        url, dsn = server.url("dcmms", "dcmms"), f"chdb://{directory / 'clickhouse'}"
        load.load_fleet(url, dsn, fleet.generate(days=_DAYS, end=AS_OF))
        settings = Settings(_env_file=None, database_url=url, clickhouse_dsn=dsn, feature_data_dir=data)
        backfill(settings, [AS_OF - timedelta(days=day) for day in _KEPT], list(VIEW_NAMES))


def _report(data: Path, page: Path) -> None:
    environment = {
        "FEATURE_STORE_ENV_FILE": "/dev/null",
        "FEATURE_DATA_DIR": str(data),
        "FEAST_FS_YAML_FILE_PATH": "/none/feature_store.yaml",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
        "CLICKHOUSE_DSN": "http://127.0.0.1",
    }
    command = [sys.executable, "materialize_features.py", "report", "--as-of", AS_OF.isoformat(), "--html", str(page)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if not page.exists():
        raise click.ClickException(done.stderr)


def _put_faults_in(data: Path) -> None:
    """Change the newest snapshots as a wrong source would."""
    _changed(data, "asset_features", "manufacturer", lambda column: pc.if_else(_every(column, 4), None, column))
    _changed(data, "asset_features", "mttr_hours", lambda column: pc.multiply(column, pa.scalar(60, column.type)))
    _changed(data, "telemetry_features", "rolling_avg_power_7d", lambda column: pc.multiply(column, 1000.0))
    _changed(data, "alarm_features", "alarms_7d", lambda column: pc.multiply(column, pa.scalar(0, column.type)))


def _every(column: pa.ChunkedArray, number: int) -> pa.Array:
    return pa.array(np.arange(len(column)) % number == 0)


def _changed(data: Path, view: str, feature: str, change: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> None:
    from pipeline.snapshots.files import read_snapshot, snapshot_path, write_snapshot

    path = snapshot_path(data, view, AS_OF)
    rows = read_snapshot(path)
    field = rows.schema.field(feature)
    column = change(rows[feature]).cast(field.type)
    write_snapshot(rows.set_column(rows.schema.get_field_index(feature), field, column), path)

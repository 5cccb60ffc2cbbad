"""The notebook, run as a newcomer runs it: on the demo fleet, with snapshots of a year and the newest ones online.

Weekly snapshots, at the instants of the training set, where the notebook's own instructions say daily: fewer to write.
Only its picture of sixty days is coarser by that.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import nbformat
import psycopg2
import pytest
from nbformat import NotebookNode

from dev.servers import PostgresServer, RedisServer
from dev.stack import ensure_database
from notebooks.execute import executed
from pipeline import REPOSITORY
from tests.stores import write_feature_store_yaml

NOTEBOOK = REPOSITORY / "notebooks" / "predictive_maintenance.ipynb"
LOAD = "import sys; from dev import fleet, load; load.load_fleet(*sys.argv[1:], fleet.generate())"
MATERIALIZE = (sys.executable, "materialize_features.py")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def environment(
    postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The settings of servers that hold the demo fleet, its snapshots and its online values."""
    directory = tmp_path_factory.mktemp("notebook")
    (directory / "clickhouse").mkdir()
    ensure_database(postgres.admin_url, "dcmms_notebook", "dcmms")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CLICKHOUSE_HOST", "CLICKHOUSE_DATABASE", "TELEMETRY_BUCKET_MINUTES"):
            patch.delenv(name, raising=False)
        patch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
        patch.setenv("DATABASE_URL", postgres.url("dcmms", "dcmms_notebook"))
        patch.setenv("CLICKHOUSE_DSN", f"chdb://{directory / 'clickhouse'}")
        patch.setenv("FEATURE_DATA_DIR", str(directory / "data"))
        yaml = write_feature_store_yaml(directory, postgres, redis, "feast_notebook")
        patch.setenv("FEAST_FS_YAML_FILE_PATH", str(yaml))
        # In processes of their own: the embedded engine admits one directory per process, and pytest's holds another.
        run(sys.executable, "-c", LOAD, os.environ["DATABASE_URL"], os.environ["CLICKHOUSE_DSN"])
        run(Path(sys.executable).with_name("feast"), "apply")
        run(*MATERIALIZE, "--as-of", "2026-01-01T00:00:00Z")
        run(*MATERIALIZE, "backfill", "--start", "2025-01-02", "--end", "2026-01-01", "--every", "7d")
        yield
    with closing(psycopg2.connect(postgres.admin_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute("drop database dcmms_notebook")


def run(*command: str | Path) -> None:
    """Run a process that has to succeed, in the repository."""
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def outputs(notebook: NotebookNode) -> list[list[str]]:
    """Return the kind of each output of each code cell: a picture, a table, a text, a stream or an error."""
    return [
        [output.get("name") or output.get("ename") or min(output["data"]) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.usefixtures("environment")
def test_notebook_runs_and_gives_what_is_committed() -> None:
    # The notebook itself asserts that its model is good and not too good.
    committed, notebook = nbformat.read(NOTEBOOK, as_version=4), executed(NOTEBOOK)
    assert outputs(notebook) == outputs(committed)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in committed.cells]
    assert table(notebook, "rows with a failure") == table(committed, "rows with a failure")


def table(notebook: NotebookNode, text: str) -> str:
    """Return the first table that holds `text`."""
    texts = (
        output["data"].get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    return next(found for found in texts if text in found)


def test_committed_outputs_are_complete_clean_and_small() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    committed = nbformat.reads(text, as_version=4)
    nbformat.validate(committed)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(not cell.metadata for cell in committed.cells)
    kinds = [kind for cell in outputs(committed) for kind in cell]
    assert sorted(kinds) == ["image/png"] * 6 + ["text/html"] * 5
    assert len(text) < 600_000
    assert re.findall(r"/(?:home|root|tmp|var|Users)\b[^ ]*|site-packages|[Ww]arning", text) == []

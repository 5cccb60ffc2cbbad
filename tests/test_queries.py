"""The SQL files of `features/`: one text for psql and for the pipeline, with the facts that they share."""

import csv
import io
import os
import subprocess
from pathlib import Path

import pytest

from dev.servers import PostgresServer, _postgres_bin
from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.sources import queries
from pipeline.sources.queries import query_text
from tests.dcmms import Dcmms, T, ago

FILES = ("alarm_features", "asset_features", "work_order_features", "failure_within_7d")
AS_OF = f"{ago(30).isoformat()},{T.isoformat()}"
Rows = list[tuple[str, ...]]


@pytest.mark.parametrize("file", FILES)
def test_file_runs_in_psql_as_it_stands(postgres: PostgresServer, dcmms: Dcmms, variant: str, file: str) -> None:
    asset = dcmms.asset(1, created_at=ago(400), specifications='{"ratedPowerKw": "55 kW"}')
    dcmms.asset(2, created_at=ago(20))
    dcmms.work_order(asset, ago(45), type="corrective", status="completed", actual_end=ago(40), updated_at=ago(40))
    dcmms.work_order(asset, ago(28), type="emergency", status="cancelled", updated_at=ago(1))
    dcmms.work_order(asset, ago(25), type="preventive", scheduled_end=ago(3))
    dcmms.alert(asset, ago(2))
    dcmms.score(asset, ago(31), 80)
    rows = rows_of_psql(postgres.url("dcmms", f"dcmms_{variant}"), file)
    assert rows == rows_of_pipeline(dcmms, file)
    assert len(rows) == 1 + 3


def rows_of_psql(url: str, file: str) -> Rows:
    """Return header and rows as psql prints them, run in the folder of the file as its head says."""
    settings = f"set timezone = 'UTC'; set feature_store.as_of = '{AS_OF}'"
    command = [_postgres_bin() / "psql", "-X", "-q", "--csv", "-v", "ON_ERROR_STOP=1", "-c", settings]
    result = subprocess.run(
        [*command, "-f", f"{file}.sql", url],
        cwd=REPOSITORY / "features",
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return _in_order(result.stdout)


def rows_of_pipeline(dcmms: Dcmms, file: str) -> Rows:
    """Return header and rows of the query as the pipeline sends it."""
    output = io.StringIO()
    with dcmms.postgres.cursor() as cursor:
        cursor.execute("select set_config('feature_store.as_of', %s, true)", (AS_OF,))
        cursor.copy_expert(
            f"copy ({query_text(REPOSITORY / f'features/{file}.sql')}) to stdout (format csv, header)", output
        )
    dcmms.postgres.rollback()
    return _in_order(output.getvalue())


def _in_order(text: str) -> Rows:
    header, *rows = [tuple(row) for row in csv.reader(io.StringIO(text))]
    return [header, *sorted(rows)]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own, with a folder of fragments."""
    monkeypatch.setattr(queries, "FRAGMENTS", tmp_path / "shared")
    (tmp_path / "shared").mkdir()
    return tmp_path


def test_fragments_may_name_fragments(repository: Path) -> None:
    (repository / "shared" / "numbers.sql").write_text("select 1 as n\n")
    (repository / "shared" / "doubles.sql").write_text("select 2 * n from (:numbers) as numbers\n")
    (repository / "view.sql").write_text(
        "\\set doubles `cat shared/doubles.sql`\nselect * from (:doubles) as doubles\n"
    )
    assert " ".join(query_text(repository / "view.sql").split()) == (
        "select * from ( select 2 * n from ( select 1 as n ) as numbers ) as doubles"
    )


def test_only_a_name_in_brackets_is_a_fragment(repository: Path) -> None:
    text = "select regexp_match('1e3', '(?:e[+-]?\\d+)'), now()::date, array[1, 2][1:2]\n"
    (repository / "view.sql").write_text(text)
    assert query_text(repository / "view.sql") == text


def test_missing_fragment_is_named(repository: Path) -> None:
    (repository / "view.sql").write_text("select * from (:nothing) as nothing\n")
    with pytest.raises(
        PipelineError, match=r"^view\.sql names the fragment \(:nothing\), but there is no .*nothing\.sql$"
    ):
        query_text(repository / "view.sql")

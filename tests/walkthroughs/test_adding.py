"""docs/adding-a-feature.md, followed to the letter in a copy of the repository: what it names is enough, and needed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pyarrow.parquet as pq
import pytest

from dev.servers import PostgresServer, RedisServer
from dev.stack import ensure_database
from pipeline import REPOSITORY
from tests.operations.test_end_to_end import LOAD, ask, feature_server
from tests.stores import write_feature_store_yaml

PAGE = (REPOSITORY / "docs/adding-a-feature.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNAPSHOT = "snapshot_date=2026-01-01/20260101T000000Z.parquet"

pytestmark = pytest.mark.timeout(900)


def section(title: str) -> list[tuple[str, str]]:
    """Return the blocks of a section, language and content, in order."""
    return FENCE.findall(PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0])


def follow(blocks: list[tuple[str, str]], copy: Path, environment: Mapping[str, str]) -> None:
    """Do what the blocks say in the repository `copy`: patch a file, write one, run commands."""
    for language, content in blocks:
        if language == "diff":
            patch(content, copy)
        elif language == "bash":
            run(["bash", "-ec", content], copy, environment)
        else:
            comment, _, text = content.partition("\n")
            (copy / comment.split()[1]).write_text(text)


def patch(content: str, copy: Path) -> None:
    """Apply a patch whose hunks say by their context alone where they belong."""
    head, *hunks = content.split("@@\n")
    path = copy / re.search(r"^\+\+\+ b/(.+)$", head, re.MULTILINE)[1]
    text = path.read_text()
    for hunk in hunks:
        lines = [(line[:1] or " ", line[1:] + "\n") for line in hunk.splitlines()]
        before = "".join(line for sign, line in lines if sign in " -")
        assert text.count(before) == 1, f"{path.name} has this {text.count(before)} times:\n{before}"
        text = text.replace(before, "".join(line for sign, line in lines if sign in " +"))
    path.write_text(text)


def run(command: list[str], copy: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(name="copy")
def copy_of_repository(tmp_path: Path) -> Path:
    """The repository as a person has it after `make`, in a folder of its own."""
    return copied_to(tmp_path / "repository")


def copied_to(copy: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


@pytest.fixture(name="environment")
def environment_of_commands(postgres: PostgresServer, redis: RedisServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of commands against servers that hold a fleet and an empty registry."""
    with loaded(postgres, redis, tmp_path) as environment:
        yield environment


@contextmanager
def loaded(postgres: PostgresServer, redis: RedisServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    database, registry = "dcmms_adding", "feast_adding"
    ensure_database(postgres.admin_url, database, "dcmms")
    (tmp_path / "clickhouse").mkdir()
    environment = dict(os.environ) | {
        "FEATURE_STORE_ENV_FILE": os.devnull,
        "DATABASE_URL": postgres.url("dcmms", database),
        "CLICKHOUSE_DSN": f"chdb://{tmp_path / 'clickhouse'}",
        "FEATURE_DATA_DIR": str(tmp_path / "data"),
        "FEAST_FS_YAML_FILE_PATH": str(write_feature_store_yaml(tmp_path, postgres, redis, registry)),
        "PROPERTY_FLEETS": "10",
    }
    stores = (environment["DATABASE_URL"], environment["CLICKHOUSE_DSN"])
    run([sys.executable, "-c", LOAD, *stores], REPOSITORY, environment)
    yield environment
    with closing(psycopg2.connect(postgres.admin_url)) as connection:
        connection.autocommit = True
        for name in (database, registry):
            connection.cursor().execute(f"drop database if exists {name} with (force)")


def test_a_feature(copy: Path, environment: dict[str, str]) -> None:
    follow(section("A feature"), copy, environment)
    days = pq.read_table(copy / "training.parquet")["days_since_registration"].to_pylist()
    assert len(days) > 0
    assert all(value >= 0 for value in days)
    snapshot = pq.read_table(Path(environment["FEATURE_DATA_DIR"]) / "asset_features" / SNAPSHOT, partitioning=None)
    assert min(snapshot["days_since_registration"].to_pylist()) >= 0


@pytest.mark.parametrize("file", ["features/asset_features.py", "features/asset_features.sql", "tests/reference.py"])
def test_a_feature_that_lacks_a_step_fails(copy: Path, environment: dict[str, str], file: str) -> None:
    blocks = [block for block in section("A feature") if f"+++ b/{file}" not in block[1]]
    tests = next(block for block in blocks if block[0] == "bash")
    with pytest.raises(AssertionError, match="days_since_registration"):
        follow([*(block for block in blocks if block[0] == "diff"), tests], copy, environment)


def test_a_view(copy: Path, environment: dict[str, str], tmp_path: Path) -> None:
    follow(section("A view"), copy, environment)
    folder = Path(environment["FEATURE_DATA_DIR"]) / "alert_response_features"
    assert sorted(path.name for path in folder.glob("*/*.parquet")) == [
        *(f"202512{day}T000000Z.parquet" for day in (25, 26, 27)),
        "20260101T000000Z.parquet",
    ]
    snapshot = pq.read_table(folder / SNAPSHOT, partitioning=None)
    answered = {row["asset_id"]: row["acknowledged_alerts_30d"] for row in snapshot.to_pylist()}
    assert max(answered.values()) > 0
    with feature_server(environment, tmp_path / "log", copy) as url:
        answer = ask(url, list(answered), features=["alert_response_features:acknowledged_alerts_30d"])
    assert answer["alert_response_features__acknowledged_alerts_30d"]["values"] == list(answered.values())


def test_an_alias(copy: Path, environment: dict[str, str]) -> None:
    follow(section("An alias"), copy, environment)

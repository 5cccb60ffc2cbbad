"""What README.md, .env.example and deploy/ say is so; the repository names no machine that it was made on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
import yaml
from dotenv import dotenv_values
from feast.cli.serve import serve_command
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from redis import Redis

from dev.servers import PostgresServer, RedisServer
from features.services import predictive_maintenance_v1
from gateway.settings import GatewaySettings
from materialize_features import cli
from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.base.settings import Settings
from pipeline.base.specs import VIEWS
from pipeline.registry.feast_store import load_store_config, open_feature_store
from tests import readme
from tests.stores import write_feature_store_yaml

ENV_EXAMPLE = REPOSITORY / ".env.example"
REDIS_EXAMPLES = REPOSITORY / "docs" / "redis-cluster.md"
PRODUCTION = REPOSITORY / "deploy" / "feature_store.yaml"
# Read by Feast, or telling where the other settings are: no fields of Settings.
NO_SETTINGS = {"FEAST_FS_YAML_FILE_PATH", "FEATURE_STORE_ENV_FILE"}
# Made by the commands, not part of the repository.
GENERATED = (".env", ".local/", "data/")


def options_of(command: click.Command) -> set[str]:
    """Return every way to write the options of a command."""
    return {name for parameter in command.params for name in parameter.opts} | {"-h", "--help"}


def written_options(text: str) -> set[str]:
    """Return the options that a command line or a piece of prose names."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def made_by(code: str) -> set[str]:
    """Return the targets of make that a text names."""
    return set(re.findall(r"\bmake ([a-z-]+)", code))


def make_targets() -> set[str]:
    """Return the targets that there are."""
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def test_make_targets_exist() -> None:
    named = made_by(readme.code())
    assert named >= {"demo", "test", "up", "down"}
    assert named <= make_targets()


def test_options_exist() -> None:
    lines = [line.split("#")[0] + line.partition("#")[2] for line in readme.code().splitlines()]
    for line in lines:
        if match := re.search(r"materialize_features\.py( [a-z][a-z-]*)?", line):
            command = cli.commands[match[1].strip() if match[1] else "run"]
            assert written_options(line) <= options_of(command), line
    (serve,) = (line for block in readme.blocks("bash") for line in block.splitlines() if "feast serve" in line)
    assert len(written_options(serve)) == 5
    assert written_options(serve) <= options_of(serve_command)


def test_links_and_named_files_exist() -> None:
    links = set(re.findall(r"\]\(([^)#]+)\)", readme.TEXT))
    paths = {span for span in readme.spans() if re.fullmatch(r"[\w.-]*/[\w./=-]*|\.?[\w-]+\.(py|yaml|md)", span)}
    local = {path for path in links | paths if "://" not in path and not path.startswith(GENERATED)}
    assert len(readme.TEXT.splitlines()) < 200
    assert {"docs/architecture.svg", "deploy/crontab", "features/", ".ci/run"} <= local
    assert [path for path in sorted(local) if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_other_pages_name_targets_and_files_that_exist(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert made_by(readme.code(text)) <= make_targets()
    paths = {span for span in readme.spans(text) if re.fullmatch(r"[\w./-]+\.\w+", span)}
    local = {path for path in paths | set(re.findall(r"\]\(([^)#]+)\)", text)) if "://" not in path}
    assert [path for path in sorted(local) if path not in GENERATED and not (REPOSITORY / path).exists()] == []


def test_changelog_tells_of_the_version_that_the_command_answers() -> None:
    newest = re.search(r"(?m)^## \[([\d.]+)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"))
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / "materialize_features.py"), "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert newest and answer.stdout == f"{newest[1]}\n"
    assert "pipeline.commands" in answer.stderr
    assert not re.search(r"\| +(feast|pandas|pyarrow)$", answer.stderr, re.MULTILINE)


def test_hooks_before_commits_are_the_pieces_of_make_lint() -> None:
    (lint,) = re.findall(r"(?m)^lint: (.*?) *##", (REPOSITORY / "Makefile").read_text())
    (repository,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == [f"make {piece}" for piece in lint.split()]


def test_table_of_views_is_the_definitions() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\w+) \| (\d+) d \|", readme.section("The feature views"), re.MULTILINE)
    assert {name: (engine.lower(), int(days)) for name, engine, days in rows} == {
        name: (view.tags["engine"], view.ttl.days) for name, view in VIEWS.items()
    }


def test_the_service_takes_the_feature_of_two_views_from_the_view_that_readme_names() -> None:
    name = "days_since_last_corrective_wo"
    assert [view for view in VIEWS if name in {field.name for field in VIEWS[view].features}] == [
        "asset_features",
        "work_order_features",
    ]
    projections = predictive_maintenance_v1.feature_view_projections
    assert [p.name for p in projections if name in {f.name for f in p.features}] == ["work_order_features"]


def test_troubleshooting_quotes_real_messages() -> None:
    rows = [line.split(" | ")[0] for line in readme.section("Troubleshooting").splitlines() if line.startswith("| ")]
    quoted = {span for row in rows for span in re.findall(r"`([^`]+)`", row)}
    assert len(quoted) >= 8
    sources = [
        REPOSITORY / "materialize_features.py",
        *REPOSITORY.rglob("pipeline/**/*.py"),
        *REPOSITORY.glob("dev/*.py"),
    ]
    said = "\n".join(path.read_text() for path in sources)
    # Python joins adjacent literals; the name of a missing variable is put in at run time.
    joined = re.sub(r'"\s*\n\s*f?"', "", said)
    assert [message for message in quoted if message.removeprefix("DATABASE_URL ") not in joined] == []


@pytest.mark.parametrize("example", re.findall(r"(?s)```yaml\n(.+?)```", REDIS_EXAMPLES.read_text()))
def test_examples_of_online_stores_are_loaded(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "open-sesame")
    monkeypatch.setenv("FEAST_REGISTRY_URL", "postgresql+psycopg://feast@127.0.0.1:1/registry")
    path = tmp_path / "feature_store.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(PRODUCTION.read_text()) | yaml.safe_load(example)))
    config = load_store_config(path).online_store
    assert isinstance(config, RedisOnlineStoreConfig)
    (node, *_), options = RedisOnlineStore._parse_connection_string(config.connection_string)
    assert (options["password"], options["socket_timeout"]) == ("open-sesame", 5)
    assert Redis(**node, **options).connection_pool.connection_kwargs["port"] == node["port"]


def test_env_example_has_every_setting_and_no_other() -> None:
    text = ENV_EXAMPLE.read_text()
    named = re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", text, re.MULTILINE)
    assert len(named) == len(set(named))
    settings = {name.upper() for kind in (Settings, GatewaySettings) for name in kind.model_fields}
    assert set(named) == settings | NO_SETTINGS | variables_of(PRODUCTION)


def test_env_example_is_loaded_as_it_stands_and_tells_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    settings = Settings(_env_file=ENV_EXAMPLE)
    assert settings.clickhouse_host == "https://clickhouse.dcmms.example:8443"
    told = dict(re.findall(r"^# ([A-Z_]+)='(.*)'$", ENV_EXAMPLE.read_text(), re.MULTILINE))
    fields = Settings.model_fields | GatewaySettings.model_fields
    defaults = {name.upper(): str(field.default) for name, field in fields.items()}
    assert {name: value for name, value in told.items() if name not in NO_SETTINGS} == {
        name: defaults[name] for name in told if name not in NO_SETTINGS
    }


def test_env_example_means_the_same_to_a_shell() -> None:
    values = dotenv_values(ENV_EXAMPLE)
    script = f"set -a; . {ENV_EXAMPLE}; set +a; env"
    printed = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout
    assert values.items() <= dict(line.split("=", 1) for line in printed.splitlines()).items()


def variables_of(path: Path) -> set[str]:
    """Return the variables that a file takes from the environment, those in comments left out."""
    return set(re.findall(r"\$\{(\w+)\}", re.sub(r"(?m)^\s*#.*$", "", path.read_text())))


def test_production_feature_store_works_once_its_variables_are_set(
    postgres: PostgresServer, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in variables_of(PRODUCTION):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(PipelineError, match="FEAST_REGISTRY_URL, REDIS_CONNECTION is not set"),
        open_feature_store(PRODUCTION),
    ):
        pass
    write_feature_store_yaml(tmp_path, postgres, redis, "feast_documentation")
    url = f"postgresql+psycopg://feast@127.0.0.1:{postgres.port}/feast_documentation"
    monkeypatch.setenv("FEAST_REGISTRY_URL", url)
    monkeypatch.setenv("REDIS_CONNECTION", f"127.0.0.1:{redis.port},db=3")
    with open_feature_store(PRODUCTION) as production:
        assert production.registry.list_projects() == []
        online = production.config.online_store.connection_string
        assert online == f"127.0.0.1:{redis.port},db=3,socket_timeout=5,socket_connect_timeout=5"


def test_production_and_local_feature_store_differ_in_addresses_only() -> None:
    configs = [yaml.safe_load(path.read_text()) for path in (PRODUCTION, REPOSITORY / "feature_store.yaml")]
    for config in configs:
        del config["registry"]["path"]
        config["online_store"]["connection_string"] = config["online_store"]["connection_string"].split(",")[1:]
    assert configs[0] == configs[1]


def test_crontab_runs_the_command_and_reports_failure(tmp_path: Path) -> None:
    text = (REPOSITORY / "deploy" / "crontab").read_text()
    (job,) = re.findall(r"^20 \* \* \* \* (.*)$", text, re.MULTILINE)
    variables = dict(re.findall(r"^([A-Z]+)=(.*)$", text, re.MULTILINE))
    (tmp_path / "settings").write_text("FEATURE_STORE_ENV_FILE=/dev/null\n")
    replaced = {"ENVIRONMENT": "settings", "METRICS": "metrics.prom", "LOG": "log"}
    assert {"REPOSITORY", *replaced} <= set(variables)
    environment = {name: str(tmp_path / file) for name, file in replaced.items()}
    environment |= {"REPOSITORY": str(REPOSITORY), "PATH": os.environ["PATH"]}
    job = job.replace('"$REPOSITORY/.venv/bin/python"', sys.executable)
    done = subprocess.run([variables["SHELL"], "-c", job], env=environment, capture_output=True, text=True, check=True)
    assert (
        done.stdout
        == f"materialize_features.py: exit code 1. docs/runbook.md says what to do; the log is {tmp_path}/log.\n"
    )
    (error,) = [line for line in (tmp_path / "log").read_text().splitlines() if '"ERROR"' in line]
    assert "DATABASE_URL is missing" in json.loads(error)["message"]
    assert done.stderr == json.loads(error)["message"] + "\n", "the mail says the cause"
    assert "feature_store_run_exit_code 1.0" in (tmp_path / "metrics.prom").read_text()


def test_picture_is_well_formed() -> None:
    picture = ElementTree.parse(REPOSITORY / "docs" / "architecture.svg").getroot()
    texts = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"materialize_features.py", "Redis", "feast serve"} <= texts


@pytest.mark.parametrize(
    "forbidden",
    [
        r"(?<![\w./*])/(home|root|Users|work)/\w",
        r"(pypi|pythonhosted|anaconda)\.(org|com|io)|artifactory|index-url",
        r"(?i)password\s*[=:]\s*['\"]?(?!password)[a-z0-9]{12,}['\"]?$",
    ],
    ids=["path of a machine", "package registry", "password"],
)
def test_repository_keeps_to_itself(forbidden: str) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no git checkout")
    listed = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    texts = {name: REPOSITORY / name for name in names if name and name != "tests/test_documentation.py"}
    found = [
        f"{name}:{number}: {line}"
        for name, path in texts.items()
        if path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if re.search(forbidden, line)
    ]
    assert found == []

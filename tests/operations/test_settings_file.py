"""One settings file for the command, for Feast and for the shell; the environment wins over it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.base.settings import load_settings
from pipeline.operations.doctor.settings import read_settings
from pipeline.operations.doctor.store import read_store_config
from pipeline.registry.feast_store import load_store_config
from settings_file import file_values
from tests.commands import invoke

YAML = REPOSITORY / "deploy/feature_store.yaml"
REGISTRY = "postgresql+psycopg://feast:in-the-file@registry.example:5434/feast_registry"
FILE = f"""\
DATABASE_URL='postgresql://feature_store:p${{HOME}}w@postgres.example:5434/dcmms'
CLICKHOUSE_HOST='https://clickhouse.example:8443'
FEATURE_DATA_DIR='/nonexistent/a\\\\b'
FEAST_FS_YAML_FILE_PATH='{YAML}'
FEAST_REGISTRY_URL='{REGISTRY}'
REDIS_CONNECTION='redis.example:6379,password=a$b${{c}}'
"""
NAMES = [line.split("=")[0] for line in FILE.splitlines()]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file with all addresses, and an environment with none."""
    for name in (*NAMES, "CLICKHOUSE_DSN"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "settings"
    path.write_text(FILE)
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", str(path))
    return path


def of_a_shell(path: Path) -> dict[str, str]:
    """Return the variables that `path` gives to a shell that knows HOME."""
    script = f"set -a; . {path}; set +a; env -0"
    printed = subprocess.run(["sh", "-c", script], env={"HOME": "/h"}, capture_output=True, check=True).stdout
    return dict(text.split("=", 1) for text in printed.decode().split("\0") if text)


def test_all_addresses_may_be_in_the_file_and_the_environment_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    config = load_store_config()
    assert (config.registry.path, config.online_store.connection_string[:44]) == (
        REGISTRY,
        "redis.example:6379,password=a$b${c},socket_t",
    )
    assert str(load_settings().feature_data_dir) == "/nonexistent/a\\\\b"
    assert dict(os.environ) == before
    assert f"{', '.join(sorted(NAMES[:3]))} from {file}" in read_settings()[0][0].text

    monkeypatch.setenv("REDIS_CONNECTION", "other.example:6379")
    assert load_store_config().online_store.connection_string.startswith("other.example:6379,")
    assert read_store_config()[0][0].text == (
        f"project dcmms of {YAML}: REDIS_CONNECTION from the environment; "
        f"FEAST_FS_YAML_FILE_PATH, FEAST_REGISTRY_URL from {file}"
    )
    file.write_text(FILE.replace("REDIS_CONNECTION", "OTHER"))
    monkeypatch.delenv("REDIS_CONNECTION")
    (check,) = read_store_config()[0]
    assert f"REDIS_CONNECTION is not set in the environment or in {file}" in check.text


def test_a_command_of_feast_gets_the_values_too(file: Path) -> None:
    program = "import os; print(os.environ['FEAST_REGISTRY_URL'], os.environ['REDIS_CONNECTION'])"
    command = [sys.executable, str(REPOSITORY / "settings_file.py"), sys.executable, "-c", program]
    environment = os.environ | {"REDIS_CONNECTION": "other.example:6379"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{REGISTRY} other.example:6379\n"


def test_single_quotes_mean_the_same_to_a_shell(file: Path) -> None:
    values = file_values()
    assert values["DATABASE_URL"] == "postgresql://feature_store:p${HOME}w@postgres.example:5434/dcmms"
    assert values.items() <= of_a_shell(file).items()


@settings(max_examples=25, deadline=None)
@example(["\\"])
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="'\0\r", exclude_categories=["Cs"]))))
def test_whatever_is_in_single_quotes(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "settings"
        path.write_text("".join(f"V{number}='{text}'\n" for number, text in enumerate(texts)), encoding="utf-8")
        patch.setenv("FEATURE_STORE_ENV_FILE", str(path))
        assert file_values() == {f"V{number}": text for number, text in enumerate(texts)}
        assert file_values().items() <= of_a_shell(path).items()


@pytest.mark.parametrize("host", ["%2Fvar%2Frun%2Fpostgresql", "%40abstract", "", "postgres.example.", "[::1]:5432"])
def test_what_libpq_takes_for_a_host_is_one(file: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://feature_store@{host}/dcmms")
    assert host in load_settings().database_url.get_secret_value()


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e18"])
def test_a_time_limit_beyond_every_timer_is_a_wrong_option(file: Path, seconds: str) -> None:
    result = invoke("--timeout", seconds, "--dry-run")
    assert (result.exit_code, result.stderr.count("\n")) == (64, 1)
    assert "is no number of seconds up to 31,536,000" in result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STATEMENT_TIMEOUT_SECONDS", "99999999999"),
        ("RETRY_SECONDS", "inf"),
        ("RETRY_SECONDS", "nan"),
        ("SCHEDULE_MINUTES", "9" * 12),
        ("DATABASE_URL", "postgresql://feature_store@postgres.example:99999/dcmms"),
        ("CLICKHOUSE_HOST", "https://clickhouse.example:99999"),
        ("CLICKHOUSE_DSN", "clickhousedb://clickhouse.example:65536/dcmms_analytics"),
        # What no resolver takes is no host name: the sockets of Python raise UnicodeError for it.
        ("DATABASE_URL", "postgresql://feature_store@postgres..example/dcmms"),
        ("DATABASE_URL", "postgresql://feature_store@[::1:]/dcmms"),
        ("CLICKHOUSE_HOST", "."),
        ("CLICKHOUSE_HOST", "https://[::g]:8443"),
        ("CLICKHOUSE_DSN", f"clickhousedb://{'x' * 64}.example/dcmms_analytics"),
        ("FEATURE_SERVER_URL", "."),
        ("FEATURE_SERVER_URL", "http://features..example:6566"),
        ("FEATURE_SERVER_URL", f"http://{'x' * 64}"),
        ("FEATURE_SERVER_URL", "http://[:::]"),
        ("CLICKHOUSE_CA_CERT", "x" * 5000),
        ("FEATURE_DATA_DIR", "x" * 5000),
        ("CLICKHOUSE_USER", "\udcff"),
    ],
)
def test_a_setting_beyond_what_servers_can_count_is_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError, match=rf"^Settings: {name} .*Set it in"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_CONNECTION", "redis.example:99999"),
        ("REDIS_CONNECTION", "redis..example:6379"),
        ("REDIS_CONNECTION", "redis.example:6379,host=other.example"),
        ("REDIS_CONNECTION", "redis.example:6379,decode_responses=true"),
        ("REDIS_CONNECTION", "redis.example:6379,retry=3"),
        ("REDIS_CONNECTION", "redis.example:6379,ssl=True"),
        ("REDIS_CONNECTION", "redis.example:6379,db=-1"),
        ("FEAST_REGISTRY_URL", "postgresql+psycopg://feast@registry.example:99999/feast_registry"),
        ("FEAST_REGISTRY_URL", "postgresql+psycopg://feast@registry.example/\udcff"),
        ("FEAST_REGISTRY_URL", "postgresql+psycopg://feast@.registry.example/feast_registry"),
    ],
)
def test_an_address_that_a_driver_would_misread_is_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(
        PipelineError, match=r"^(feature_store\.yaml: (registry\.path|online_store)|Settings: FEAST_).*\.$"
    ):
        load_store_config()


def test_what_the_client_of_redis_takes_may_be_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "db=3,ssl=true,ssl_cert_reqs=none,socket_keepalive=true,health_check_interval=30,username=u,password=a$b"
    monkeypatch.setenv("REDIS_CONNECTION", f"redis.example:6379,{options}")
    assert load_store_config().online_store.connection_string.startswith(f"redis.example:6379,{options},")


@pytest.mark.parametrize("command", [("status",), ("doctor",), ("--as-of", "2026-01-01T00:00:00Z")])
def test_a_file_that_is_no_text_is_one_line(file: Path, command: tuple[str, ...]) -> None:
    file.write_bytes(FILE.encode("utf-16"))
    result = invoke(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"Settings: {file} is no UTF-8 text" in result.stderr
    assert result.stderr.count("\n") == 1

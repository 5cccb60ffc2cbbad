"""Whatever is given to the command ends in one line and the right exit code, with nothing changed, and no stack trace.

FUZZ_EXAMPLES tells how many inputs of each kind are tried.
"""

import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import psycopg2
import pytest
import redis as redis_client
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, SearchStrategy

from dev.servers import PostgresServer, RedisServer, free_port
from pipeline import REPOSITORY
from pipeline.base.errors import PipelineError
from pipeline.base.settings import Settings, load_settings
from pipeline.commands.cli import cli
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Ledger, Run, recorded
from pipeline.sources.postgres import open_postgres
from tests.commands import invoke
from tests.stores import apply_definitions, write_feature_store_yaml

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
CODES = {0, 1, 2, 3, 64, 75, 124}
PASSWORD = "s3cr3t-Pa55"
fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 300,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

# A library that warns of an option that it will drop is no fault.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")

# What has broken one parser or another; no / at the start, since paths are among what it is given for.
ODD = [
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "1e18",
        "1e400",
        "inf",
        "nan",
        "99999999999",
        "99999",
        "1_0",
        "٣",
        "0x10",
        "true",
        "None",
    ),
    *(
        "0001-01-01",
        "9999-12-31",
        "2026-02-30",
        "2026-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "24h",
        "00d",
        "9" * 99,
    ),
    *(
        "%",
        "%s",
        "%(x)s",
        "{}",
        "{0.__class__}",
        "${HOME}",
        "$",
        "\\",
        "'",
        '"',
        "[red]",
        "[/]",
        "a,b",
        "a=b",
        "a b",
        "@",
        ":",
    ),
    *(
        "\n",
        "a\nb",
        "\r",
        "\t",
        "\x1b[31m",
        "\u202e",
        "é",
        "漢",
        "😀",
        "\udcff",
        "--",
        "-",
        "--view",
        ".",
        "..",
        "a..b",
        "[::",
        "a" * 64,
        "a" * 5000,
    ),
]
texts = st.sampled_from(ODD) | st.text(
    st.characters(exclude_characters="\0/", exclude_categories=()).filter(lambda c: not "\ud800" <= c <= "\udbff"),
    max_size=20,
).filter(lambda text: not re.search("[\ud800-\udc7f\udd00-\udfff]", text))


@dataclass(frozen=True)
class World:
    """The stores that must not change, and where a command may write."""

    postgres: PostgresServer
    redis: RedisServer
    registry: str
    folder: Path

    def state(self) -> tuple[object, ...]:
        """Return all that is kept; the ledger tells of each run and is none of it."""
        with closing(psycopg2.connect(self.postgres.url("postgres", self.registry))) as connection:
            cursor = connection.cursor()
            cursor.execute("select relname, n_live_tup from pg_stat_user_tables where relname !~ '^materialization_'")
            tables = sorted(cursor.fetchall())
        with closing(redis_client.Redis(port=self.redis.port)) as client:
            online = {key: client.hgetall(key) for key in client.scan_iter()}
        return tables, online, sorted((self.folder / "data").rglob("*"))


@pytest.fixture(scope="module")
def world(postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A feature store with the definitions in its registry; the databases of dCMMS are down."""
    folder = tmp_path_factory.mktemp("one-line")
    path = write_feature_store_yaml(folder, postgres, redis, "feast_one_line")
    text = path.read_text()
    text = re.sub(r"path: postgresql.*", "path: ${FEAST_REGISTRY_URL}", text)
    path.write_text(re.sub(r"connection_string: .*", "connection_string: ${REDIS_CONNECTION},socket_timeout=5", text))
    (folder / "work").mkdir()
    down = f"127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "FEATURE_STORE_ENV_FILE": os.devnull,
            "FEAST_FS_YAML_FILE_PATH": str(path),
            "FEAST_REGISTRY_URL": f"postgresql+psycopg://feast@127.0.0.1:{postgres.port}/feast_one_line",
            "REDIS_CONNECTION": f"127.0.0.1:{redis.port}",
            "DATABASE_URL": f"postgresql://dcmms:{PASSWORD}@{down}/dcmms",
            "CLICKHOUSE_HOST": f"http://{down}",
            "CLICKHOUSE_PASSWORD": PASSWORD,
            "FEATURE_DATA_DIR": str(folder / "data"),
            "FEATURE_SERVER_URL": "",
        }.items():
            patch.setenv(name, value)
        patch.delenv("CLICKHOUSE_DSN", raising=False)
        patch.chdir(folder / "work")
        apply_definitions(path, folder / "data")
        yield World(postgres, redis, "feast_one_line", folder)


def check(result: Result, given: Any) -> None:
    """Fail where a command has ended otherwise than it should."""
    said = f"{given!r}\n{result.output}"
    assert result.exception is None or isinstance(result.exception, SystemExit), said
    assert result.exit_code in CODES, said
    assert "Traceback" not in result.output and "fault of the doctor" not in result.output, said
    assert PASSWORD not in result.output, said
    if result.exit_code == 64:
        assert result.stderr.count("\n") == 1 and not result.stdout, said


@pytest.fixture
def unchanged(world: World) -> Iterator[World]:
    before = world.state()
    yield world
    assert world.state() == before


OPTIONS = [
    (name, option)
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and option.name not in ("help", "version")
]


@fuzz
@given(data=st.data())
def test_every_option(unchanged: World, data: DataObject) -> None:
    command, _ = data.draw(st.sampled_from(OPTIONS))
    own = [option for name, option in OPTIONS if name == command]
    arguments = [command]
    for option in data.draw(st.lists(st.sampled_from(own), min_size=1, max_size=3)):
        arguments.append(option.opts[0])
        if not option.is_flag and data.draw(st.integers(0, 9)):
            arguments.append(data.draw(texts))
    check(invoke(*arguments), arguments)


@fuzz
@given(data=st.data())
def test_every_setting(unchanged: World, data: DataObject) -> None:
    name = data.draw(st.sampled_from([name.upper() for name in Settings.model_fields]))
    value, command = data.draw(texts), data.draw(st.sampled_from(("status", "doctor", "run")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        check(invoke(command, *(["--no-online"] if command == "run" else [])), (name, value, command))


# What stands in the connection strings ---------------------------------------------------------------------------

LIBPQ = (
    *(
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "passfile",
        "connect_timeout",
        "client_encoding",
        "options",
    ),
    *(
        "application_name",
        "keepalives",
        "keepalives_idle",
        "tcp_user_timeout",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
    ),
    *("sslcompression", "ssl_min_protocol_version", "gssencmode", "krbsrvname", "service", "target_session_attrs"),
    *(
        "load_balance_hosts",
        "channel_binding",
        "require_auth",
        "replication",
        "fallback_application_name",
        "no_such_key",
    ),
)
REDIS = (*inspect.signature(redis_client.Redis).parameters, "no_such_key")
CLICKHOUSE = (
    *(
        "username",
        "password",
        "database",
        "secure",
        "verify",
        "compress",
        "query_limit",
        "connect_timeout",
        "http_proxy",
    ),
    *("send_receive_timeout", "session_id", "ca_cert", "client_cert", "server_host_name", "apply_server_timezone"),
    *("autogenerate_session_id", "interface", "port", "settings", "no_such_key"),
)


@fuzz
@given(data=st.data())
def test_every_part_of_a_postgres_url(unchanged: World, data: DataObject) -> None:
    name, command = data.draw(
        st.sampled_from(
            [
                ("DATABASE_URL", ("run", "--dry-run", "--view", "work_order_features")),
                ("FEAST_REGISTRY_URL", ("status",)),
                *DOCTORED,
            ]
        )
    )
    good = os.environ[name] if name == "FEAST_REGISTRY_URL" else unchanged.postgres.url("dcmms", "dcmms_n")
    value = data.draw(with_a_key(good, LIBPQ) | with_a_part_replaced(good))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        check(invoke(*command), (name, value, command))


DOCTORED = [("DATABASE_URL", ("doctor",)), ("FEAST_REGISTRY_URL", ("doctor",))]


@fuzz
@given(data=st.data())
def test_every_key_of_the_redis_connection(unchanged: World, data: DataObject) -> None:
    good = os.environ["REDIS_CONNECTION"]
    keys = st.tuples(st.sampled_from(REDIS), texts).map(lambda pair: f"{good},{pair[0]}={pair[1]}")
    value, command = (
        data.draw(keys | with_a_part_replaced(good)),
        data.draw(st.sampled_from(("status", "doctor", "prune"))),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_CONNECTION", value)
        check(invoke(command), (value, command))


@fuzz
@given(data=st.data())
def test_every_part_of_a_clickhouse_address(unchanged: World, data: DataObject) -> None:
    host = os.environ["CLICKHOUSE_HOST"]
    dsn = host.replace("http:", "clickhousedb:") + "/dcmms_analytics"
    name, value = data.draw(
        st.tuples(st.just("CLICKHOUSE_DSN"), with_a_key(dsn, CLICKHOUSE) | with_a_part_replaced(dsn))
        | st.tuples(st.just("CLICKHOUSE_HOST"), with_a_part_replaced(host))
        | st.tuples(st.just("CLICKHOUSE_DSN"), texts.map(lambda text: f"chdb:///nonexistent{text}"))
    )
    command = data.draw(st.sampled_from(("doctor", "run")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        check(
            invoke(command, *(["--no-online", "--view", "telemetry_features"] if command == "run" else [])),
            (name, value),
        )


def with_a_key(url: str, keys: tuple[str, ...]) -> SearchStrategy[str]:
    """Return `url` with one more option, whose value is odd, as it stands or with the escapes of a URL."""
    return st.tuples(st.sampled_from(keys), texts | texts.map(lambda text: quote(text, errors="surrogateescape"))).map(
        lambda pair: f"{url}?{pair[0]}={pair[1]}"
    )


def with_a_part_replaced(url: str) -> SearchStrategy[str]:
    """Return `url` with one of its words, numbers or signs replaced by something odd, often a port."""
    parts = [match.span() for match in re.finditer(r"\w+|\W", url)]
    return st.tuples(st.sampled_from(parts), texts).map(lambda at: url[: at[0][0]] + at[1] + url[at[0][1] :])


# What others say --------------------------------------------------------------------------------------------------


def test_an_error_with_what_no_database_holds_is_in_the_ledger(unchanged: World) -> None:
    run = Run(datetime(2026, 1, 1, tzinfo=UTC), [])
    with open_feature_store() as store:
        with pytest.raises(PipelineError) as raised, recorded(store, run):
            raise PipelineError("a\0b\n\x1b[31mc\u202e")
        found = Ledger(store).find(run.run_id)
    assert found and found.error == str(raised.value) == r"a\x00b\n\x1b[31mc\u202e"


def test_what_an_older_postgres_does_not_know_is_told_as_such(
    unchanged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", unchanged.postgres.url("dcmms", "dcmms_n"))
    with open_postgres(load_settings()) as source, pytest.raises(PipelineError, match="needs PostgreSQL 16 or newer"):
        source.plan("select of_a_newer_version()")


# Streams ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_below_the_output_is_one_line() -> None:
    command = [sys.executable, str(REPOSITORY / "materialize_features.py"), "status", "--help"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Standard output cannot be written: No space left on device\n")


def test_a_terminal_that_knows_no_arrows_gets_their_numbers(unchanged: World) -> None:
    result = CliRunner(charset="latin-1").invoke(cli, ["doctor"])
    check(result, "latin-1")
    assert "\n            \\u2192 check DATABASE_URL" in result.stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("options", [(), ("--log-format", "json")])
def test_a_word_is_on_the_terminal_while_feast_is_imported(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    cli.main(["catalogue", *options], standalone_mode=False)
    assert terminal.getvalue() == ("" if options else "loading Feast ...\r\033[K")

"""No password is ever printed or written: neither in good runs nor when servers refuse, nor by a bug."""

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from psycopg2 import sql

from features.asset_features import asset_features
from pipeline.base.errors import keep_secret, redacted
from pipeline.operations.doctor.settings import read_settings
from pipeline.operations.doctor.store import read_store_config
from pipeline.runs import one_instant as pipeline_run
from tests.commands import invoke
from tests.production import PASSWORDS, REGISTRY, Production

WRONG = {name: f"wr0ng@{name}:/?[]#%'\" $x\\ é=;" for name in ("postgres", "registry", "clickhouse", "redis")}
# In the file, the connection string is in single quotes, where ' is ''; a password without it is meant here.
WRONG["redis"] = WRONG["redis"].replace("'", "")


def forms(password: str) -> set[str]:
    """Return a password in every form in which it may turn up."""
    return {
        password,
        quote(password),
        quote(password, safe=""),
        quote_plus(password),
        repr(password)[1:-1],
        json.dumps(password)[1:-1],
        json.dumps(password, ensure_ascii=False)[1:-1],
    }


def leaks(texts: Iterable[str]) -> list[str]:
    """Return what there is of passwords in `texts`: the whole in any form, and telling parts of them."""
    whole = {form for password in (*PASSWORDS.values(), *WRONG.values()) for form in forms(password)}
    parts = {"-extraction", "istry\\", "xxxxxxxxxx", "-telemetry", "-publisher", "-reader", "wr0ng"}
    return [word for text in texts for word in whole | parts if word in text]


def outputs(*arguments: str, expected: int | None = None) -> list[str]:
    """Return what a command prints."""
    result = invoke(*arguments)
    assert expected is None or result.exit_code == expected, result.output
    return [result.stdout, result.stderr]


def files(*directories: Path) -> list[str]:
    """Return the contents and the names of all files."""
    paths = [path for directory in directories for path in directory.rglob("*") if path.is_file()]
    assert paths
    return [path.read_bytes().decode("latin-1") for path in paths] + [str(path) for path in paths]


def rows(production: Production) -> list[str]:
    """Return every row of the registry's database, the ledger's too, as text."""
    with closing(production.admin(REGISTRY)) as connection, connection.cursor() as cursor:
        cursor.execute("select tablename from pg_tables where schemaname = 'feast'")
        tables = [name for (name,) in cursor.fetchall()]
        assert "materialization_runs" in tables
        found = []
        for table in tables:
            cursor.execute(sql.SQL("select t::text from feast.{} as t").format(sql.Identifier(table)))
            found += [text for (text,) in cursor.fetchall()]
    # bytea shows as hex
    return found + [bytes.fromhex(word[3:]).decode("latin-1") for text in found for word in _hexadecimals(text)]


def _hexadecimals(text: str) -> list[str]:
    return [word for word in text.replace('"', "").strip("()").split(",") if word.startswith("\\\\x")]


@pytest.fixture
def site(production: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Production:
    """A production with the definitions registered."""
    production.use(monkeypatch, tmp_path / "data")
    production.register()
    return production


def wrong_settings(production: Production) -> dict[str, dict[str, str]]:
    """Return, by server, the setting that has a wrong password for it."""
    environment = production.environment

    def replaced(variable: str, name: str) -> str:
        return environment[variable].replace(quote(PASSWORDS[name], safe=""), quote(WRONG[name], safe=""))

    here = f"127.0.0.1:{production.clickhouse_url.rsplit(':', 1)[1]}"
    return {
        "postgres": {"DATABASE_URL": replaced("DATABASE_URL", "postgres")},
        "registry": {"FEAST_REGISTRY_URL": replaced("FEAST_REGISTRY_URL", "registry")},
        "clickhouse": {"CLICKHOUSE_PASSWORD": WRONG["clickhouse"]},
        "clickhouse by DSN": {
            "CLICKHOUSE_DSN": f"clickhousedb://feature_store:{quote(WRONG['clickhouse'], safe='')}@{here}"
        },
        "redis": {"REDIS_CONNECTION": environment["REDIS_CONNECTION"].replace(PASSWORDS["redis"], WRONG["redis"])},
    }


def test_neither_runs_nor_refusals_tell_a_password(
    site: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["--as-of", site.as_of_text, "--metrics-file", str(tmp_path / "run.prom")]
    said = outputs(*run, expected=0) + outputs("doctor", expected=0) + outputs("status")
    with monkeypatch.context() as patch:  # for the quarantine: no asset may have a score
        (field,) = [field for field in asset_features.schema if field.name == "health_score"]
        patch.setitem(field.tags, "at_most", "0")
        said += outputs(*run, "--log-format", "json", "--view", "asset_features", expected=2)
    assert list((tmp_path / "data" / "quarantine").rglob("*.parquet"))
    views = ["--view", "telemetry_features", "--view", "work_order_features"]
    for name, settings in wrong_settings(site).items():
        with monkeypatch.context() as patch:
            for variable, value in settings.items():
                patch.setenv(variable, value)
            refused = [
                *outputs(*run, *views, "--log-format", "json", expected=1),
                *outputs("doctor", expected=1),
            ]
            assert any("password" in text.lower() or "Authentication" in text for text in refused), name
            said += [*refused, *outputs("status")]
    assert leaks(said) == []
    assert leaks(files(tmp_path)) == []
    assert leaks(rows(site)) == []


@pytest.mark.parametrize("name", [*PASSWORDS, *(f"wrong {name}" for name in WRONG)])
def test_the_search_would_find_it(name: str) -> None:
    password = WRONG[name.removeprefix("wrong ")] if name.startswith("wrong") else PASSWORDS[name]
    for form in forms(password):
        assert leaks([f"at {form} host"]) != []


def test_the_search_would_find_it_in_files_and_rows(site: Production, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(f"a {PASSWORDS['postgres']} b", encoding="latin-1", errors="replace")
    assert leaks(files(tmp_path)) != []
    assert invoke("--as-of", site.as_of_text, "--view", "work_order_features").exit_code == 0
    with closing(site.admin(REGISTRY)) as connection, connection.cursor() as cursor:
        cursor.execute("update feast.materialization_runs set error = %s", (PASSWORDS["registry"],))
        assert leaks(rows(site)) != []
        cursor.execute("update feast.materialization_runs set error = null")
        cursor.execute("update feast.projects set project_proto = %s", (WRONG["redis"].encode("latin-1"),))
        assert leaks(rows(site)) != []
        cursor.execute("truncate feast.projects")


@pytest.mark.parametrize("extra", [[], ["--log-format", "json"]])
def test_a_bug_tells_its_stack_and_no_password(
    site: Production, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot use {site.environment['DATABASE_URL']} or {PASSWORDS['clickhouse']}")

    monkeypatch.setattr(pipeline_run, "open_postgres", fails)
    result = invoke("--as-of", site.as_of_text, *extra)
    assert result.exit_code == 1
    assert "RuntimeError: cannot use postgresql://***@127.0.0.1" in result.stderr
    assert "Traceback" in result.stderr
    assert leaks([result.output]) == []
    assert leaks(rows(site)) == []


# Addresses that a driver would misread, and then repeat parts of. Every part of the password starts with zq.
MALFORMED = [
    ("DATABASE_URL", "postgresql://u:zq1@zq2@127.0.0.1:1/d"),
    ("DATABASE_URL", "postgresql://u:zq1/zq2@127.0.0.1:1/d"),
    ("DATABASE_URL", "postgresql://u:zq1?zq2@127.0.0.1:1/d"),
    ("DATABASE_URL", "postgresql://u:zq1#zq2@127.0.0.1:1/d"),
    ("DATABASE_URL", "postgresql://u:zq1%zq2@127.0.0.1:1/d"),
    ("DATABASE_URL", "postgresql://u:zq1 zq2@127.0.0.1:1/d"),
    ("DATABASE_URL", "postgresql://u:zq1[zq2@127.0.0.1:zq3/d"),
    ("DATABASE_URL", "zq1"),
    ("CLICKHOUSE_HOST", "http://u:zq1@127.0.0.1:1"),
    ("CLICKHOUSE_HOST", "127.0.0.1:zq1"),
    ("CLICKHOUSE_DSN", "clickhouse://u:zq1@zq2@127.0.0.1:1/d"),
    ("CLICKHOUSE_DSN", "clickhouse://u:zq1/zq2@127.0.0.1:1/d"),
    ("CLICKHOUSE_DSN", "clickhouse://u:zq1%zq2@127.0.0.1:1/d"),
    ("FEAST_REGISTRY_URL", "postgresql+psycopg://u:zq1@zq2@127.0.0.1:1/d"),
    ("FEAST_REGISTRY_URL", "postgresql+psycopg://u:zq1/zq2@127.0.0.1:1/d"),
    ("FEAST_REGISTRY_URL", "postgresql+psycopg://u:zq1%zq2@127.0.0.1:1/d"),
    ("FEAST_REGISTRY_URL", "postgresql+psycopg://u:zq1'zq2@127.0.0.1:1/d"),
    ("FEAST_REGISTRY_URL", "postgresql+psycopg://u:zq1' : zq2@127.0.0.1:1/d"),
    ("REDIS_CONNECTION", "127.0.0.1:1,password=zq1,zq2"),
    ("REDIS_CONNECTION", "127.0.0.1:1,password=zq1,zq2=zq3"),
    ("REDIS_CONNECTION", "redis://:zq1@127.0.0.1:1/0"),
    ("REDIS_CONNECTION", "127.0.0.1:1,password=12345e6"),
    ("REDIS_CONNECTION", '127.0.0.1:1,password="zq1"'),
    ("REDIS_CONNECTION", "127.0.0.1:1,password=zq1'zq2"),
    ("REDIS_CONNECTION", "zq1@127.0.0.1:1"),
]


@pytest.mark.parametrize(("variable", "value"), MALFORMED)
def test_malformed_addresses_are_refused_without_a_part_of_them(
    production: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    production.use(monkeypatch, tmp_path / "data", **{variable: value})
    result = invoke("--as-of", production.as_of_text, "--view", "telemetry_features")
    assert result.exit_code == 1
    assert [part for part in ("zq", "12345e6") if part in result.output] == []
    assert len(result.stderr.splitlines()) == 1, result.output
    if variable.startswith(("DATABASE", "CLICKHOUSE")):
        assert f"Settings: {variable} is no " in result.stderr
    else:
        assert result.stderr.startswith("Error: feature_store.yaml")
    checks = [*read_settings()[0], *read_store_config()[0]]
    assert [check.subject for check in checks if check.state == "fails"] == [
        "Settings" if variable.startswith(("DATABASE", "CLICKHOUSE")) else "Feast"
    ]
    assert [part for part in ("zq", "12345e6") if part in str(checks)] == []


def test_short_passwords_do_not_blot_out_innocent_words() -> None:
    keep_secret("dcmms")
    keep_secret("")
    assert redacted("database dcmms") == "database dcmms"


def test_the_local_stack_is_left_alone() -> None:
    assert redacted("postgresql://dcmms@127.0.0.1:15432/dcmms") == "postgresql://***@127.0.0.1:15432/dcmms"

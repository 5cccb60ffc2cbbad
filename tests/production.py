"""dCMMS and the feature store as deploy/ sets them up: every role with its password and no more rights than it has.

The passwords are such as password managers make, and such as break connection strings.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest

from data_sources import sources
from dev.schema import create_postgres_schema
from dev.servers import PostgresServer, RedisServer, _postgres_bin, free_port
from dev.stack import ensure_database
from pipeline import REPOSITORY
from pipeline.base.specs import VIEWS
from pipeline.registry.feast_store import open_feature_store
from tests.dcmms import SITE, TENANT, asset_key, bucket
from tests.stores import register

DATABASE = "dcmms_production"
REGISTRY = "feast_production"
SQL = REPOSITORY / "deploy" / "sql"

PASSWORDS = {
    "postgres": "p@ss:/?#[]%'\"  $w0rd\\ éλ漢-extraction",
    "registry": "r@g:/?#[]%'\" $istry\\ ü&=+" + "x" * 100,
    "reader": "r@r:/?#[]%'\" $eader\\ ü&=+",
    # the client of ClickHouse sends Basic authentication in Latin-1 or UTF-8, the front reads UTF-8
    "clickhouse": "c@h:/?#[]%'\" $w0rd\\ ,;-telemetry",
    # Feast cuts its connection string at commas
    "redis": 'r@d:/?#[]%" $w0rd\\ =;-publisher',
    "server": 's@v:/?#[]%" $w0rd\\ =;-reader',
}

# Fills the engine as its owner, then serves it to the one user.
_SERVE_CLICKHOUSE = """
import json, sys
from contextlib import closing
from datetime import datetime

import clickhouse_connect

from dev.schema import create_clickhouse_schema
from tests.clickhouse_http import main

directory, config = sys.argv[1:]
rows = json.load(sys.stdin)
with closing(clickhouse_connect.get_client(dsn="chdb://" + directory)) as client:
    create_clickhouse_schema(client)
    client.command("create table dcmms_analytics.secrets (name String) engine = MergeTree order by name")
with closing(clickhouse_connect.get_client(dsn="chdb://" + directory, database="dcmms_analytics")) as client:
    for row in rows:
        row["time_bucket"] = datetime.fromisoformat(row["time_bucket"])
    client.insert("telemetry_aggregates", [list(row.values()) for row in rows], column_names=list(rows[0]))
main([directory, "0", "--user", "feature_store", "--config", config])
"""


@dataclass(frozen=True)
class Production:
    """The servers, and the environment of a run on them."""

    postgres: PostgresServer
    redis: RedisServer
    clickhouse_url: str
    environment: dict[str, str]
    registry_reader: str
    as_of: datetime

    @property
    def as_of_text(self) -> str:
        """The as-of instant of the newest telemetry, as the command takes it."""
        return self.as_of.isoformat()

    def admin(self, database: str = DATABASE) -> psycopg2.extensions.connection:
        """Return a connection of a superuser."""
        connection = psycopg2.connect(self.postgres.url("postgres", database))
        connection.autocommit = True
        return connection

    def use(self, monkeypatch: pytest.MonkeyPatch, data_dir: Path, **variables: str) -> None:
        """Set the environment of a run whose snapshots go to `data_dir`, changed by `variables`."""
        monkeypatch.delenv("CLICKHOUSE_DSN", raising=False)  # it would win over the host
        for name, value in (self.environment | {"FEATURE_DATA_DIR": str(data_dir)} | variables).items():
            monkeypatch.setenv(name, value)

    def register(self) -> None:
        """Register the definitions as `feast apply` does, in the environment of now; nothing has been published yet."""
        views, source_of = [view.__copy__() for view in VIEWS.values()], sources()
        for view in views:
            view.batch_source = source_of(view.name)
        with open_feature_store() as store:
            register(store, views)


@contextmanager
def production(postgres: PostgresServer, directory: Path) -> Iterator[Production]:
    """Yield a production on `postgres` and on servers of its own."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with ExitStack() as stack:
        url = stack.enter_context(_clickhouse(directory, now))
        redis = stack.enter_context(_redis(directory))
        stack.enter_context(_postgres(postgres, now))
        quoted = {name: quote(password, safe="") for name, password in PASSWORDS.items()}
        here = f"127.0.0.1:{postgres.port}"
        yield Production(
            postgres,
            redis,
            url,
            {
                "FEATURE_STORE_ENV_FILE": "/nonexistent",
                "DATABASE_URL": f"postgresql://feature_store:{quoted['postgres']}@{here}/{DATABASE}",
                "CLICKHOUSE_HOST": url,
                "CLICKHOUSE_USER": "feature_store",
                "CLICKHOUSE_PASSWORD": PASSWORDS["clickhouse"],
                "FEAST_FS_YAML_FILE_PATH": str(REPOSITORY / "deploy/feature_store.yaml"),
                "FEAST_REGISTRY_URL": f"postgresql+psycopg://feast_production:{quoted['registry']}@{here}/{REGISTRY}",
                "FEATURE_SERVER_URL": "",
                "REDIS_CONNECTION": f"127.0.0.1:{redis.port},username=feature_store,password={PASSWORDS['redis']}",
            },
            f"postgresql+psycopg://feast_reader:{quoted['reader']}@{here}/{REGISTRY}",
            now,
        )


def psql(server: PostgresServer, database: str, file: Path, *variables: str, **environment: str) -> None:
    """Run a file of deploy/sql as its head says."""
    options = [word for variable in variables for word in ("-v", variable)]
    command = [_postgres_bin() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, "-f", file]
    result = subprocess.run(
        [*command, server.url("postgres", database)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


@contextmanager
def _postgres(server: PostgresServer, now: datetime) -> Iterator[None]:
    """Make dCMMS's database with two assets, a table that is none of ours, and the three roles."""
    ensure_database(server.admin_url, DATABASE, "dcmms")
    with closing(psycopg2.connect(server.url("dcmms", DATABASE))) as connection, connection:
        create_postgres_schema(connection, "n")
        cursor = connection.cursor()
        cursor.execute("create table users (id uuid, email text)")
        for number in (1, 2):
            cursor.execute(
                "insert into assets (id, tenant_id, site_id, type, specifications, created_at, updated_at)"
                " values (%s, %s, %s, 'turbine', %s, '2020-01-01', '2020-01-01')",
                (str(asset_key(number)), str(TENANT), str(SITE), json.dumps({"ratedPowerKw": 1000})),
            )
            cursor.execute(
                "insert into work_orders (tenant_id, site_id, asset_id, type, created_at, updated_at)"
                " values (%s, %s, %s, 'corrective', %s, %s)",
                (
                    str(TENANT),
                    str(SITE),
                    str(asset_key(number)),
                    *[(now - timedelta(days=number)).replace(tzinfo=None)] * 2,
                ),
            )
    rules = server.data / "pg_hba.conf"
    trusting = rules.read_text()
    for _ in range(2):  # a second time changes nothing
        psql(server, DATABASE, SQL / "postgres_extraction.sql", FEATURE_STORE_PASSWORD=PASSWORDS["postgres"])
        psql(
            server,
            "postgres",
            SQL / "postgres_registry.sql",
            "role=feast_production",
            f"database={REGISTRY}",
            FEAST_REGISTRY_PASSWORD=PASSWORDS["registry"],
        )
        psql(
            server,
            REGISTRY,
            SQL / "postgres_registry_reader.sql",
            "role=feast_production",
            FEAST_READER_PASSWORD=PASSWORDS["reader"],
        )
    rules.write_text(f"host all feature_store,feast_production,feast_reader 127.0.0.1/32 scram-sha-256\n{trusting}")
    with closing(psycopg2.connect(server.admin_url)) as connection:
        connection.cursor().execute("select pg_reload_conf()")
    yield
    rules.write_text(trusting)


def _filled_in(name: str, **passwords: str) -> str:
    """Return a file of deploy/sql with the hashes of passwords in place of its placeholders."""
    text = (SQL / name).read_text()
    for placeholder, password in passwords.items():
        assert placeholder in text
        text = text.replace(placeholder, hashlib.sha256(password.encode()).hexdigest())
    return text


class _RedisWithUsers(RedisServer):
    """Redis that includes deploy/sql/redis_users.conf."""

    def _prepare(self) -> None:
        super()._prepare()
        users = self.directory / "users.conf"
        users.write_text(
            _filled_in("redis_users.conf", PUBLISHER_SHA256=PASSWORDS["redis"], SERVER_SHA256=PASSWORDS["server"])
        )
        with self._config.open("a") as config:
            config.write(f"include {users}\nappendonly yes\nappendfsync no\n")


def _redis(directory: Path) -> RedisServer:
    return _RedisWithUsers(directory / "redis", free_port())


def clickhouse_statements() -> list[str]:
    """Return the statements of deploy/sql/clickhouse.sql."""
    text = re.sub(r"(?m)^--.*$", "", _filled_in("clickhouse.sql", PASSWORD_SHA256=PASSWORDS["clickhouse"]))
    return [statement.strip() for statement in text.split(";") if statement.strip()]


@contextmanager
def _clickhouse(directory: Path, now: datetime) -> Iterator[str]:
    """Yield the URL of a ClickHouse whose only user has the grant and the settings profile of clickhouse.sql.

    The embedded engine has nowhere to keep users made by SQL; it takes both from a users.xml, and enforces them.
    """
    data, config = directory / "clickhouse", directory / "config.xml"
    config.write_text(
        f"<clickhouse><user_directories><users_xml><path>{directory}/users.xml</path></users_xml></user_directories>"
        "</clickhouse>"
    )
    (directory / "users.xml").write_text(_users_xml())
    rows = [
        bucket(asset_key(number), "power_kw", now - timedelta(hours=hour), 100.0 * number)
        for number in (1, 2)
        for hour in range(1, 49)
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE_CLICKHOUSE, data, config],
        cwd=REPOSITORY,
        env=os.environ | {"CLICKHOUSE_PASSWORD": PASSWORDS["clickhouse"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        process.stdin.write(json.dumps(rows, default=str))
        process.stdin.close()
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def _users_xml() -> str:
    profile, _, grant = clickhouse_statements()
    limits = re.search(r"readonly = (\d), max_execution_time = (\d+) min (\d+) max (\d+)$", profile)
    readonly, default, lowest, highest = limits.groups()
    query = grant.removesuffix(" to feature_store")
    assert query != grant
    return f"""
        <clickhouse>
        <profiles><default>
            <readonly>{readonly}</readonly><max_execution_time>{default}</max_execution_time>
            <constraints><max_execution_time><min>{lowest}</min><max>{highest}</max></max_execution_time></constraints>
        </default></profiles>
        <users><default>
            <password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
            <grants><query>{query}</query></grants>
        </default></users>
        <quotas><default></default></quotas>
        </clickhouse>
    """

"""The local stack: PostgreSQL and Redis under `.local/`, ClickHouse embedded, the settings in `.env`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psycopg2
from psycopg2 import sql

from dev.servers import HOST, PostgresServer, RedisServer, Server, require_free_port

REPOSITORY = Path(__file__).resolve().parents[1]

#: Ports of their own, so that a developer's other servers are never touched; feature_store.yaml has the same.
POSTGRES_PORT = 15432
REDIS_PORT = 16379

#: Databases of the stack and the roles that own them: dCMMS's own data, and Feast's registry.
DATABASES = {"dcmms": "dcmms", "feast_registry": "feast"}

ENV_HEADER = (
    "# Settings of the local stack, written by `make up`. A variable of the environment wins over them.\n"
    "# Replace this file by settings of your own (see .env.example), and `make up` leaves it alone.\n"
)


@dataclass(frozen=True)
class LocalStack:
    """The servers and directories of one checkout.

    `root` is the directory that gets `.local/` and `.env`; tests give one of their own, and free ports.
    """

    root: Path = REPOSITORY
    postgres_port: int = POSTGRES_PORT
    redis_port: int = REDIS_PORT

    @property
    def directory(self) -> Path:
        """Where all data of the stack is."""
        return self.root / ".local"

    @property
    def env_file(self) -> Path:
        """The settings file of the checkout."""
        return self.root / ".env"

    @cached_property
    def postgres(self) -> PostgresServer:
        """The PostgreSQL server, running or not."""
        return PostgresServer(self.directory / "postgres", self.postgres_port)

    @cached_property
    def redis(self) -> RedisServer:
        """The Redis server, running or not."""
        return RedisServer(self.directory / "redis", self.redis_port)

    @property
    def servers(self) -> tuple[Server, Server]:
        """The servers that have to be started; ClickHouse is embedded in the programs that use it."""
        return self.postgres, self.redis

    @property
    def clickhouse_dsn(self) -> str:
        """DSN of the embedded ClickHouse engine for clickhouse-connect."""
        return f"chdb://{self.directory.resolve() / 'clickhouse'}"

    def settings(self) -> dict[str, str]:
        """The settings of `materialize_features.py` that point it at this stack."""
        return {
            "DATABASE_URL": self.postgres.url("dcmms", "dcmms"),
            "CLICKHOUSE_DSN": self.clickhouse_dsn,
            "CLICKHOUSE_DATABASE": "dcmms_analytics",
            "TELEMETRY_BUCKET_MINUTES": "60",
        }

    def up(self) -> list[str]:
        """Starts what is not running, makes databases and settings that are missing; returns what it started.

        Raises `PortTaken` or `ServerError`; whatever this call had started is stopped then.
        """
        stopped = [server for server in self.servers if not server.is_running()]
        for server in stopped:
            require_free_port(server.port, server.name)
        started: list[Server] = []
        try:
            for server in stopped:
                server.start()
                started.append(server)
            for database, owner in DATABASES.items():
                ensure_database(self.postgres.admin_url, database, owner)
            self.write_env()
        except BaseException:
            for server in started:
                server.stop()
            raise
        return [server.name for server in started]

    def down(self) -> list[str]:
        """Stops what is running and returns the names of what it stopped; the data stays."""
        running = [server for server in self.servers if server.is_running()]
        for server in running:
            server.stop()
        return [server.name for server in running]

    def write_env(self) -> bool:
        """Writes the settings to `.env`; False if that file holds somebody's own settings, which stay."""
        if self.env_file.exists() and not self.env_file.read_text().startswith(ENV_HEADER.splitlines()[0]):
            return False
        lines = (f"{name}={value}\n" for name, value in self.settings().items())
        self.env_file.write_text(ENV_HEADER + "".join(lines))
        return True

    def summary(self) -> list[str]:
        """What runs where, one line each."""
        own = self.env_file.read_text().startswith(ENV_HEADER.splitlines()[0])
        return [
            f"PostgreSQL  {HOST}:{self.postgres_port}  databases {', '.join(DATABASES)}",
            f"Redis       {HOST}:{self.redis_port}",
            f"ClickHouse  embedded in the programs, data in {self.directory.name}/clickhouse",
            f"settings    {self.env_file.name}" + ("" if own else " is your own and was left as it is"),
        ]


def ensure_database(admin_url: str, name: str, owner: str) -> bool:
    """Creates the role `owner` (it may log in, without a password) and its database `name` where missing.

    `admin_url` is the URL of a superuser. Returns True if the database is new.
    """
    with closing(psycopg2.connect(admin_url)) as connection:
        connection.autocommit = True  # create database runs in no transaction
        with connection.cursor() as cursor:
            cursor.execute("select 1 from pg_roles where rolname = %s", [owner])
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("create role {} login").format(sql.Identifier(owner)))
            cursor.execute("select 1 from pg_database where datname = %s", [name])
            if cursor.fetchone() is not None:
                return False
            statement = sql.SQL("create database {} owner {}")
            cursor.execute(statement.format(sql.Identifier(name), sql.Identifier(owner)))
            return True

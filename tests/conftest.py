"""Real servers for the tests: PostgreSQL and Redis on free loopback ports, the ClickHouse engine embedded."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import clickhouse_connect
import psycopg2
import pytest
from clickhouse_connect.driver.client import Client

from dev.schema import create_clickhouse_schema, create_postgres_schema
from dev.servers import PostgresServer, RedisServer, free_port
from dev.stack import ensure_database
from pipeline.base.settings import Settings
from tests.dcmms import Dcmms
from tests.production import Production
from tests.production import production as open_production
from tests.stores import write_feature_store_yaml

DATABASE = "dcmms_analytics"


@pytest.fixture(scope="session", autouse=True)
def no_retries() -> Iterator[None]:
    """Where a server is down, a run says so at once; and tables have the width of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRY_SECONDS", "0")
        patch.delenv("COLUMNS", raising=False)  # of pytest's workers
        yield


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """PostgreSQL with an empty dCMMS database of each schema variant, `dcmms_n` and `dcmms_t`, of the role `dcmms`."""
    with PostgresServer(tmp_path_factory.mktemp("postgres"), free_port()) as server:
        for variant in ("n", "t"):
            ensure_database(server.admin_url, f"dcmms_{variant}", "dcmms")
            with closing(psycopg2.connect(server.url("dcmms", f"dcmms_{variant}"))) as connection, connection:
                create_postgres_schema(connection, variant)
        yield server


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Redis, empty at the start of the session."""
    with RedisServer(tmp_path_factory.mktemp("redis"), free_port()) as server:
        yield server


@pytest.fixture(scope="session")
def production(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """dCMMS and the feature store with the roles of deploy/sql."""
    with open_production(postgres, tmp_path_factory.mktemp("production")) as servers:
        yield servers


@pytest.fixture(scope="module")
def clickhouse_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the embedded ClickHouse engine. A process can have only one open: a module has its own."""
    return tmp_path_factory.mktemp("clickhouse")


@pytest.fixture(scope="module")
def clickhouse(clickhouse_directory: Path) -> Iterator[Client]:
    """The embedded ClickHouse engine with an empty telemetry table."""
    dsn = f"chdb://{clickhouse_directory}"
    with closing(clickhouse_connect.get_client(dsn=dsn)) as client:
        create_clickhouse_schema(client, DATABASE)
    with closing(clickhouse_connect.get_client(dsn=dsn, database=DATABASE)) as client:
        yield client


@pytest.fixture(params=["n", "t"])
def variant(request: pytest.FixtureRequest) -> str:
    """The variant of dCMMS's PostgreSQL schema: a test that uses it runs once with each."""
    return request.param


@pytest.fixture
def settings(postgres: PostgresServer, clickhouse_directory: Path, variant: str, tmp_path: Path) -> Settings:
    """Settings of the pipeline for the test servers."""
    return Settings(
        database_url=postgres.url("dcmms", f"dcmms_{variant}"),
        clickhouse_dsn=f"chdb://{clickhouse_directory}",
        clickhouse_database=DATABASE,
        feature_data_dir=tmp_path / "data",
    )


@pytest.fixture(scope="module")
def store_yaml(
    postgres: PostgresServer,
    redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Path:
    """A feature_store.yaml with a registry of the module's own, `feast_` and its name."""
    name = request.module.__name__.rpartition("test_")[2]
    return write_feature_store_yaml(tmp_path_factory.mktemp(name), postgres, redis, f"feast_{name}")


@pytest.fixture
def dcmms(postgres: PostgresServer, clickhouse: Client, settings: Settings, variant: str) -> Iterator[Dcmms]:
    """An empty dCMMS of each schema variant."""
    with closing(psycopg2.connect(postgres.url("dcmms", f"dcmms_{variant}"))) as connection:
        yield Dcmms(connection, clickhouse, settings)

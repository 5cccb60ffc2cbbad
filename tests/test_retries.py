"""What is tried again, how often, and what is not: a fault that a person has to put right fails at once."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import psycopg2
import pyarrow as pa
import pytest
import redis as redis_client
from clickhouse_connect.driver.exceptions import OperationalError, StreamFailureError
from redis.connection import DefaultParser

from dev.servers import PostgresServer, RedisServer, free_port
from pipeline.base.errors import PipelineError, Unavailable
from pipeline.base.retries import attempts, retrying_for
from pipeline.base.settings import Settings
from pipeline.online.redis import engine
from pipeline.online.redis.engine import translated_errors
from pipeline.online.redis.writer import connect
from pipeline.registry.feast_store import registry_error
from pipeline.sources import clickhouse as clickhouse_source
from pipeline.sources import postgres as postgres_source
from pipeline.sources.clickhouse import open_clickhouse
from pipeline.sources.postgres import open_postgres

SECONDS = 1.2


class Failing:
    """Something that fails so many times, then returns what it was asked."""

    def __init__(self, times: int, error: type[PipelineError] = Unavailable, seconds: float = 0.0) -> None:
        self.times, self.error, self.seconds, self.calls = times, error, seconds, 0

    def __call__(self, answer: str) -> str:
        self.calls += 1
        time.sleep(self.seconds)
        if self.calls <= self.times:
            raise self.error("server closed the connection")
        return answer


def test_a_passing_fault_is_tried_again_and_told_each_time(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing(1)
    with retrying_for(SECONDS):
        assert attempts()(failing, "done") == "done"
    assert failing.calls == 2
    (message,) = caplog.messages
    assert re.fullmatch(r"server closed the connection; trying again in (0\.[5-9]|1\.0) s", message)
    assert caplog.records[0].levelno == logging.WARNING


def test_no_time_to_try_again_and_none_outside_of_a_run() -> None:
    for seconds in (None, 0.0, 0.2):
        failing = Failing(1)
        with pytest.raises(PipelineError, match=r"^server closed the connection$") as raised:
            if seconds is None:
                attempts()(failing, "done")
            else:
                with retrying_for(seconds):
                    attempts()(failing, "done")
        assert failing.calls == 1
        assert type(raised.value) is PipelineError, "nobody else tries it again"


def test_the_time_is_that_of_all_that_is_tried_in_sum() -> None:
    began = time.monotonic()
    with retrying_for(SECONDS):
        for seconds in (SECONDS, 0.0, 0.0):
            failing = Failing(99, seconds=seconds)
            with pytest.raises(PipelineError), retrying_for(60):  # within the other one, whose time is what counts
                attempts()(failing, "done")
            assert failing.calls == (2 if seconds else 1)
    assert time.monotonic() - began < 10, "one pause, not those of a minute"


def test_a_long_attempt_may_be_lost_once() -> None:
    failing = Failing(1, seconds=SECONDS)
    with retrying_for(SECONDS):
        assert attempts()(failing, "done") == "done"


def test_other_faults_are_not_tried_again() -> None:
    failing = Failing(1, PipelineError)
    with retrying_for(SECONDS), pytest.raises(PipelineError):
        attempts()(failing, "done")
    assert failing.calls == 1


# the drivers' words ----------------------------------------------------------------------------------------------


@pytest.fixture
def settings(postgres: PostgresServer, tmp_path: Path) -> Settings:
    return Settings(
        database_url=postgres.url("dcmms", "dcmms_n"),
        clickhouse_host="http://127.0.0.1:1",
        statement_timeout_seconds=1,
        feature_data_dir=tmp_path,
    )


def fails_at_once(call: Callable[[], object], caplog: pytest.LogCaptureFixture) -> str:
    """Return the message of what may be tried again and is not."""
    with retrying_for(20), pytest.raises(PipelineError) as raised:
        call()
    assert caplog.messages == []
    return str(raised.value)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("select 1 as one, pg_sleep(3)", "canceling statement due to statement timeout: raise"),
        ("select * from no_such_table", 'relation "no_such_table" does not exist'),
        ("select 1 as", "syntax error"),
        ("select 1 / 0 as one", "division by zero"),
        ("select * from pg_authid", "permission denied"),
    ],
)
def test_postgres_refuses_a_query(settings: Settings, caplog: pytest.LogCaptureFixture, query: str, says: str) -> None:
    schema = pa.schema([("one", pa.int32())])
    with open_postgres(settings) as source:
        assert says in fails_at_once(lambda: attempts()(source.copy, query, [], schema), caplog)
        # the transaction goes on: another view has its rows all the same
        assert source.copy("select 1 as one", [], schema).to_pylist() == [{"one": 1}]


@pytest.mark.parametrize(
    ("database", "user", "says"),
    [("no_such_database", "dcmms", "does not exist"), ("dcmms_n", "nobody_known", "does not exist")],
)
def test_postgres_refuses_a_connection(
    settings: Settings,
    postgres: PostgresServer,
    caplog: pytest.LogCaptureFixture,
    database: str,
    user: str,
    says: str,
) -> None:
    url = Settings(**settings.model_dump() | {"database_url": postgres.url(user, database)})
    assert says in fails_at_once(lambda: open_postgres(url).__enter__(), caplog)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ('FATAL:  password authentication failed for user "dcmms"', False),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "dcmms", database "dcmms", no encryption', False),
        ("server does not support SSL, but SSL was required", False),
        ("SSL error: certificate verify failed", False),
        ('server certificate for "db" does not match host name "127.0.0.1"', False),
        ('could not translate host name "postgres.example" to address: Name or service not known', False),
        ('could not translate host name "postgres" to address: Temporary failure in name resolution', True),
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  sorry, too many clients already", True),
        ('connection to server at "10.0.0.1", port 5432 failed: Connection refused', True),
        ('connection to server at "10.0.0.1", port 5432 failed: timeout expired', True),
        ("server closed the connection unexpectedly", True),
        ("SSL connection has been closed unexpectedly", True),
    ],
)
def test_words_of_libpq(text: str, passes: bool) -> None:
    assert postgres_source.may_pass(psycopg2.OperationalError(text)) == passes
    retried = isinstance(registry_error(psycopg.OperationalError(text)), Unavailable)
    assert retried == passes, "the registry's driver says the same"


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("READONLY You can't write against a read only replica.", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("LOADING Redis is loading the dataset in memory", True),
    ],
)
def test_words_of_redis(text: str, passes: bool) -> None:
    assert engine.may_pass(DefaultParser.parse_error(text)) == passes


def test_redis_that_wants_a_password(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    def ping() -> None:
        with translated_errors(), connect(redis_client.Redis(port=server.port, password="wrong")):
            pass

    with RedisServer(tmp_path / "redis", free_port()) as server, redis_client.Redis(port=server.port) as client:
        client.config_set("requirepass", "right")
        assert "check the user and the password" in fails_at_once(lambda: attempts()(ping), caplog)


def test_clickhouse_that_is_down_is_tried_again(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with retrying_for(1.2), pytest.raises(PipelineError, match="Check CLICKHOUSE_HOST"):
        open_clickhouse(settings).__enter__()
    assert [record.levelname for record in caplog.records if record.name == "pipeline.base.retries"] == ["WARNING"]


@pytest.mark.parametrize(("cause", "passes"), [(OperationalError("reset"), True), (None, False)])
def test_an_answer_of_clickhouse_that_breaks_off_may_pass_and_a_message_in_it_not(
    cause: Exception | None, passes: bool
) -> None:
    """The driver raises one class for both; what the server said has no cause."""
    error = StreamFailureError("Stream failed during read")
    error.__cause__ = cause
    assert clickhouse_source.may_pass(error) == passes

"""Whatever text stands in dCMMS comes out of the snapshot and of Redis as it is; none is ever part of a command."""

import os
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis

from dev.servers import PostgresServer, RedisServer
from tests.commands import invoke
from tests.dcmms import Dcmms, T, ago, asset_key, bucket
from tests.stores import apply_definitions, online_values, write_feature_store_yaml

VIEW = "asset_features"
HOSTILE = [
    "'; drop table assets; --",
    '"',
    '""',
    "'",
    "\\",
    "\\N",
    "\\.",
    "\n\\.\n",
    "N",
    "NULL",
    "null",
    "%s",
    "%(as_of)s",
    "{sites:Array(UUID)}",
    "${HOME}",
    "a,b",
    '"a","b"',
    "a\nb",
    "a\r\nb",
    "\r",
    "\t",
    " ",
    " x ",
    "é漢😀",
    "\u202e",
    "\ufeffx",
    "\x7f\x01\x1b[31m",
    "$5\r\nhello\r\n",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "x" * 255,
    "[red]",
    "nan",
    "-0",
]
# PostgreSQL holds every character but NUL, and no half of a pair.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), min_size=1, max_size=60)


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.fixture
def publish(
    dcmms: Dcmms, postgres: PostgresServer, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Return what comes out of the snapshot and of Redis for the manufacturers and models that go in."""
    store = write_feature_store_yaml(tmp_path, postgres, redis, "feast_hostile")
    apply_definitions(store, tmp_path / "data")
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
    monkeypatch.setenv("DATABASE_URL", dcmms.settings.database_url.get_secret_value())
    monkeypatch.setenv("CLICKHOUSE_DSN", dcmms.settings.clickhouse_dsn.get_secret_value())
    monkeypatch.setenv("FEATURE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(store))
    dcmms.buckets(bucket(asset_key(1), "power_kw", ago(hours=2)))
    with closing(Redis(port=redis.port)) as client:
        client.flushall()

    def published(pairs: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        with dcmms.postgres.cursor() as cursor:
            cursor.execute("truncate assets")
        for number, (manufacturer, model) in enumerate(pairs, 1):
            dcmms.asset(number, manufacturer=manufacturer, model=model, name=model, specifications=manufacturer)
        result = invoke("--as-of", f"{T:%Y-%m-%dT%H:%M:%SZ}", "--view", VIEW, "--accept-drop")
        assert result.exit_code == 0, result.output
        (path,) = (tmp_path / "data" / VIEW).glob("*/*.parquet")
        rows = pq.read_table(path, partitioning=None).sort_by("asset_id").to_pylist()
        keys: list[UUID] = [asset_key(number) for number in range(1, len(pairs) + 1)]
        online = online_values(store, [f"{VIEW}:manufacturer", f"{VIEW}:model"], keys)
        return (
            [(row["manufacturer"], row["model"]) for row in rows],
            list(zip(online["manufacturer"], online["model"], strict=True)),
        )

    return published


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(pairs=list(zip(HOSTILE, reversed(HOSTILE), strict=True)))
@given(pairs=st.lists(st.tuples(texts, texts), min_size=10, max_size=40))
def test_text_comes_out_as_it_went_in(publish, pairs: list[tuple[str, str]]) -> None:
    snapshot, online = publish(pairs)
    assert snapshot == pairs
    assert online == pairs

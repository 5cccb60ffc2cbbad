"""deploy/feature_store.clickhouse.yaml on ClickHouse's engine: the same values as DuckDB's, bit for bit."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from dev.servers import PostgresServer, RedisServer
from pipeline import REPOSITORY
from pipeline.base.specs import TIMESTAMP, VIEWS
from pipeline.snapshots.files import snapshot_path, write_snapshot
from tests.dcmms import T
from tests.engines import Engine, assert_equal
from tests.made_up_history import ASSETS, made_up, write_history

DEPLOY = REPOSITORY / "deploy"
COPY = DEPLOY / "snapshots_to_clickhouse.py"
SERVICE = "predictive_maintenance_v2"
MAKE_DATABASE = "import sys, chdb; chdb.connect(sys.argv[1]).query('create database dcmms_features')"


@pytest.mark.timeout(600)
def test_clickhouse_answers_as_duckdb(postgres: PostgresServer, redis: RedisServer, tmp_path: Path) -> None:
    data_dir, path = tmp_path / "data", tmp_path / "clickhouse.yaml"
    config = yaml.safe_load((DEPLOY / "feature_store.clickhouse.yaml").read_text())
    config["offline_store"]["additional_client_args"] = {"dsn": f"chdb://{tmp_path / 'engine'}"}
    path.write_text(yaml.safe_dump(config))
    names = ("FEATURES_CLICKHOUSE_HOST", "FEATURES_CLICKHOUSE_USER", "FEATURES_CLICKHOUSE_PASSWORD")
    clickhouse = Engine(path, data_dir, postgres, redis, dict.fromkeys(names, "the engine's, which is embedded"))
    write_history(data_dir)
    clickhouse.python("-c", MAKE_DATABASE, tmp_path / "engine")

    copied = clickhouse.python(COPY).splitlines()
    assert sorted(copied) == [f"{view}: 5 instants copied" for view in sorted(VIEWS)]
    # an instant that is computed again, with other values and without an asset that was in it
    revised = made_up("asset_features", T, 99).slice(1)
    later = pa.repeat(pa.scalar(T + timedelta(days=1), TIMESTAMP), revised.num_rows)
    created = revised.schema.get_field_index("created")
    revised = revised.set_column(created, revised.schema.field(created), later)
    write_snapshot(revised, snapshot_path(data_dir, "asset_features", T))
    copied = clickhouse.python(COPY).splitlines()
    assert sorted(copied) == [f"{view}: {int(view == 'asset_features')} instants copied" for view in sorted(VIEWS)]

    duckdb = Engine(DEPLOY / "feature_store.yaml", data_dir, postgres, redis).answer(tmp_path, SERVICE)
    assert duckdb.training_set.num_rows == 906 and len(duckdb.online) == ASSETS
    assert_equal(clickhouse.answer(tmp_path, SERVICE), duckdb)

"""A history that has begun before a definition grew: the README's commands in its order, and no other one between."""

import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dev.servers import PostgresServer, RedisServer
from tests import readme
from tests.walkthroughs.test_adding import SNAPSHOT, copied_to, loaded, patch, run, section

NEW = "days_since_registration"
# After the README's example, in the same process: what a row of each day knows of the new column, by stock Feast.
OLDER_AND_NEW = f"""
moments = pd.DataFrame([asset | {{"event_timestamp": pd.Timestamp(f"{{day}}T12:00:00Z")}} for day in DAYS])
history = store.get_historical_features(moments, ["asset_features:{NEW}", "asset_features:asset_type"]).to_df()
history = history.sort_values("event_timestamp")
assert len(training) == 1 and len(history) == len(DAYS)
assert history["asset_type"].notna().all()
assert history["{NEW}"].isna().tolist() == [True] * (len(DAYS) - 1) + [False], history
"""
DAYS = ["2025-12-29", "2025-12-30", "2025-12-31", "2026-01-01"]


@pytest.mark.timeout(600)
def test_a_definition_grows_amid_a_history(postgres: PostgresServer, redis: RedisServer, tmp_path: Path) -> None:
    copy = copied_to(tmp_path / "repository")
    command = [sys.executable, "materialize_features.py"]
    (example,) = readme.blocks("python")
    with loaded(postgres, redis, tmp_path) as environment:
        run([*command, "backfill", "--start", DAYS[0], "--end", DAYS[-1]], copy, environment)
        for language, content in section("A feature"):
            if language == "diff" and "+++ b/features/" in content:
                patch(content, copy)
        run([str(Path(sys.executable).with_name("feast")), "apply"], copy, environment)
        run([*command, "--as-of", f"{DAYS[-1]}T00:00:00Z"], copy, environment)
        code = f"DAYS = {DAYS}\n" + example + OLDER_AND_NEW
        run([sys.executable, "-W", "ignore", "-c", code], copy, environment)
        span = ["--start", DAYS[0], "--end", "2026-01-02", "--every", "1d"]
        output = tmp_path / "training.parquet"
        # version 2 has all features, those of version 1 among them
        service = ["--service", "predictive_maintenance_v2", "--output", str(output)]
        run([*command, "training-set", *span, *service], copy, environment)
        table = pq.read_table(output)
        is_new = pc.equal(table["event_timestamp"], pc.max(table["event_timestamp"]))
        assert table["asset_type"].null_count == 0
        assert set(zip(table[NEW].is_valid().to_pylist(), is_new.to_pylist(), strict=True)) == {
            (True,) * 2,
            (False,) * 2,
        }
        snapshot = Path(environment["FEATURE_DATA_DIR"]) / "asset_features" / SNAPSHOT
        assert pq.read_table(snapshot, partitioning=None)[NEW].null_count == 0

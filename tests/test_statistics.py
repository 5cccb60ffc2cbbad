"""The statistics of features: against numpy and against Feast's own registry."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from feast import FeatureStore, RepoConfig

from entities import asset
from pipeline.base.errors import PipelineError
from pipeline.base.specs import VIEWS
from pipeline.operations.statistics import STATISTICS, feature_statistics
from tests.dcmms import T, ago
from tests.made_up_history import ASSETS, change, made_up, with_values, write_history
from tests.stores import with_snapshots_in

VIEW = "asset_features"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """A registry in a file, whose views have two snapshots."""
    folder = tmp_path_factory.mktemp("statistics")
    write_history(folder / "data", days=(7, 0))
    change(folder / "data", VIEW, with_values("total_work_orders", lambda values: np.full(len(values), 3, object)))
    config = RepoConfig(
        project="statistics",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store=None,
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([asset, *(with_snapshots_in(folder / "data", view) for view in VIEWS.values())])
    yield store


def test_a_number_has_all_of_them_and_a_text_those_that_it_can(store: FeatureStore) -> None:
    table = feature_statistics(store, ["mttr_hours", f"{VIEW}:manufacturer", "total_work_orders"], VIEW)
    assert table.schema == STATISTICS
    number, text, constant = table.to_pylist()
    values = made_up(VIEW, T, 0)["mttr_hours"].drop_null().to_numpy().astype(float)
    assert (number["feature"], number["as_of"], number["count"]) == ("mttr_hours", T, len(values))
    assert number["null_count"] == ASSETS - len(values)
    assert number["null_rate"] == pytest.approx(0.05)
    assert number["distinct"] == len(np.unique(values))
    assert number["mean"] == pytest.approx(values.mean())
    assert number["std"] == pytest.approx(values.std(ddof=1))
    quartiles = [number[name] for name in ("min", "p25", "p50", "p75", "max")]
    assert quartiles == pytest.approx(np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    assert (text["count"], text["null_count"], text["distinct"]) == (570, 30, 5)
    assert {text[name] for name in ("mean", "std", "min", "p25", "p50", "p75", "max")} == {None}
    assert [constant[name] for name in ("mean", "std", "min", "max", "distinct")] == [3, 0, 3, 3, 1]


def test_as_of_an_earlier_instant_and_all_features(store: FeatureStore) -> None:
    table = feature_statistics(store, None, VIEW, as_of=T - timedelta(seconds=1))
    assert table["feature"].to_pylist() == [field.name for field in VIEWS[VIEW].features]
    assert set(table["as_of"].to_pylist()) == {ago(7)}
    (orders,) = feature_statistics(store, ["total_work_orders"], VIEW, as_of=ago(7)).to_pylist()
    assert orders["distinct"] > 1
    assert feature_statistics(store, [], VIEW).num_rows == 0


@pytest.mark.parametrize(
    ("features", "view", "as_of", "says"),
    [
        (["nothing"], VIEW, None, "asset_features has no feature nothing: it has tenant_id, "),
        (None, "nobody", None, "nobody is not registered in project statistics"),
        (None, VIEW, ago(8), "asset_features has no snapshot as of 2026-03-03T10:00:00"),
    ],
)
def test_what_is_not_there_is_named(store: FeatureStore, features: list, view: str, as_of: object, says: str) -> None:
    with pytest.raises(PipelineError, match=says):
        feature_statistics(store, features, view, as_of)


def test_a_feature_that_the_snapshot_lacks(store: FeatureStore) -> None:
    data = Path(store.get_feature_view(VIEW).batch_source.path).parent
    change(data, VIEW, lambda rows: rows.drop_columns(["model"]), ago(7))
    with pytest.raises(PipelineError, match="has no model: a run brings it to the columns of now"):
        feature_statistics(store, ["model"], VIEW, as_of=ago(7))

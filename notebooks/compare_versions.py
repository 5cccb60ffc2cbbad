"""Version 1 of predictive_maintenance against version 2 on demo fleets: same model, same split.

It writes docs/predicting.md. Each seed is another fleet with another year. The notebook compares the versions on one
fleet, by the same functions.
"""

import sys
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.metrics import average_precision_score, roc_auc_score

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from dev.fleet import generate  # noqa: E402
from dev.load import load_fleet  # noqa: E402
from dev.servers import PostgresServer, free_port  # noqa: E402
from dev.stack import ensure_database  # noqa: E402
from features.failure_within_7d import LABEL  # noqa: E402
from pipeline.base.settings import Settings  # noqa: E402
from pipeline.base.specs import SERVICES  # noqa: E402
from pipeline.base.views import VIEW_NAMES  # noqa: E402
from pipeline.runs.backfill import backfill  # noqa: E402
from pipeline.runs.training import entity_frame, failure_labels, known_assets  # noqa: E402
from pipeline.snapshots.files import snapshot_path  # noqa: E402
from pipeline.sources.postgres import open_postgres  # noqa: E402

IDENTIFIERS = frozenset({"tenant_id", "site_id", "manufacturer", "model", "asset_status"})
WEEK = timedelta(days=7)
TEST_WEEKS = 18
BUDGET = 0.05
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALARMS = "alarms of 30 d alone"


# one fleet ------------------------------------------------------------------------------------------------------------


def inputs_of(service: str, without: Iterable[str] = ()) -> list[str]:
    """Return the features of a service that a model learns from, but for the views `without`."""
    left_out = set(without)
    return [
        feature.name
        for projection in SERVICES[service].feature_view_projections
        for feature in projection.features
        if projection.name not in left_out and feature.name not in IDENTIFIERS
    ]


def model_inputs(rows: pd.DataFrame, inputs: Sequence[str]) -> pd.DataFrame:
    """Return the inputs of a model: numbers, NaN where unknown, and the kind of asset as a category."""
    numbers = rows[[name for name in inputs if name != "asset_type"]].astype(float)
    return numbers.assign(asset_type=rows["asset_type"].astype("category"))


def split(rows: pd.DataFrame, now: datetime) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to learn from and those of the last `TEST_WEEKS` weeks, a week apart: no label reaches across."""
    test_start = now - TEST_WEEKS * WEEK
    return rows[rows["event_timestamp"] <= test_start - WEEK], rows[rows["event_timestamp"] >= test_start]


def fitted(early: pd.DataFrame, inputs: Sequence[str], seed: int) -> HistGradientBoostingClassifier:
    """Return the model of all versions, which has learned from `early`; the seed decides which inputs a split sees."""
    model = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=150,
        max_depth=3,
        min_samples_leaf=30,
        l2_regularization=1.0,
        max_features=0.3,
        random_state=seed,
    )
    return model.fit(model_inputs(early, inputs), early[LABEL])


def figures(truth: pd.Series, risk: np.ndarray) -> dict[str, float]:
    """Return the area under the ROC curve, the average precision, and the share of the failures that a budget catches.

    The budget is `BUDGET` of all rows, those with the highest risk; a failure is a row whose label is 1.
    """
    flagged = np.argsort(-np.asarray(risk, dtype=float), kind="stable")[: round(BUDGET * len(truth))]
    return {
        "ROC AUC": roc_auc_score(truth, risk),
        "average precision": average_precision_score(truth, risk),
        "caught": truth.to_numpy()[flagged].sum() / truth.sum(),
    }


def compared(rows: pd.DataFrame, now: datetime, sets: dict[str, list[str]], seed: int) -> pd.DataFrame:
    """Return the `figures` of a model on the inputs of each of `sets`, a row each, and of the number of alarms."""
    early, late = split(rows, now)
    found = {ALARMS: figures(late[LABEL], late["recent_alarms_30d"].to_numpy())}
    for name, inputs in sets.items():
        risk = fitted(early, inputs, seed).predict_proba(model_inputs(late, inputs))[:, 1]
        found[name] = figures(late[LABEL], risk)
    return pd.DataFrame(found).T


def importances(rows: pd.DataFrame, now: datetime, inputs: Sequence[str], seed: int) -> pd.Series:
    """Return by how much the area under the ROC curve falls where a feature of the test rows is shuffled."""
    early, late = split(rows, now)
    tested = model_inputs(late, inputs)
    found = permutation_importance(
        fitted(early, inputs, seed), tested, late[LABEL], scoring="roc_auc", n_repeats=5, random_state=seed
    )
    return pd.Series(found.importances_mean, index=tested.columns)


# several fleets -------------------------------------------------------------------------------------------------------


def rows_of_fleet(seed: int, assets: int, postgres: PostgresServer, directory: Path) -> pd.DataFrame:
    """Return a row per asset and week of a year of the fleet of `seed`: all features of all views, and the label."""
    ensure_database(postgres.admin_url, "dcmms", "dcmms")
    settings = Settings(
        database_url=postgres.url("dcmms", "dcmms"),
        clickhouse_dsn=f"chdb://{directory / 'clickhouse'}",
        feature_data_dir=directory / f"data-{seed}",
    )
    (directory / "clickhouse").mkdir(exist_ok=True)
    load_fleet(
        postgres.url("dcmms", "dcmms"),
        f"chdb://{directory / 'clickhouse'}",
        generate(seed=seed, assets=assets, end=NOW),
    )
    instants = [NOW - number * WEEK for number in range(52, 0, -1)]
    backfill(settings, instants, VIEW_NAMES)
    with open_postgres(settings) as source:
        frame = entity_frame(known_assets(source), instants[0], NOW, every=WEEK)
        rows = failure_labels(source, frame, known_until=NOW).to_pandas()
    keys = ["asset_id", "event_timestamp"]
    service = SERVICES["predictive_maintenance_v2"]
    for projection in service.feature_view_projections:
        columns = [*keys, *(feature.name for feature in projection.features)]
        paths = [snapshot_path(settings.feature_data_dir, projection.name, instant) for instant in instants]
        tables = [pq.read_table(path, columns=columns, partitioning=None).to_pandas() for path in paths]
        rows = rows.merge(pd.concat(tables), on=keys, how="left")
    return rows


_SETS = {
    "version 1": inputs_of("predictive_maintenance_v2", ["alarm_features", "recent_telemetry_features"]),
    "and `alarm_features`": inputs_of("predictive_maintenance_v2", ["recent_telemetry_features"]),
    "and `recent_telemetry_features`": inputs_of("predictive_maintenance_v2", ["alarm_features"]),
    "version 2: both": inputs_of("predictive_maintenance_v2"),
}

_PAGE = """\
# What version 2 predicts better

This page is written by `{command}`, on servers of its own.

It generates {fleets} demo fleets of {assets} assets and computes their features as of each week of a year. The same
model learns from each set of features: from all but the last {test_weeks} weeks, and, after a week between, is
tested on those. A row is an asset and a week. Its label is whether a corrective or emergency work order was created
in the 7 d after, which is so in {rate:.1%} of the test rows.

Means and standard deviations over the {fleets} fleets. *Caught*: of the test rows with a failure, the share among
the {budget:.0%} of rows with the highest risk; more than {best:.0%} cannot be.

{table}

The gain of version 2 over version 1, fleet by fleet:

{gains}

By the average precision, and a gain being more than two standard errors of its mean:

{verdict}

## What the model of version 2 looks at

How much area under the ROC curve of the test rows is lost when one feature is shuffled, the first {top} of
{features}. Features that say nearly the same share their importance.

{importances}

## What this is, and what it is not

The fleets are invented. Four of their fifteen alarm rules belong to defects, and their alarms often come before a
failure, because `dev/fleet` makes it so; the telemetry shows most of these defects as well, so that version 1 sees
them too. The page shows whether the features find what is there, not how much there is at a site. Before a site
relies on version 2, it compares both on its own history, as the notebook does.

Real run-to-failure data are not among the figures: the sets of turbofans and bearings that are published have
neither alarms with rules nor work orders, nor calendar days to which a last day and a month could refer, and no
package that this repository depends on brings one.
"""


def page(found: list[pd.DataFrame], weights: list[pd.Series], rates: list[float], assets: int, command: str) -> str:
    """Return the text of docs/predicting.md for the figures of each fleet."""
    everything = pd.concat(found, keys=range(1, len(found) + 1), names=["fleet", "features"])
    mean, spread = (getattr(everything.groupby(level="features", sort=False), how)() for how in ("mean", "std"))
    table = _table(
        ["features", "inputs", *mean.columns],
        [
            [
                name,
                str(len(_SETS.get(name, [""]))),
                *(f"{mean.at[name, c]:.3f} ± {spread.at[name, c]:.3f}" for c in mean),
            ]
            for name in mean.index
        ],
    )
    versions = everything.unstack("features")
    gain = pd.DataFrame({c: versions[c]["version 2: both"] - versions[c]["version 1"] for c in mean})
    gains = _table(
        ["fleet", *gain.columns],
        [[str(number), *(f"{value:+.3f}" for value in row)] for number, row in gain.iterrows()],
    )
    importance = pd.concat(weights, axis=1)
    first = importance.mean(axis=1).nlargest(12)
    new = set(_SETS["version 2: both"]) - set(_SETS["version 1"])
    return _PAGE.format(
        command=command,
        fleets=len(found),
        assets=assets,
        test_weeks=TEST_WEEKS,
        rate=np.mean(rates),
        budget=BUDGET,
        best=min(1, BUDGET / np.mean(rates)),
        table=table,
        gains=gains,
        verdict="\n".join(_verdict(name, everything) for name in list(_SETS)[1:]),
        top=len(first),
        features=len(importance),
        importances=_table(
            ["feature", "new in version 2", "loss of area"],
            [
                [f"`{name}`", "yes" if name in new else "", f"{value:.4f} ± {importance.loc[name].std():.4f}"]
                for name, value in first.items()
            ],
        ),
    )


def _verdict(name: str, everything: pd.DataFrame) -> str:
    """Return in words what a set of features gains over version 1, with the standard error of its mean."""
    areas = everything["average precision"].unstack("features")
    gain = areas[name] - areas["version 1"]
    error = gain.std() / len(gain) ** 0.5
    said = "a gain" if gain.mean() > 2 * error else "nothing gained" if gain.mean() > -2 * error else "a loss"
    return (
        f"- {name}: {gain.mean():+.3f} ± {error:.3f}, higher in {int((gain > 0).sum())} of {len(gain)} fleets: {said}."
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--fleets", type=click.IntRange(min=2), default=5, show_default=True, help="How many, of the seeds 1, 2, ..."
)
@click.option("--assets", type=click.IntRange(min=12), default=100, show_default=True, help="Of each fleet.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=REPOSITORY / "docs" / "predicting.md",
    help="The page; by default docs/predicting.md.",
)
def main(fleets: int, assets: int, output: Path) -> None:
    """Compare version 1 and version 2 of predictive_maintenance on demo fleets, on servers of its own; some minutes."""
    found, weights, rates = [], [], []
    with tempfile.TemporaryDirectory() as name, PostgresServer(Path(name) / "postgres", free_port()) as postgres:
        for seed in range(1, fleets + 1):
            rows = rows_of_fleet(seed, assets, postgres, Path(name))
            found.append(compared(rows, NOW, _SETS, seed))
            weights.append(importances(rows, NOW, _SETS["version 2: both"], seed))
            rates.append(split(rows, NOW)[1][LABEL].mean())
            click.echo(f"fleet {seed}:\n{found[-1].round(3)}")
    command = ".venv/bin/python notebooks/compare_versions.py"
    options = [f"--fleets {fleets}"] * (fleets != 5) + [f"--assets {assets}"] * (assets != 100)
    output.write_text(page(found, weights, rates, assets, " ".join([command, *options])), encoding="utf-8")
    click.echo(f"wrote {output}")


if __name__ == "__main__":
    main()

"""Version 1 of predictive_maintenance against version 2, on demo fleets and on engines that others ran to failure.

It writes docs/predicting.md: same model, same split for both. Each seed is another fleet with another year, and
another choice of the engines to learn from. The notebook compares the versions on one fleet, by the same functions.
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

from dev.fleet import Fleet, generate  # noqa: E402
from dev.load import load_fleet  # noqa: E402
from dev.servers import PostgresServer, free_port  # noqa: E402
from dev.stack import ensure_database  # noqa: E402
from dev.turbofans import START, Turbofans  # noqa: E402
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
DAY = timedelta(days=1)
TEST_WEEKS = 18
TEST_ENGINES = 30
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
    alarms = pd.DataFrame({ALARMS: figures(late[LABEL], late["recent_alarms_30d"].to_numpy())}).T
    return pd.concat([alarms, learned(early, late, sets, seed)])


def learned(early: pd.DataFrame, late: pd.DataFrame, sets: dict[str, list[str]], seed: int) -> pd.DataFrame:
    """Return the `figures` on the rows `late` of a model that has learned from `early`, a row for each of `sets`.

    What is NULL in all rows of `early` is left out: scikit-learn stops at a column without a value.
    """
    known = early.columns[early.notna().any()]
    risks = {
        name: fitted(early, present, seed).predict_proba(model_inputs(late, present))[:, 1]
        for name, inputs in sets.items()
        if (present := [each for each in inputs if each in known])
    }
    return pd.DataFrame({name: figures(late[LABEL], risk) for name, risk in risks.items()}).T


def importances(rows: pd.DataFrame, now: datetime, inputs: Sequence[str], seed: int) -> pd.Series:
    """Return by how much the area under the ROC curve falls where a feature of the test rows is shuffled."""
    early, late = split(rows, now)
    tested = model_inputs(late, inputs)
    found = permutation_importance(
        fitted(early, inputs, seed), tested, late[LABEL], scoring="roc_auc", n_repeats=5, random_state=seed
    )
    return pd.Series(found.importances_mean, index=tested.columns)


# several fleets -------------------------------------------------------------------------------------------------------


def rows_of(
    fleet: Fleet | Turbofans, instants: Sequence[datetime], postgres: PostgresServer, directory: Path
) -> pd.DataFrame:
    """Return a row per instant and asset that exists then: all features of all views, and the label.

    The instants are equally far apart. `directory` is new: it takes the telemetry and the snapshots.
    """
    ensure_database(postgres.admin_url, "dcmms", "dcmms")
    settings = Settings(
        database_url=postgres.url("dcmms", "dcmms"),
        clickhouse_dsn=f"chdb://{directory / 'clickhouse'}",
        feature_data_dir=directory / "data",
    )
    (directory / "clickhouse").mkdir(parents=True)
    load_fleet(postgres.url("dcmms", "dcmms"), f"chdb://{directory / 'clickhouse'}", fleet)
    backfill(settings, instants, VIEW_NAMES)
    step = instants[1] - instants[0]
    with open_postgres(settings) as source:
        frame = entity_frame(known_assets(source), instants[0], instants[-1] + step, every=step)
        rows = failure_labels(source, frame, known_until=NOW).to_pandas()
    keys = ["asset_id", "event_timestamp"]
    service = SERVICES["predictive_maintenance_v2"]
    for projection in service.feature_view_projections:
        columns = [*keys, *(feature.name for feature in projection.features)]
        paths = [snapshot_path(settings.feature_data_dir, projection.name, instant) for instant in instants]
        tables = [pq.read_table(path, columns=columns, partitioning=None).to_pandas() for path in paths]
        rows = rows.merge(pd.concat(tables), on=keys, how="left")
    return rows


def split_of_engines(rows: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of the engines to learn from, and those of `TEST_ENGINES` others, which the seed draws."""
    engines = np.sort(rows["asset_id"].unique())
    tested = np.random.default_rng(seed).choice(engines, TEST_ENGINES, replace=False)
    return rows[~rows["asset_id"].isin(tested)], rows[rows["asset_id"].isin(tested)]


_SETS = {
    "version 1": inputs_of("predictive_maintenance_v2", ["alarm_features", "recent_telemetry_features"]),
    "and `alarm_features`": inputs_of("predictive_maintenance_v2", ["recent_telemetry_features"]),
    "and `recent_telemetry_features`": inputs_of("predictive_maintenance_v2", ["alarm_features"]),
    "version 2: both": inputs_of("predictive_maintenance_v2"),
}

_OF_ENGINES = {
    "version 1": inputs_of("predictive_maintenance_v2", set(VIEW_NAMES) - {"telemetry_features"}),
    "and `recent_telemetry_features`": inputs_of(
        "predictive_maintenance_v2", set(VIEW_NAMES) - {"telemetry_features", "recent_telemetry_features"}
    ),
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

## On engines that ran to failure

The fleets above are invented here. These are not: {engines} turbofans of C-MAPSS, FD001, that NASA published for
judging predictions, with three flights a day and five of their sensors in place of dCMMS's five quantities
([`dev/turbofans.py`](../dev/turbofans.py) says how). Nothing but telemetry is known of them, so the telemetry
features of version 1 are compared with those of version 2. A row is an engine and a day; {engine_rate:.1%} of the
test rows are of an engine's last 7 d, so that no more than {engine_best:.0%} can be caught. The model learns from
{learned} engines and is tested on the {tested} others, for five draws of them.

{engine_table}

{engine_verdict}

## What this is, and what it is not

The demo fleets are invented. Four of their fifteen alarm rules belong to defects, and their alarms often come before a
failure, because `dev/fleet` makes it so; the telemetry shows most of these defects as well, so that version 1 sees
them too. The engines are simulated, too, by others, and wear slowly under steady conditions. So the page shows whether
the features find what is there, not how much there is at a site. Before a site relies on version 2, it compares both on
its own history, as the notebook does.
"""


def page(
    found: list[pd.DataFrame],
    weights: list[pd.Series],
    rates: list[float],
    engines: dict[str, object],
    **words: object,
) -> str:
    """Return the text of docs/predicting.md for the figures of each fleet, and what `engines` says of the turbofans."""
    everything = pd.concat(found, keys=range(1, len(found) + 1), names=["fleet", "features"])
    versions = everything.unstack("features")
    gain = pd.DataFrame({c: versions[c]["version 2: both"] - versions[c]["version 1"] for c in everything})
    gains = _table(
        ["fleet", *gain.columns],
        [[str(number), *(f"{value:+.3f}" for value in row)] for number, row in gain.iterrows()],
    )
    importance = pd.concat(weights, axis=1)
    first = importance.mean(axis=1).nlargest(12)
    new = set(_SETS["version 2: both"]) - set(_SETS["version 1"])
    return _PAGE.format(
        fleets=len(found),
        test_weeks=TEST_WEEKS,
        rate=np.mean(rates),
        budget=BUDGET,
        best=min(1, BUDGET / np.mean(rates)),
        table=_areas(everything, _SETS),
        gains=gains,
        verdict="\n".join(_verdict(name, everything, "fleets") for name in list(_SETS)[1:]),
        top=len(first),
        features=len(importance),
        importances=_table(
            ["feature", "new in version 2", "loss of area"],
            [
                [f"`{name}`", "yes" if name in new else "", f"{value:.4f} ± {importance.loc[name].std():.4f}"]
                for name, value in first.items()
            ],
        ),
        **engines,
        **words,
    )


def engines_of(postgres: PostgresServer, directory: Path) -> dict[str, object]:
    """Compare the telemetry features of both versions on the turbofans; return what the page says of them.

    The first month is left out: what a deviation from it means, no feature can say before.
    """
    instants = [START + day * DAY for day in range(30, 121)]
    rows = rows_of(Turbofans(), instants, postgres, directory)
    found, rates = [], []
    for seed in range(1, 6):
        early, late = split_of_engines(rows, seed)
        found.append(learned(early, late, _OF_ENGINES, seed))
        rates.append(late[LABEL].mean())
        click.echo(f"engines, draw {seed}:\n{found[-1].round(3)}")
    everything = pd.concat(found, keys=range(1, 6), names=["draw", "features"])
    count = rows["asset_id"].nunique()
    return {
        "engines": count,
        "learned": count - TEST_ENGINES,
        "tested": TEST_ENGINES,
        "engine_rate": np.mean(rates),
        "engine_best": min(1, BUDGET / np.mean(rates)),
        "engine_table": _areas(everything, _OF_ENGINES),
        "engine_verdict": "\n".join(_verdict(name, everything, "draws") for name in list(_OF_ENGINES)[1:]),
    }


def _areas(everything: pd.DataFrame, sets: dict[str, list[str]]) -> str:
    """Return the table of means and standard deviations of each set of features over what was tried."""
    mean, spread = (getattr(everything.groupby(level="features", sort=False), how)() for how in ("mean", "std"))
    return _table(
        ["features", "inputs", *mean.columns],
        [
            [
                name,
                str(len(sets.get(name, [""]))),
                *(f"{mean.at[name, c]:.3f} ± {spread.at[name, c]:.3f}" for c in mean),
            ]
            for name in mean.index
        ],
    )


def _verdict(name: str, everything: pd.DataFrame, tried: str) -> str:
    """Return in words what a set of features gains over version 1, with the standard error of its mean."""
    areas = everything["average precision"].unstack("features")
    gain = areas[name] - areas["version 1"]
    error = gain.std() / len(gain) ** 0.5
    said = "a gain" if gain.mean() > 2 * error else "nothing gained" if gain.mean() > -2 * error else "a loss"
    return (
        f"- {name}: {gain.mean():+.3f} ± {error:.3f}, higher in {int((gain > 0).sum())} of {len(gain)} {tried}: {said}."
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
            instants = [NOW - number * WEEK for number in range(52, 0, -1)]
            rows = rows_of(generate(seed=seed, assets=assets, end=NOW), instants, postgres, Path(name) / f"{seed}")
            found.append(compared(rows, NOW, _SETS, seed))
            weights.append(importances(rows, NOW, _SETS["version 2: both"], seed))
            rates.append(split(rows, NOW)[1][LABEL].mean())
            click.echo(f"fleet {seed}:\n{found[-1].round(3)}")
        engines = engines_of(postgres, Path(name) / "engines")
    command = ".venv/bin/python notebooks/compare_versions.py"
    options = [f"--fleets {fleets}"] * (fleets != 5) + [f"--assets {assets}"] * (assets != 100)
    told = page(found, weights, rates, engines, assets=assets, command=" ".join([command, *options]))
    output.write_text(told, encoding="utf-8")
    click.echo(f"wrote {output}")


if __name__ == "__main__":
    main()

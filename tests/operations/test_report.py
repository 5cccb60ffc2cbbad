"""The report: planted drifts of every kind are found and named, quiet days raise nothing, the page is whole."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import redis as redis_client
from feast import FeatureStore
from numpy.typing import NDArray

from dev.fleet import generate
from dev.load import load_fleet
from dev.servers import PostgresServer, RedisServer
from dev.stack import ensure_database
from pipeline.base.results import ViewResult
from pipeline.base.settings import Settings
from pipeline.base.specs import VIEWS
from pipeline.online.publish import publish
from pipeline.operations.report.drift import compared
from pipeline.operations.report.history import course
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.ledger import Ledger, Run, recorded
from pipeline.runs.backfill import backfill
from pipeline.snapshots.compaction import compact
from pipeline.snapshots.files import snapshot_path, with_set_aside, write_snapshot
from tests.commands import invoke
from tests.dcmms import T, ago, asset_key
from tests.made_up_history import ASSETS, SITES, change, made_up, with_values, write_history
from tests.stores import apply_definitions, write_feature_store_yaml

AS_OF = f"{T:%Y-%m-%dT%H:%M:%SZ}"
Values = NDArray[np.object_]


@pytest.fixture(scope="module")
def quiet_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five weekly snapshots of a fleet that does not change."""
    folder = tmp_path_factory.mktemp("report") / "data"
    write_history(folder)
    return folder


@pytest.fixture
def data(quiet_history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in the settings; neither the databases nor the registry can be reached."""
    copy = tmp_path / "data"
    shutil.copytree(quiet_history, copy)
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", "/nonexistent.yaml")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("CLICKHOUSE_DSN", "http://127.0.0.1:1")
    monkeypatch.setenv("FEATURE_DATA_DIR", str(copy))
    return copy


def report(*arguments: str, as_of: str = AS_OF, exit_code: int = 0) -> dict:
    """Return the report as JSON."""
    result = invoke("report", "--as-of", as_of, "--json", *arguments)
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def said(answer: dict, level: str = "alarm") -> list[str]:
    """Return the sentences of one level."""
    return [finding["text"] for finding in answer["findings"] if finding["level"] == level]


def features_of(answer: dict) -> dict[str, dict]:
    return {f"{view['view']}:{feature['feature']}": feature for view in answer["views"] for feature in view["features"]}


# What is quiet ----------------------------------------------------------------------------------------------------


def test_a_fleet_that_does_not_change_raises_nothing(data: Path) -> None:
    answer = report()
    assert answer["findings"] == []
    assert answer["level"] == "fine"
    (note,) = answer["notes"]
    assert note.startswith("Nothing is told of runs and of what is online: /nonexistent.yaml cannot be read")
    features = features_of(answer)
    assert len(features) == sum(len(view.features) for view in VIEWS.values())
    assert max(feature["psi"] for feature in features.values()) < 0.2
    manufacturer = features["asset_features:manufacturer"]
    assert manufacturer["null_rate"] == manufacturer["null_rate_before"] == pytest.approx(0.05)
    assert [rate for _, rate in manufacturer["null_course"]] == [0.05] * 5
    assert sum(each["now"] for each in manufacturer["bins"]) == pytest.approx(1)
    (telemetry,) = (view for view in answer["views"] if view["view"] == "telemetry_features")
    assert telemetry["baseline"] == f"{ago(28):%Y-%m-%dT%H:%M:%SZ}"
    assert telemetry["freshness"]["rows"] == telemetry["freshness"]["rows_before"] == ASSETS
    assert [site["rows"] for site in telemetry["sites"]] == [ASSETS // SITES] * SITES
    assert all(0 <= site["source_age_seconds"] < 3600 for site in telemetry["sites"])


def test_a_small_fleet_is_not_alarmed_by_chance() -> None:
    """Samples of one distribution: 40 assets differ by far more than 0.3, and never by more than chance explains."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        before, now = (pa.chunked_array([rng.normal(size=40)]) for _ in range(2))
        drift = compared(before, now)
        assert drift.psi < drift.of_chance(40, 40)
    shifted = compared(before, pa.chunked_array([rng.normal(3, size=40)]))
    assert shifted.psi > shifted.of_chance(40, 40)


def test_quiet_days_of_the_demo_fleet_raise_nothing(
    postgres: PostgresServer, clickhouse_directory: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its autumn with storms, failures, late telemetry and all the dirt. Its last day is the demo's own."""
    ensure_database(postgres.admin_url, "report_fleet", "dcmms")
    end = datetime(2025, 12, 1, tzinfo=UTC)
    url, dsn = postgres.url("dcmms", "report_fleet"), f"chdb://{clickhouse_directory}"
    load_fleet(url, dsn, generate(assets=40, days=170, end=end))
    settings = Settings(_env_file=None, database_url=url, clickhouse_dsn=dsn, feature_data_dir=data.parent / "fleet")
    monkeypatch.setenv("FEATURE_DATA_DIR", str(settings.feature_data_dir))
    days = (0, 9, 18, 27)
    instants = sorted(end - timedelta(days=day + before) for day in days for before in (0, 28))
    backfill(settings, instants, list(VIEWS))
    for day in days:
        answer = report(as_of=f"{end - timedelta(days=day):%Y-%m-%dT%H:%M:%SZ}")
        assert said(answer) == []
        assert all(feature["psi"] is not None for feature in features_of(answer).values())


# What drifts ------------------------------------------------------------------------------------------------------


def some(values: Values, share: float, value: object) -> Values:
    """Return the values with one in place of a share of them, evenly chosen."""
    chosen = np.arange(len(values)) % 100 < share * 100
    return np.where(chosen, value, values)


DRIFTS: dict[str, tuple[str, str, Callable[[Values], Values], str]] = {
    "null rise": (
        "asset_features",
        "manufacturer",
        lambda values: some(values, 0.25, None),
        r"manufacturer is NULL in 2\d % of assets, 5 % before",
    ),
    "category shift": (
        "asset_features",
        "asset_type",
        lambda values: some(values, 0.5, "Vestas"),
        r"asset_type is Vestas in \d\d % of assets, 20 % before",
    ),
    "new value": (
        "asset_features",
        "model",
        lambda values: some(values, 0.1, "X-9000"),
        r"model has a value that it never had before in 10 % of assets, such as X-9000",
    ),
    "scale shift": (
        "asset_features",
        "mttr_hours",
        lambda values: np.array([value and value * 1.5 for value in values], dtype=object),
        r"the middle half of mttr_hours is \d\d(\.\d)? to \d\d(\.\d)? hours, \d\d(\.\d)? to \d\d(\.\d)? before",
    ),
    "wrong unit": (
        "telemetry_features",
        "rolling_avg_power_7d",
        lambda values: np.array([value and value * 1000 for value in values], dtype=object),
        r"the median of rolling_avg_power_7d is \d\d,\d{3} kW, \d\d\.\d before, when all were ",
    ),
    "constant": (
        "telemetry_features",
        "anomaly_count_30d",
        lambda values: np.full(len(values), 3, dtype=object),
        r"anomaly_count_30d is 3 in every asset that has one; there were \d+ different values before",
    ),
    "comes and goes": (
        "work_order_features",
        "wo_completion_rate_30d",
        lambda values: some(values, 0.6, None),
        r"wo_completion_rate_30d is NULL in \d\d % of assets, 5 % before",
    ),
}


@pytest.mark.parametrize("kind", DRIFTS)
def test_a_planted_drift_is_found_and_nothing_else(data: Path, kind: str) -> None:
    view, name, made, sentence = DRIFTS[kind]
    change(data, view, with_values(name, made))
    answer = report("--view", view, exit_code=1)
    (text,) = said(answer)
    assert re.match(sentence, text), text
    assert said(answer, "warning") == []
    assert features_of(answer)[f"{view}:{name}"]["level"] == "alarm"


def test_a_smaller_drift_warns_only(data: Path) -> None:
    change(data, "asset_features", with_values("manufacturer", lambda values: some(values, 0.08, None)))
    (text,) = said(report(), "warning")
    assert re.match(r"manufacturer is NULL in 1\d % of assets, 5 % before", text)


def test_rows_that_vanish_are_found_by_view_and_by_site(data: Path) -> None:
    lost = [str(asset_key(number)) for number in range(ASSETS) if number % SITES < 8]
    change(data, "alarm_features", lambda rows: rows.filter(pc.invert(pc.is_in(rows["asset_id"], pa.array(lost)))))
    answer = report("--view", "alarm_features", exit_code=1)
    site = str(asset_key(901))
    assert said(answer)[0] == "alarm_features has 440 rows, 600 before: 27 % are gone"
    assert f"alarm_features has no row of site {site} any more, 20 before" in said(answer)


def test_a_view_without_a_row_is_found(data: Path, tmp_path: Path) -> None:
    change(data, "telemetry_features", lambda rows: rows.slice(0, 0))
    page = tmp_path / "report.html"
    sentences = said(report("--view", "telemetry_features", "--html", str(page), exit_code=1))
    assert sentences[0] == "telemetry_features has 0 rows, 600 before: 100 % are gone"
    assert len(sentences) == 1 + SITES
    assert "no rows" in page.read_text()


def test_what_is_old_is_found(data: Path) -> None:
    (text, *others) = said(report("--view", "asset_features", as_of=f"{ago(hours=-3):%Y-%m-%dT%H:%M:%SZ}", exit_code=1))
    assert text == "the newest snapshot of asset_features is 3 h 0 min old: runs fail, or do not come"
    assert others == []
    silent = np.arange(ASSETS) % SITES == 4

    def older(values: Values) -> Values:
        return np.where(silent, 30.0 + np.arange(ASSETS) % 7, values)

    change(data, "telemetry_features", with_values("hours_since_last_telemetry", older))
    answer = report("--view", "telemetry_features", exit_code=1)
    site = str(asset_key(904))
    assert f"the newest data of site {site} in telemetry_features is 1 d 6 h old" in said(answer)


def test_rows_set_aside_are_named(data: Path) -> None:
    change(
        data,
        "asset_features",
        lambda rows: with_set_aside(rows.slice(2), pa.chunked_array([rows["asset_id"][:2].to_pylist()])),
    )
    (text,) = said(report("--view", "asset_features"), "warning")
    assert text.startswith("2 rows of asset_features are set aside: quarantine/asset_features/20260311T100000Z.parquet")


# What is compared with what ---------------------------------------------------------------------------------------


def test_weather_is_compared_with_the_same_season_where_a_year_is_kept(data: Path) -> None:
    """A hot summer is no drift against the last one; without a year it is a warning, since nobody can tell."""
    name = "rolling_avg_temperature_7d"
    a_year_ago = T - timedelta(days=364)

    def hotter(values: Values) -> Values:
        return np.array([None if value is None else value + 150 for value in values], dtype=object)

    change(data, "telemetry_features", with_values(name, hotter))
    answer = report("--view", "telemetry_features")
    assert said(answer, "warning")[0].startswith(f"the middle half of {name} is 1")
    write_snapshot(made_up("telemetry_features", a_year_ago, 99), snapshot_path(data, "telemetry_features", a_year_ago))
    assert said(report("--view", "telemetry_features", exit_code=1))[0].startswith(f"the middle half of {name} is 1")
    change(data, "telemetry_features", with_values(name, hotter), a_year_ago)
    answer = report("--view", "telemetry_features")
    assert answer["findings"] == []
    features = features_of(answer)
    assert features[f"telemetry_features:{name}"]["baseline"] == f"{a_year_ago:%Y-%m-%dT%H:%M:%SZ}"
    assert features["telemetry_features:anomaly_count_7d"]["baseline"] == f"{ago(28):%Y-%m-%dT%H:%M:%SZ}"


def test_a_baseline_of_ones_own_and_one_that_is_younger_than_usual(data: Path) -> None:
    change(data, "asset_features", with_values("model", lambda values: some(values, 0.3, "X-9000")), ago(7))
    view = ("--view", "asset_features")
    assert said(report(*view)) == []
    sentences = said(report(*view, "--baseline", f"{ago(6):%Y-%m-%d}", exit_code=1))
    assert re.match(r"model is X-9000 in 0 % of assets, 30 % before", sentences[0])
    shutil.rmtree(data / "asset_features" / f"snapshot_date={ago(28):%Y-%m-%d}")
    notes = report(*view)["notes"]
    assert any(
        "is compared with 2026-02-18T10:00:00Z: no snapshot as of 2026-02-11T10:00:00Z is kept" in n for n in notes
    )
    answer = report(*view, as_of=f"{ago(21):%Y-%m-%dT%H:%M:%SZ}")
    assert "asset_features is compared with nothing: no earlier snapshot is kept" in answer["notes"]
    assert features_of(answer)["asset_features:model"]["psi"] is None


def test_a_feature_that_is_new_or_of_another_type_is_not_compared(data: Path) -> None:
    def older(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index("mttr_hours")
        kept = rows.drop_columns(["model"])
        return kept.set_column(place, "mttr_hours", kept["mttr_hours"].cast(pa.float64()))

    change(data, "asset_features", older, ago(28))
    answer = report("--view", "asset_features")
    features = features_of(answer)
    assert features["asset_features:model"]["psi"] is features["asset_features:mttr_hours"]["psi"] is None
    assert features["asset_features:model"]["null_rate"] == pytest.approx(0.05)
    assert "asset_features: mttr_hours is not compared, its type was double" in answer["notes"]


def test_compacted_files_tell_the_same(data: Path) -> None:
    """A group of rows of theirs may hold one snapshot or several, or two of them a part of one."""
    change(data, "asset_features", with_values("model", lambda values: some(values, 0.3, None)), ago(14))
    before = report("--view", "asset_features")
    moments = course(data, "asset_features", ago(28), T)
    files = len(list(data.rglob("*.parquet")))
    compact(data, "asset_features", T)
    assert len(list(data.rglob("*.parquet"))) < files
    assert course(data, "asset_features", ago(28), T) == moments
    assert moments[ago(14)].rate("model") > 0.3
    assert report("--view", "asset_features") == before


# Runs, and what is online ------------------------------------------------------------------------------------------


@pytest.fixture
def store(
    data: Path, postgres: PostgresServer, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FeatureStore]:
    """A feature store whose asset_features of a week ago are online, by a run that is in the ledger."""
    path = write_feature_store_yaml(tmp_path, postgres, redis, f"feast_report_{uuid.uuid4().hex}")
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
    apply_definitions(path, data)
    with open_feature_store(path) as store:
        publish(store, "asset_features", ago(7), snapshot_path(data, "asset_features", ago(7)))
        record(store, ago(7), published=True)
        yield store


def record(store: FeatureStore, as_of: datetime, **result: object) -> None:
    """Put a run with asset_features into the ledger."""
    run = Run(as_of, ["asset_features"])
    run.results["asset_features"] = ViewResult("asset_features", rows=ASSETS, **result)
    with recorded(store, run):
        pass


def test_runs_and_online_values_are_looked_at(data: Path, store: FeatureStore, tmp_path: Path) -> None:
    week_ago = ("--view", "asset_features")
    as_of = f"{ago(7, hours=-1):%Y-%m-%dT%H:%M:%SZ}"
    answer = report(*week_ago, as_of=as_of)
    assert answer["findings"] == []
    assert [(run["outcome"], run["as_of"]) for run in answer["runs"]] == [("done", f"{ago(7):%Y-%m-%dT%H:%M:%SZ}")]
    (view,) = answer["views"]
    assert view["freshness"] | {"asked": 90, "missing": 0, "online_age_seconds": 3600} == view["freshness"]
    assert [site["asked"] for site in view["sites"]] == [3] * SITES

    record(store, T, error="the disk is full", implausible={"health_score": 4})
    answer = report(*week_ago, exit_code=1)
    assert said(answer) == [
        "what is online of asset_features is 7 d 0 h old, its newest snapshot 0.0 s",
        "asset_features failed in the run as of 2026-03-11T10:00:00Z",
    ]
    assert said(answer, "warning") == ["health_score is not plausible in 4 rows of the run as of 2026-03-11T10:00:00Z"]
    record(store, T, error="they differ", compared=200, inconsistent=3)
    Ledger(store).compared(
        T, {"asset_features": {"instants": 2, "values": 90, "differ": 9, "worst": "model", "worst_share": 0.6}}
    )
    page = tmp_path / "report.html"
    answer = report(*week_ago, "--html", str(page), exit_code=1)
    wrong = "3 of 200 values of asset_features that were read back are not those of the snapshot"
    assert f"{wrong}, in the run as of 2026-03-11T10:00:00Z" in said(answer)
    assert said(answer, "warning") == ["60 % of the values of model were served otherwise than they are known now"]
    told = "asset_features: 10 % of what was served until 2026-03-11 10:00 differs now, most of model: 60 %"
    assert told in page.read_text()
    address = store.config.online_store.connection_string.split(",")[0]
    with closing(redis_client.Redis.from_url(f"redis://{address}")) as client:
        client.flushall()
    missing = "90 of 90 assets of asset_features that were looked for are not online"
    assert missing in said(report(*week_ago, as_of=as_of, exit_code=1))
    assert "alarm_features was never published" in report("--view", "alarm_features")["notes"]


# How it is told ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The tags of a page that are open, all that are there, and the addresses that they name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(data: Path, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    change(data, "asset_features", with_values("model", lambda values: some(values, 0.4, hostile)))
    file = tmp_path / "report.html"
    result = invoke("report", "--as-of", AS_OF, "--html", str(file))
    assert result.exit_code == 1, result.output
    text = file.read_text()
    assert len(text) < 500_000
    page = Page(text)
    assert page.open == []
    count = sum(len(view.features) for view in VIEWS.values())
    rows = [attributes for tag, attributes in page.tags if attributes.get("class") == "feature"]
    assert len(rows) == count
    assert [int(row["data-rank"]) for row in rows] == list(range(count))
    assert rows[0]["data-name"] == "model asset_features"
    assert sum(attributes.get("class") == "histogram" for _, attributes in page.tags) == count
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("href", "src")]
    assert addresses == ["data:,"]
    assert "alert(1)" in text and hostile not in text


def test_the_table_names_the_worst_first(data: Path) -> None:
    for name in ("manufacturer", "asset_type"):
        change(data, "asset_features", with_values(name, DRIFTS["category shift"][2]))
    result = invoke("report", "--as-of", AS_OF)
    assert result.exit_code == 1
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == "Features as of 2026-03-11 10:00:00 UTC: 2 alarms, 0 warnings"
    assert {line.split()[1] for line in lines[1:3]} == {"manufacturer", "asset_type"}
    worst = lines[lines.index("Features, the worst first") + 4 :]
    assert {line.split()[0] for line in worst[:2]} == {"manufacturer", "asset_type"}
    quiet = invoke("report", "--as-of", AS_OF, "--quiet")
    assert quiet.stdout == ""
    assert sorted(line.split(" ", 2)[2] for line in quiet.stderr.splitlines()) == sorted(
        f"ERROR {line.removeprefix('alarm   ')}" for line in lines[1:3]
    )
    as_json = invoke("report", "--as-of", AS_OF, "--log-format", "json")
    messages = [json.loads(line)["message"] for line in as_json.stderr.splitlines()]
    assert (as_json.stdout, len(messages)) == ("", 2)


def test_metrics_tell_the_same(data: Path, tmp_path: Path) -> None:
    change(data, "asset_features", with_values("manufacturer", DRIFTS["null rise"][2]))
    file = tmp_path / "report.prom"
    answer = report("--metrics-file", str(file), exit_code=1)
    samples = dict(line.rsplit(" ", 1) for line in file.read_text().splitlines() if not line.startswith("#"))
    one = features_of(answer)["asset_features:manufacturer"]
    labels = '{feature="manufacturer",view="asset_features"}'
    assert float(samples[f"feature_store_report_psi{labels}"]) == pytest.approx(one["psi"], abs=1e-4)
    assert float(samples[f"feature_store_report_null_ratio{labels}"]) == pytest.approx(one["null_rate"], abs=1e-4)
    found = {name for name, value in samples.items() if "_findings{" in name and float(value)}
    assert found == {'feature_store_report_findings{kind="nulls",level="alarm",view="asset_features"}'}
    assert len(samples) < 2 * len(features_of(answer)) + 3 * SITES + 120


def test_bad_input_ends_in_one_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = "2020-01-01T00:00:00Z"
    for arguments, exit_code, says in (
        (["--as-of", empty], 1, f"There is no snapshot as of {empty} or before in "),
        (
            ["--as-of", AS_OF, "--baseline", "2026-01-01"],
            1,
            "There is no snapshot as of 2026-01-01T00:00:00Z or before",
        ),
        (["--as-of", AS_OF, "--baseline", "2026-03-12"], 64, "is not before --as-of"),
        (["--as-of", "soon"], 64, "soon is no ISO 8601 instant"),
        (["--view", "none"], 64, "none is unknown"),
        (["--as-of", AS_OF, "--html", str(tmp_path / "none" / "page.html")], 1, "page.html cannot be written: No such"),
    ):
        result = invoke("report", *arguments)
        assert (result.exit_code, len(result.stderr.splitlines())) == (exit_code, 1), result.output
        assert says in result.stderr


def test_a_snapshot_that_cannot_be_read_ends_in_one_line(data: Path) -> None:
    path = snapshot_path(data, "asset_features", T)
    content = bytearray(path.read_bytes())
    content[8 : len(content) // 2] = b"\0" * (len(content) // 2 - 8)
    path.write_bytes(content)
    result = invoke("report", "--as-of", AS_OF)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result.output
    assert f"A snapshot in {data} cannot be read: " in result.stderr


def test_a_damaged_snapshot_is_passed_over(data: Path) -> None:
    path = snapshot_path(data, "asset_features", ago(14))
    path.write_bytes(path.read_bytes()[:-8])
    answer = report("--view", "asset_features")
    assert answer["findings"] == []
    assert len(features_of(answer)["asset_features:model"]["null_course"]) == 4

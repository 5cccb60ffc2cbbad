"""What deploy/ holds for others' tools is what those tools take, and its alerts fire on the metrics of real runs."""

import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dev.servers import PostgresServer, RedisServer
from pipeline import REPOSITORY
from pipeline.base.views import VIEW_NAMES
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.lock import one_at_a_time
from tests.commands import invoke
from tests.dcmms import Dcmms, T, ago, bucket
from tests.stores import apply_definitions, use_settings, write_feature_store_yaml

DEPLOY = REPOSITORY / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
AS_OF = f"{T:%Y-%m-%dT%H:%M:%SZ}"
UNITS = sorted(path.name for path in (DEPLOY / "systemd").iterdir())
# One sample a minute, for so long.
HOURS = 25

Series = dict[str, float]


def tool(name: str) -> str:
    """Return the path of a program of the machine; without it the test is passed over."""
    return shutil.which(name) or pytest.skip(f"{name} is not installed: `make deploy-tools` does it on Debian")


@pytest.fixture
def variant() -> str:
    return "n"


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_unit(unit: str, tmp_path: Path) -> None:
    """Of unknown keys it only warns, so it must not say anything."""
    shutil.copytree(DEPLOY / "systemd", tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*.service"):  # the programs are not there before the installation
        path.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", path.read_text()))
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", tmp_path / unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.endswith(".service")])
def test_units_run_commands_that_exist(unit: str) -> None:
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", (DEPLOY / "systemd" / unit).read_text())
    if "materialize_features.py" in command:
        options = command.split("materialize_features.py ")[1].split()
        assert "Invalid value for '--as-of'" in invoke(*options, "--as-of", "soon").stderr
    else:
        assert "feast serve " in command or " -m gateway" in command


def test_logrotate_takes_its_rules(tmp_path: Path) -> None:
    text = (DEPLOY / "logrotate").read_text().replace("/var/log/dcmms-feature-store", str(tmp_path))
    rules = tmp_path / "rules"
    rules.write_text(text.replace("0640 dcmms-features dcmms-features", "0640"))
    rules.chmod(0o644)
    (tmp_path / "materialize.log").write_text("{}\n")
    logrotate = [tool("logrotate"), "--force", "--state", str(tmp_path / "state"), str(rules)]
    subprocess.run(logrotate, capture_output=True, text=True, check=True)
    assert (tmp_path / "materialize.log.1").read_text() == "{}\n"


@pytest.fixture
def metrics(
    dcmms: Dcmms, postgres: PostgresServer, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Series]:
    """Metrics of a good run, of one that failed, of one that the gate held back, and of one that found another busy."""
    path = write_feature_store_yaml(tmp_path, postgres, redis, f"feast_deploy_{uuid.uuid4().hex}")
    assets = [dcmms.asset(number) for number in range(1, 7)]
    dcmms.buckets(*[bucket(assets[0], "power_kw", ago(hours=hour), 100.0 + hour) for hour in range(1, 169)])
    use_settings(monkeypatch, dcmms.settings, path)
    apply_definitions(path, dcmms.settings.feature_data_dir)

    def run(code: int, *options: str) -> Series:
        file = tmp_path / "features.prom"
        assert invoke("--as-of", AS_OF, "--metrics-file", str(file), *options).exit_code == code
        return series(file)

    day_before = "2026-03-10T10:00:00Z"
    assert invoke("backfill", "--start", day_before, "--end", AS_OF).exit_code == 0
    found = {"good": run(0)}
    page = tmp_path / "report.prom"
    assert invoke("report", "--as-of", AS_OF, "--metrics-file", str(page)).exit_code == 0
    found["report"] = series(page)
    with dcmms.postgres.cursor() as cursor:
        cursor.execute("delete from assets where id = any(%s::uuid[])", ([str(asset) for asset in assets[2:]],))
    dcmms.postgres.commit()
    found["held back"] = run(2, "--view", "asset_features", "--as-of", "2026-03-11T11:00:00Z")
    with open_feature_store() as store, one_at_a_time(store):
        found["busy"] = run(75)
    skew = tmp_path / "skew.prom"
    now = datetime.now(UTC)
    hours = ("--start", (now - timedelta(hours=1)).isoformat(), "--end", (now + timedelta(hours=1)).isoformat())
    assert invoke("--no-online", "--accept-drop", "--view", "work_order_features").exit_code == 0
    dcmms.work_order(assets[0], now - timedelta(days=2))
    assert invoke("skew", *hours, "--quiet", "--metrics-file", str(skew)).exit_code == 0
    found["skew"] = series(skew)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    found["failed"] = run(1)
    return found


def series(path: Path) -> Series:
    """Return the samples of a metrics file as if the run had ended 20 s after its instant, and that were second 0."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            labels = ", ".join(f'{name}="{value}"' for name, value in sample.labels.items())
            value = sample.value
            if "_timestamp_" in sample.name:
                on_the_wall = sample.name.endswith(("finished_timestamp_seconds", "success_timestamp_seconds"))
                value = 20 if on_the_wall else value - T.timestamp()
            found[f"{sample.name}{{{labels}}}"] = value
    return found


def firing(series: Series, at: str, tmp_path: Path, *expected: str) -> None:
    """Have promtool find exactly the `expected` alerts firing, each with its view or instance after a blank."""
    samples = [
        {"labels": f'{{alertname="{name}"{label}}}', "value": 1}
        for name, label in (
            (alert.split()[0], f', view="{alert.split()[1]}"' if " " in alert else "") for alert in expected
        )
    ]
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": f"{value:.3f}x{HOURS * 60}"} for name, value in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname, view) (ALERTS{alertstate="firing"})',
                        "eval_time": at,
                        "exp_samples": samples,
                    }
                ],
            }
        ],
    }
    path = tmp_path / f"{uuid.uuid4().hex}.yml"
    path.write_text(yaml.safe_dump(test, width=1000))
    done = subprocess.run([tool("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_on_the_metrics_of_real_runs(metrics: dict[str, Series], tmp_path: Path) -> None:
    def each(alert: str, views: Iterable[str] = VIEW_NAMES) -> list[str]:
        return [f"{alert} {view}" for view in views]

    firing(metrics["good"], "1h", tmp_path)
    gone = [*each("FeatureViewStale"), "FeatureRunMissing"]
    firing(metrics["good"], "2h15m", tmp_path, *gone)
    firing(metrics["good"], "7h", tmp_path, *gone, "FeatureSourceStale telemetry_features")
    firing({}, "15m", tmp_path, "FeatureRunMissing")
    firing(metrics["held back"], "5m", tmp_path, "FeatureViewHeldBack asset_features")
    firing(metrics["failed"], "5m", tmp_path, "FeatureRunFailed")
    firing(metrics["busy"], "5m", tmp_path)
    busy = {name: value + 7000 * ("_timestamp_" in name) for name, value in metrics["busy"].items()}
    firing(busy, "2h5m", tmp_path, "FeatureRunsCollide")

    good = metrics["good"]
    set_aside = good | {'feature_store_view_rejected_rows{view="asset_features"}': 2}
    firing(later(set_aside, 3 * 3600), "3h5m", tmp_path, "FeatureRowsSetAside asset_features")
    implausible = good | {'feature_store_view_implausible_rows{view="asset_features", feature="mttr_hours"}': 2}
    firing(later(implausible, 3 * 3600), "3h5m", tmp_path, "FeatureValuesImplausible asset_features")
    inconsistent = good | {'feature_store_view_inconsistent_values{view="asset_features"}': 2}
    assert inconsistent.keys() == good.keys()
    firing(inconsistent, "1m", tmp_path, "FeatureValuesInconsistent asset_features")
    on_hold = good | {'feature_store_view_outcome{view="asset_features", feature_store_view_outcome="on hold"}': 1}
    firing(later(on_hold, 24 * 3600), "24h5m", tmp_path, "FeatureViewOnHold asset_features")
    firing(later(good, 3600), "1m", tmp_path, *each("FeatureViewFromTheFuture"))
    watched = good | {name: value for name, value in metrics["report"].items() if "_psi{" not in name}
    firing(watched, "1h", tmp_path)
    kinds = {"drift": "FeatureDrifted", "nulls": "FeatureNullsRisen", "rows": "FeatureRowsVanished"}
    found = {
        f'feature_store_report_findings{{kind="{kind}", level="alarm", view="asset_features"}}': 2 for kind in kinds
    }
    assert found.keys() <= watched.keys()
    firing(watched | found, "1m", tmp_path, *(f"{alert} asset_features" for alert in kinds.values()))
    ages = {"report_newest_source": 48 * 3600, "report_finished": 26 * 3600}
    old = {name: value - sum(age for part, age in ages.items() if part in name) for name, value in watched.items()}
    firing(old, "1h30m", tmp_path, "FeatureSiteSilent telemetry_features", "FeatureReportMissing")
    counted = 'feature_store_skew_ratio{feature="wo_count_7d", view="work_order_features"}'
    assert metrics["skew"][counted] == 0.5, "of the two assets that are left one has a work order more"
    firing(good | metrics["skew"] | {counted: 0.5}, "1m", tmp_path)
    firing(good | metrics["skew"] | {counted: 0.51}, "1m", tmp_path, "FeatureSkewed work_order_features")
    disk = {
        f'node_filesystem_{name}_bytes{{mountpoint="/var/lib/dcmms-feature-store"}}': size
        for name, size in (("avail", 9), ("size", 100))
    }
    firing(good | disk, "15m", tmp_path, "FeatureDiskFull")
    firing(good | {"node_timex_offset_seconds": -3, "node_timex_sync_status": 1}, "15m", tmp_path, "FeatureClockDrift")
    firing(good | {"node_timex_offset_seconds": 0, "node_timex_sync_status": 0}, "15m", tmp_path, "FeatureClockDrift")


def later(series: Series, seconds: float) -> Series:
    """Return the samples as of a run so much later."""
    return {name: value + seconds * ("_timestamp_" in name) for name, value in series.items()}


def test_each_alert_and_exit_code_has_its_entry_in_the_runbook() -> None:
    headings = re.findall(r"(?m)^### (.+)$", RUNBOOK.read_text())
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["alert"] in headings
    readme = (REPOSITORY / "README.md").read_text()
    table = readme[readme.index("| exit code | means |") :].split("\n\n")[0]
    codes = {code for row in table.splitlines()[2:] for code in re.findall(r"\d+", row.split("|")[1])}
    assert {f"Exit code {code}" for code in codes - {"0"}} <= set(headings)


def test_each_metric_is_documented_and_each_that_is_asked_for_exists(metrics: dict[str, Series]) -> None:
    written = {name.split("{")[0] for name in metrics["good"] | metrics["report"] | metrics["skew"]}
    assert set(re.findall(r"(?m)^\| `(feature_store_\w+)", RUNBOOK.read_text())) == written
    dashboard = (DEPLOY / "grafana" / "dashboard.json").read_text()
    asked = set(re.findall(r"feature_store_\w+(?=[\s{)\[])", ALERTS.read_text() + dashboard))
    assert asked and asked <= written
    panels = json.loads(dashboard)["panels"]
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)

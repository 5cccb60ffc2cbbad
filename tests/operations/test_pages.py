"""The page of `report` in a browser: Debian's chromium, headless. `make test-pages`."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dev.pages import CHROMIUM, screenshot
from tests.commands import invoke
from tests.dcmms import T
from tests.made_up_history import change, with_values, write_history
from tests.operations.test_report import DRIFTS

pytestmark = pytest.mark.skipif("PAGES" not in os.environ, reason="takes a browser: `make test-pages`")

# What a person does with the page; `TELL` is written where `--dump-dom` shows it.
USE = """
<script>
const said = [], shown = () => [...document.querySelectorAll(".feature:not([hidden])")];
const names = () => shown().map((each) => each.dataset.name);
said.push(["worst", names()[0]]);
for (const key of ["name", "nulls", "psi", "rank"]) {
  order.value = key;
  order.dispatchEvent(new Event("change"));
  said.push([key, names()[0]]);
}
search.value = "Mttr";
search.dispatchEvent(new Event("input"));
said.push(["search", names().join(",")]);
said.push(["sideways", String(document.documentElement.scrollWidth > window.innerWidth)]);
document.title = "TELL" + JSON.stringify(Object.fromEntries(said));
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a fleet in which several things are wrong."""
    folder = tmp_path_factory.mktemp("pages")
    write_history(folder / "data")
    for view, name, made, _ in DRIFTS.values():
        change(folder / "data", view, with_values(name, made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
        patch.setenv("FEAST_FS_YAML_FILE_PATH", "/nonexistent.yaml")
        patch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        patch.setenv("CLICKHOUSE_DSN", "http://127.0.0.1:1")
        patch.setenv("FEATURE_DATA_DIR", str(folder / "data"))
        result = invoke("report", "--as-of", f"{T:%Y-%m-%dT%H:%M:%SZ}", "--html", str(folder / "report.html"))
    assert result.exit_code == 1, result.output
    return folder / "report.html"


def dom(page: Path, width: int) -> tuple[str, str]:
    """Return the document as the browser has it once its scripts have run, and what it logs."""
    assert shutil.which(CHROMIUM), "apt install chromium"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--enable-logging=stderr", f"--window-size={width},900"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("width", [1100, 500])
def test_the_list_is_sorted_and_searched_without_an_error(page: Path, width: int) -> None:
    used = page.with_name("used.html")
    used.write_text(page.read_text().replace("</body>", f"{USE}</body>"))
    text, log = dom(used, width)
    assert "CONSOLE" not in log, log
    (said,) = re.findall(r"<title>TELL(.*?)</title>", text)
    assert said == (
        '{"worst":"anomaly_count_30d telemetry_features","name":"alarm_rule_risk_1d alarm_features",'
        '"nulls":"wo_completion_rate_30d work_order_features","psi":"anomaly_count_30d telemetry_features",'
        '"rank":"anomaly_count_30d telemetry_features","search":"mttr_hours asset_features","sideways":"false"}'
    )


def test_each_picture_has_a_size_and_stays_on_the_page(page: Path) -> None:
    measure = """<script>
    const boxes = [...document.querySelectorAll("svg")].map((each) => each.getBoundingClientRect());
    const fits = (box) => box.width > 100 && box.height > 10 && box.right <= window.innerWidth;
    document.title = "TELL" + boxes.every(fits);
    </script>"""
    measured = page.with_name("measured.html")
    measured.write_text(page.read_text().replace("</body>", f"{measure}</body>"))
    for width in (1100, 500):
        assert "<title>TELLtrue</title>" in dom(measured, width)[0]


def test_light_dark_and_phone_are_three_pictures(page: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("light.png", "dark.png", "phone.png")]
    for picture, options in zip(pictures, ({}, {"dark": True}, {"width": 500}), strict=True):
        screenshot(page, picture, **options)
    sizes = [picture.stat().st_size for picture in pictures]
    assert min(sizes) > 10_000
    assert len({picture.read_bytes() for picture in pictures}) == 3

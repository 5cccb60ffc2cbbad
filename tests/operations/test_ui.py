"""Feast's pages on the definitions, in a browser: Debian's chromium, headless. `make test-pages`."""

import html
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.pages import CHROMIUM, screenshot
from dev.ui import PAGES, apply_to_a_file, feast_ui
from features.alarm_features import alarm_features
from features.services import predictive_maintenance_v2
from pipeline.base.specs import SERVICES, VIEWS

pytestmark = pytest.mark.skipif("PAGES" not in os.environ, reason="takes a browser: `make test-pages`")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with feast_ui(apply_to_a_file(tmp_path_factory.mktemp("ui"))) as url:
        yield url


def text(url: str) -> str:
    """Return the words of a page once its scripts have run."""
    assert shutil.which(CHROMIUM), "apt install chromium"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--virtual-time-budget=20000", "--dump-dom", url]
    dom = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", dom, flags=re.DOTALL)
    return " ".join(html.unescape(words).split())


def test_view_has_its_features_owner_meaning_and_services(url: str) -> None:
    said = text(url + PAGES["view"])
    view = VIEWS["asset_features"]
    assert f"Features ({len(view.features)})" in said
    for word in (
        *(field.name for field in view.features),
        *SERVICES,
        view.owner,
        view.description,
        *view.tags.values(),
    ):
        assert word in said


def test_feature_has_its_type_meaning_and_tags(url: str) -> None:
    (field,) = [field for field in VIEWS["asset_features"].features if field.name == "mttr_hours"]
    said = text(url + PAGES["feature"])
    for word in ("Float32", field.description, *field.tags.values()):
        assert word in said


def test_lineage_leads_from_snapshots_by_views_to_services(url: str) -> None:
    said = text(url + PAGES["lineage"])
    sources = [view.batch_source.name for view in VIEWS.values()]
    for name in (*sources, *VIEWS, *SERVICES, "asset"):
        assert name in said


def test_service_has_its_views_and_entities(url: str) -> None:
    said = text(url + PAGES["service"])
    features = sum(len(projection.features) for projection in predictive_maintenance_v2.feature_view_projections)
    for word in (f"Features {features}", f"Feature Views {len(VIEWS)}", alarm_features.name, "Entities asset"):
        assert word in said


def test_entity_has_its_key_and_views(url: str) -> None:
    said = text(url + PAGES["entity"])
    for word in ("asset_id", "assets.id of dCMMS", *VIEWS):
        assert word in said


def test_pages_draw_something(url: str, tmp_path: Path) -> None:
    pictures = [tmp_path / f"{name}.png" for name in PAGES]
    for picture in pictures:
        screenshot(url + PAGES[picture.stem], picture, width=1400, height=1000, seconds=20)
    assert min(picture.stat().st_size for picture in pictures) > 30_000
    assert len({picture.read_bytes() for picture in pictures}) == len(pictures)

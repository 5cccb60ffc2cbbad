"""The feature catalogue: docs/features.md is what the definitions say."""

import re

import pytest
from click.testing import CliRunner
from feast import Field

from features.fields import feature
from materialize_features import cli
from pipeline import REPOSITORY
from pipeline.base.specs import SERVICES, VIEWS

COMMITTED = (REPOSITORY / "docs" / "features.md").read_text(encoding="utf-8")
FIELDS = [(view, field) for view in VIEWS.values() for field in view.features]


def test_committed_catalogue_is_what_the_command_prints() -> None:
    result = CliRunner().invoke(cli, ["catalogue"])
    assert result.exit_code == 0
    assert result.stdout == COMMITTED, "run: python materialize_features.py catalogue > docs/features.md"


@pytest.mark.parametrize(("view", "field"), FIELDS, ids=[f"{view.name}:{field.name}" for view, field in FIELDS])
def test_catalogue_has_every_feature_under_its_view(view, field: Field) -> None:
    section = COMMITTED.split(f"\n## {view.name}\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith(f"| `{field.name}` |")]
    meaning, unit = re.fullmatch(r"(.+) \[(.+)\]", field.description).groups()
    kind, window, null = str(field.dtype), field.tags["window"], field.tags["null"]
    assert [row[:5] + row[6:] for row in cells] == [[f"`{field.name}`", kind, unit, window, null, meaning]]
    bounds = [field.tags[bound] for bound in ("at_least", "above", "at_most") if bound in field.tags]
    allowed, _, plausible = cells[0][5].partition("plausible ")
    assert re.findall(r"[\d.]+", allowed) == bounds
    likely = [field.tags[bound] for bound in ("plausible_at_least", "plausible_at_most") if bound in field.tags]
    assert re.findall(r"-?[\d.]+", plausible) == likely
    assert f"]({'../' + view.tags['sql']})" in section


def test_windows_are_those_of_the_names() -> None:
    for _, field in FIELDS:
        in_name = re.findall(r"(\d+)d", field.name)
        assert set(in_name) <= set(re.findall(r"(\d+) d", field.tags["window"])), field.name
        assert re.fullmatch(r"at T|all time|\d+ d(, \d+ d)*(, all time)?", field.tags["window"]), field.name


def test_a_feature_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="mean_power: no window in its name"):
        feature("mean_power", FIELDS[0][1].dtype, "kW", "Mean power")


def test_catalogue_names_links_and_counts_that_exist() -> None:
    links = re.findall(r"\]\(\.\./(.+?)\)", COMMITTED)
    assert set(links) == {*(view.tags["sql"] for view in VIEWS.values()), "features/failure_within_7d.sql"}
    assert all((REPOSITORY / link).is_file() for link in links)
    for service in SERVICES.values():
        section = COMMITTED.split(f"## Feature service {service.name}\n")[1].split("\n## ")[0]
        counts = re.findall(r"- (\d+) features of `(\w+)`", section)
        assert counts == [(str(len(p.features)), p.name) for p in service.feature_view_projections]

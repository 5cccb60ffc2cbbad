"""Data contracts: as the definitions and the SQL have them, of the standard, and snapshots held to them."""

import subprocess

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from dev.contracts import DATACONTRACT, broken_rules
from features.fields import range_of
from pipeline import REPOSITORY
from pipeline.base.specs import VIEWS, snapshot_schema
from pipeline.operations.contracts import contract_files
from tests.dcmms import T
from tests.made_up_history import made_up

FOLDER = REPOSITORY / "docs" / "contracts"


def test_contracts_are_those_of_the_definitions() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == contract_files(), "run `make docs`"


@pytest.mark.parametrize("name", ["dcmms_postgresql", "dcmms_clickhouse"])
def test_contracts_of_the_sources_are_of_the_standard(name: str) -> None:
    if not DATACONTRACT.exists():
        pytest.skip(f"{DATACONTRACT} is not installed: `make contracts` does it")
    command = [DATACONTRACT, "lint", FOLDER / f"{name}.odcs.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_has_its_type_null_and_range(view: str) -> None:
    (table,) = yaml.safe_load((FOLDER / f"{view}.odcs.yaml").read_text())["schema"]
    assert [column["name"] for column in table["properties"]] == snapshot_schema(view).names
    columns = {column["name"]: column for column in table["properties"]}
    for field in VIEWS[view].features:
        column, allowed = columns[field.name], range_of(field)
        assert column["required"] == (field.tags["null"] == "never")
        options = column.get("logicalTypeOptions", {})
        lowest = "minimum" if allowed.with_lowest else "exclusiveMinimum"
        assert (options.get(lowest, float("-inf")), options.get("maximum", float("inf"))) == allowed[:2]


def test_a_snapshot_that_breaks_its_contract_is_named() -> None:
    if not DATACONTRACT.exists():
        pytest.skip(f"{DATACONTRACT} is not installed: `make contracts` does it")
    view = "asset_features"
    rows = made_up(view, T, 0)
    assert broken_rules(view, rows) == []
    for name, value in (("health_score", 101), ("installed_capacity_kw", 0), ("tenant_id", None)):
        at = rows.schema.get_field_index(name)
        first = pa.array([True] + [False] * (len(rows) - 1))
        rows = rows.set_column(
            at, rows.schema.field(at), pc.if_else(first, pa.scalar(value, rows[name].type), rows[name])
        )
    broken = broken_rules(view, pa.concat_tables([rows, rows.slice(3, 1)]))
    assert sorted(rule.split(":")[0] for rule in broken) == [
        "asset_features",
        "health_score",
        "installed_capacity_kw",
        "tenant_id",
    ]

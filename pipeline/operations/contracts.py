"""Data contracts in the Open Data Contract Standard: a file per view, for whoever reads snapshots, and one per database
of dCMMS, for whoever changes its tables.

`python -m pipeline.operations.contracts docs/contracts` writes them.
"""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from feast import Field

from features.fields import NEVER
from pipeline import __version__
from pipeline.base.settings import TELEMETRY_TABLE
from pipeline.base.specs import SPECS, VIEWS, snapshot_schema
from pipeline.sources.schema import OPTIONAL_TABLES, TABLES, TELEMETRY, Column

ODCS_VERSION = "v3.1.0"
_HEAD = "# Generated: python -m pipeline.operations.contracts docs/contracts\n"
_LOGICAL_TYPES = {pa.string(): "string", pa.int32(): "integer", pa.float32(): "number", pa.float64(): "number"}
_PHYSICAL_TYPES = {pa.string(): "varchar", pa.int32(): "integer", pa.float32(): "float", pa.float64(): "double"}
_KEYS = {
    "asset_id": "The asset: assets.id as lower-case text",
    "event_timestamp": "The instant that the row is as of, in UTC",
    "created": "When the row was computed, in UTC",
}


def _named(name: str) -> dict[str, Any]:
    return {
        "apiVersion": ODCS_VERSION,
        "kind": "DataContract",
        "id": f"dcmms:{name}",
        "name": name,
        "version": __version__,
        "status": "active",
        "domain": "maintenance",
    }


def contract_of(view: str, path: str | None = None) -> dict[str, Any]:
    """Return the contract of the snapshots of `view`; `path` is where they are, by default below FEATURE_DATA_DIR."""
    definition, schema = VIEWS[view], snapshot_schema(view)
    ttl = definition.ttl
    return _named(view) | {
        "description": {
            "purpose": definition.description,
            "usage": "Training sets take of each asset the newest row at or before their own instant.",
            "limitations": (
                f"A row counts for {ttl.days} d. NULL is unknown, 0 is a measured zero." if ttl else "NULL is unknown."
            ),
        },
        "servers": [
            {
                "server": "snapshots",
                "type": "local",
                "path": path or f"data/{view}/snapshot_date=*/*.parquet",
                "format": "parquet",
            }
        ],
        "schema": [
            {
                "name": view,
                "logicalType": "object",
                "physicalType": "table",
                "description": f"One row per asset and instant, from {SPECS[view].engine}: {definition.tags['sql']}",
                "properties": [
                    *(_key(name, schema.field(name)) for name in _KEYS),
                    *(_property(field, schema.field(field.name).type) for field in definition.features),
                ],
                "quality": [
                    {
                        "type": "sql",
                        "description": "An asset has one row per instant",
                        "query": (f"select count(*) - count(distinct (asset_id, event_timestamp)) from {view}"),
                        "mustBe": 0,
                    }
                ],
            }
        ],
        "team": [{"username": definition.owner, "role": "owner"}],
        "slaProperties": [{"property": "frequency", "value": 1, "unit": "h", "element": f"{view}.event_timestamp"}],
    }


def _key(name: str, column: pa.Field) -> dict[str, Any]:
    is_text = pa.types.is_string(column.type)
    return {
        "name": name,
        "logicalType": "string" if is_text else "timestamp",
        "physicalType": "varchar" if is_text else "timestamp_tz",
        "description": _KEYS[name],
        "required": True,
    }


def _property(field: Field, kind: pa.DataType) -> dict[str, Any]:
    unit, tags = field.tags["unit"], field.tags
    options = {
        name: float(tags[tag])
        for name, tag in (("minimum", "at_least"), ("exclusiveMinimum", "above"), ("maximum", "at_most"))
        if tag in tags
    }
    return {
        "name": field.name,
        "logicalType": _LOGICAL_TYPES[kind],
        "physicalType": _PHYSICAL_TYPES[kind],
        "description": field.description.removesuffix(f" [{unit}]"),
        "required": tags["null"] == NEVER,
        **({"logicalTypeOptions": options} if options else {}),
        "customProperties": [{"property": name, "value": tags[name]} for name in ("unit", "window", "null")],
    }


def source_contract(name: str, tables: dict[str, dict[str, Column]]) -> dict[str, Any]:
    """Return the contract of what is read of a database of dCMMS: the SQL relies on it, and on nothing else."""
    return _named(name) | {
        "description": {
            "purpose": "The columns of dCMMS that features are computed from.",
            "usage": "`doctor` holds the database to it; pipeline/sources/schema.py declares it.",
            "limitations": "Of a property that is not required the SQL takes NULL for unknown.",
        },
        "schema": [
            {
                "name": table,
                "logicalType": "object",
                "physicalType": "table",
                **({"description": "Not every site has it."} if table in OPTIONAL_TABLES else {}),
                "properties": [_source(column, declared) for column, declared in columns.items()],
            }
            for table, columns in tables.items()
        ],
    }


def _source(name: str, column: Column) -> dict[str, Any]:
    valid = {"type": "library", "metric": "invalidValues", "arguments": {"validValues": [*column.values]}, "mustBe": 0}
    return {
        "name": name,
        "logicalType": column.kind.logical,
        "description": f"{column.kind.name[:1].upper()}{column.kind.name[1:]}",
        "required": not column.null,
        **({"quality": [valid]} if column.values else {}),
    }


def contract_text(view: str, path: str | None = None) -> str:
    """Return the file of `contract_of`, as YAML."""
    return _text(contract_of(view, path))


def _text(contract: dict[str, Any]) -> str:
    return _HEAD + yaml.safe_dump(contract, sort_keys=False, allow_unicode=True, width=120)


def contract_files() -> dict[str, str]:
    """Return the files of docs/contracts by their names."""
    sources = {"dcmms_postgresql": TABLES, "dcmms_clickhouse": {TELEMETRY_TABLE: TELEMETRY}}
    texts = {view: contract_text(view) for view in VIEWS}
    texts |= {name: _text(source_contract(name, tables)) for name, tables in sources.items()}
    return {f"{name}.odcs.yaml": text for name, text in texts.items()}


if __name__ == "__main__":
    for file_name, text in contract_files().items():
        (Path(sys.argv[1]) / file_name).write_text(text, encoding="utf-8")

#!/usr/bin/env python
"""Copy snapshots into ClickHouse, a table per view, for Feast's ClickHouse offline store.

    export FEAST_FS_YAML_FILE_PATH=/opt/dcmms-feature-store/deploy/feature_store.clickhouse.yaml
    python deploy/snapshots_to_clickhouse.py

After each run, backfill or revision: an instant that the table has as it is stays, one that was computed again is
replaced. Tables and columns that are missing are made, as MergeTree; where a table is there, of whatever engine, its
rows are taken for snapshots. The user needs CREATE TABLE, ALTER, INSERT, SELECT and DELETE in the database of the yaml.
"""

import sys
from datetime import datetime
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from feast.infra.utils.clickhouse.clickhouse_config import ClickhouseConfig
from feast.infra.utils.clickhouse.connection_utils import get_client

from pipeline.base.errors import PipelineError, first_line
from pipeline.base.settings import load_settings
from pipeline.base.specs import VIEWS, snapshot_schema
from pipeline.registry.feast_store import load_store_config
from pipeline.snapshots.files import read_snapshot, snapshot_instant, snapshots

_TYPES = {pa.string(): "String", pa.int32(): "Int32", pa.float32(): "Float32", pa.float64(): "Float64"}


@click.command()
def main() -> None:
    """Copy what is new of all views."""
    try:
        store = load_store_config().offline_store
        if not isinstance(store, ClickhouseConfig):
            raise PipelineError("the offline store is not ClickHouse: see deploy/feature_store.clickhouse.yaml")
        data_dir, client = load_settings().snapshots, get_client(store)
        for view in VIEWS:
            _make_table(client, view)
            copied = [snapshot_instant(path) for path in snapshots(data_dir, view) if _copy(client, view, path)]
            click.echo(f"{view}: {len(copied)} instants copied")
    except (PipelineError, ClickHouseError) as error:
        raise click.ClickException(first_line(error)) from None


def _make_table(client: Client, view: str) -> None:
    columns = {field.name: _type(field) for field in snapshot_schema(view)}
    client.command(
        f"create table if not exists {view} ({', '.join(f'`{name}` {kind}' for name, kind in columns.items())})"
        " engine = MergeTree partition by toYYYYMM(event_timestamp) order by (asset_id, event_timestamp)"
    )
    for name, kind in columns.items():
        client.command(f"alter table {view} add column if not exists `{name}` {kind}")


def _type(field: pa.Field) -> str:
    kind = "DateTime64(6, 'UTC')" if pa.types.is_timestamp(field.type) else _TYPES[field.type]
    return f"Nullable({kind})" if field.nullable else kind


def _copy(client: Client, view: str, path: Path) -> bool:
    """Copy a snapshot unless the table has it as it is; return whether it did."""
    instant = snapshot_instant(path)
    created = read_snapshot(path, ["created"])["created"]
    if not len(created) or created[0].as_py() == (held := _created(client, view, instant)):
        return False
    client.insert_arrow(view, read_snapshot(path).select(snapshot_schema(view).names))
    if held:  # also rows of entities that the new one does not have
        where = "event_timestamp = {instant:DateTime64(6, 'UTC')} and created < {created:DateTime64(6, 'UTC')}"
        client.command(f"delete from {view} where {where}", {"instant": instant, "created": created[0].as_py()})
    return True


def _created(client: Client, view: str, instant: datetime) -> datetime | None:
    """Return when the rows of an instant in the table were computed, None where there are none."""
    sql = f"select max(created) from {view} where event_timestamp = {{instant:DateTime64(6, 'UTC')}} having count() > 0"
    rows = client.query(sql, {"instant": instant}, tz_mode="aware").result_rows
    return rows[0][0] if rows else None


if __name__ == "__main__":
    main()

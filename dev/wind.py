"""A real wind farm in dCMMS's tables: La Haute Borne, 4 Senvion MM82, 2014 and 2015, every 10 minutes.

Source: "La Haute Borne" open data by ENGIE (https://opendata-renewables.engie.com), Etalab's Open Licence 2.0
(https://www.etalab.gouv.fr/wp-content/uploads/2018/11/open-licence.pdf), as packed into the wheel of OpenOA
3.2 (`examples/data/la_haute_borne.zip`). The wheel is downloaded, never installed or imported.

What is loaded, and how:

- The file has the 10-minute averages only. A record becomes one bucket per metric (`P_avg` → `power_kw`,
  `Ot_avg` → `temperature_c`) with `count` 1, `stddev_value` 0, and the average as sum, minimum, maximum and
  percentiles. An empty record becomes a bucket with `count` 0 and NaN: that is what an aggregator writes that
  ran without samples, and the feature store has to leave it out.
- `Date_time` is taken at its word, offset included, as the start of the 10 minutes. The file does not say
  which end it is; its first stamp is 00:00 UTC and its last one 23:50, as starts are. `plant_data.csv` of the
  same archive cannot decide it: that is the turbines' sum at the same stamps (correlation 0.99998; one record
  to either side 0.979), so it was made from them.
- Twelve stamps per turbine are doubled at the clock changes in spring, each with two different records, and
  twelve are missing in autumn. Both records of a doubled stamp are loaded: dCMMS ingests at least once, too.
  (The clock behind the stamps hardly ever changed: against the ERA5 winds of the archive they are 57 minutes
  early in winter and 120 in summer. The export probably took UTC for French time.)
- Temperatures below the coldest ever measured on Earth come from a broken sensor: these readings are dropped.
- The source has neither work orders nor alerts nor installation dates, and none are made up.
"""

from __future__ import annotations

import io
import logging
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import click
import clickhouse_connect
import numpy as np
import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.dataset as ds
from psycopg2.extras import Json, execute_values
from rich import box
from rich.table import Table

from dev.demo import demo_environment
from dev.schema import create_clickhouse_schema, create_postgres_schema
from dev.separate_store import SeparateStore
from dev.stack import REPOSITORY, LocalStack, ensure_database
from dev.steps import console, run_command, run_step

logger = logging.getLogger(__name__)

ATTRIBUTION = "La Haute Borne wind farm, data by ENGIE, Open Licence 2.0 (Etalab), by way of OpenOA 3.2"

BUCKET_MINUTES = 10
AS_OF = (datetime(2015, 7, 1, tzinfo=UTC), datetime(2016, 1, 1, tzinfo=UTC))
"""The demo's instants: the middle and the end of the data's second year."""

DATABASE = "dcmms_wind"
REDIS_DATABASE = 1
DOWNLOADS = REPOSITORY / ".local" / "wind"

COLDEST_ON_EARTH_C = -89.2
"""Lowest air temperature ever measured near the ground (Vostok, 1983; WMO extremes archive)."""

_REQUIREMENT = "openoa==3.2"
_WHEEL_PATTERN = "openoa-3.2-*.whl"
_ARCHIVE = "examples/data/la_haute_borne.zip"
_SCADA = "la-haute-borne-data-2014-2015.csv"
_ASSET_TABLE = "la-haute-borne_asset_table.csv"
_METRICS = {"P_avg": "power_kw", "Ot_avg": "temperature_c"}

_NAMESPACE = UUID("6f1b0a52-3d5e-5f0e-9d52-5f1c3b0c2a11")
TENANT_ID = uuid5(_NAMESPACE, "tenant")
SITE_ID = uuid5(_NAMESPACE, "site")
_CREATED = datetime(2013, 12, 1)  # noqa: DTZ001 (variant n keeps UTC without a zone)


def asset_id(turbine: str) -> UUID:
    """The `assets.id` of a turbine, from its name in the source, e.g. ``R80711``."""
    return uuid5(_NAMESPACE, turbine)


def download(directory: Path = DOWNLOADS) -> Path:
    """Return the OpenOA wheel in `directory`, downloaded by pip (54 MB) unless it is there already.

    Raises `click.ClickException` with pip's own reason if that fails.
    """
    if not (wheel := _wheel_in(directory)):
        words = ("download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--dest")
        pip = [sys.executable, "-m", "pip", *words, str(directory), _REQUIREMENT]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if not (wheel := _wheel_in(directory)):
            reason = (done.stderr.strip().splitlines() or ["it did not say why"])[-1]
            raise click.ClickException(f"pip cannot download {_REQUIREMENT}, the wind farm's data: {reason}")
    return wheel


def _wheel_in(directory: Path) -> Path | None:
    return next(directory.glob(_WHEEL_PATTERN), None)


def read_files(wheel: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the archive's SCADA records and its asset table, columns as in the files, nothing changed.

    Raises `click.ClickException` if the wheel is damaged or does not hold them.
    """
    try:
        with (
            zipfile.ZipFile(wheel) as outer,
            zipfile.ZipFile(io.BytesIO(outer.read(_ARCHIVE))) as archive,
            archive.open(_SCADA) as scada,
            archive.open(_ASSET_TABLE) as turbines,
        ):
            return pd.read_csv(scada), pd.read_csv(turbines)
    except (zipfile.BadZipFile, KeyError) as error:
        raise click.ClickException(f"{wheel} is damaged ({error}): delete it and try again") from error


def to_buckets(scada: pd.DataFrame) -> pa.Table:
    """Turn SCADA records into rows of `telemetry_aggregates`, see the module's docstring.

    Returns a table with the stored columns of `telemetry_aggregates`, ordered by asset, metric and bucket.
    """
    instant = pd.to_datetime(scada["Date_time"], utc=True, format="ISO8601")
    records = scada.assign(time_bucket=instant)[["Wind_turbine_name", "time_bucket", *_METRICS]]
    long = records.rename(columns=_METRICS).melt(
        id_vars=["Wind_turbine_name", "time_bucket"], var_name="metric_name", value_name="avg_value"
    )
    long = _without_sensor_faults(long)
    long = long.sort_values(["Wind_turbine_name", "metric_name", "time_bucket"], kind="stable", ignore_index=True)
    return _with_statistics(long)


def _without_sensor_faults(readings: pd.DataFrame) -> pd.DataFrame:
    """Physical range check, which is ingestion's job: the feature store has no rule against absurd values."""
    faults = readings["metric_name"].eq("temperature_c") & readings["avg_value"].lt(COLDEST_ON_EARTH_C)
    logger.info("%d temperature readings below %s °C dropped", faults.sum(), COLDEST_ON_EARTH_C)
    return readings[~faults]


def _with_statistics(readings: pd.DataFrame) -> pa.Table:
    average = readings["avg_value"].to_numpy()
    present = np.isfinite(average)
    logger.info("%d of %d buckets are empty", (~present).sum(), len(present))
    zeros = np.zeros(len(readings))
    names = readings["Wind_turbine_name"]
    ids = names.map({name: asset_id(name).bytes for name in names.unique()})
    columns = {
        "asset_id": pa.array(ids, pa.binary(16)),
        "tenant_id": _repeated(TENANT_ID, len(readings)),
        "site_id": _repeated(SITE_ID, len(readings)),
        "metric_name": pa.array(readings["metric_name"]),
        "time_bucket": pa.array(readings["time_bucket"]).cast(pa.timestamp("s", "UTC")),
        "sum_value": np.where(present, average, 0.0),
        "count": present.astype("uint32"),
        "stddev_value": np.where(present, zeros, np.nan),
        "anomaly_count": zeros.astype("uint32"),
    }
    same_as_average = ("avg_value", "min_value", "max_value", "p50_value", "p95_value", "p99_value")
    return pa.table(columns | dict.fromkeys(same_as_average, average))


def _repeated(value: UUID, times: int) -> pa.Array:
    return pa.repeat(pa.scalar(value.bytes, pa.binary(16)), times)


def load_postgres(url: str, turbines: pd.DataFrame) -> None:
    """Replace dCMMS's tables (variant n) in the database at `url` by the wind farm of the asset table."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        create_postgres_schema(connection, "n", replace=True)
        cursor.execute(
            """insert into tenants (id, tenant_id, name, created_at, updated_at)
               values (%s, 'engie', 'ENGIE', %s, %s)""",
            [str(TENANT_ID), _CREATED, _CREATED],
        )
        cursor.execute(
            """insert into sites (id, tenant_id, site_id, name, type, energy_type, capacity_mw, timezone,
                   created_at, updated_at)
               values (%s, %s, 'LHB', 'La Haute Borne', 'wind', 'wind', %s, 'Europe/Paris', %s, %s)""",
            [str(SITE_ID), str(TENANT_ID), float(turbines["Rated_power"].sum()) / 1000, _CREATED, _CREATED],
        )
        execute_values(
            cursor,
            """insert into assets (id, tenant_id, site_id, asset_id, name, type, manufacturer, model,
                   specifications, created_at, updated_at) values %s""",
            [_asset_row(turbine) for turbine in turbines.to_dict("records")],
        )
        execute_values(
            cursor,
            """insert into wind_turbine_metadata (asset_id, rated_power_mw, hub_height_m, rotor_diameter_m,
                   created_at, updated_at) values %s""",
            [_metadata_row(turbine) for turbine in turbines.to_dict("records")],
        )


def _asset_row(turbine: Mapping[str, Any]) -> tuple[Any, ...]:
    name = turbine["Wind_turbine_name"]
    maker = (turbine["Manufacturer"], turbine["Model"])
    specifications = Json({"ratedPowerKw": turbine["Rated_power"]})
    ids = (str(asset_id(name)), str(TENANT_ID), str(SITE_ID))
    return (*ids, name, f"Turbine {name}", "turbine", *maker, specifications, _CREATED, _CREATED)


def _metadata_row(turbine: Mapping[str, Any]) -> tuple[Any, ...]:
    key = str(asset_id(turbine["Wind_turbine_name"]))
    sizes = (turbine["Hub_height_m"], turbine["Rotor_diameter_m"])
    return (key, turbine["Rated_power"] / 1000, *sizes, _CREATED, _CREATED)


def load_clickhouse(dsn: str, buckets: pa.Table, database: str = "dcmms_analytics") -> None:
    """Replace `telemetry_aggregates` in the ClickHouse at `dsn` by the table that `to_buckets` makes.

    An embedded engine is closed again: the next process may open its directory.
    """
    with closing(clickhouse_connect.get_client(dsn=dsn)) as client:
        create_clickhouse_schema(client, database, replace=True)
        client.insert_arrow("telemetry_aggregates", buckets, database=database)


@dataclass(frozen=True)
class WindFarm:
    """The wind farm on a local stack, beside the demo fleet: databases and directories of its own.

    `stack` has to be up for whatever talks to its servers.
    """

    stack: LocalStack

    @property
    def store(self) -> SeparateStore:
        """Its registry, snapshots and online store."""
        return SeparateStore(self.stack, "wind", REDIS_DATABASE)

    def settings(self) -> dict[str, str]:
        """Environment variables that point `materialize_features.py` and Feast at the wind farm."""
        return {
            "DATABASE_URL": self.stack.postgres.url("dcmms", DATABASE),
            "CLICKHOUSE_DSN": f"chdb://{self.store.directory.resolve() / 'clickhouse'}",
            "CLICKHOUSE_DATABASE": "dcmms_analytics",
            "TELEMETRY_BUCKET_MINUTES": str(BUCKET_MINUTES),
            **self.store.settings(),
        }

    def environment(self) -> dict[str, str]:
        """The whole environment of a command that works on the wind farm."""
        return demo_environment(self.stack) | self.settings()

    def prepare(self) -> None:
        """Create databases and `feature_store.yaml`; forget earlier snapshots and online values."""
        ensure_database(self.stack.postgres.admin_url, DATABASE, "dcmms")
        self.store.prepare()

    def load(self, wheel: Path) -> list[str]:
        """Load both databases from the OpenOA wheel, in place of what they hold; return turbine names."""
        scada, turbines = read_files(wheel)
        load_postgres(self.settings()["DATABASE_URL"], turbines)
        load_clickhouse(self.settings()["CLICKHOUSE_DSN"], to_buckets(scada))
        return sorted(turbines["Wind_turbine_name"])


_COLUMNS = {
    "capacity_factor_7d": ("capacity\nfactor\n7 d", "{:.1%}"),
    "capacity_factor_30d": ("capacity\nfactor\n30 d", "{:.1%}"),
    "total_generation_kwh_30d": ("energy\nkWh\n30 d", "{:,.0f}"),
    "rolling_avg_temperature_7d": ("outdoor\n°C\n7 d", "{:.1f}"),
    "availability_30d": ("avail-\nability\n30 d", "{:.1%}"),
    "telemetry_coverage_7d": ("data\ncoverage\n7 d", "{:.1%}"),
}
"""What the demo shows of `telemetry_features`: the column's title and the format of its values."""


def demo() -> None:
    """Load the farm, run the feature store's job as of both instants, show what came out: `make demo-wind`.

    Leaves the stack as it was: what this started is stopped, also after an error or Ctrl-C.

    Raises `click.ClickException` for a step that failed, `PortTaken` and `ServerError` for the servers.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # run the clean-up below
    stack = LocalStack()
    farm = WindFarm(stack)
    console.print(ATTRIBUTION, style="dim", highlight=False)
    was_up = {server.name for server in stack.servers if server.is_running()}
    run_step("PostgreSQL and Redis, on 127.0.0.1", stack.up)
    try:
        wheel = run_step("download the data (once)", lambda: download(DOWNLOADS))
        run_step("make databases and feature_store.yaml of the wind farm", farm.prepare)
        turbines = run_step("load 4 turbines, 2 years, every 10 minutes", lambda: farm.load(wheel))
        _run_feature_store(farm)
        values = run_step("read the snapshots and the online store", lambda: _all_values(farm, turbines))
    finally:
        for server in stack.servers:
            if server.name not in was_up:
                run_step(f"stop {server.name}", server.stop)
    console.print(_summary(values))


def _run_feature_store(farm: WindFarm) -> None:
    feast = Path(sys.executable).with_name("feast")
    steps = [("feast apply", [feast, "apply"])]
    for as_of in AS_OF:
        command = [sys.executable, "materialize_features.py", "--as-of", f"{as_of:%Y-%m-%dT%H:%M:%SZ}"]
        steps.append((" ".join(command[1:]), command))
    for title, command in steps:
        run_command(title, command, cwd=REPOSITORY, env=farm.environment())


def _all_values(farm: WindFarm, turbines: list[str]) -> dict[str, dict[str, Mapping[str, float | None]]]:
    """`{where it was read: {turbine: {feature: value}}}`."""
    values = {f"{as_of:%Y-%m-%d}": snapshot_values(farm, as_of) for as_of in AS_OF}
    values["online store"] = online_values(farm, [str(asset_id(name)) for name in turbines])
    return {source: {name: rows.get(str(asset_id(name)), {}) for name in turbines} for source, rows in values.items()}


def snapshot_values(farm: WindFarm, as_of: datetime) -> dict[str, dict[str, Any]]:
    """The `telemetry_features` of the snapshot of one instant: `{asset_id: {feature: value}}`."""
    snapshots = ds.dataset(farm.store.snapshots / "telemetry_features", partitioning="hive")
    rows = snapshots.to_table(filter=ds.field("event_timestamp") == pa.scalar(as_of, pa.timestamp("us", "UTC")))
    return {row["asset_id"]: row for row in rows.to_pylist()}


def online_values(farm: WindFarm, assets: list[str]) -> dict[str, dict[str, Any]]:
    """The demo's features from the online store, by the Feast SDK: `{asset_id: {feature: value}}`."""
    from feast import FeatureStore  # takes seconds to import, and only the demo's last step needs it

    store = FeatureStore(fs_yaml_file=farm.store.feature_store_yaml)
    answer = store.get_online_features(
        features=[f"telemetry_features:{feature}" for feature in _COLUMNS],
        entity_rows=[{"asset_id": asset} for asset in assets],
    ).to_dict()
    return {
        asset: {feature: answer[feature][row] for feature in _COLUMNS} for row, asset in enumerate(answer["asset_id"])
    }


def _summary(values: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("turbine", no_wrap=True)
    for title, _ in _COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for source, turbines in values.items():
        table.add_section()
        table.add_row(source, style="bold cyan")
        for turbine, features in turbines.items():
            cells = (_readable(features.get(name), form) for name, (_, form) in _COLUMNS.items())
            table.add_row(f"  {turbine}", *cells)
    return table


def _readable(value: float | None, form: str) -> str:
    return "—" if value is None else form.format(value)

"""`make demo`: the whole path, from two databases to the answers of the feature server and the gateway."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import click
import psycopg2
import pyarrow.parquet as pq
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from dev.gateway_demo import Gateway
from dev.separate_store import SeparateStore
from dev.servers import HOST, require_free_port
from dev.stack import REPOSITORY, LocalStack
from dev.steps import console, run_command, run_step
from dev.web import post, started
from pipeline.snapshots.files import newest_snapshot

FEATURE_SERVER_PORT = 6566
FEATURE_SERVICE = "predictive_maintenance_v1"

#: Settings of the caller that would lead the demo's programs away from the local stack.
_FOREIGN_SETTINGS = (
    "CLICKHOUSE_HOST",
    "CLICKHOUSE_USER",
    "CLICKHOUSE_PASSWORD",
    "FEATURE_DATA_DIR",
    "FEAST_FS_YAML_FILE_PATH",
    "GATEWAY_FEATURE_SERVICE",
    "GATEWAY_REQUESTS_PER_MINUTE",
)
#: Redis database of the demo's online values; the wind farm has 1, the developer's own are in 0.
REDIS_DATABASE = 2

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: What the demo ends with: it leaves nothing running, and the same fleet is there to be worked with.
NEXT = """Next:
  make load                     the same fleet, in a local stack that stays up
  .venv/bin/feast apply
  .venv/bin/python materialize_features.py --as-of 2026-01-01T00:00:00Z
  .venv/bin/python materialize_features.py doctor --as-of 2026-01-01T00:00:00Z
  .local/demo/report.html       how fresh, complete and steady the features are
  JWT_SECRET=... make gateway   the endpoints of dCMMS: docs/gateway.md
  README.md, "Day to day"       ask for features over REST and from Python
  notebooks/                    a model from start to end"""

#: The code that decides what a fleet looks like: a change loads it anew.
_FLEET_CODE = ("fleet/*.py", "load.py", "schema.py", "sql/*.sql")


@dataclass(frozen=True)
class FleetParameters:
    """What determines a demo fleet. The same parameters give the same rows."""

    assets: int = 60
    days: int = 400
    seed: int = 7
    end: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    variant: str = "n"

    def fingerprint(self) -> str:
        """A short text that is equal for equal parameters and equal generator code."""
        code = hashlib.sha256()
        for path in sorted(file for pattern in _FLEET_CODE for file in Path(__file__).parent.glob(pattern)):
            code.update(path.read_bytes())
        return json.dumps({**asdict(self), "code": code.hexdigest()[:16]}, default=datetime.isoformat)


class Asset(NamedTuple):
    """One asset, as a person knows it and as Feast does."""

    asset_id: str
    name: str
    site: str


def load_fleet(stack: LocalStack, parameters: FleetParameters) -> None:
    """Generates the fleet and loads it into both databases of the stack, in place of what was there."""
    from dev import fleet, load

    _write_marker(stack, None)
    generated = fleet.generate(seed=parameters.seed, assets=parameters.assets, days=parameters.days, end=parameters.end)
    with _progress_bar() as report:
        url = stack.postgres.url("dcmms", "dcmms")
        load.load_fleet(url, stack.clickhouse_dsn, generated, parameters.variant, progress=report)
    _write_marker(stack, parameters.fingerprint())


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a callback (table, rows so far, rows in all) that moves a bar; on a terminal only."""
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        bar = progress.add_task("", total=None)
        yield lambda table, rows, total: progress.update(bar, description=table, completed=rows, total=total)


def is_loaded(stack: LocalStack, parameters: FleetParameters) -> bool:
    """True if both databases hold the fleet of exactly these parameters."""
    with closing(psycopg2.connect(stack.postgres.admin_url)) as connection, connection.cursor() as cursor:
        cursor.execute("select shobj_description(oid, 'pg_database') from pg_database where datname = 'dcmms'")
        (marker,) = cursor.fetchone()
    return marker == parameters.fingerprint() and (stack.directory / "clickhouse").is_dir()


def _write_marker(stack: LocalStack, marker: str | None) -> None:
    # A comment on the database: it comes and goes with the data that it describes.
    with closing(psycopg2.connect(stack.postgres.admin_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute("comment on database dcmms is %s", [marker])


def run_demo() -> None:
    """The demo. Leaves the stack as it was: what this started is stopped, also after an error or Ctrl-C.

    Raises `click.ClickException` for a step that failed, `PortTaken` and `ServerError` for the servers.
    """
    require_free_port(FEATURE_SERVER_PORT, "feast serve")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: through the clean-up below
    stack = LocalStack()
    started = run_step("PostgreSQL and Redis, on 127.0.0.1", stack.up)
    try:
        _show_the_path(stack, FleetParameters())
        console.print(NEXT, highlight=False)
    finally:
        for server in stack.servers:
            if server.name in started:
                run_step(f"stop {server.name}", server.stop)


def _show_the_path(stack: LocalStack, parameters: FleetParameters) -> None:
    """Goes the whole path on the running stack, step by step, and prints what feature server and gateway answer."""
    as_of = f"{parameters.end:%Y-%m-%dT%H:%M:%SZ}"
    feast = Path(sys.executable).with_name("feast")
    materialize = [sys.executable, "materialize_features.py", "--as-of", as_of]
    store = SeparateStore(stack, "demo", REDIS_DATABASE)
    environment = demo_environment(stack) | store.settings()

    if is_loaded(stack, parameters):
        console.print("[green]✓[/] the demo fleet is loaded already", highlight=False)
    else:
        size = f"{parameters.assets} assets, {parameters.days} days"
        run_step(f"load the demo fleet: {size}", lambda: load_fleet(stack, parameters))
    store.prepare()
    run_command("feast apply", [feast, "apply"], cwd=REPOSITORY, env=environment)
    run_command(" ".join(materialize[1:]), materialize, cwd=REPOSITORY, env=environment)
    serve = [feast, "serve", "-h", HOST, "-p", str(FEATURE_SERVER_PORT)]
    title = " ".join(["feast", *map(str, serve[1:])])
    with ExitStack() as servers:  # both start at once
        feature_server = servers.enter_context(started(serve, environment, stack.directory / "feast-serve.log"))
        gateway = Gateway(servers, environment, stack.directory / "gateway.log")
        feature_server.wait(title, _url("/health"))
        assets = two_assets(stack, fully_known(store))
        answer = run_step("ask for the features of two assets over REST", lambda: ask(assets))
        answers = feature_table(assets, answer, as_of), gateway.ask(assets[-1].asset_id)
    for each in answers:
        console.print(each, highlight=False)
        console.print()
    _write_report(store, parameters.end, environment)


def _write_report(store: SeparateStore, as_of: datetime, environment: Mapping[str, str]) -> None:
    """Writes the page of `report` into the store's directory, which the title of the step names.

    It compares with the snapshots of four weeks before, which are written first.
    """
    command = [sys.executable, "materialize_features.py"]
    start = f"{as_of - timedelta(days=28):%Y-%m-%d}"
    backfill = [*command, "backfill", "--start", start, "--end", f"{as_of:%Y-%m-%d}", "--every", "7d"]
    run_command(" ".join(backfill[1:]), backfill, cwd=REPOSITORY, env=environment)
    page = store.directory.resolve() / "report.html"
    report = [*command, "report", "--as-of", as_of.isoformat(), "--html", str(page)]
    title = f"materialize_features.py report --html {page.relative_to(REPOSITORY)}"
    run_command(title, report, cwd=REPOSITORY, env=environment)


def demo_environment(stack: LocalStack) -> dict[str, str]:
    """The environment of the demo's programs: the caller's, but with the settings of the local stack."""
    inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN_SETTINGS}
    # No .env file: it may hold settings of the user's own.
    return {**inherited, **stack.settings(), "FEATURE_STORE_ENV_FILE": os.devnull, "PYTHONWARNINGS": "ignore"}


def _url(path: str) -> str:
    return f"http://{HOST}:{FEATURE_SERVER_PORT}{path}"


def fully_known(store: SeparateStore) -> list[str]:
    """The ids of the assets that have a rated power and a manufacturer in the newest snapshot of `store`."""
    path = newest_snapshot(store.snapshots, "asset_features")
    rows = pq.read_table(path, columns=["asset_id", "installed_capacity_kw", "manufacturer"], partitioning=None)
    return rows.drop_null()["asset_id"].to_pylist()


def two_assets(stack: LocalStack, among: Sequence[str]) -> list[Asset]:
    """A wind turbine and a solar inverter `among` these ids: of each kind the one with the most failures so far."""
    query = """
        select distinct on (a.type) a.id::text, a.name, s.name
        from assets a
        join sites s on s.id = a.site_id
        left join lateral (
            select count(*) as failures from work_orders w
            where w.asset_id = a.id and w.type in ('corrective', 'emergency')
        ) f on true
        where a.type in ('turbine', 'inverter') and a.status <> 'decommissioned' and a.id::text = any(%s)
        order by a.type desc, f.failures desc, a.asset_id
    """
    url = stack.postgres.url("dcmms", "dcmms")
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(query, [list(among)])
        return [Asset(*row) for row in cursor.fetchall()]


def ask(assets: Sequence[Asset]) -> dict[str, list[Any]]:
    """The feature server's values, `{view__feature: [value per asset]}`; None is an unknown value.

    Raises `click.ClickException` if the server refuses, with its message, or has no row for an asset.
    """
    body = {
        "feature_service": FEATURE_SERVICE,
        "entities": {"asset_id": [asset.asset_id for asset in assets]},
        "full_feature_names": True,
    }
    answer = post(_url("/get-online-features"), body)
    names = answer["metadata"]["feature_names"]
    values = {name: result["values"] for name, result in zip(names, answer["results"], strict=True)}
    missing = [
        asset.name for asset, known in zip(assets, values["asset_features__asset_type"], strict=True) if known is None
    ]
    if missing:  # the server answers an unknown asset with NULLs, as if all were well
        raise click.ClickException(f"the online store has no row for {', '.join(missing)}")
    return values


def feature_table(assets: Sequence[Asset], answer: Mapping[str, Sequence[Any]], as_of: str) -> Table:
    """The answer as a table: features as rows, grouped by view, with their units; one column per asset."""
    table = Table(
        title=f"POST {_url('/get-online-features')}\nfeature service {FEATURE_SERVICE}, as of {as_of}",
        caption="— is unknown (NULL)",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    table.add_column("feature", no_wrap=True)
    for asset in assets:
        table.add_column(Text(f"{asset.name}\n{asset.site}"), justify="right", overflow="fold")
    table.add_column("unit", style="dim")
    for view, fields in _service_fields().items():
        table.add_section()
        table.add_row(Text(view, style="bold cyan"))
        for feature, unit in fields.items():
            values = answer[f"{view}__{feature}"]
            table.add_row(f" {feature}", *(_readable(value) for value in values), unit)
    return table


def _service_fields() -> dict[str, dict[str, str]]:
    """The features of the service: `{view: {feature: unit}}`, in the order of the definitions."""
    from features.services import predictive_maintenance_v1

    return {
        projection.name: {field.name: _unit(field.tags.get("unit", "")) for field in projection.features}
        for projection in predictive_maintenance_v1.feature_view_projections
    }


def _unit(tag: str) -> str:
    return "" if tag in {"1", "text", "count"} else tag.removeprefix("points ")


def _readable(value: Any) -> str:
    """A value for a table: three significant digits and thousands separators; a uuid by its first part."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value[:8]}…" if _UUID.fullmatch(value) else value

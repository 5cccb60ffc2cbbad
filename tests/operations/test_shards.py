"""A run in shards: several processes make one, value for value and key for key, or none of them publishes anything."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg2
import pyarrow as pa
import pytest
import redis as redis_client
from click.testing import Result

from dev.servers import PostgresServer, RedisServer
from pipeline.base.results import ViewResult
from pipeline.base.shard import Shard
from pipeline.base.views import VIEW_NAMES
from pipeline.registry.feast_store import open_feature_store
from pipeline.registry.lock import one_at_a_time
from pipeline.registry.rounds import joined
from pipeline.runs.job import run_job
from pipeline.snapshots.files import PARTS, is_there, read_snapshot, snapshot_path
from pipeline.sources import extract
from pipeline.sources.clickhouse import open_clickhouse
from pipeline.sources.postgres import open_postgres
from pipeline.sources.telemetry import read_telemetry, shares_of_sites
from tests.clickhouse_http import ClickHouseHttpFront
from tests.commands import COMMAND, STARTED_WITHIN_SECONDS, invoke, process, wait_until
from tests.dcmms import LONG_AGO, TENANT, Dcmms, T, ago, asset_key, bucket
from tests.stores import apply_definitions, write_feature_store_yaml

AS_OF, EARLIER = f"{T:%Y-%m-%dT%H:%M:%SZ}", T - timedelta(hours=1)
VIEW = "work_order_features"
VIEWS = ("--view", "alarm_features", "--view", VIEW)
SITES = [UUID(int=100 + number) for number in range(5)]
TENANTS = [TENANT, UUID(int=7)]
RULES = [UUID(int=number) for number in (1, 2, 3)]
ASSETS = 24


@pytest.fixture
def variant() -> str:
    return "n"


class Project:
    """A Feast project of its own, with snapshots of its own."""

    def __init__(self, name: str, yaml_path: Path, data_dir: Path, redis: RedisServer, registry: str) -> None:
        self.name, self.yaml_path, self.data_dir = name, yaml_path, data_dir
        self._redis, self._registry = redis, registry

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(self.yaml_path))
        monkeypatch.setenv("FEATURE_DATA_DIR", str(self.data_dir))

    def forget(self) -> None:
        """Be as new: nothing is published."""
        shutil.rmtree(self.data_dir, ignore_errors=True)
        with closing(psycopg2.connect(self._registry)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("create table if not exists pristine as table feature_views")
            cursor.execute("truncate feature_views; insert into feature_views table pristine")
            cursor.execute("drop table if exists materialization_shards")
        with closing(redis_client.Redis(port=self._redis.port)) as client:
            for key in client.keys(f"*{self.name}"):
                client.delete(key)

    def online(self) -> dict[bytes, dict[bytes, bytes]]:
        """Return all that Redis has, by the keys without the project."""
        with closing(redis_client.Redis(port=self._redis.port)) as client:
            keys = client.keys(f"*{self.name}")
            return {key.removesuffix(self.name.encode()): client.hgetall(key) for key in keys}

    def snapshots(self, as_of: datetime = T) -> dict[str, pa.Table]:
        """Return the snapshots of the views that have one."""
        paths = {view: snapshot_path(self.data_dir, view, as_of) for view in VIEW_NAMES}
        return {view: read_snapshot(path).drop(["created"]) for view, path in paths.items() if is_there(path)}


@pytest.fixture(scope="module")
def projects(
    postgres: PostgresServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Project]:
    """A project to run in shards and one to run as a whole, in one registry."""
    directory = tmp_path_factory.mktemp("shards")
    text, projects = write_feature_store_yaml(directory, postgres, redis, "feast_shards").read_text(), {}
    for name in ("in_shards", "as_one"):
        path = directory / f"{name}.yaml"
        path.write_text(text.replace("project: dcmms", f"project: {name}"))
        apply_definitions(path, directory / name)
        projects[name] = Project(name, path, directory / name, redis, postgres.url("feast", "feast_shards"))
    return projects


@pytest.fixture(scope="module")
def front(clickhouse_directory: Path, clickhouse: object) -> Iterator[ClickHouseHttpFront]:
    with ClickHouseHttpFront(clickhouse_directory) as front:
        yield front


@pytest.fixture
def fleet(dcmms: Dcmms, front: ClickHouseHttpFront, monkeypatch: pytest.MonkeyPatch) -> Dcmms:
    """Assets of two tenants at five sites, whose rules have led to failures and whose power is compared."""
    keys = [asset_key(number) for number in range(ASSETS)]
    of_number = [{"site_id": SITES[number % 5], "tenant_id": TENANTS[number % 2]} for number in range(ASSETS)]
    plain = {"type": "turbine", "created_at": LONG_AGO, "updated_at": LONG_AGO}
    dcmms.insert("assets", [plain | of | {"id": key} for key, of in zip(keys, of_number, strict=True)])
    days = [(number, day) for number in range(ASSETS) for day in range(1, 40, 1 + number % 4)]
    dcmms.insert(
        "work_orders",
        [
            of_number[number]
            | {
                "asset_id": keys[number],
                "type": "corrective" if day % 3 else "preventive",
                "priority": "critical" if day % 5 else "low",
                "created_at": ago(day),
                "updated_at": ago(day),
            }
            for number, day in days
        ],
    )
    dcmms.insert(
        "alerts",
        [
            of_number[number]
            | {
                "asset_id": keys[number],
                "rule_id": RULES[day % 3],
                "severity": "critical" if day % 2 else "high",
                "triggered_at": ago(day + number % 3, hours=number),
            }
            for number, day in days
        ],
    )
    dcmms.buckets(
        *[
            bucket(
                asset_key(number), "power_kw", ago(hours=hour), 10.0 * ((number + hour) % 5), site_id=SITES[number % 5]
            )
            for number in range(2, ASSETS)
            for hour in range(1, 40)
        ],
        # stored twice; at another site before; of an asset that PostgreSQL does not know
        bucket(asset_key(3), "power_kw", ago(hours=5), 77.0, count=70, site_id=SITES[3]),
        *[bucket(asset_key(4), "power_kw", ago(hours=hour), 50.0, site_id=SITES[0]) for hour in range(50, 60)],
        bucket(asset_key(99), "voltage_v", ago(hours=5), 400.0, site_id=SITES[2]),
    )
    monkeypatch.setenv("FEATURE_STORE_ENV_FILE", os.devnull)
    monkeypatch.setenv("DATABASE_URL", dcmms.settings.database_url.get_secret_value())
    monkeypatch.setenv("CLICKHOUSE_HOST", front.url)
    monkeypatch.setenv("SHARD_WAIT_SECONDS", str(STARTED_WITHIN_SECONDS))
    return dcmms


@pytest.fixture
def as_one(projects: dict[str, Project]) -> Project:
    projects["as_one"].forget()
    return projects["as_one"]


@pytest.fixture
def in_shards(fleet: Dcmms, projects: dict[str, Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    projects["in_shards"].forget()
    projects["in_shards"].use(monkeypatch)
    return projects["in_shards"]


@pytest.fixture
def registry(postgres: PostgresServer, in_shards: Project) -> Iterator[psycopg2.extensions.cursor]:
    with closing(psycopg2.connect(postgres.url("feast", "feast_shards"))) as connection:
        connection.autocommit = True
        yield connection.cursor()


def run_shards(
    count: int, as_of: datetime, views: Sequence[str] = (VIEW,), **options: object
) -> list[dict[str, ViewResult]]:
    """Run all shards at once, each in a thread, and return their results."""
    with ThreadPoolExecutor(count) as pool:
        runs = [
            pool.submit(run_job, as_of, list(views), shard=Shard(number, count), **options)
            for number in range(1, count + 1)
        ]
        return [{result.view: result for result in run.result()} for run in runs]


def shard(number: int, count: int, *options: str) -> Result:
    return invoke("--shard", f"{number}/{count}", "--as-of", AS_OF, *options)


def has_handed_in(registry: psycopg2.extensions.cursor, number: int) -> bool:
    registry.execute("select to_regclass('materialization_shards') is not null")
    if not registry.fetchone()[0]:
        return False
    registry.execute(
        "select true from materialization_shards where project = 'in_shards' and fact = %s", [f"part {number}"]
    )
    return registry.fetchone() is not None


def test_all_shards_together_are_one_run(
    fleet: Dcmms,
    in_shards: Project,
    as_one: Project,
    registry: psycopg2.extensions.cursor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_shards(3, EARLIER)
    before = in_shards.online()
    # one asset leaves and one moves, to a site from which it has no telemetry yet
    with fleet.postgres.cursor() as cursor:
        cursor.execute("delete from assets where id = %s", [asset_key(5)])
        cursor.execute("update assets set site_id = %s where id = %s", [SITES[4], asset_key(7)])
    fleet.postgres.commit()
    results = run_shards(3, T, VIEW_NAMES)
    registry.execute(
        "select shard, outcome, views from materialization_runs where project = 'in_shards' and as_of = %s order by 1",
        [T],
    )
    ledger = registry.fetchall()

    as_one.use(monkeypatch)
    run_job(EARLIER, [VIEW])
    whole = {result.view: result for result in run_job(T, list(VIEW_NAMES))}
    assert set(whole) == set(as_one.snapshots())
    assert in_shards.snapshots() == as_one.snapshots()
    assert in_shards.snapshots()["telemetry_features"]["availability_7d"].null_count == 0
    assert in_shards.snapshots()["alarm_features"]["alarm_rule_risk_7d"].to_pylist() != [0.0] * 23
    assert in_shards.online() == as_one.online()
    assert len(before) == ASSETS and len(in_shards.online()) == ASSETS - 1
    for view, result in whole.items():
        shares = [shares[view] for shares in results]
        assert sum(share.rows for share in shares) == result.rows
        assert sorted(share.outcome for share in shares) == ["online", "part online", "part online"]
        assert {share.newest_source for share in shares} == {result.newest_source}
    assert [(name, outcome) for name, outcome, _ in ledger] == [("1/3", "done"), ("2/3", "done"), ("3/3", "done")]
    assert sum(views[VIEW]["rows"] for *_, views in ledger) == whole[VIEW].rows
    assert not list((in_shards.data_dir / PARTS).iterdir())


def test_more_shards_than_sites_have_each_asset_once(fleet: Dcmms) -> None:
    seconds = fleet.settings.bucket_seconds
    with open_clickhouse(fleet.settings) as source:
        whole = read_telemetry(source, "telemetry_features", [T], seconds)
        shares = shares_of_sites(source, T, seconds, 5)
        assert sorted(map(len, shares)) == [0, 1, 1, 1, 1]  # two of the five sites have had the same asset
    parts = []
    for share in shares:
        with open_clickhouse(fleet.settings) as source:
            parts.append(read_telemetry(source, "telemetry_features", [T], seconds, share))
    assert pa.concat_tables(parts).sort_by("asset_id").equals(whole.sort_by("asset_id"))
    with open_postgres(fleet.settings) as source:
        for view in extract.views_to_read(VIEW_NAMES, "postgresql"):
            parts = [extract.read_postgres(source, view, [T], Shard(number, 5)) for number in range(1, 6)]
            whole = extract.read_postgres(source, view, [T])
            assert pa.concat_tables(parts).sort_by("asset_id").equals(whole.sort_by("asset_id"))


@pytest.mark.timeout(400)
# The other shard may have come to the end of all before, or not.
@pytest.mark.parametrize("point", ["shards: share online:2", "shards: published:1"])
def test_shards_that_are_killed_are_repeated(
    point: str,
    in_shards: Project,
    as_one: Project,
    registry: psycopg2.extensions.cursor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two processes one dies before it hands in its part, and the other one amid publishing or after it."""
    deaths = {1: point, 2: "shards: handing in:1"}
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                process(
                    COMMAND,
                    *("--shard", f"{number}/2", "--as-of", AS_OF, *VIEWS),
                    log=tmp_path / f"log {number}",
                    FEATURE_STORE_DIE_AT=death,
                )
            )
            for number, death in deaths.items()
        )
        assert second.wait(STARTED_WITHIN_SECONDS) == -9
        wait_until(lambda: has_handed_in(registry, 1), {"first": first}, "it has handed in")
        assert not in_shards.snapshots()
        again = shard(2, 2, *VIEWS)
        assert again.exit_code == 0, again.output
        assert first.wait(STARTED_WITHIN_SECONDS) == -9, (tmp_path / "log 1").read_text()
    status = invoke("status").stdout
    assert "(2/2)" in status and "(1/2)" in status and " died" in status
    again = shard(1, 2, *VIEWS)
    assert again.exit_code == 0, again.output
    as_one.use(monkeypatch)
    run_job(T, list(VIEWS[1::2]))
    assert in_shards.snapshots() == as_one.snapshots()
    assert in_shards.online() == as_one.online()
    with open_feature_store(in_shards.yaml_path) as store:
        assert {store.get_feature_view(view).most_recent_end_time for view in VIEWS[1::2]} == {T}


def test_without_all_shards_nothing_is_published(
    in_shards: Project, registry: psycopg2.extensions.cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARD_WAIT_SECONDS", "0.3")
    result = shard(1, 3, "--view", VIEW, "--quiet")
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, line) == (
        1,
        "Error: Shard 1/3 has waited 0.3 s (SHARD_WAIT_SECONDS) for 2/3, 3/3: nothing is published, and what was "
        "online stays. Start all shards again, as of the same instant",
    )
    assert not in_shards.online()
    assert not in_shards.snapshots()
    assert not has_handed_in(registry, 1)
    # another number of them, or a whole run, may begin now
    assert shard(1, 1, "--view", VIEW).exit_code == 0
    assert invoke("--as-of", AS_OF, "--view", VIEW).exit_code == 0
    assert len(in_shards.online()) == ASSETS


def test_a_loss_is_one_of_the_fleet(
    fleet: Dcmms, in_shards: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Four of 24 assets may go, though that is too much of a shard; eight more may not, whatever shard they are of."""
    run_shards(2, EARLIER)
    with fleet.postgres.cursor() as cursor:
        of_first = "mod(uuid_hash_extended(id, 0) & 9223372036854775807, 2) = 0"
        cursor.execute(f"select count(*) from assets where {of_first}")
        assert cursor.fetchone()[0] < 4 / 0.2
        cursor.execute(f"delete from assets where id in (select id from assets where {of_first} order by id limit 4)")
        fleet.postgres.commit()
        assert all(share[VIEW].error is None for share in run_shards(2, T - timedelta(minutes=30)))
        cursor.execute("delete from assets where id in (select id from assets order by id limit 8)")
        fleet.postgres.commit()
    rejected = run_shards(2, T)
    assert {share[VIEW].outcome for share in rejected} == {"rejected"}
    assert "12 rows where the snapshot 20260311T093000Z has 20: assets are gone" in caplog.text
    assert len(in_shards.online()) == 20
    assert {share[VIEW].error for share in run_shards(2, T, accept_drop=True)} == {None}
    assert len(in_shards.online()) == 12


@pytest.mark.parametrize("fault", ["database", "part"])
def test_what_fails_in_one_shard_fails_in_all(
    in_shards: Project, registry: psycopg2.extensions.cursor, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run_job, T, [VIEW], shard=Shard(1, 2))
        deadline = time.monotonic() + STARTED_WITHIN_SECONDS
        while not has_handed_in(registry, 1):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if fault == "database":
            monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/dcmms")
            said = "shard 2/2: PostgreSQL: "
        else:  # each host has a folder of its own
            (part,) = (in_shards.data_dir / PARTS).glob("*1-of-2.parquet")
            part.unlink()
            said = "the part of shard 1/2 cannot be read: "
        second = run_job(T, [VIEW], shard=Shard(2, 2))
        for (result,) in (first.result(), second):
            assert (result.outcome, result.error[: len(said)]) == ("failed", said)
    assert not in_shards.online()


def test_one_run_at_a_time_be_it_in_shards_or_not(in_shards: Project) -> None:
    terms = {
        "--view": [VIEW],
        "--no-online": False,
        "--accept-drop": False,
        "--force": False,
        "TELEMETRY_BUCKET_MINUTES": 60,
    }
    with open_feature_store(in_shards.yaml_path) as store:
        with joined(store, Shard(1, 3), T, terms):
            for code, said, arguments in (
                (75, "Project in_shards is busy: materialize_features ", ["--as-of", AS_OF]),
                (75, "Project in_shards is busy: another shard 1 holds", ["--as-of", AS_OF, "--shard", "1/3"]),
                (75, "shard 1/3 as of 2026-03-11T10:00:00+00:00 holds", ["--as-of", AS_OF, "--shard", "2/4"]),
                (75, "shard 1/3 as of ", ["--as-of", "2026-03-11T11:00:00Z", "--shard", "2/3"]),
                (64, "another --force, False and not True", ["--as-of", AS_OF, "--shard", "2/3", "--force"]),
            ):
                result = invoke(*arguments, "--view", VIEW)
                (line,) = result.stderr.splitlines()
                assert (result.exit_code, said in line) == (code, True), line
            assert invoke("prune").exit_code == 75
        with one_at_a_time(store):
            assert shard(1, 3).exit_code == 75


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "1/0", "-1/3", "1/3/5", "1/1000", "\u0661/3", ""])
def test_a_shard_that_is_none_is_a_usage_error(text: str) -> None:
    result = invoke("run", "--as-of", AS_OF, "--shard", text)
    assert result.exit_code == 64
    (line,) = result.stderr.splitlines()
    assert f"'--shard': {text} is no shard such as 2/3, the second of three" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--shard needs --as-of: the same instant for all shards"),
        (["--as-of", AS_OF, "--dry-run"], "--shard goes without --dry-run"),
        (["--as-of", AS_OF, "--engine", "feast"], "--shard goes without --engine feast"),
    ],
)
def test_options_that_shards_cannot_have(options: list[str], said: str) -> None:
    result = invoke("run", "--shard", "1/3", *options)
    assert (result.exit_code, said in result.stderr, result.stderr.count("\n")) == (64, True, 1)

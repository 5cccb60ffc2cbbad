"""Runs through a proxy before each server, and the verdict on what comes of them when something fails."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from urllib.parse import urlsplit

import yaml

from tests.faults.proxy import Fault, Proxy
from tests.faults.worker import Outcome
from tests.faults.world import State, World

POSTGRES, REGISTRY, CLICKHOUSE, REDIS = "postgres", "registry", "clickhouse", "redis"
COMPLETE, CLEAR_FAILURE, WRONG = "complete", "clear failure", "wrong"
# A line of the log, the one of an error that ends everything, or one of the table at the end.
_LINE = re.compile(
    r"(\d{4}-\d\d-\d\d [\d:,]{12} (INFO|WARNING|ERROR) \S|Error: \S|Stopped by \S"
    r"|Features as of |view +rows|─|\w+_features +[\d,]+ | )"
)
_FAILURE = re.compile(r"^\S+ \S+ ERROR |^Error: |^Stopped by ")


class Net:
    """A proxy before each server. The registry has one of its own: dCMMS's database may be on another host."""

    def __init__(self, world: World, tally: Counter, stack: ExitStack) -> None:
        self.world = world
        self._tally = tally
        upstream = {
            POSTGRES: world.postgres.port,
            REGISTRY: world.postgres.port,
            CLICKHOUSE: urlsplit(world.clickhouse_url).port,
            REDIS: world.redis.port,
        }
        self.proxies = {name: stack.enter_context(Proxy(port)) for name, port in upstream.items()}
        self._variables = {
            "FEAST_FS_YAML_FILE_PATH": self._write_yaml(),
            "CLICKHOUSE_HOST": f"http://127.0.0.1:{self.proxies[CLICKHOUSE].port}",
            "DATABASE_URL": f"postgresql://dcmms@127.0.0.1:{self.proxies[POSTGRES].port}/dcmms_faults",
            "STATEMENT_TIMEOUT_SECONDS": "15",
            "RETRY_SECONDS": "30",
        }

    def run(self, *arguments: str, variables: dict[str, str] | None = None, **options: object) -> Outcome:
        """Run the command through the proxies."""
        return self.world.run(*arguments, variables=self._variables | (variables or {}), **options)

    @cached_property
    def total_bytes(self) -> dict[tuple[str, str], int]:
        """How much goes through each proxy in each direction when nothing fails."""
        self.world.restore()
        for proxy in self.proxies.values():
            proxy.set(None)
        outcome = self.run()
        assert outcome.exit_code == 0, outcome.output
        return {(name, way): proxy.bytes[way] for name, proxy in self.proxies.items() for way in proxy.bytes}

    def inject(self, name: str, fault: Fault) -> str | None:
        """Run with a fault of one server and return what has come of it, None where it never came."""
        allowed = self._states_without_a_database if name in (POSTGRES, CLICKHOUSE) and not fault.passes else []
        self.world.restore()
        proxy = self.proxies[name]
        proxy.set(fault)
        # The registry's driver has no time limit of its own; and there is no need to wait long for what does not come.
        outcome = self.run("--timeout", "60", variables={"RETRY_SECONDS": "1.5"} if fault.lasting else {})
        happened = proxy.happened
        proxy.set(None)
        return self.judge(outcome, f"{name}: {fault}", *allowed) if happened else None

    def judge(self, outcome: Outcome, what: str, *allowed: State) -> str:
        """Return what a run has come to, and fail where that is neither a complete result nor a clear failure.

        Readers may then see the state before, the one after, and those in `allowed`.
        """
        try:
            result = self._judge(outcome, allowed)
        except AssertionError as error:
            self._tally[WRONG] += 1
            raise AssertionError(f"{what}: {error}\n{outcome.output}") from error
        self._tally[result] += 1
        return result

    def _judge(self, outcome: Outcome, allowed: Sequence[State]) -> str:
        lines = outcome.output.splitlines()
        assert all(_LINE.match(line) for line in lines if line), "a line that is not for the person who runs it"
        failures = [line for line in lines if _FAILURE.match(line)]
        if outcome.exit_code == 0:
            assert not failures
            now = self.world.check_readers(self.world.after)
            assert now.snapshots().keys() == self.world.after.files.keys()
            return COMPLETE
        assert outcome.exit_code in (1, 64, 124)
        assert failures
        self.world.check_readers(self.world.before, self.world.after, *allowed)
        self.world.check_recovery()
        return CLEAR_FAILURE

    @cached_property
    def _states_without_a_database(self) -> list[State]:
        """What a run leaves that does without ClickHouse, or without PostgreSQL, from its start."""
        states = []
        for name in (CLICKHOUSE, POSTGRES):
            self.world.restore()
            self.proxies[name].refuse()
            try:
                assert self.run(variables={"RETRY_SECONDS": "0"}).exit_code == 1
                states.append(self.world.state())
            finally:
                self.proxies[name].listen()
        return states

    def _write_yaml(self) -> str:
        config = yaml.safe_load(self.world.yaml.read_text())
        config["registry"]["path"] = config["registry"]["path"].replace(
            f":{self.world.postgres.port}/", f":{self.proxies[REGISTRY].port}/"
        )
        address = f"127.0.0.1:{self.proxies[REDIS].port}"
        config["online_store"]["connection_string"] = f"{address},socket_timeout=5,socket_connect_timeout=5"
        path = self.world.yaml.with_name("through_proxies.yaml")
        path.write_text(yaml.safe_dump(config))
        return str(path)

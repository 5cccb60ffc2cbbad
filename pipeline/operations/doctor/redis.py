"""Redis, the online store: reachable, a primary that takes writes, with room, and that forgets nothing silently."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import pyarrow as pa
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.repo_config import RepoConfig
from redis import Redis, RedisCluster, RedisError
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import AbstractConnection
from redis.exceptions import NoPermissionError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from pipeline.base.clock import duration
from pipeline.base.errors import first_line
from pipeline.base.specs import VIEWS
from pipeline.base.views import ASSETS
from pipeline.online.redis.cluster import key_slots, script_sha
from pipeline.online.redis.connections import connect
from pipeline.online.redis.engine import advice_for
from pipeline.online.redis.layout import RowEncoder
from pipeline.operations.doctor.check import Check, State, Subject
from pipeline.operations.doctor.clock import check_clock
from pipeline.operations.doctor.redis_rows import check_rows
from pipeline.operations.doctor.transport import check_transport

REDIS = Subject("Redis")
ANSWER_SECONDS = 5
# Above this share of maxmemory the next larger fleet may not fit.
NEARLY_FULL = 0.8
_ACL = "deploy/sql/redis_users.conf"
_NOT_CHECKED = ("TLS", "clock", "mode", "role", "memory", "eviction", "persistence", "writes", "rows", "time-outs")

# A key of the project that no entity has: commands are tried on it, and given up before any is executed.
_NOBODY = "-0000-0000-0000-000000000000"
# So many of them that each node of a cluster has one.
_TRIED_KEYS = 10_000
_TRIED_SCRIPT = b"return redis.call('HGET', KEYS[1], ARGV[1])"
_TRIED = {
    "HSET": ("field", "value"),
    "HDEL": ("field",),
    "EXPIRE": ("1",),
    "PERSIST": (),
    "HGET": ("field",),
    "HMGET": ("field",),
    "EXISTS": (),
}


def check_redis(config: RepoConfig) -> Iterator[Check]:
    """Yield the checks of the online store; nothing is written to it."""
    online = config.online_store
    if not isinstance(online, RedisOnlineStoreConfig):
        yield REDIS.fails("type", f"the online store is {online.type}", "publish to it with --engine feast")
        return
    places, options = RedisOnlineStore._parse_connection_string(online.connection_string)
    where = ", ".join(f"{place['host']}:{place['port']}" for place in places)
    limits = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
    try:
        nodes = _nodes(online, places, options | limits)
    except (RedisError, RedisClusterException, OSError) as error:
        reason = first_line(error).split(" : <")[0]
        yield REDIS.fails("connection", f"{where}: {reason}", advice_for(reason))
        yield REDIS.not_checked(_NOT_CHECKED, "no connection")
        return
    found = {}
    for node in nodes:
        with node.client:
            found[node.name] = list(_node_checks(node, config, options))
    yield from _together(found)


@dataclass(frozen=True)
class _Node:
    """A server that takes writes; of a cluster it `owns` some slots."""

    client: Redis
    host: str
    port: int
    owns: Callable[[int], bool] | None = None

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"


def _nodes(online: RedisOnlineStoreConfig, places: list[dict[str, str]], options: Mapping[str, Any]) -> list[_Node]:
    """Return the server, the master that a Sentinel names, or the primaries of a cluster."""
    no_retry = Retry(NoBackoff(), 0)
    if online.redis_type == RedisType.redis_sentinel:
        sentinel = Sentinel([(place["host"], int(place["port"])) for place in places], **options)
        host, port = sentinel.discover_master(online.sentinel_master)
    elif online.redis_type == RedisType.redis_cluster:
        starts = [ClusterNode(**place) for place in places]
        cluster = RedisCluster(startup_nodes=starts, retry=no_retry, **options)
        owners = cluster.nodes_manager.slots_cache
        return [
            _Node(cluster.get_redis_connection(of), of.host, of.port, partial(_owns, owners, of))
            for of in cluster.get_primaries()
        ]
    else:
        host, port = places[0]["host"], int(places[0]["port"])
    return [_Node(Redis(host=host, port=port, **options, retry=no_retry), host, port)]


def _owns(slots: Mapping[int, list[ClusterNode]], node: ClusterNode, slot: int) -> bool:
    return bool(slots[slot][0] == node)


def _together(found: Mapping[str, list[Check]]) -> Iterator[Check]:
    """Yield one check for each that several nodes have: the worst, with what it says of the nodes it is true of."""
    if len(found) == 1:
        yield from next(iter(found.values()))
        return
    worst = [State.FAILS, State.WARNING, State.NOT_CHECKED, State.OK]
    for name in dict.fromkeys(check.name or check.text for checks in found.values() for check in checks):
        of = {node: check for node, checks in found.items() for check in checks if name in (check.name, check.text)}
        state = min((check.state for check in of.values()), key=worst.index)
        first, *_ = alike = {node: check for node, check in of.items() if check.state == state}
        texts = [check.text if node in check.text else f"{node}: {check.text}" for node, check in alike.items()]
        same = len({check.text for check in alike.values()}) == 1
        yield alike[first] if same and len(alike) == len(found) else replace(alike[first], text="; ".join(texts))


def _node_checks(node: _Node, config: RepoConfig, options: Mapping[str, Any]) -> Iterator[Check]:
    try:
        node.client.ping()
    except (RedisError, OSError) as error:
        reason = first_line(error)
        if "MISCONF" not in reason:  # it cannot save, and refuses even this: the checks below say so
            yield REDIS.fails("connection", f"{node.name}: {reason}", advice_for(reason))
            yield REDIS.not_checked(_NOT_CHECKED, "no connection")
            return
    try:
        yield from _connected(node, config, options)
    except (RedisError, OSError) as error:
        yield REDIS.fails("session", first_line(error), "look at its log and its load; then run doctor again")


def _connected(node: _Node, config: RepoConfig, options: Mapping[str, Any]) -> Iterator[Check]:
    client = node.client
    try:
        info = cast(dict[str, Any], client.info())
    except NoPermissionError as error:
        yield REDIS.ok("connection", node.name)
        yield REDIS.warning("details", first_line(error), f"let its user ask for INFO: see {_ACL}")
        info = {}
    else:
        yield REDIS.ok("connection", f"{node.name}, version {info.get('redis_version')}")
    encrypted = bool(options.get("ssl"))
    verified = encrypted and options.get("ssl_cert_reqs") != "none" and options.get("ssl_check_hostname") is not False
    yield check_transport(
        REDIS,
        node.host,
        encrypted=encrypted,
        verified=verified,
        fix="add ssl=true,ssl_ca_certs=/path/to/ca.pem to REDIS_CONNECTION",
    )
    try:
        yield check_clock(REDIS, lambda: _seconds(client))
    except NoPermissionError as error:
        yield REDIS.warning("clock", first_line(error), f"let its user ask for TIME: see {_ACL}")
    if info:
        yield _mode(info, in_cluster=node.owns is not None)
        yield _role(info, in_cluster=node.owns is not None)
        yield _memory(info)
        yield _eviction(info)
        yield _persistence(info)
    else:
        yield REDIS.not_checked(("mode", "role", "memory", "eviction", "persistence"), "needs INFO")
    yield _writes(node, config)
    yield check_rows(REDIS, client, config)
    yield _time_outs(options)


def _seconds(client: Redis) -> float:
    seconds, microseconds = cast(tuple[int, int], client.time())
    return seconds + microseconds / 1e6


def _mode(info: Mapping[str, Any], *, in_cluster: bool) -> Check:
    if in_cluster:
        return REDIS.ok("mode", "a cluster")
    if info.get("cluster_enabled"):
        fix = "set redis_type: redis_cluster in feature_store.yaml"
        return REDIS.fails("mode", "this is a node of a cluster", fix)
    return REDIS.ok("mode", "a single server")


def _role(info: Mapping[str, Any], *, in_cluster: bool) -> Check:
    if info.get("role") != "master":
        return REDIS.fails(
            "role",
            f"this is a replica of {info.get('master_host')}:{info.get('master_port')}, and takes no writes",
            "name the primary in REDIS_CONNECTION",
        )
    replicas = int(info.get("connected_slaves", 0))
    if in_cluster and not replicas:
        return REDIS.warning(
            "role",
            "a primary without a replica: its part of the features goes with it",
            "give it one: CLUSTER REPLICATE",
        )
    return REDIS.ok("role", f"primary, {replicas} replicas")


def _memory(info: Mapping[str, Any]) -> Check:
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if not limit:
        return REDIS.ok("memory", f"{_megabytes(used)} used, no limit but the machine's")
    text = f"{_megabytes(used)} of {_megabytes(limit)} used ({used / limit:.0%})"
    fix = "raise maxmemory, or free some: `materialize_features.py prune` removes entities that are gone"
    if used >= limit:
        return REDIS.fails("memory", text, fix)
    return REDIS.warning("memory", text, fix) if used > NEARLY_FULL * limit else REDIS.ok("memory", text)


def _eviction(info: Mapping[str, Any]) -> Check:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return REDIS.ok("eviction", "noeviction: a full Redis refuses, and forgets nothing")
    return REDIS.warning(
        "eviction",
        f"{policy}: a full Redis forgets features, and the feature server answers NULL for them",
        "set maxmemory-policy noeviction",
    )


def _persistence(info: Mapping[str, Any]) -> Check:
    if info.get("rdb_last_bgsave_status", "ok") != "ok" or info.get("aof_last_write_status", "ok") != "ok":
        return REDIS.fails(
            "persistence",
            "its last save to disk failed, after which it refuses writes",
            "look at its log: a full disk, or no memory to fork",
        )
    if info.get("aof_enabled"):
        return REDIS.ok("persistence", "append-only file")
    saved, started = int(info["rdb_last_save_time"]), time.time() - int(info["uptime_in_seconds"])
    if saved > started + 2:
        return REDIS.ok("persistence", f"last snapshot {duration(max(time.time() - saved, 0))} ago")
    return REDIS.warning(
        "persistence",
        "nothing saved since its start: after a restart it is empty until the next run",
        "set appendonly yes or save in redis.conf, or run again after every restart",
    )


def _writes(node: _Node, config: RepoConfig) -> Check:
    """Return whether publishing would be let in: its commands queue up in a transaction that is then discarded."""
    encoder = RowEncoder(ASSETS, VIEWS[ASSETS].features, project=config.project, join_key="asset_id", ttl_seconds=None)
    keys = encoder.keys(pa.array([f"{number:08}{_NOBODY}" for number in range(_TRIED_KEYS if node.owns else 1)]))
    key = next(keys[row].as_py() for row, slot in enumerate(key_slots(keys)) if not node.owns or node.owns(slot))
    refusals: dict[str, str] = {}

    def ask(connection: AbstractConnection, *command: str | bytes | int) -> None:
        connection.send_command(*command)
        try:
            connection.read_response()
        except RedisError as error:
            refusals[str(command[0])] = first_line(error)

    try:
        with connect(node.client) as connection:
            ask(connection, "SCAN", 0, "MATCH", encoder.key_pattern, "COUNT", 1)
            ask(connection, "EVAL", _TRIED_SCRIPT, 1, key, encoder.stamp_field)
            if node.owns:
                ask(connection, "SCRIPT", "LOAD", _TRIED_SCRIPT)
                ask(connection, "EVALSHA", script_sha(_TRIED_SCRIPT), 1, key, encoder.stamp_field)
                ask(connection, "ASKING")
            ask(connection, "WAIT", 0, 1)
            ask(connection, "MULTI")
            for name, arguments in _TRIED.items():
                ask(connection, name, key, *arguments)
            ask(connection, "RENAME", key, key)
            ask(connection, "DISCARD")
    except (RedisError, OSError) as error:
        refusals["the connection"] = first_line(error)
    if refusals:
        reason = next(iter(refusals.values()))
        return REDIS.fails("writes", f"refuses {', '.join(refusals)}: {reason}", advice_for(reason))
    return REDIS.ok("writes", "takes every command of publishing (tried, none executed)")


def _time_outs(options: Mapping[str, Any]) -> Check:
    missing = [name for name in ("socket_timeout", "socket_connect_timeout") if not options.get(name)]
    if missing:
        return REDIS.warning(
            "time-outs",
            f"no {' and no '.join(missing)}: a Redis that stalls hangs every request for features",
            "append ,socket_timeout=5,socket_connect_timeout=5 to the connection string",
        )
    return REDIS.ok(
        "time-outs", f"{options['socket_connect_timeout']} s to connect, {options['socket_timeout']} s to answer"
    )


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.0f} MB"

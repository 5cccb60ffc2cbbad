"""Redis, the online store: reachable, a primary that takes writes, with room, and that forgets nothing silently."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pyarrow as pa
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.repo_config import RepoConfig
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from pipeline.base.clock import duration
from pipeline.base.errors import first_line
from pipeline.base.specs import VIEWS
from pipeline.base.views import ASSETS
from pipeline.online.redis.connections import connect
from pipeline.online.redis.engine import advice_for
from pipeline.online.redis.layout import RowEncoder
from pipeline.operations.doctor.check import Check, Subject
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
_NOBODY = "00000000-0000-0000-0000-000000000000"
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
    if online.redis_type != RedisType.redis:
        yield REDIS.warning(
            "type",
            f"a {online.redis_type.value}: the Redis engine does not write to it, and the doctor looks at none",
            "publish with --engine feast",
        )
        return
    nodes, options = RedisOnlineStore._parse_connection_string(online.connection_string)
    host, port = nodes[0]["host"], nodes[0]["port"]
    limits = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
    with Redis(host=host, port=port, **options | limits, retry=Retry(NoBackoff(), 0)) as client:
        try:
            client.ping()
        except (RedisError, OSError) as error:
            reason = first_line(error)
            if "MISCONF" not in reason:  # it cannot save, and refuses even this: the checks below say so
                yield REDIS.fails("connection", f"{host}:{port}: {reason}", advice_for(reason))
                yield REDIS.not_checked(_NOT_CHECKED, "no connection")
                return
        try:
            yield from _connected(client, config, host, port, options)
        except (RedisError, OSError) as error:
            yield REDIS.fails("session", first_line(error), "look at its log and its load; then run doctor again")


def _connected(client: Redis, config: RepoConfig, host: str, port: str, options: Mapping[str, Any]) -> Iterator[Check]:
    try:
        info = cast(dict[str, Any], client.info())
    except NoPermissionError as error:
        yield REDIS.ok("connection", f"{host}:{port}")
        yield REDIS.warning("details", first_line(error), f"let its user ask for INFO: see {_ACL}")
        info = {}
    else:
        yield REDIS.ok("connection", f"{host}:{port}, version {info.get('redis_version')}")
    encrypted = bool(options.get("ssl"))
    verified = encrypted and options.get("ssl_cert_reqs") != "none" and options.get("ssl_check_hostname") is not False
    yield check_transport(
        REDIS,
        host,
        encrypted=encrypted,
        verified=verified,
        fix="add ssl=true,ssl_ca_certs=/path/to/ca.pem to REDIS_CONNECTION",
    )
    try:
        yield check_clock(REDIS, lambda: _seconds(client))
    except NoPermissionError as error:
        yield REDIS.warning("clock", first_line(error), f"let its user ask for TIME: see {_ACL}")
    if info:
        yield _mode(info)
        yield _role(info)
        yield _memory(info)
        yield _eviction(info)
        yield _persistence(info)
    else:
        yield REDIS.not_checked(("mode", "role", "memory", "eviction", "persistence"), "needs INFO")
    yield _writes(client, config)
    yield check_rows(REDIS, client, config)
    yield _time_outs(options)


def _seconds(client: Redis) -> float:
    seconds, microseconds = cast(tuple[int, int], client.time())
    return seconds + microseconds / 1e6


def _mode(info: Mapping[str, Any]) -> Check:
    if info.get("cluster_enabled"):
        return REDIS.fails(
            "mode",
            "this is a node of a cluster",
            "set redis_type: redis_cluster in feature_store.yaml and publish with --engine feast",
        )
    return REDIS.ok("mode", "a single server")


def _role(info: Mapping[str, Any]) -> Check:
    if info.get("role") != "master":
        return REDIS.fails(
            "role",
            f"this is a replica of {info.get('master_host')}:{info.get('master_port')}, and takes no writes",
            "name the primary in REDIS_CONNECTION",
        )
    return REDIS.ok("role", f"primary, {info.get('connected_slaves', 0)} replicas")


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


def _writes(client: Redis, config: RepoConfig) -> Check:
    """Return whether publishing would be let in: its commands queue up in a transaction that is then discarded."""
    encoder = RowEncoder(ASSETS, VIEWS[ASSETS].features, project=config.project, join_key="asset_id", ttl_seconds=None)
    (key,) = encoder.keys(pa.array([_NOBODY])).to_pylist()
    refusals: dict[str, str] = {}

    def ask(connection: AbstractConnection, *command: str | bytes | int) -> None:
        connection.send_command(*command)
        try:
            connection.read_response()
        except RedisError as error:
            refusals[str(command[0])] = first_line(error)

    try:
        with connect(client) as connection:
            ask(connection, "SCAN", 0, "MATCH", encoder.key_pattern, "COUNT", 1)
            ask(connection, "EVAL", "return redis.call('HGET', KEYS[1], ARGV[1])", 1, key, encoder.stamp_field)
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

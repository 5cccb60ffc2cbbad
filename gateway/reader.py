"""Reading features from Redis, and counting requests there: the part of the gateway that waits for a server."""

import asyncio
import hashlib
import logging
import time
from collections import Counter as Counts
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from http import HTTPStatus
from itertools import chain
from typing import Any, cast

from feast import FeatureStore
from feast.infra.online_stores.redis import RedisOnlineStore, RedisType
from prometheus_client import Counter, Gauge
from redis import RedisError
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, ResponseError

from gateway.auth import Caller
from gateway.errors import ApiError, invalid, unavailable
from gateway.layout import NOT_FOUND, Layout, Row, compiled
from pipeline.base.errors import PipelineError, first_line

logger = logging.getLogger(__name__)

LOOKUPS = Counter(
    "gateway_lookups", "Assets that were asked for, by view and whether it had values.", ["view", "status"]
)
AGE = Gauge(
    "gateway_values_age_seconds", "Age of the published values of a view.", ["view"], multiprocess_mode="mostrecent"
)

_Command = tuple[bytes, ...]
_FAILURES = (RedisError, RedisClusterException, OSError)

# Of how many assets it is remembered whose they are.
_REMEMBERED = 200_000

# KEYS: where the run that starts is noted. ARGV: a run, for how long, and one in whose place it may be noted. Returns
# the run that is noted already.
_CLAIM = """
local other = redis.call('HGET', KEYS[1], 'text')
if other and other ~= ARGV[3] then return other end
redis.call('HSET', KEYS[1], 'text', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


class Reader:
    """The online store as the gateway reads it, by the definitions that are registered now."""

    def __init__(self, store: FeatureStore, service: str, requests_per_minute: int, age_limit: timedelta) -> None:
        self._store = store
        self._default = service
        self._limit = requests_per_minute
        self._age_limit = age_limit
        self._client, self._timeout = _client(store)
        self._sample: bytes | None = None
        self._tenants: dict[bytes, bytes] = {}
        self._layouts = self._compiled()

    def layout(self, service: str | None = None) -> Layout:
        """Return the layout of a feature service, by default the one of the settings.

        Raises `ApiError` 400 where none of this name is registered.
        """
        layouts = self._layouts
        if (layout := layouts.get(self._default if service is None else service)) is None:
            raise invalid([{"loc": ("service",), "msg": f"There is none of this name, but {', '.join(layouts)}"}])
        return layout

    async def keep_up(self, seconds: float) -> None:
        """Compile the layouts anew every so often, for good; while that fails the last one stays."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # Feast, SQLAlchemy and its driver each raise their own kinds
                logger.warning("the registry cannot be read, its last definitions stay: %s", first_line(error))

    def refresh(self) -> None:
        """Compile the layouts anew."""
        self._store.refresh_registry()  # type: ignore[no-untyped-call]
        self._layouts = self._compiled()

    def _compiled(self) -> dict[str, Layout]:
        layouts = compiled(self._store)
        if self._default not in layouts:
            raise PipelineError(f"the feature service {self._default} is not registered: run `feast apply`")
        return layouts

    async def close(self) -> None:
        """Close the connections, also those to Sentinels, which the client of their master leaves open."""
        await self._client.aclose()
        pool = None if isinstance(self._client, RedisCluster) else self._client.connection_pool
        if isinstance(pool, SentinelConnectionPool):
            for sentinel in pool.sentinel_manager.sentinels:
                await sentinel.aclose()

    async def count(self, caller: Caller) -> None:
        """Count one request of `caller`; raises `ApiError` 429 where it has made too many in this minute."""
        counted, _ = await self._answers(self._counting(caller))
        self._check_count(counted)

    async def features(self, layout: Layout, ids: Sequence[str], caller: Caller) -> list[dict[str, Any]]:
        """Return the features of assets in the order of their `ids`, of those that `caller` may see.

        Raises `ApiError` 429 as `count` does, and 503 where Redis does not answer.
        """
        keys = layout.keys(map(str.lower, ids))
        wanted = list(dict.fromkeys(keys))
        tenant, unsure = None, []
        if caller.tenant:
            tenant = b"\x12" + bytes([len(caller.tenant)]) + caller.tenant.encode()
            # What is another tenant's takes no longer than what does not exist: of neither more than this is read.
            unsure = [key for key in wanted if self._tenants.get(key) != tenant]
            if unsure:
                asked = set(unsure)
                wanted = [key for key in wanted if key not in asked]
        counted, _, *answers = await self._answers(
            [
                *self._counting(caller),
                *((b"HGET", key, layout.tenant_field) for key in unsure),
                *((b"HGETALL", key) for key in wanted),
            ]
        )
        self._check_count(counted)
        tenants, found = answers[: len(unsure)], answers[len(unsure) :]
        if own := [key for key, of in zip(unsure, _without_errors(tenants), strict=True) if of == tenant]:
            found += await self._answers([(b"HGETALL", key) for key in own])
        features = self._decoded(layout, wanted + own, _without_errors(found), tenant, len(set(keys)))
        return [{"assetId": asset} | features.get(key, layout.nothing) for asset, key in zip(ids, keys, strict=True)]

    async def fault(self) -> str | None:
        """Return what keeps the gateway from answering with fresh features, None if nothing does.

        Some asset is read, and the registry says when each view was published last.
        """
        layout = self.layout()
        try:
            row = await self._row(self._sample)
            if not row:
                self._sample = await self._any_key(layout)
                row = await self._row(self._sample)
        except _FAILURES as error:
            return f"Redis does not answer: {first_line(error)}"
        (found,) = layout.decoded([row], 0.0)
        if found is None or found[0]["status"] == NOT_FOUND:
            return "there are no features online"
        ages = self.ages()
        if old := [view for view, age in ages.items() if age is None or age > self._age_limit]:
            return f"the values of {', '.join(old)} are too old"
        return None

    async def _row(self, key: bytes | None) -> Row:
        if key is None:
            return []
        async with asyncio.timeout(self._timeout):
            found = await cast(Awaitable[dict[bytes, bytes]], self._client.hgetall(cast(str, key)))
        return list(chain.from_iterable(found.items()))

    def ages(self) -> dict[str, timedelta | None]:
        """Return the age of the published values of each view, None where there are none; the metrics tell it, too."""
        ages: dict[str, timedelta | None] = {}
        for view in self.layout().views:
            ages[view.name] = age = datetime.now(UTC) - view.as_of if view.as_of else None
            if age is not None:
                AGE.labels(view.name).set(age.total_seconds())
        return ages

    async def claim(self, run: str, seconds: int, instead_of: str = "") -> str | None:
        """Say to all gateways that `run` is about to start; return the run that another one has said so of."""
        async with self._guarded():
            other = await cast(
                Awaitable[Any],
                self._client.eval(_CLAIM, 1, self._named("starting"), run, str(seconds), instead_of),
            )
        return other.decode() if other else None

    async def starting(self) -> str | None:
        """Return the run that is about to start."""
        return await self._text("starting")

    async def release(self) -> None:
        """Take back what `claim` said."""
        async with self._guarded():
            await self._client.delete(self._named("starting"))

    async def note(self, run: str, text: str) -> None:
        """Keep for a day what became of a run that the ledger knows nothing of."""
        name = self._named(f"run:{run}").encode()
        _without_errors(await self._answers([(b"HSET", name, b"text", text.encode()), (b"EXPIRE", name, b"86400")]))

    async def noted(self, run: str) -> str | None:
        """Return what `note` has kept."""
        return await self._text(f"run:{run}")

    async def _text(self, name: str) -> str | None:
        async with self._guarded():
            text = await cast(Awaitable[Any], self._client.hget(self._named(name), "text"))
        return text.decode() if text else None

    def _decoded(
        self, layout: Layout, keys: Sequence[bytes], rows: Iterable[Row], tenant: bytes | None, asked: int
    ) -> dict[bytes, dict[str, Any]]:
        """Return the features of the rows that belong to `tenant`, and count what was found of the assets asked for."""
        decoded = {}
        found = Counts[tuple[str, ...]]()
        for key, answer in zip(keys, layout.decoded(rows, time.time(), tenant), strict=True):
            if answer is None:
                self._tenants.pop(key, None)  # it may have changed hands since it was asked whose it is
                continue
            decoded[key], statuses = answer
            found[statuses] += 1
            if tenant is not None:
                self._tenants[key] = tenant
        if len(self._tenants) > _REMEMBERED:
            self._tenants.clear()
        found[(NOT_FOUND,) * len(layout.views)] += asked - len(decoded)
        for statuses, number in found.items():
            for view, status in zip(layout.views, statuses, strict=True):
                _lookups(view.name, status).inc(number)
        return decoded

    def _counting(self, caller: Caller) -> list[_Command]:
        # Hashed: an id may hold anything.
        digest = hashlib.blake2b(caller.id.encode(), digest_size=16).hexdigest()
        name = self._named(f"requests:{int(time.time()) // 60}:{digest}").encode()
        return [(b"INCR", name), (b"EXPIRE", name, b"120")]

    def _check_count(self, counted: object) -> None:
        if isinstance(counted, Exception):  # a full Redis counts nothing and reads all the same
            logger.warning("requests are not counted: %s", first_line(counted))
        elif cast(int, counted) > self._limit:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {self._limit} requests in a minute",
                {"Retry-After": str(60 - int(time.time()) % 60)},
            )

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except _FAILURES as error:
            raise _unavailable(error) from None

    async def _answers(self, commands: Sequence[_Command]) -> list[Any]:
        """Return what Redis answers to commands that are sent at once, errors of single ones as they are.

        Raises `ApiError` 503 where it does not answer.
        """
        async with self._guarded():
            if isinstance(self._client, RedisCluster):
                async with self._client.pipeline(transaction=False) as pipe:
                    for name, *arguments in commands:
                        pipe.execute_command(name.decode(), *arguments)
                    answers = await pipe.execute(raise_on_error=False)
                return [list(chain.from_iterable(one.items())) if isinstance(one, dict) else one for one in answers]
            # A pipeline of the client takes several times as long for what it does besides, per command and per answer.
            pool = self._client.connection_pool
            connection = await pool.get_connection()
            try:
                answers = await connection.retry.call_with_retry(
                    lambda: _exchanged(connection, commands), lambda _: connection.disconnect()
                )
            finally:
                await pool.release(connection)
            return cast(list[Any], answers)

    def _named(self, name: str) -> str:
        # It ends like all keys of the project, for Redis' access control.
        return f"gateway:{name}:{self._store.project}"

    async def _any_key(self, layout: Layout) -> bytes | None:
        (nobody,) = layout.keys([""])
        head = nobody[: -len(self._store.project.encode()) - 4]
        async for key in self._client.scan_iter(count=1000):
            if key.startswith(head):
                return cast(bytes, key)
        return None


def _client(store: FeatureStore) -> tuple[Redis | RedisCluster, float | None]:
    """Return a client of the online store, and how many seconds a request may wait for its answers.

    It fails at once, where its own attempts would take seconds. Waiting is limited as a whole: the client itself would
    set a timer for each reply.
    """
    online = store.config.online_store
    nodes, options = RedisOnlineStore._parse_connection_string(online.connection_string)
    places = [(node["host"], int(node["port"])) for node in nodes]
    timeout = options.pop("socket_timeout", None)
    options["retry"] = Retry(NoBackoff(), 1)  # one more attempt, for a connection that was closed since its last use
    if online.redis_type == RedisType.redis_cluster:
        return RedisCluster(startup_nodes=[ClusterNode(*place) for place in places], **options), timeout
    if online.redis_type == RedisType.redis_sentinel:
        return Sentinel(places, **options).master_for(online.sentinel_master), timeout
    host, port = places[0]
    return Redis(host=host, port=port, **options), timeout


async def _exchanged(connection: AbstractConnection, commands: Sequence[_Command]) -> list[Any]:
    parts = [
        b"*%d\r\n" % len(command) + b"".join([b"$%d\r\n%b\r\n" % (len(p), p) for p in command]) for command in commands
    ]
    await connection.send_packed_command(b"".join(parts))
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await connection.read_response())
        except ResponseError as error:
            answers.append(error)
    return answers


@lru_cache
def _lookups(view: str, status: str) -> Counter:
    return LOOKUPS.labels(view, status)


def _without_errors(found: list[Any]) -> list[Any]:
    for answer in found:
        if isinstance(answer, Exception):
            raise _unavailable(answer)
    return found


def _unavailable(error: Exception) -> ApiError:
    """Return the answer where Redis fails, and log why."""
    logger.warning("Redis: %s", first_line(error))
    return unavailable("the online store does not answer")

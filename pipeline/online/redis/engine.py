"""The Redis engine: a snapshot's Parquet file becomes Redis's own bytes column by column, and entities that left go.

It writes what Feast's Redis store writes, byte for byte, and reads a file batch by batch: memory does not depend on
the number of entities.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import accumulate, chain
from typing import cast

import feast
import pyarrow as pa
from feast import FeatureStore, FeatureView, Field
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, _versioned_fv_name
from redis import Redis, RedisCluster, RedisError, exceptions

from pipeline.base.errors import PipelineError, Unavailable, first_line
from pipeline.base.places import Snapshot
from pipeline.base.shard import Shard
from pipeline.online.redis.cluster import Block, call_head
from pipeline.online.redis.connections import Client, connect, primaries
from pipeline.online.redis.departed import departed_online, departed_since, scan
from pipeline.online.redis.layout import ENCODED_TYPES, TESTED_FEAST, RowEncoder, bulk_keys, serialized_stamp
from pipeline.online.redis.scripts import write_row
from pipeline.online.redis.writer import Rows, Written, delete_rows, write_calls, write_rows
from pipeline.online.redis.writer import unowned_fields as delete_unowned
from pipeline.snapshots.files import (
    LATEST,
    can_be_read,
    data_dir_of,
    open_snapshot,
    schema_of,
    set_aside_in,
    snapshot_path,
    snapshots_between,
)

# Parquet is decoded in large batches; rows are encoded in small ones, so that Redis never waits for them.
_READ_ROWS = 16_384
_ENCODE_ROWS = 512
# Of a cluster each node gets its share of a block.
_ENCODE_ROWS_OF_CLUSTER = 2_048

_FALLBACK = "publish with --engine feast, which is slower and works with every online store"
_FULL = "its memory is full (maxmemory) and it may not evict: give it more, or free some"
_REPLICA = "this is a replica: name the primary in feature_store.yaml"
_CLUSTER = "this is a node of a cluster: set redis_type: redis_cluster in feature_store.yaml"
# What Redis answers, or what its client makes of it, and what to do about it.
_ADVICE = {
    "OOM ": _FULL,
    "used memory > 'maxmemory'": _FULL,
    "READONLY ": _REPLICA,
    "read only replica": _REPLICA,
    "MOVED ": _CLUSTER,
    "CROSSSLOT ": _CLUSTER,
    "CLUSTERDOWN ": "a primary is down and no replica has taken its place yet: see `redis-cli cluster nodes`",
    "Cluster mode is not enabled": "this is a single server: leave out redis_type in feature_store.yaml",
    "Argument 'db'": "leave out db in feature_store.yaml: a cluster has one database",
    "No master found": "check that its Sentinels are up and call it by sentinel_master; if they ask for a password or "
    "TLS: Feast has no password for them, only for the master",
    "unknown command `SENTINEL`": "this is no Sentinel: name the Sentinels, or leave out redis_type",
    "invalid username-password pair": "check the user and the password in feature_store.yaml",
    "Authentication required": "set the password in feature_store.yaml",
    "user executing the script can't run": "give its user the rights in deploy/sql/redis_users.conf",
    "no permissions": "give its user the rights in deploy/sql/redis_users.conf",
    "WRONGTYPE ": "another program has written a key of this project",
    "CERTIFICATE_VERIFY_FAILED": "check ssl_ca_certs, and that its certificate is of this host name and not expired",
    "Timeout connecting": "check the host, that it is up and, with ssl=true, that it speaks TLS at this port",
    "WRONG_VERSION_NUMBER": "it does not speak TLS at this port: name the other port, or leave out ssl=true",
    "MISCONF ": "it refuses writes because it cannot save its data to disk",
}

# A connection that failed or broke off, a Redis that loads its data set, a replica whose primary does, moving slots.
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.MasterDownError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    ConnectionError,
    TimeoutError,
)


def check_layout(store: FeatureStore) -> None:
    """Raise `PipelineError` where Feast would read other bytes than this engine writes."""
    config = store.config
    if feast.__version__ not in TESTED_FEAST:
        raise PipelineError(
            f"The Redis engine is tested with Feast {', '.join(TESTED_FEAST)}, and this is Feast {feast.__version__}, "
            f"which may read other bytes: install requirements.txt, or {_FALLBACK}"
        )
    if not isinstance(config.online_store, RedisOnlineStoreConfig):
        raise PipelineError(f"The online store is not Redis but {config.online_store.type}: {_FALLBACK}")
    if config.entity_key_serialization_version != 3:
        raise PipelineError("feature_store.yaml: entity_key_serialization_version has to be 3")


def check_connection(store: FeatureStore) -> None:
    """Raise `PipelineError` at once where Redis cannot be reached: its client would try for seconds, per view."""
    with translated_errors():
        for node in primaries(redis_client(store)):  # a cluster or a Sentinel is asked for them
            with connect(node) as connection:
                connection.send_command("PING")
                connection.read_response()


def write_snapshot_rows(
    store: FeatureStore,
    view: FeatureView,
    as_of: datetime,
    path: Snapshot,
    *,
    over: datetime | None = None,
    replicas: int = 0,
    progress: Callable[[int], None] = lambda _: None,
    shard: Shard | None = None,
) -> Written:
    """Write every row of the snapshot at `path` whose event timestamp in Redis is not later than `as_of`, or `over`.

    With `shard`, its share of them. At the end waits until so many `replicas` of each node have them.
    """
    stamp = serialized_stamp(as_of)
    with translated_errors():
        client = redis_client(store)
        encoder = row_encoder(store, view, persistent=any(map(_some_keys_expire, primaries(client))))
        if isinstance(client, RedisCluster):
            script = write_row(encoder.expiry, over_newer=over is not None)
            blocks = _calls(encoder, path, stamp, script, shard)
            return write_calls(client, script, blocks, replicas=replicas, progress=progress)
        return write_rows(
            client,
            _encoded(encoder, path, stamp, shard),
            project=store.project,
            stamp_field=encoder.stamp_field,
            stamp=serialized_stamp(over) if over else stamp,
            replicas=replicas,
            progress=progress,
        )


def remove_departed(
    store: FeatureStore, view: FeatureView, as_of: datetime, path: Snapshot, *, scan: bool = False
) -> int:
    """Delete the view's values of entities that the snapshot at `path` does not have; return how many had some.

    What is online comes from the snapshot that was published last or, where a run died while publishing, from one
    after it. Where these are not at hand, or with `scan`, all keys of Redis are looked through.
    """
    client, encoder = redis_client(store), row_encoder(store, view)
    earlier = [] if scan else _snapshots_online(view, as_of, path)
    with translated_errors():
        departed = departed_since(earlier, path) if earlier else departed_online(client, encoder, path)
        return delete_rows(
            client,
            map(encoder.keys, departed),
            fields=encoder.fields,
            stamp_field=encoder.stamp_field,
            stamp=serialized_stamp(as_of),
        )


def remove_all_but(store: FeatureStore, view: FeatureView, path: Snapshot) -> int:
    """Delete the view's values of entities without a row in the snapshot at `path`, from whatever instant they are.

    Return how many had some. A row that was set aside is none: what is online of it came later.
    """
    client, encoder = redis_client(store), row_encoder(store, view)
    with translated_errors():
        return delete_rows(
            client,
            map(encoder.keys, chain([set_aside_in(schema_of(path))], departed_online(client, encoder, path))),
            fields=encoder.fields,
            stamp_field=encoder.stamp_field,
            stamp=serialized_stamp(LATEST),
        )


def unowned_fields(store: FeatureStore, *, delete: bool = False) -> int:
    """Return how many fields of features and views that are not registered any more Redis has; `delete` them or not.

    Those of other projects, and of every view that is registered in this one, whoever defines it, have an owner.
    """
    owned = []
    for view in store.registry.list_all_feature_views(store.project):
        name = _versioned_fv_name(cast(FeatureView, view), store.config)
        encoder = _encoder(store, name, view.features)
        owned += [encoder.stamp_field, *encoder.fields]
    client, any_view = redis_client(store), _encoder(store, "", [])
    with translated_errors():
        keys = map(any_view.keys, scan(client, any_view))
        return delete_unowned(client, keys, owned=owned, delete=delete)


def redis_client(store: FeatureStore) -> Client:
    """Return the client that Feast's Redis store makes from feature_store.yaml."""
    online_store = cast(RedisOnlineStore, store._get_provider().online_store)
    return cast(Client, online_store._get_client(store.config.online_store))


def row_encoder(store: FeatureStore, view: FeatureView, *, persistent: bool = False) -> RowEncoder:
    """Return the encoder of a registered view, which makes its keys `persistent` unless they are to expire.

    Raises `PipelineError` where it has a type that is not encoded.
    """
    if others := [field.name for field in view.features if field.dtype not in ENCODED_TYPES]:
        raise PipelineError(f"The Redis engine does not encode the type of {', '.join(others)}: {_FALLBACK}")
    return _encoder(store, _versioned_fv_name(view, store.config), view.features, persistent=persistent)


def readable_ids(store: FeatureStore, view: FeatureView, keys: list[bytes], most: int = 5) -> list[str]:
    """Return the entity ids of `keys`, without control characters; of more than `most` the first ones."""
    ids = row_encoder(store, view).ids(pa.array(keys, pa.binary())).to_pylist()
    shown = [name.encode("unicode_escape").decode() for name in ids[:most]]
    return [*shown, f"{len(ids) - most:,} more"] if len(ids) > most else shown


def _encoder(store: FeatureStore, view: str, features: list[Field], *, persistent: bool = False) -> RowEncoder:
    ttl = store.config.online_store.key_ttl_seconds
    return RowEncoder(
        view, features, project=store.project, join_key="asset_id", ttl_seconds=ttl, persistent=persistent and not ttl
    )


def _some_keys_expire(client: Redis) -> bool:
    """Return whether any key of this Redis database does: of earlier settings, or of another program."""
    try:
        keyspace = cast(dict[str, dict[str, int]], client.info("keyspace"))
    except exceptions.NoPermissionError:
        return True
    database = client.connection_pool.connection_kwargs.get("db") or 0
    return keyspace.get(f"db{database}", {}).get("expires", 0) > 0


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what Redis and its client raise into one line for a person."""
    try:
        yield
    except (RedisError, exceptions.RedisClusterException, OSError) as error:
        text = first_line(error).split(" : <")[0]  # of Sentinels the client shows its own objects
        kind = Unavailable if may_pass(error) else PipelineError
        raise kind(f"Redis: {text}: {advice_for(text)}") from error


def may_pass(error: Exception) -> bool:
    """Return whether what the client of Redis or its socket raised may not come again at the next attempt."""
    if isinstance(error, exceptions.RedisClusterException) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what the last of the nodes has said
    return (
        isinstance(error, _PASSING)
        and not isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError)
        and not isinstance(error.__context__, ssl.SSLCertVerificationError)
    )


def advice_for(text: str) -> str:
    """Return what to do about what Redis or its client has said."""
    said = f"{text} ".lower()
    advice = next((advice for sign, advice in _ADVICE.items() if sign.lower() in said), None)
    return advice or "check that it is up and the connection string in feature_store.yaml"


def _encoded(encoder: RowEncoder, path: Snapshot, stamp: bytes, shard: Shard | None) -> Iterator[Rows]:
    for batch in _batches(path, _ENCODE_ROWS, shard):
        keys = encoder.bulk_keys(batch.column("asset_id"))
        yield Rows(keys, encoder.updates(batch, keys, stamp), encoder.commands_per_row)


def _calls(encoder: RowEncoder, path: Snapshot, stamp: bytes, script: bytes, shard: Shard | None) -> Iterator[Block]:
    head = call_head(script, encoder.arguments)
    for batch in _batches(path, _ENCODE_ROWS_OF_CLUSTER, shard):
        keys = encoder.keys(batch.column("asset_id"))
        yield keys, encoder.calls(batch, bulk_keys(keys), stamp, head)


def _batches(path: Snapshot, rows: int, shard: Shard | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a snapshot, with `shard` its share, of which only the row groups are read that have some."""
    file = open_snapshot(path)
    share = shard.rows_of(file.metadata.num_rows) if shard else range(file.metadata.num_rows)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = list(accumulate(sizes))
    groups = [group for group, end in enumerate(ends) if end > share.start and end - sizes[group] < share.stop]
    position = ends[groups[0]] - sizes[groups[0]] if groups else 0
    for read in file.iter_batches(_READ_ROWS, row_groups=groups):
        first, stop = max(share.start - position, 0), min(share.stop - position, read.num_rows)
        position += read.num_rows
        for start in range(first, stop, rows):
            yield read.slice(start, min(rows, stop - start))


def _snapshots_online(view: FeatureView, as_of: datetime, path: Snapshot) -> list[Snapshot]:
    """Return the snapshots from which all that is online comes; none where they are not all at hand."""
    data_dir, published = data_dir_of(path), view.most_recent_end_time
    if not published or published >= as_of:  # a snapshot of the same instant has been replaced
        return []
    snapshots = snapshots_between(data_dir, view.name, published, as_of)
    is_complete = snapshot_path(data_dir, view.name, published) in snapshots and all(map(can_be_read, snapshots))
    return snapshots if is_complete else []

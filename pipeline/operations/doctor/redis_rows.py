"""How Redis keeps the rows: small hashes in one piece, larger ones as hashtables, of several times the memory."""

from itertools import islice
from typing import cast

import pyarrow as pa
from feast.repo_config import RepoConfig
from redis import Redis
from redis.exceptions import NoPermissionError

from pipeline.base.errors import first_line
from pipeline.base.specs import VIEWS
from pipeline.base.views import ASSETS
from pipeline.online.redis.departed import scan
from pipeline.online.redis.layout import RowEncoder
from pipeline.operations.doctor.check import Check, Subject

SAMPLE = 1_000
# In a Redis that others fill, too, the sample may be smaller.
_MOST_SCANS = 20
# Redis' own limits.
_BYTES, _VALUES = 64, 128


def check_rows(redis: Subject, client: Redis, config: RepoConfig) -> Check:
    """Return whether a sample of the entities are small hashes, and if not, which value is too long for one."""
    encoders = {
        view: RowEncoder(view, definition.features, project=config.project, join_key="asset_id", ttl_seconds=None)
        for view, definition in VIEWS.items()
    }
    assets = encoders[ASSETS]
    ids = [i for found in islice(scan(client, assets), _MOST_SCANS) for i in found.to_pylist()][:SAMPLE]
    keys = cast(list[bytes], assets.keys(pa.array(ids, pa.string())).to_pylist())
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.object("encoding", key)
        try:
            encodings = pipe.execute()
        except NoPermissionError as error:
            return redis.not_checked(("rows",), f"{first_line(error)}: see deploy/sql/redis_users.conf")
    large = [key for key, encoding in zip(keys, encodings, strict=True) if encoding == b"hashtable"]
    if not large:
        return redis.ok("rows", f"small hashes ({len(keys)} looked at)")
    names = {
        field: f"{view}.{feature.name}"
        for view, encoder in encoders.items()
        for field, feature in zip(encoder.fields, VIEWS[view].features, strict=True)
    }
    row = cast(dict[bytes, bytes], client.hgetall(cast(str, large[0])))
    longest = max(row, key=lambda field: len(row[field]), default=b"")
    size = len(row.get(longest, b""))
    return redis.warning(
        "rows",
        f"{len(large)} of {len(keys)} that were looked at are hashtables, of several times the memory: one has "
        f"{len(row)} values, the longest, {names.get(longest, 'of another writer')}, of {size} bytes",
        f"set hash-max-listpack-value to {_at_least(size, _BYTES)} and hash-max-listpack-entries to "
        f"{_at_least(len(row), _VALUES)} (before Redis 7: hash-max-ziplist-...), then restart it: what is a hashtable "
        "stays one until then",
    )


def _at_least(needed: int, default: int) -> int:
    return max(default, 1 << (needed - 1).bit_length())

"""The bytes in which Feast's Redis store keeps a feature view, made a block of rows at a time.

One hash per entity, shared by all of its views. Its key: the serialized entity key (version 3), then the project. Its
fields: the 4-byte murmur3 of `view:feature` with a serialized `Value`, empty for NULL, and `_ts:view` with a serialized
`Timestamp`. Source: `feast.infra.online_stores.redis` and `feast.infra.key_encoding_utils` of the versions in
`TESTED_FEAST`; tests/test_redis_layout.py compares every byte with what Feast itself writes.

Rows leave here as commands of the Redis protocol (RESP), one per row, back to back in one buffer.
"""

import math
import re
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import Field
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import ValueType
from feast.types import FeastType, Float32, Float64, Int32, String
from google.protobuf.timestamp_pb2 import Timestamp

TESTED_FEAST = ("0.67.0",)
ENCODED_TYPES: tuple[FeastType, ...] = (Float32, Float64, Int32, String)

_LINE_END = b"\r\n"
# A varint holds 7 bits per byte; a negative int32 is sign-extended to 64 bits.
_VARINT_BYTES = 10
# A `Value` in a bulk string of the protocol: its length, the tag of its type, and room for the value.
_VALUE_SLOTS: dict[FeastType, bytes] = {
    Float32: b"$5\r\n\x35" + bytes(4),
    Float64: b"$9\r\n\x29" + bytes(8),
    Int32: b"$00\r\n\x18" + bytes(_VARINT_BYTES),
}
_STRING_TAG = b"\x12"


class RowEncoder:
    """Encodes the rows of one feature view with a single string join key, for one project."""

    def __init__(
        self,
        view: str,
        features: Sequence[Field],
        *,
        project: str,
        join_key: str,
        ttl_seconds: int | None,
        persistent: bool = False,
    ) -> None:
        self.stamp_field = f"_ts:{view}".encode()
        self._key_prefix = serialize_entity_key_prefix([join_key]) + ValueType.STRING.to_bytes(4, "little")
        #: The command, without the key, that limits how long a row lives or ends such a limit; none by default.
        self.expiry = (b"EXPIRE", b"%d" % ttl_seconds) if ttl_seconds else (b"PERSIST",) if persistent else ()
        #: How many commands of `updates` belong to one row.
        self.commands_per_row = 2 if self.expiry else 1
        #: How many words a row sets: fields and values.
        self.arguments = 2 + 2 * len(features)
        self._project = project.encode()
        self._fields = {f.name: _mmh3(f"{view}:{f.name}") for f in features}
        self._names = {dtype: [f.name for f in features if f.dtype == dtype] for dtype in ENCODED_TYPES}
        self._slots = {dtype: self._row_of_slots(dtype) for dtype in _VALUE_SLOTS if self._names[dtype]}

    @property
    def key_pattern(self) -> bytes:
        """Return the glob pattern of all keys of the project and join key; `ids` then tells what else it matches."""
        return re.sub(rb"([*?\[\]\\])", rb"\\\1", self._key_prefix) + b"*" + self._project

    @property
    def fields(self) -> list[bytes]:
        """Return the fields of the features, without that of the event timestamp."""
        return list(self._fields.values())

    def keys(self, ids: pa.Array) -> pa.Array:
        """Return the Redis key of each entity id."""
        return joined(self._key_prefix, _little_endian(pc.binary_length(ids)), ids, self._project)

    def bulk_keys(self, ids: pa.Array) -> pa.Array:
        """Return the Redis key of each entity id, as a bulk string of the protocol."""
        return bulk_keys(self.keys(ids))

    def ids(self, keys: pa.Array) -> pa.Array:
        """Return the entity ids of those Redis `keys` that are keys of this project and join key.

        One that is no text is none: Feast cannot be asked for it.
        """
        head, tail = len(self._key_prefix) + 4, len(self._project)
        lengths = pc.subtract(pc.binary_length(keys), head + tail)
        is_ours = pc.and_(
            pc.and_(pc.starts_with(keys, self._key_prefix), pc.ends_with(keys, self._project)),
            pc.greater_equal(lengths, 0),
        )
        keys, lengths = keys.filter(is_ours), lengths.filter(is_ours)
        # the length that the key itself states tells `dcmms` from a project whose name ends in `dcmms`
        says = pc.binary_slice(keys, head - 4, head)
        keys = keys.filter(pc.equal(says, _little_endian(lengths)))
        ids = pc.binary_slice(keys, head, -tail)
        try:
            return ids.cast(pa.string())
        except pa.ArrowInvalid:
            return pa.array([each for each in ids.to_pylist() if _is_text(each)], pa.string())

    def updates(self, batch: pa.RecordBatch, keys: pa.Array, stamp: bytes) -> pa.Array:
        """Return, per row, the command that sets every feature and the timestamp `stamp`; `keys` as of `bulk_keys`."""
        head = b"*%d\r\n$4\r\nHSET\r\n" % (2 + self.arguments)
        parts = [head, keys, *self._arguments(batch, stamp)]
        if self.expiry:
            command, *limit = self.expiry
            parts += [b"*%d\r\n" % (2 + len(limit)) + bulk_strings(command), keys, bulk_strings(*limit)]
        return joined(*parts)

    def calls(self, batch: pa.RecordBatch, keys: pa.Array, stamp: bytes, head: bytes) -> pa.Array:
        """Return, per row, `head`, its key, and as `arguments` what `updates` sets."""
        return joined(head, keys, *self._arguments(batch, stamp))

    def _arguments(self, batch: pa.RecordBatch, stamp: bytes) -> list[bytes | pa.Array]:
        # the timestamp first, as in Feast: a small hash is searched from its start, for this before each write
        parts: list[bytes | pa.Array] = [bulk_strings(self.stamp_field, stamp)]
        for dtype, slots in self._slots.items():
            encode = self._integers if dtype == Int32 else self._floats
            parts.append(encode(batch.select(self._names[dtype]), slots))
        for name in self._names[String]:
            parts += [bulk_strings(self._fields[name]), _string_values(batch.column(name))]
        return parts

    def _row_of_slots(self, dtype: FeastType) -> np.ndarray:
        """Return the fields of a type in one row, one line of bytes each, with zeros where the value goes."""
        slots = [bulk_strings(self._fields[name]) + _VALUE_SLOTS[dtype] + _LINE_END for name in self._names[dtype]]
        return np.frombuffer(b"".join(slots), np.uint8).reshape(len(slots), -1)

    def _floats(self, columns: pa.RecordBatch, template: np.ndarray) -> pa.Array:
        values = np.column_stack([column.to_numpy(zero_copy_only=False) for column in columns.columns])
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
        size = values.itemsize
        slots = np.empty((len(values), *template.shape), np.uint8)
        slots[:] = template
        slots[:, :, -2 - size : -2] = values.view(np.uint8).reshape(*values.shape, size)
        missing = np.isnan(values)  # NULL or not a number: both are NULL to Feast
        if not missing.any():
            return _binary(slots)
        slots[:, :, -6 - size][missing] = ord("0")
        used = np.ones_like(slots, bool)
        used[:, :, -3 - size : -2] = ~missing[:, :, None]
        return _binary(slots, used)

    def _integers(self, columns: pa.RecordBatch, template: np.ndarray) -> pa.Array:
        known = np.column_stack([column.is_valid().to_numpy(zero_copy_only=False) for column in columns.columns])
        values = np.column_stack([column.fill_null(0).to_numpy() for column in columns.columns])
        varint, follows = _varints(values.astype(np.int64).view(np.uint64))
        width = varint.shape[2]
        head = template.shape[1] - 2 - _VARINT_BYTES
        slots = np.empty((*values.shape, head + width + 2), np.uint8)
        slots[:] = np.concatenate([template[:, : head + width], template[:, -2:]], axis=1)
        slots[:, :, head : head + width] = varint
        # before the tag: the length of the value, in one or two digits
        length = np.where(known, 2 + follows.sum(axis=2), 0).astype(np.uint8)
        slots[:, :, head - 5] += length // 10
        slots[:, :, head - 4] += length % 10
        used = np.ones_like(slots, bool)
        used[:, :, head - 5] = length >= 10
        used[:, :, head - 1] = known
        used[:, :, head] = known
        used[:, :, head + 1 : head + width] = follows[:, :, :-1] & known[:, :, None]
        return _binary(slots, used)


def serialized_stamp(instant: datetime) -> bytes:
    """Return the serialized `Timestamp` of an instant with a zone."""
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp.SerializeToString()


def bulk_strings(*texts: bytes) -> bytes:
    """Return the texts as bulk strings of the protocol, one after the other."""
    return b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts)


def bulk_keys(keys: pa.Array) -> pa.Array:
    """Return each of the keys as a bulk string of the protocol."""
    return joined(b"$", _decimal(pc.binary_length(keys)), _LINE_END, keys, _LINE_END)


def joined(*parts: bytes | pa.Array) -> pa.Array:
    """Return the parts of each row as one binary value; bytes are the same in every row."""
    columns = [
        pa.scalar(part, pa.binary()) if isinstance(part, bytes) else part.cast(pa.binary(), safe=False)
        for part in parts
    ]
    return pc.binary_join_element_wise(*columns, b"")


def _binary(slots: np.ndarray, used: np.ndarray | None = None) -> pa.Array:
    """Return the bytes of each row of `slots`, only the `used` ones where given, as one binary value."""
    rows = len(slots)
    if used is None:
        data, sizes = slots, np.full(rows, math.prod(slots.shape[1:]))
    else:
        data, sizes = slots[used], used.reshape(rows, -1).sum(axis=1)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _decimal(numbers: pa.Array) -> pa.Array:
    return numbers.cast(pa.string())


def _little_endian(numbers: pa.Array) -> pa.Array:
    """Return whole numbers as four bytes, the lowest first."""
    return _binary(numbers.to_numpy(zero_copy_only=False).astype("<u4")[:, None].view(np.uint8))


def _string_values(strings: pa.Array) -> pa.Array:
    """Return each string as a serialized `Value` in a bulk string of the protocol; NULL is an empty one."""
    lengths = pc.fill_null(pc.binary_length(strings), 0)
    varint, follows = _varints(lengths.to_numpy().astype(np.uint64)[:, None])
    used = np.ones_like(follows)
    used[:, :, 1:] = follows[:, :, :-1]
    prefixes = _binary(varint, used)
    sizes = _decimal(pc.add(pc.add(lengths, 1), pc.binary_length(prefixes)))
    values = joined(b"$", sizes, _LINE_END + _STRING_TAG, prefixes, strings.fill_null(""), _LINE_END)
    return pc.if_else(strings.is_valid(), values, pa.scalar(bulk_strings(b""), pa.binary()))


def _varints(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the varint of each number, as many bytes wide as the longest, and which bytes another one follows."""
    width = max(1, -(-int(bits.max(initial=0)).bit_length() // 7))
    sevens = bits[..., None] >> (7 * np.arange(width, dtype=np.uint64))
    follows = sevens >= 128
    return (sevens & 127).astype(np.uint8) | (follows.astype(np.uint8) << 7), follows


def _is_text(raw: bytes) -> bool:
    try:
        return bool(raw.decode()) or not raw
    except UnicodeDecodeError:
        return False

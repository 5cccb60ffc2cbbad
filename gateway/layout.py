"""The rows of feature services as Redis holds them, and what they are in JSON.

Compiled once from what is registered, and per order of fields as rows have it; then a row is decoded by its places and
one `struct` per number format. A value that is not as its feature is registered, of another writer, is read as the
protobuf that it is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, repeat
from operator import itemgetter
from struct import Struct
from typing import Any

from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import _versioned_fv_name
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.types import FeastType, Float32, Float64
from google.protobuf.timestamp_pb2 import Timestamp

from pipeline.base.views import ASSETS
from serving.online_store import string_keys

PRESENT, NOT_FOUND, EXPIRED, PARTIAL = "present", "not_found", "expired", "partial"
ASSET_KEY, TENANT = "asset_id", "tenant_id"

# What HGETALL answers: field, value, field, value, ...
Row = list[bytes]
_Picker = Callable[[Sequence[Any]], Sequence[Any]]
# The tag of a serialized Value, and one of NULL: not a number, which is null in JSON.
_FORMATS: dict[FeastType, tuple[bytes, str, bytes]] = {
    Float32: (b"\x35", "f", b"\x35\x00\x00\xc0\x7f"),
    Float64: (b"\x29", "d", b"\x29\x00\x00\x00\x00\x00\x00\xf8\x7f"),
}


@dataclass(frozen=True)
class View:
    """A view of the service: what of it the service has, and until when its newest snapshot counts as published."""

    name: str
    description: str
    features: Sequence[Field]
    stamp_field: bytes
    ttl_seconds: float | None
    as_of: datetime | None


class Layout:
    """The rows of one feature service."""

    def __init__(self, project: str, views: Sequence[View], fields: Mapping[str, Mapping[str, bytes]]) -> None:
        self.views = views
        self.tenant_field = _mmh3(f"{ASSETS}:{TENANT}")
        self._project = project
        features = [(view.name, feature) for view in views for feature in view.features]
        self.names = [feature.name for _, feature in features]
        groups: dict[FeastType | None, list[int]] = {dtype: [] for dtype in (*_FORMATS, None)}
        for place, (_, feature) in enumerate(features):
            groups[feature.dtype if feature.dtype in _FORMATS else None].append(place)
        hashed = [fields[view][feature.name] for view, feature in features]
        self._fields = [[hashed[place] for place in places] for places in groups.values()]
        self._numbers = [_Numbers(dtype, len(groups[dtype])) for dtype in _FORMATS]
        decoded = list(chain.from_iterable(groups.values()))
        self._in_order = _picker(sorted(range(len(decoded)), key=decoded.__getitem__))
        ends = [sum(len(view.features) for view in views[: number + 1]) for number in range(len(views))]
        self._slices = [slice(end - len(view.features), end) for view, end in zip(views, ends, strict=True)]
        self._places = lru_cache(256)(self._placed)
        self._parsed = _Parsed()
        self.nothing: dict[str, Any] = {"features": dict.fromkeys(self.names), "status": NOT_FOUND, "asOf": {}}

    def keys(self, ids: Iterable[str]) -> list[bytes]:
        """Return the Redis keys of assets."""
        return string_keys(self._project, ASSET_KEY, ids)

    def decoded(
        self, rows: Iterable[Row], now: float, tenant: bytes | None = None
    ) -> list[tuple[dict[str, Any], tuple[str, ...]] | None]:
        """Return the features of assets with their status at `now`, seconds since 1970, and the status per view.

        None stands for a row that is empty, or not of `tenant`, a serialized `Value`. The lists of `rows` are used up.
        """
        answers: list[tuple[dict[str, Any], tuple[str, ...]] | None] = []
        published = lru_cache(None)(lambda *stamps: self._published(stamps, now))
        floats, doubles = self._numbers
        fields: list[bytes] | None = None
        for row in rows:
            if (of_row := row[::2]) != fields:  # most have those of the one before
                fields = of_row
                stamps_of, tenant_of, floats_of, doubles_of, others_of = self._places(tuple(fields))
            row.append(b"")  # in place of what the row lacks
            if len(row) == 1 or (tenant is not None and row[tenant_of] != tenant):
                answers.append(None)
                continue
            status, statuses, as_of = published(*stamps_of(row))
            if PRESENT not in statuses:
                answers.append((self.nothing | {"status": status, "asOf": as_of}, statuses))
                continue
            others = map(self._parsed.__getitem__, others_of(row))
            ordered = self._in_order((*floats.decoded(floats_of(row)), *doubles.decoded(doubles_of(row)), *others))
            if status == PARTIAL:
                ordered = list(ordered)
                for part, of_view in zip(self._slices, statuses, strict=True):
                    if of_view != PRESENT:
                        ordered[part] = repeat(None, part.stop - part.start)
            features = dict(zip(self.names, ordered, strict=True))
            answers.append(({"features": features, "status": status, "asOf": as_of}, statuses))
        return answers

    def _placed(self, fields: Sequence[bytes]) -> tuple[_Picker, int, _Picker, _Picker, _Picker]:
        """Return where a row with these fields has its stamps, its tenant, and its features by their format."""
        place = {name: 2 * number + 1 for number, name in enumerate(fields)}
        stamps = [view.stamp_field for view in self.views]
        pickers = [_picker([place.get(name, -1) for name in names]) for names in (stamps, *self._fields)]
        return pickers[0], place.get(self.tenant_field, -1), pickers[1], pickers[2], pickers[3]

    def _published(self, stamps: Sequence[bytes], now: float) -> tuple[str, tuple[str, ...], dict[str, str]]:
        """Return the status of a row with these stamps, that of each view, and the instants of those that have one."""
        statuses, as_of = [], {}
        for view, stamp in zip(self.views, stamps, strict=True):
            if not stamp:
                statuses.append(NOT_FOUND)
                continue
            seconds, as_of[view.name] = _instant(stamp)
            is_old = view.ttl_seconds is not None and now - seconds > view.ttl_seconds
            statuses.append(EXPIRED if is_old else PRESENT)
        if PRESENT in statuses:
            status = PRESENT if statuses.count(PRESENT) == len(statuses) else PARTIAL
        else:
            status = EXPIRED if EXPIRED in statuses else NOT_FOUND
        return status, tuple(statuses), as_of


class _Numbers:
    """The features of one number format: all of a row are unpacked at once."""

    def __init__(self, dtype: FeastType, number: int) -> None:
        tag, code, self._null = _FORMATS[dtype]
        self._struct = Struct("<" + f"x{code}" * number)
        self._size = len(self._null)
        self._tags = tag * number

    def decoded(self, values: Sequence[bytes]) -> Iterable[Any]:
        data = b"".join([value or self._null for value in values])
        # Every value is as long as the others and of this format, or one of them is another writer's.
        if len(data) == self._struct.size and data[:: self._size] == self._tags:
            return self._struct.unpack(data)
        return map(_parsed, values)


def _picker(places: Sequence[int]) -> _Picker:
    """Return what takes the values at `places`, however many these are: `itemgetter` of one returns no tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: tuple(row[place] for place in places)


def compiled(store: FeatureStore) -> dict[str, Layout]:
    """Return the layout of each registered feature service by its name.

    Those that an answer by asset and feature name cannot hold are left out: of other entities, computed on demand, or
    with two features of one name. Raises what Feast raises where the registry is out of reach.
    """
    views = {view.name: view for view in store.list_feature_views() if view.join_keys == [ASSET_KEY]}
    return {
        service.name: _compiled(store, service, views)
        for service in store.list_feature_services()
        if _is_answerable(service, views)
    }


def _is_answerable(service: FeatureService, views: Mapping[str, FeatureView]) -> bool:
    projections = service.feature_view_projections
    names = [feature.name for projection in projections for feature in projection.features]
    return len(set(names)) == len(names) > 0 and all(projection.name in views for projection in projections)


def _compiled(store: FeatureStore, service: FeatureService, registered: Mapping[str, FeatureView]) -> Layout:
    views, fields = [], {}
    for projection in service.feature_view_projections:
        view = registered[projection.name]
        stored = _versioned_fv_name(view, store.config)
        fields[view.name] = {feature.name: _mmh3(f"{stored}:{feature.name}") for feature in projection.features}
        views.append(
            View(
                view.name,
                view.description,
                projection.features,
                f"_ts:{stored}".encode(),
                view.ttl.total_seconds() if view.ttl else None,
                view.most_recent_end_time,
            )
        )
    return Layout(store.project, views, fields)


@lru_cache(4096)
def _instant(stamp: bytes) -> tuple[float, str]:
    """Return a serialized `Timestamp` in seconds since 1970, and in ISO 8601."""
    read = Timestamp.FromString(stamp)
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=read.seconds, microseconds=read.nanos // 1000)
    return instant.timestamp(), instant.isoformat().replace("+00:00", "Z")


def _parsed(value: bytes) -> Any:
    """Return a serialized `Value` as Python has it, None for NULL."""
    return feast_value_type_to_python_type(Value.FromString(value)) if value else None


class _Parsed(dict[bytes, Any]):
    """What values are, each parsed once: counts and names repeat, and a lookup costs a fiftieth."""

    def __missing__(self, value: bytes) -> Any:
        if len(self) >= 65_536:
            self.clear()
        self[value] = parsed = _parsed(value)
        return parsed

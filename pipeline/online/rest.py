"""Training equals serving, live: what a running server answers over HTTP, compared with the snapshots.

Stock Feast's feature server (`POST /get-online-features`) and the gateway (`POST /api/v1/ml/features/assets`) are asked
as their clients ask them; which of the two is there shows in its answers. Nothing of them is known from within.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import requests
from feast import FeatureStore, FeatureView

from features.view_spec import look_up
from pipeline.base.errors import PipelineError, Unavailable, first_line
from pipeline.base.places import DataDir, Snapshot
from pipeline.base.retries import attempts
from pipeline.base.specs import TIMESTAMP, snapshot_schema
from pipeline.base.stop import raise_if_stopped
from pipeline.online.verify import Consistency, count_differences
from pipeline.registry.feast_store import check_data_dir, registered_view
from pipeline.snapshots.files import (
    is_there,
    newest_snapshot,
    schema_of,
    set_aside_in,
    snapshot_dataset,
    snapshot_instant,
    snapshot_path,
)

FEATURE_SERVER, GATEWAY = "feature server", "gateway"
# What the gateway takes in one request.
REQUEST_ASSETS = 100
_ANSWER_SECONDS = 30
_PREFIX = "/api/v1/ml/features"
_UNAUTHORIZED, _NOT_FOUND, _TOO_MANY, _UNAVAILABLE = 401, 404, 429, {502, 503, 504}
_NO_ROW = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_WAIT_SECONDS = 60.0


@dataclass
class Answer:
    """What a server says of some assets, of one view: a list per feature, and the instant of each row, None without."""

    values: dict[str, list[Any]]
    instants: list[datetime | None]


class Server:
    """A server of features, as one of its clients.

    `token` is shown only where the server asks for one. `kind` is FEATURE_SERVER or GATEWAY. Raises `PipelineError`
    where neither answers at `url`, or does not let the client in.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._token = token
        self._session = requests.Session()
        # No proxy, and no password of a .netrc: the address is that of the server itself.
        self._session.trust_env = False
        health = self._ask("GET", f"{_PREFIX}/health", passing=(_NOT_FOUND, *_UNAVAILABLE))
        self.kind = GATEWAY if isinstance(health, dict) and "healthy" in health else FEATURE_SERVER

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def served(self, views: Sequence[FeatureView]) -> dict[str, list[str]]:
        """Return which features of each of `views` it answers: the gateway those of its default service."""
        of_each = {view.name: [field.name for field in view.features] for view in views}
        if self.kind == FEATURE_SERVER:
            return of_each
        details = self._ask("GET", f"{_PREFIX}/views?details=true")
        with _understood(self.url):
            answered = {v["name"]: {feature["name"] for feature in v["features"]} for v in details["featureViews"]}
        return {
            view: [name for name in names if name in answered[view]]
            for view, names in of_each.items()
            if view in answered
        }

    def answers(self, features: Mapping[str, Sequence[str]], ids: Sequence[str]) -> dict[str, Answer]:
        """Return what it says of `features`, by view, of at most `REQUEST_ASSETS` assets."""
        ask = self._ask_gateway if self.kind == GATEWAY else self._ask_feature_server
        return ask(features, ids)

    def _ask_feature_server(self, features: Mapping[str, Sequence[str]], ids: Sequence[str]) -> dict[str, Answer]:
        found = {}
        for view, names in features.items():
            body = {"features": [f"{view}:{name}" for name in names], "entities": {"asset_id": ids}}
            said = self._ask("POST", "/get-online-features", body)
            with _understood(self.url):
                columns = dict(zip(said["metadata"]["feature_names"], said["results"], strict=True))
                instants = [datetime.fromisoformat(text) for text in columns[names[0]]["event_timestamps"]]
                found[view] = Answer(
                    {name: columns[name]["values"] for name in names},
                    [None if instant == _NO_ROW else instant for instant in instants],
                )
        return found

    def _ask_gateway(self, features: Mapping[str, Sequence[str]], ids: Sequence[str]) -> dict[str, Answer]:
        said = self._ask("POST", f"{_PREFIX}/assets", {"assetIds": ids})
        with _understood(self.url):
            assets = said["features"]
            if [asset["assetId"] for asset in assets] != ids:
                raise ValueError("other assets than those asked for")
            return {
                view: Answer(
                    {name: [asset["features"][name] for asset in assets] for name in names},
                    [datetime.fromisoformat(a["asOf"][view]) if view in a["asOf"] else None for a in assets],
                )
                for view, names in features.items()
            }

    def _ask(self, method: str, path: str, body: object = None, passing: Iterable[int] = ()) -> Any:
        return attempts()(self._ask_once, method, path, body, {*passing})

    def _ask_once(self, method: str, path: str, body: Any, passing: set[int]) -> Any:
        """Return the JSON of an answer, None where it is none.

        Raises `PipelineError` where its status is none that is good or `passing`, `Unavailable` where that may change.
        """
        while True:
            raise_if_stopped()
            try:
                answer = self._session.request(
                    method, self.url + path, json=body, timeout=_ANSWER_SECONDS, allow_redirects=False
                )
            except requests.exceptions.SSLError as error:
                raise PipelineError(
                    f"{self.url}: {_reason(error)}", "Is its certificate one of this system's?"
                ) from error
            except requests.RequestException as error:
                raise Unavailable(f"{self.url} does not answer: {_reason(error)}") from error
            if answer.status_code == _UNAUTHORIZED and self._token and "Authorization" not in self._session.headers:
                self._session.headers["Authorization"] = f"Bearer {self._token}"
            elif answer.status_code == _TOO_MANY:
                time.sleep(_seconds_to_wait(answer))
            else:
                break
        if answer.status_code != requests.codes.ok and answer.status_code not in passing:
            raise self._refused(answer, path)
        try:
            return answer.json()
        except ValueError:
            return None

    def _refused(self, answer: requests.Response, path: str) -> PipelineError:
        status = answer.status_code
        text = f"{self.url}{path.partition('?')[0]} answers {status} {answer.reason}"
        if status in _UNAVAILABLE:
            return Unavailable(text)
        if status in (_UNAUTHORIZED, 403):
            return PipelineError(
                text, "REST_TOKEN has to hold an access token that may read" if self._token else "Set REST_TOKEN"
            )
        if status == _NOT_FOUND:
            return PipelineError(text, "Is a feature server or a gateway there, with these definitions applied?")
        return PipelineError(text)


def verify_server(
    server: Server, store: FeatureStore, data_dir: DataDir, views: Sequence[str], *, sample: int | None = None
) -> list[Consistency]:
    """Ask `server` for the features of assets, and compare each value with the snapshots; return a result per feature.

    The expected values of a view are those of the snapshot that was published last. A row that the server says is of
    a later instant, published meanwhile, is compared with the snapshot of that instant; whoever is behind differs. The
    gateway has NULL for rows older than the view's ttl, and for infinity. With `sample`, so many assets, chosen at
    random of all that a snapshot of `views` has. Raises `PipelineError` where there is no snapshot, a view is not
    registered, or the server refuses.
    """
    registered = [registered_view(store, view) for view in views]
    for view in registered:
        check_data_dir(view, data_dir)
    features = server.served(registered)
    expected = {view.name: _Expected(data_dir, view, server.kind) for view in registered if view.name in features}
    if not expected:
        raise PipelineError(f"{server.url} serves none of {', '.join(views)}")
    results = {view: {name: Consistency(view, name) for name in names} for view, names in features.items()}
    ids = pc.unique(
        pa.chunked_array([c for e in expected.values() for c in e.published["asset_id"].chunks], pa.string())
    )
    if sample is not None and sample < len(ids):
        ids = ids.take(np.random.default_rng().choice(len(ids), sample, replace=False))
    for start in range(0, len(ids), REQUEST_ASSETS):
        asked = ids.slice(start, REQUEST_ASSETS)
        for name, answer in server.answers(features, asked.to_pylist()).items():
            with _understood(server.url):
                expected[name].compare(asked, answer, results[name])
    return [result for of_view in results.values() for result in of_view.values()]


class _Expected:
    """The rows of one view that a server has to answer with."""

    def __init__(self, data_dir: DataDir, view: FeatureView, kind: str) -> None:
        self._data_dir, self._view, self._is_gateway = data_dir, view, kind == GATEWAY
        path = newest_snapshot(data_dir, view.name, until=view.most_recent_end_time)
        if path is None:
            raise PipelineError(f"{view.name}: there is no snapshot in {data_dir / view.name} to compare with")
        self.published = self._read(path)
        self._last = snapshot_instant(path)
        self._later: dict[datetime, pa.Table] = {}

    def compare(self, ids: pa.Array, answer: Answer, results: Mapping[str, Consistency]) -> None:
        """Add to `results` how the answer of the assets `ids` differs; one whose row was set aside counts nothing."""
        instants = pa.array(answer.instants, TIMESTAMP)
        later = {instant for instant in answer.instants if instant and instant > self._last}
        groups = [(self.published, pc.invert(pc.is_in(instants, value_set=pa.array([*later], TIMESTAMP))))]
        groups += [(self._snapshot_of(instant), pc.fill_null(pc.equal(instants, instant), False)) for instant in later]
        for table, rows in groups:
            rows = pc.and_not(rows, pc.is_in(ids, value_set=set_aside_in(table.schema)))
            keys = pa.chunked_array([ids.filter(rows)])
            for name, result in results.items():
                online = _column(answer.values[name], table.schema.field(name).type).filter(rows)
                count_differences(look_up(table, name, keys), pa.chunked_array([online]), result)

    def _snapshot_of(self, instant: datetime) -> pa.Table:
        if instant not in self._later:
            path = snapshot_path(self._data_dir, self._view.name, instant)
            # of an instant that has no snapshot nothing is expected
            self._later[instant] = self._read(path) if is_there(path) else self.published.slice(0, 0)
        return self._later[instant]

    def _read(self, path: Snapshot) -> pa.Table:
        table = snapshot_dataset(path, snapshot_schema(self._view.name)).to_table()
        ttl = self._view.ttl
        if self._is_gateway and ttl and datetime.now(UTC) - snapshot_instant(path) > ttl:
            nothing = [pa.nulls(len(table), field.type) for field in table.schema]
            table = pa.table([table["asset_id"], *nothing[1:]], schema=table.schema)
        elif self._is_gateway:
            table = pa.table([_without_infinity(column) for column in table.columns], schema=table.schema)
        return table.replace_schema_metadata(schema_of(path).metadata)


def _without_infinity(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return `column` with NULL for what JSON has no number for."""
    return pc.if_else(pc.is_inf(column), None, column) if pa.types.is_floating(column.type) else column


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return the JSON values of a feature in its type; raises `ValueError` or `TypeError` where they are of another."""
    if pa.types.is_floating(kind):  # Feast has "NaN" and "Infinity" as texts
        values = [float(value) if isinstance(value, str) else value for value in values]
    return pa.array(values, kind)


@contextmanager
def _understood(url: str) -> Iterator[None]:
    """Raise `PipelineError` where an answer has another form than the contract says."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PipelineError(
            f"{url} answers as neither a feature server nor a gateway does: {first_line(error)}"
        ) from error


def _seconds_to_wait(answer: requests.Response) -> float:
    try:
        return min(max(float(answer.headers.get("Retry-After", "")), 1), _LONGEST_WAIT_SECONDS)
    except ValueError:
        return 1.0


def _reason(error: requests.RequestException) -> str:
    """Return the innermost words: around them are the classes of two libraries."""
    inner: BaseException = error
    while isinstance(reason := getattr(inner, "reason", None) or next(iter(inner.args), None), BaseException):
        inner = reason
    return first_line(inner).rpartition(">: ")[2] or type(inner).__name__

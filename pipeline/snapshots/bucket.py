"""Files below a prefix of a bucket on S3, as AWS_* tell of it: each is one PUT, seen whole or not at all."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs

from pipeline.base.errors import PipelineError, Unavailable, first_line, keep_secret
from pipeline.base.fault_points import fault_point
from pipeline.base.retries import attempts
from pipeline.base.stop import raise_if_stopped
from pipeline.snapshots.files import Replaced
from pipeline.snapshots.parquet import write_parquet
from settings_file import file_values

Item = TypeVar("Item")
Result = TypeVar("Result")
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60
# What S3 and catalogs say that will not pass by itself.
_REFUSED = (
    "access denied",
    "access_denied",
    "invalidaccesskeyid",
    "invalid_access_key",
    "signature",
    "expired_token",
    "no_such_bucket",
    "forbidden",
    "http code 403",
)
# Requests that wait for S3 at the same time.
_AT_ONCE = 16
# Up to so many bytes are read by one request. Of a larger file parts are, and it is looked whether it has changed.
_WHOLE_BYTES = 16 << 20
_ATTEMPTS = 5


def s3_files() -> pyarrow.fs.S3FileSystem:
    """Return S3 as AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION and AWS_CA_BUNDLE say, with the keys of AWS_*.

    They are of the environment or the settings file. Without keys they are those that AWS's own library finds: of a
    profile, a role of the machine or the pod.
    """
    variables = file_values() | os.environ

    def first(*names: str) -> str | None:
        return next((variables[name] for name in names if variables.get(name)), None)

    keys = {"access_key": first("AWS_ACCESS_KEY_ID"), "secret_key": first("AWS_SECRET_ACCESS_KEY")}
    keys |= {"session_token": first("AWS_SESSION_TOKEN")} if all(keys.values()) else {}
    for name in ("secret_key", "session_token"):
        keep_secret(keys.get(name) or "")
    return pyarrow.fs.S3FileSystem(
        **(keys if all(keys[name] for name in ("access_key", "secret_key")) else {}),
        endpoint_override=first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        region=first("AWS_REGION", "AWS_DEFAULT_REGION"),
        tls_ca_file_path=first("AWS_CA_BUNDLE"),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        allow_delayed_open=True,  # one request for a small file
    )


def is_refused(error: Exception) -> bool:
    """Return whether S3, or a catalog, has refused: it would again."""
    return any(word in str(error).lower() for word in _REFUSED)


def at_once(do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return what `do` returns for each of `items`, some of which it does at the same time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(do, items))


class Bucket:
    """The files below `s3://<bucket>/<prefix>`, each by its key there.

    What a method raises is S3's own, for `tried`; `Replaced` where a file has changed while it was read, and
    `pyarrow.ArrowInvalid` where it is damaged.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._root = url.removeprefix("s3://")

    @cached_property
    def _files(self) -> pyarrow.fs.S3FileSystem:
        return s3_files()

    def tried(self, do: Callable[[], Result]) -> Result:
        """Return what `do` does, which may be repeated; what S3 says becomes a `PipelineError`."""

        def tried() -> Result:
            try:
                return do()
            except FileNotFoundError as error:
                raise Replaced(f"{self.url}: files are being replaced by others. Try again later") from error
            except OSError as error:
                kind = PipelineError if is_refused(error) else Unavailable
                advice = "Check the bucket, the keys and their rights" if is_refused(error) else "Check that S3 is up"
                raise kind(f"{self.url}: {first_line(error)}. {advice}: docs/object-storage.md") from error

        for number in range(_ATTEMPTS):
            try:
                result: Result = attempts()(tried)
                return result
            except Replaced:
                raise_if_stopped()
                if number == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def listed(self, folder: str) -> list[tuple[PurePosixPath, pyarrow.fs.FileInfo]]:
        """Return the keys of the Parquet files below `folder`, and what S3 says of each."""
        selector = pyarrow.fs.FileSelector(f"{self._root}/{folder}", recursive=True, allow_not_found=True)
        below = [
            (PurePosixPath(info.path[len(self._root) + 1 :]), info) for info in self._files.get_file_info(selector)
        ]
        # one that another program has called so would leave the folder that it is copied to
        return [
            (key, info) for key, info in below if key.suffix == ".parquet" and info.is_file and ".." not in key.parts
        ]

    def info(self, key: str) -> pyarrow.fs.FileInfo:
        """Return what S3 says of a file, which may not be there."""
        return self._files.get_file_info(f"{self._root}/{key}")

    @contextmanager
    def opened(self, key: str) -> Iterator[Any]:
        """Yield a file, all of it of one version."""
        with self._files.open_input_file(f"{self._root}/{key}") as file:
            is_whole = file.size() <= _WHOLE_BYTES
            try:
                yield pa.BufferReader(file.read_buffer()) if is_whole else file
            except (OSError, pa.ArrowException) as error:
                self.check(key, _version(file))
                if isinstance(error, OSError) and not error.errno and "AWS Error" not in str(error):
                    raise pa.ArrowInvalid(str(error)) from error  # Arrow's own of damaged files
                raise
            if not is_whole:
                self.check(key, _version(file))

    def fetch(self, key: str, target: Path) -> bytes | None:
        """Copy a file to `target` and return its version."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._files.open_input_file(f"{self._root}/{key}") as file, target.open("wb") as copy:
            while part := file.read(_WHOLE_BYTES):
                copy.write(part)
            self.check(key, _version(file))
            return _version(file)

    def put(self, key: str, content: pa.Buffer | Path) -> None:
        """Write a file, all of it in one call: between two an error would make a file of what is written by then."""
        if isinstance(content, Path):
            with pa.memory_map(str(content)) as mapped:
                self.put(key, mapped.read_buffer())
            return
        with self._files.open_output_stream(f"{self._root}/{key}") as file:
            file.write(content)

    def write(self, key: str, rows: pa.Table) -> int:
        """Write a Parquet file and return its size in bytes; what S3 says becomes a `PipelineError`."""
        with TemporaryDirectory(prefix="snapshot-") as folder:
            file = Path(folder) / "rows.parquet"
            size = write_parquet(rows, file)
            self.tried(lambda: self.put(key, file))
        fault_point("objects: put")
        return size

    def remove(self, key: str) -> None:
        """Remove a file."""
        self._files.delete_file(f"{self._root}/{key}")

    def check(self, key: str, version: bytes | None) -> None:
        """Raise `Replaced` where a file is not of this version any more."""
        if self._version(key) != version:
            raise Replaced(f"{self.url}/{key} has just been replaced by others. Try again")

    def _version(self, key: str) -> bytes | None:
        try:
            with self._files.open_input_file(f"{self._root}/{key}") as file:
                return _version(file)
        except FileNotFoundError:
            return None


def _version(file: pa.NativeFile) -> bytes | None:
    """Return what S3 calls the content of an open file."""
    tag: bytes | None = file.metadata().get("ETag")
    return tag

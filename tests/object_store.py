"""An object store with an Iceberg REST catalog: SeaweedFS in one process, on free loopback ports."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pyarrow.fs

from dev.servers import HOST, free_port

KEY, SECRET = "feature-store", "object-secret-1"
BUCKET, WAREHOUSE = "snapshots", "warehouse"
_STARTED_WITHIN_SECONDS = 60
_GRPC = 10_000  # by so much a port for other parts of it is higher


class ObjectStore:
    """S3 on `s3`, with the bucket `BUCKET`, and on `catalog` an Iceberg REST catalog of the warehouse `WAREHOUSE`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.s3, self.catalog, *self._others = _ports(7)
        self._master = self._others[0]
        self._log = (directory / "weed.log").open("wb")
        names = ("master.port", "filer.port", "volume.port", "admin.port", "debug.port")
        self._process = subprocess.Popen(
            [
                Path(sys.executable).with_name("weed"),
                "mini",
                f"-dir={directory}",
                f"-ip={HOST}",
                f"-s3.port={self.s3}",
                f"-s3.port.iceberg={self.catalog}",
                "-s3.port.lance=0",
                "-webdav=false",
                *(f"-{name}={port}" for name, port in zip(names, self._others, strict=True)),
            ],
            env=os.environ | {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _STARTED_WITHIN_SECONDS
        while not self._is_up():
            assert self._process.poll() is None and time.monotonic() < deadline, self._said()
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def files(self, key: str = KEY, secret: str = SECRET, port: int | None = None) -> pyarrow.fs.S3FileSystem:
        """Return the object store as a file system."""
        return pyarrow.fs.S3FileSystem(
            access_key=key,
            secret_key=secret,
            endpoint_override=f"http://{HOST}:{port or self.s3}",
            region="us-east-1",
            connect_timeout=5,
            request_timeout=10,
        )

    def variables(self, catalog: str, *, s3: int | None = None, rest: int | None = None) -> dict[str, str]:
        """Return the environment in which PyIceberg finds it as the catalog of a name, maybe through other ports."""
        prefix = f"PYICEBERG_CATALOG__{catalog.upper().replace('-', '_')}__"
        return {
            f"{prefix}URI": f"http://{HOST}:{rest or self.catalog}",
            f"{prefix}WAREHOUSE": f"s3://{WAREHOUSE}",
            f"{prefix}CREDENTIAL": f"{KEY}:{SECRET}",
            f"{prefix}OAUTH2_SERVER_URI": f"http://{HOST}:{rest or self.catalog}/v1/oauth/tokens",
            f"{prefix}S3__ENDPOINT": f"http://{HOST}:{s3 or self.s3}",
            f"{prefix}S3__ACCESS_KEY_ID": KEY,
            f"{prefix}S3__SECRET_ACCESS_KEY": SECRET,
            f"{prefix}S3__REGION": "us-east-1",
        }

    def aws_variables(self, *, s3: int | None = None) -> dict[str, str]:
        """Return the environment in which runs find it as S3, maybe through another port."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{HOST}:{s3 or self.s3}",
        }

    def _is_up(self) -> bool:
        commands = f"lock\ns3tables.bucket -create -name {WAREHOUSE} -account admin\ns3.bucket.create -name {BUCKET}\n"
        shell = [Path(sys.executable).with_name("weed"), "shell", f"-master={HOST}:{self._master}"]
        try:
            subprocess.run(shell, input=commands + "unlock\n", capture_output=True, text=True, timeout=20, check=False)
            buckets = {each.base_name for each in self.files().get_file_info(pyarrow.fs.FileSelector(""))}
        except (OSError, subprocess.TimeoutExpired):
            return False
        return BUCKET in buckets

    def _said(self) -> str:
        return (self.directory / "weed.log").read_text()[-2000:]


def _ports(count: int) -> list[int]:
    """Return free ports of which none is another's own for other parts."""
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port + _GRPC < 65_536 and not {port, port + _GRPC, port - _GRPC} & {*found}:
            found.append(port)
    return found

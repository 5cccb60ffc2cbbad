"""The image of the Dockerfile is built and run: its commands and its feature server work on real servers.

buildah needs no daemon. The base image is made of Debian's own packages and named as the Dockerfile expects it, since a
registry of images is not for tests; the wheels come from where pip has them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dev.servers import free_port
from pipeline import REPOSITORY
from pipeline.base.views import VIEW_NAMES
from tests.production import Production

pytestmark = [
    pytest.mark.skipif("IMAGE" not in os.environ, reason="takes minutes and Debian's tools: `make image-test`"),
    pytest.mark.timeout(1500),
]

BASE = "docker.io/library/python:3.11-slim-bookworm"
IMAGE = "localhost/dcmms-feature-store:test"
MATERIALIZE = ("python", "materialize_features.py")


def run(*command: str | Path, **options: Any) -> str:
    """Return what a command prints; fail with what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, **options)
    assert done.returncode == 0, f"{command[:4]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def storage() -> Iterator[None]:
    """buildah without what only a real machine allows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_DRIVER", "vfs")
        patch.setenv("BUILDAH_ISOLATION", "chroot")
        yield


@pytest.fixture(scope="module")
def base(storage: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Debian with Python 3.11 under the name of the Dockerfile's base."""
    if (
        subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True, check=False).returncode
        == 0
    ):
        return
    archive = tmp_path_factory.mktemp("base") / "base.tar"
    packages = "python3,python3-venv,ca-certificates"
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", "bookworm", archive)
    container = run("buildah", "from", "scratch").strip()
    run("buildah", "add", "--quiet", container, archive, "/")
    run("buildah", "run", container, "--", "ln", "-s", "/usr/bin/python3", "/usr/local/bin/python")
    run("buildah", "commit", "--quiet", "--rm", container, BASE)


@pytest.fixture(scope="module")
def container(base: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of the image."""
    wheels = tmp_path_factory.mktemp("wheels")
    # The base's Python may be a patch release before this one, which needs a package more.
    lock = re.sub(r" ; python_full_version[^\\]*", "", (REPOSITORY / "requirements.lock").read_text())
    (wheels / "requirements.lock").write_text(lock)
    download = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes"]
    run(*download, "-r", wheels / "requirements.lock", "-d", wheels)
    (wheels / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    mounts = ["--volume", f"{wheels}:/wheels:ro", "--volume", f"{wheels}/pip.conf:/etc/pip.conf:ro"]
    run("buildah", "build", "--quiet", "--pull-never", "--format", "docker", *mounts, "--tag", IMAGE, ".")
    shutil.rmtree(wheels)
    container = run("buildah", "from", "--pull-never", IMAGE).strip()
    yield container
    run("buildah", "rm", container)
    run("buildah", "rmi", IMAGE)


def inside(container: str, production: Production, data: Path, *command: str) -> list[str]:
    """Return the command that runs `command` in the container, as its user, with the settings of production."""
    places = {"FEATURE_DATA_DIR", "FEAST_FS_YAML_FILE_PATH", "FEATURE_STORE_ENV_FILE"}  # the image has its own
    settings = [f"--env={name}={value}" for name, value in production.environment.items() if name not in places]
    volume = f"{data}:/var/lib/dcmms-feature-store"
    return ["buildah", "run", "--volume", volume, *settings, container, "--", *command]


def test_the_image_does_what_the_repository_does(container: str, production: Production, tmp_path: Path) -> None:
    data = tmp_path / "features"
    data.mkdir()
    os.chown(data, 10001, 10001)
    tmp_path.chmod(0o755)

    def command(*arguments: str) -> str:
        return run(*inside(container, production, data, *arguments))

    assert "uid=10001" in command("id")
    with pytest.raises(AssertionError, match=r"Permission denied|Read-only"):
        command("touch", "/opt/dcmms-feature-store/materialize_features.py")
    command("feast", "apply")
    summary = command(*MATERIALIZE, "--as-of", production.as_of_text)
    assert summary.count(" online") == len(VIEW_NAMES)
    assert "fails" not in command(*MATERIALIZE, "doctor")
    assert " 0 " in command(*MATERIALIZE, "verify")

    port = free_port()
    serve = ("feast", "serve", "-h", "127.0.0.1", "-p", str(port), "-w", "1", "--no-access-log")
    with subprocess.Popen(inside(container, production, data, *serve)) as server:
        try:
            answer = asked(port, {"features": ["asset_features:health_score"], "entities": {"asset_id": ["nobody"]}})
        finally:
            # buildah alone would leave it behind.
            for process in reversed(psutil.Process(server.pid).children(recursive=True)):
                process.terminate()
    assert answer["metadata"]["feature_names"] == ["asset_id", "health_score"]


def asked(port: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return the feature server's answer, once it is there."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/get-online-features", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline, "the feature server does not answer"
            time.sleep(0.5)

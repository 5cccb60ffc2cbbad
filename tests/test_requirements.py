"""The locks: they hold what requirements*.txt ask for, each version with its hashes, and the same in both."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline import REPOSITORY

STALE = "run `make lock` and commit what it writes"


def required(name: str) -> dict[str, str]:
    """Return the version of each package that a list of requirements asks for, with those of the lists it includes."""
    versions: dict[str, str] = {}
    for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            versions |= required(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            versions[canonicalize_name(requirement.name)] = pin.version
    return versions


def entries(name: str) -> list[str]:
    """Return the entries of a lock, each a requirement and its hashes on one line."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (REPOSITORY / name).read_text(encoding="utf-8"))
    return text.replace("\\\n", " ").splitlines()


def locked(name: str) -> dict[str, set[str]]:
    """Return the versions of each package in a lock; a package may have one per platform."""
    versions: dict[str, set[str]] = {}
    for entry in entries(name):
        requirement = Requirement(entry.split(" --hash=")[0])
        versions.setdefault(canonicalize_name(requirement.name), set()).update(s.version for s in requirement.specifier)
    return versions


STEMS = [f"requirements{which}" for which in ("", "-iceberg", "-dev", "-deploy", "-contracts")]


@pytest.mark.parametrize("stem", STEMS)
def test_lock_has_every_pin_and_hashes(stem: str) -> None:
    pins, versions = required(f"{stem}.txt"), locked(f"{stem}.lock")
    assert {name: versions.get(name) for name in pins} == {name: {pin} for name, pin in pins.items()}, STALE
    assert len(versions) > len(pins)
    assert [e for e in entries(f"{stem}.lock") if not re.fullmatch(r"\S+==.*?( +--hash=sha256:[0-9a-f]{64})+", e)] == []


def test_lock_names_no_package_that_nothing_asks_for() -> None:
    """A pin that was dropped stays in no lock: what is locked is a pin or, as the lock says, there for another one."""
    for stem in STEMS:
        text = (REPOSITORY / f"{stem}.lock").read_text(encoding="utf-8")
        pins = required(f"{stem}.txt")
        for name, reasons in re.findall(r"(?m)^([\w.-]+)==(?:.*\n)(?: +--hash.*\n)+((?: +#.*\n?)+)", text):
            is_direct = re.search(r"-r requirements[\w-]*\.txt", reasons) is not None
            assert is_direct == (canonicalize_name(name) in pins), f"{name}: {STALE}"


def test_development_runs_the_versions_of_production() -> None:
    development = locked("requirements-dev.lock")
    for name in ("requirements.lock", "requirements-iceberg.lock"):
        runtime = locked(name)
        assert {package: development.get(package) for package in runtime} == runtime, STALE

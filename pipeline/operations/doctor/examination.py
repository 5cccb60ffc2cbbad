"""All that the doctor looks at, in the order in which things depend on each other."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import TypeVar

from pipeline.base.errors import first_line
from pipeline.operations.doctor.check import Check, Subject
from pipeline.operations.doctor.clickhouse import CLICKHOUSE, check_clickhouse
from pipeline.operations.doctor.feature_server import FEATURE_SERVER, check_feature_server
from pipeline.operations.doctor.postgres import POSTGRES, check_postgres
from pipeline.operations.doctor.redis import REDIS, check_redis
from pipeline.operations.doctor.registry import REGISTRY, check_registry
from pipeline.operations.doctor.settings import read_settings
from pipeline.operations.doctor.snapshots import SNAPSHOTS, check_snapshots
from pipeline.operations.doctor.store import read_store_config

Needed = TypeVar("Needed")


def examine(as_of: datetime) -> Iterator[Check]:
    """Yield one finding after the other, of everything that a run as of `as_of` needs; none of them raises."""
    checks, settings = read_settings()
    yield from checks
    telemetry = partial(check_clickhouse, as_of=as_of)
    for subject, check in ((POSTGRES, check_postgres), (CLICKHOUSE, telemetry), (SNAPSHOTS, check_snapshots)):
        yield from _guarded(subject, check, settings, "good settings")
    checks, config = read_store_config()
    yield from checks
    for subject, of_store in ((REGISTRY, check_registry), (REDIS, check_redis)):
        yield from _guarded(subject, of_store, config, "a good feature_store.yaml")
    yield from _guarded(FEATURE_SERVER, check_feature_server, settings, "good settings")


def _guarded(
    subject: Subject, check: Callable[[Needed], Iterator[Check]], needed: Needed | None, what: str
) -> Iterator[Check]:
    """Yield from a check, if there is what it needs.

    What it does not expect is a finding, too, and does not keep the others from being made.
    """
    if needed is None:
        yield subject.not_checked(("all",), f"needs {what}")
        return
    try:
        yield from check(needed)
    except Exception as error:
        yield subject.fails(
            "check",
            f"broke off: {type(error).__name__}: {first_line(error)}",
            "this is a fault of the doctor: report it",
        )

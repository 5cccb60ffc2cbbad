"""All that the doctor looks at, in the order in which things depend on each other."""

from collections.abc import Callable, Iterator

from pipeline.base.errors import first_line
from pipeline.operations.doctor.check import Check, Subject
from pipeline.operations.doctor.clickhouse import CLICKHOUSE, check_clickhouse
from pipeline.operations.doctor.postgres import POSTGRES, check_postgres
from pipeline.operations.doctor.redis import REDIS, check_redis
from pipeline.operations.doctor.registry import REGISTRY, check_registry
from pipeline.operations.doctor.settings import read_settings
from pipeline.operations.doctor.snapshots import SNAPSHOTS, check_snapshots
from pipeline.operations.doctor.store import read_store_config


def examine() -> Iterator[Check]:
    """Yield one finding after the other, of everything that a run needs; none of them raises."""
    checks, settings = read_settings()
    yield from checks
    for subject, check in ((POSTGRES, check_postgres), (CLICKHOUSE, check_clickhouse), (SNAPSHOTS, check_snapshots)):
        if settings:
            yield from _guarded(subject, check, settings)
        else:
            yield subject.not_checked(("all",), "needs good settings")
    checks, config = read_store_config()
    yield from checks
    for subject, check in ((REGISTRY, check_registry), (REDIS, check_redis)):
        if config:
            yield from _guarded(subject, check, config)
        else:
            yield subject.not_checked(("all",), "needs a good feature_store.yaml")


def _guarded(subject: Subject, check: Callable[..., Iterator[Check]], *arguments: object) -> Iterator[Check]:
    """Yield from a check; what it does not expect is a finding, too, and does not keep the others from being made."""
    try:
        yield from check(*arguments)
    except Exception as error:
        yield subject.fails(
            "check",
            f"broke off: {type(error).__name__}: {first_line(error)}",
            "this is a fault of the doctor: report it",
        )

"""Trying again what a passing fault has broken off: a server that restarts, a connection that is lost.

Only what is safe to repeat is: to connect, to read, to publish (Redis compares each row's event timestamp), to record.
Only `Unavailable` is worth it.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from pipeline.base.clock import duration
from pipeline.base.errors import PipelineError, Unavailable
from pipeline.base.stop import raise_if_stopped

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 8
# Pauses of about 0.5, 1, 2, 4, 8, 8 ... seconds; by chance some more, so that many clients do not come back as one.
_PAUSES = wait_exponential_jitter(initial=0.5, max=8, jitter=0.5)


@dataclass
class _Budget:
    """How many seconds may still be lost to pauses and to attempts that fail again."""

    seconds: float


# A thread of its own, such as one that cleans up at a stop, does not try again.
_budget: ContextVar[_Budget | None] = ContextVar("retry_budget", default=None)


@contextmanager
def retrying_for(seconds: float) -> Iterator[None]:
    """Let all `attempts` within the block go on for so long in sum, unless they are within another such block."""
    if _budget.get():
        yield
        return
    token = _budget.set(_Budget(seconds))
    try:
        yield
    finally:
        _budget.reset(token)


def attempts() -> Retrying:
    """Return attempts at something that may be repeated: `for attempt in attempts():`, in it `with attempt:`.

    Also `attempts()(function, *arguments)`. One that raises `Unavailable` is followed by another one, unless that would
    begin too late: then `PipelineError` with the same words says that there will be none.
    """
    patience = _Patience(_budget.get() or _Budget(0.0))
    return Retrying(
        retry=retry_if_exception_type(Unavailable),
        stop=patience.is_over,
        wait=_PAUSES,
        before_sleep=patience.announce,
        retry_error_callback=_give_up,
    )


class _Patience:
    """Spends the budget on one thing. The clock runs from its first failure: a long query may be lost once."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._counted_until: float | None = None

    def is_over(self, state: RetryCallState) -> bool:
        """Count the attempt that has failed, and return whether it was the last one."""
        now = time.monotonic()
        if self._counted_until is not None:
            self._budget.seconds -= now - self._counted_until
        self._counted_until = now
        return state.attempt_number >= _MAX_ATTEMPTS or state.upcoming_sleep >= self._budget.seconds

    def announce(self, state: RetryCallState) -> None:
        """Say that there will be another attempt; raises `Stopped` where a stop has caused the error."""
        raise_if_stopped()
        logger.warning("%s; trying again in %s", _error(state), duration(state.upcoming_sleep))


def _give_up(state: RetryCallState) -> None:
    error = _error(state)
    raise PipelineError(error.what, error.advice) from error


def _error(state: RetryCallState) -> Unavailable:
    """Return what the attempt has raised: nothing else is tried again."""
    return cast(Unavailable, state.outcome and state.outcome.exception())

"""The clock of this host against a server's: as-of instants come from here, and the facts before them from there."""

import time
from collections.abc import Callable

from pipeline.base.clock import duration
from pipeline.operations.doctor.check import Check, Subject

WARN_SECONDS = 2.0
FAIL_SECONDS = 60.0
_FIX = "synchronize the clocks of both hosts (NTP: `timedatectl status`, `chronyc tracking`)"


def check_clock(
    subject: Subject, server_time: Callable[[], float], host_time: Callable[[], float] = time.time
) -> Check:
    """Return how far the clocks are apart; `server_time` asks the server. Both give seconds since 1970.

    The half of the round trip, by which the answer may be off, is not held against the server.
    """
    asked = host_time()
    there = server_time()
    answered = host_time()
    apart = there - (asked + answered) / 2
    certain = max(abs(apart) - (answered - asked) / 2, 0.0)
    if certain <= WARN_SECONDS:
        return subject.ok("clock", f"{duration(abs(apart))} from this host's")
    text = f"{duration(certain)} {'ahead of' if apart > 0 else 'behind'} this host's"
    if certain <= FAIL_SECONDS:
        return subject.warning("clock", text, _FIX)
    return subject.fails("clock", f"{text}: runs look at the wrong window of time", _FIX)

"""Clocks that are wrong. Durations come from the monotonic clock and do not care; instants do."""

from datetime import UTC, datetime, timedelta

from pipeline.base.errors import PipelineError

# Clocks that are kept by NTP differ by less.
CLOCK_TOLERANCE = timedelta(minutes=5)


class ClockError(PipelineError):
    """The clock of this machine, or of a server, is wrong, so that nothing a run makes would mean what it says."""


def is_ahead(instant: datetime) -> bool:
    """Return whether `instant` is in the future by the clock of this machine."""
    return instant > datetime.now(UTC) + CLOCK_TOLERANCE

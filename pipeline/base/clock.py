"""Clocks that are wrong (durations are monotonic and do not care; instants do), and time as people say it."""

from datetime import UTC, datetime, timedelta

from pipeline.base.errors import PipelineError

# Clocks that are kept by NTP differ by less.
CLOCK_TOLERANCE = timedelta(minutes=5)


class ClockError(PipelineError):
    """The clock of this machine, or of a server, is wrong, so that nothing a run makes would mean what it says."""


def is_ahead(instant: datetime) -> bool:
    """Return whether `instant` is in the future by the clock of this machine."""
    return instant > datetime.now(UTC) + CLOCK_TOLERANCE


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: `0.4 s`, `45 min`, `3 h 20 min`, `3 d 4 h`, `30 d`."""
    if seconds < 0:  # of a clock that has been put back
        return f"-{duration(-seconds)}"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h" if days < 10 else f"{days} d"
    return f"{hours} h {minutes % 60} min"

"""Stopping: SIGTERM, Ctrl-C and a time limit end a command within seconds, whatever it waits for.

Python runs a signal handler in the main thread, between two bytecodes. That ends everything that waits in Python, such
as Redis and HTTP, by an exception that cleans up on its way. It does not reach a main thread that waits in C: libpq in
the middle of a `COPY`, the embedded ClickHouse engine. So a second thread hears of each signal, too: it breaks off what
can be broken off, and ends the process where the main thread has not done so in time, or at a second Ctrl-C. Nothing
half-written is visible then: files are renamed into place when they are complete, and the locks of PostgreSQL go with
their connection.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Cleaning up may take this long; the process is gone well within 5 s.
GRACE_SECONDS = 3.0
# The shell's 128 + signal number, and what timeout(1) returns.
_EXIT_CODES: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130}
_TIMEOUT_EXIT_CODE = 124


class Stopped(BaseException):
    """Someone asks the command to end now. Like KeyboardInterrupt no `Exception`: no step may take it for its own."""

    def __init__(self, signum: int, time_limit: float | None) -> None:
        if time_limit is None:
            reason, self.exit_code = signal.Signals(signum).name, _EXIT_CODES[signum]
        else:
            reason, self.exit_code = f"--timeout, {time_limit:g} s", _TIMEOUT_EXIT_CODE
        super().__init__(f"Stopped by {reason}. Whatever was written is whole; the next run does the rest.")


_at_stop: list[Callable[[Stopped], None]] = []


@contextmanager
def at_stop(call: Callable[[Stopped], None]) -> Iterator[None]:
    """Have `call` called, in a thread of its own, as soon as a stop is asked for within the block."""
    _at_stop.append(call)
    try:
        yield
    finally:
        _at_stop.remove(call)


@contextmanager
def stoppable(say: Callable[[str], None]) -> Iterator[None]:
    """End the block and, by `SystemExit`, the command at SIGTERM, SIGINT or the time limit; `say` is told why, once.

    For the main thread. `GRACE_SECONDS` after the signal the process ends even where the block does not.
    """
    global _guard
    guard = _guard = _Guard(say)
    try:
        yield
    except BaseException:  # also what a library has raised in place of the stop
        if guard.stopped is None:
            raise
    finally:
        _guard = None
        guard.dismiss()
    if guard.stopped:
        say(str(guard.stopped))
        raise SystemExit(guard.stopped.exit_code)


def asked_to_stop() -> Stopped | None:
    """Return the stop that was asked for in the `stoppable` block, if one was.

    A library that cleans up after it may raise an error of its own, or it came in a callback: it would be lost.
    """
    return _guard.stopped if _guard else None


def raise_if_stopped() -> None:
    """Raise the `Stopped` that was asked for, again: for where errors are caught and work goes on."""
    if stopped := asked_to_stop():
        raise stopped


def set_time_limit(seconds: float) -> None:
    """Stop the `stoppable` block that this is called in when `seconds` have passed."""
    if _guard:
        _guard.limit(seconds)


class _Guard:
    """The signal handlers, and the thread that sees to it that the process ends."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.stopped: Stopped | None = None
        self._timer: threading.Timer | None = None
        self._over: float | None = None  # the time limit, once it has passed
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._handlers = {signum: signal.signal(signum, self._raise) for signum in _EXIT_CODES}
        self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    def dismiss(self) -> None:
        """Put everything back as it was."""
        if self._timer:
            self._timer.cancel()
        sys.unraisablehook = self._previous_hook
        signal.set_wakeup_fd(self._previous_writer)
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        os.close(self._writer)  # ends the thread

    def limit(self, seconds: float) -> None:
        """Stop after `seconds`."""

        def stop() -> None:
            self._over = seconds
            os.kill(os.getpid(), signal.SIGTERM)

        self._timer = threading.Timer(seconds, stop)
        self._timer.daemon = True
        self._timer.start()

    def _raise(self, signum: int, _frame: FrameType | None) -> None:
        if self.stopped is None:  # a second one must not break off the cleaning up: `_watch` sees to it
            self.stopped = Stopped(signum, self._over)
            raise self.stopped

    def _unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Print nothing of a stop that came where Python lets no exception out, in a weak reference's callback."""
        if not isinstance(unraisable.exc_value, Stopped):
            self._previous_hook(unraisable)

    def _watch(self) -> None:
        """Wait for the bytes that the interpreter writes at signals, until `dismiss` closes the pipe."""
        stopped: Stopped | None = None
        deadline: float | None = None
        while True:
            left = max(deadline - time.monotonic(), 0) if deadline else None
            readable, _, _ = select.select([self._reader], [], [], left)
            byte = os.read(self._reader, 1) if readable else None
            if byte == b"":
                os.close(self._reader)
                return
            signum = byte[0] if byte else None
            if stopped and signum in (None, signal.SIGINT):  # too late, or asked for again by somebody who waits
                self._exit(stopped)
            elif stopped is None and signum in _EXIT_CODES:
                stopped, deadline = Stopped(signum, self._over), time.monotonic() + GRACE_SECONDS
                for call in reversed(_at_stop):
                    threading.Thread(target=_quietly, args=(call, stopped), daemon=True).start()

    def _exit(self, stopped: Stopped) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\033[?25h\n")  # the cursor, which progress bars hide
        self._say(str(stopped))
        sys.stderr.flush()
        os._exit(stopped.exit_code)


_guard: _Guard | None = None


def _quietly(call: Callable[[Stopped], None], stopped: Stopped) -> None:
    with suppress(Exception):
        call(stopped)

"""Wall clocks that are wrong, in the process of a run. The monotonic clock goes on as it does on a real machine."""

import threading
from datetime import datetime

import time_machine


def set_to(instant: datetime) -> None:
    """Let it be `instant` now."""
    time_machine.travel(instant, tick=True).start()


def step_by(seconds: float, pause: float = 0.1) -> None:
    """Put the clock forward and back by so much, in turn, as long as the process lives."""
    clock = time_machine.travel(datetime.now().astimezone(), tick=True).start()

    def step() -> None:
        shift = seconds
        while not stop.wait(pause):
            clock.shift(shift)
            shift = -shift

    stop = threading.Event()
    threading.Thread(target=step, daemon=True).start()

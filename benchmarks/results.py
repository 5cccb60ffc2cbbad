"""What every benchmark needs: the machine, and the peak memory of a process."""

import os
import platform
from pathlib import Path


def peak_megabytes() -> float:
    """Return the peak memory of this process in MB.

    Not getrusage: a process inherits the peak of the one that has started it.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def machine() -> str:
    """Return cores, memory and system of this machine in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GB of memory, {platform.system()}, Python {platform.python_version()}"

"""Named points of a run at which a test can have it die, as at a power cut. Without the variable they do nothing."""

import os
import signal
from collections import Counter

#: Where to die: the name of a point and which time it is reached, `redis: sent:3`.
VARIABLE = "FEATURE_STORE_DIE_AT"

#: How often each point has been reached, kept only while the variable is set.
reached: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Kill this process, with no chance to clean up, if the environment names this point and this time."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    reached[name] += 1
    if wanted == f"{name}:{reached[name]}":
        os.kill(os.getpid(), signal.SIGKILL)

"""How both sides time their work. Standard library only: asteroid's environment runs it too."""

import time
from collections.abc import Callable


def seconds_each(work: Callable[[], object], least: float = 1.0) -> float:
    """Seconds that one call of work() takes, which returns when its result is there.

    Two calls warm up; then the mean over as many calls as fill `least` seconds, at least one.
    """
    for _ in range(2):
        work()
    calls, start, passed = 0, time.perf_counter(), 0.0
    while not calls or passed < least:
        work()
        calls += 1
        passed = time.perf_counter() - start
    return passed / calls

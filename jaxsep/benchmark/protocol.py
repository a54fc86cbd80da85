"""The worker's side of the line protocol between `python -m jaxsep.benchmark` and the processes that it measures.

JSON, one object a line; the parent writes to the worker's standard input and reads its standard output:

    parent                      worker
    {"kind": …, …}  the case    {"ready": true, …}     built, compiled and warmed up; facts and times of that
    go                          {"seconds": …, …}      one repetition unheeded, then one timed
    stop                        {"peak_bytes": …}      largest resident memory of the process; the worker ends

Anything that goes wrong is answered by {"error": …}. Standard library only: workers of other environments read this file too.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Repeat = Callable[[], dict[str, float]]
Build = Callable[[dict[str, Any]], tuple[Repeat, dict[str, Any]]]


def serve(build: Build) -> None:
    """Answer the parent until it says stop or is gone.

    build(case) -> (repeat, facts): facts goes into the first answer, each call of repeat() is one timed repetition. While
    the other side is measured, caches and memory of this one go to others: the first repetition of a round gets them back,
    the second, which counts, finds things as in the middle of a training run.
    Whatever else is printed to standard output goes to standard error. Exit status 1 after an error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        repeat, facts = build(json.loads(sys.stdin.readline()))
        answer(ready=True, **facts)
        for line in sys.stdin:
            if line.strip() == "stop":
                answer(peak_bytes=peak_bytes())
                return
            repeat()
            answer(**repeat())
    except KeyboardInterrupt:  # the parent was interrupted too, and answers for both
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        answer(error=f"{type(error).__name__}: {error}")
        sys.exit(1)


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    ru_maxrss would do, but on Linux a process inherits it from the one that started it; VmHWM is its own.
    """
    if (found := _status("VmHWM")) is not None:
        return found
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def resident_bytes() -> int:
    """Resident memory of this process now; where that cannot be known, the largest so far."""
    found = _status("VmRSS")
    return peak_bytes() if found is None else found


def _status(name: str) -> int | None:
    """A size in /proc/self/status, bytes."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None

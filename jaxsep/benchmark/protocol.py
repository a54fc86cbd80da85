"""The worker's side of the benchmark: a process that measures one case and answers in JSON lines.

The parent (`measure`) writes lines to the worker's standard input and reads its standard output:

    parent               worker
    the case, as JSON    {…}   facts, once the case is built, compiled and warmed up
    go                   {"seconds": …, …, "peak_bytes": …}   of the second of two repetitions
    end of the input     ends

An error is answered by {"error": …}. Standard library only: the peer's worker, which runs in
another environment, imports this file too.
"""

import json
import os
import re
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Case = dict[str, Any]
Repeat = Callable[[], dict[str, float]]


def serve(build: Callable[[Case], tuple[Repeat, dict[str, Any]]]) -> None:
    """Answer the parent until its input ends.

    While another worker is measured, it takes over the processor's caches. So the first repetition
    of a turn is not timed, and the second one runs as in the middle of a training.
    Whatever libraries print to standard output goes to standard error. After an error the exit
    status is 1.

    Args:
      build: case -> (repeat, facts). Each call of repeat() is one timed repetition.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        repeat, facts = build(json.loads(sys.stdin.readline()))
        answer(facts)
        for _ in sys.stdin:
            repeat()
            answer({**repeat(), "peak_bytes": resident_bytes(peak=True)})
    except KeyboardInterrupt:  # Ctrl-C reached the parent too, which says so
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def resident_bytes(*, peak: bool = False) -> int:
    """Resident memory of this process: now, or at its largest so far.

    On Linux both stand in /proc. Elsewhere there is only ru_maxrss, the largest. (On Linux a process
    would inherit that from the one that started it.)
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    name = "VmHWM" if peak else "VmRSS"
    size = re.search(rf"^{name}:\s*(\d+) kB", status.read_text(), re.MULTILINE)
    assert size is not None
    return 1024 * int(size[1])

"""How every command speaks to the person at the screen: lines and progress bars on standard error.

Results, which may be piped into a file or another program, are printed on standard output instead.
"""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def say(line: str) -> None:
    """Print one line on standard error, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def progress(items: Iterable | None = None, *, unit: str, **options: Any) -> tqdm:
    """A progress bar with the time left: in a terminal ten times a second, in a log every 20 s.

    Args:
      items: what is iterated over; None where the caller counts with `update`.
      unit: what is counted, such as "file".
      options: of `tqdm.tqdm`, such as total, desc and disable.
    """
    interval = 0.1 if sys.stderr.isatty() else 20.0
    options = {"mininterval": interval, "maxinterval": max(10.0, interval), **options}
    return tqdm(items, unit=unit, file=sys.stderr, **options)

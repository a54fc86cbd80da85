"""What ends a command with a message for the user, and the exit status that goes with it.

A message is one line, or a first line and one indented line for each problem. It names the file or
field, the value, and what would be right.
"""

import signal
from collections.abc import Sequence


class JaxsepError(Exception):
    """A command prints the message of this error after "error: " and ends with `exit_status`."""

    exit_status = 2  # the user's mistake: nothing was done


class ConfigError(JaxsepError, ValueError):
    """A field of the configuration, or an argument of a command, has a value that cannot work."""


class DataError(JaxsepError, ValueError):
    """Recordings, or the folders and tables that hold them, cannot be used."""


class ModelError(JaxsepError, ValueError):
    """A model bundle or a published .pt file cannot be used."""


class ReportError(JaxsepError, ValueError):
    """The results of finished runs cannot be read or compared."""


class RunError(JaxsepError):
    """A run cannot go on. What it had saved before is intact."""

    exit_status = 1


class OtherProcessError(JaxsepError):
    """Another process of the same run has failed and has said why."""


class Interrupted(JaxsepError):
    """SIGINT or SIGTERM arrived, and the work at hand was saved; the message names the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


def together(problems: Sequence[str]) -> str:
    """One message of several problems, each said once: the number of them, then a line for each.

    >>> print(together(["seed is -1", "data.slots is ()"]))
    2 problems in the configuration:
      seed is -1
      data.slots is ()
    """
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} problems in the configuration:", *problems])

"""SIGINT and SIGTERM: a run ends between two steps, in all processes after the same one."""

import signal
from typing import Any

import jax

from jaxsep.errors import Interrupted
from jaxsep.training.devices import Devices


class Stop:
    """Remembers SIGINT or SIGTERM until `check` is called; a second SIGINT interrupts at once.

    Many processes stop after the same step, whichever of them got the signal.
    """

    def __init__(self, devices: Devices) -> None:
        self.number = 0
        self._devices = devices
        self._agreed: Any = 0
        self._handlers = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _remember(self, number: int, frame: Any) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived; all processes call this step by step."""
        number = self.number
        if jax.process_count() > 1:
            # The answer to the question of one call ago: the devices have agreed on it by now.
            number, self._agreed = int(self._agreed), self._devices.largest(self.number)
        if number:
            raise Interrupted(number)

    def close(self) -> None:
        """Give the signals back to their former handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

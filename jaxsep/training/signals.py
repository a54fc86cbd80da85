"""SIGINT and SIGTERM: a run ends between two steps, in all processes after the same one."""

import signal
from typing import Any

import jax

from jaxsep.errors import Interrupted
from jaxsep.training.devices import Devices


class Stop:
    """Remembers SIGINT or SIGTERM, to be answered between two steps; a second SIGINT interrupts at once.

    Many processes stop after the same step, whichever of them was told to.
    """

    def __init__(self, devices: Devices) -> None:
        self.number = 0
        self._devices = devices
        self._asked: Any = 0
        self._before = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _remember(self, number: int, frame: Any) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise Interrupted where a signal has arrived; to be called by all processes, step by step."""
        number = self.number
        if (
            jax.process_count() > 1
        ):  # what was known one call ago: by now the devices have agreed on it
            number, self._asked = int(self._asked), self._devices.largest(self.number)
        if number:
            raise Interrupted(number)

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

"""Reading what others may have written: JSON, arrays and names, so that damaged or hostile files end in a ValueError, in little
time and memory, and run nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsep.data.audio import MAX_SAMPLE_RATE


def entry(values: Mapping[str, Any], name: str, kind: type) -> Any:
    """values[name]; ValueError unless it is there and of this very type, a list all text, sample_rate a rate (Hz)."""
    value: Any = values.get(name)
    fits = type(value) is kind
    if kind is list:
        fits = fits and all(type(item) is str for item in value)
    if name == "sample_rate":
        fits = fits and 1 <= value <= MAX_SAMPLE_RATE
    if not fits:
        raise ValueError(f"{name} is {value!r:.80}")
    return value


def pairs(values: Mapping[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    """values[name], a list of lists of two texts; ValueError otherwise."""
    value = values.get(name)
    if type(value) is not list or any(
        type(pair) is not list or [*map(type, pair)] != [str, str] for pair in value
    ):
        raise ValueError(f"{name} is {value!r:.80}")
    return tuple((first, second) for first, second in value)


def typed(arrays: Mapping[str, np.ndarray], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The named arrays as NumPy types; ValueError where one is missing, or of a type whose values these would not all hold."""
    for name, kind in kinds.items():
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        if not np.can_cast(arrays[name].dtype, kind, "safe"):
            raise ValueError(f"{name} is {arrays[name].dtype}, not {np.dtype(kind)}")
    return {name: arrays[name].astype(kind) for name, kind in kinds.items()}

"""The rows of results and the table that is printed of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Summary = dict[str, float]


class Ratio(NamedTuple):
    """Quotient of the medians of two quantities, and what the table calls it."""

    name: str
    dividend: np.ndarray
    divisor: np.ndarray

    def quotient(self) -> float:
        return float(np.median(self.dividend) / np.median(self.divisor))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ours, peer: median, min and max over the rounds. ratio: the peer's median over ours, or what the
    note says that it is.
    """

    suite: str
    name: str
    setting: str
    unit: str
    ours: Summary
    peer: Summary | None = None
    ratio: float | None = None
    note: str = ""


def summary(values: np.ndarray | float) -> Summary:
    """Median, minimum and maximum of a quantity over the rounds.

    >>> summary(np.array([3.0, 1.0, 2.0]))
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    low, median, high = np.quantile(values, [0, 0.5, 1]).tolist()
    return {"median": median, "min": low, "max": high}


def table(rows: Sequence[Row], peer: str = "") -> str:
    """Aligned columns of text and numbers; those of the peer where one was measured."""
    sides = ["ours", peer] if peer else ["ours"]
    lines = [["what", "setting", "unit"]]
    for side in sides:
        lines[0] += [f"{side}: median", "min", "max"]
    lines[0] += ["ratio", "note"]
    for row in rows:
        cells = [row.name, row.setting, row.unit]
        for numbers in (row.ours, row.peer)[: len(sides)]:
            cells += map(number, numbers.values()) if numbers else [""] * 3
        lines.append([*cells, "" if row.ratio is None else f"{row.ratio:.2f}", row.note])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligns = ["<"] * 3 + [">"] * (len(widths) - 4) + ["<"]
    return "\n".join(
        "  ".join(
            f"{cell:{a}{w}}" for cell, a, w in zip(line, aligns, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def number(value: float) -> str:
    """Four digits and no exponent.

    >>> number(1234.5), number(0.012345), number(3.0)
    ('1234', '0.01235', '3.000')
    """
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(digits, 0), 9)}f}"

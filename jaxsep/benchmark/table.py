"""Rows of results and the table made of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Of the repetitions of one side."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Row:
    """One line of the table. ratio: the peer's median over ours, or what note says it is; None: there is none."""

    suite: str
    name: str
    setting: str
    unit: str
    ours: Summary
    peer: Summary | None = None
    ratio: float | None = None
    note: str = ""


def summary(values: Sequence[float], factor: float = 1.0) -> Summary:
    """Of factor · values, of which there is at least one.

    >>> summary([3.0, 1.0, 2.0], 10)
    Summary(median=20.0, min=10.0, max=30.0)
    """
    scaled = [factor * value for value in values]
    return Summary(statistics.median(scaled), min(scaled), max(scaled))


def quotient(dividends: Sequence[float], divisors: Sequence[float], factor: float = 1.0) -> Summary:
    """factor · dividends / divisors, values measured in turn: of the medians, and the extremes of the single rounds.

    The quotient of the medians always lies between the extremes.

    >>> quotient([1.0, 2.0, 6.0], [2.0, 2.0, 2.0])
    Summary(median=1.0, min=0.5, max=3.0)
    """
    rounds = [factor * a / b for a, b in zip(dividends, divisors, strict=True)]
    return Summary(
        factor * statistics.median(dividends) / statistics.median(divisors),
        min(rounds),
        max(rounds),
    )


def table(rows: Sequence[Row], peer: str) -> str:
    """Aligned lines: a heading, then one line per row; the peer's columns are empty where it was not measured."""
    heading = (
        "what",
        "setting",
        "unit",
        "ours: median",
        "min",
        "max",
        f"{peer or 'peer'}: median",
        "min",
        "max",
        "ratio",
    )
    lines = [(*heading, "note"), *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    left = 3  # columns of text; the others hold numbers
    text = []
    for *cells, note in lines:
        sized = zip(cells, widths, strict=True)
        aligned = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(sized)
        ]
        text.append("  ".join([*aligned, note]).rstrip())
    return "\n".join(text)


def number(value: float | None) -> str:
    """Four digits, and no exponent.

    >>> number(1234.5), number(0.012345), number(3.0), number(None)
    ('1234', '0.01235', '3.000', '')
    """
    if value is None:
        return ""
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(digits, 0), 9)}f}"


def _cells(row: Row) -> tuple[str, ...]:
    peer = (row.peer.median, row.peer.min, row.peer.max) if row.peer else (None,) * 3
    values = (row.ours.median, row.ours.min, row.ours.max, *peer)
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    return (row.name, row.setting, row.unit, *map(number, values), ratio, row.note)

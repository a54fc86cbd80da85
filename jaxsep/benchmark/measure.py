"""Cases, the processes that measure them in turn, and the table of what they gave."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.errors import RunError

# What starts the worker of a side.
OURS = (sys.executable, "-m", "jaxsep.benchmark.worker")
# What `runtime.configure` asks of glibc, for both sides: freed memory stays with the process.
MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
COLUMNS = ("case", "unit", "median", "min", "max", "ratio", "to")
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What one process measures.

    Attributes:
      name: as the table shows it, unique in its suite.
      arguments: of the worker: its `kind` and what the function of that kind takes.
      units: which of the worker's numbers become rows.
      to: name of the case that the ratio of medians refers to.
      side: whose worker measures it.
    """

    name: str
    arguments: Mapping[str, Any]
    units: tuple[str, ...] = ("ms",)
    to: str = ""
    side: str = "jaxsep"


def run(case: Case, command: Sequence[str], folder: str | Path) -> dict[str, Any]:
    """Measure a case in a process of its own; compiled programs are kept in the folder.

    Raises:
      RunError: the process failed; with its standard error.
    """
    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [*command, json.dumps(case.arguments)],
        env=MEMORY | os.environ | cache,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"{case.name}: exit status {done.returncode}\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def summarise(cases: Sequence[Case], rounds: Sequence[Mapping[str, Mapping]]) -> list[Row]:
    """The rows of cases. rounds: name of a case -> unit -> number, for each round."""

    def median(name: str, unit: str) -> float:
        return float(np.median([numbers[name][unit] for numbers in rounds]))

    rows = []
    for case in cases:
        for unit in case.units:
            values = [numbers[case.name][unit] for numbers in rounds]
            middle = median(case.name, unit)
            row = {"case": case.name, "unit": unit, "median": middle}
            row |= {"min": min(values), "max": max(values)}
            if case.to:
                row |= {"ratio": middle / median(case.to, unit), "to": case.to}
            rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Aligned columns; numbers with four digits."""

    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return value
        return np.format_float_positional(value, precision=4, fractional=False, trim="-")

    lines = [COLUMNS, *([cell(row.get(name, "")) for name in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [map(str.ljust, line, widths) for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)

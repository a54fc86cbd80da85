"""Finished runs, read from their folders into plain data.

Of a run's folder only the files in FILES are read, so that a copy of these is enough. Each of them
may be compressed, as NAME.xz. They may come from strangers: whatever they hold, they end in a `Run`
or in one line with the path, in memory bounded by their size.
"""

import csv
import io
import json
import lzma
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxsep.errors import ReportError
from jaxsep.evaluation.statistics import QUANTILES, Summary
from jaxsep.files import FREE_BYTES, MAX_INFLATION, display, read_text

FILES = ("config.json", "summary.json", "metrics.jsonl", "evaluation/test.csv")
LARGEST = 2**63  # of the numbers in JSON; none that a run writes comes near
MAX_DEPTH = 20  # of values within values; a run's have 6
MAX_DECIBELS = 1000.0  # SI-SDR is bounded to ±100 dB, input SNRs by what float32 holds
LZMA_MEMORY = 1 << 27  # bytes; `xz -9` asks for 65 MB

Fields = Mapping[str, Sequence[str]]  # what a value must be -> the fields of which that is true
_CONFIG: Fields = {
    "an object": ("data", "train", "model", "loss", "evaluation"),
    "a list": ("data.slots",),
    "a finite number": ("data.segment_seconds",),
    "a whole number": ("seed", "train.mixtures_per_epoch"),
    "a whole number of at least 1": (
        "train.batch_size",
        "train.num_epochs",
        "model.num_sources",
    ),
    "text": ("weighting.name", "weighting.granularity"),
}
_SUMMARY: Fields = {
    "text": ("jaxsep", "data.kind"),
    "a list": ("data.fingerprints",),
    "a whole number": ("num_epochs", *(f"training.{n}" for n in ("epochs", "steps", "parameters"))),
    "a finite number": ("training.seconds", "test.si_sdri.combined.mean"),
}
_LAST_SCORES: Fields = {
    "a finite number": ("mean", "std", *(f"quantiles.{q}" for q in QUANTILES)),
    "a whole number": ("n",),
}
_RECORD: Fields = {
    "text": ("kind",),
    "a whole number of at least 1": ("step",),
    "a whole number of at least 0": ("epoch",),
}
_SCORE_OF_RECORD = {"train": "ess", "val": "combined", "test": "combined"}
_COLUMNS: dict[str, type] = {
    **{"mixture": int, "slot": int, "class": str, "group": str, "corpus": str},
    **{"input_snr_db": float, "si_sdri_db": float},
}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


_IS: dict[str, Callable[[Any], bool]] = {
    "a whole number": _whole,
    "a whole number of at least 0": lambda value: _whole(value) and value >= 0,
    "a whole number of at least 1": lambda value: _whole(value) and value >= 1,
    "a finite number": is_number,
    "text": lambda value: isinstance(value, str),
    "a list": lambda value: isinstance(value, list),
    "an object": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True, eq=False)
class Run:
    """What a finished run left.

    Attributes:
      name: its folder's, with as many of the folders above as tell it from the other runs.
      folder: where it lies.
      config, summary: as in the files.
      metrics: "train", "val", "test" -> the records of metrics.jsonl in their order.
      rows: a line for each source that was scored among others, by mixture and slot. Columns:
        mixture, slot, class, group, corpus, input_snr (dB), si_sdri (dB).
    """

    name: str
    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    rows: pd.DataFrame

    @property
    def epochs_averaged(self) -> int:
        """Of how many epochs `last_scores` is the average; 0: it is the last epoch's alone."""
        recent = self.summary.get("test_last_epochs")
        return int(recent["si_sdri"]["combined"]["epochs"]) if recent else 0

    @property
    def last_scores(self) -> dict[str, Summary]:
        """Summaries of the test set averaged over the last epochs, or of the last epoch."""
        return (self.summary.get("test_last_epochs") or self.summary["test_last"])["si_sdri"]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the order of their folders.

    Raises:
      ReportError: a folder is missing, given twice or not a finished run's, or a file is damaged.
    """
    paths = [folder.resolve() for folder in folders]
    twice = [folder for folder, path in zip(folders, paths, strict=True) if paths.count(path) > 1]
    if twice:
        raise ReportError(f"{display(twice[-1])}: given twice; every run must be given once")
    names = [path.name for path in paths]
    for depth in range(2, max(len(path.parts) for path in paths) + 1):
        names = [
            "/".join(path.parts[-depth:]) if names.count(name) > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    return [read_run(folder, display(name)) for folder, name in zip(folders, names, strict=True)]


def read_run(folder: Path, name: str) -> Run:
    """One run. Raises: see `read_runs`."""
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder; it must be a run's")
    paths = [folder / file for file in FILES]
    paths = [path if path.is_file() else path.with_name(f"{path.name}.xz") for path in paths]
    missing = [file for file, path in zip(FILES, paths, strict=True) if not path.is_file()]
    if missing:
        what = "not a run's folder" if "config.json" in missing else "not a finished run"
        raise ReportError(
            f"{folder}: {what}, {' and '.join(missing)} missing; the run's own command finishes it"
        )
    config = _parse(paths[0], _read(paths[0]))
    _check_fields(paths[0], config, _CONFIG)
    for field, kind in {"factors": "a list", "gamma": "an object"}.items():
        if config["weighting"].get(field) is not None:
            _check_fields(paths[0], config, {kind: [f"weighting.{field}"]})
    summary = _parse(paths[1], _read(paths[1]))
    _check_fields(paths[1], summary, _SUMMARY)
    wanted, done = config["train"]["num_epochs"], summary["num_epochs"]
    if wanted != done:
        raise ReportError(
            f"{folder}: not a finished run, summary.json is of {done} epochs and config.json asks "
            f"for {wanted}; the run's own command finishes it"
        )
    metrics = _read_metrics(paths[2])
    run = Run(name, folder, config, summary, metrics, _read_rows(paths[3]))
    _check_scores(paths[1], run)
    return run


def _read(path: Path) -> str:
    """A file's text; decompressed where its name ends in .xz."""
    try:
        if path.suffix != ".xz":
            return read_text(path)
        limit = FREE_BYTES + MAX_INFLATION * path.stat().st_size
        decompressor = lzma.LZMADecompressor(memlimit=LZMA_MEMORY)
        content = decompressor.decompress(path.read_bytes(), limit)
        if not decompressor.eof:
            raise ValueError("it is cut short, or its content is out of proportion to its size")
        return content.decode()
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise ReportError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def _parse(path: Path, text: str) -> Any:
    """What JSON holds, where tables and pages can be made of it."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: is damaged, not JSON ({error})") from error
    _check_values(path, content, 0)
    return content


def _check_values(path: Path, value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ReportError(f"{path}: holds values within values, more than {MAX_DEPTH} deep")
    if isinstance(value, int | float) and LARGEST <= abs(value) < math.inf:
        raise ReportError(f"{path}: holds the number {value!r:.40}; it must be below 2**63")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ReportError(f"{path}: holds {value!r:.80}, which is no text")
    if isinstance(value, dict | list):
        for item in [*value, *(value.values() if isinstance(value, dict) else ())]:
            _check_values(path, item, depth + 1)


def _check_fields(path: Path | str, content: Any, fields: Fields) -> None:
    """Each field 'a.b' must be there, as content['a']['b'], and of its kind."""
    for kind, names in fields.items():
        for name in names:
            value = content
            for part in name.split("."):
                if not isinstance(value, dict) or part not in value:
                    raise ReportError(f"{path}: {name} is missing; a run of jaxsep writes it")
                value = value[part]
            if not _IS[kind](value):
                raise ReportError(f"{path}: {name} is {value!r:.80}, it must be {kind}")


def _read_metrics(path: Path) -> dict[str, list[dict[str, Any]]]:
    records: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for number, line in enumerate(_read(path).splitlines(), 1):
        place = path.with_name(f"{path.name} line {number}")
        record = _parse(place, line)
        _check_fields(place, record, _RECORD)
        if record["kind"] in records:
            _check_fields(place, record, {"a finite number": [_SCORE_OF_RECORD[record["kind"]]]})
            records[record["kind"]].append(record)
    return records


def _read_rows(path: Path) -> pd.DataFrame:
    try:
        lines = csv.reader(io.StringIO(_read(path), newline=""))
        header = next(lines, [])
        missing = [column for column in _COLUMNS if column not in header]
        if missing:
            raise ReportError(
                f"{path}: the column {missing[0]} is missing; a run of jaxsep writes it"
            )
        places = [header.index(column) for column in _COLUMNS]
        cells = {
            number: [line[place] if place < len(line) else None for place in places]
            for number, line in enumerate(lines, 2)
            if line
        }
    except csv.Error as error:
        raise ReportError(f"{path}: cannot be read ({error})") from error
    rows = pd.DataFrame(
        list(cells.values()), index=list(cells), columns=list(_COLUMNS), dtype=object
    )
    rows = rows[rows["si_sdri_db"] != ""]  # empty: the source is alone in its mixture
    if rows.empty:
        raise ReportError(f"{path}: holds no scored source; at least one must have an si_sdri_db")
    for column, kind in _COLUMNS.items():
        rows = rows.assign(**{column: _checked(path, rows[column], kind)})
    if rows.duplicated(["mixture", "slot"]).any():
        raise ReportError(f"{path}: lists a slot of a mixture more than once")
    rows = rows.sort_values(["mixture", "slot"], ignore_index=True)  # not as they were batched
    return rows.rename(columns=lambda name: name.removesuffix("_db"))


def _checked(path: Path, cells: pd.Series, kind: type) -> pd.Series:
    """A column of test.csv as numbers or text; its index holds the lines of the file."""
    if kind is str:
        values, good, wanted = cells, cells.notna(), "text"
    else:
        values = cells.map(_number)
        good, wanted = values.abs() <= MAX_DECIBELS, "a finite number, at most ±1000 dB"
        if kind is int:
            good, wanted = (values >= 0) & (values < 2**31) & (values % 1 == 0), "a whole number"
    if not good.all():
        line = good.idxmin()
        raise ReportError(
            f"{path} line {line}: {cells.name} is {cells[line]!r:.80}, it must be {wanted}"
        )
    return values.astype(int) if kind is int else values


def _number(cell: str | None) -> float:
    try:
        return float(cell or "")
    except ValueError:
        return math.nan


def _check_scores(path: Path, run: Run) -> None:
    """summary.json holds what the tables average, and speaks of the sources in test.csv."""
    last = "test_last_epochs" if run.summary.get("test_last_epochs") else "test_last"
    _check_fields(path, run.summary, {"an object": [f"{last}.si_sdri.combined"]})
    combined = {
        kind: [f"{last}.si_sdri.combined.{name}" for name in names]
        for kind, names in _LAST_SCORES.items()
    }
    _check_fields(path, run.summary, combined)
    if last == "test_last_epochs":
        _check_fields(path, run.summary, {"a whole number": [f"{last}.si_sdri.combined.epochs"]})
    for corpus in run.rows["corpus"].unique():
        place = f"{path}: {last}.si_sdri.{corpus!r:.80}"
        _check_fields(place, run.last_scores.get(corpus), {"a finite number": ["mean"]})
    stated = run.summary["test"]["si_sdri"]["combined"]["mean"]
    scored = float(np.mean(run.rows["si_sdri"]))
    if abs(stated - scored) > 0.01:
        raise ReportError(
            f"{path}: test.si_sdri.combined.mean is {stated:.4f} dB, that of evaluation/test.csv "
            f"is {scored:.4f}; both must be of the same run"
        )

"""Finished runs, read from their folders into plain data.

Of a run's folder only config.json, summary.json, metrics.jsonl and evaluation/test.csv are read: a copy of these is enough.
"""

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.errors import ReportError
from jaxsep.evaluation.statistics import QUANTILES, Summary

FILES = ("config.json", "summary.json", "metrics.jsonl", "evaluation/test.csv")
_NUMBER = (int, float)
LARGEST = 2**63  # of the numbers in JSON; none that a run writes comes near
MAX_DEPTH = 20  # of values within values; a run's have 6
MAX_DECIBELS = 1000.0  # SI-SDR is bounded to ±100 dB, input SNRs by what float32 holds
_CONFIG: dict[str, Any] = {
    "seed": int,
    **dict.fromkeys(("data", "train", "model", "loss", "evaluation"), dict),
    "data.slots": list,
    "data.segment_seconds": _NUMBER,
    **dict.fromkeys(
        ("train.batch_size", "train.mixtures_per_epoch", "train.num_epochs", "model.num_sources"),
        int,
    ),
    "weighting.name": str,
    "weighting.granularity": str,
}
_SUMMARY: dict[str, Any] = {
    **dict.fromkeys(("jaxsep", "data.kind"), str),
    "data.fingerprints": list,
    **dict.fromkeys(
        ("num_epochs", "training.epochs", "training.steps", "training.parameters"), int
    ),
    "training.seconds": _NUMBER,
    "test.si_sdri.combined.mean": _NUMBER,
}
# Column of test.csv -> (name here, type). "" in si_sdri_db: the source is alone in its mixture.
_COLUMNS: dict[str, tuple[str, Any]] = {
    "mixture": ("mixture", int),
    "slot": ("slot", int),
    "class": ("class", str),
    "group": ("group", str),
    "corpus": ("corpus", str),
    "input_snr_db": ("input_snr", float),
    "si_sdri_db": ("si_sdri", float),
}


@dataclass(frozen=True)
class Run:
    """What a finished run left.

    name: its folder's, with as many of the folders above as tell it from the other runs. config, summary: as in the files.
    metrics: 'train', 'val', 'test' -> the records of metrics.jsonl in their order. rows: one per source that was scored among
    others, by mixture and slot, arrays [rows]: mixture, slot (int), class, group, corpus (str), input_snr, si_sdri (dB).
    """

    name: str
    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    rows: dict[str, np.ndarray]

    @property
    def epochs_averaged(self) -> int:
        """Of how many epochs `last_scores` is the average; 0: training averaged none, it is the last epoch's."""
        recent = self.summary.get("test_last_epochs")
        return int(recent["si_sdri"]["combined"]["epochs"]) if recent else 0

    @property
    def last_scores(self) -> dict[str, Summary]:
        """Summaries of the test set averaged over the last epochs, or of the last epoch where there is no average."""
        return (self.summary.get("test_last_epochs") or self.summary["test_last"])["si_sdri"]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the order of their folders.

    Raises:
      ReportError: a folder is missing, given twice or not a finished run's, or a file in it is damaged.
    """
    parts = [folder.resolve().parts for folder in folders]
    twice = [folder for folder, path in zip(folders, parts, strict=True) if parts.count(path) > 1]
    if twice:
        raise ReportError(f"{twice[-1]}: given twice; every run must be given once")
    return [
        read_run(folder, name) for folder, name in zip(folders, _short_names(parts), strict=True)
    ]


def _short_names(parts: Sequence[tuple[str, ...]]) -> list[str]:
    # Bytes of a folder's name that are no UTF-8 become visible escapes.
    parts = [
        tuple(os.fsencode(part).decode("utf-8", "backslashreplace") for part in path)
        for path in parts
    ]
    names = [path[-1] for path in parts]
    for depth in range(2, max(map(len, parts)) + 1):
        names = [
            "/".join(path[-depth:]) if names.count(name) > 1 else name
            for name, path in zip(names, parts, strict=True)
        ]
    return names


def read_run(folder: Path, name: str) -> Run:
    """One run. Raises: see `read_runs`."""
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder; it must be a run's")
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        what = "not a run's folder" if "config.json" in missing else "not a finished run"
        raise ReportError(
            f"{folder}: {what}, {' and '.join(missing)} missing; the run's own command finishes it"
        )
    config, summary = (
        _read_json(folder / "config.json", _CONFIG),
        _read_json(folder / "summary.json", _SUMMARY),
    )
    wanted, done = config["train"]["num_epochs"], summary["num_epochs"]
    if wanted != done:
        raise ReportError(
            f"{folder}: not a finished run, summary.json is of {done} epochs and config.json asks for {wanted}; the run's own "
            "command finishes it"
        )
    run = Run(
        name,
        folder,
        config,
        summary,
        _read_metrics(folder / "metrics.jsonl"),
        _read_rows(folder / FILES[-1]),
    )
    _check_scores(run)
    return run


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def _read_json(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    content = _parse(path, _read_text(path))
    for field, kind in fields.items():
        _field(path, content, field, kind)
    return content


def _parse(path: Path, text: str) -> Any:
    """What JSON holds, where it is nothing that tables and pages could not be made of."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: is damaged, not JSON ({error})") from error
    _check_values(path, content, 0)
    return content


def _check_values(path: Path, value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ReportError(
            f"{path}: holds values within values, more than {MAX_DEPTH} deep; a run of jaxsep writes none"
        )
    if isinstance(value, int | float) and LARGEST <= abs(value) < math.inf:
        raise ReportError(f"{path}: holds the number {value!r:.40}; it must be below 2**63")
    if isinstance(value, str) and not value.isprintable():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ReportError(f"{path}: holds {value!r:.80}, which is no text") from error
    for item in (
        [*value, *value.values()]
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else ()
    ):
        _check_values(path, item, depth + 1)


def _field(path: Path | str, content: Any, field: str, kind: Any) -> Any:
    """content['a']['b'] for the field 'a.b', which must be there and of a kind."""
    found = content
    for name in field.split("."):
        if not isinstance(found, dict) or name not in found:
            raise ReportError(f"{path}: {field} is missing; a run of jaxsep writes it")
        found = found[name]
    finite = not isinstance(found, float) or math.isfinite(found)
    if not isinstance(found, kind) or isinstance(found, bool) or not finite:
        wanted = {
            _NUMBER: "a finite number",
            int: "a whole number",
            str: "text",
            list: "a list",
            dict: "an object",
        }[kind]
        raise ReportError(f"{path}: {field} is {found!r:.80}, it must be {wanted}")
    return found


def _read_metrics(path: Path) -> dict[str, list[dict[str, Any]]]:
    records: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        place = path.with_name(f"{path.name} line {number}")
        record = _parse(place, line)
        kind = _field(place, record, "kind", str)
        for field, wanted in {
            "step": int,
            "epoch": int,
            **({"ess": _NUMBER} if kind == "train" else {}),
        }.items():
            _field(place, record, field, wanted)
        for field, least in (("step", 1), ("epoch", 0)):
            if record[field] < least:
                raise ReportError(
                    f"{place}: {field} is {record[field]}, it must be at least {least}"
                )
        if kind in ("val", "test"):
            _field(place, record, "combined", _NUMBER)
        records.setdefault(kind, []).append(record)
    return records


def _read_rows(path: Path) -> dict[str, np.ndarray]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    columns: dict[str, list[Any]] = {name: [] for name, _ in _COLUMNS.values()}
    try:
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ReportError(
                f"{path}: the column {missing[0]} is missing; a run of jaxsep writes it"
            )
        for number, line in enumerate(reader, 2):
            if line["si_sdri_db"] == "":
                continue
            for column, (name, kind) in _COLUMNS.items():
                columns[name].append(_cell(path, number, column, line[column], kind))
    except csv.Error as error:
        raise ReportError(f"{path}: cannot be read ({error})") from error
    if len(set(zip(columns["mixture"], columns["slot"], strict=True))) < len(columns["slot"]):
        raise ReportError(
            f"{path}: lists a source more than once; every slot of a mixture must be listed once"
        )
    if not columns["mixture"]:
        raise ReportError(f"{path}: holds no scored source; at least one must have an si_sdri_db")
    order = np.lexsort(
        (columns["slot"], columns["mixture"])
    )  # whatever batches they were scored in
    return {name: np.array(values)[order] for name, values in columns.items()}


def _cell(path: Path, number: int, column: str, text: str | None, kind: Any) -> Any:
    try:
        value = kind(text if text is not None else float("nan"))  # a line that ends early
        if (kind is str and text is None) or (kind is float and not abs(value) <= MAX_DECIBELS):
            raise ValueError
        if kind is int and not 0 <= value < 2**31:
            raise ValueError
    except ValueError:
        wanted = {int: "a whole number", float: "a finite number, at most ±1000 dB", str: "text"}[
            kind
        ]
        raise ReportError(
            f"{path} line {number}: {column} is {text!r:.80}, it must be {wanted}"
        ) from None
    return value


def _check_scores(run: Run) -> None:
    """The averages that the tables take are whole, and summary.json speaks of the sources in test.csv."""
    chosen, path = run.config["weighting"], run.folder / "config.json"
    for field, kind in (("factors", list), ("gamma", dict)):
        if chosen.get(field) is not None:
            _field(path, run.config, f"weighting.{field}", kind)
    for field in ("train.batch_size", "train.num_epochs", "model.num_sources"):
        if _field(path, run.config, field, int) < 1:
            raise ReportError(
                f"{path}: {field} is {_field(path, run.config, field, int)}, it must be at least 1"
            )
    path = run.folder / "summary.json"
    last = "test_last_epochs" if run.summary.get("test_last_epochs") else "test_last"
    for field in ("mean", "std", *(f"quantiles.{q}" for q in QUANTILES)):
        _field(path, run.summary, f"{last}.si_sdri.combined.{field}", _NUMBER)
    if last == "test_last_epochs":
        _field(path, run.summary, f"{last}.si_sdri.combined.epochs", int)
    _field(path, run.summary, f"{last}.si_sdri.combined.n", int)
    for corpus in set(map(str, run.rows["corpus"])):
        _field(
            f"{path}: {last}.si_sdri.{corpus!r:.80}", run.last_scores.get(corpus), "mean", _NUMBER
        )
    said, found = (
        run.summary["test"]["si_sdri"]["combined"]["mean"],
        float(run.rows["si_sdri"].mean()),
    )
    if abs(said - found) > 0.01:
        raise ReportError(
            f"{path}: test.si_sdri.combined.mean is {said:.4f} dB, that of evaluation/test.csv is {found:.4f}; both must be of "
            "the same run"
        )

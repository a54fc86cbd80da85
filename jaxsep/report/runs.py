"""Finished runs, read from their folders into plain data.

Of a run's folder only the files in FILES are read, so that a copy of these is enough. Each of them
may be compressed, as NAME.xz. They may come from strangers: whatever they hold, they end in a `Run`
or in one line with the path, in memory bounded by their size.
"""

import io
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from jaxsep.errors import ReportError
from jaxsep.files import FREE_BYTES, MAX_INFLATION, display, read_text

FILES = ("config.json", "summary.json", "metrics.jsonl", "evaluation/test.csv")
MAX_DECIBELS = 1000.0  # SI-SDR is bounded to ±100 dB, input SNRs by what float32 holds
_LARGEST = 2.0**63  # of the numbers in metrics.jsonl; none that a run writes comes near
_LZMA_MEMORY = 1 << 27  # bytes; `xz -9` asks for 65 MB
_COLUMNS: dict[str, type] = {
    **{"mixture": int, "slot": int, "class": str, "group": str, "corpus": str},
    **{"input_snr_db": float, "si_sdri_db": float},
}

Count = Annotated[int, Field(ge=1, lt=2**31)]
Decibels = Annotated[float, Field(ge=-MAX_DECIBELS, le=MAX_DECIBELS, allow_inf_nan=False)]


class _Fields(BaseModel):
    """What a report reads of a JSON object; all else that it holds is kept as it is."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Data(_Fields):
    """The section data of config.json: what mixtures are made of."""

    slots: list[str]
    segment_seconds: FiniteFloat
    premixed_root: str | None = None


class Train(_Fields):
    """The section train of config.json: how much was trained."""

    batch_size: Count
    num_epochs: Count
    mixtures_per_epoch: int


class Model(_Fields):
    """The section model of config.json."""

    num_sources: Count


class Weighting(_Fields):
    """The section weighting of config.json: the pmf and its parameters."""

    name: str
    granularity: str
    factors: list[str] | None = None
    gamma: dict[str, FiniteFloat] | None = None


class Config(_Fields):
    """config.json."""

    seed: int
    data: Data
    train: Train
    model: Model
    weighting: Weighting


class Scores(_Fields):
    """A summary of scores in dB; epochs: of how many epochs it is the average."""

    mean: Decibels
    std: Decibels
    n: Count
    quantiles: dict[str, Decibels]
    epochs: Count = 1


class ByCorpus(_Fields):
    """The others are those of each corpus and class."""

    __pydantic_extra__: dict[str, Scores]
    combined: Scores


class TestScores(_Fields):
    """SI-SDRi of a test set, in all and by corpus and class."""

    si_sdri: ByCorpus


class Recordings(_Fields):
    """What was heard: 'recordings' or 'synthetic', and the fingerprints of the corpora."""

    kind: str
    fingerprints: list[str]


class Cost(_Fields):
    """What the training took; seconds of the whole run."""

    epochs: int
    steps: int
    parameters: int
    seconds: FiniteFloat


class Summary(_Fields):
    """summary.json; last: averaged over the last epochs, or else of the last epoch."""

    jaxsep: str
    num_epochs: int
    data: Recordings
    training: Cost
    test: TestScores
    last: TestScores = Field(validation_alias=AliasChoices("test_last_epochs", "test_last"))


class _Record(_Fields):
    kind: str
    step: Count
    epoch: Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True, eq=False)
class Run:
    """What a finished run left.

    Attributes:
      name: its folder's, with as many of the folders above as tell it from the other runs.
      folder: where it lies.
      config, summary: what the files say.
      metrics: 'train', 'val', 'test' -> the records of metrics.jsonl in their order: columns step
        and epoch (from 0), and all numbers, NaN where a record does not hold one.
      rows: a line for each source that was scored among others, by mixture and slot. Columns:
        mixture, slot, class, group, corpus, input_snr (dB), si_sdri (dB).
    """

    name: str
    folder: Path
    config: Config
    summary: Summary
    metrics: dict[str, pd.DataFrame]
    rows: pd.DataFrame


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the order of their folders.

    Raises:
      ReportError: a folder is missing, given twice or not a finished run's, or a file is damaged.
    """
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    for depth in range(2, max(len(path.parts) for path in paths) + 1):
        names = [
            "/".join(path.parts[-depth:]) if names.count(name) > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise ReportError(f"{display(folder)}: given twice; every run must be given once")
    return [_read_run(folder, display(name)) for folder, name in zip(folders, names, strict=True)]


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder; it must be a run's")
    contents = {}
    for file in FILES:
        path = next((p for p in (folder / file, folder / f"{file}.xz") if p.is_file()), None)
        if path is None:
            what = "not a run's folder" if file == "config.json" else "not a finished run"
            raise ReportError(
                f"{folder}: {what}, {file} is missing; the run's own command finishes it"
            )
        try:
            contents[file] = _PARSERS[file](_read(path))
        except ValidationError as error:
            problem = error.errors()[0]
            field = "".join(f"{part}." for part in problem["loc"])[:-1]
            given = "" if problem["type"] == "missing" else f", not {problem['input']!r:.60}"
            reason = f"{field}: {problem['msg']}{given}" if field else problem["msg"]
            raise ReportError(f"{path}: {reason}") from error
        except (OSError, ValueError, OverflowError, lzma.LZMAError) as error:
            reason = " ".join(str(error).split())
            raise ReportError(f"{path}: cannot be read ({reason:.200})") from error
    config, summary, metrics, rows = contents.values()
    wanted, done = config.train.num_epochs, summary.num_epochs
    if wanted != done:
        raise ReportError(
            f"{folder}: not a finished run, summary.json is of {done} epochs and config.json asks "
            f"for {wanted}; the run's own command finishes it"
        )
    stated, scored = summary.test.si_sdri.combined.mean, float(rows["si_sdri"].mean())
    if abs(stated - scored) > 0.01:
        raise ReportError(
            f"{folder}: the mean of summary.json is {stated:.4f} dB, that of evaluation/test.csv "
            f"is {scored:.4f}; both must be of the same run"
        )
    return Run(name, folder, config, summary, metrics, rows)


def _read(path: Path) -> str:
    """A file's text; decompressed where its name ends in .xz."""
    if path.suffix != ".xz":
        return read_text(path)
    limit = FREE_BYTES + MAX_INFLATION * path.stat().st_size
    decompressor = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    content = decompressor.decompress(path.read_bytes(), limit)
    if not decompressor.eof:
        raise ValueError("it is cut short, or its content is out of proportion to its size")
    return content.decode()


def _metrics(text: str) -> dict[str, pd.DataFrame]:
    records = [_Record.model_validate_json(line) for line in text.splitlines()]
    metrics = {}
    for kind, score in {"train": "ess", "val": "combined", "test": "combined"}.items():
        numbers = [
            {name: float(value) for name, value in record if isinstance(value, int | float)}
            for record in records
            if record.kind == kind
        ]
        table = pd.DataFrame(numbers, dtype=float).where(lambda values: abs(values) < _LARGEST)
        names = dict.fromkeys(["step", "epoch", score, *table.columns])
        metrics[kind] = table.reindex(columns=list(names))
    return metrics


def _rows(text: str) -> pd.DataFrame:
    cells = pd.read_csv(
        io.StringIO(text), usecols=list(_COLUMNS), dtype=str, na_filter=False, index_col=False
    )
    rows = cells[cells["si_sdri_db"] != ""].astype(_COLUMNS)  # empty: alone in its mixture
    decibels = rows[["input_snr_db", "si_sdri_db"]].abs().max().max()
    if not decibels <= MAX_DECIBELS or rows.isna().any(axis=None):
        raise ValueError(
            "it must hold at least one scored source, input_snr_db and si_sdri_db being numbers of "
            f"at most {MAX_DECIBELS:g}"
        )
    if rows.duplicated(["mixture", "slot"]).any():
        raise ValueError("a slot of a mixture is listed more than once")
    rows = rows.sort_values(["mixture", "slot"], ignore_index=True)  # not as they were batched
    return rows.rename(columns=lambda name: name.removesuffix("_db"))


_PARSERS: dict[str, Any] = dict(
    zip(
        FILES,
        [Config.model_validate_json, Summary.model_validate_json, _metrics, _rows],
        strict=True,
    )
)

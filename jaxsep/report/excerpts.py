"""The excerpts that runs left in evaluation/audio/, read to be heard."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from jaxsep.errors import ReportError
from jaxsep.evaluation.excerpts import PLACES
from jaxsep.report.grouping import Experiment
from jaxsep.report.runs import Run

_PLACES = sorted(PLACES, key=PLACES.__getitem__)  # from the worst to the best
_FOLDER = re.compile(rf"({'|'.join(PLACES)})-(\d{{1,9}})-mixture(\d{{1,9}})")
_SOURCE = re.compile(r"source(\d{1,9})-.*\.wav", re.DOTALL)
MAX_RATE = 655_350  # Hz, of the FLAC that the page holds


@dataclass(frozen=True)
class Sound:
    """samples: [T], T ≥ 1; one gain for all sounds of a mixture, whose levels are to be heard.

    sample_rate: Hz.
    """

    samples: np.ndarray
    sample_rate: int


@dataclass(frozen=True)
class Source:
    """A source of a mixture beside the estimate of it; si_sdri: dB, None where it has none."""

    name: str
    si_sdri: float | None
    source: Sound
    estimate: Sound


@dataclass(frozen=True)
class Excerpt:
    """One test mixture of one run.

    Attributes:
      run: the run's label.
      number: of the mixture in the test set.
      place: where it stands among the run's test mixtures, such as 'worst'.
      score: dB, the mean SI-SDRi of its sources.
      input_snr: dB, the power of the first source over that of the rest of the mixture.
      classes: of the sources that were scored.
      mixture: what was separated.
      sources: with their estimates.
    """

    run: str
    number: int
    place: str
    score: float
    input_snr: float
    classes: list[str]
    mixture: Sound
    sources: list[Source]


def chosen_runs(experiments: Sequence[Experiment], audio: str) -> list[tuple[str, Run]]:
    """(condition's label, run) of the runs to be heard.

    Args:
      audio: 'all', 'none', or 'first': of each condition the first seed that has sound.
    """
    chosen = []
    for condition in (c for experiment in experiments for c in experiment.conditions):
        runs = [run for run in condition.runs if excerpt_folders(run)]
        chosen += [(condition.label, run) for run in runs[: {"first": 1, "none": 0}.get(audio)]]
    return chosen


def excerpt_folders(run: Run) -> list[Path]:
    """By place and rank, from the worst to the best; a copy of a run's tables alone has none."""
    root = run.folder / "evaluation" / "audio"
    names = os.listdir(root) if root.is_dir() else []
    matches = [match for match in map(_FOLDER.fullmatch, names) if match]
    matches.sort(key=lambda match: (_PLACES.index(match[1]), int(match[2]), match[0]))
    return [root / match[0] for match in matches]


def read_excerpt(label: str, run: Run, folder: Path) -> Excerpt:
    """One of `excerpt_folders`.

    Raises:
      ReportError: a sound file is missing or damaged, or of a mixture that is not in test.csv.
    """
    place, _, number = folder.name.split("-")
    mixture = int(number.removeprefix("mixture"))
    rows = run.rows[run.rows["mixture"] == mixture].set_index("slot")
    if rows.empty:
        raise ReportError(f"{folder}: mixture {mixture} is not in the run's evaluation/test.csv")
    matches = [match for match in map(_SOURCE.fullmatch, os.listdir(folder)) if match]
    sources = []
    for match in sorted(matches, key=lambda match: (int(match[1]), match[0])):
        slot = int(match[1]) - 1
        name, score = (
            ("silent", None) if slot not in rows.index else rows.loc[slot, ["class", "si_sdri"]]
        )
        estimate = _read(folder / f"estimate{slot + 1}.wav")
        sources.append(Source(name, score, _read(folder / match[0]), estimate))
    return Excerpt(
        run=f"{label} ({run.name})",
        number=mixture,
        place=place,
        score=float(rows["si_sdri"].mean()),
        input_snr=float(rows["input_snr"].iloc[0]),
        classes=list(rows["class"]),
        mixture=_read(folder / "mixture.wav"),
        sources=sources,
    )


def _read(path: Path) -> Sound:
    try:
        if not path.is_file():  # opening a pipe would wait for its other end
            raise OSError("no such file")
        samples, rate = soundfile.read(os.fsencode(path), dtype="float32")
        if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
            raise ValueError("it must hold one channel of finite samples")
        if not 1 <= rate <= MAX_RATE:
            raise ValueError(f"its sample rate is {rate} Hz and must be 1 to {MAX_RATE} Hz")
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ReportError(f"{path}: cannot be read as sound ({reason})") from error
    return Sound(samples, int(rate))

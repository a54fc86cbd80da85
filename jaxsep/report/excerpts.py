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
    for experiment in experiments:
        for condition in experiment.conditions:
            first = [run for run in condition.runs if has_audio(run)] or list(condition.runs)
            runs = {"all": condition.runs, "first": first[:1], "none": ()}[audio]
            chosen += [(condition.label, run) for run in runs]
    return chosen


def has_audio(run: Run) -> bool:
    """Whether the run's folder holds excerpts; a copy of its tables alone holds none."""
    return bool(_folders(run))


def read_excerpts(label: str, run: Run) -> list[Excerpt]:
    """All excerpts of a run from the worst to the best; [] where its folder holds none.

    Raises:
      ReportError: a sound file is missing or damaged, or of a mixture that is not in test.csv.
    """
    return [_excerpt(f"{label} ({run.name})", run, *entry) for entry in _folders(run)]


def _folders(run: Run) -> list[tuple[str, int, Path]]:
    """(place, number of the mixture, folder), by place and rank."""
    root = run.folder / "evaluation" / "audio"
    names = sorted(os.listdir(root)) if root.is_dir() else []
    matches = [match for match in map(_FOLDER.fullmatch, names) if match]
    matches.sort(key=lambda match: (_PLACES.index(match[1]), int(match[2])))
    return [(match[1], int(match[3]), root / match[0]) for match in matches]


def _excerpt(label: str, run: Run, place: str, number: int, folder: Path) -> Excerpt:
    rows = run.rows[run.rows["mixture"] == number].set_index("slot")
    if rows.empty:
        raise ReportError(
            f"{folder}: mixture {number} is not in evaluation/test.csv; both must be of the same "
            "run"
        )
    matches = [match for match in map(_SOURCE.fullmatch, os.listdir(folder)) if match]
    sources = []
    for match in sorted(matches, key=lambda match: (int(match[1]), match[0])):
        slot = int(match[1]) - 1
        scored = slot in rows.index
        sources.append(
            Source(
                name=rows.loc[slot, "class"] if scored else "silent",
                si_sdri=float(rows.loc[slot, "si_sdri"]) if scored else None,
                source=_read(folder / match[0]),
                estimate=_read(folder / f"estimate{slot + 1}.wav"),
            )
        )
    return Excerpt(
        run=label,
        number=number,
        place=place,
        score=float(rows["si_sdri"].mean()),
        input_snr=float(rows["input_snr"].iloc[0]),
        classes=list(rows["class"]),
        mixture=_read(folder / "mixture.wav"),
        sources=sources,
    )


def _read(path: Path) -> Sound:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
            raise OSError("no regular file")
        samples, rate = soundfile.read(os.fsencode(path), dtype="float32")
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        reason = "no such file" if not path.exists() else " ".join(str(error).split())
        raise ReportError(
            f"{path}: cannot be read as sound ({reason}); a run of jaxsep writes it"
        ) from error
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise ReportError(f"{path}: must hold one channel of finite samples, at least one")
    if not 1 <= rate <= MAX_RATE:
        raise ReportError(
            f"{path}: its sample rate is {rate} Hz; it must be 1 to {MAX_RATE} Hz, those of FLAC"
        )
    return Sound(samples, int(rate))

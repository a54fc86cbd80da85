"""The excerpts that runs left in evaluation/audio/, read to be heard."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from jaxsep.errors import ReportError
from jaxsep.evaluation.excerpts import PLACES
from jaxsep.report.grouping import Experiment
from jaxsep.report.runs import Run
from jaxsep.report.sections import Excerpt, Player

_FOLDER = re.compile(rf"({'|'.join(PLACES)})-(\d+)-mixture(\d+)")
MAX_RATE = 655_350  # Hz, of the FLAC that the page holds
_ORDER = ("worst", "p01", "p05", "median", "best")


def chosen_runs(experiments: Sequence[Experiment], audio: str) -> list[tuple[str, Run]]:
    """(condition's label, run) of the runs to be heard: 'all', 'first' (of each condition the first seed with sound, where one
    has any) or 'none'."""
    chosen = []
    for condition in (
        condition for experiment in experiments for condition in experiment.conditions
    ):
        first = [run for run in condition.runs if has_audio(run)] or list(condition.runs)
        runs = {"all": condition.runs, "first": first[:1], "none": ()}[audio]
        chosen += [(condition.label, run) for run in runs]
    return chosen


def has_audio(run: Run) -> bool:
    """Whether the run's folder holds excerpts to listen to; a slim copy holds none."""
    return bool(_folders(run))


def read_excerpts(label: str, run: Run) -> list[Excerpt]:
    """All excerpts of a run from the worst to the best; [] where its folder holds none, as in a copy without sound.

    Raises:
      ReportError: a sound file is missing or damaged, or of a mixture that is not in test.csv.
    """
    return [_excerpt(f"{label} ({run.name})", run, *entry) for entry in _folders(run)]


def _folders(run: Run) -> list[tuple[str, int, Path]]:
    """(place, mixture, folder), by place and rank."""
    root = run.folder / "evaluation" / "audio"
    names = sorted(os.listdir(root)) if root.is_dir() else []
    matches = [match for match in map(_FOLDER.fullmatch, names) if match]
    matches.sort(key=lambda match: (_ORDER.index(match[1]), int(match[2])))
    return [(match[1], int(match[3]), root / match[0]) for match in matches]


def _excerpt(heading: str, run: Run, place: str, mixture: int, folder: Path) -> Excerpt:
    rows = {name: values[run.rows["mixture"] == mixture] for name, values in run.rows.items()}
    if not rows["slot"].size:
        raise ReportError(
            f"{folder}: mixture {mixture} is not in evaluation/test.csv; both must be of the same run"
        )
    score_of = dict(zip(map(int, rows["slot"]), map(float, rows["si_sdri"]), strict=True))
    class_of = dict(zip(map(int, rows["slot"]), map(str, rows["class"]), strict=True))
    samples, rate = _read(folder / "mixture.wav")
    players = [Player("mixture", "mixture", samples, rate, None)]
    sources = sorted(folder.glob("source*-*.wav"), key=lambda path: _slot(path.name))
    for path in sources:
        slot = _slot(path.name)
        name = class_of.get(slot, "silent")
        for kind, file in (("source", path), ("estimate", folder / f"estimate{slot + 1}.wav")):
            samples, rate = _read(file)
            players.append(
                Player(
                    name, kind, samples, rate, score_of.get(slot) if kind == "estimate" else None
                )
            )
    first = int(np.argmin(rows["slot"]))
    return Excerpt(
        run=heading,
        mixture=mixture,
        place=place,
        score=float(rows["si_sdri"].mean()),
        input_snr=float(rows["input_snr"][first]),
        classes=[class_of[slot] for slot in sorted(class_of)],
        players=players,
    )


def _slot(name: str) -> int:
    number = name.removeprefix("source").split("-", 1)[0]
    return int(number) - 1 if number.isdecimal() else -1


def _read(path: Path) -> tuple[np.ndarray, int]:
    """Samples [T] float32 and their rate in Hz."""
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
    return samples, int(rate)

"""A corpus: every recording of a dataset, decoded and resampled once, in one memory-mapped array.

`prepare` packs a dataset, or opens the pack that was made before; `open_packed` opens a packed
folder at once; `class_table` numbers the classes of all corpora of a run.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from jaxsep.console import say
from jaxsep.data.layouts import ESC50_TABLE, PAPER_TRAIN_UTTERANCES, read_layout
from jaxsep.data.packs.format import Pack, open_pack
from jaxsep.data.packs.packing import Dataset, Kind, pack_or_open
from jaxsep.errors import DataError

KIND = "corpus"
FRAME_SECONDS = 0.1
# A file of this name in a dataset's root says that no recording in it is real.
SYNTHETIC_MARKER = "SYNTHETIC.json"


@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus(Pack):
    """A packed corpus of R recordings; see `Pack` for the attributes that are not listed.

    Recording r is `audio[offsets[r] : offsets[r] + lengths[r]]`.

    Attributes:
        energies: float32 [frames of all recordings], those of recording r being
            `energies[energy_offsets[r] : energy_offsets[r + 1]]`: one for each 0.1 s (the last may
            be shorter), the sum of squares about the mean of that 0.1 s, so that a constant offset
            counts as silence.
        energy_offsets: int64 [R + 1].
    """

    kind: ClassVar[str] = KIND
    energies: np.ndarray
    energy_offsets: np.ndarray


@dataclass(frozen=True)
class ClassTable:
    """All classes of a run, over all splits and corpora: a class id is the index into each."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    corpora: tuple[str, ...]


def class_table(corpora: Sequence[Corpus]) -> ClassTable:
    """Numbers the classes: corpora by name, within a corpus as in `class_names` (sorted).

    Raises:
        DataError: two corpora have one name.
    """
    ordered = sorted(corpora, key=lambda corpus: corpus.name)
    names = [corpus.name for corpus in ordered]
    if len(set(names)) < len(names):
        raise DataError(f"corpora: names are {names}; they must differ")
    return ClassTable(
        names=tuple(name for corpus in ordered for name in corpus.class_names),
        groups=tuple(group for corpus in ordered for group in corpus.class_groups),
        corpora=tuple(corpus.name for corpus in ordered for _ in corpus.class_names),
    )


def prepare(
    root: str | os.PathLike,
    name: str,
    sample_rate: int,
    cache_dir: str | os.PathLike,
    *,
    skip_bad: bool = False,
    progress: bool = True,
) -> Corpus:
    """Packs a dataset below `cache_dir`, or opens the pack made from the same files before.

    Several channels are averaged (one warning). Recordings that are digital silence throughout (one
    constant value) are left out (one line). Files beside the recordings that are not taken are
    counted (one line).

    Args:
        root: a dataset in a known layout (see `layouts`), or a packed folder, which is opened.
        name: 'speech' or 'environment'.
        sample_rate: Hz.
        cache_dir: where packs lie; made if missing.
        skip_bad: leave out recordings that cannot be used, and list them, instead of refusing the
            dataset. Later calls use that pack whether this is given or not.
        progress: show a progress bar with the time left, where standard error is a terminal.

    Raises:
        DataError: the root is missing, empty or of no known layout; recordings cannot be used (all
            are listed); there is no sound at all; a packed folder has another name or rate; the
            cache cannot be written.
    """
    root, wanted = Path(root), {"name": name, "sample_rate": sample_rate}

    def read(others: Counter[str]) -> Dataset:
        layout, rows = read_layout(root, name, sample_rate=sample_rate, others=others)
        if layout == "wsj0-2mix":
            count = f"{sum(row.split == 'train' for row in rows):,} training utterances"
            say(f"{name}: {count} in WSJ0-2mix (the paper: {PAPER_TRAIN_UTTERANCES:,})")
        synthetic = (root / SYNTHETIC_MARKER).is_file()
        header = wanted | {"layout": layout, "synthetic": synthetic}
        described = [(row.class_name, row.group, row.split) for row in rows]
        facts = header | {"kind": KIND, "rows": described}
        return Dataset(rows, header, facts, [root / ESC50_TABLE] if layout == "esc50" else ())

    return pack_or_open(
        root, read, CORPORA, cache_dir, wanted=wanted, skip_bad=skip_bad, progress=progress
    )


def open_packed(folder: str | os.PathLike) -> Corpus:
    """Opens a packed corpus at once; its audio stays on disk and is paged in as it is used.

    Raises:
        DataError: no packed corpus, of another format version, damaged or truncated.
    """
    return open_pack(Path(folder), Corpus)


def frame_size(sample_rate: int) -> int:
    """Samples in the 0.1 s over which energies are summed, at least 1."""
    return max(1, round(FRAME_SECONDS * sample_rate))


def frame_energies(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Sum of squares about the mean of each 0.1 s of `samples` [T].

    Returns:
        float32 [ceil(T / frame_size)], never negative.
    """
    starts = np.arange(0, samples.size, frame_size(sample_rate))
    exact = samples.astype(np.float64)
    counts = np.diff(np.append(starts, samples.size))
    energies = np.add.reduceat(exact * exact, starts) - np.add.reduceat(exact, starts) ** 2 / counts
    return np.maximum(energies, 0.0).astype(np.float32)


def _measure(signals: np.ndarray, sample_rate: int) -> np.ndarray | None:
    digital_silence = signals.min() == signals.max()
    return None if digital_silence else frame_energies(signals[0], sample_rate)


def _columns(arrays: dict[str, np.ndarray], energies: list[np.ndarray]) -> dict[str, np.ndarray]:
    return arrays | {
        "classes": arrays["classes"][:, 0],
        "contents": arrays["contents"][:, 0],
        "energies": np.concatenate(energies),
        "energy_offsets": np.cumsum([0, *(frames.size for frames in energies)], dtype=np.int64),
    }


CORPORA = Kind(Corpus, _measure, _columns)

"""A pack on disk: decoded audio in one memory-mapped file beside a small index.

    audio.f32     all samples, float32, little-endian, one recording after another
    index.npz     plain arrays: where each recording lies; all that is no array as JSON in `header`

A pack is its user's own. On opening, the length of audio.f32 is checked, and index.npz by the
checksums (CRC-32) that a zip archive has of each array; the SHA-256 of the audio is checked by
`python -m jaxsep.prepare --verify`.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.data.layouts import SPLITS
from jaxsep.errors import DataError
from jaxsep.files import display, read_arrays

FORMAT_VERSION = 4
INDEX, AUDIO = "index.npz", "audio.f32"


@dataclass(frozen=True, eq=False, kw_only=True)
class Pack:
    """A packed corpus of R recordings, or a packed premixed set of R mixtures in F roles.

    Recording r is `audio[offsets[r] : offsets[r] + lengths[r]]`; mixture r with its sources, the
    mixture first, is `audio[offsets[r] : offsets[r] + F * lengths[r]].reshape(F, lengths[r])`.

    Attributes:
        name: 'speech', 'environment' or 'premixed'.
        layout: what the dataset was read as, see `layouts`.
        sample_rate: Hz.
        synthetic: True if no recording is real.
        fingerprint: hex digest of the files' contents and of the settings that they were packed
            with; the same on every machine.
        roles: F folder names of a premixed set, the mixture's first; () of a corpus.
        audio: float32 [samples], memory-mapped, read-only.
        audio_sha256: hex digest of audio.f32.
        offsets, lengths: int64 [R], samples.
        classes: int32 [R], or [R,N] of a premixed set with N sources: index into class_names.
        splits: int8 [R], index into SPLITS.
        paths: R file names, relative to the dataset's root; of a premixed set those of the mixture.
        contents: uint8 [R,F,32], the SHA-256 of each file; F is 1 for a corpus.
        class_names: sorted.
        class_groups: one for each class.
        left_out: path -> reason, of each recording of the dataset that the pack does not hold.
        energies: float32; those of recording (or mixture) r are `energies[energy_offsets[r] :
            energy_offsets[r + 1]]`: one for each 0.1 s (the last may be shorter), the sum of
            squares about the mean of that 0.1 s, so that a constant offset counts as silence.
        energy_offsets: int64 [R + 1].
        snr: float32 [R], dB: power of source 0 to source 1; 0 where there is no such ratio.
    """

    name: str
    layout: str
    sample_rate: int
    synthetic: bool
    fingerprint: str
    roles: tuple[str, ...]
    audio: np.memmap
    audio_sha256: str
    offsets: np.ndarray
    lengths: np.ndarray
    classes: np.ndarray
    splits: np.ndarray
    paths: tuple[str, ...]
    contents: np.ndarray
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...]
    left_out: dict[str, str]
    energies: np.ndarray
    energy_offsets: np.ndarray
    snr: np.ndarray

    @property
    def folder(self) -> Path:
        """Where the pack lies."""
        return Path(str(self.audio.filename)).parent


def write_index(folder: Path, **values: Any) -> None:
    """Writes all attributes of a `Pack` but its audio: arrays, and JSON values for the others."""
    arrays: dict[str, Any] = {}
    header: dict[str, Any] = {"version": FORMAT_VERSION}
    for name, value in values.items():
        (arrays if isinstance(value, np.ndarray) else header)[name] = value
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(folder / INDEX, header=text, **arrays)


def open_packed(folder: str | os.PathLike) -> Pack:
    """Opens a packed folder at once; its audio stays on disk and is paged in as it is used.

    Raises:
        DataError: no packed folder, of another format version, damaged or truncated.
    """
    folder = Path(folder)
    try:
        values: dict[str, Any] = read_arrays(folder / INDEX)
        for name, value in json.loads(values.pop("header").tobytes()).items():
            values[name] = tuple(value) if isinstance(value, list) else value
        if (version := values.pop("version")) != FORMAT_VERSION:
            raise ValueError(f"it has format version {version}; must be {FORMAT_VERSION}")
        pack = Pack(audio=np.memmap(folder / AUDIO, dtype="<f4", mode="r"), **values)
        samples = int(pack.lengths.sum()) * pack.contents.shape[1]
        if pack.audio.size != samples:
            raise ValueError(f"{AUDIO} has {pack.audio.size:,} samples; must be {samples:,}")
    except Exception as error:  # zipfile and NumPy raise a dozen kinds
        raise DataError(
            f"{display(folder)}: cannot be read as a pack ({error}); pack the dataset again"
        ) from error
    return pack


def describe(pack: Pack) -> str:
    """A table: what the pack is; recordings, classes and hours of each split; how many are left
    out."""
    made_up = " (synthetic)" if pack.synthetic else ""
    lines = [
        f"{pack.name}{made_up}: layout {pack.layout}, {pack.sample_rate} Hz, "
        f"fingerprint {pack.fingerprint[:12]}, packed in {display(pack.folder)}",
        f"{'split':<8}{'recordings':>12}{'classes':>10}{'hours':>10}",
    ]
    for index, name in enumerate((*SPLITS, "all")):
        rows = (pack.splits == index) | (name == "all")
        hours = pack.lengths[rows].sum() / pack.sample_rate / 3600
        classes = np.unique(pack.classes[rows]).size
        lines.append(f"{name:<8}{rows.sum():>12,}{classes:>10,}{hours:>10.3f}")
    if pack.left_out:
        lines.append(f"{'left out':<8}{len(pack.left_out):>12,}")
    return "\n".join(lines)


@dataclass(frozen=True)
class ClassTable:
    """All classes of a run, over all splits and corpora: a class id is the index into each.

    corpora: the names of the corpora; of a premixed set its groups 'speech', 'noise', 'premixed'.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    corpora: tuple[str, ...]


def class_table(packs: Iterable[Pack]) -> ClassTable:
    """Numbers the classes: packs by name, within a pack as in `class_names` (sorted)."""
    ordered = sorted(packs, key=lambda pack: pack.name)
    rows = [
        (name, group, group if pack.roles else pack.name)
        for pack in ordered
        for name, group in zip(pack.class_names, pack.class_groups, strict=True)
    ]
    return ClassTable(*zip(*rows, strict=True))

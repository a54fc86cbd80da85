"""A corpus: every recording of a dataset, decoded and resampled once, in one memory-mapped array with an index.

`prepare` packs a dataset, or finds the pack made before; `open_packed` opens a packed folder at once and holds no audio
in memory; `class_table` numbers the classes of all corpora of a run.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxsep.console import say
from jaxsep.data.audio import MAX_SAMPLE_RATE
from jaxsep.data.layouts import PAPER_TRAIN_UTTERANCES, SPLITS, Row, metadata_files, read_layout
from jaxsep.data.packs.decode import Bad, decode, settle
from jaxsep.data.packs.format import (
    AUDIO,
    HEADER,
    append,
    fingerprint,
    finish_pack,
    pack_folder,
    pack_paths,
    read_header,
    read_pack,
    reuse,
    say_left_out,
    say_not_taken,
    stamp,
    unpack_paths,
)
from jaxsep.data.packs.schema import entry, pairs, typed
from jaxsep.errors import DataError
from jaxsep.files import check_names, display

KIND = "corpus"
FRAME_SECONDS = 0.1
ARRAY_TYPES = {
    **dict.fromkeys(("offsets", "lengths", "energy_offsets"), np.int64),
    "classes": np.int32,
    "splits": np.int8,
    **dict.fromkeys(("paths", "contents"), np.uint8),
    "energies": np.float32,
}
# A file of this name in a dataset's root says that no recording in it is real.
SYNTHETIC_MARKER = "SYNTHETIC.json"


@dataclass(frozen=True, eq=False)
class Corpus:
    """A packed corpus of R recordings.

    Recording r is `audio[offsets[r] : offsets[r] + lengths[r]]`; its energies, one per 0.1 s (the last may be shorter),
    are `energies[energy_offsets[r] : energy_offsets[r + 1]]`: the sum of squares about the mean of that 0.1 s, so that
    a constant offset counts as silence.

    Attributes:
        name: 'speech' or 'environment'.
        layout: as `layouts.read_layout` names it.
        sample_rate: Hz.
        synthetic: True if no recording is real.
        fingerprint: hex digest of the files' contents and the settings it was packed from, the same on every machine.
        audio: float32 [samples], memory-mapped, read-only.
        offsets, lengths: int64 [R], samples.
        classes: int32 [R], index into class_names.
        splits: int8 [R], index into SPLITS.
        paths: R file names, relative to the dataset's root.
        class_names: sorted.
        class_groups: one per class.
        energies: float32 [frames of all recordings].
        energy_offsets: int64 [R + 1].
        contents: uint8 [R, 32], the SHA-256 of each recording's file.
        left_out: (path, reason) of each recording of the dataset that the pack does not hold.
    """

    name: str
    layout: str
    sample_rate: int
    synthetic: bool
    fingerprint: str
    audio: np.memmap
    offsets: np.ndarray
    lengths: np.ndarray
    classes: np.ndarray
    splits: np.ndarray
    paths: tuple[str, ...]
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...]
    energies: np.ndarray
    energy_offsets: np.ndarray
    contents: np.ndarray
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ClassTable:
    """All classes of a run, over all splits and corpora; a class id is the index into each of the three."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    corpora: tuple[str, ...]


def class_table(corpora: Sequence[Corpus]) -> ClassTable:
    """Numbers the classes: corpora in the order of their names, within a corpus as in `class_names` (sorted).

    Raises:
        DataError: two corpora of the same name.
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


def frame_size(sample_rate: int) -> int:
    """Samples in the 0.1 s over which energies are summed, at least 1."""
    return max(1, round(FRAME_SECONDS * sample_rate))


def prepare(
    root: str | os.PathLike,
    name: str,
    sample_rate: int,
    cache_dir: str | os.PathLike,
    *,
    skip_bad: bool = False,
    progress: bool = True,
) -> Corpus:
    """Packs a dataset into `cache_dir/NAME-RATE-FINGERPRINT/`, or opens the pack made from the same files before.

    The dataset is never written to. Several channels are averaged (one warning line); recordings that are digital
    silence (one constant value) throughout are left out (one line). A pack that was killed leaves nothing that could be
    taken for finished. A pack that holds not all of its dataset's recordings says so whenever it is opened here (one line),
    as does a dataset with files beside the recordings that are not taken.

    Args:
        root: a dataset in a known layout (see `layouts`), or a packed folder, which is opened as it is.
        name: 'speech' or 'environment'.
        sample_rate: Hz.
        cache_dir: where packs lie; made if missing.
        skip_bad: leave out recordings that cannot be used, and list them, in place of refusing the dataset. The pack is
            found again whether this is given or not.
        progress: show a progress bar with the time left, where standard error is a terminal.

    Raises:
        DataError: unknown layout, missing or empty root, files that cannot be used (all are listed), no sound at all,
            a packed folder of another name or rate, a cache that cannot be written.
    """
    root, field = Path(root), f"data.{name}_root"
    check_sample_rate(sample_rate)
    if os.path.isfile(
        root / HEADER
    ):  # Path.is_file raises where a name is too long or a folder closed
        corpus = _open_as(root, name, sample_rate, field)
        say_left_out(name, corpus.left_out)
        return corpus
    others: Counter[str] = Counter()
    layout, rows = read_layout(root, name, sample_rate=sample_rate, others=others)
    say_not_taken(name, others)
    if layout == "wsj0-2mix":
        count = sum(row.split == "train" for row in rows)
        say(
            f"{name}: {count:,} training utterances in WSJ0-2mix (the paper: {PAPER_TRAIN_UTTERANCES:,})"
        )
    synthetic = (root / SYNTHETIC_MARKER).is_file()
    header = {
        "kind": KIND,
        "name": name,
        "layout": layout,
        "sample_rate": sample_rate,
        "synthetic": synthetic,
    }
    facts = header | {"rows": [(row.class_name, row.group, row.split) for row in rows]}
    digest = fingerprint(metadata_files(root, layout), facts)
    target = (
        Path(cache_dir)
        / f"{name}-{sample_rate}-{stamp(root, [row.path for row in rows], digest)[:12]}"
    )
    if (found := reuse(target, open_packed)) is not None:
        say_left_out(name, found.left_out)
        return found
    with pack_folder(target) as folder, open(folder / AUDIO, "wb") as audio:
        _pack(root, rows, header, digest, folder, audio, skip_bad=skip_bad, progress=progress)
    return open_packed(target)


def open_packed(folder: str | os.PathLike) -> Corpus:
    """Opens a packed folder at once; audio stays on disk and is paged in as it is used.

    Raises:
        DataError: not a packed corpus, of another format version, damaged or truncated; names the file.
    """
    folder = Path(folder)
    header, arrays, audio = read_pack(folder, KIND)
    try:
        columns = typed(arrays, ARRAY_TYPES)
        paths = unpack_paths(columns.pop("paths"))
        corpus = Corpus(
            **{name: entry(header, name, str) for name in ("name", "layout", "fingerprint")},
            sample_rate=entry(header, "sample_rate", int),
            synthetic=entry(header, "synthetic", bool),
            audio=audio,
            paths=paths,
            class_names=tuple(entry(header, "class_names", list)),
            class_groups=tuple(entry(header, "class_groups", list)),
            left_out=pairs(header, "left_out"),
            **columns,
        )
        check_names(corpus.class_names)
    except ValueError as error:
        raise DataError(
            f"{display(folder)}: its index is damaged ({error}); pack the corpus again"
        ) from error
    _check(corpus, folder)
    return corpus


def check_sample_rate(sample_rate: int) -> None:
    """DataError unless the rate is a positive integer (Hz), at most MAX_SAMPLE_RATE."""
    if not isinstance(sample_rate, int) or not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise DataError(
            f"data.sample_rate: is {sample_rate!r}; must be a positive integer (Hz), at most {MAX_SAMPLE_RATE}"
        )


def _open_as(folder: Path, name: str, sample_rate: int, field: str) -> Corpus:
    kind = read_header(folder).get("kind")
    if kind != KIND:
        raise DataError(
            f"{field}: {display(folder)} holds a packed {kind!r}; must be a packed {KIND!r} or a dataset"
        )
    corpus = open_packed(folder)
    if corpus.name != name:
        raise DataError(
            f"{field}: {display(folder)} is packed as {corpus.name!r}; must be packed as {name!r}"
        )
    if corpus.sample_rate != sample_rate:
        rates = f"is packed at {corpus.sample_rate} Hz; data.sample_rate is {sample_rate}"
        raise DataError(f"{field}: {display(folder)} {rates}")
    return corpus


def _pack(
    root: Path,
    rows: list[Row],
    header: dict,
    digest: Any,
    folder: Path,
    audio: IO[bytes],
    *,
    skip_bad: bool,
    progress: bool,
) -> None:
    name, rate, title = header["name"], header["sample_rate"], f"packing {header['name']}"
    kept: list[Row] = []
    bad: list[Bad] = []
    silent: list[tuple[str, str]] = []
    offsets, energies, contents, checksum = [0], [], [], hashlib.sha256()
    items = [(row.path,) for row in rows]
    for position, (samples,), content in decode(
        root, items, rate, digest, bad, title=title, progress=progress
    ):
        if samples.min() == samples.max():
            silent.append((rows[position].path, "digital silence"))
            continue
        append(audio, checksum, samples)
        kept.append(rows[position])
        contents.append(content)
        offsets.append(offsets[-1] + samples.size)
        energies.append(frame_energies(samples, rate))
    left_out = settle(root, items, bad, title=title, skip_bad=skip_bad) + silent
    if silent:
        say(f"{title}: {len(silent)} of {len(rows)} recordings are digital silence and left out")
    if not kept:
        raise DataError(
            f"data.{name}_root: {display(root)} holds nothing but silence; at least one sound is needed"
        )
    groups = {row.class_name: row.group for row in kept}
    class_names = sorted(groups)
    ids = {class_name: index for index, class_name in enumerate(class_names)}
    arrays: dict[str, np.ndarray] = {
        "offsets": np.array(offsets[:-1], np.int64),
        "lengths": np.diff(np.array(offsets, np.int64)),
        "classes": np.array([ids[row.class_name] for row in kept], np.int32),
        "splits": np.array([SPLITS.index(row.split) for row in kept], np.int8),
        "paths": pack_paths([row.path for row in kept]),
        "energies": np.concatenate(energies),
        "energy_offsets": np.cumsum([0, *(frames.size for frames in energies)], dtype=np.int64),
        "contents": np.frombuffer(b"".join(contents), np.uint8).reshape(len(kept), -1),
    }
    names = {
        "class_names": class_names,
        "class_groups": [groups[class_name] for class_name in class_names],
    }
    header |= names | {
        "fingerprint": digest.hexdigest(),
        "audio_sha256": checksum.hexdigest(),
        "left_out": left_out,
    }
    finish_pack(folder, audio, header, arrays)


def frame_energies(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Sum of squares about the mean of each 0.1 s of `samples` [T]: float32 [ceil(T / frame_size)], never negative."""
    starts = np.arange(0, samples.size, frame_size(sample_rate))
    exact = samples.astype(np.float64)
    counts = np.diff(np.append(starts, samples.size))
    energies = np.add.reduceat(exact * exact, starts) - np.add.reduceat(exact, starts) ** 2 / counts
    return np.maximum(energies, 0.0).astype(np.float32)


def _check(corpus: Corpus, folder: Path) -> None:
    """An index that points outside of its arrays must be found on opening, not as an IndexError hours later."""
    number = corpus.offsets.size
    sound = (
        number > 0
        and all(
            a.shape == (number,)
            for a in (corpus.offsets, corpus.lengths, corpus.classes, corpus.splits)
        )
        and len(corpus.paths) == number
        and corpus.contents.shape == (number, 32)
        and len(corpus.class_groups) == len(corpus.class_names)
        and list(corpus.class_names) == sorted(set(corpus.class_names))
        and corpus.energy_offsets.shape == (number + 1,)
        and corpus.energy_offsets[0] == 0
        and corpus.energy_offsets[-1] == corpus.energies.size
        and bool(
            (
                np.diff(corpus.energy_offsets)
                == -(-corpus.lengths // frame_size(corpus.sample_rate))
            ).all()
        )
        and bool((corpus.lengths > 0).all())
        and bool((corpus.lengths <= corpus.audio.size).all())  # or sums of them could wrap around
        and bool((np.isfinite(corpus.energies) & (corpus.energies >= 0)).all())
        and corpus.offsets[0] == 0
        and bool((np.diff(corpus.offsets) == corpus.lengths[:-1]).all())
        and corpus.offsets[-1] + corpus.lengths[-1] == corpus.audio.size
        and 0 <= corpus.classes.min() <= corpus.classes.max() < len(corpus.class_names)
        and 0 <= corpus.splits.min() <= corpus.splits.max() < len(SPLITS)
    )
    if not sound:
        raise DataError(
            f"{display(folder)}: its index does not fit its audio; pack the corpus again"
        )

"""A pack on disk: decoded audio in one memory-mapped file beside a small index.

    audio.f32     all samples, float32, little-endian, one recording after another
    index.npz     plain arrays (no pickle): where each recording lies and what it is
    corpus.json   kind, version, fingerprint, rate, classes, recordings left out, checksums

A pack is written under a temporary name, flushed to disk and renamed, so that a folder with its
final name is complete. It is its user's own: on opening, the SHA-256 of corpus.json and of
index.npz and the length of audio.f32 are checked, and what they cover is not checked again. The
SHA-256 of the audio is checked by `python -m jaxsep.prepare --verify`.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import numpy as np

from jaxsep.data.layouts import SPLITS
from jaxsep.errors import DataError
from jaxsep.files import atomic_folder, display, read_arrays, read_json

FORMAT_VERSION = 4
HEADER, INDEX, AUDIO = "corpus.json", "index.npz", "audio.f32"
AnyPack = TypeVar("AnyPack", bound="Pack")


@dataclass(frozen=True, eq=False, kw_only=True)
class Pack:
    """What every pack holds. R recordings; a premixed set has M mixtures in their place.

    Attributes:
        name: 'speech', 'environment' or 'premixed'.
        layout: what the dataset was read as, see `layouts`.
        sample_rate: Hz.
        synthetic: True if no recording is real.
        fingerprint: hex digest of the files' contents and of the settings that they were packed
            with; the same on every machine.
        audio: float32 [samples], memory-mapped, read-only.
        audio_sha256: hex digest of audio.f32.
        offsets, lengths: int64 [R], samples.
        classes: int32 [R], index into class_names.
        splits: int8 [R], index into SPLITS.
        paths: R file names, relative to the dataset's root.
        contents: uint8 [R, 32], the SHA-256 of each recording's file.
        class_names: sorted.
        class_groups: one for each class.
        left_out: (path, reason) of each recording of the dataset that the pack does not hold.
    """

    kind: ClassVar[str]
    name: str
    layout: str
    sample_rate: int
    synthetic: bool
    fingerprint: str
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
    left_out: tuple[tuple[str, str], ...]

    @property
    def folder(self) -> Path:
        """Where the pack lies."""
        return Path(str(self.audio.filename)).parent


def describe(pack: Pack) -> str:
    """A table: what the pack is; recordings, classes and hours of each split; how many are left
    out."""
    made_up = " (synthetic)" if pack.synthetic else ""
    lines = [
        f"{pack.name}{made_up}: layout {pack.layout}, {pack.sample_rate} Hz, "
        f"fingerprint {pack.fingerprint[:12]}, packed in {display(pack.folder)}",
        f"{'split':<8}{'recordings':>12}{'classes':>10}{'hours':>10}",
    ]
    rows = {split: pack.splits == index for index, split in enumerate(SPLITS)}
    for name, chosen in (*rows.items(), ("all", np.ones(pack.splits.shape, bool))):
        hours = pack.lengths[chosen].sum() / pack.sample_rate / 3600
        classes = np.unique(pack.classes[chosen]).size
        lines.append(f"{name:<8}{chosen.sum():>12,}{classes:>10,}{hours:>10.3f}")
    if pack.left_out:
        lines.append(f"{'left out':<8}{len(pack.left_out):>12,}")
    return "\n".join(lines)


@contextmanager
def pack_folder(target: Path, complete: str = HEADER) -> Iterator[Path]:
    """`files.atomic_folder` for a pack: equal names mean equal contents, so that the work of
    another process is kept.

    Raises:
        DataError: the folder cannot be made or written (no space, no permission); names it.
    """
    try:
        with atomic_folder(target, complete=complete) as folder:
            yield folder
    except OSError as error:
        raise DataError(
            f"{display(target)}: cannot be written ({error.strerror or error})"
        ) from error


def append(audio: IO[bytes], checksum: Any, samples: np.ndarray) -> None:
    """Writes samples to the audio of a pack and adds them to its SHA-256."""
    content = samples.astype("<f4", copy=False).tobytes()
    audio.write(content)
    checksum.update(content)


def finish_pack(
    folder: Path, audio: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes index and header of a pack whose samples have been written to the stream `audio`.

    Args:
        header: all attributes of the `Pack` that are no arrays, and its `kind`; JSON values.
        arrays: all attributes that are arrays, but for `audio`; `paths` from `pack_paths`.
    """
    audio.flush()
    index = io.BytesIO()
    np.savez(index, allow_pickle=False, **arrays)
    (folder / INDEX).write_bytes(index.getbuffer())
    complete = {
        "version": FORMAT_VERSION,
        "num_samples": audio.tell() // 4,
        **header,
        "index_sha256": hashlib.sha256(index.getbuffer()).hexdigest(),
    }
    complete["header_sha256"] = _header_sha256(complete)
    (folder / HEADER).write_text(json.dumps(complete, indent=1), encoding="utf-8")


def _header_sha256(header: Mapping[str, Any]) -> str:
    """The SHA-256 of a header's entries, but for that of this checksum."""
    covered = {name: value for name, value in header.items() if name != "header_sha256"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def open_pack(folder: Path, pack_type: type[AnyPack]) -> AnyPack:
    """Opens a packed folder at once; its audio stays on disk and is paged in as it is used.

    Raises:
        DataError: no packed folder, of another kind or format version, damaged or truncated; names
            the file.
    """
    header = _read_header(folder)
    if header["kind"] != pack_type.kind:
        raise DataError(
            f"{display(folder)}: holds a packed {header['kind']!r}; must be {pack_type.kind!r}"
        )
    arrays = _read_index(folder / INDEX, header["index_sha256"])
    values = {name: _frozen(value) for name, value in header.items()} | arrays
    values["paths"] = unpack_paths(arrays["paths"])
    values["audio"] = _map_audio(folder / AUDIO, header["num_samples"])
    return pack_type(**{field.name: values[field.name] for field in fields(pack_type)})


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    try:
        header = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{display(path)}: cannot be read ({error}); pack the corpus again"
        ) from error
    version = header.get("version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{display(folder)}: has format version {version!r}; "
            f"must be {FORMAT_VERSION}: pack it again"
        )
    if header.get("header_sha256") != _header_sha256(header):
        raise DataError(
            f"{display(path)}: is damaged (its SHA-256 is not the one in it); pack the corpus again"
        )
    return header


def _read_index(path: Path, checksum: str) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != checksum:
                raise ValueError(f"its SHA-256 is not the one in {HEADER}")
        return read_arrays(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{display(path)}: is damaged ({error}); pack the corpus again") from error


def _map_audio(path: Path, num_samples: int) -> np.memmap:
    try:
        size = path.stat().st_size
        if size == 4 * num_samples:
            return np.memmap(path, dtype="<f4", mode="r")
    except OSError as error:
        raise DataError(f"{display(path)}: cannot be read ({error.strerror})") from error
    raise DataError(
        f"{display(path)}: has {size} bytes; must be 4 × {num_samples}: pack the corpus again"
    )


def _frozen(value: Any) -> Any:
    """A JSON value with tuples in place of lists."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def pack_paths(paths: Sequence[str]) -> np.ndarray:
    """File names as one array of bytes, separated by NUL: exact for any name that a file may have.

    >>> unpack_paths(pack_paths(["a.wav", "ü/b.wav"]))
    ('a.wav', 'ü/b.wav')
    """
    return np.frombuffer(b"\0".join(os.fsencode(path) for path in paths), np.uint8)


def unpack_paths(packed: np.ndarray) -> tuple[str, ...]:
    """The inverse of `pack_paths`."""
    return tuple(os.fsdecode(path) for path in packed.tobytes().split(b"\0"))

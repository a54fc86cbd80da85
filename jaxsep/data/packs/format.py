"""Packed folders: decoded audio in one memory-mapped file beside a small index. Shared by `corpus` and `premixed`.

A packed folder holds

    audio.f32     all samples, float32, little-endian, one recording after another
    index.npz     plain arrays (no pickle): where each recording lies and what it is
    corpus.json   kind, format version, fingerprint, sample rate, class names, recordings left out, checksums; read first

It is written under a temporary name, flushed to disk and renamed, so that a folder with its final name is complete. The
SHA-256 of the index is checked on opening, that of the audio by `python -m jaxsep.prepare --verify`.
"""

import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from jaxsep.console import say
from jaxsep.errors import DataError
from jaxsep.files import atomic_folder, display, read_arrays, read_json

FORMAT_VERSION = 3
# Of what is digested: packs may get another form, and runs on the same recordings are still compared.
FINGERPRINT_VERSION = 2
HEADER, INDEX, AUDIO = "corpus.json", "index.npz", "audio.f32"
# A pack writes all the time; one that has not for an hour was killed, and its folder may go.
STALE_SECONDS = 3600.0
Opened = TypeVar("Opened")


def reuse(target: Path, opener: Callable[[Path], Opened]) -> Opened | None:
    """The pack at `target` if there is a sound one, else None; a damaged one is removed, with one line."""
    if not target.is_dir():
        return None
    try:
        return opener(target)
    except DataError as error:
        say(f"warning: {error}; packing again")
        shutil.rmtree(target, ignore_errors=True)
        return None


def fingerprint(metadata: Iterable[Path], facts: Mapping[str, Any]) -> Any:
    """A SHA-256 of `facts` (JSON values: rate, layout, classes, splits, ...), the contents of the metadata files and a
    version. With what `decode` adds, every recording's path and content, it tells what is packed, on whatever machine."""
    digest = hashlib.sha256(json.dumps([FINGERPRINT_VERSION, dict(facts)], sort_keys=True).encode())
    for file in metadata:
        digest.update(file.read_bytes())
    return digest


def stamp(root: Path, paths: Iterable[str], digest: Any) -> str:
    """SHA-256 (hex) that finds the pack of a folder again: `digest` with path, size and modification time (ns) of each file.
    Recordings are not read: 200,000 take seconds."""
    digest, folder = digest.copy(), os.fspath(root)
    digest.update(bytes([FORMAT_VERSION]))
    for path in paths:
        try:
            status = os.stat(os.path.join(folder, path))  # a Path for each would double the time
            size, modified = status.st_size, status.st_mtime_ns
        except OSError:
            size = modified = -1  # reported with its reason when it is decoded
        digest.update(os.fsencode(path) + f"\0{size}\0{modified}\0".encode())
    return digest.hexdigest()


@contextmanager
def pack_folder(target: Path, complete: str = HEADER) -> Iterator[Path]:
    """`files.atomic_folder` for a pack: work of another process is kept, equal names mean equal contents.

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
    """Writes samples in the form of a pack to its audio, and adds them to the SHA-256 of it."""
    content = samples.astype("<f4", copy=False).tobytes()
    audio.write(content)
    checksum.update(content)


def finish_pack(
    folder: Path, audio: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes index and header of a pack whose audio has been written to the stream `audio`, and flushes all three.

    `header` holds `audio_sha256` (hex) among others; the index's is added here."""
    audio.flush()
    index = io.BytesIO()
    np.savez(index, allow_pickle=False, **arrays)
    (folder / INDEX).write_bytes(index.getbuffer())
    checksum = hashlib.sha256(index.getbuffer()).hexdigest()
    stamped = {
        "version": FORMAT_VERSION,
        "num_samples": audio.tell() // 4,
        **header,
        "index_sha256": checksum,
    }
    (folder / HEADER).write_text(json.dumps(stamped, indent=1), encoding="utf-8")


def read_pack(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray], np.memmap]:
    """Opens a packed folder without reading its audio.

    Returns:
        (header, arrays of the index, audio as a read-only memory map float32 [num_samples])

    Raises:
        DataError: not a packed folder, of another kind or format version, damaged or truncated; names the file.
    """
    header = read_header(folder)
    if header.get("kind") != kind:
        raise DataError(
            f"{display(folder)}: holds a packed {header.get('kind')!r}; must be {kind!r}"
        )
    if header.get("version") != FORMAT_VERSION:
        version = header.get("version")
        raise DataError(
            f"{display(folder)}: has format version {version!r}; must be {FORMAT_VERSION}: pack it again"
        )
    try:
        if not (folder / INDEX).is_file():  # opening a pipe would wait for its other end
            raise ValueError("it is no regular file")
        with open(folder / INDEX, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != header.get("index_sha256"):
                raise ValueError(f"its SHA-256 is not the one in {HEADER}")
        arrays = read_arrays(folder / INDEX)
    except Exception as error:  # damaged bytes make zipfile and NumPy raise errors of a dozen kinds
        raise DataError(
            f"{display(folder / INDEX)}: is damaged ({error}); pack the corpus again"
        ) from error
    expected = header.get("num_samples")
    size = (folder / AUDIO).stat().st_size if (folder / AUDIO).is_file() else 0
    if not isinstance(expected, int) or expected < 1 or size != 4 * expected:
        raise DataError(
            f"{display(folder / AUDIO)}: has {size} bytes; must be 4 × {expected!r:.80}: pack the corpus again"
        )
    try:
        return header, arrays, np.memmap(folder / AUDIO, dtype="<f4", mode="r")
    except OSError as error:
        raise DataError(f"{display(folder / AUDIO)}: cannot be read ({error.strerror})") from error


def read_header(folder: Path) -> dict[str, Any]:
    """The contents of a packed folder's corpus.json; DataError where there is none that can be read."""
    try:
        header = read_json(folder / HEADER)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{display(folder / HEADER)}: cannot be read ({error}); pack the corpus again"
        ) from error
    if not isinstance(header, dict):
        raise DataError(f"{display(folder / HEADER)}: is no JSON object; pack the corpus again")
    return header


def pack_paths(paths: Sequence[str]) -> np.ndarray:
    """File names as one array of bytes, separated by NUL: exact for any name a file system allows."""
    return np.frombuffer(b"\0".join(os.fsencode(path) for path in paths), np.uint8)


def unpack_paths(packed: np.ndarray) -> tuple[str, ...]:
    """The inverse of `pack_paths`."""
    return tuple(os.fsdecode(path) for path in packed.tobytes().split(b"\0"))


def say_left_out(name: str, left_out: Sequence[tuple[str, str]]) -> None:
    """One line on the recordings, (path, reason) each, that a pack does not hold, if there are any."""
    if left_out:
        path, reason = left_out[0]
        say(
            f"{name}: {len(left_out):,} recordings are left out of the pack (as {display(path)}: {reason})"
        )


def say_not_taken(name: str, others: Mapping[str, int]) -> None:
    """One line on the files beside the recordings, their number by kind, if there are any."""
    if others:
        kinds = ", ".join(
            f"{count:,} {display(kind)}" for kind, count in Counter(others).most_common()
        )
        say(f"{name}: not taken: {kinds}")

"""From a dataset to its pack: the one that was made before, or every recording decoded once.

Corpora and premixed sets go the same way; what differs is in a `Kind`. A recording here is one row
of a dataset: a file, or the files of a mixture and its sources, which must be equally long.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np

from jaxsep.console import progress as progress_bar
from jaxsep.console import say
from jaxsep.data.audio import MAX_SAMPLE_RATE, file_sha256, read_audio
from jaxsep.data.layouts import SPLITS, MixtureRow, Row
from jaxsep.data.packs.format import (
    AUDIO,
    FORMAT_VERSION,
    HEADER,
    AnyPack,
    append,
    finish_pack,
    open_pack,
    pack_folder,
    pack_paths,
)
from jaxsep.errors import DataError
from jaxsep.files import display

# Of what a fingerprint covers. The form of packs may change: runs on the same recordings are still
# compared.
FINGERPRINT_VERSION = 2
AnyRow = Row | MixtureRow


@dataclass(frozen=True)
class Kind(Generic[AnyPack]):
    """What differs between kinds of packs.

    Attributes:
        pack_type: what is opened.
        measure: (signals [R,T], Hz) -> what the index holds of a recording, or None where it is
            nothing but digital silence and is left out.
        columns: (shared arrays, measurements of all recordings) -> the arrays of the index. Of M
            recordings with R files and N classes each, the shared `classes` are [M,N] and
            `contents` [M,R,32].
    """

    pack_type: type[AnyPack]
    measure: Callable[[np.ndarray, int], Any]
    columns: Callable[[dict[str, np.ndarray], list[Any]], dict[str, np.ndarray]]


class Dataset(NamedTuple):
    """What a layout says of a dataset.

    Attributes:
        rows: one for each recording.
        header: attributes of its pack: name, layout, sample_rate, ...
        facts: what the fingerprint covers beside paths and contents of the recordings; JSON values.
        metadata: further files that it covers.
    """

    rows: Sequence[AnyRow]
    header: dict[str, Any]
    facts: Mapping[str, Any]
    metadata: Sequence[Path] = ()


def pack_or_open(
    root: Path,
    read: Callable[[Counter[str]], Dataset],
    kind: Kind[AnyPack],
    cache_dir: str | os.PathLike,
    *,
    wanted: Mapping[str, Any],
    skip_bad: bool,
    progress: bool,
) -> AnyPack:
    """Packs the dataset in `root` into `cache_dir/NAME-RATE-STAMP/`, or opens what was packed.

    The dataset is never written to. A damaged pack is told in one line and made again. A pack that
    lacks recordings of its dataset says so whenever it is used again (one line).

    Args:
        root, cache_dir, skip_bad, progress: as of `corpus.prepare`.
        read: reads the dataset and counts what it does not take.
        wanted: attributes that the pack must have, name and sample_rate (Hz) among them.

    Raises:
        DataError: as of `corpus.prepare`.
    """
    name, rate = wanted["name"], wanted["sample_rate"]
    if not isinstance(rate, int) or not 1 <= rate <= MAX_SAMPLE_RATE:
        raise DataError(
            f"data.sample_rate: is {rate!r}; "
            f"must be a positive integer (Hz), at most {MAX_SAMPLE_RATE}"
        )
    if os.path.isfile(root / HEADER):  # Path.is_file raises for names too long, closed folders
        return _open_given(root, kind.pack_type, wanted)
    others: Counter[str] = Counter()
    dataset = read(others)
    if others:
        suffixes = (f"{count:,} {display(suffix)}" for suffix, count in others.most_common())
        say(f"{name}: not taken: {', '.join(suffixes)}")
    digest = _fingerprint(dataset)
    paths = (path for row in dataset.rows for path in row.paths)
    target = Path(cache_dir) / f"{name}-{rate}-{_stamp(root, paths, digest)[:12]}"
    if target.is_dir():
        try:
            return _open_and_say(target, kind.pack_type)
        except DataError as error:
            say(f"warning: {error}; packing again")
            shutil.rmtree(target, ignore_errors=True)
    with pack_folder(target) as folder:
        _pack(root, dataset, kind, digest, folder, skip_bad=skip_bad, progress=progress)
    return open_pack(target, kind.pack_type)


def _open_given(folder: Path, pack_type: type[AnyPack], wanted: Mapping[str, Any]) -> AnyPack:
    """A packed folder that is given in place of a dataset."""
    field = f"data.{wanted['name']}_root"
    try:
        pack = _open_and_say(folder, pack_type)
    except DataError as error:
        raise DataError(f"{field}: {error}") from error
    for attribute, value in wanted.items():
        if getattr(pack, attribute) != value:
            raise DataError(
                f"{field}: {display(folder)} is packed with the {attribute} "
                f"{getattr(pack, attribute)!r}; must be {value!r}"
            )
    return pack


def _open_and_say(folder: Path, pack_type: type[AnyPack]) -> AnyPack:
    """`open_pack`, and one line on the recordings that the pack does not hold, if there are any."""
    pack = open_pack(folder, pack_type)
    if pack.left_out:
        path, reason = pack.left_out[0]
        say(
            f"{pack.name}: {len(pack.left_out):,} recordings are left out of the pack "
            f"(as {display(path)}: {reason})"
        )
    return pack


def _fingerprint(dataset: Dataset) -> Any:
    """A SHA-256 of facts, metadata and a version; packing adds the path and content of each file.

    The result tells what is packed, whatever the machine: runs and results are compared by it.
    """
    facts = json.dumps([FINGERPRINT_VERSION, dict(dataset.facts)], sort_keys=True)
    digest = hashlib.sha256(facts.encode())
    for file in dataset.metadata:
        digest.update(file.read_bytes())
    return digest


def _stamp(root: Path, paths: Iterable[str], digest: Any) -> str:
    """SHA-256 (hex) that finds the pack of a dataset again without reading its recordings.

    It covers `digest`, and path, size and modification time (ns) of each file. 200,000 files take
    seconds.
    """
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


def _pack(
    root: Path,
    dataset: Dataset,
    kind: Kind,
    digest: Any,
    folder: Path,
    *,
    skip_bad: bool,
    progress: bool,
) -> None:
    """Decodes every recording into a pack in `folder`; adds paths and contents to `digest`."""
    name, rate = dataset.header["name"], dataset.header["sample_rate"]
    title, count = f"packing {name}", len(dataset.rows)
    kept: list[AnyRow] = []
    lengths, contents, measurements = [], [], []
    several_channels: list[tuple[str, int]] = []
    problems: dict[AnyRow, list[tuple[str, str]]] = {}
    silent: list[tuple[str, str]] = []
    checksum = hashlib.sha256()
    hide_bar = None if progress else True  # None: hidden where standard error is no terminal
    with open(folder / AUDIO, "wb") as audio:
        for row in progress_bar(dataset.rows, desc=title, unit="file", disable=hide_bar):
            files, of_row = decode(root, row.paths, rate)
            several_channels += [(file.path, file.channels) for file in files if file.channels > 1]
            if of_row:
                problems[row] = of_row
                continue
            for file in files:
                digest.update(os.fsencode(file.path) + b"\0" + file.sha256)
            signals = np.stack([file.samples for file in files])
            if (measured := kind.measure(signals, rate)) is None:
                silent.append((row.paths[0], "digital silence"))
                continue
            append(audio, checksum, signals)
            kept.append(row)
            lengths.append(signals.shape[1])
            contents += [file.sha256 for file in files]
            measurements.append(measured)
        if several_channels:
            path, channels = several_channels[0]
            say(
                f"warning: {title}: {len(several_channels)} files have several channels, "
                f"averaged (as {display(path)}: {channels})"
            )
        left_out = []
        if problems:
            left_out = _refuse_or_list(root, problems, title, count, skip_bad=skip_bad)
        if silent:
            say(f"{title}: {len(silent)} of {count} recordings are digital silence and left out")
        if not kept:
            raise DataError(
                f"data.{name}_root: {display(root)} holds nothing but silence; "
                f"at least one sound is needed"
            )
        groups = {name: group for row in kept for name, group in row.classes}
        header = {
            "kind": kind.pack_type.kind,
            **dataset.header,
            "class_names": sorted(groups),
            "class_groups": [groups[name] for name in sorted(groups)],
            "fingerprint": digest.hexdigest(),
            "audio_sha256": checksum.hexdigest(),
            "left_out": left_out + silent,
        }
        arrays = _shared_columns(kept, header["class_names"], lengths, contents)
        finish_pack(folder, audio, header, kind.columns(arrays, measurements))


def _shared_columns(
    rows: Sequence[AnyRow], class_names: list[str], lengths: list[int], contents: list[bytes]
) -> dict[str, np.ndarray]:
    """The arrays that the index of every pack is made of."""
    ids = {name: index for index, name in enumerate(class_names)}
    sizes = len(rows[0].paths) * np.array(lengths, np.int64)
    return {
        "offsets": np.cumsum(sizes) - sizes,
        "lengths": np.array(lengths, np.int64),
        "classes": np.array([[ids[name] for name, _ in row.classes] for row in rows], np.int32),
        "splits": np.array([SPLITS.index(row.split) for row in rows], np.int8),
        "paths": pack_paths([row.paths[0] for row in rows]),
        "contents": np.frombuffer(b"".join(contents), np.uint8).reshape(len(rows), -1, 32),
    }


class File(NamedTuple):
    """A decoded file: float32 samples [T], channels that it had, SHA-256 (32 bytes)."""

    path: str
    samples: np.ndarray
    channels: int
    sha256: bytes


def decode(
    root: Path, paths: Sequence[str], sample_rate: int
) -> tuple[list[File], list[tuple[str, str]]]:
    """Decodes files that must be equally long: (those read, (path, reason) of those not usable)."""
    files, problems = [], []
    for path in paths:
        try:
            samples, channels = read_audio(root / path, sample_rate)
            files.append(File(path, samples, channels, file_sha256(root / path)))
        except DataError as error:
            problems.append((path, str(error).removeprefix(f"{display(root / path)}: ")))
    if not problems and len({file.samples.size for file in files}) > 1:
        lengths = ", ".join(str(file.samples.size) for file in files)
        reason = f"its roles have {lengths} samples; they must be equally long"
        problems.append((paths[0], reason))
    return files, problems


def _refuse_or_list(
    root: Path,
    problems: Mapping[AnyRow, list[tuple[str, str]]],
    title: str,
    count: int,
    *,
    skip_bad: bool,
) -> list[tuple[str, str]]:
    """Refuses a dataset with files that cannot be used, or says which are left out: in either case
    in one list with a line for each file.

    Returns:
        (path of its first file, reason) of each recording that is left out.

    Raises:
        DataError: `skip_bad` is false, or no recording is left.
    """
    title = f"{title}: {len(problems):,} of {count:,} recordings"
    lines, left_out = "", []
    for row, of_row in problems.items():
        lines += "".join(f"\n  {display(root / path)}: {reason}" for path, reason in of_row)
        first = row.paths[0]
        reasons = (why if path == first else f"{display(path)}: {why}" for path, why in of_row)
        left_out.append((first, "; ".join(reasons)))
    if len(problems) == count:
        raise DataError(f"{title} cannot be used:{lines}")
    if not skip_bad:
        advice = "--skip-bad of python -m jaxsep.prepare leaves them out"
        raise DataError(f"{title} cannot be used; {advice}:{lines}")
    say(f"{title} are left out:{lines}")
    return left_out

"""Decoding all recordings of a dataset for its pack: what cannot be used is listed whole, and refused or left out."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tqdm

from jaxsep.console import say
from jaxsep.data.audio import file_sha256, read_audio
from jaxsep.errors import DataError
from jaxsep.files import display


class Bad(NamedTuple):
    """A file that cannot be used: the position of its item, its path relative to the root, and why."""

    position: int
    path: str
    reason: str


def decode(
    root: Path,
    items: Sequence[tuple[str, ...]],
    sample_rate: int,
    digest: Any,
    bad: list[Bad],
    *,
    title: str,
    progress: bool,
) -> Iterator[tuple[int, np.ndarray, bytes]]:
    """Decodes items, each of R files that belong together, in order, and adds each file's path and content to `digest`.

    Files that cannot be used, unreadable or of another length than the other files of their item, are added to `bad`, and
    their items passed over.

    Yields:
        (position in `items`, samples float32 [R, T], SHA-256 of each of the R files, 32 bytes each)
    """
    stereo: list[tuple[str, int]] = []
    for position in tqdm.trange(
        len(items), desc=title, unit="file", disable=None if progress else True
    ):
        signals, contents, found = [], [], len(bad)
        for path in items[position]:
            try:
                samples, channels = read_audio(root / path, sample_rate)
                contents.append(file_sha256(root / path))
            except DataError as error:
                bad.append(
                    Bad(position, path, str(error).removeprefix(f"{display(root / path)}: "))
                )
                continue
            signals.append(samples)
            if channels > 1:
                stereo.append((path, channels))
        if len(bad) == found and len({samples.size for samples in signals}) > 1:
            lengths = ", ".join(str(samples.size) for samples in signals)
            reason = f"its roles have {lengths} samples; they must be equally long"
            bad.append(Bad(position, items[position][0], reason))
        if len(bad) > found:
            continue
        for path, content in zip(items[position], contents, strict=True):
            digest.update(os.fsencode(path) + b"\0" + content)
        yield position, np.stack(signals), b"".join(contents)
    if stereo:
        path, channels = stereo[0]
        say(
            f"warning: {title}: {len(stereo)} files have several channels, averaged (as {display(path)}: {channels})"
        )


def settle(
    root: Path, items: Sequence[tuple[str, ...]], bad: Sequence[Bad], *, title: str, skip_bad: bool
) -> list[tuple[str, str]]:
    """Refuses a dataset with bad files, or with `skip_bad` tells which are left out: one list, a line for each file.

    Returns:
        (path of its first file, reason) of each item that is left out.

    Raises:
        DataError: there are bad files and `skip_bad` is false, or no item can be used; the message is the list.
    """
    reasons: dict[int, list[str]] = {}
    for position, path, reason in bad:
        named = reason if path == items[position][0] else f"{display(path)}: {reason}"
        reasons.setdefault(position, []).append(named)
    if reasons:
        count = f"{title}: {len(reasons):,} of {len(items):,} recordings"
        lines = "".join(f"\n  {display(root / path)}: {reason}" for _, path, reason in bad)
        if len(reasons) == len(items):
            raise DataError(f"{count} cannot be used:{lines}")
        if not skip_bad:
            raise DataError(
                f"{count} cannot be used; --skip-bad of python -m jaxsep.prepare leaves them out:{lines}"
            )
        say(f"{count} are left out:{lines}")
    return [(items[position][0], "; ".join(found)) for position, found in reasons.items()]

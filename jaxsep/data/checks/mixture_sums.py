"""Whether published mixtures are the sum of their sources, as exactly as their files' sample format allows."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from jaxsep.data.audio import audio_blocks
from jaxsep.data.premixed_layout import MIXTURE_ROLES, find_roles
from jaxsep.errors import DataError
from jaxsep.files import display

# Distance of neighbouring sample values; formats that are not here lose more than rounding does.
STEPS = {
    "PCM_U8": 2.0**-7,
    "PCM_S8": 2.0**-7,
    "PCM_16": 2.0**-15,
    "PCM_24": 2.0**-23,
    "PCM_32": 2.0**-31,
    "FLOAT": 2.0**-24,
    "DOUBLE": 2.0**-24,
}
# Sums are taken of float32 samples; programs that made the sets took theirs so, too.
ARITHMETIC = 2.0**-21


class Sum(NamedTuple):
    """How far a mixture is from `gain` times the sum of its sources: the largest deviation of a sample, and the largest
    that rounding explains."""

    gain: float
    deviation: float
    tolerance: float


def all_sources(folder: Path, roles: Sequence[str]) -> tuple[str, ...]:
    """The roles that a mixture, the first of `roles`, is the sum of: the others, and those of a published set that a user may
    have left out: all of s1, s2, ... that are there, and the noise of mix_both."""
    sources = list(roles[1:])
    if roles[0] in MIXTURE_ROLES and (folder / "s1").is_dir():
        sources += [role for role in find_roles(folder)[1:] if role not in sources]
        if roles[0] == "mix_both" and "noise" not in sources:
            sources.append("noise")
    return tuple(sources)


def add_up(mixture: str | os.PathLike, sources: Sequence[str | os.PathLike]) -> Sum | None:
    """Compares a mixture with the sum of its sources, all at the files' own rate; None where a format is not exact.

    Each file is off by one step of its format at most (half a step where it was rounded, one where it was cut off); a mixture
    in integers may be clipped where its sources are not. Where the sum itself does not fit, the gain is fitted: a mixture may
    have been written at a level of its own.

    Raises:
        DataError: a file is missing or cannot be read, or they differ in length or channels.
    """
    signals = [
        np.concatenate(list(audio_blocks(path)), axis=1).astype(np.float64)
        for path in (mixture, *sources)
    ]
    if len({signal.shape for signal in signals}) > 1:
        shapes = ", ".join(str(signal.shape[1]) for signal in signals)
        raise DataError(
            f"{display(mixture)}: its roles have {shapes} samples; they must be equally long"
        )
    formats = [soundfile.info(os.fsencode(path)).subtype for path in (mixture, *sources)]
    if not set(formats) <= STEPS.keys():
        return None
    whole, parts = signals[0], np.sum(signals[1:], axis=0)
    steps = [STEPS[name] for name in formats]
    floor = ARITHMETIC * max(np.abs(signal).max() for signal in signals)
    power = (parts * parts).sum()
    for gain in (1.0, (whole * parts).sum() / power if power else 0.0):
        expected = gain * parts
        if formats[0].startswith("PCM"):
            expected = expected.clip(-1, 1)
        found = Sum(
            gain,
            float(np.abs(whole - expected).max()),
            steps[0] + abs(gain) * sum(steps[1:]) + floor,
        )
        if found.deviation <= found.tolerance and gain > 0:
            return found
    return Sum(1.0, float(np.abs(whole - parts).max()), sum(steps) + floor)


def sums(
    root: Path,
    items: Sequence[Sequence[str]],
    roles: Sequence[str],
    bar: Callable[[Sequence], Iterable],
) -> tuple[str, str, tuple[str, ...]]:
    """Checks every mixture of a set. items: the files of each, relative to the root, the mixture's first.

    Returns:
        (the sum, as 'mix = s1 + s2'; what was found; a line for each mixture that is no sum, the worst first, or has no
        usable files)
    """
    sources = all_sources((root / items[0][0]).parent.parent, roles)
    title = f"{roles[0]} = {' + '.join(sources)}"
    found: dict[str, Sum] = {}
    unchecked: list[str] = []
    unusable: list[str] = []
    for item in bar(items):
        mixture = root / item[0]
        try:
            one = add_up(mixture, [mixture.parent.parent / role / mixture.name for role in sources])
        except DataError as error:
            unusable.append(str(error))
            continue
        if one is None:
            unchecked.append(f"{display(mixture)}: its format is not exact")
        else:
            found[item[0]] = one
    off = sorted(found, key=lambda path: -found[path].deviation)
    wrong = [path for path in off if found[path].deviation > found[path].tolerance]
    scaled = [path for path in off if path not in wrong and found[path].gain != 1]
    said = [f"{len(found) - len(wrong):,} of {len(items):,} add up"]
    if off:
        said.append(f"largest deviation {found[off[0]].deviation:.1e} ({display(off[0])})")
    if scaled:
        said.append(
            f"{len(scaled):,} at a level of their own (as {display(scaled[0])}: × {found[scaled[0]].gain:.3f})"
        )
    if unchecked:
        said.append(f"{len(unchecked):,} not checked (as {unchecked[0]})")
    lines = [
        f"{display(root / path)}: is not {' + '.join(sources)}, off by up to {found[path].deviation:.1e} "
        f"(rounding explains {found[path].tolerance:.1e})"
        for path in wrong
    ]
    return title, "; ".join(said), (*lines, *unusable)

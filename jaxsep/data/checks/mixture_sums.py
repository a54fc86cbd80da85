"""Whether published mixtures are the sum of their sources, as exactly as their format allows."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from jaxsep.data.audio import audio_blocks
from jaxsep.data.layouts import MIXTURE_ROLES, find_roles
from jaxsep.errors import DataError
from jaxsep.files import display

# Distance of neighbouring sample values. Other formats lose more than rounding does.
STEPS = {
    "PCM_U8": 2.0**-7,
    "PCM_S8": 2.0**-7,
    "PCM_16": 2.0**-15,
    "PCM_24": 2.0**-23,
    "PCM_32": 2.0**-31,
    "FLOAT": 2.0**-24,
    "DOUBLE": 2.0**-24,
}
# Sums are taken of float32 samples; the programs that made the sets took theirs so, too.
ARITHMETIC = 2.0**-21


class Sum(NamedTuple):
    """How far a mixture is from `gain` times the sum of its sources: the largest deviation of a
    sample, and the largest that rounding explains."""

    gain: float
    deviation: float
    tolerance: float

    @property
    def adds_up(self) -> bool:
        return self.deviation <= self.tolerance


def sums(
    root: Path,
    mixtures: Sequence[str],
    roles: Sequence[str],
    bar: Callable[[Sequence, str], Iterable],
) -> tuple[str, str, tuple[str, ...]]:
    """Checks every mixture of a set.

    Args:
        root: the folder that the paths of the mixtures are relative to.
        mixtures: the file of each mixture.
        roles: names of the folders, the mixture's first.
        bar: (items, title) -> the items, under a progress bar.

    Returns:
        (the sum, as 'mix = s1 + s2'; its result; a line for each mixture that is no sum, the worst
        first, or has no usable files)
    """
    sources = all_sources((root / mixtures[0]).parent.parent, roles)
    title = f"{roles[0]} = {' + '.join(sources)}"
    checked: dict[str, Sum] = {}
    unchecked: list[str] = []
    unusable: list[str] = []
    for path in bar(mixtures, "adding up"):
        mixture = root / path
        try:
            one = add_up(mixture, [mixture.parent.parent / role / mixture.name for role in sources])
        except DataError as error:
            unusable.append(str(error))
            continue
        if one is None:
            unchecked.append(f"{display(mixture)}: its format is not exact")
        else:
            checked[path] = one
    worst_first = sorted(checked, key=lambda path: -checked[path].deviation)
    right = [path for path in worst_first if checked[path].adds_up]
    wrong = [path for path in worst_first if not checked[path].adds_up]
    scaled = [path for path in right if checked[path].gain != 1]
    result = [f"{len(right):,} of {len(mixtures):,} add up"]
    if worst_first:
        worst = worst_first[0]
        result.append(f"largest deviation {checked[worst].deviation:.1e} ({display(worst)})")
    if scaled:
        example = f"{display(scaled[0])}: × {checked[scaled[0]].gain:.3f}"
        result.append(f"{len(scaled):,} at a level of their own (as {example})")
    if unchecked:
        result.append(f"{len(unchecked):,} not checked (as {unchecked[0]})")
    lines = [
        f"{display(root / path)}: is not {' + '.join(sources)}, "
        f"off by up to {checked[path].deviation:.1e} "
        f"(rounding explains {checked[path].tolerance:.1e})"
        for path in wrong
    ]
    return title, "; ".join(result), (*lines, *unusable)


def all_sources(folder: Path, roles: Sequence[str]) -> tuple[str, ...]:
    """The roles that a mixture, the first of `roles`, is the sum of.

    These are the others, and those of a published set that a user may have left out: all of s1, s2,
    ... that are in `folder`, and the noise of mix_both.
    """
    sources = list(roles[1:])
    if roles[0] in MIXTURE_ROLES and (folder / "s1").is_dir():
        sources += [role for role in find_roles(folder)[1:] if role not in sources]
        if roles[0] == "mix_both" and "noise" not in sources:
            sources.append("noise")
    return tuple(sources)


def add_up(mixture: str | os.PathLike, sources: Sequence[str | os.PathLike]) -> Sum | None:
    """Compares a mixture with the sum of its sources at their own rate; None if inexact formats.

    Each file may be off by one step of its format (half a step where it was rounded, one where it
    was cut off), and a mixture in integers may be clipped where its sources are not. Where the sum
    itself does not fit, a gain is fitted: a mixture may have been written at a level of its own.

    Raises:
        DataError: a file is missing or cannot be read, or they differ in length or channels.
    """
    files = (mixture, *sources)
    signals = [np.concatenate(list(audio_blocks(path)), axis=1, dtype=float) for path in files]
    if len({signal.shape for signal in signals}) > 1:
        lengths = ", ".join(str(signal.shape[1]) for signal in signals)
        raise DataError(
            f"{display(mixture)}: its roles have {lengths} samples; they must be equally long"
        )
    formats = [soundfile.info(os.fsencode(path)).subtype for path in files]
    if not set(formats) <= STEPS.keys():
        return None
    whole, parts = signals[0], np.sum(signals[1:], axis=0)
    mixture_step, *source_steps = (STEPS[name] for name in formats)
    floor = ARITHMETIC * max(np.abs(signal).max() for signal in signals)

    def compare(gain: float, *, clipped: bool) -> Sum:
        expected = (gain * parts).clip(-1, 1) if clipped else gain * parts
        tolerance = mixture_step + abs(gain) * sum(source_steps) + floor
        return Sum(gain, float(np.abs(whole - expected).max()), tolerance)

    power = (parts * parts).sum()
    for gain in (1.0, (whole * parts).sum() / power if power else 0.0):
        one = compare(gain, clipped=formats[0].startswith("PCM"))
        if one.adds_up and gain > 0:
            return one
    return compare(1.0, clipped=False)

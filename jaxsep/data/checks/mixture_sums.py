"""Whether published mixtures are the sum of their sources, as exactly as their format allows."""

import os
from collections.abc import Iterable, Sequence
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

    deviation: float
    tolerance: float
    gain: float

    @property
    def adds_up(self) -> bool:
        return self.deviation <= self.tolerance


def sums(mixtures: Iterable[Path], sources: Sequence[str]) -> tuple[str, list[str]]:
    """Checks every mixture of a set.

    Args:
        mixtures: the file of each.
        sources: names of the folders beside that of the mixtures, from `all_sources`.

    Returns:
        (result; a line for each mixture that is no sum, the worst first, or has no usable files)
    """
    checked: list[tuple[Sum, str]] = []
    inexact: list[str] = []
    wrong: list[str] = []
    for path in mixtures:
        try:
            one = add_up(path, [path.parent.parent / role / path.name for role in sources])
        except DataError as error:
            wrong.append(str(error))
            continue
        if one is None:
            inexact.append(display(path))
        else:
            checked.append((one, display(path)))
    checked.sort(reverse=True)
    right = [(one, shown) for one, shown in checked if one.adds_up]
    result = [f"{len(right):,} of {len(checked) + len(inexact) + len(wrong):,} add up"]
    if checked:
        result.append(f"largest deviation {checked[0][0].deviation:.1e} ({checked[0][1]})")
    if scaled := [f"{shown}: × {one.gain:.3f}" for one, shown in right if one.gain != 1]:
        result.append(f"{len(scaled):,} at a level of their own (as {scaled[0]})")
    if inexact:
        result.append(f"{len(inexact):,} not checked, in formats that are not exact ({inexact[0]})")
    no_sums = [
        f"{shown}: is not {' + '.join(sources)}, off by up to {one.deviation:.1e} "
        f"(rounding explains {one.tolerance:.1e})"
        for one, shown in checked
        if not one.adds_up
    ]
    return "; ".join(result), no_sums + wrong


def all_sources(folder: Path, roles: Sequence[str]) -> tuple[str, ...]:
    """The roles that a mixture, the first of `roles`, is the sum of.

    These are the others, and those of a published set that a user may have left out: all of s1, s2,
    ... that are in `folder`, and the noise of mix_both.
    """
    published: tuple[str, ...] = ()
    if roles[0] in MIXTURE_ROLES and (folder / "s1").is_dir():
        published = (*find_roles(folder)[1:], *["noise"] * (roles[0] == "mix_both"))
    return tuple(dict.fromkeys((*roles[1:], *published)))


def add_up(mixture: Path, sources: Sequence[Path]) -> Sum | None:
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
        raise DataError(f"{display(mixture)}: differs in length or channels from its sources")
    formats = [soundfile.info(os.fsencode(path)).subtype for path in files]
    if not set(formats) <= STEPS.keys():
        return None
    whole, parts = signals[0], np.sum(signals[1:], axis=0)
    mixture_step, *source_steps = (STEPS[name] for name in formats)
    floor = ARITHMETIC * max(np.abs(signal).max() for signal in signals)

    def compare(gain: float, clipped: bool) -> Sum:
        expected = (gain * parts).clip(-1, 1) if clipped else gain * parts
        tolerance = mixture_step + abs(gain) * sum(source_steps) + floor
        return Sum(float(np.abs(whole - expected).max()), tolerance, gain)

    power = (parts * parts).sum()
    for gain in (1.0, (whole * parts).sum() / power if power else 0.0):
        one = compare(gain, clipped=formats[0].startswith("PCM"))
        if one.adds_up and gain > 0:
            return one
    return compare(1.0, clipped=False)

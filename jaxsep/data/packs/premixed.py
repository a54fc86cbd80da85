"""A premixed set: published mixtures with their sources, packed once like a corpus.

WSJ0-2mix, WHAM!, Libri2Mix and others of their form, see `layouts`.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxsep.data.layouts import read_premixed
from jaxsep.data.mixtures.dynamic import power_ratio, remove_mean
from jaxsep.data.packs.corpus import ClassTable
from jaxsep.data.packs.format import Pack, open_pack
from jaxsep.data.packs.packing import Dataset, Kind, pack_or_open

KIND = "premixed"


@dataclass(frozen=True, eq=False, kw_only=True)
class Premixed(Pack):
    """A packed premixed set of M mixtures, each of R = 1 + N roles.

    The roles of mixture m, the mixture itself first, are
    `audio[offsets[m] : offsets[m] + R * lengths[m]].reshape(R, lengths[m])`.

    Attributes that `Pack` does not have, or that have another shape here:
        roles: R folder names, the mixture's first.
        classes: int32 [M,N], index into class_names: speakers (of the group 'speech'), 'noise'
            ('noise'), or names of roles ('premixed').
        contents: uint8 [M,R,32], the SHA-256 of each file.
        paths: M files of the mixture role.
        snr: float32 [M], dB: power of source 0 to source 1; 0 where one is silent or there is one
            source.
    """

    kind: ClassVar[str] = KIND
    roles: tuple[str, ...]
    snr: np.ndarray


def prepare_premixed(
    root: str | os.PathLike,
    sample_rate: int,
    cache_dir: str | os.PathLike,
    *,
    roles: Sequence[str] = (),
    skip_bad: bool = False,
    progress: bool = True,
) -> Premixed:
    """Packs a premixed set below `cache_dir`, or opens the pack made from the same files before.

    Args:
        roles: folder names, the mixture's first, then the sources' in their order; () for mix, else
            mix_clean, else mix_both, and all of s1, s2, ... that exist.
        skip_bad: leave out mixtures of which a file is missing or cannot be used, and list them.
        root, sample_rate, cache_dir, progress: as of `corpus.prepare`.

    Raises:
        DataError: unknown layout or missing roles; files are missing in a role, of unequal lengths
            or unreadable (all are listed); a packed folder has another rate or other roles; the
            cache cannot be written.
    """
    root = Path(root)
    wanted: dict[str, Any] = {"name": KIND, "sample_rate": sample_rate}
    if roles:
        wanted["roles"] = tuple(roles)

    def read(others: Counter[str]) -> Dataset:
        layout, used, rows = read_premixed(root, sample_rate, roles, others=others)
        header = wanted | {"layout": layout, "synthetic": False, "roles": used}
        facts = {"name": KIND, "layout": layout, "rate": sample_rate, "roles": used}
        return Dataset(rows, header, facts | {"splits": [row.split for row in rows]})

    return pack_or_open(
        root, read, PREMIXED_SETS, cache_dir, wanted=wanted, skip_bad=skip_bad, progress=progress
    )


def open_premixed(folder: str | os.PathLike) -> Premixed:
    """Opens a packed premixed set at once; its audio stays on disk.

    Raises:
        DataError: no packed premixed set, of another format version, damaged or truncated.
    """
    return open_pack(Path(folder), Premixed)


def premixed_table(premixed: Premixed) -> ClassTable:
    """The classes of a premixed set; `corpora` are its groups: 'speech', 'noise', 'premixed'."""
    return ClassTable(premixed.class_names, premixed.class_groups, premixed.class_groups)


def _measure(signals: np.ndarray, sample_rate: int) -> float:
    return power_ratio(remove_mean(signals[1:].copy()))


def _columns(arrays: dict[str, np.ndarray], snr: list[float]) -> dict[str, np.ndarray]:
    return arrays | {"snr": np.array(snr, np.float32)}


PREMIXED_SETS = Kind(Premixed, _measure, _columns)

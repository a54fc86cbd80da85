"""Premixed sets as they are: WSJ0-2mix, WHAM!, Libri2Mix, and others of their form.

One folder per role (mix, mix_clean or mix_both; s1, s2, ...; noise) with the same file names in each, inside split folders:

    ROOT/{tr|train|train-100|train-360, cv|val|dev, tt|test}/{mix,s1,s2}/NAME.wav

ROOT may also be a level above, as published (the folder that holds 2speakers/wav8k/min, wav8k/min, ...). A set is packed once
like a corpus; its pool goes through the same `mixing.draw` and `mixing.render`, in recipes of the same form.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxsep.data.layouts import SPLITS, check_root
from jaxsep.data.mixtures.dynamic import power_ratio, remove_mean
from jaxsep.data.packs.corpus import ClassTable, check_sample_rate
from jaxsep.data.packs.decode import Bad, decode, settle
from jaxsep.data.packs.format import (
    AUDIO,
    HEADER,
    append,
    fingerprint,
    finish_pack,
    pack_folder,
    pack_paths,
    read_pack,
    reuse,
    say_left_out,
    say_not_taken,
    stamp,
    unpack_paths,
)
from jaxsep.data.packs.schema import entry, pairs, typed
from jaxsep.data.premixed_layout import (
    FIELD,
    KNOWN,
    classes_of,
    find_roles,
    read_items,
    split_folders,
)
from jaxsep.errors import DataError
from jaxsep.files import check_names, display

KIND = "premixed"
TITLE = "packing premixed"
ARRAY_TYPES = {
    **dict.fromkeys(("offsets", "lengths"), np.int64),
    "classes": np.int32,
    "splits": np.int8,
    "snr": np.float32,
    "paths": np.uint8,
    "contents": np.uint8,
}


@dataclass(frozen=True, eq=False)
class Premixed:
    """A packed premixed set of M mixtures, each of R = 1 + N roles.

    The roles of mixture m, mixture first, are
    `audio[offsets[m] : offsets[m] + R * lengths[m]].reshape(R, lengths[m])`.

    Attributes:
        layout: the folders it was read from, like 'tr, cv, tt'.
        sample_rate: Hz.
        fingerprint: hex digest of the files' contents and the settings it was packed from, the same on every machine.
        roles: R folder names, the mixture's first.
        audio: float32, memory-mapped, read-only.
        offsets, lengths: int64 [M], samples.
        classes: int32 [M,N], index into class_names.
        splits: int8 [M], index into SPLITS.
        snr: float32 [M], dB: power of source 0 to source 1; 0 where one is silent or there is one source.
        paths: M files of the mixture role, relative to the root.
        class_names, class_groups: speakers ('speech'), 'noise' ('noise'), or role names ('premixed').
        contents: uint8 [M,R,32], the SHA-256 of each file.
        left_out: (path of the mixture, reason) of each mixture of the set that the pack does not hold.
    """

    layout: str
    sample_rate: int
    fingerprint: str
    roles: tuple[str, ...]
    audio: np.memmap
    offsets: np.ndarray
    lengths: np.ndarray
    classes: np.ndarray
    splits: np.ndarray
    snr: np.ndarray
    paths: tuple[str, ...]
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...]
    contents: np.ndarray
    left_out: tuple[tuple[str, str], ...]
    name: str = KIND
    synthetic: bool = False


def prepare_premixed(
    root: str | os.PathLike,
    sample_rate: int,
    cache_dir: str | os.PathLike,
    *,
    roles: Sequence[str] = (),
    skip_bad: bool = False,
    progress: bool = True,
) -> Premixed:
    """Packs a premixed set into `cache_dir/premixed-RATE-FINGERPRINT/`, or opens the pack made from the same files before.

    Args:
        root: the set's folder (see the top of this file), or a packed folder, which is opened as it is.
        sample_rate: Hz.
        cache_dir: where packs lie; made if missing.
        roles: folder names, the mixture's first, then the sources' in their order; () for mix, else mix_clean, else
            mix_both, and all of s1, s2, ... that exist.
        skip_bad: leave out mixtures of which a file is missing or cannot be used, and list them, in place of refusing the
            set. The pack is found again whether this is given or not.
        progress: show a progress bar with the time left, where standard error is a terminal.

    Raises:
        DataError: unknown layout, missing roles, files missing in a role, of unequal lengths or unreadable (all are listed).
    """
    root = Path(root)
    check_sample_rate(sample_rate)
    if os.path.isfile(root / HEADER):
        premixed = open_premixed(root)
        if premixed.sample_rate != sample_rate or (roles and tuple(roles) != premixed.roles):
            found = f"{premixed.sample_rate} Hz with the roles {', '.join(premixed.roles)}"
            raise DataError(
                f"{FIELD}: {display(root)} is packed at {found}; asked for {sample_rate} Hz, {list(roles)}"
            )
        say_left_out(KIND, premixed.left_out)
        return premixed
    check_root(root, FIELD, KNOWN)
    others: Counter[str] = Counter()
    try:
        folders = split_folders(root, sample_rate)
        chosen = tuple(roles) or find_roles(folders[0][1])
        items, splits = read_items(root, folders, chosen, others)
    except OSError as error:
        place = display(error.filename or root)
        raise DataError(
            f"{FIELD}: {place} cannot be read ({error.strerror}); it must be readable"
        ) from error
    say_not_taken(KIND, others)
    layout = ", ".join(folder.name for _, folder in folders)
    facts = {"name": KIND, "layout": layout, "rate": sample_rate, "roles": chosen, "splits": splits}
    digest = fingerprint((), facts)
    paths = [path for item in items for path in item]
    target = Path(cache_dir) / f"{KIND}-{sample_rate}-{stamp(root, paths, digest)[:12]}"
    if (known := reuse(target, open_premixed)) is not None:
        say_left_out(KIND, known.left_out)
        return known
    header = {
        "kind": KIND,
        "name": KIND,
        "layout": layout,
        "sample_rate": sample_rate,
        "synthetic": False,
        "roles": chosen,
    }
    with pack_folder(target) as folder, open(folder / AUDIO, "wb") as audio:
        _pack(
            root, items, splits, header, digest, folder, audio, skip_bad=skip_bad, progress=progress
        )
    return open_premixed(target)


def open_premixed(folder: str | os.PathLike) -> Premixed:
    """Opens a packed premixed set at once; audio stays on disk.

    Raises:
        DataError: not a packed premixed set, of another format version, damaged or truncated; names the file.
    """
    folder = Path(folder)
    header, arrays, audio = read_pack(folder, KIND)
    try:
        columns = typed(arrays, ARRAY_TYPES)
        paths = unpack_paths(columns.pop("paths"))
        premixed = Premixed(
            layout=entry(header, "layout", str),
            sample_rate=entry(header, "sample_rate", int),
            fingerprint=entry(header, "fingerprint", str),
            roles=tuple(entry(header, "roles", list)),
            audio=audio,
            paths=paths,
            class_names=tuple(entry(header, "class_names", list)),
            class_groups=tuple(entry(header, "class_groups", list)),
            left_out=pairs(header, "left_out"),
            **columns,
        )
        check_names(premixed.class_names)
        _check(premixed)
    except ValueError as error:
        raise DataError(
            f"{display(folder)}: its index is damaged ({error}); pack it again"
        ) from error
    return premixed


def _check(premixed: Premixed) -> None:
    """ValueError where the index points outside of its arrays."""
    number, roles = len(premixed.paths), len(premixed.roles)
    offsets, lengths = premixed.offsets, premixed.lengths
    if roles < 2 or premixed.classes.shape != (number, roles - 1):
        raise ValueError(
            f"{roles} roles do not fit classes of shape {premixed.classes.shape} for {number} mixtures"
        )
    if any(
        column.shape != (number,) for column in (offsets, lengths, premixed.splits, premixed.snr)
    ):
        raise ValueError("the arrays have different lengths")
    if premixed.contents.shape != (number, roles, 32):
        raise ValueError("contents do not fit the paths")
    # The lengths first, or sums of them could wrap around.
    if not 1 <= lengths.min() <= lengths.max() <= premixed.audio.size or not (
        np.array_equal(offsets, np.cumsum(roles * lengths) - roles * lengths)
        and offsets[-1] + roles * lengths[-1] == premixed.audio.size
    ):
        raise ValueError("offsets and lengths do not fit the audio")
    if len(premixed.class_groups) != len(premixed.class_names) or not (
        0 <= premixed.classes.min() <= premixed.classes.max() < len(premixed.class_names)
    ):
        raise ValueError("a class has no name or no group")
    if not 0 <= premixed.splits.min() <= premixed.splits.max() < len(SPLITS):
        raise ValueError("a split has no name")
    if not np.isfinite(premixed.snr).all():
        raise ValueError("an SNR is no number")


def premixed_table(premixed: Premixed) -> ClassTable:
    """The classes of a premixed set; `corpora` are its groups: 'speech', 'noise' or 'premixed'."""
    return ClassTable(premixed.class_names, premixed.class_groups, premixed.class_groups)


def _pack(
    root: Path,
    items: list[tuple[str, ...]],
    splits: list[str],
    header: dict,
    digest: Any,
    folder: Path,
    audio: IO[bytes],
    *,
    skip_bad: bool,
    progress: bool,
) -> None:
    lengths, ratios, kept, contents, rate = [], [], [], [], header["sample_rate"]
    bad: list[Bad] = []
    checksum = hashlib.sha256()
    for position, signals, content in decode(
        root, items, rate, digest, bad, title=TITLE, progress=progress
    ):
        append(audio, checksum, signals)
        kept.append(position)
        contents.append(content)
        lengths.append(signals.shape[1])
        ratios.append(power_ratio(remove_mean(signals[1:])))
    left_out = settle(root, items, bad, title=TITLE, skip_bad=skip_bad)
    found = [classes_of(Path(items[position][0]).stem, header["roles"][1:]) for position in kept]
    known = sorted({pair for row in found for pair in row})
    ids = {pair: index for index, pair in enumerate(known)}
    sizes = len(header["roles"]) * np.array(lengths, np.int64)
    arrays: dict[str, np.ndarray] = {
        "offsets": np.cumsum(sizes) - sizes,
        "lengths": np.array(lengths, np.int64),
        "classes": np.array([[ids[pair] for pair in row] for row in found], np.int32),
        "splits": np.array([SPLITS.index(splits[position]) for position in kept], np.int8),
        "snr": np.array(ratios, np.float32),
        "paths": pack_paths([items[position][0] for position in kept]),
        "contents": np.frombuffer(b"".join(contents), np.uint8).reshape(
            len(kept), len(header["roles"]), -1
        ),
    }
    header = header | {
        "class_names": [name for name, _ in known],
        "class_groups": [group for _, group in known],
    }
    header |= {
        "fingerprint": digest.hexdigest(),
        "audio_sha256": checksum.hexdigest(),
        "left_out": left_out,
    }
    finish_pack(folder, audio, header, arrays)

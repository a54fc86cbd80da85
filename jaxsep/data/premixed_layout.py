"""Premixed sets on disk: which folders hold them, which files belong together, who speaks in them."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jaxsep.data.layouts import mixture_bases, sound_files, utterances_of
from jaxsep.errors import DataError
from jaxsep.files import check_names, display

FIELD = "data.premixed_root"
SPLIT_FOLDERS = {
    "train": ("tr", "train", "train-100", "train-360"),
    "val": ("cv", "val", "dev"),
    "test": ("tt", "test"),
}
MIXTURE_ROLES = ("mix", "mix_clean", "mix_both")
KNOWN = (
    "{tr|train|train-100|train-360,cv|val|dev,tt|test}/{mix|mix_clean|mix_both,s1,s2,...} with the same file names in each "
    "role, as in WSJ0-2mix, WHAM! and Libri2Mix"
)
LIBRI_UTTERANCE = re.compile(r"\d+-\d+-\d+")


def split_folders(root: Path, sample_rate: int) -> list[tuple[str, Path]]:
    """(split, folder) of each split folder that holds roles, below the likeliest level of the root."""
    for base in mixture_bases(root, sample_rate):
        found = [
            (split, base / name)
            for split, names in SPLIT_FOLDERS.items()
            for name in names
            if any((base / name / role).is_dir() for role in (*MIXTURE_ROLES, "s1"))
        ]
        if found:
            return found
    raise DataError(f"{FIELD}: {display(root)} has no known layout; known: {KNOWN}")


def find_roles(folder: Path) -> tuple[str, ...]:
    """The roles to use where none are named: the mixture's folder and s1, s2, … as far as they go.

    Raises:
        DataError: no mixture's folder, or no s1.
    """
    mixtures = [role for role in MIXTURE_ROLES if (folder / role).is_dir()]
    sources: list[str] = []
    while (folder / f"s{len(sources) + 1}").is_dir():
        sources.append(f"s{len(sources) + 1}")
    if not mixtures or not sources:
        raise DataError(f"{FIELD}: {display(folder)} holds no mixture or no s1; known: {KNOWN}")
    return (mixtures[0], *sources)


def read_items(
    root: Path,
    folders: Sequence[tuple[str, Path]],
    roles: tuple[str, ...],
    others: Counter[str] | None = None,
) -> tuple[list[tuple[str, ...]], list[str]]:
    """For each mixture the paths of its roles, and its split. A file that only some roles have is named for all of them, and
    found missing when it is read. `others`, if given, counts the files of other suffixes beside them."""
    others = Counter() if others is None else others
    if len(roles) < 2 or len(set(roles)) < len(roles):
        right = "must be a mixture role, then one or more source roles, all different"
        raise DataError(f"data.premixed_roles: is {list(roles)}; {right}")
    try:
        check_names(roles)
    except ValueError as error:
        raise DataError(f"data.premixed_roles: {error}") from error
    items: list[tuple[str, ...]] = []
    splits: list[str] = []
    for split, folder in folders:
        for role in roles:
            if not (folder / role).is_dir():
                raise DataError(
                    f"data.premixed_roles: {role!r} has no folder in {display(folder)}; every role needs one"
                )
        names = sorted(
            {name for role in roles for name in sound_files(folder / role, others)}, key=os.fsencode
        )
        places = [os.path.relpath(folder / role, root) for role in roles]
        items += [tuple(os.path.join(place, name) for place in places) for name in names]
        splits += [split] * len(names)
    if not items:
        raise DataError(f"{FIELD}: {display(root)} holds no recordings; known: {KNOWN}")
    return items, splits


def classes_of(stem: str, roles: Sequence[str]) -> list[tuple[str, str]]:
    """(class, group) of each source role: the speaker where the file's name tells, else 'noise' or the role's name."""
    speakers = [name[:3] for name in utterances_of(stem)]
    parts = stem.split("_")
    if not speakers and all(LIBRI_UTTERANCE.fullmatch(part) for part in parts):
        speakers = [part.split("-")[0] for part in parts]
    classes = []
    for role in roles:
        place = int(role[1:]) - 1 if re.fullmatch(r"s[1-9]", role) else len(speakers)
        if place < len(speakers):
            classes.append((speakers[place], "speech"))
        else:
            classes.append(("noise", "noise") if role == "noise" else (role, "premixed"))
    return classes

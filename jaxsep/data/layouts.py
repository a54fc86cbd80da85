"""Datasets as published, read into rows: which files, whose sound, which split. No audio is opened.

| layout | recognised by | class | group | splits |
| --- | --- | --- | --- | --- |
| `esc50` | audio/ and meta/esc50.csv | category | major category | folds 1-4: train; 5: val, test |
| `wsj0-2mix` | {tr,cv,tt}/s1 and s2 | speaker | corpus name | tr, cv, tt |
| `tree` | {train,val,test}/CLASS/*.wav, .flac, .ogg | folder | corpus name | folders |
| premixed | {tr,cv,tt}/mix, s1, s2, ... with equal names | speaker | `speech` | tr, cv, tt |

The recordings of the first three are mixed anew for every epoch, the mixtures of a premixed set are
used as they are. Names of folders and files, and what is in tables, come from strangers: whatever
cannot be used ends in a DataError that names it.
"""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsep.errors import DataError
from jaxsep.files import check_names, display

SPLITS = ("train", "val", "test")
SUFFIXES = (".wav", ".flac", ".ogg")
# A file of this name in a dataset's root says that no recording in it is real.
SYNTHETIC_MARKER = "SYNTHETIC.json"
KNOWN = (
    "ESC-50 as published (audio/ and meta/esc50.csv), "
    "WSJ0-2mix as published (2speakers/wav8k/min/{tr,cv,tt}/{s1,s2}), "
    "or a tree {train,val,test}/CLASS/*.wav|flac|ogg"
)
KNOWN_PREMIXED = (
    "{tr|train|train-100|train-360,cv|val|dev,tt|test}/{mix|mix_clean|mix_both,s1,s2,...} "
    "with the same file names in each role, as in WSJ0-2mix, WHAM! and Libri2Mix"
)


class Row(NamedTuple):
    """One recording of a corpus, or one mixture of a premixed set.

    Attributes:
        paths: the recording, or the mixture and then its sources; relative to the root.
        classes: (class, group) of the recording, or of each source.
        split: 'train', 'val' or 'test'.
    """

    paths: tuple[str, ...]
    classes: tuple[tuple[str, str], ...]
    split: str


class Dataset(NamedTuple):
    """What a layout says of a dataset.

    Attributes:
        layout: 'esc50', 'wsj0-2mix', 'tree', or the split folders of a premixed set: 'tr, cv, tt'.
        rows: at least one. Those of a corpus are sorted by path.
        roles: folder names of a premixed set, the mixture's first.
        others: counts by suffix what lies beside the recordings and is not taken.
    """

    layout: str
    rows: list[Row]
    roles: tuple[str, ...]
    others: Counter[str]


def read_layout(
    root: str | os.PathLike, name: str, *, sample_rate: int = 8000, roles: Sequence[str] = ()
) -> Dataset:
    """Recognises the layout of a dataset and lists its recordings.

    Args:
        root: the dataset's folder. For WSJ0-2mix and premixed sets any published level from the one
            that holds 2speakers/ or Libri2Mix/ down to the one that holds the split folders.
        name: 'speech', 'environment' or 'premixed': what the dataset serves as, and the group where
            the layout has none.
        sample_rate: Hz; of a set at several rates the folder of this one is taken.
        roles: of a premixed set, the mixture's first; () for mix, else mix_clean, else mix_both,
            and all of s1, s2, ... that exist.

    Raises:
        DataError: the root is missing, empty or of no known layout; a table lacks a column or holds
            an impossible value; a role is missing in a split; the name of a class cannot be part of
            the name of a file.
    """
    root, field, known = Path(root), *_field_and_known(name)
    check_root(root, name)
    others: Counter[str] = Counter()
    try:
        if name == "premixed":
            folders = _split_folders(root, sample_rate, PREMIXED_SPLITS, roles or PREMIXED_ROLES)
            roles = tuple(roles) or (find_roles(folders[0][1]) if folders else ())
            layout = ", ".join(folder.name for _, folder in folders)
            rows = list(_read_premixed(root, folders, roles, others))
        elif (root / ESC50_TABLE).is_file():
            layout, rows = "esc50", _read_esc50(root, others)
        elif folders := _split_folders(root, sample_rate, WSJ0_SPLITS, WSJ0_ROLES):
            layout, rows = "wsj0-2mix", _read_wsj0(root, folders, name, others)
        else:
            folders = [(split, root / split) for split in SPLITS if (root / split).is_dir()]
            layout, rows = "tree", list(_read_tree(root, folders, name, others))
    except OSError as error:
        place = display(error.filename or root)
        raise DataError(f"{field}: {place} cannot be read ({error.strerror})") from error
    if not rows:
        raise DataError(
            f"{field}: {display(root)} holds no recordings in a known layout; known: {known}"
        )
    try:
        check_names({class_name for row in rows for class_name, _ in row.classes})
    except ValueError as error:
        raise DataError(f"{field}: {display(root)}: {error}") from error
    if name != "premixed":
        rows.sort(key=lambda row: os.fsencode(row.paths[0]))
    return Dataset(layout, rows, tuple(roles), others)


def check_root(folder: Path, name: str) -> None:
    """DataError that names data.NAME_root where `folder` is missing, no folder or empty."""
    field, known = _field_and_known(name)
    try:
        problem = "" if os.listdir(folder) else "is empty"
    except OSError as error:
        problem = f"is no readable folder ({error.strerror})"
    if problem:
        raise DataError(f"{field}: {display(folder)} {problem}; known layouts: {known}")


def _field_and_known(name: str) -> tuple[str, str]:
    return f"data.{name}_root", KNOWN_PREMIXED if name == "premixed" else KNOWN


def _sound_files(folder: Path, others: Counter[str]) -> list[str]:
    """Names of the sound files directly in a folder, sorted.

    Whether they hold sound shows when they are read: a folder or a dangling link of such a name is
    reported then. `others` counts the other files by suffix, and links to folders, which are not
    followed. Hidden files (as macOS leaves behind) are not counted.
    """
    names = []
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.name.lower().endswith(SUFFIXES):
            names.append(entry.name)
        elif not entry.is_dir():
            others[_suffix(entry.name)] += 1
        elif entry.is_symlink():
            others["links to folders"] += 1
    return sorted(names, key=os.fsencode)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without suffix"


def _split_folders(
    root: Path, sample_rate: int, splits: Mapping[str, Sequence[str]], roles: Sequence[str]
) -> list[tuple[str, Path]]:
    """(split, folder) of each split folder with any of the roles, at the likeliest level of a tree.

    The levels of the published trees: [2speakers|Libri2Mix|...]/wav{8,16}k/{min,max}/, the wanted
    rate first.
    """
    rates = sorted(("wav8k", "wav16k"), key=lambda name: name != f"wav{sample_rate // 1000}k")
    tops = ("", "2speakers", "3speakers", "Libri2Mix", "Libri3Mix")
    levels = [root, *(root / top / rate for top in tops for rate in rates)]
    for base in (root, *(level / length for level in levels for length in ("min", "max"))):
        folders = [(split, base / name) for split, names in splits.items() for name in names]
        if usable := [
            (split, folder)
            for split, folder in folders
            if any((folder / role).is_dir() for role in roles)
        ]:
            return usable
    return []


# A tree: {train,val,test}/CLASS/ with sound files at any depth.


def _read_tree(
    root: Path, folders: Iterable[tuple[str, Path]], corpus: str, others: Counter[str]
) -> Iterator[Row]:
    for split, top in folders:
        for class_name in sorted(os.listdir(top)):
            if not (top / class_name).is_dir():
                if not class_name.startswith("."):
                    others[f"{_suffix(class_name)} outside of a class"] += 1
                continue
            # Deeper folders (speaker/chapter/*.flac) count as their class. Links to folders below
            # it are not followed, so that a loop of links ends.
            for folder, _, _ in os.walk(top / class_name, onerror=_raise):
                place = os.path.relpath(folder, root)
                for name in _sound_files(Path(folder), others):
                    yield Row((os.path.join(place, name),), ((class_name, corpus),), split)


def _raise(error: OSError) -> None:
    raise error


# ESC-50: audio/ and meta/esc50.csv. Folds 1-4 train; fold 5 is halved into val and test, so that no
# source recording is in both.

# Targets are numbered in the order of the dataset's README: ten classes to each major category.
ESC50_GROUPS = (
    "animals",
    "natural_soundscapes",
    "human_non_speech",
    "interior_domestic",
    "exterior_urban",
)
ESC50_TABLE = "meta/esc50.csv"
# Column -> (pattern, what it allows).
ESC50_COLUMNS = {
    "filename": (r"(?!\.\.?$)[^/\\:\0]+", "the name of a file in audio/"),
    "fold": ("[1-5]", "1 to 5"),
    "target": ("[0-4]?[0-9]", "0 to 49"),
    "category": (".+", "a name"),
    "src_file": (".+", "a name"),
}


def read_esc50_table(table: Path) -> list[dict[str, str]]:
    """The lines of meta/esc50.csv; DataError for a value that cannot be or is missing."""
    try:
        with open(table, newline="", encoding="utf-8") as stream:
            clips = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{display(table)}: cannot be read ({error})") from error
    for line, clip in enumerate(clips, start=2):
        for column, (pattern, allowed) in ESC50_COLUMNS.items():
            if not re.fullmatch(pattern, clip.get(column) or ""):
                raise DataError(
                    f"{display(table)}, line {line}: {column} is {clip.get(column)!r:.80}; "
                    f"must be {allowed}"
                )
    return clips


def _read_esc50(root: Path, others: Counter[str]) -> list[Row]:
    clips = read_esc50_table(root / ESC50_TABLE)
    listed = {clip["filename"] for clip in clips}
    for name in set(_sound_files(root / "audio", others)) - listed:
        others[f"{_suffix(name)} that {ESC50_TABLE} does not name"] += 1
    half_of = _halve([clip for clip in clips if clip["fold"] == "5"])
    return [
        Row(
            paths=(os.path.join("audio", clip["filename"]),),
            classes=((clip["category"], ESC50_GROUPS[int(clip["target"]) // 10]),),
            split=half_of[clip["src_file"]] if clip["fold"] == "5" else "train",
        )
        for clip in clips
    ]


def _halve(clips: Iterable[dict[str, str]]) -> dict[str, str]:
    """Source recording -> 'val' or 'test', with about half of the clips of each class in each."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for clip in clips:
        counts[clip["category"]][clip["src_file"]] += 1
    half_of: dict[str, str] = {}
    # Classes of one source recording come first: they must go to test, even where that recording
    # serves another class too.
    for category in sorted(counts, key=lambda name: (len(counts[name]) > 1, name)):
        sizes = {"test": 0, "val": 0}
        # Giving the largest first to the smaller half ends within one source recording of the best
        # division.
        for source, number in sorted(counts[category].items(), key=lambda one: (-one[1], one[0])):
            half = half_of.setdefault(source, min(sizes, key=lambda half: sizes[half]))
            sizes[half] += number
    return half_of


# WSJ0-2mix as a corpus of speakers: the utterances of {tr,cv,tt}/{s1,s2}, each once.

# Training utterances as Tzinis et al. count them in "Unified gradient reweighting".
PAPER_TRAIN_UTTERANCES = 14_823
WSJ0_SPLITS = {"train": ("tr",), "val": ("cv",), "test": ("tt",)}
WSJ0_ROLES = ("s1", "s2")
UTTERANCE_AND_LEVEL = r"[^\W_]{8}_[-+.\de]+"


def _read_wsj0(
    root: Path, folders: Iterable[tuple[str, Path]], corpus: str, others: Counter[str]
) -> list[Row]:
    rows = []
    for split, folder in folders:
        copies: dict[str, list[Path]] = defaultdict(list)
        for position, role in enumerate(WSJ0_ROLES):
            for name in _sound_files(folder / role, others):
                path = folder / role / name
                if not (utterances := utterances_of(path.stem)):
                    raise DataError(
                        f"{display(path)}: no WSJ0-2mix name; "
                        f"they read like 011a0101_1.8_20aa010b_-1.8.wav"
                    )
                copies[utterances[position]].append(path)
        for utterance, paths in copies.items():
            # An utterance occurs in several mixtures, cut to the shorter of the two: the longest
            # copy is kept. A dangling link is reported when it is read.
            longest = min(paths, key=lambda path: (-_size(path), path))
            place = os.path.relpath(longest, root)
            rows.append(Row((place,), ((utterance[:3], corpus),), split))
    return rows


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def utterances_of(stem: str) -> tuple[str, ...]:
    """Utterance names in the name of a WSJ0-mix file, in the order s1, s2, ...; () if it is none.

    >>> utterances_of("011a0101_1.8_20aa010b_-1.8")
    ('011a0101', '20aa010b')
    """
    mixed = re.fullmatch(rf"{UTTERANCE_AND_LEVEL}(_{UTTERANCE_AND_LEVEL})+", stem)
    return tuple(stem.split("_")[::2]) if mixed else ()


# Premixed sets: a folder for each role, with the same file names in each.

PREMIXED_SPLITS = {
    "train": ("tr", "train", "train-100", "train-360"),
    "val": ("cv", "val", "dev"),
    "test": ("tt", "test"),
}
MIXTURE_ROLES = ("mix", "mix_clean", "mix_both")
PREMIXED_ROLES = (*MIXTURE_ROLES, "s1")
LIBRI_UTTERANCE = re.compile(r"\d+-\d+-\d+")


def find_roles(folder: Path) -> tuple[str, ...]:
    """The roles of a split folder where none are named: the mixture's, then s1, s2, ...; () where
    there is no mixture or no source."""
    mixtures = [role for role in MIXTURE_ROLES if (folder / role).is_dir()]
    sources = [f"s{n}" for n in range(1, 10) if (folder / f"s{n}").is_dir()]
    return (mixtures[0], *sources) if mixtures and sources else ()


def _read_premixed(
    root: Path,
    folders: Iterable[tuple[str, Path]],
    roles: tuple[str, ...],
    others: Counter[str],
) -> Iterator[Row]:
    """Mixtures by folder and name. A file that only some roles have is named for all of them, and
    reported when it is read."""
    for split, folder in folders:
        missing = [role for role in roles if not (folder / role).is_dir()]
        if missing or len(set(roles)) < max(2, len(roles)):
            raise DataError(
                f"data.premixed_roles: is {roles} for {display(folder)}; must be folders in it, "
                f"all different: one of mixtures ({', '.join(MIXTURE_ROLES)}), and of their sources"
            )
        place = os.path.relpath(folder, root)
        names = {name for role in roles for name in _sound_files(folder / role, others)}
        for name in sorted(names, key=os.fsencode):
            paths = tuple(os.path.join(place, role, name) for role in roles)
            yield Row(paths, tuple(_source_classes(Path(name).stem, roles[1:])), split)


def _source_classes(stem: str, roles: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(class, group) of each source: the speaker where the name of the file tells, else 'noise' or
    the role."""
    speakers = [name[:3] for name in utterances_of(stem)]
    parts = stem.split("_")
    if all(LIBRI_UTTERANCE.fullmatch(part) for part in parts):
        speakers = [part.split("-")[0] for part in parts]
    speaker_of = {f"s{number}": speaker for number, speaker in enumerate(speakers, start=1)}
    for role in roles:
        if role in speaker_of:
            yield speaker_of[role], "speech"
        else:
            yield role, "noise" if role == "noise" else "premixed"

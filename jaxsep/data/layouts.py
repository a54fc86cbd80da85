"""Datasets as published, read into rows: which files, whose sound, which split. No audio is opened.

`read_layout` reads a corpus, whose recordings are mixed anew for every epoch:

| layout | recognised by | class | group | splits |
| --- | --- | --- | --- | --- |
| `esc50` | audio/ and meta/esc50.csv | category | major category | folds 1-4: train; 5: val, test |
| `wsj0-2mix` | {tr,cv,tt}/s1 and s2 | speaker | corpus name | tr, cv, tt |
| `tree` | {train,val,test}/CLASS/*.wav, .flac, .ogg | folder | corpus name | folders |

`read_premixed` reads a premixed set, whose mixtures are used as they are:

| recognised by | class | group | splits |
| --- | --- | --- | --- |
| {tr,cv,tt}/mix, s1, s2, ... with the same file names in each | speaker | `speech` | tr, cv, tt |

Below each of them stands what recognises it and what reads it. Names of folders and files, and what
is in tables, come from strangers: whatever cannot be used ends in a DataError that names it.
"""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from jaxsep.errors import DataError
from jaxsep.files import check_names, display

SPLITS = ("train", "val", "test")
SUFFIXES = (".wav", ".flac", ".ogg")
KNOWN = (
    "ESC-50 as published (audio/ and meta/esc50.csv), "
    "WSJ0-2mix as published (2speakers/wav8k/min/{tr,cv,tt}/{s1,s2}), "
    "or a tree {train,val,test}/CLASS/*.wav|flac|ogg"
)
KNOWN_PREMIXED = (
    "{tr|train|train-100|train-360,cv|val|dev,tt|test}/{mix|mix_clean|mix_both,s1,s2,...} "
    "with the same file names in each role, as in WSJ0-2mix, WHAM! and Libri2Mix"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One recording: path relative to the root, its class and the class's group, and its split."""

    path: str
    class_name: str
    group: str
    split: str

    # The same as of a MixtureRow:

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,)

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        return ((self.class_name, self.group),)


@dataclass(frozen=True, slots=True)
class MixtureRow:
    """One mixture of a premixed set.

    Attributes:
        paths: the file of each role, the mixture's first, relative to the root.
        classes: (class, group) of each source.
        split: 'train', 'val' or 'test'.
    """

    paths: tuple[str, ...]
    classes: tuple[tuple[str, str], ...]
    split: str


def read_layout(
    root: str | os.PathLike,
    corpus: str,
    *,
    sample_rate: int = 8000,
    others: Counter[str] | None = None,
) -> tuple[str, list[Row]]:
    """Recognises the layout of a corpus and lists its recordings, sorted by path.

    Args:
        root: the dataset's folder. For WSJ0-2mix any level from the one that holds 2speakers/ down
            to the one that holds tr/, cv/, tt/.
        corpus: 'speech' or 'environment': the group where the layout has none, and the field that
            errors name.
        sample_rate: Hz; of WSJ0-2mix at several rates the folder of this one is taken.
        others: if given, counts by suffix what lies beside the recordings and is not taken.

    Returns:
        (layout: 'esc50', 'wsj0-2mix' or 'tree'; rows, at least one)

    Raises:
        DataError: the root is missing, empty or of no known layout; a table lacks a column or holds
            an impossible value; the name of a class cannot be part of the name of a file.
    """
    root, field = Path(root), f"data.{corpus}_root"
    others = Counter() if others is None else others
    check_root(root, field, KNOWN)
    with _listing(root, field):
        if (root / ESC50_TABLE).is_file():
            layout, rows = "esc50", _read_esc50(root, others)
        elif (base := _wsj0_base(root, sample_rate)) is not None:
            layout, rows = "wsj0-2mix", _read_wsj0(root, base, corpus, others)
        elif any((root / split).is_dir() for split in SPLITS):
            layout, rows = "tree", list(_read_tree(root, corpus, others))
        else:
            raise DataError(f"{field}: {display(root)} has no known layout; known: {KNOWN}")
    if not rows:
        raise DataError(
            f"{field}: {display(root)} looks like {layout} but holds no recordings; known: {KNOWN}"
        )
    _check_names({row.class_name for row in rows}, f"{field}: {display(root)}")
    return layout, sorted(rows, key=lambda row: os.fsencode(row.path))


def check_root(folder: Path, field: str, known: str) -> None:
    """DataError that names `field` where `folder` is missing, no folder, unreadable or empty."""
    try:
        empty = not os.listdir(folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"{field}: {display(folder)} is no readable folder ({reason}); known layouts: {known}"
        ) from error
    if empty:
        raise DataError(f"{field}: {display(folder)} is empty; known layouts: {known}")


@contextmanager
def _listing(root: Path, field: str) -> Iterator[None]:
    """Turns an OSError while folders and tables are read into a DataError."""
    try:
        yield
    except OSError as error:
        place = display(error.filename or root)
        raise DataError(
            f"{field}: {place} cannot be read ({error.strerror}); it must be readable"
        ) from error


def _check_names(names: Iterable[str], place: str) -> None:
    try:
        check_names(names)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error


def _sound_files(folder: Path, others: Counter[str]) -> list[str]:
    """Names of the sound files directly in a folder, sorted.

    Whether they hold sound shows when they are read: a folder or a dangling link of such a name is
    reported then. `others` counts the other files by suffix, and links to folders, which are not
    followed. Hidden files (as macOS leaves behind) are not counted.
    """
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(SUFFIXES):
                names.append(entry.name)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                others["links to folders"] += 1
            elif not entry.is_dir(follow_symlinks=False):
                others[_suffix(entry.name)] += 1
    return sorted(names, key=os.fsencode)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without suffix"


# A tree: {train,val,test}/CLASS/ with sound files at any depth.


def _read_tree(root: Path, corpus: str, others: Counter[str]) -> Iterator[Row]:
    for split in SPLITS:
        if not (root / split).is_dir():
            continue
        for class_name in sorted(os.listdir(root / split)):
            if not os.path.isdir(root / split / class_name):
                if not class_name.startswith("."):
                    others[f"{_suffix(class_name)} outside of a class"] += 1
                continue
            # Deeper folders (speaker/chapter/*.flac) count as their class. Links to folders below
            # it are not followed, so that a loop of links ends.
            for folder, _, _ in os.walk(root / split / class_name, onerror=_raise):
                place = os.path.relpath(folder, root)
                for name in _sound_files(Path(folder), others):
                    yield Row(os.path.join(place, name), class_name, corpus, split)


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
ESC50_COLUMNS = ("filename", "fold", "target", "category", "src_file")


def _read_esc50(root: Path, others: Counter[str]) -> list[Row]:
    table = root / ESC50_TABLE
    clips = _read_esc50_table(table)
    listed = Counter(clip["filename"] for clip in clips)
    if twice := [name for name, count in listed.items() if count > 1]:
        raise DataError(
            f"{display(table)}: lists {twice[0]!r} more than once; every file must be listed once"
        )
    for name in set(_sound_files(root / "audio", others)) - listed.keys():
        others[f"{_suffix(name)} that {table.name} does not name"] += 1
    half_of = _halve([clip for clip in clips if clip["fold"] == "5"])
    return [
        Row(
            path=os.path.join("audio", clip["filename"]),
            class_name=clip["category"],
            group=ESC50_GROUPS[int(clip["target"]) // 10],
            split=half_of[clip["src_file"]] if clip["fold"] == "5" else "train",
        )
        for clip in clips
    ]


def _read_esc50_table(table: Path) -> list[dict[str, str]]:
    try:
        with open(table, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or ()
            if missing := [column for column in ESC50_COLUMNS if column not in columns]:
                raise DataError(
                    f"{display(table)}: column {missing[0]!r} is missing; "
                    f"needed: {', '.join(ESC50_COLUMNS)}"
                )
            clips = []
            for line, clip in enumerate(reader, start=2):
                _check_esc50_clip(f"{display(table)}, line {line}", clip)
                clips.append(clip)
            return clips
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{display(table)}: cannot be read ({error})") from error


def _check_esc50_clip(place: str, clip: dict[str, str]) -> None:
    if any(clip[column] in (None, "") for column in ESC50_COLUMNS):
        raise DataError(f"{place}: a value is missing; needed: {', '.join(ESC50_COLUMNS)}")
    if clip["fold"] not in ("1", "2", "3", "4", "5"):
        raise DataError(f"{place}: fold is {clip['fold']!r:.80}; must be 1 to 5")
    if not re.fullmatch("[0-4]?[0-9]", clip["target"]):
        raise DataError(f"{place}: target is {clip['target']!r:.80}; must be 0 to 49")
    name = clip["filename"]
    # A Windows path knows every separator that a Linux path knows, and drives.
    if PureWindowsPath(name).name != name or name == ".." or "\0" in name:
        raise DataError(f"{place}: filename is {name!r:.80}; must be the name of a file in audio/")


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
WSJ0_SPLITS = (("tr", "train"), ("cv", "val"), ("tt", "test"))


def _wsj0_base(root: Path, sample_rate: int) -> Path | None:
    for base in _mixture_bases(root, sample_rate):
        folders = (base / name for name, _ in WSJ0_SPLITS)
        if any((folder / "s1").is_dir() and (folder / "s2").is_dir() for folder in folders):
            return base
    return None


def _read_wsj0(root: Path, base: Path, corpus: str, others: Counter[str]) -> list[Row]:
    rows = []
    for folder_name, split in WSJ0_SPLITS:
        best: dict[str, tuple[int, str]] = {}
        for position, role in enumerate(("s1", "s2")):
            folder = base / folder_name / role
            if not folder.is_dir():
                continue
            for name in _sound_files(folder, others):
                utterances = utterances_of(Path(name).stem)
                if len(utterances) <= position:
                    raise DataError(
                        f"{display(folder / name)}: no WSJ0-2mix name; "
                        f"they read like 011a0101_1.8_20aa010b_-1.8.wav"
                    )
                # An utterance occurs in several mixtures, cut to the shorter of the two: the
                # longest copy is kept.
                path = os.path.join(os.path.relpath(folder, root), name)
                copy = (-_size(folder / name), path)
                utterance = utterances[position]
                best[utterance] = min(best.get(utterance, copy), copy)
        rows += [Row(path, name[:3], corpus, split) for name, (_, path) in best.items()]
    return rows


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a dangling link, say; reported when it is read
        return 0


def utterances_of(stem: str) -> tuple[str, ...]:
    """Utterance names in the name of a WSJ0-mix file, in the order s1, s2, ...; () if it is none.

    >>> utterances_of("011a0101_1.8_20aa010b_-1.8")
    ('011a0101', '20aa010b')
    """
    parts = stem.split("_")
    names, levels = parts[::2], parts[1::2]
    try:
        [float(level) for level in levels]
    except ValueError:
        return ()
    named = all(len(name) == 8 and name.isalnum() for name in names)
    return tuple(names) if named and len(names) == len(levels) >= 2 else ()


def _mixture_bases(root: Path, sample_rate: int) -> Iterator[Path]:
    """Folders that may hold the split folders of WSJ0-2mix, WHAM! or Libri2Mix, likeliest first.

    All levels of the published trees: [2speakers|Libri2Mix|...]/wav{8,16}k/{min,max}/, the wanted
    rate first.
    """
    rates = sorted(("wav8k", "wav16k"), key=lambda name: name != f"wav{sample_rate // 1000}k")
    lengths = ("min", "max")
    yield root
    yield from (root / length for length in lengths)
    for top in ("", "2speakers", "3speakers", "Libri2Mix", "Libri3Mix"):
        yield from (root / top / rate / length for rate in rates for length in lengths)


# Premixed sets: a folder for each role, with the same file names in each.

PREMIXED_FIELD, ROLES_FIELD = "data.premixed_root", "data.premixed_roles"
PREMIXED_SPLITS = {
    "train": ("tr", "train", "train-100", "train-360"),
    "val": ("cv", "val", "dev"),
    "test": ("tt", "test"),
}
MIXTURE_ROLES = ("mix", "mix_clean", "mix_both")
LIBRI_UTTERANCE = re.compile(r"\d+-\d+-\d+")


def read_premixed(
    root: str | os.PathLike,
    sample_rate: int,
    roles: Sequence[str] = (),
    *,
    others: Counter[str] | None = None,
) -> tuple[str, tuple[str, ...], list[MixtureRow]]:
    """Lists the mixtures of a premixed set by folder and name.

    A file that only some roles have is named for all of them, and reported when it is read.

    Args:
        root: the folder that holds the split folders, or a published level above.
        sample_rate: Hz; of a set at several rates the folder of this one is taken.
        roles: names of the folders, the mixture's first; () for `find_roles`.
        others: if given, counts by suffix what lies beside the recordings and is not taken.

    Returns:
        (layout, the split folders like 'tr, cv, tt'; roles; rows, at least one)

    Raises:
        DataError: the root is missing, empty or of no known layout; a role is missing in a split.
    """
    root, others = Path(root), Counter() if others is None else others
    check_root(root, PREMIXED_FIELD, KNOWN_PREMIXED)
    with _listing(root, PREMIXED_FIELD):
        folders = _split_folders(root, sample_rate)
        roles = tuple(roles) or find_roles(folders[0][1])
        if len(roles) < 2 or len(set(roles)) < len(roles):
            raise DataError(
                f"{ROLES_FIELD}: is {list(roles)}; "
                f"must be a mixture role, then one or more source roles, all different"
            )
        _check_names(roles, ROLES_FIELD)
        rows: list[MixtureRow] = []
        for split, folder in folders:
            rows += _read_roles(root, folder, roles, split, others)
    if not rows:
        raise DataError(
            f"{PREMIXED_FIELD}: {display(root)} holds no recordings; known: {KNOWN_PREMIXED}"
        )
    return ", ".join(folder.name for _, folder in folders), roles, rows


def find_roles(folder: Path) -> tuple[str, ...]:
    """The roles of a split folder where none are named: the mixture's, then s1, s2, ...

    Raises:
        DataError: there is no mixture or no s1.
    """
    mixtures = [role for role in MIXTURE_ROLES if (folder / role).is_dir()]
    sources: list[str] = []
    while (folder / f"s{len(sources) + 1}").is_dir():
        sources.append(f"s{len(sources) + 1}")
    if not mixtures or not sources:
        raise DataError(
            f"{PREMIXED_FIELD}: {display(folder)} holds no mixture or no s1; "
            f"known: {KNOWN_PREMIXED}"
        )
    return (mixtures[0], *sources)


def _split_folders(root: Path, sample_rate: int) -> list[tuple[str, Path]]:
    """(split, folder) of each split folder with roles, below the likeliest level of the root."""
    for base in _mixture_bases(root, sample_rate):
        folders = [
            (split, base / name)
            for split, names in PREMIXED_SPLITS.items()
            for name in names
            if any((base / name / role).is_dir() for role in (*MIXTURE_ROLES, "s1"))
        ]
        if folders:
            return folders
    raise DataError(
        f"{PREMIXED_FIELD}: {display(root)} has no known layout; known: {KNOWN_PREMIXED}"
    )


def _read_roles(
    root: Path, folder: Path, roles: tuple[str, ...], split: str, others: Counter[str]
) -> list[MixtureRow]:
    names: set[str] = set()
    for role in roles:
        if not (folder / role).is_dir():
            raise DataError(
                f"{ROLES_FIELD}: {role!r} has no folder in {display(folder)}; every role needs one"
            )
        names |= set(_sound_files(folder / role, others))
    places = [os.path.relpath(folder / role, root) for role in roles]
    return [
        MixtureRow(
            tuple(os.path.join(place, name) for place in places),
            _source_classes(Path(name).stem, roles[1:]),
            split,
        )
        for name in sorted(names, key=os.fsencode)
    ]


def _source_classes(stem: str, roles: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(class, group) of each source: the speaker where the name of the file tells, else 'noise' or
    the role."""
    speakers = [name[:3] for name in utterances_of(stem)]
    parts = stem.split("_")
    if not speakers and all(LIBRI_UTTERANCE.fullmatch(part) for part in parts):
        speakers = [part.split("-")[0] for part in parts]
    classes = []
    for role in roles:
        position = int(role[1:]) - 1 if re.fullmatch(r"s[1-9]", role) else len(speakers)
        if position < len(speakers):
            classes.append((speakers[position], "speech"))
        else:
            classes.append(("noise", "noise") if role == "noise" else (role, "premixed"))
    return tuple(classes)

"""Datasets as published, read into rows: path, class, group, split. No audio is opened here.

| layout | recognised by | class | group | splits |
| --- | --- | --- | --- | --- |
| `esc50` | audio/ and meta/esc50.csv | category | one of five major categories | folds 1-4 train; 5 val, test |
| `wsj0-2mix` | {tr,cv,tt}/s1 and s2, also below 2speakers/wav8k/min | speaker | corpus name | tr, cv, tt |
| `tree` | {train,val,test}/CLASS/*.wav, .flac or .ogg | folder name | corpus name | folder names |
"""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from jaxsep.errors import DataError
from jaxsep.files import check_names, display

SPLITS = ("train", "val", "test")
SUFFIXES = (".wav", ".flac", ".ogg")
# Training utterances of WSJ0-2mix as Tzinis et al. count them in "Unified gradient reweighting".
PAPER_TRAIN_UTTERANCES = 14_823
# ESC-50's targets are numbered in the order of its README: ten classes to each major category.
ESC50_GROUPS = (
    "animals",
    "natural_soundscapes",
    "human_non_speech",
    "interior_domestic",
    "exterior_urban",
)
ESC50_COLUMNS = ("filename", "fold", "target", "category", "src_file")
KNOWN = (
    "ESC-50 as published (audio/ and meta/esc50.csv), WSJ0-2mix as published (2speakers/wav8k/min/{tr,cv,tt}/{s1,s2}), "
    "or a tree {train,val,test}/CLASS/*.wav|flac|ogg"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One recording: path relative to the root, name of its class and group, and 'train', 'val' or 'test'."""

    path: str
    class_name: str
    group: str
    split: str


def read_layout(
    root: str | os.PathLike,
    corpus: str,
    *,
    sample_rate: int = 8000,
    others: Counter[str] | None = None,
) -> tuple[str, list[Row]]:
    """Recognises the layout of a dataset and lists its recordings, sorted by path.

    Args:
        root: the dataset's folder. For WSJ0-2mix any level from the one that holds 2speakers/ down to the one that
            holds tr/, cv/, tt/.
        corpus: 'speech' or 'environment': the group's name where the layout has none, and the field named in errors.
        sample_rate: Hz; where WSJ0-2mix is there at several rates, the folder of this one is taken first.
        others: if given, counts what lies where recordings do and is not taken, by suffix or kind.

    Returns:
        (layout: 'esc50', 'wsj0-2mix' or 'tree'; rows, at least one)

    Raises:
        DataError: missing, empty or of no known layout; a table with missing columns or impossible values.
    """
    folder, field = Path(root), f"data.{corpus}_root"
    others = Counter() if others is None else others
    check_root(folder, field, KNOWN)
    try:
        if (folder / "meta" / "esc50.csv").is_file():
            layout, rows = "esc50", _esc50(folder, others)
        elif (base := _wsj0_base(folder, sample_rate)) is not None:
            layout, rows = "wsj0-2mix", _wsj0(folder, base, corpus, others)
        elif any((folder / split).is_dir() for split in SPLITS):
            layout, rows = "tree", list(_tree(folder, corpus, others))
        else:
            raise DataError(f"{field}: {display(root)} has no known layout; known: {KNOWN}")
    except OSError as error:
        place = display(error.filename or folder)
        raise DataError(
            f"{field}: {place} cannot be read ({error.strerror}); it must be readable"
        ) from error
    if not rows:
        raise DataError(
            f"{field}: {display(root)} looks like {layout} but holds no recordings; known: {KNOWN}"
        )
    try:
        check_names({row.class_name for row in rows})
    except ValueError as error:
        raise DataError(f"{field}: {display(root)}: {error}") from error
    return layout, sorted(rows, key=lambda row: os.fsencode(row.path))


def metadata_files(root: Path, layout: str) -> tuple[Path, ...]:
    """The files beside the recordings whose contents decide what the rows are."""
    return (root / "meta" / "esc50.csv",) if layout == "esc50" else ()


def check_root(folder: Path, field: str, known: str) -> None:
    """Raises DataError, naming `field`, where `folder` is missing, not a folder, unreadable or empty."""
    try:
        if not os.listdir(folder):
            raise DataError(f"{field}: {display(folder)} is empty; known layouts: {known}")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = (
            f"{field}: {display(folder)} is no readable folder ({reason}); known layouts: {known}"
        )
        raise DataError(message) from error


def mixture_bases(root: Path, sample_rate: int) -> Iterator[Path]:
    """Folders, likeliest first, that may hold the split folders of WSJ0-2mix, WHAM! or Libri2Mix.

    All levels of all published trees: [2speakers|Libri2Mix]/wav{8,16}k/{min,max}/. The rate asked for comes first.
    """
    rates = sorted(("wav8k", "wav16k"), key=lambda name: name != f"wav{sample_rate // 1000}k")
    yield root
    yield from (root / length for length in ("min", "max"))
    for top in (
        root,
        root / "2speakers",
        root / "3speakers",
        root / "Libri2Mix",
        root / "Libri3Mix",
    ):
        yield from (top / rate / length for rate in rates for length in ("min", "max"))


def sound_files(folder: str | Path, others: Counter[str]) -> list[str]:
    """Names of the sound files directly in a folder, sorted. What they are shows when they are read: a folder or a dangling
    link of such a name is reported then.

    `others` counts the other files by suffix, and links to folders, which are not followed. Hidden files (as macOS leaves
    behind) are not counted.
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


def utterances_of(stem: str) -> tuple[str, ...]:
    """Utterance names in a WSJ0-mix file name, in the order s1, s2, ...; () if it is none.

    >>> utterances_of("011a0101_1.8_20aa010b_-1.8")
    ('011a0101', '20aa010b')
    """
    parts = stem.split("_")
    names, levels = parts[::2], parts[1::2]
    try:
        [float(level) for level in levels]
    except ValueError:
        return ()
    fits = len(names) == len(levels) >= 2 and all(
        len(name) == 8 and name.isalnum() for name in names
    )
    return tuple(names) if fits else ()


def _tree(root: Path, corpus: str, others: Counter[str]) -> Iterator[Row]:
    for split in SPLITS:
        if not (root / split).is_dir():
            continue
        for class_name in sorted(os.listdir(root / split)):
            if not os.path.isdir(root / split / class_name):
                if not class_name.startswith("."):
                    others[f"{_suffix(class_name)} outside of a class"] += 1
                continue
            # Deeper folders (speaker/chapter/*.flac) count as their class. Links to folders below it are not followed,
            # so that a loop of links ends.
            for folder, _, _ in os.walk(root / split / class_name, onerror=_raise):
                place = os.path.relpath(folder, root)
                for name in sound_files(folder, others):
                    yield Row(os.path.join(place, name), class_name, corpus, split)


def _raise(error: OSError) -> None:
    raise error


def _wsj0_base(root: Path, sample_rate: int) -> Path | None:
    for base in mixture_bases(root, sample_rate):
        if any(
            (base / s / "s1").is_dir() and (base / s / "s2").is_dir() for s in ("tr", "cv", "tt")
        ):
            return base
    return None


def _wsj0(root: Path, base: Path, corpus: str, others: Counter[str]) -> list[Row]:
    rows = []
    for folder, split in zip(("tr", "cv", "tt"), SPLITS, strict=True):
        best: dict[str, tuple[int, str]] = {}
        for place, role in enumerate(("s1", "s2")):
            if not (base / folder / role).is_dir():
                continue
            place_of_role = os.path.relpath(base / folder / role, root)
            for name in sound_files(base / folder / role, others):
                names = utterances_of(Path(name).stem)
                if len(names) <= place:
                    shown = display(base / folder / role / name)
                    raise DataError(
                        f"{shown}: no WSJ0-2mix name; they read like 011a0101_1.8_20aa010b_-1.8.wav"
                    )
                # An utterance occurs in several mixtures, cut to the shorter of the two: the longest copy is kept.
                copy = (-_size(base / folder / role / name), os.path.join(place_of_role, name))
                best[names[place]] = min(best.get(names[place], copy), copy)
        rows += [Row(path, name[:3], corpus, split) for name, (_, path) in best.items()]
    return rows


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a dangling link, say; reported when it is read
        return 0


def _esc50(root: Path, others: Counter[str]) -> list[Row]:
    table = root / "meta" / "esc50.csv"
    try:
        with open(table, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = [
                column for column in ESC50_COLUMNS if column not in (reader.fieldnames or ())
            ]
            if missing:
                needed = ", ".join(ESC50_COLUMNS)
                raise DataError(
                    f"{display(table)}: column {missing[0]!r} is missing; needed: {needed}"
                )
            entries = []
            for line, entry in enumerate(reader, start=2):
                _check_esc50(table, line, entry)
                entries.append(entry)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{display(table)}: cannot be read ({error})") from error
    twice = [
        name for name, count in Counter(entry["filename"] for entry in entries).items() if count > 1
    ]
    if twice:
        raise DataError(
            f"{display(table)}: lists {twice[0]!r} more than once; every file must be listed once"
        )
    listed = {entry["filename"] for entry in entries}
    for name in set(sound_files(root / "audio", others)) - listed:
        others[f"{_suffix(name)} that {table.name} does not name"] += 1
    held_out = _halve([entry for entry in entries if entry["fold"] == "5"])
    return [
        Row(
            path=os.path.join("audio", entry["filename"]),
            class_name=entry["category"],
            group=ESC50_GROUPS[int(entry["target"]) // 10],
            split=held_out[entry["src_file"]] if entry["fold"] == "5" else "train",
        )
        for entry in entries
    ]


def _check_esc50(table: Path, line: int, entry: dict) -> None:
    place = f"{display(table)}, line {line}"
    if any(entry[column] in (None, "") for column in ESC50_COLUMNS):
        raise DataError(f"{place}: a value is missing; needed: {', '.join(ESC50_COLUMNS)}")
    if entry["fold"] not in ("1", "2", "3", "4", "5"):
        raise DataError(f"{place}: fold is {entry['fold']!r:.80}; must be 1 to 5")
    if not re.fullmatch("[0-4]?[0-9]", entry["target"]):
        raise DataError(f"{place}: target is {entry['target']!r:.80}; must be 0 to 49")
    name = entry["filename"]
    # Of Windows, whose paths know all that those of Linux know, and drives.
    if PureWindowsPath(name).name != name or name == ".." or "\0" in name:
        raise DataError(f"{place}: filename is {name!r:.80}; must be the name of a file in audio/")


def _halve(entries: Iterable[dict]) -> dict[str, str]:
    """Source recording -> 'val' or 'test'; about half of the clips of each class in each."""
    clips: dict[str, Counter] = defaultdict(Counter)
    for entry in entries:
        clips[entry["category"]][entry["src_file"]] += 1
    halves: dict[str, str] = {}
    # Classes of one source recording first: they must go to test, also where that source serves another class.
    for category in sorted(clips, key=lambda name: (len(clips[name]) > 1, name)):
        counts = {"test": 0, "val": 0}
        # Largest first, each to the smaller half, is within one source recording of the best division.
        for source, number in sorted(clips[category].items(), key=lambda item: (-item[1], item[0])):
            split = halves.setdefault(source, min(counts, key=lambda half: counts[half]))
            counts[split] += number
    return halves

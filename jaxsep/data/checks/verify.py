"""Checks of a dataset and its pack, each a row of a table: what was found, and what of it is wrong.

`verify` runs them all. A check is a pure function of plain data where it needs no file. Sounds are compared sample by sample
(as packed): copies at another level, cut otherwise or compressed are not found.
"""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tqdm

from jaxsep.data.audio import audio_info, file_sha256
from jaxsep.data.checks.mixture_sums import sums
from jaxsep.data.layouts import SPLITS, read_layout
from jaxsep.data.packs.corpus import Corpus
from jaxsep.data.packs.format import AUDIO, read_header
from jaxsep.data.packs.premixed import Premixed
from jaxsep.data.premixed_layout import find_roles, read_items, split_folders
from jaxsep.errors import DataError
from jaxsep.files import display

BLOCK_BYTES = 1 << 24
# A bar for what takes longer (s).
PATIENCE = 5.0
MAX_NAMED = 10
# What these splits share makes the results of a test worthless; what others share is only noted.
APART = ("train", "test")
Item = TypeVar("Item")


class Check(NamedTuple):
    """One row of the table, and a line for each thing that is wrong."""

    name: str
    result: str
    wrong: tuple[str, ...] = ()


def verify(
    packed: Corpus | Premixed, root: str | os.PathLike, *, progress: bool = True
) -> list[Check]:
    """All checks of a pack and, unless `root` is the pack itself, of the dataset that it was made from.

    Raises:
        DataError: a file of the dataset cannot be read.
    """
    root, folder = Path(root), Path(str(packed.audio.filename)).parent
    splits = [SPLITS[index] for index in packed.splits]
    pack = dict(zip(packed.paths, splits, strict=True))
    if root.resolve() == folder.resolve():
        checks = [
            check_counts(pack, pack, ()),
            Check("source files", "not checked: this is the pack itself"),
        ]
    else:
        checks = [check_counts(in_dataset(root, packed), pack, packed.left_out)]
        files = [path for paths in files_of(packed) for path in paths]
        checks += check_files(
            root, files, packed.contents.reshape(-1, 32), folder, progress=progress
        )
        if (items := mixtures(root, packed)) is not None:
            checks.append(
                Check(*sums(root, *items, bar=lambda found: _bar(found, "adding up", progress)))
            )
    checks.append(check_lengths(packed.lengths / packed.sample_rate))
    signals, checksum = read_signals(packed, progress=progress)
    checks.append(check_audio(folder, checksum))
    roles = signals.reshape(len(splits), -1)
    checks.append(check_duplicates(roles, splits, packed.paths))
    if any((speakers := speakers_of(packed, splits)).values()):
        checks.append(check_speakers(speakers))
    if packed.layout == "esc50" and (root / "meta" / "esc50.csv").is_file():
        checks.append(check_sources(clips_of(root / "meta" / "esc50.csv", packed.paths, splits)))
    return checks


def files_of(packed: Corpus | Premixed) -> list[tuple[str, ...]]:
    """The files of each recording, relative to the dataset's root: one, or one of each role."""
    if isinstance(packed, Corpus):
        return [(path,) for path in packed.paths]
    places = [
        (os.path.dirname(os.path.dirname(path)), os.path.basename(path)) for path in packed.paths
    ]
    return [
        tuple(os.path.join(place, role, name) for role in packed.roles) for place, name in places
    ]


def mixtures(
    root: Path, packed: Corpus | Premixed
) -> tuple[list[tuple[str, ...]], tuple[str, ...]] | None:
    """(the files of each mixture, the names of their roles) of a premixed set, or of the WSJ0-2mix tree a corpus was read
    from if its mixtures are there; else None."""
    if isinstance(packed, Premixed):
        return files_of(packed), packed.roles
    if packed.layout != "wsj0-2mix":
        return None
    try:
        folders = split_folders(root, packed.sample_rate)
        roles = find_roles(folders[0][1])
        items, _ = read_items(root, folders, roles)
    except DataError:  # sources alone are enough for a corpus
        return None
    return items, roles


def in_dataset(root: Path, packed: Corpus | Premixed) -> dict[str, str]:
    """The split of each recording that lies in the dataset now; a premixed set's are named by the mixture's file."""
    if isinstance(packed, Premixed):
        items, splits = read_items(root, split_folders(root, packed.sample_rate), packed.roles)
        return {item[0]: split for item, split in zip(items, splits, strict=True)}
    return {
        row.path: row.split
        for row in read_layout(root, packed.name, sample_rate=packed.sample_rate)[1]
    }


def check_counts(
    dataset: Mapping[str, str], pack: Mapping[str, str], left_out: Sequence[tuple[str, str]]
) -> Check:
    """Whether each recording of the dataset is in the pack, in its split, or known to be left out. Mappings: path to split."""
    there, packed = Counter(dataset.values()), Counter(pack.values())
    said = [f"{split} {packed[split]:,} of {there[split]:,}" for split in SPLITS]
    if left_out:
        said.append(f"{len(left_out):,} left out (as {display(left_out[0][0])}: {left_out[0][1]})")
    known = dict(pack) | dict.fromkeys((path for path, _ in left_out))
    wrong = [
        f"{display(path)}: is in the dataset and not in its pack"
        for path in dataset
        if path not in known
    ]
    wrong += [
        f"{display(path)}: is in the pack and not in the dataset"
        for path in known
        if path not in dataset
    ]
    wrong += [
        f"{display(path)}: is in {dataset[path]}, packed as {split}"
        for path, split in pack.items()
        if dataset.get(path, split) != split
    ]
    return Check("recordings", ", ".join(said), tuple(wrong))


def check_files(
    root: Path, files: Sequence[str], contents: np.ndarray, folder: Path, *, progress: bool
) -> list[Check]:
    """Whether the files, in order, still have the SHA-256 `contents` [files, 32]; and their rates and channels."""
    wrong: list[str] = []
    rates: Counter[int] = Counter()
    channels: Counter[int] = Counter()
    for path, content in zip(_bar(files, "reading the files", progress), contents, strict=True):
        shown = display(root / path)
        try:
            if file_sha256(root / path) != content.tobytes():
                wrong.append(
                    f"{shown}: has changed since it was packed; remove {display(folder)} and pack again"
                )
                continue
            rate, number, _ = audio_info(root / path)
        except DataError as error:
            wrong.append(f"{error}; it has changed since it was packed")
            continue
        rates[rate] += 1
        channels[number] += 1
    same = f"{len(files) - len(wrong):,} of {len(files):,} as they were packed"
    return [
        Check("source files", same, tuple(wrong)),
        Check("sample rates", _tally(rates, "{:,} Hz")),
        Check("channels", _tally(channels, "{}")),
    ]


def check_lengths(seconds: np.ndarray) -> Check:
    """Shortest, median and longest of the recordings' lengths [R] (s), and how many are shorter than 1 s."""
    shortest, middle, longest = np.quantile(seconds, (0, 0.5, 1))
    short = f"{int((seconds < 1).sum()):,} shorter than 1 s"
    return Check(
        "lengths",
        f"shortest {shortest:.2f} s, median {middle:.2f} s, longest {longest:.2f} s; {short}",
    )


def read_signals(packed: Corpus | Premixed, *, progress: bool) -> tuple[np.ndarray, str]:
    """Reads the pack's audio once, from start to end.

    Returns:
        (digests, object [signals]: 16 bytes for each signal, R of them for each recording; b"" for one of a constant value,
        which is no sound; SHA-256 (hex) of the whole file)
    """
    roles = len(packed.roles) if isinstance(packed, Premixed) else 1
    whole, found = hashlib.sha256(), []
    with open(str(packed.audio.filename), "rb") as stream:
        for length in _bar(np.repeat(packed.lengths, roles).tolist(), "reading the pack", progress):
            one, low, high = hashlib.blake2b(digest_size=16), np.inf, -np.inf
            for block in _blocks(stream, 4 * length):
                whole.update(block)
                one.update(block)
                values = np.frombuffer(block, "<f4")
                low, high = min(low, values.min()), max(high, values.max())
            found.append(one.digest() if low < high else b"")
    digests = np.empty(len(found), object)
    digests[:] = found
    return digests, whole.hexdigest()


def check_audio(folder: Path, checksum: str) -> Check:
    """Whether the SHA-256 of the pack's audio is the one that was noted while it was written."""
    noted = read_header(folder).get("audio_sha256")
    if checksum == noted:
        return Check("pack's audio", f"as written, SHA-256 {checksum[:12]}")
    wrong = f"{display(folder / AUDIO)}: is damaged (SHA-256 {checksum[:12]}, written was {str(noted)[:12]})"
    return Check("pack's audio", "damaged", (f"{wrong}; remove {display(folder)} and pack again",))


def check_duplicates(digests: np.ndarray, splits: Sequence[str], paths: Sequence[str]) -> Check:
    """Whether two recordings have the same samples. digests: object [M,R], of R signals each; b"" is none."""
    where: dict[bytes, list[int]] = defaultdict(list)
    for position, row in enumerate(digests):
        for digest in set(row) - {b""}:
            where[digest].append(position)
    pairs: dict[tuple[str, ...], dict[tuple[str, str], None]] = defaultdict(dict)
    for positions in where.values():
        first: dict[str, int] = {}
        for position in positions:
            if splits[position] in first:
                pairs[(splits[position],)][paths[first[splits[position]]], paths[position]] = None
            first.setdefault(splits[position], position)
        for pair in _pairs(first):
            pairs[pair][paths[first[pair[0]]], paths[first[pair[1]]]] = None
    said = [f"{_between(pair)} {len(found):,}" for pair, found in sorted(pairs.items())]
    wrong = [
        f"{display(a)} and {display(b)}: the same sound in train and test"
        for a, b in pairs.get(APART, ())
    ]
    if pairs and not wrong:
        one, other = next(iter(next(iter(pairs.values()))))
        said.append(f"as {display(one)} = {display(other)}")
    return Check("same sound twice", ", ".join(said) or "none", tuple(wrong))


def check_speakers(speakers: Mapping[str, set[str]]) -> Check:
    """Whether splits share speakers. speakers: those of each split."""
    shared = {pair: sorted(speakers[pair[0]] & speakers[pair[1]]) for pair in _pairs(speakers)}
    counts = ", ".join(f"{split} {len(found):,}" for split, found in speakers.items())
    said = [
        f"{_between(pair)} share {len(found):,} (as {display(found[0])})"
        for pair, found in shared.items()
        if found
    ]
    wrong = [f"speaker {display(name)}: is in train and test" for name in shared.get(APART, ())]
    return Check(
        "speakers", f"{counts}; " + (", ".join(said) or "no split shares one"), tuple(wrong)
    )


def check_sources(sources: Mapping[str, set[tuple[str, str]]]) -> Check:
    """Whether clips of one source recording lie in two splits. sources: (class, split) of the clips of each.

    Within a class that is wrong. Across classes it is noted: ESC-50 as published has recordings that serve two classes, one
    of them in fold 5 (209698 clock_alarm and clock_tick, 234879 hen and rooster).
    """
    divided = {
        source: found
        for source, found in sorted(sources.items())
        if len({split for _, split in found}) > 1
    }
    wrong = {
        source: sorted({split for _, split in found}, key=SPLITS.index)
        for source, found in divided.items()
        if len({name for name, _ in found}) < len(found)
    }
    lines = [
        f"source recording {display(source)}: has clips in {' and '.join(there)}"
        for source, there in wrong.items()
    ]
    said = f"{len(sources):,}, {len(divided):,} of them in two splits"
    if noted := [source for source in divided if source not in wrong]:
        said += f" ({', '.join(map(display, noted[:MAX_NAMED]))} by serving two classes)"
    return Check("source recordings", said, tuple(lines))


def speakers_of(packed: Corpus | Premixed, splits: Sequence[str]) -> dict[str, set[str]]:
    """The speakers of each split that there is; of a premixed set the classes that are speakers, if any."""
    found: dict[str, set[str]] = {split: set() for split in SPLITS if split in splits}
    for split, row in zip(splits, packed.classes.reshape(len(splits), -1), strict=True):
        found[split] |= {packed.class_names[k] for k in row if packed.class_groups[k] == "speech"}
    return found


def clips_of(
    table: Path, paths: Sequence[str], splits: Sequence[str]
) -> dict[str, set[tuple[str, str]]]:
    """(class, split) of the clips of each of ESC-50's source recordings."""
    with open(table, newline="", encoding="utf-8") as stream:
        entries = {entry["filename"]: entry for entry in csv.DictReader(stream)}
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for path, split in zip(paths, splits, strict=True):
        entry = entries[os.path.basename(path)]
        found[entry["src_file"]].add((entry["category"], split))
    return found


def _blocks(stream: Any, size: int) -> Iterator[bytes]:
    while size and (block := stream.read(min(size, BLOCK_BYTES))):
        size -= len(block)
        yield block


def _pairs(splits: Iterable[str]) -> list[tuple[str, str]]:
    there = [split for split in SPLITS if split in splits]
    return [(one, other) for place, one in enumerate(there) for other in there[place + 1 :]]


def _between(pair: Sequence[str]) -> str:
    return "–".join(pair) if len(pair) > 1 else f"within {pair[0]}"


def _tally(counts: Mapping[int, int], form: str) -> str:
    return "; ".join(
        f"{form.format(value)}: {count:,} files" for value, count in sorted(counts.items())
    )


def _bar(items: Iterable[Item], title: str, progress: bool) -> Iterable[Item]:
    return tqdm.tqdm(items, desc=title, delay=PATIENCE, disable=None if progress else True)

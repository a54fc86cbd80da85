"""Checks of a dataset and its pack: what makes results worthless without being an error.

`verify` runs all checks, `report` puts them into words. Each check is a row of a table: its result,
and a line for each thing that is wrong. Sounds are compared sample by sample as they are packed:
copies at another level, cut otherwise or compressed differ.
"""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jaxsep.console import progress as progress_bar
from jaxsep.data.audio import audio_info, file_sha256
from jaxsep.data.checks.mixture_sums import sums
from jaxsep.data.layouts import ESC50_TABLE, SPLITS, MixtureRow, Row, read_layout, read_premixed
from jaxsep.data.packs.corpus import Corpus
from jaxsep.data.packs.format import AUDIO, Pack
from jaxsep.data.packs.premixed import Premixed
from jaxsep.errors import DataError
from jaxsep.files import display

BLOCK_BYTES = 1 << 24
# Seconds before a progress bar appears.
BAR_DELAY = 5.0
MAX_NAMED = 10
# What these splits share makes the results of a test worthless; what others share is only noted.
APART = ("train", "test")


class Check(NamedTuple):
    """One row of the table, and a line for each thing that is wrong."""

    name: str
    result: str
    wrong: tuple[str, ...] = ()


def verify(
    pack: Corpus | Premixed, root: str | os.PathLike, *, progress: bool = True
) -> list[Check]:
    """All checks of a pack and, unless `root` is the pack itself, of its dataset.

    Raises:
        DataError: the dataset cannot be read as what it was packed as.
    """
    root = Path(root)

    def bar(items: Sequence, title: str) -> Iterable:
        hidden = None if progress else True  # None: hidden where standard error is no terminal
        return progress_bar(items, unit="file", desc=title, delay=BAR_DELAY, disable=hidden)

    splits = [SPLITS[index] for index in pack.splits]
    split_of = dict(zip(pack.paths, splits, strict=True))
    if root.resolve() == pack.folder.resolve():
        checks = [
            check_counts(split_of, split_of, ()),
            Check("source files", "not checked: this is the pack itself"),
        ]
    else:
        dataset = {row.paths[0]: row.split for row in _rows(root, pack)}
        checks = [check_counts(dataset, split_of, pack.left_out)]
        checks += check_files(root, pack, bar)
        if (mixtures := _mixtures(root, pack)) is not None:
            checks.append(Check(*sums(root, *mixtures, bar)))
    checks.append(check_lengths(pack.lengths / pack.sample_rate))
    digests, checksum = read_signals(pack, bar)
    checks.append(check_audio(pack, checksum))
    checks.append(check_duplicates(digests, splits, pack.paths))
    if any((speakers := _speakers(pack, splits)).values()):
        checks.append(check_speakers(speakers))
    table = root / ESC50_TABLE
    if pack.layout == "esc50" and table.is_file():
        checks.append(check_sources(_clips_by_source(table, split_of)))
    return checks


def report(checks: Sequence[Check], root: str | os.PathLike) -> tuple[str, str]:
    """(an aligned table of all checks, all that is wrong with a line for each); "" for none."""
    if not checks:
        return "", ""
    width = max(len(check.name) for check in checks) + 2
    rows = [("check", "result")] + [
        (check.name, f"WRONG: {check.result}" if check.wrong else check.result) for check in checks
    ]
    table = "\n".join(f"{name:<{width}}{result}" for name, result in rows)
    wrong = [line for check in checks for line in check.wrong]
    title = f"{display(root)}: is not sound ({len(wrong):,}):"
    return table, "\n  ".join([title, *wrong]) if wrong else ""


def check_counts(
    dataset: Mapping[str, str], pack: Mapping[str, str], left_out: Sequence[tuple[str, str]]
) -> Check:
    """Whether each recording of the dataset is in its pack, in its split, or known to be left out.

    Args:
        dataset, pack: path -> split.
        left_out: (path, reason).
    """
    in_dataset, in_pack = Counter(dataset.values()), Counter(pack.values())
    result = [f"{split} {in_pack[split]:,} of {in_dataset[split]:,}" for split in SPLITS]
    if left_out:
        path, reason = left_out[0]
        result.append(f"{len(left_out):,} left out (as {display(path)}: {reason})")
    accounted = dict.fromkeys([*pack, *(path for path, _ in left_out)])
    wrong = [
        f"{display(path)}: is in the dataset and not in its pack"
        for path in dataset
        if path not in accounted
    ]
    wrong += [
        f"{display(path)}: is in the pack and not in the dataset"
        for path in accounted
        if path not in dataset
    ]
    wrong += [
        f"{display(path)}: is in {dataset[path]}, packed as {split}"
        for path, split in pack.items()
        if dataset.get(path, split) != split
    ]
    return Check("recordings", ", ".join(result), tuple(wrong))


def check_files(root: Path, pack: Corpus | Premixed, bar: Any) -> list[Check]:
    """Whether the files still have the contents that were packed; their rates and channels."""
    files = _files(pack)
    wrong: list[str] = []
    rates: Counter[int] = Counter()
    channels: Counter[int] = Counter()
    contents = pack.contents.reshape(-1, 32)
    for path, content in zip(bar(files, "reading the files"), contents, strict=True):
        try:
            if file_sha256(root / path) != content.tobytes():
                wrong.append(
                    f"{display(root / path)}: has changed since it was packed; "
                    f"remove {display(pack.folder)} and pack again"
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
    """Shortest, median and longest of the lengths [R] (s), and how many are shorter than 1 s."""
    shortest, median, longest = np.quantile(seconds, (0, 0.5, 1))
    return Check(
        "lengths",
        f"shortest {shortest:.2f} s, median {median:.2f} s, longest {longest:.2f} s; "
        f"{int((seconds < 1).sum()):,} shorter than 1 s",
    )


def read_signals(pack: Corpus | Premixed, bar: Any) -> tuple[np.ndarray, str]:
    """Reads the pack's audio once, from start to end.

    Returns:
        (digests: object [recordings, files of each], 16 bytes for each signal, b"" for one of a
        constant value, which is no sound; SHA-256 (hex) of the whole file)
    """
    files = len(pack.roles) if isinstance(pack, Premixed) else 1
    checksum = hashlib.sha256()
    lengths = np.repeat(pack.lengths, files).tolist()
    with open(pack.folder / AUDIO, "rb") as stream:
        digests = [
            _digest(stream, 4 * length, checksum) for length in bar(lengths, "reading the pack")
        ]
    return np.array(digests, object).reshape(-1, files), checksum.hexdigest()


def _digest(stream: IO[bytes], size: int, checksum: Any) -> bytes:
    """The digest of the next `size` bytes, b"" if all samples are equal; updates `checksum`."""
    digest, low, high = hashlib.blake2b(digest_size=16), np.inf, -np.inf
    while size and (block := stream.read(min(size, BLOCK_BYTES))):
        size -= len(block)
        checksum.update(block)
        digest.update(block)
        samples = np.frombuffer(block, "<f4")
        low, high = min(low, samples.min()), max(high, samples.max())
    return digest.digest() if low < high else b""


def check_audio(pack: Pack, checksum: str) -> Check:
    """Whether the SHA-256 of the pack's audio is the one that was noted while it was written."""
    if checksum == pack.audio_sha256:
        return Check("pack's audio", f"as written, SHA-256 {checksum[:12]}")
    wrong = (
        f"{display(pack.folder / AUDIO)}: is damaged "
        f"(SHA-256 {checksum[:12]}, written was {pack.audio_sha256[:12]}); "
        f"remove {display(pack.folder)} and pack again"
    )
    return Check("pack's audio", "damaged", (wrong,))


def check_duplicates(digests: np.ndarray, splits: Sequence[str], paths: Sequence[str]) -> Check:
    """Whether two recordings have the same samples.

    Args:
        digests: object [M,R], of the R signals of each recording; b"" is no sound.
        splits, paths: of the M recordings.
    """
    positions: dict[bytes, list[int]] = defaultdict(list)
    for position, row in enumerate(digests):
        for digest in set(row) - {b""}:
            positions[digest].append(position)
    # (split,) or (split, other split) -> pairs of paths, in their order and each once
    shared: dict[tuple[str, ...], dict[tuple[str, str], None]] = defaultdict(dict)
    for same in positions.values():
        first: dict[str, int] = {}  # the first of each split stands for its sound
        for position in same:
            split = splits[position]
            if split in first:
                shared[(split,)][paths[first[split]], paths[position]] = None
            first.setdefault(split, position)
        for pair in _pairs(first):
            shared[pair][paths[first[pair[0]]], paths[first[pair[1]]]] = None
    result = [f"{_between(pair)} {len(same):,}" for pair, same in sorted(shared.items())]
    wrong = [
        f"{display(one)} and {display(other)}: the same sound in train and test"
        for one, other in shared.get(APART, ())
    ]
    if shared and not wrong:
        one, other = next(iter(next(iter(shared.values()))))
        result.append(f"as {display(one)} = {display(other)}")
    return Check("same sound twice", ", ".join(result) or "none", tuple(wrong))


def check_speakers(speakers: Mapping[str, set[str]]) -> Check:
    """Whether splits share speakers. speakers: split -> its speakers."""
    shared = {pair: sorted(speakers[pair[0]] & speakers[pair[1]]) for pair in _pairs(speakers)}
    counts = ", ".join(f"{split} {len(names):,}" for split, names in speakers.items())
    result = [
        f"{_between(pair)} share {len(names):,} (as {display(names[0])})"
        for pair, names in shared.items()
        if names
    ]
    wrong = [f"speaker {display(name)}: is in train and test" for name in shared.get(APART, ())]
    shares = ", ".join(result) or "no split shares one"
    return Check("speakers", f"{counts}; {shares}", tuple(wrong))


def check_sources(clips: Mapping[str, set[tuple[str, str]]]) -> Check:
    """Whether clips of one source recording of ESC-50 are in two splits.

    Within a class that is wrong. Across classes it is noted: as published, some recordings serve
    two classes, one of them in fold 5 (209698 clock_alarm and clock_tick, 234879 hen and rooster).

    Args:
        clips: source recording -> (class, split) of its clips.
    """
    divided = {
        source: sorted({split for _, split in clips[source]}, key=SPLITS.index)
        for source in sorted(clips)
    }
    divided = {source: splits for source, splits in divided.items() if len(splits) > 1}
    within_a_class = [
        source
        for source in divided
        if len({name for name, _ in clips[source]}) < len(clips[source])
    ]
    wrong = [
        f"source recording {display(source)}: has clips in {' and '.join(divided[source])}"
        for source in within_a_class
    ]
    result = f"{len(clips):,}, {len(divided):,} of them in two splits"
    if noted := [display(source) for source in divided if source not in within_a_class]:
        result += f" ({', '.join(noted[:MAX_NAMED])} by serving two classes)"
    return Check("source recordings", result, tuple(wrong))


def _rows(root: Path, pack: Corpus | Premixed) -> Sequence[Row | MixtureRow]:
    """What lies in the dataset now."""
    if isinstance(pack, Premixed):
        return read_premixed(root, pack.sample_rate, pack.roles)[2]
    return read_layout(root, pack.name, sample_rate=pack.sample_rate)[1]


def _files(pack: Corpus | Premixed) -> list[str]:
    """The files that were packed, in the order of `contents`."""
    if not isinstance(pack, Premixed):
        return list(pack.paths)
    return [
        os.path.join(os.path.dirname(os.path.dirname(path)), role, os.path.basename(path))
        for path in pack.paths
        for role in pack.roles
    ]


def _mixtures(root: Path, pack: Corpus | Premixed) -> tuple[Sequence[str], Sequence[str]] | None:
    """(files of mixtures, roles) of a premixed set, or of the WSJ0-2mix tree that a corpus was read
    from if its mixtures are there; else None."""
    if isinstance(pack, Premixed):
        return pack.paths, pack.roles
    if pack.layout != "wsj0-2mix":
        return None
    try:
        _, roles, rows = read_premixed(root, pack.sample_rate)
    except DataError:  # the sources alone are enough for a corpus
        return None
    return [row.paths[0] for row in rows], roles


def _speakers(pack: Pack, splits: Sequence[str]) -> dict[str, set[str]]:
    """Split -> its speakers; of a premixed set the classes that are speakers, if any."""
    speakers: dict[str, set[str]] = {split: set() for split in SPLITS if split in splits}
    for split, row in zip(splits, pack.classes.reshape(len(splits), -1), strict=True):
        speakers[split] |= {pack.class_names[k] for k in row if pack.class_groups[k] == "speech"}
    return speakers


def _clips_by_source(table: Path, split_of: Mapping[str, str]) -> dict[str, set[tuple[str, str]]]:
    """ESC-50's source recordings -> (class, split) of their clips."""
    with open(table, newline="", encoding="utf-8") as stream:
        lines = {line["filename"]: line for line in csv.DictReader(stream)}
    clips: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for path, split in split_of.items():
        line = lines[os.path.basename(path)]
        clips[line["src_file"]].add((line["category"], split))
    return clips


def _pairs(splits: Iterable[str]) -> list[tuple[str, str]]:
    """All pairs of these splits, in the order of SPLITS."""
    return list(combinations([split for split in SPLITS if split in splits], 2))


def _between(pair: Sequence[str]) -> str:
    return "–".join(pair) if len(pair) > 1 else f"within {pair[0]}"


def _tally(counts: Mapping[int, int], form: str) -> str:
    rows = (f"{form.format(value)}: {count:,} files" for value, count in sorted(counts.items()))
    return "; ".join(rows)

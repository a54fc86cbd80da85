"""Checks of a dataset and its pack: what makes results worthless without being an error.

Each check is a row of a table: its result, and a line for each thing that is wrong. Sounds are
compared sample by sample as they are packed: copies at another level, cut otherwise or compressed
differ.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxsep.console import progress
from jaxsep.data.audio import audio_info, file_sha256
from jaxsep.data.checks.mixture_sums import all_sources, sums
from jaxsep.data.layouts import ESC50_TABLE, SPLITS, Row, read_esc50_table, read_layout
from jaxsep.data.packs.format import AUDIO, Pack
from jaxsep.errors import DataError
from jaxsep.files import display

# A progress bar appears after 5 seconds, and not where standard error is no terminal.
bar = partial(progress, unit="file", delay=5.0, disable=None)
# What these splits share makes the results of a test worthless; what others share is only noted.
APART = (("train", "test"),)
# A split, and a path in it.
Place = tuple[str, str]


class Check(NamedTuple):
    """One row of the table, and a line for each thing that is wrong."""

    name: str
    result: str
    wrong: Sequence[str] = ()


def verify(pack: Pack, root: str | os.PathLike) -> list[Check]:
    """All checks of a pack and, unless `root` is the pack itself, of its dataset.

    Raises:
        DataError: the dataset cannot be read as what it was packed as.
    """
    root = Path(root)
    places = [(SPLITS[split], path) for split, path in zip(pack.splits, pack.paths, strict=True)]
    if root.resolve() == pack.folder.resolve():
        checks = [Check("source files", "not checked: this is the pack itself")]
    else:
        checks = list(_dataset_checks(pack, places, root))
    seconds = pack.lengths / pack.sample_rate
    shortest, median, longest = np.quantile(seconds, (0, 0.5, 1))
    lengths = f"shortest {shortest:.2f} s, median {median:.2f} s, longest {longest:.2f} s"
    checks.append(Check("lengths", f"{lengths}; {(seconds < 1).sum():,} shorter than 1 s"))
    checks += _check_audio(pack, places)
    speakers = [
        (name, (split, f"{name} ({path})"))
        for (split, path), classes in zip(places, pack.classes, strict=True)
        for name, group in ((pack.class_names[k], pack.class_groups[k]) for k in classes.flat)
        if group == "speech"
    ]
    if speakers:
        checks.append(check_apart("speakers", "speaker", _first_of_splits(speakers)))
    table = root / ESC50_TABLE
    if pack.layout == "esc50" and table.is_file():
        clips = {clip["filename"]: clip for clip in read_esc50_table(table)}
        named = [(clips.get(os.path.basename(path)), (split, path)) for split, path in places]
        sources = [(clip, place) for clip, place in named if clip]
        # As published, 209698 serves clock_alarm and clock_tick, 234879 hen and rooster.
        for name, columns, apart in (
            ("source recordings", ("src_file", "category"), tuple(combinations(SPLITS, 2))),
            ("sources of two classes", ("src_file",), ()),
        ):
            keyed = [(tuple(clip[c] for c in columns), place) for clip, place in sources]
            shared = _first_of_splits(keyed)
            checks.append(check_apart(name, "source recording", shared, apart))
    return checks


def report(checks: Sequence[Check], root: str | os.PathLike) -> tuple[str, str]:
    """(an aligned table of all checks, all that is wrong with a line for each or "")."""
    width = max(len(check.name) for check in checks) + 2
    rows = [("check", "result")] + [
        (check.name, f"WRONG: {check.result}" if check.wrong else check.result) for check in checks
    ]
    table = "\n".join(f"{name:<{width}}{result}" for name, result in rows)
    wrong = [line for check in checks for line in check.wrong]
    title = f"{display(root)}: is not sound ({len(wrong):,}):"
    return table, "\n  ".join([title, *wrong]) if wrong else ""


def check_apart(
    name: str,
    what: str,
    things: Iterable[Iterable[Place]],
    apart: Sequence[tuple[str, str]] = APART,
) -> Check:
    """Whether splits share a sound, a speaker or a source recording.

    Args:
        things: the places of each. The first in each split stands for the others.
        apart: pairs of splits that may share none; what others share is noted.
    """
    shared: dict[tuple[str, str], dict[tuple[str, str], None]] = defaultdict(dict)
    for places in things:
        first: dict[str, str] = {}
        for split, path in places:
            if split in first:
                shared[split, split][first[split], path] = None
            first.setdefault(split, path)
        for one, other in combinations(sorted(first, key=SPLITS.index), 2):
            shared[one, other][first[one], first[other]] = None
    results = []
    for (one, other), same in sorted(shared.items()):
        example = " = ".join(map(display, next(iter(same))))
        results.append(f"{one}–{other} {len(same):,} (as {example})")
    wrong = [
        f"{display(first)} and {display(second)}: the same {what} in {one} and {other}"
        for one, other in apart
        for first, second in shared.get((one, other), ())
    ]
    return Check(name, ", ".join(results) or "none in two splits", wrong)


def _first_of_splits(places: Iterable[tuple[Hashable, Place]]) -> list[Iterable[Place]]:
    """For each thing its first place in each split."""
    first: dict[Hashable, dict[str, str]] = defaultdict(dict)
    for thing, (split, path) in places:
        first[thing].setdefault(split, path)
    return [splits.items() for splits in first.values()]


def _check_audio(pack: Pack, places: Sequence[Place]) -> Iterator[Check]:
    """Whether the pack's audio is as it was written, and whether two signals are the same."""
    checksum, roles = hashlib.sha256(), pack.contents.shape[1]
    sounds: dict[bytes, list[Place]] = defaultdict(list)
    recordings = zip(places, pack.offsets, pack.lengths, strict=True)
    for place, start, length in bar(recordings, total=len(places), desc="reading the pack"):
        signals = np.asarray(pack.audio[start : start + roles * length]).reshape(roles, length)
        checksum.update(signals.data)
        # A constant is no sound.
        sounding = [signal for signal in signals if signal.min() < signal.max()]
        for digest in dict.fromkeys(hashlib.blake2b(signal.data).digest() for signal in sounding):
            sounds[digest].append(place)
    now, written = checksum.hexdigest()[:12], pack.audio_sha256[:12]
    wrong = (
        f"{display(pack.folder / AUDIO)}: is damaged (SHA-256 {now}, written was {written}); "
        f"remove {display(pack.folder)} and pack again"
    )
    yield Check("pack's audio", f"SHA-256 {now}", [wrong] if now != written else [])
    yield check_apart("same sound twice", "sound", sounds.values())


def _dataset_checks(pack: Pack, places: Sequence[Place], root: Path) -> Iterator[Check]:
    """Whether each recording of the dataset is in its pack or left out, unchanged; and sums."""
    dataset = read_layout(root, pack.name, sample_rate=pack.sample_rate, roles=pack.roles)
    rows = {row.paths[0]: row for row in dataset.rows}
    packed = dict.fromkeys(pack.left_out, "left out") | {path: split for split, path in places}
    wrong = [
        f"{display(path)}: is in {rows[path].split if path in rows else 'no split'}, "
        f"packed in {packed.get(path, 'no split')}"
        for path in rows | packed
        if packed.get(path) not in ("left out", path in rows and rows[path].split)
    ]
    here, there = Counter(split for split, _ in places), Counter(row.split for row in dataset.rows)
    result = [f"{split} {here[split]:,} of {there[split]:,}" for split in SPLITS]
    for path, reason in list(pack.left_out.items())[:1]:
        result.append(f"{len(pack.left_out):,} left out (as {display(path)}: {reason})")
    yield Check("recordings", ", ".join(result), wrong)
    yield from _check_files(pack, rows, root)
    mixtures, roles = [root / path for path in pack.paths], pack.roles
    if pack.layout == "wsj0-2mix":
        try:
            published = read_layout(root, "premixed", sample_rate=pack.sample_rate)
            mixtures, roles = [root / row.paths[0] for row in published.rows], published.roles
        except DataError:  # the sources alone are enough for a corpus
            pass
    if roles:
        sources = all_sources(mixtures[0].parent.parent, roles)
        title = f"{roles[0]} = {' + '.join(sources)}"
        yield Check(title, *sums(bar(mixtures, desc="adding up"), sources))


def _check_files(pack: Pack, rows: Mapping[str, Row], root: Path) -> Iterator[Check]:
    """Whether the files still have the contents that were packed; their rates and channels."""
    wrong: list[str] = []
    rates: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    recordings = zip(pack.paths, pack.contents, strict=True)
    for path, contents in bar(recordings, total=len(rows), desc="reading the files"):
        if path not in rows:
            continue
        for file, content in zip(rows[path].paths, contents, strict=True):
            try:
                rate, number, _ = audio_info(root / file)
                if file_sha256(root / file) != content.tobytes():
                    raise DataError(f"{display(root / file)}: its content is another")
            except DataError as error:
                wrong.append(
                    f"{error}: has changed since it was packed; "
                    f"remove {display(pack.folder)} and pack again"
                )
                continue
            rates[f"{rate:,} Hz"] += 1
            channels[str(number)] += 1
    same = f"{rates.total():,} of {pack.contents.size // 32:,} as they were packed"
    yield Check("source files", same, wrong)
    for name, counts in (("sample rates", rates), ("channels", channels)):
        shown = [f"{value}: {count:,} files" for value, count in sorted(counts.items())]
        yield Check(name, "; ".join(shown))

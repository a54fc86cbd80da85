"""Open data in the place of licensed corpora: LibriSpeech for speech, ESC-50 for environmental sounds.

A `Source` is one archive and the folder that it becomes. Archives arrive in ROOT/downloads/, where one that is there already
is used; they are unpacked beside it, checked, and renamed to their place, so that a folder in its place is complete.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import soundfile
from tqdm import tqdm

from jaxsep.console import say
from jaxsep.data.fetch import ATTEMPTS, PAUSE_SECONDS, FetchError, fetch, length, part_of, writing
from jaxsep.data.layouts import SPLITS, read_layout
from jaxsep.data.unpack import BadArchive, discard, unpack
from jaxsep.errors import DataError
from jaxsep.files import display, read_json

DOWNLOADS = "downloads"
# Written into a finished folder: where it is from, under which licence.
RECORD = "SOURCE.json"
ROOTS = {"speech": "speech", "environment": "ESC-50"}
# Every clip of ESC-50: 5 s at 44.1 kHz.
CLIP_RATE, CLIP_SAMPLES = 44_100, 220_500


@dataclass(frozen=True)
class Source:
    """One archive and what becomes of it.

    Attributes:
        name: file name of the archive.
        url: where it is.
        archive_bytes: exact where there is an md5, else an estimate.
        md5: hex digest, or None where the archive is made anew by its server and has no fixed bytes.
        inside: folder in the archive that is wanted, all but this is left out.
        place: the folder it becomes, below the root: speech/SPLIT (SPEAKER/*.flac) or ESC-50 (as published).
        recordings: number of sound files in it.
        seconds: of sound, rounded up.
        unpacked_bytes: an estimate, not too low.
        licence: short name.
    """

    name: str
    url: str
    archive_bytes: int
    md5: str | None
    inside: str
    place: str
    recordings: int
    seconds: int
    unpacked_bytes: int
    licence: str

    @property
    def corpus(self) -> str:
        """'speech' or 'environment'."""
        return "speech" if self.place.startswith("speech/") else "environment"


def _libri_speech(
    subset: str, split: str, archive_bytes: int, md5: str, *, recordings: int, hours: float
) -> Source:
    return Source(
        name=f"{subset}.tar.gz",
        url=f"https://www.openslr.org/resources/12/{subset}.tar.gz",
        archive_bytes=archive_bytes,
        md5=md5,
        inside=f"LibriSpeech/{subset}",
        place=f"speech/{split}",
        recordings=recordings,
        seconds=round(hours * 3600),
        # FLAC inside gzip: as large as outside, but for what is lost in the last block of each file.
        unpacked_bytes=round(1.03 * archive_bytes),
        licence="CC BY 4.0",
    )


# Sizes, MD5s, hours and numbers of recordings as OpenSLR and the corpus' authors publish them. The largest comes first, while
# there is most space: at its fullest the disk then holds the least.
SOURCES = (
    _libri_speech(
        "train-clean-100",
        "train",
        6_387_309_499,
        "2a93770f6d5c6c964bc36631d331a522",
        recordings=28_539,
        hours=100.6,
    ),
    _libri_speech(
        "dev-clean",
        "val",
        337_926_286,
        "42e2234ba48799c1f50f24a7926300a1",
        recordings=2_703,
        hours=5.4,
    ),
    _libri_speech(
        "test-clean",
        "test",
        346_663_984,
        "32fa31d27d2e1cad72775fee3f4849a9",
        recordings=2_620,
        hours=5.41,
    ),
    Source(
        name="ESC-50-master.zip",
        url="https://github.com/karolpiczak/ESC-50/archive/master.zip",
        archive_bytes=650_000_000,
        md5=None,
        inside="ESC-50-master",
        place="ESC-50",
        recordings=2_000,
        seconds=10_000,
        unpacked_bytes=900_000_000,
        licence="CC BY-NC 3.0",
    ),
)


def is_done(root: Path, source: Source) -> bool:
    """Whether a source is in its place.

    Raises:
        DataError: something else is there.
    """
    folder = root / source.place
    if not folder.exists() or (folder.is_dir() and not os.listdir(folder)):
        return False
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        record = None
    if record != _record(source):
        raise DataError(
            f"{display(folder)}: is something else than {source.name} unpacked here; move it away, or name another DIR"
        )
    return True


def clear(root: Path, sources: Sequence[Source]) -> None:
    """Removes what an earlier call that was killed has left and no later one can use; call before space is measured."""
    for source in sources:
        discard(_staging(root, source))
        if is_done(root, source):
            discard(archive_of(root, source))
            discard(part_of(archive_of(root, source)))


def byte_steps(root: Path, source: Source) -> tuple[int, int, int]:
    """What `obtain` adds to the disk, in order: the rest of the archive, what is unpacked, the archive removed; bytes."""
    archive = archive_of(root, source)
    here = length(archive) or length(part_of(archive))
    return max(0, source.archive_bytes - here), source.unpacked_bytes, -source.archive_bytes


def obtain(
    root: Path, source: Source, *, attempts: int = ATTEMPTS, pause: float = PAUSE_SECONDS
) -> None:
    """Fetches, unpacks and checks a source and puts it in its place; its archive is removed after that.

    Args:
        root: holds a folder `downloads`.
        source: not done yet.
        attempts, pause: as in `fetch`.

    Raises:
        FetchError: as `fetch`; or the archive is damaged or does not hold what it should, then it is removed.
    """
    archive, staging, target = archive_of(root, source), _staging(root, source), root / source.place
    say(f"{source.name} ({source.licence}): {source.url}")
    fetch(
        source.url,
        archive,
        size=source.archive_bytes,
        md5=source.md5,
        attempts=attempts,
        pause=pause,
    )
    try:
        with writing(staging):
            staging.mkdir()
        unpack(archive, staging, partial(_place, source))
        _check(source, staging)
        with writing(target):
            (staging / RECORD).write_text(
                json.dumps(_record(source), indent=1) + "\n", encoding="utf-8"
            )
            os.sync()  # one flush for all files: a power cut must not leave a folder in its place with empty files
            target.parent.mkdir(exist_ok=True)
            staging.rename(target)
    except BadArchive as error:
        discard(archive)
        raise FetchError(
            f"{error}; the archive is removed, the next run fetches it anew"
        ) from error
    finally:
        discard(staging)
    discard(archive)


def check_speakers(root: Path) -> None:
    """FetchError where a speaker (a folder) is in two of speech/{train,val,test}; splits that are not there are empty."""
    seen: dict[str, str] = {}
    for split in SPLITS:
        folder = root / "speech" / split
        for speaker in sorted(path.name for path in folder.glob("*/")):
            if speaker in seen:
                both = f"speech/{seen[speaker]} and speech/{split}"
                raise FetchError(
                    f"{display(root)}: speaker {speaker} is in {both}; must be in one: remove both and run again"
                )
            seen[speaker] = split


def archive_of(root: Path, source: Source) -> Path:
    """Where the archive lies when it is complete."""
    return root / DOWNLOADS / source.name


def _staging(root: Path, source: Source) -> Path:
    return root / DOWNLOADS / f"{source.name}.unpacked"


def _record(source: Source) -> dict[str, str | None]:
    return {"archive": source.name, "url": source.url, "md5": source.md5, "licence": source.licence}


def _place(source: Source, parts: tuple[str, ...]) -> str | None:
    """Where a file of the archive goes: SPEAKER/CHAPTER/*.flac to SPEAKER/*.flac, ESC-50 as it is."""
    inside = PurePosixPath(source.inside).parts
    rest = parts[len(inside) :]
    if parts[: len(inside)] != inside or not rest:
        return None
    if source.corpus == "environment":
        return "/".join(rest)
    return f"{rest[0]}/{rest[-1]}" if len(rest) == 3 and rest[-1].endswith(".flac") else None


def _check(source: Source, folder: Path) -> None:
    """BadArchive unless a folder holds the recordings that the source should."""
    flac = len(list(folder.glob("*/*.flac")))
    found = flac if source.corpus == "speech" else _check_clips(source.name, folder)
    if found != source.recordings:
        raise BadArchive(
            f"{source.name}: holds {found:,} recordings in {source.inside}; must hold {source.recordings:,}"
        )


def _check_clips(name: str, folder: Path) -> int:
    """The number of clips in ESC-50's table, each of which is there and decodes to 5 s at 44.1 kHz."""
    try:
        _, rows = read_layout(folder, "environment")
    except DataError as error:
        raise BadArchive(f"{name}: {error}") from error
    for row in tqdm(rows, desc=f"checking {name}", unit="clip", leave=False, disable=None):
        try:
            samples, rate = soundfile.read(os.fsencode(folder / row.path), dtype="int16")
        except (soundfile.SoundFileError, OSError) as error:
            reason = (
                "missing"
                if not (folder / row.path).exists()
                else f"cannot be read as sound ({error})"
            )
            raise BadArchive(f"{name}: {row.path} is {reason}") from error
        if (rate, len(samples)) != (CLIP_RATE, CLIP_SAMPLES):
            wanted = f"{CLIP_SAMPLES:,} at {CLIP_RATE:,} Hz"
            raise BadArchive(
                f"{name}: {row.path} has {len(samples):,} samples at {rate:,} Hz; must have {wanted}"
            )
    return len({row.path for row in rows})

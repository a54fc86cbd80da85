"""bash launch/open_data.sh DIR: open data, fetched, laid out as jaxsep reads it, and packed.

    DIR/speech/{train,val,test}/SPEAKER/*.flac   LibriSpeech train-clean-100, dev-clean, test-clean
    DIR/ESC-50/{audio,meta}                      ESC-50 (CC BY-NC 3.0; LibriSpeech is CC BY 4.0)

Stopped at any point, the same command goes on with the archive that it was at. Archives that you
have already may be put into DIR/downloads. Exit status: 0 done; 1 a transfer failed, or the disk
cannot be written or is full; 2 a mistake in the command, too little space, a damaged archive, or
data that cannot be packed; 130 interrupted by Ctrl-C.
"""

import argparse
import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple

import pooch

from jaxsep.console import progress, say
from jaxsep.data.packs.format import describe
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError, JaxsepError, RunError
from jaxsep.files import atomic_folder, default_cache, display

RATE = 8000  # Hz, of the packs
DOWNLOADS = "downloads"
LEFTOVERS = (f"{DOWNLOADS}/tmp*", ".*.tmp-*", "speech/.*.tmp-*")
# Written into a finished folder: where it is from, under which licence.
RECORD = "SOURCE.json"
ROOTS = {"speech": "speech", "environment": "ESC-50"}
# How often a failed transfer is tried again, after pauses of 1, 2, 3, … s.
RETRIES = 6
TIMEOUT_SECONDS = 60
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
GO_ON = "the same command goes on from here"


class Source(NamedTuple):
    """An archive, and the folder that it becomes.

    name: file name of the archive. archive_bytes: an estimate where there is no md5. md5: hex
    digest; None for an archive that its server makes anew each time. wanted: pattern of the names
    in it that are wanted; its groups are the path below DIR/place. recordings: number of sound
    files. seconds: of sound. unpacked_bytes: an estimate, not too low.
    """

    name: str
    url: str
    archive_bytes: int
    md5: str | None
    wanted: str
    place: str
    recordings: int
    seconds: int
    unpacked_bytes: int
    licence: str


def libri_speech(
    subset: str, split: str, archive_bytes: int, md5: str, recordings: int, hours: float
) -> Source:
    """A part of LibriSpeech: SPEAKER/CHAPTER/*.flac becomes SPEAKER/*.flac."""
    return Source(
        name=f"{subset}.tar.gz",
        url=f"https://www.openslr.org/resources/12/{subset}.tar.gz",
        archive_bytes=archive_bytes,
        md5=md5,
        wanted=rf"LibriSpeech/{subset}/([^/]+)/[^/]+/([^/]+\.flac)",
        place=f"speech/{split}",
        recordings=recordings,
        seconds=round(hours * 3600),
        # FLAC does not compress further: what is unpacked needs only whole blocks of the disk more.
        unpacked_bytes=round(1.03 * archive_bytes),
        licence="CC BY 4.0",
    )


# Sizes, MD5s, hours and numbers of recordings as OpenSLR and the authors of the corpora publish
# them. The largest comes first, so that the disk holds least when it is at its fullest.
SOURCES = (
    libri_speech(
        "train-clean-100", "train", 6_387_309_499, "2a93770f6d5c6c964bc36631d331a522", 28_539, 100.6
    ),
    libri_speech("dev-clean", "val", 337_926_286, "42e2234ba48799c1f50f24a7926300a1", 2_703, 5.4),
    libri_speech(
        "test-clean", "test", 346_663_984, "32fa31d27d2e1cad72775fee3f4849a9", 2_620, 5.41
    ),
    Source(
        name="ESC-50-master.zip",
        url="https://github.com/karolpiczak/ESC-50/archive/master.zip",
        archive_bytes=650_000_000,
        md5=None,
        wanted="ESC-50-master/(.+)",
        place="ESC-50",
        recordings=2_000,
        seconds=10_000,
        unpacked_bytes=900_000_000,
        licence="CC BY-NC 3.0",
    ),
)


def main(
    argv: Sequence[str] | None = None,
    *,
    sources: Sequence[Source] = SOURCES,
    retries: int = RETRIES,
) -> int:
    """Run the command; returns the exit status, with one line on stderr where it is not 0."""
    parser = argparse.ArgumentParser(
        prog="bash launch/open_data.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", help="folder for the data; made if missing")
    root = Path(os.path.abspath(parser.parse_args(argv).dir))
    try:
        (root / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        with open(root / DOWNLOADS / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _run(root, default_cache(), sources, retries)
    except JaxsepError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except BlockingIOError:
        print(f"error: DIR: another run is at work in {display(root)}", file=sys.stderr)
        return 2
    except OSError as error:
        reason = f"{display(error.filename or root)}: {error.strerror or error}"
        print(f"error: {reason}; {GO_ON}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"SIGINT: stopped; {GO_ON}", file=sys.stderr)
        return 130
    return 0


def _run(root: Path, cache: Path, sources: Sequence[Source], retries: int) -> None:
    todo = [source for source in sources if not (root / source.place / RECORD).is_file()]
    for source in todo:
        if (root / source.place).exists():
            raise DataError(
                f"{display(root / source.place)}: is something else than {source.name} unpacked by "
                "this command; move it away, or name another DIR"
            )
    # Of a run that was killed: pooch's files, and atomic_folder's folders.
    for leftover in [path for name in LEFTOVERS for path in root.glob(name)]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    if todo:
        _check_space(root, cache, todo)
    else:
        say(f"{display(root)}: complete already")
    for source in todo:
        _obtain(root, source, retries)
    for corpus, place in ROOTS.items():
        print(describe(prepare(root / place, corpus, RATE, cache)), flush=True)
    speech, environment = (shlex.quote(str(root / place)) for place in ROOTS.values())
    print(
        "Train on it with\n    bash launch/run.sh --config configs/class_bias.py:open "
        f"--config.data.speech_root={speech} --config.data.environment_root={environment}"
    )


def space(sources: Sequence[Source]) -> tuple[int, int, int]:
    """Bytes by which DIR grows at most, that stay in it, and that packs of it take (float32)."""
    unpacked = list(accumulate(source.unpacked_bytes for source in sources))
    # Beside all that is unpacked so far lies the archive that it was unpacked from.
    peak = max(kept + source.archive_bytes for kept, source in zip(unpacked, sources, strict=True))
    return peak, unpacked[-1], sum(4 * RATE * source.seconds for source in sources)


def _check_space(root: Path, cache: Path, todo: Sequence[Source]) -> None:
    """Say what space is needed and free on DIR's disk; DataError where it does not fit."""
    cache.mkdir(parents=True, exist_ok=True)
    (need, kept, packs), shown = space(todo), display(root)
    if cache.stat().st_dev == root.stat().st_dev:
        need, shown = max(need, kept + packs), f"{shown} and {display(cache)} (packed)"
    need -= sum(path.stat().st_size for path in (root / DOWNLOADS).iterdir())
    free = shutil.disk_usage(root).free
    line = f"{shown}: {need / 1e9:,.1f} GB needed, {free / 1e9:,.1f} GB free"
    if need > free:
        raise DataError(f"{line}; make room, or name another DIR or JAXSEP_CACHE (for packs)")
    say(line)


def _obtain(root: Path, source: Source, retries: int) -> None:
    """Fetch a source, unpack it, check it and put it in its place; its archive is removed then."""
    say(f"{source.name}: {source.licence}")
    archive = _fetch(root / DOWNLOADS, source, retries)
    try:
        with atomic_folder(root / source.place) as folder:
            unpack(archive, folder, source.wanted, limit=2 * source.unpacked_bytes)
            count = sum(path.suffix in (".flac", ".wav") for path in folder.glob("*/*"))
            if count != source.recordings:
                raise DataError(
                    f"{source.name}: holds {count:,} recordings; must hold {source.recordings:,}"
                )
            (folder / RECORD).write_text(json.dumps(source._asdict(), indent=1) + "\n")
            os.sync()  # one flush for all files is faster than atomic_folder's one for each
    except DataError as error:
        archive.unlink()
        raise DataError(f"{error}; the archive is removed, the next run fetches it anew") from error
    archive.unlink()


def _fetch(folder: Path, source: Source, retries: int) -> Path:
    """The archive in DIR/downloads, fetched unless it is there; RunError where that fails."""

    def download(url: str, output: str, fetcher: pooch.Pooch) -> None:
        title, size = f"fetching {source.name}", source.archive_bytes
        with progress(unit="B", unit_scale=True, desc=title, total=size, leave=False) as bar:
            http = pooch.HTTPDownloader(bar, chunk_size=1 << 16, timeout=TIMEOUT_SECONDS)
            http(url, output, fetcher)

    registry = {source.name: source.md5 and f"md5:{source.md5}"}
    urls = {source.name: source.url}
    fetcher = pooch.Pooch(folder, "", registry, urls, retry_if_failed=retries)
    try:
        return Path(fetcher.fetch(source.name, downloader=download))
    except (ValueError, OSError) as error:  # a wrong checksum; no connection, or no space
        raise RunError(f"{source.url}: {error}; {GO_ON}") from error


def unpack(archive: Path, folder: Path, wanted: str, *, limit: int) -> None:
    """Write files of a .zip or .tar.gz archive below `folder`.

    Args:
      wanted: pattern of the names that are wanted; its groups are the path below `folder`.
      limit: bytes that all files may have together.

    Raises:
      DataError: the archive is damaged or malicious.
      OSError: the disk is full or fails.
    """
    try:
        title = f"unpacking {archive.name}"
        for name, stream in progress(_members(archive), unit="file", desc=title, leave=False):
            if stream is None or name.startswith("/") or ".." in name.split("/"):
                raise DataError(
                    f"{display(archive)}: holds {name!r}; "
                    "must hold regular files alone, with relative names without '..'"
                )
            if not (match := re.fullmatch(wanted, name)):
                continue
            path = folder.joinpath(*match.groups())
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                while block := stream.read(1 << 16):
                    limit -= len(block)
                    if limit < 0:
                        raise DataError(f"{display(archive)}: holds more than it should")
                    file.write(block)
    except Exception as error:
        if isinstance(error, DataError) or getattr(error, "errno", None) in DISK_ERRORS:
            raise
        # Damaged bytes make tarfile and zipfile raise errors of a dozen kinds.
        raise DataError(f"{display(archive)}: is damaged ({error})") from error


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, contents) of each member but folders; contents is None where it is no regular file.

    Not tarfile's own extraction with its data filter: Python 3.11.0 to 3.11.3 do not have it.
    """
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            for entry in file.infolist():
                if not entry.is_dir():
                    yield entry.filename, file.open(entry)
    else:
        # Read as a stream: an archive of gigabytes is decompressed only once.
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if not member.isdir():
                    yield member.name, tar.extractfile(member) if member.isreg() else None


if __name__ == "__main__":
    sys.exit(main())

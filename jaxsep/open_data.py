"""bash launch/open_data.sh DIR: open data, fetched, laid out as jaxsep reads it, and packed.

    DIR/speech/{train,val,test}/SPEAKER/*.flac   LibriSpeech train-clean-100, dev-clean, test-clean
    DIR/ESC-50/{audio,meta}                      ESC-50 (CC BY-NC 3.0; LibriSpeech is CC BY 4.0)

Stopped at any point, the same command goes on. Archives that you have already may be put into
DIR/downloads. Exit status: 0 done; 1 a transfer failed, or the disk cannot be written or is full;
2 a mistake in the command, too little space, a damaged archive, or data that cannot be packed;
130 interrupted by Ctrl-C.
"""

import argparse
import errno
import fcntl
import json
import os
import shlex
import shutil
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pooch
from tqdm.utils import CallbackIOWrapper

from jaxsep.console import progress, say
from jaxsep.data.packs.format import describe
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError, JaxsepError, RunError
from jaxsep.files import atomic_folder, default_cache, display

RATE = 8000  # Hz, of the packs
BYTES_PER_SAMPLE = 4
DOWNLOADS, LOCK = "downloads", "lock"
# Written into a finished folder: where it is from, under which licence.
RECORD = "SOURCE.json"
ROOTS = {"speech": "speech", "environment": "ESC-50"}
# How often a failed transfer is tried again, after pauses of 1, 2, 3, … s.
RETRIES = 6
TIMEOUT_SECONDS = 60
BLOCK = 1 << 16  # bytes
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
BYTES: dict[str, Any] = {"unit": "B", "unit_scale": True, "leave": False}  # of a progress bar
GO_ON = "the same command goes on from here"


@dataclass(frozen=True)
class Source:
    """An archive, and the folder that it becomes.

    Attributes:
      name: file name of the archive.
      archive_bytes: exact where there is an md5, else an estimate.
      md5: hex digest; None for an archive that its server makes anew each time.
      inside: the folder in the archive that is wanted.
      place: the folder below DIR that it becomes: speech/SPLIT, or ESC-50 (as published).
      recordings: number of sound files in it.
      seconds: of sound.
      unpacked_bytes: an estimate, not too low.
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
    subset: str, split: str, archive_bytes: int, md5: str, recordings: int, hours: float
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
        # FLAC does not compress further: what is unpacked needs only whole blocks of the disk more.
        unpacked_bytes=round(1.03 * archive_bytes),
        licence="CC BY 4.0",
    )


# Sizes, MD5s, hours and numbers of recordings as OpenSLR and the authors of the corpora publish
# them. The largest comes first, so that the disk holds least when it is at its fullest.
SOURCES = (
    _libri_speech(
        "train-clean-100", "train", 6_387_309_499, "2a93770f6d5c6c964bc36631d331a522", 28_539, 100.6
    ),
    _libri_speech("dev-clean", "val", 337_926_286, "42e2234ba48799c1f50f24a7926300a1", 2_703, 5.4),
    _libri_speech(
        "test-clean", "test", 346_663_984, "32fa31d27d2e1cad72775fee3f4849a9", 2_620, 5.41
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
    folder = parser.parse_args(argv).dir
    if not folder:
        parser.error("DIR is empty; must be a folder")
    root = Path(os.path.abspath(folder))
    try:
        (root / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        with open(root / DOWNLOADS / LOCK, "w") as lock:
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
    _clear(root, sources)
    todo = [source for source in sources if not is_done(root, source)]
    new = {source.corpus for source in todo}
    new |= {corpus for corpus in ROOTS if not any(cache.glob(f"{corpus}-{RATE}-*"))}
    if new:
        _check_space(root, cache, todo, [source for source in sources if source.corpus in new])
    else:
        say(f"{display(root)}: complete and packed already")
    for source in todo:
        _obtain(root, source, retries)
    for corpus, place in ROOTS.items():
        print(describe(prepare(root / place, corpus, RATE, cache)), flush=True)
    speech, environment = (shlex.quote(str(root / place)) for place in ROOTS.values())
    print(
        "Train on it with\n    bash launch/run.sh --config configs/class_bias.py:open "
        f"--config.data.speech_root={speech} --config.data.environment_root={environment}"
    )


def is_done(root: Path, source: Source) -> bool:
    """Whether a source is in its place; DataError where something else is."""
    folder = root / source.place
    if (folder / RECORD).is_file():
        return True
    if folder.exists() and any(folder.iterdir()):
        raise DataError(
            f"{display(folder)}: is something else than {source.name} unpacked by this command; "
            "move it away, or name another DIR"
        )
    return False


def _part(root: Path, source: Source) -> Path:
    """What has arrived of an archive that is not complete yet."""
    return root / DOWNLOADS / f"{source.name}.part"


def _clear(root: Path, sources: Sequence[Source]) -> None:
    """Remove what a run that was killed left and no other can use."""
    for path in (root / DOWNLOADS).glob("tmp*"):  # pooch's
        path.unlink()
    for source in sources:
        target = root / source.place
        for folder in target.parent.glob(f".{target.name}.tmp-*"):  # of atomic_folder
            shutil.rmtree(folder)
        if is_done(root, source):
            (root / DOWNLOADS / source.name).unlink(missing_ok=True)
            _part(root, source).unlink(missing_ok=True)


def peak_bytes(root: Path, sources: Sequence[Source], packs: int) -> int:
    """The most by which the disk fills while sources are fetched and unpacked, and then packed."""
    now = peak = 0
    for source in sources:
        places = (root / DOWNLOADS / source.name, _part(root, source))
        arrived = max((path.stat().st_size for path in places if path.exists()), default=0)
        now += max(0, source.archive_bytes - arrived) + source.unpacked_bytes
        peak = max(peak, now)
        now -= source.archive_bytes
    return max(peak, now + packs)


def _check_space(
    root: Path, cache: Path, todo: Sequence[Source], to_pack: Sequence[Source]
) -> None:
    """Say what space is needed and free; DataError where it does not fit."""
    packs = sum(source.seconds for source in to_pack) * RATE * BYTES_PER_SAMPLE
    # The cache itself, or the nearest folder above it that exists.
    disk = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    if disk.stat().st_dev == root.stat().st_dev:
        shown = f"{display(root)} and {display(cache)} (packed)"
        needs = [(shown, root, peak_bytes(root, todo, packs))]
    else:
        needs = [
            (display(root), root, peak_bytes(root, todo, 0)),
            (f"{display(cache)} (packed)", disk, packs),
        ]
    for shown, place, need in needs:
        free = shutil.disk_usage(place).free
        line = f"{shown}: {need / 1e9:,.1f} GB needed, {free / 1e9:,.1f} GB free"
        if need > free:
            raise DataError(f"{line}; make room, or name another DIR or JAXSEP_CACHE (for packs)")
        say(line)


def _obtain(root: Path, source: Source, retries: int) -> None:
    """Fetch a source, unpack it, check it and put it in its place; its archive is removed then."""
    say(f"{source.name}: {source.licence}")
    archive, target = root / DOWNLOADS / source.name, root / source.place
    _fetch(root, source, retries)
    try:
        with atomic_folder(target) as folder:
            unpack(archive, folder, partial(_place, source), limit=2 * source.unpacked_bytes)
            count = sum(path.suffix in (".flac", ".wav") for path in folder.glob("*/*"))
            if count != source.recordings:
                raise DataError(
                    f"{source.name}: holds {count:,} recordings in {source.inside}; "
                    f"must hold {source.recordings:,}"
                )
            record = {key: getattr(source, key) for key in ("name", "url", "md5", "licence")}
            (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
            os.sync()  # one flush for all files is faster than atomic_folder's one for each
    except DataError as error:
        archive.unlink()
        raise DataError(f"{error}; the archive is removed, the next run fetches it anew") from error
    archive.unlink()


def _fetch(root: Path, source: Source, retries: int) -> None:
    """Bring the archive to DIR/downloads, unless it is there already; RunError where it fails."""
    part, size, title = _part(root, source), source.archive_bytes, f"fetching {source.name}"

    def download(url: str, output: str, _: pooch.Pooch) -> None:
        # Not into `output`, which pooch removes where a transfer is cut, but into a file that the
        # next attempt, or the next run, continues.
        with open(part, "ab") as file:
            headers = {"Accept-Encoding": "identity"}
            if source.md5 and file.tell():
                headers["Range"] = f"bytes={file.tell()}-"

            def begin(response: Any, **_: Any) -> None:
                if response.status_code in (200, 416):  # all of it; `part` is of another file
                    file.truncate(0)
                    bar.reset()

            with progress(total=size, initial=file.tell(), desc=title, **BYTES) as bar:
                options = {"headers": headers, "hooks": {"response": begin}}
                # Not pooch's own bar, which shows nothing where the server does not tell the size.
                counted = CallbackIOWrapper(bar.update, file, "write")
                pooch.HTTPDownloader(False, BLOCK, timeout=TIMEOUT_SECONDS, **options)(
                    url, counted, None
                )
        os.replace(part, output)

    fetcher = pooch.Pooch(
        root / DOWNLOADS,
        "",
        {source.name: source.md5 and f"md5:{source.md5}"},
        {source.name: source.url},
        retry_if_failed=retries,
    )
    try:
        fetcher.fetch(source.name, downloader=download)
    except (ValueError, OSError) as error:  # a wrong checksum; no connection, or no space
        raise RunError(f"{source.url}: {error}; {GO_ON}") from error


def unpack(
    archive: Path, folder: Path, place: Callable[[tuple[str, ...]], str | None], *, limit: int
) -> None:
    """Write files of a .zip or .tar.gz archive below `folder`.

    Args:
      place: from the parts of a name in the archive to the path below `folder`, or None for a file
        that is left out.
      limit: bytes that all files may have together.

    Raises:
      DataError: the archive is damaged or malicious.
      OSError: the disk is full or fails.
    """
    written = 0
    try:
        for name, stream in _members(archive):
            parts = PurePosixPath(name).parts
            if stream is None or not parts or name.startswith("/") or ".." in parts:
                raise DataError(
                    f"{display(archive)}: holds {name!r}; "
                    "must hold regular files alone, with relative names without '..'"
                )
            relative = place(parts)
            if relative is None:
                continue
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / relative, "wb") as file:
                while block := stream.read(BLOCK):
                    written += len(block)
                    if written > limit:
                        raise DataError(
                            f"{display(archive)}: holds more than {limit:,} bytes of what is wanted"
                        )
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
    size = archive.stat().st_size
    with progress(total=size, desc=f"unpacking {archive.name}", delay=1.0, **BYTES) as bar:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                for entry in file.infolist():
                    if stat.S_ISLNK(entry.external_attr >> 16):
                        yield entry.filename, None
                    elif not entry.is_dir():
                        with file.open(entry) as stream:
                            yield entry.filename, stream
                    bar.update(entry.compress_size)
            return
        # Read as a stream: an archive of gigabytes is decompressed only once.
        with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r|gz") as tar:
            for member in tar:
                if not member.isdir():
                    yield member.name, tar.extractfile(member) if member.isreg() else None
                bar.update(raw.tell() - bar.n)


def _place(source: Source, parts: tuple[str, ...]) -> str | None:
    """Where a file goes: SPEAKER/CHAPTER/*.flac to SPEAKER/*.flac, ESC-50 as it is."""
    inside = PurePosixPath(source.inside).parts
    rest = parts[len(inside) :]
    if parts[: len(inside)] != inside or not rest:
        return None
    if source.corpus == "environment":
        return "/".join(rest)
    return f"{rest[0]}/{rest[-1]}" if len(rest) == 3 and rest[-1].endswith(".flac") else None


if __name__ == "__main__":
    sys.exit(main())

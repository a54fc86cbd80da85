"""bash launch/open_data.sh DIR: LibriSpeech and ESC-50 fetched into DIR, laid out as jaxsep reads them, and packed.

    DIR/speech/{train,val,test}/SPEAKER/*.flac   LibriSpeech train-clean-100, dev-clean, test-clean (CC BY 4.0)
    DIR/ESC-50/{audio,meta}                      ESC-50 (CC BY-NC 3.0)

Stopped at any point, the same command goes on; run again after it is done, it does nothing. Archives that are at hand
already may be put into DIR/downloads. Exit status: 0 done; 1 a transfer or an archive failed, or the disk became full; 2 a
mistake in the command, too little space, or data that cannot be packed; 130 interrupted by Ctrl-C.
"""

import argparse
import fcntl
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from jaxsep.console import say
from jaxsep.data.fetch import PAUSE_SECONDS, FetchError
from jaxsep.data.open_sets import (
    DOWNLOADS,
    ROOTS,
    SOURCES,
    Source,
    byte_steps,
    check_speakers,
    clear,
    is_done,
    obtain,
)
from jaxsep.data.packs.corpus import prepare
from jaxsep.data.packs.format import HEADER, describe
from jaxsep.errors import DataError
from jaxsep.files import atomic_file, default_cache, display, read_json

RATE = 8000
BYTES_PER_SAMPLE = 4
# In DIR/downloads: the lock of a run at work, and the names of the packs of a finished one.
LOCK, PACKS = "lock", "packs.json"


def main(
    argv: Sequence[str] | None = None,
    *,
    sources: Sequence[Source] = SOURCES,
    pause: float = PAUSE_SECONDS,
) -> int:
    """Runs the command; returns the exit status, with one line on standard error where it is not 0.

    Args:
        argv: arguments, those of the process by default.
        sources: what to fetch.
        pause: seconds before a failed transfer is first tried again.
    """
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
        with _claimed(root):
            _run(root, default_cache(), sources, pause)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"error: {display(error.filename or root)}: {error.strerror or error}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("SIGINT: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def peak_bytes(steps: Sequence[int]) -> int:
    """The most that a disk holds more than now while `steps` (bytes, negative where something is removed) are taken.

    >>> peak_bytes([10, 11, -10, 5])
    21
    """
    return max(accumulate(steps, initial=0))


def _run(root: Path, cache: Path, sources: Sequence[Source], pause: float) -> None:
    clear(root, sources)
    todo = [source for source in sources if not is_done(root, source)]
    changed = {source.corpus for source in todo}
    corpora = [
        corpus for corpus in ROOTS if corpus in changed or not _is_packed(root, cache, corpus)
    ]
    if corpora:
        _check_space(root, cache, todo, [source for source in sources if source.corpus in corpora])
    for source in todo:
        obtain(root, source, pause=pause)
    check_speakers(root)
    for corpus in corpora:
        packed = prepare(root / ROOTS[corpus], corpus, RATE, cache)
        _note_pack(root, corpus, Path(str(packed.audio.filename)).parent.name)
        print(describe(packed), flush=True)
    if not corpora:
        say(f"{display(root)}: complete and packed already; nothing to do")
    speech, environment = (
        shlex.quote(str(root / ROOTS[corpus])) for corpus in ("speech", "environment")
    )
    print(
        "Train on it with\n    bash launch/run.sh --config configs/class_bias.py:open "
        f"--config.data.speech_root={speech} --config.data.environment_root={environment}"
    )


@contextmanager
def _claimed(root: Path) -> Iterator[None]:
    """Makes DIR/downloads and keeps other runs out; DataError where either cannot be."""
    try:
        (root / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        lock = open(root / DOWNLOADS / LOCK, "w")  # noqa: SIM115  closed below
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"DIR: {display(root)} is no folder that can be made and written ({reason})"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"DIR: another run is at work in {display(root)}; one at a time"
            ) from error
        yield


def _check_space(
    root: Path, cache: Path, todo: Sequence[Source], to_pack: Sequence[Source]
) -> None:
    """Says what space is needed and free; DataError where it does not fit."""
    missing = sum(byte_steps(root, source)[0] for source in todo)
    steps = [step for source in todo for step in byte_steps(root, source)]
    packs = sum(source.seconds for source in to_pack) * RATE * BYTES_PER_SAMPLE
    if _existing(root).stat().st_dev == _existing(cache).stat().st_dev:
        needs = [
            (f"{display(root)} and {display(cache)} (packed)", root, peak_bytes([*steps, packs]))
        ]
    else:
        needs = [
            (display(root), root, peak_bytes(steps)),
            (f"{display(cache)} (packed)", cache, packs),
        ]
    say(f"to fetch: {_gigabytes(missing)}")
    for shown, place, need in needs:
        free = shutil.disk_usage(_existing(place)).free
        line = f"{shown}: {_gigabytes(need)} needed, {_gigabytes(free, math.floor)} free"
        if need > free:
            raise DataError(
                f"{line}; make room, name another DIR, or another JAXSEP_CACHE for what is packed"
            )
        say(line)


def _gigabytes(count: int, rounded: Callable[[float], int] = math.ceil) -> str:
    """Rounded so that what does not fit never looks as if it did."""
    return f"{rounded(count / 1e8) / 10:,.1f} GB"


def _existing(path: Path) -> Path:
    """The folder itself or the nearest above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _packs(root: Path) -> dict[str, str]:
    try:
        names = read_json(root / DOWNLOADS / PACKS)
    except (OSError, ValueError):
        return {}
    return (
        {corpus: name for corpus, name in names.items() if isinstance(name, str)}
        if isinstance(names, dict)
        else {}
    )


def _is_packed(root: Path, cache: Path, corpus: str) -> bool:
    name = _packs(root).get(corpus)
    return name is not None and (cache / name / HEADER).is_file()


def _note_pack(root: Path, corpus: str, name: str) -> None:
    with atomic_file(root / DOWNLOADS / PACKS, "w") as file:
        json.dump(_packs(root) | {corpus: name}, file)


if __name__ == "__main__":
    sys.exit(main())

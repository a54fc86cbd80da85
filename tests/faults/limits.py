"""Real limits for the fault tests: of a disk, of the size of files, of memory."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runs import ROOT


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of so much at `folder`. Skips the test where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "jaxsep", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here ({mounted.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave nothing of a disk, in disk/filler."""
    with open(disk / "filler", "wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 12))
    assert os.statvfs(disk).f_bavail == 0


_LIMITED = """
import os, resource, sys
limit, size, *words = sys.argv[1:]
resource.setrlimit(int(limit), (int(size), int(size)))
os.execv(words[0], words)
"""


def limited(
    words: list[str], *, largest_file: int | None = None, most_memory: int | None = None
) -> list[str]:
    """A command under limits.

    largest_file: bytes; writing more fails as it does on a full disk. most_memory: bytes that the
    process may map.
    """
    for limit, size in ((resource.RLIMIT_FSIZE, largest_file), (resource.RLIMIT_AS, most_memory)):
        if size is not None:  # not by preexec_fn, which would fork a process that has threads
            words = [sys.executable, "-c", _LIMITED, str(limit), str(size), *words]
    return words


def command(
    module: str,
    *arguments: object,
    largest_file: int | None = None,
    timeout: float = 300,
    **options,
) -> subprocess.CompletedProcess:
    """python -m MODULE ARGUMENTS in a process of its own. largest_file: see `limited`."""
    words = limited([sys.executable, "-m", module, *map(str, arguments)], largest_file=largest_file)
    options["env"] = os.environ | options.get("env", {})
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **options
    )

"""Real limits for the fault tests: a disk that is full, files that may not grow, memory that may not."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runs import ROOT


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own at `folder` that holds so much; needs the right to mount, else the test is skipped."""
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


def largest_file(size: int) -> Callable[[], None]:
    """preexec_fn of a process in which no file can grow beyond so many bytes: writing fails as it does on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def most_memory(size: int) -> Callable[[], None]:
    """preexec_fn of a process that may map no more than so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def command(module: str, *arguments: object, timeout: float = 300, **options) -> subprocess.CompletedProcess:
    """python -m MODULE ARGUMENTS in a process of its own, its output as text."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    options["env"] = os.environ | options.get("env", {})
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **options)

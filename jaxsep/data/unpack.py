"""Archives (.tar.gz, .zip) unpacked into a folder that nothing leaves."""

import contextlib
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from jaxsep.data.fetch import FetchError, byte_bar, length, writing
from jaxsep.files import display

# Every way in which tarfile and zipfile say that the bytes are no archive, cut, or damaged.
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    OverflowError,
    OSError,
)

# A file in an archive: name, bytes, how many bytes of the archive are read by now.
Member = tuple[str, IO[bytes], int]


class BadArchive(FetchError):
    """An archive is not what it should be: fetching it anew may help, trying again with it cannot."""


def unpack(archive: Path, folder: Path, place: Callable[[tuple[str, ...]], str | None]) -> None:
    """Writes the files of an archive below `folder`, with a bar that shows the time left.

    Args:
        archive: a zip file, or a tar compressed with gzip.
        folder: exists and is empty.
        place: from the parts of a name in the archive to the path below `folder`, or None for a file to be left out.

    Raises:
        BadArchive: damaged or cut, a name that is absolute or holds '..', a link or a device.
        FetchError: the disk takes no more, or two files have one name.
    """
    with byte_bar(f"unpacking {archive.name}", length(archive)) as bar:
        try:
            for name, stream, position in _members(archive):
                relative = place(_parts(archive, name))
                if relative is not None:
                    target = folder / relative
                    with writing(target):
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with open(target, "xb") as file:
                            shutil.copyfileobj(stream, file, 1 << 20)
                bar.update(position - bar.n)
        except DAMAGED as error:
            raise BadArchive(f"{display(archive)}: is no sound archive ({error})") from error


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise BadArchive(
            f"{display(archive)}: holds {name!r}; names must be relative and without '..' or NUL"
        )
    return path.parts


def _members(archive: Path) -> Iterator[Member]:
    return _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[Member]:
    # As a stream: an archive of gigabytes is decompressed once, and its index is not needed.
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r|gz") as tar:
        for member in tar:
            if member.isdir():  # folders are made as files need them
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise BadArchive(
                    f"{display(archive)}: holds {member.name!r}, a link or device; must hold files alone"
                )
            yield member.name, stream, raw.tell()


def _zip_members(archive: Path) -> Iterator[Member]:
    position = 0
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            position += member.compress_size
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise BadArchive(
                    f"{display(archive)}: holds {member.filename!r}, a link; must hold files alone"
                )
            with file.open(member) as stream:
                yield member.filename, stream, position


def discard(path: Path) -> None:
    """Removes a file or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

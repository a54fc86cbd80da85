"""Files and folders that are written whole or not at all, and read without trust in what they hold.

Writing goes to a temporary name beside the target, is flushed to disk, and is then renamed. Reading
runs nothing that a file holds.
"""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

# A temporary folder that nobody has written to for so long belongs to a process that was killed.
STALE_SECONDS = 3600.0
# What is decompressed may have this many times the size of its file, plus some bytes.
MAX_INFLATION, FREE_BYTES = 100, 1 << 24
# The name of a class becomes part of the names of files, and those end at 255 bytes.
MAX_NAME_BYTES = 200


@contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that replaces `path` when the block ends without an error; makes parent folders.

    Args:
      mode: "wb", or "w" for UTF-8 text.

    Raises:
      OSError: the file cannot be written. `path` is as it was.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(final)
    try:
        encoding = None if "b" in mode else "utf-8"
        with open(temporary, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False, complete: str = "") -> Iterator[Path]:
    """Give a temporary folder that becomes `target` when the block ends without an error.

    Args:
      replace: an existing `target` is removed once the new one is complete.
      complete: without `replace`, a file that a finished folder holds. Where another process has
        made `target` in the meantime and this file is in it, its work is kept.

    Raises:
      OSError: the folder cannot be written. `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    temporary = _temporary_name(target)
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        if replace and target.exists():
            retired = _temporary_name(target)
            os.rename(target, retired)
            os.rename(temporary, target)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            try:
                os.rename(temporary, target)
            except OSError:
                if not complete or not (target / complete).is_file():
                    raise
        _flush(target.parent)  # so that the rename survives a loss of power
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_files(folder: Path, name: str, contents: Mapping[str, bytes]) -> None:
    """Write several files below `folder`, in place of older ones; its other files stay.

    All of them are on disk before the first is renamed, in the order of `contents`.

    Args:
      name: of the temporary folder, .NAME.tmp-…, in `folder`.
      contents: path below `folder` -> content.

    Raises:
      OSError: the files cannot be written. The older ones are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder / name)
    temporary = _temporary_name(folder / name)
    try:
        for path, content in contents.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_bytes(content)
            _flush(temporary / path)
        for path in contents:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / path, folder / path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(handle)


def _temporary_name(final: Path) -> Path:
    # Not from tempfile, whose files only their owner may read: a lab shares its packs.
    return final.parent / f".{final.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"


def _remove_stale(target: Path) -> None:
    for folder in target.parent.glob(f".{target.name}.tmp-*"):
        try:
            newest = max(path.stat().st_mtime for path in (folder, *folder.glob("*")))
        except FileNotFoundError:
            continue  # its owner has just renamed it
        if time.time() - newest > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def default_cache() -> Path:
    """The folder for packs and compiled programs: $JAXSEP_CACHE, or else ~/.cache/jaxsep."""
    return Path(os.environ.get("JAXSEP_CACHE") or Path.home() / ".cache" / "jaxsep")


def display(path: str | os.PathLike) -> str:
    """A path as printable text of one line: bytes that are not UTF-8, and control characters, are
    shown as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def check_names(names: Iterable[str]) -> None:
    """ValueError unless each name can be that of a class, which becomes part of file names."""
    for name in names:
        length = len(os.fsencode(name))
        if name in (".", "..") or {*"/\\\0"} & {*name} or not 0 < length <= MAX_NAME_BYTES:
            raise ValueError(
                f"{name!r:.80} cannot be the name of a class: "
                f"it must be 1 to {MAX_NAME_BYTES} bytes without '/', '\\\\' or NUL"
            )


def read_text(path: Path) -> str:
    """A file's text. Raises OSError, or ValueError where it is no regular file or not UTF-8."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
        raise ValueError("it is no regular file")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, or ValueError where it is no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; nothing in it is unpickled.

    Raises:
      OSError, ValueError, zipfile.BadZipFile and others: whatever NumPy raises for a damaged file.
    """
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        return dict(file)

"""Reading what others may have written: JSON, arrays and names, so that damaged or hostile files end in a ValueError, in little
time and memory, and run nothing."""

import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.data.audio import MAX_SAMPLE_RATE

# Arrays of an .npz file may have so many times its size, and a little more: recipes are compressed, to a half or a tenth.
MAX_INFLATION, FREE_BYTES = 100, 1 << 24
MAX_NAME_BYTES = 200  # a class is part of the names of files, and those end at 255 bytes


def read_text(path: Path) -> str:
    """A file's text. Raises OSError, or ValueError where it is no regular file or no UTF-8."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
        raise ValueError("it is no regular file")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, or ValueError where it is no regular file or no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def entry(values: Mapping[str, Any], name: str, kind: type) -> Any:
    """values[name]; ValueError unless it is there and of this very type, a list all text, sample_rate a rate (Hz)."""
    value: Any = values.get(name)
    fits = type(value) is kind
    if kind is list:
        fits = fits and all(type(item) is str for item in value)
    if name == "sample_rate":
        fits = fits and 1 <= value <= MAX_SAMPLE_RATE
    if not fits:
        raise ValueError(f"{name} is {value!r:.80}")
    return value


def pairs(values: Mapping[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    """values[name], a list of lists of two texts; ValueError otherwise."""
    value = values.get(name)
    if type(value) is not list or any(type(pair) is not list or [*map(type, pair)] != [str, str] for pair in value):
        raise ValueError(f"{name} is {value!r:.80}")
    return tuple((first, second) for first, second in value)


def check_names(names: Iterable[str]) -> None:
    """ValueError unless each can be a class's name, which becomes part of the names of files: no way out of a folder."""
    for name in names:
        if not _is_file_name(name):
            raise ValueError(
                f"{name!r:.80} cannot be the name of a class: it must be 1 to {MAX_NAME_BYTES} bytes without '/', '\\\\' or NUL"
            )


def _is_file_name(name: str) -> bool:
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return False
    return 0 < length <= MAX_NAME_BYTES and name not in (".", "..") and not any(sign in name for sign in "/\\\0")


def typed(arrays: Mapping[str, np.ndarray], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The named arrays as NumPy types; ValueError where one is missing, or of a type whose values these would not all hold."""
    for name, kind in kinds.items():
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        if not np.can_cast(arrays[name].dtype, kind, "safe"):
            raise ValueError(f"{name} is {arrays[name].dtype}, not {np.dtype(kind)}")
    return {name: arrays[name].astype(kind) for name, kind in kinds.items()}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, in memory that its size bounds; nothing in it is unpickled.

    Raises: ValueError where an array is no plain one of numbers or text, or of another size than its header says; and
    whatever zipfile and NumPy raise for a damaged file.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with zipfile.ZipFile(path) as file:
        members = {member.filename: member for member in file.infolist()}
        if sum(member.file_size for member in members.values()) > FREE_BYTES + MAX_INFLATION * path.stat().st_size:
            raise ValueError("its arrays are out of proportion to its size")
        return {name.removesuffix(".npy"): _read_array(file, member) for name, member in members.items()}


def _read_array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    # Not np.load, which makes an array as large as its header says before it looks what is there.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in a way that NumPy does not use")
    with file.open(member) as stream:
        content = stream.read(member.file_size)
    rest = io.BytesIO(content)
    versions = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, kind = versions[np.lib.format.read_magic(rest)](rest)
    if kind.kind not in "biufU" or fortran or len(shape) > 3 or min(shape, default=0) < 0:
        raise ValueError(f"{member.filename} is an array of {kind} and shape {shape}, which no pack or recipe holds")
    if math.prod(shape) * kind.itemsize != len(content) - rest.tell() or not kind.itemsize:
        raise ValueError(f"{member.filename} has not the bytes of {shape} of {kind}")
    return np.frombuffer(content, kind, offset=rest.tell()).reshape(shape)

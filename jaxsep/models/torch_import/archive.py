"""State dicts out of PyTorch files (the zip format of torch.save since 1.6), without torch and without running code
from them.

Such a file is a zip archive with a pickle, `NAME/data.pkl`, and the bytes of each storage, `NAME/data/KEY`. Python's
unpickler runs what a pickle asks for; here its instructions are interpreted one by one, and only those exist that
build containers, tensors and inert shells of known layers. Sizes are checked against what is really in the file
before anything is allocated.
"""

import os
import re
import zipfile
from typing import Any, NamedTuple

import numpy as np

from jaxsep.models.torch_import.unpickle import Shell, Storage, Tensor, UnsafePickleError, load

__all__ = ["UnsafePickleError", "read_state_dict"]

MAX_PICKLE_BYTES = (
    4 * 2**20
)  # the pickle holds names and shapes only: some 10 kB to 1 MB for the authors' networks
MAX_DEPTH = 16  # modules within modules; the authors' networks have 5
MAX_NAME = 200  # characters; the authors' longest have about 40


class _Archive(NamedTuple):
    file: zipfile.ZipFile
    root: str
    size: int
    path: str

    def read(self, name: str) -> bytes:
        try:
            info = self.file.getinfo(self.root + name)
        except KeyError:
            raise ValueError(f"{self.path}: {self.root + name} is missing") from None
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > self.size:
            raise ValueError(
                f"{self.path}: {info.filename} is compressed or larger than the file: not written by torch"
            )
        return self.file.read(info)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name → float32 array, from a pickled network, {"state_dict": …} or a state dict.

    float64, float16, bfloat16 and integer storages are converted. Raises UnsafePickleError (a ValueError) where the
    file asks for a class or function outside the known ones, ValueError where it is not such a file or is damaged.
    """
    try:
        archive = zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # of several disks
        raise ValueError(f"{path}: damaged zip archive ({error!r})") from error
    if not archive:
        with open(path, "rb"):
            pass  # a file that cannot be opened says so itself
        raise ValueError(
            f"{path}: not a zip archive, so no file of torch.save since PyTorch 1.6; "
            "an older file must be loaded with torch and saved again"
        )
    try:
        with zipfile.ZipFile(path) as file:
            return _read(file, str(path))
    except UnsafePickleError:
        raise
    except Exception as error:  # damaged bytes make zipfile raise errors of a dozen kinds
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: damaged zip archive ({error!r})") from error


def _read(file: zipfile.ZipFile, path: str) -> dict[str, np.ndarray]:
    pickles = [name for name in file.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{path}: holds {len(pickles)} files data.pkl, not 1 as torch.save writes")
    size = os.path.getsize(path)
    archive = _Archive(file, pickles[0].removesuffix("data.pkl"), size, path)
    big_endian = False
    if archive.root + "byteorder" in file.namelist():
        big_endian = archive.read("byteorder").strip() == b"big"
    pickle = archive.read("data.pkl")
    if len(pickle) > MAX_PICKLE_BYTES:
        raise ValueError(f"{path}: data.pkl has {len(pickle)} bytes, more than {MAX_PICKLE_BYTES}")
    tensors = _named_tensors(load(pickle, path), path)
    # Several tensors may share a storage, so their sum is bounded too.
    if sum(tensor.size for tensor in tensors.values()) > size:
        raise ValueError(f"{path}: its tensors have more values than the file has bytes")
    needed = {tensor.storage for tensor in tensors.values()}
    if sum(storage.size * np.dtype(storage.dtype).itemsize for storage in needed) > size:
        raise ValueError(f"{path}: its storages have more bytes than the file")
    storages = {storage: _storage(archive, storage, big_endian) for storage in needed}
    return {
        name: _array(tensor, storages[tensor.storage], name, path)
        for name, tensor in tensors.items()
    }


def _named_tensors(found: Any, path: str) -> dict[str, Tensor]:
    if isinstance(found, Shell):
        tensors: dict[str, Tensor] = {}
        _walk(found, "", tensors, set(), path)
        return tensors
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise ValueError(
            f"{path}: holds a {type(found).__name__}, neither a network nor a state dict"
        )
    others = [
        repr(name)
        for name, value in found.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ValueError(
            f"{path}: no state dict; these entries are no tensors: {', '.join(others)}"
        )
    return found


def _walk(shell: Shell, prefix: str, tensors: dict[str, Tensor], seen: set[int], path: str) -> None:
    """Collects the parameters of a module and of those inside it. A module met twice would make the walk as long as
    the file likes."""
    if id(shell) in seen or prefix.count(".") > MAX_DEPTH or len(prefix) > MAX_NAME:
        raise ValueError(
            f"{path}: module {prefix[:MAX_NAME] or 'top'!r} holds itself, is met twice or lies too deep"
        )
    seen.add(id(shell))
    for group in ("_parameters", "_buffers", "_modules"):
        members = shell.state.get(group, {})
        if not isinstance(members, dict):
            raise ValueError(f"{path}: {group} of {prefix or 'the network'} is no dictionary")
        for name, value in members.items():
            if isinstance(value, Shell):
                _walk(value, f"{prefix}{name}.", tensors, seen, path)
            elif isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif value is not None:
                raise ValueError(f"{path}: {prefix}{name} is neither tensor nor module")


def _storage(archive: _Archive, storage: Storage, big_endian: bool) -> np.ndarray:
    if not re.fullmatch(r"[A-Za-z0-9_]+", storage.key):
        raise ValueError(f"{archive.path}: {storage.key!r} is no name of a storage")
    data = archive.read(f"data/{storage.key}")
    dtype = np.dtype(storage.dtype).newbyteorder(">" if big_endian else "<")
    if len(data) != storage.size * dtype.itemsize:
        raise ValueError(
            f"{archive.path}: storage {storage.key} has {len(data)} bytes, not {storage.size}·{dtype.itemsize}"
        )
    return np.frombuffer(data, dtype)


def _array(tensor: Tensor, storage: np.ndarray, name: str, path: str) -> np.ndarray:
    reach = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    inside = tensor.offset + reach < storage.size and tensor.size <= storage.size
    if tensor.size and not inside:
        raise ValueError(
            f"{path}: {name} with shape {tensor.shape} reaches outside its storage of {storage.size} values"
        )
    if not tensor.size:
        return np.zeros(tensor.shape, np.float32)
    # The stride of an axis of length one is never used, and may be any number.
    axes = zip(tensor.shape, tensor.strides, strict=True)
    strides = [stride * storage.itemsize if size > 1 else 0 for size, stride in axes]
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, strides, writeable=False
    )
    if tensor.storage.bfloat16:
        return (view.astype(np.uint32) << 16).view(np.float32)
    return np.array(view, np.float32)

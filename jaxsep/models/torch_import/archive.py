"""State dicts out of PyTorch files: the zip format that torch.save has written since 1.6.

Such a file is a zip archive with a pickle, NAME/data.pkl, and the bytes of each storage,
NAME/data/KEY. `unpickle` reads the pickle; here its tensors get their numbers. Every size is
checked against the file before anything is allocated.
"""

import os
import re
import zipfile
from typing import Any, NamedTuple

import numpy as np

from jaxsep.errors import ModelError
from jaxsep.models.torch_import.unpickle import Shell, Storage, Tensor, load

MAX_PICKLE_BYTES = 4 * 2**20  # names and shapes alone: 10 kB to 1 MB for the authors' networks
MAX_DEPTH = 16  # modules within modules; the authors' networks have 5
MAX_NAME = 200  # characters; the authors' longest name has about 40


class _Archive(NamedTuple):
    file: zipfile.ZipFile
    root: str
    size: int

    def read(self, name: str) -> bytes:
        try:
            info = self.file.getinfo(self.root + name)
        except KeyError:
            raise ModelError(f"{self.root + name} is missing") from None
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > self.size:
            raise ModelError(
                f"{info.filename} is compressed or larger than the file: not written by torch"
            )
        return self.file.read(info)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name -> float32 array, from a pickled network, {"state_dict": …} or a state dict.

    Other types of numbers are converted.

    Raises:
      ModelError: no such file, damaged, or unsafe (`UnsafePickleError`); does not name the path.
      OSError: it cannot be opened.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                return _read(file, os.path.getsize(path))
    except ModelError:
        raise
    except Exception as error:  # damaged bytes make zipfile raise errors of a dozen kinds
        raise ModelError(f"damaged zip archive ({error!r})") from error
    with open(path, "rb"):
        pass  # a file that cannot be opened says so itself
    raise ModelError(
        "not a zip archive, so no file of torch.save since PyTorch 1.6; "
        "an older file must be loaded with torch and saved again"
    )


def _read(file: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    names = file.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelError(f"holds {len(pickles)} files data.pkl, not 1 as torch.save writes")
    archive = _Archive(file, pickles[0].removesuffix("data.pkl"), size)
    pickle = archive.read("data.pkl")
    if len(pickle) > MAX_PICKLE_BYTES:
        raise ModelError(f"data.pkl has {len(pickle)} bytes, more than {MAX_PICKLE_BYTES}")
    tensors = _named_tensors(load(pickle))
    # Many tensors may share one storage, so the sum of their values is bounded too.
    if sum(tensor.size for tensor in tensors.values()) > size:
        raise ModelError("its tensors have more values than the file has bytes")
    needed = {tensor.storage for tensor in tensors.values()}
    if sum(storage.size * np.dtype(storage.type.dtype).itemsize for storage in needed) > size:
        raise ModelError("its storages have more bytes than the file")
    order = "<"
    if archive.root + "byteorder" in names and archive.read("byteorder").strip() == b"big":
        order = ">"
    storages = {storage: _numbers(archive, storage, order) for storage in needed}
    return {
        name: _array(tensor, storages[tensor.storage], name) for name, tensor in tensors.items()
    }


def _named_tensors(content: Any) -> dict[str, Tensor]:
    if isinstance(content, Shell):
        tensors: dict[str, Tensor] = {}
        _collect(content, "", tensors, set())
        return tensors
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ModelError(f"holds a {type(content).__name__}, neither a network nor a state dict")
    others = [
        repr(name)
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ModelError(f"no state dict; these entries are no tensors: {', '.join(others)}")
    return content


def _collect(shell: Shell, prefix: str, tensors: dict[str, Tensor], seen: set[int]) -> None:
    """Add the parameters of a module and of those inside it to tensors, by PyTorch's names.

    A module that is met twice is refused: it would make the walk as long as the file likes.
    """
    if id(shell) in seen or prefix.count(".") > MAX_DEPTH or len(prefix) > MAX_NAME:
        raise ModelError(
            f"module {prefix[:MAX_NAME] or 'top'!r} holds itself, is met twice or lies too deep"
        )
    seen.add(id(shell))
    for group in ("_parameters", "_buffers", "_modules"):
        members = shell.state.get(group, {})
        if not isinstance(members, dict):
            raise ModelError(f"{group} of {prefix or 'the network'} is no dictionary")
        for name, value in members.items():
            if isinstance(value, Shell):
                _collect(value, f"{prefix}{name}.", tensors, seen)
            elif isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif value is not None:
                raise ModelError(f"{prefix}{name} is neither tensor nor module")


def _numbers(archive: _Archive, storage: Storage, order: str) -> np.ndarray:
    if not re.fullmatch(r"[A-Za-z0-9_]+", storage.key):
        raise ModelError(f"{storage.key!r} is no name of a storage")
    data, dtype = archive.read(f"data/{storage.key}"), np.dtype(order + storage.type.dtype)
    if len(data) != storage.size * dtype.itemsize:
        raise ModelError(
            f"storage {storage.key} has {len(data)} bytes, not {storage.size}·{dtype.itemsize}"
        )
    return np.frombuffer(data, dtype)


def _array(tensor: Tensor, numbers: np.ndarray, name: str) -> np.ndarray:
    """The view of a tensor as a float32 array of its own."""
    if not tensor.size:
        return np.zeros(tensor.shape, np.float32)
    # The stride of an axis of length one is never used, and may be any number.
    axes = zip(tensor.shape, tensor.strides, strict=True)
    strides = [stride if size > 1 else 0 for size, stride in axes]
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True)
    )
    if last >= numbers.size or tensor.size > numbers.size:
        raise ModelError(
            f"{name} with shape {tensor.shape} reaches outside its storage of {numbers.size} values"
        )
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :],
        tensor.shape,
        [stride * numbers.itemsize for stride in strides],
        writeable=False,
    )
    if tensor.storage.type.bfloat16:
        return (view.astype(np.uint32) << 16).view(np.float32)
    return np.array(view, np.float32)

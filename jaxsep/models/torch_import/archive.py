"""State dicts out of PyTorch files, without importing or running anything that a file names.

torch.save has written, since PyTorch 1.6, a zip archive with a pickle, NAME/data.pkl, and the bytes
of each storage, NAME/data/KEY. A pickle is a program for a stack machine. Here Python's own machine
runs it with everything dangerous taken away: it knows only torch.save's instructions, and gives
inert shells and functions of this module for the few names that a file of weights needs.

It is the machine in Python, `pickle._Unpickler`. The one in C, `pickle.Unpickler`, has no table of
instructions to cut down: eight bytes that ask for a place far out in its memo make it allocate
gigabytes.
"""

import io
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsep.errors import ModelError

MAX_PICKLE_BYTES = 4 * 2**20  # names and shapes alone: 10 kB to 1 MB for the authors' networks
MAX_NAME = 200  # characters; the authors' longest name has about 40


class UnsafePickleError(ModelError):
    """A pickle asks for something other than tensors, containers and known layers."""


class Shell:
    """Stands for a layer or network of the authors' and holds its attributes."""

    state: Mapping[str, Any] = MappingProxyType({})  # until BUILD gives one


class Storage(NamedTuple):
    """The numbers of one or more tensors."""

    dtype: np.dtype
    data: bytes


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """A view of a storage; offset and strides in numbers."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without storage")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise TypeError("a tensor with negative or fractional sizes")
    # The stride of an axis of length one is never used, and may be any number.
    strides = [stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    itemsize = storage.dtype.itemsize
    if 0 not in shape and last >= len(storage.data) // itemsize:
        raise ModelError(f"a tensor of shape {shape} reaches outside its storage")
    steps = [stride * itemsize for stride in strides]
    return np.ndarray(shape, storage.dtype, storage.data, offset * itemsize, steps)


# All that a file may name beside layers, and what it gets. Sets only hold names of buffers that are
# not saved.
NAMES: dict[str, Any] = {
    "collections.OrderedDict": lambda: {},
    "__builtin__.set": lambda items=(): None,
    "builtins.set": lambda items=(): None,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
}
LAYERS = re.compile(
    r"(torch\.nn\.modules|torch\.nn\.parallel|sudo_rm_rf\.dnn\.models)\.[a-z_]+\.[A-Z]\w*"
)
# What torch.save writes, of protocol 2 and of protocol 4.
INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "MEMOIZE"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
)


def _build(machine: Any) -> None:
    """BUILD, which in Python's machine would set attributes of any object."""
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, Shell) and isinstance(state, dict):
        target.state = state
    elif not isinstance(target, dict):  # torch keeps version numbers at an OrderedDict
        raise TypeError("a state for something that is no layer")


def _plain_keys(instruction: bytes, keys: slice) -> Callable[[Any], None]:
    """SETITEM or SETITEMS, but not for keys of nested tuples, whose hash can take for ever."""

    def run(machine: Any) -> None:
        if not all(isinstance(key, str | int) for key in machine.stack[keys]):
            raise TypeError("a key that is neither text nor number")
        pickle._Unpickler.dispatch[instruction[0]](machine)

    return run


class _Machine(pickle._Unpickler):
    """Reads the pickle of an archive of `size` bytes; tensors are views of its storages."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{
            code: pickle._Unpickler.dispatch[code]
            for code in (getattr(pickle, name)[0] for name in INSTRUCTIONS)
        },
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _plain_keys(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _plain_keys(pickle.SETITEMS, slice(0, None, 2)),
    }

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._size = archive, size
        self._storages: dict[str, Storage] = {}
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ModelError(f"holds {len(pickles)} files data.pkl, not 1 as torch.save writes")
        self._root = pickles[0].removesuffix("data.pkl")
        content = self._read("data.pkl")
        if len(content) > MAX_PICKLE_BYTES:
            raise ModelError(f"data.pkl has {len(content)} bytes, more than {MAX_PICKLE_BYTES}")
        if self._root + "byteorder" in archive.namelist() and self._read("byteorder") != b"little":
            raise ModelError("was written on a big-endian machine; save it again on another")
        super().__init__(io.BytesIO(content))

    def _read(self, name: str) -> bytes:
        info = self._archive.getinfo(self._root + name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > self._size:
            raise ModelError(f"{name} is compressed or larger than the file: not written by torch")
        return self._archive.read(info)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if LAYERS.fullmatch(full):
            return Shell
        if full not in NAMES:
            raise UnsafePickleError(
                f"refused: it asks for {full}, which is no tensor, container or known layer"
            )
        return NAMES[full]

    def persistent_load(self, pid: Any) -> Storage:
        _, dtype, key, _, count = pid
        if not (isinstance(dtype, np.dtype) and isinstance(key, str) and type(count) is int):
            raise TypeError("a storage without type, name or size")
        if key not in self._storages:
            self._storages[key] = Storage(dtype, self._read(f"data/{key}"))
        storage = self._storages[key]
        if storage.dtype != dtype or len(storage.data) != count * dtype.itemsize:
            raise ModelError(f"storage {key} has {len(storage.data)} bytes, not {count} {dtype}")
        return storage


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name -> float32 array, from a pickled network, {"state_dict": …} or a state dict.

    Other types of numbers are converted. Memory is bounded by the size of the file.

    Raises:
      ModelError: damaged, or unsafe (`UnsafePickleError`); does not name the path.
      OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        size = os.path.getsize(path)
        try:
            if not zipfile.is_zipfile(file):
                raise ModelError(
                    "not a zip archive, so no file of torch.save since PyTorch 1.6; "
                    "an older file must be loaded with torch and saved again"
                )
            tensors = _named_tensors(_Machine(zipfile.ZipFile(file), size).load())
        except ModelError:
            raise
        except Exception as error:  # damaged bytes raise errors of a dozen kinds
            if isinstance(error, KeyError) and type(error.args[0]) is int:  # not in `dispatch`
                code = chr(error.args[0])
                names = {instruction.code: instruction.name for instruction in pickletools.opcodes}
                raise UnsafePickleError(
                    f"refused: the pickle instruction {names.get(code, code)!r} has no place in a "
                    "file of weights"
                ) from error
            raise ModelError(f"damaged ({type(error).__name__}: {error!s:.300})") from error
    if sum(tensor.size for tensor in tensors.values()) > size:  # many may share one storage
        raise ModelError("its tensors have more values than the file has bytes")
    return {name: np.array(tensor, np.float32) for name, tensor in tensors.items()}


def _named_tensors(content: Any) -> dict[str, np.ndarray]:
    if isinstance(content, Shell):
        content = dict(_members(content, "", set()))
    elif isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ModelError(f"holds a {type(content).__name__}, neither a network nor a state dict")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, np.ndarray)):
            raise ModelError(f"neither a network nor a state dict: {name!r:.80} is no tensor")
    return content


def _members(shell: Shell, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The parameters of a module and of those inside it, by PyTorch's names.

    A module that is met twice is refused: it would make the walk as long as the file likes.
    """
    if id(shell) in seen or len(prefix) > MAX_NAME:
        raise ModelError(f"module {prefix[:MAX_NAME]!r} is met twice or lies too deep")
    seen.add(id(shell))
    for group in ("_parameters", "_buffers", "_modules"):
        for name, value in shell.state.get(group, {}).items():
            if isinstance(value, Shell):
                yield from _members(value, f"{prefix}{name}.", seen)
            elif value is not None:
                yield f"{prefix}{name}", value

"""The pickle inside a PyTorch file, read without importing or running anything that it names.

A pickle is a program for a stack machine. Here Python's own machine runs it, with everything
dangerous taken away. `find_class` gives, for the few names that a file of weights needs, inert
shells and functions of this module, and refuses all others. Instructions that torch.save does not
write are refused. Sizes are only recorded: nothing is allocated for them.

It is the machine in Python, `pickle._Unpickler`. The one in C, `pickle.Unpickler`, has no table of
instructions to cut down: eight bytes that ask for a place far out in its memo make it allocate
gigabytes, and a key made of nested shared tuples makes it hash for ever.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxsep.errors import ModelError


class UnsafePickleError(ModelError):
    """A pickle asks for something other than tensors, containers and known layers."""


class StorageType(NamedTuple):
    """NumPy's name of a type of numbers; bfloat16: they are the upper halves of float32."""

    dtype: str
    bfloat16: bool = False


class Storage(NamedTuple):
    """The numbers of one or more tensors: size of them in the archive's file data/key."""

    key: str
    type: StorageType
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Shell:
    """Stands for a layer or network of the authors' and holds its attributes."""

    __slots__ = ("state",)
    state: dict[str, Any]

    def __new__(cls) -> "Shell":
        shell = super().__new__(cls)
        shell.state = {}
        return shell


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise TypeError("a tensor without storage, or with negative or fractional sizes")
    if len(shape) != len(strides) or len(shape) > 8:
        raise TypeError(f"a tensor with {len(shape)} axes and {len(strides)} strides")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError("a parameter without tensor")
    return tensor


_LAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "torch.nn.modules": {
        "activation": ("PReLU", "ReLU", "Sigmoid", "Softmax"),
        "container": ("ModuleList", "Sequential"),
        "conv": ("Conv1d", "Conv2d", "ConvTranspose1d"),
        "normalization": ("GroupNorm",),
        "upsampling": ("Upsample",),
    },
    "torch.nn.parallel": {"data_parallel": ("DataParallel",)},
    "sudo_rm_rf.dnn.models": {
        "sudormrf": (
            *("ConvNorm", "ConvNormAct", "DilatedConv", "DilatedConvNorm"),
            *("NormAct", "SuDORMRF", "UBlock"),
        ),
        "improved_sudormrf": (
            *("ConvNorm", "ConvNormAct", "DilatedConv", "DilatedConvNorm"),
            *("GlobLN", "NormAct", "SuDORMRF", "UConvBlock"),
        ),
    },
}
# All that a file may name, and what it gets. Sets only hold names of buffers that are not saved.
NAMES: dict[str, Any] = {
    "collections.OrderedDict": lambda: {},
    "__builtin__.set": lambda items=(): None,
    "builtins.set": lambda items=(): None,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.FloatStorage": StorageType("f4"),
    "torch.DoubleStorage": StorageType("f8"),
    "torch.HalfStorage": StorageType("f2"),
    "torch.BFloat16Storage": StorageType("u2", bfloat16=True),
    "torch.LongStorage": StorageType("i8"),
    "torch.IntStorage": StorageType("i4"),
    **{
        f"{package}.{module}.{name}": Shell
        for package, modules in _LAYERS.items()
        for module, names in modules.items()
        for name in names
    },
}

# What torch.save writes, of protocol 2 and of protocol 4.
INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "MEMOIZE"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
)
_PYTHONS: dict[int, Callable[[Any], None]] = dict(pickle._Unpickler.dispatch)


class _Instructions(dict[int, Callable[[Any], None]]):
    """Byte -> what the machine does; another byte is refused by the name of its instruction."""

    def __missing__(self, byte: int) -> Callable[[Any], None]:
        names = {instruction.code: instruction.name for instruction in pickletools.opcodes}
        name = names.get(chr(byte), byte)
        raise UnsafePickleError(
            f"refused: the pickle instruction {name} has no place in a file of weights"
        )


class _Reader(pickle._Unpickler):
    stack: list[Any]  # since the last MARK
    dispatch = _Instructions(
        {code: _PYTHONS[code] for code in (getattr(pickle, name)[0] for name in INSTRUCTIONS)}
    )

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in NAMES:
            raise UnsafePickleError(
                f"refused: it asks for {full}, which is no tensor, container or known layer"
            )
        return NAMES[full]

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage_type, key, _, size = pid
        if kind != "storage" or not isinstance(storage_type, StorageType):
            raise TypeError("a reference to something that is no storage")
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise TypeError("a storage without key or size")
        return Storage(key, storage_type, size)

    # Python's BUILD would set attributes of any object.
    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Shell) and isinstance(state, dict):
            target.state = state
        elif not isinstance(target, dict):  # torch keeps version numbers at an OrderedDict
            raise TypeError("a state for something that is no layer")

    # Python's machine would hash any key, and the hash of nested tuples can take for ever.
    def _set_item(self) -> None:
        self._check_keys(self.stack[-2:-1])
        _PYTHONS[pickle.SETITEM[0]](self)

    def _set_items(self) -> None:
        self._check_keys(self.stack[::2])
        _PYTHONS[pickle.SETITEMS[0]](self)

    def _check_keys(self, keys: list[Any]) -> None:
        if not all(isinstance(key, str | int) for key in keys):
            raise TypeError("a key that is neither text nor number")

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items


def load(data: bytes) -> Any:
    """What the pickle builds: dict, list, tuple, str, number, bool, None, Tensor or Shell.

    Raises:
      UnsafePickleError: it names or does something that a file of weights has no use for.
      ModelError: it is damaged, or uses a known name in a way that torch does not.
    """
    try:
        return _Reader(io.BytesIO(data)).load()
    except UnsafePickleError:
        raise
    except Exception as error:  # damaged bytes make the machine raise errors of many kinds
        raise ModelError(f"damaged pickle ({type(error).__name__}: {error})") from error

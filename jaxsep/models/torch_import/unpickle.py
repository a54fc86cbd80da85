"""An interpreter for the pickles inside PyTorch files that can build nothing but containers, tensor records and inert
shells.

It shares no code path with Python's unpickler: instructions are decoded by `pickletools`, and each of those allowed
is a few lines here. A name of a class or function is only ever compared with the lists below; nothing is imported or
called.
"""

import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple


class UnsafePickleError(ValueError):
    """The pickle asks for something outside tensors, containers and known layers. The text names the file and what it
    asks for."""


class Storage(NamedTuple):
    """Bytes of a tensor, not read yet. dtype: NumPy's name; bfloat16: the values are upper halves of float32."""

    key: str
    dtype: str
    size: int
    bfloat16: bool


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Shell:
    """Stands for an instance of a known class and only holds its attributes."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}


class _Global(NamedTuple):
    name: str


_MARK = object()

# torch's storage class → NumPy dtype
STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
}
DICTS = {"collections.OrderedDict"}
SETS = {"__builtin__.set", "builtins.set"}
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"

_TORCH_LAYERS = {
    "activation": ("PReLU", "ReLU", "Sigmoid", "Softmax"),
    "container": ("ModuleList", "Sequential"),
    "conv": ("Conv1d", "Conv2d", "ConvTranspose1d"),
    "normalization": ("GroupNorm",),
    "upsampling": ("Upsample",),
}
_NETWORK_LAYERS = {
    "sudormrf": (
        "ConvNorm",
        "ConvNormAct",
        "DilatedConv",
        "DilatedConvNorm",
        "NormAct",
        "SuDORMRF",
        "UBlock",
    ),
    "improved_sudormrf": (
        *("ConvNorm", "ConvNormAct", "DilatedConv", "DilatedConvNorm"),
        *("GlobLN", "NormAct", "SuDORMRF", "UConvBlock"),
    ),
}
SHELLS = {
    f"torch.nn.modules.{module}.{name}" for module, names in _TORCH_LAYERS.items() for name in names
}
SHELLS |= {
    f"sudo_rm_rf.dnn.models.{module}.{name}"
    for module, names in _NETWORK_LAYERS.items()
    for name in names
}
SHELLS.add("torch.nn.parallel.data_parallel.DataParallel")
KNOWN = SHELLS | STORAGES.keys() | DICTS | SETS | {TENSOR, PARAMETER}


def load(data: bytes, path: str) -> Any:
    """What the pickle builds: dict, list, tuple, str, number, bool, None, Tensor, Storage or Shell.

    path only serves the messages. Raises UnsafePickleError for any name or instruction outside the known ones,
    ValueError where the pickle is damaged or uses a known one in a way that torch does not.
    """
    machine = _Machine(path)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except UnsafePickleError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: damaged pickle ({type(error).__name__}: {error})") from error
    raise ValueError(f"{path}: damaged pickle (no end)")


class _Machine:
    """The pickle machine's stack and memo, and one method for each kind of instruction."""

    def __init__(self, path: str):
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "FRAME"):
            return
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _MEMO_PUTS:
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise UnsafePickleError(
                f"{self.path}: refused: the pickle instruction {name} has no place in a file of weights"
            )

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def put_tuple(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self.stack.append(tuple(values[::-1]))

    def put_global(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in KNOWN:
            raise UnsafePickleError(
                f"{self.path}: refused: it asks for {full}, which is no tensor, container or known layer"
            )
        self.stack.append(_Global(full))

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("append to something that is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError("items set in something that is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # The hash of nested tuples can take as long as the file likes.
            if not isinstance(key, str | int):
                raise TypeError("a key that is neither text nor number")
            target[key] = value

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        name = function.name if isinstance(function, _Global) else repr(type(function).__name__)
        if name in DICTS and arguments == ():
            self.stack.append({})
        elif name in SETS:
            self.stack.append(None)  # sets only hold names of buffers that are not saved
        elif name == TENSOR:
            self.stack.append(self._tensor(*arguments[:4]))
        elif name == PARAMETER and isinstance(arguments[0], Tensor):
            self.stack.append(arguments[0])
        else:
            raise UnsafePickleError(f"{self.path}: refused: a call of {name}")

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
        numbers = [offset, *shape, *strides]
        if not isinstance(storage, Storage) or not all(
            type(number) is int and number >= 0 for number in numbers
        ):
            raise TypeError("a tensor without storage, or with negative or fractional sizes")
        if len(shape) != len(strides) or len(shape) > 8:
            raise TypeError(f"a tensor with {len(shape)} axes and {len(strides)} strides")
        return Tensor(storage, offset, tuple(shape), tuple(strides))

    def new_object(self) -> None:
        arguments, kind = self.pop(), self.pop()
        if not isinstance(kind, _Global) or kind.name not in SHELLS or arguments != ():
            raise UnsafePickleError(
                f"{self.path}: refused: an object of {getattr(kind, 'name', type(kind).__name__)}"
            )
        self.stack.append(Shell())

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Shell) and isinstance(state, dict):
            target.state = state
        elif not isinstance(
            target, dict
        ):  # an OrderedDict's attributes hold torch's version numbers: not needed
            raise TypeError("a state for something that is no layer")

    def persistent(self) -> None:
        kind, storage, key, _, size = self.pop()
        if kind != "storage" or not isinstance(storage, _Global) or storage.name not in STORAGES:
            raise TypeError("a reference to something that is no storage")
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise TypeError("a storage without key or size")
        self.stack.append(
            Storage(key, STORAGES[storage.name], size, storage.name == "torch.BFloat16Storage")
        )

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        # Text of nested tuples can be as long as the file likes.
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a class whose name is no text")
        self.put_global(module, name)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_MEMO_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.put_tuple(1),
    "TUPLE2": lambda machine, _: machine.put_tuple(2),
    "TUPLE3": lambda machine, _: machine.put_tuple(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.put_global(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.new_object(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}

"""Published .pt files, written without torch, and the stored reference weights."""

import zipfile

import numpy as np


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def numbers(values) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key, size, shape, strides, *, offset=0, storage="FloatStorage") -> bytes:
    """The instructions with which torch.save writes a tensor."""
    kind = f"ctorch\n{storage}\n".encode()
    reference = b"(" + text("storage") + kind + text(key) + text("cpu") + number(size) + b"tQ"
    view = number(offset) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + view + b"tR"


def dictionary(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def write(path, pickled: bytes, storages=None, compression=zipfile.ZIP_STORED, byteorder="little"):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("net/data.pkl", pickled)
        file.writestr("net/byteorder", byteorder)
        for key, values in (storages or {}).items():
            file.writestr(f"net/data/{key}", values)
    return path


def write_state_dict(path, arrays):
    entries = {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = [stride // array.itemsize for stride in array.strides]
        entries[name] = tensor(str(key), array.size, array.shape, strides)
    storages = {str(key): array.tobytes() for key, array in enumerate(arrays.values())}
    return write(path, b"\x80\x02" + dictionary(entries) + b".", storages)


def stored(reference_dir, family):
    with np.load(reference_dir / f"sudormrf_{family}.npz") as file:
        data = dict(file)
    return data, {
        name.removeprefix("param/"): value for name, value in data.items() if "param/" in name
    }


def difference(actual, wanted):
    return np.linalg.norm(np.asarray(actual) - wanted) / np.linalg.norm(wanted)

"""Files of arrays (.npz) as NumPy would never write them."""

import io
import warnings
import zipfile
from typing import Any

import numpy as np
from hypothesis import strategies as st

NUMBERS = [-1, 0, 1, 2, 5, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), np.nan, np.inf, -1e30, 0.5]
TYPES = ["<f8", "<f4", "<f2", "<i8", "<i4", "|i1", "<u8", "|u1", "|b1", "<U3", "|S4", "<c16"]
TYPES += [">i8", "<M8[s]"]
CLAIMS = [*TYPES, "|O", "|V8", "|V1000000000", "<U1000000", "|V0", [("a", "<i8")], "nonsense", 7]
CLAIMS += [None]
SHAPES = [(), (0,), (1,), (2,), (10**12,), (2, 10**9), (1,) * 40, (-1,), (2**62, 4), (0, 10**12)]
SHAPES += [(1.5,), "x"]
KINDS = ["value", "value", "cast", "claim", "shape", "length", "flat", "delete", "double"]
KINDS += ["fortran", "swap", "version"]


def npy(
    array: np.ndarray,
    *,
    descr: Any = None,
    shape: Any = None,
    fortran: Any = False,
    version: bytes = b"\1\0",
) -> bytes:
    """An .npy file of the array, whose header may say something else."""
    header = {
        "descr": descr or array.dtype.str,
        "fortran_order": fortran,
        "shape": array.shape if shape is None else shape,
    }
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + array.tobytes()


def npz(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive; names may come twice."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", compression) as file:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in members:
            file.writestr(name, content)
    return stream.getvalue()


def edited_arrays(arrays: dict[str, np.ndarray]) -> st.SearchStrategy[bytes]:
    """An .npz file with one to three edits: values, types, shapes, lengths, names; in the arrays or
    in what headers say."""
    names = st.sampled_from(sorted(arrays))
    values = (st.sampled_from(values) for values in (NUMBERS, TYPES, CLAIMS, SHAPES))
    edit = st.tuples(st.sampled_from(KINDS), names, st.integers(0, 10**6), *values, names)
    edits = st.lists(edit, min_size=1, max_size=3)
    compression = st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return st.tuples(edits, compression).map(lambda case: _assembled(arrays, *case))


def _assembled(arrays: dict[str, np.ndarray], edits: list[tuple], compression: int) -> bytes:
    values: dict[str, Any] = {name: (np.array(array), {}) for name, array in arrays.items()}
    doubled = []
    for kind, name, number, value, dtype, claim, shape, other in edits:
        if name not in values:
            continue
        array, said = values[name]
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "value" and array.size and array.dtype.kind in "biuf":
                array.flat[number % array.size] = np.array(value).astype(array.dtype)
            elif kind == "cast" and array.dtype.kind in "biuf":
                array = array.astype(dtype)
        if kind == "claim":
            said = {**said, "descr": claim}
        elif kind == "shape":
            said = {**said, "shape": shape}
        elif kind == "fortran":
            said = {**said, "fortran": [True, None, 1][number % 3]}
        elif kind == "version":
            said = {**said, "version": [b"\2\0", b"\3\0", b"\0\0", b"\xff\xff"][number % 4]}
        elif kind == "length" and array.ndim:
            array = np.resize(array, (number % (2 * len(array) + 1), *array.shape[1:]))
        elif kind == "flat":
            array = array.reshape(-1, 1) if number % 2 else array.ravel()
        elif kind == "double":
            doubled.append(name)
        elif kind == "swap" and other in values:
            values[other], array, said = (array, said), *values[other]
        values[name] = (array, said)
        if kind == "delete":
            del values[name]
    members = [(f"{name}.npy", npy(array, **said)) for name, (array, said) in values.items()]
    twice = [member for member in members if member[0].removesuffix(".npy") in doubled]
    return npz(members + twice, compression)

"""Published PyTorch weights: what is read, and what is refused."""

import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_files import (
    dictionary,
    difference,
    numbers,
    stored,
    tensor,
    text,
    write,
    write_state_dict,
)

from jaxsep.models.torch_import import UnsafePickleError, from_file, from_state_dict
from jaxsep.models.torch_import.archive import read_state_dict


@pytest.mark.parametrize(
    ("family", "form"),
    [("improved", "module"), ("improved", "state_dict"), ("original", ""), ("original", "module.")],
)
def test_published_files(reference_dir, tmp_path, family, form):
    """The authors' files, and state dicts of their numbers, with and without DataParallel."""
    data, weights = stored(reference_dir, family)
    path = reference_dir / f"improved_sudormrf_{form}.pt"
    if family == "original":
        arrays = {form + name: value for name, value in weights.items()}
        path = write_state_dict(tmp_path / "net.pt", arrays)
    read = {name.removeprefix("module."): array for name, array in read_state_dict(path).items()}
    jax.tree.map(np.testing.assert_array_equal, read, weights)
    module, params = from_file(path)
    assert type(module).__name__ == {"improved": "ImprovedSudoRmRf"}.get(family, "SudoRmRf")
    output = jax.jit(module.apply)({"params": params}, data["input"])
    assert difference(output, data["output"]) <= 1e-4


def test_every_misfit_is_listed(reference_dir):
    _, weights = stored(reference_dir, "original")
    weights["m.bias"] = weights["m.bias"][:1]
    weights["sm.7.bias"] = weights.pop("sm.1.final_norm.act.weight")
    with pytest.raises(ValueError, match="do not fit this 'original'") as error:
        from_state_dict(weights, "original", num_blocks=2)
    assert str(error.value).split(": ")[2].split("; ") == [
        "sm.1.final_norm.act.weight has None, not (24,)",
        "m.bias has (1,), not (2,)",
        "sm.7.bias has (24,), not None",
    ]


@pytest.mark.parametrize(
    ("drop", "fields", "message"),
    [
        ("decoder.weight", {}, "decoder.weight is missing .*: enc_kernel_size"),
        (None, {"in_channels": 25}, r"sm.0.proj_1x1.conv.weight has \(24, 16, 1\), not \(25, 16"),
        (None, {"num_blocks": 3}, "sm.2.proj_1x1.conv.weight has None, not"),
        (None, {"upsampling_depth": 2}, r"sm.0.spp_dw.2.conv.bias has \(24,\), not None"),
    ],
)
def test_fields_that_do_not_fit(reference_dir, drop, fields, message):
    _, weights = stored(reference_dir, "original")
    weights.pop(drop, None)
    with pytest.raises(ValueError, match=message):
        from_state_dict(weights, "original", **fields)


def test_other_networks(tmp_path):
    with pytest.raises(ValueError, match=r"'package:Net'.*'original', 'improved'"):
        from_state_dict({}, "package:Net")
    path = write_state_dict(tmp_path / "net.pt", {"conv.weight": np.ones((2, 3), np.float32)})
    with pytest.raises(ValueError, match=r"neither m\.weight.*conv\.weight"):
        from_file(path)


class Call:
    """Pickles as a call of function with arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda mark: Call(os.system, f"touch {mark}"), r"(posix|nt)\.system"),
        (lambda mark: {"state_dict": {"a": Call(eval, f"open({str(mark)!r}, 'w')")}}, r"\.eval"),
        (lambda mark: Call(getattr, mark, "touch"), r"(__builtin__|builtins)\.getattr"),
        (lambda mark: {"a": np.ones(3)}, r"numpy[\w.]*\._reconstruct"),
    ],
)
def test_foreign_names_are_refused(tmp_path, protocol, make, name):
    mark = tmp_path / "ran"
    path = write(tmp_path / "net.pt", pickle.dumps(make(mark), protocol))
    # Protocol 0 writes text with instructions that torch does not use.
    with pytest.raises(ValueError, match=name if protocol else f"{name}|has no place") as error:
        from_file(path)
    assert str(path) in str(error.value)
    assert isinstance(error.value, UnsafePickleError) or not protocol
    assert not mark.exists()


CONV = b"ctorch.nn.modules.conv\nConv1d\n"
SHELL = b"ctorch.nn.modules.container\nSequential\n)\x81"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"ctorch.hub\nload\n(" + text("x") + b"tR.", r"torch\.hub\.load"),
        (CONV + b")R.", "neither m.weight"),  # a shell, as inert as any
        (CONV + numbers([1]) + b"R.", "damaged"),
        (b"ccollections\nOrderedDict\n" + numbers([1]) + b"R.", "damaged"),
        (b"ccollections\nOrderedDict\n)\x81.", "damaged"),
        (b"ctorch\nFloatStorage\n)R.", "damaged"),
        # Attributes are out of reach: no dotted names, no state for functions and classes.
        (b"\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93.", "it asks for"),
        (b"\x8c\x10torch.nn.modules\x8c\x0fconv.os.system_\x93.", "it asks for"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b.", "a state for something that is no layer"),
        (CONV + b"}b.", "a state for something that is no layer"),
        (b"ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb.", "neither m.weight"),
        # What the machine in C would allocate or hash, and instructions that torch does not write.
        (b"Nr\xff\xff\xff\xff.", "neither a network nor a state dict"),
        (b"X\xff\xff\xff\x7fab.", "damaged"),
        (b"B\xff\xff\xff\x7fab.", "instruction 'BINBYTES'"),
        (b"\x95" + bytes(7) + b"\x7f.", "damaged"),
        (b"(ios\nsystem\n.", "instruction 'INST'"),
        (b"\x82\x01.", "instruction 'EXT1'"),
        (b"\x96" + (2**40).to_bytes(8, "little"), "instruction 'BYTEARRAY8'"),
        # Damage.
        (SHELL + b"q\x00" + dictionary({"_modules": dictionary({"a": b"h\x00"})}) + b"b.", "twice"),
        (SHELL + dictionary({"_modules": text("none")}) + b"b.", "damaged"),
        (
            SHELL + dictionary({"_parameters": dictionary({"a": text("b")})}) + b"b.",
            "'a' is no tensor",
        ),
        (SHELL + text("state") + b"b.", "damaged"),
        (b"]" + text("a") + b"a.", "neither a network nor a state dict"),
        (b"}" + numbers([1]) + text("a") + b"s.", "neither text nor number"),
        (b"h\x07.", "damaged"),
        (b"}", "damaged"),
    ],
)
def test_other_pickles_are_refused(tmp_path, body, message):
    path = write(tmp_path / "net.pt", b"\x80\x02" + body)
    with pytest.raises(ValueError, match=message):
        from_file(path)


VALUES = [1.5, -2.0, 0.25, 3.0, -0.5, 8.0]  # exact in every format
ROW = np.array(VALUES, np.float32).reshape(2, 3)


def read_tensor(tmp_path, *tensor_arguments, data=ROW, **options):
    body = dictionary({"a": tensor("0", 6, *tensor_arguments, **options)})
    path = write(tmp_path / "net.pt", b"\x80\x02" + body + b".", {"0": data.tobytes()})
    return read_state_dict(path)["a"]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Float", "<f4"), ("Double", "<f8"), ("Half", "<f2"), ("BFloat16", jnp.bfloat16)],
)
def test_number_formats(tmp_path, kind, dtype):
    data = np.array(VALUES).astype(dtype)
    array = read_tensor(tmp_path, (2, 3), (3, 1), storage=f"{kind}Storage", data=data)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, ROW)


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "wanted"),
    [
        ((3, 2), (1, 3), 0, ROW.T),
        ((2,), (1,), 4, [-0.5, 8.0]),
        ((2, 1), (3, 2**80), 1, [[-2.0], [-0.5]]),
        ((), (), 5, 8.0),
        ((0, 7), (7, 1), 0, np.zeros((0, 7))),
    ],
)
def test_views(tmp_path, shape, strides, offset, wanted):
    array = read_tensor(tmp_path, shape, strides, offset=offset)
    np.testing.assert_array_equal(array, np.asarray(wanted, np.float32))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (tensor("0", 6, (2, 3), (3, 2)), "reaches outside"),
        (tensor("0", 6, (6,), (1,), offset=1), "reaches outside"),
        (tensor("0", 6, (6,), (2**70,)), "reaches outside"),
        (tensor("0", 6, (2**33, 2**33), (2**31, 2**31)), "reaches outside"),
        (tensor("0", 6, (2**40,), (0,)), "more values than the file has bytes"),
        (tensor("0", 2**40, (1,), (1,)), "has 24 bytes, not"),
        (tensor("0", 3, (3,), (1,), storage="HalfStorage"), "24 bytes, not 3"),
        (tensor("1", 6, (6,), (1,)), "no item named 'net/data/1'"),
        (tensor("0", 6, (-1,), (1,)), "negative"),
        (tensor("0", 6, (1,), (-1,)), "negative"),
        (tensor("0", 6, (1, 1), (1,)), "damaged"),
        (tensor("0", 6, (1,) * 99, (1,) * 99), "damaged"),
        (text("text"), "'a' is no tensor"),
    ],
)
def test_sizes_are_checked(tmp_path, body, message):
    pickled = b"\x80\x02" + dictionary({"a": body}) + b"."
    with pytest.raises(ValueError, match=message):
        read_state_dict(write(tmp_path / "net.pt", pickled, {"0": ROW.tobytes()}))


def test_files_of_another_kind(tmp_path):
    # How torch.save wrote before 1.6.
    (tmp_path / "old.pt").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))
    with pytest.raises(ValueError, match=r"old\.pt: not a zip archive.*1\.6"):
        from_file(tmp_path / "old.pt")
    with pytest.raises(FileNotFoundError):
        from_file(tmp_path / "nowhere.pt")
    body = b"\x80\x02" + dictionary({"a": tensor("0", 6000, (6000,), (1,))}) + b"."
    packed = write(tmp_path / "packed.pt", body, {"0": bytes(24000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        from_file(packed)
    with pytest.raises(ValueError, match="big-endian"):
        from_file(write(tmp_path / "big.pt", body, {"0": bytes(24000)}, byteorder="big"))
    with zipfile.ZipFile(tmp_path / "empty.pt", "w") as file:
        file.writestr("net/other", b"")
    with pytest.raises(ValueError, match=r"0 files data\.pkl"):
        from_file(tmp_path / "empty.pt")

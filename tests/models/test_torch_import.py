"""Published PyTorch weights: what is read, and what is refused."""

import os
import pickle
import zipfile

import jax
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
    ("name", "tolerance"),
    [("improved_sudormrf_module.pt", 1e-4), ("improved_sudormrf_state_dict.pt", 1e-4)],
)
def test_published_files(reference_dir, name, tolerance):
    data, weights = stored(reference_dir, "improved")
    read = read_state_dict(reference_dir / name)
    assert read.keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(read[key], value)
    module, params = from_file(reference_dir / name)
    assert type(module).__name__ == "ImprovedSudoRmRf"
    assert (
        difference(jax.jit(module.apply)({"params": params}, data["input"]), data["output"])
        <= tolerance
    )


@pytest.mark.parametrize(("prefix", "tolerance"), [("", 1e-4), ("module.", 1e-4)])
def test_original_from_a_file(reference_dir, tmp_path, prefix, tolerance):
    data, weights = stored(reference_dir, "original")
    path = write_state_dict(
        tmp_path / "net.pt", {prefix + name: value for name, value in weights.items()}
    )
    module, params = from_file(path)
    assert type(module).__name__ == "SudoRmRf"
    assert (
        difference(jax.jit(module.apply)({"params": params}, data["input"]), data["output"])
        <= tolerance
    )


def test_every_misfit_is_listed(reference_dir):
    _, weights = stored(reference_dir, "original")
    weights["m.bias"] = weights["m.bias"][:1]
    weights["sm.7.bias"] = weights.pop("sm.1.final_norm.act.weight")
    with pytest.raises(ValueError, match=r"missing sm\.1\.final_norm\.act\.weight") as error:
        from_state_dict(weights, "original", num_blocks=2)
    assert "unexpected sm.7.bias" in str(error.value)
    assert "m.bias has shape (1,), not (2,)" in str(error.value)
    assert "ln_mask_in" not in str(error.value)


@pytest.mark.parametrize(
    ("drop", "fields", "message"),
    [
        ("decoder.weight", {}, "decoder.weight is missing: enc_kernel_size"),
        ("decoder.weight", {"enc_kernel_size": 21}, "missing decoder.weight"),
        (
            None,
            {"in_channels": 25},
            r"sm.0.proj_1x1.conv.weight has shape \(24, 16, 1\), not \(25, 16, 1\)",
        ),
        (None, {"num_blocks": 3}, "missing sm.2.proj_1x1.conv.weight"),
        (None, {"upsampling_depth": 2}, "unexpected sm.0.spp_dw.2.conv.bias"),
    ],
)
def test_fields_that_do_not_fit(reference_dir, drop, fields, message):
    _, weights = stored(reference_dir, "original")
    weights.pop(drop, None)
    with pytest.raises(ValueError, match=message):
        from_state_dict(weights, "original", **fields)


def test_families():
    with pytest.raises(ValueError, match=r"'package:Net'.*'original', 'improved'"):
        from_state_dict({}, "package:Net")


def test_another_network(tmp_path):
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
        (lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"), r"(__builtin__|builtins)\.eval"),
        (
            lambda mark: {"state_dict": {"a": Call(exec, f"open({str(mark)!r}, 'w')")}},
            r"(__builtin__|builtins)\.exec",
        ),
        (lambda mark: Call(getattr, mark, "touch"), r"(__builtin__|builtins)\.getattr"),
        (lambda mark: {"a": np.float64(1)}, r"numpy[\w.]*\.scalar"),
        (lambda mark: {"a": np.ones(3)}, r"numpy[\w.]*\._reconstruct"),
    ],
)
def test_foreign_names_are_refused(tmp_path, protocol, make, name):
    mark = tmp_path / "ran"
    path = write(tmp_path / "net.pt", pickle.dumps(make(mark), protocol))
    expected = (
        name if protocol else rf"{name}|instruction"
    )  # protocol 0 writes text with instructions torch does not use
    with pytest.raises(UnsafePickleError, match=expected) as error:
        from_file(path)
    assert str(path) in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"ctorch.hub\nload\n(" + text("x") + b"tR.", r"torch\.hub\.load"),
        (b"ctorch.nn.modules.conv\nConv1d\n)R.", "neither m.weight"),  # a shell, as inert as any
        (b"ctorch.nn.modules.conv\nConv1d\n" + numbers([1]) + b"\x81.", "damaged pickle"),
        (b"ctorch.nn.modules.conv\nConv1d\n" + numbers([1]) + b"R.", "damaged pickle"),
        (b"ccollections\nOrderedDict\n" + numbers([1]) + b"R.", "damaged pickle"),
        (b"ccollections\nOrderedDict\n)\x81.", "damaged pickle"),
        (b"ctorch\nFloatStorage\n)R.", "damaged pickle"),
        (b"ctorch._utils\n_rebuild_parameter\n" + numbers([1]) + b"R.", "without tensor"),
        # Attributes are out of reach: no dotted names, no state for functions and classes.
        (b"\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93.", "it asks for"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b.", "a state for something that is no layer"),
        (b"ctorch.nn.modules.conv\nConv1d\n}b.", "a state for something that is no layer"),
        (b"ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb.", "neither m.weight"),
        # What the machine in C would allocate or hash.
        (b"Nr\xff\xff\xff\xff.", "neither a network nor a state dict"),
        (b"B\xff\xff\xff\x7fab.", "instruction BINBYTES"),
        (b"X\xff\xff\xff\x7fab.", "damaged pickle"),
        (b"\x8b\xff\xff\xff\x7fab.", "instruction LONG4"),
        (b"\x95" + bytes(7) + b"\x7f.", "damaged pickle"),
        (b"\xff.", "instruction 255"),
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"\x96" + (2**40).to_bytes(8, "little"), "instruction BYTEARRAY8"),
    ],
)
def test_other_uses_are_refused(tmp_path, body, message):
    path = write(tmp_path / "net.pt", b"\x80\x02" + body)
    with pytest.raises(ValueError, match=message):
        from_file(path)


VALUES = [1.5, -2.0, 0.25, 3.0, -0.5, 8.0]
ROW = np.array(VALUES, np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FloatStorage", "<f4"),
        ("DoubleStorage", "<f8"),
        ("HalfStorage", "<f2"),
        ("FloatStorage", ">f4"),
    ],
)
def test_number_formats(tmp_path, kind, dtype):
    body = dictionary({"a": tensor("0", 6, (2, 3), (3, 1), storage=kind)})
    data = np.array(VALUES, dtype).tobytes()
    order = "big" if dtype[0] == ">" else "little"
    path = write(tmp_path / "net.pt", b"\x80\x02" + body + b".", {"0": data}, byteorder=order)
    found = read_state_dict(path)["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ROW)


def test_bfloat16(tmp_path):
    data = (
        (np.array(VALUES, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    )  # exact for these values
    body = dictionary({"a": tensor("0", 6, (2, 3), (3, 1), storage="BFloat16Storage")})
    path = write(tmp_path / "net.pt", b"\x80\x02" + body + b".", {"0": data})
    np.testing.assert_array_equal(read_state_dict(path)["a"], ROW)


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
    body = dictionary({"a": tensor("0", 6, shape, strides, offset=offset)})
    path = write(tmp_path / "net.pt", b"\x80\x02" + body + b".", {"0": ROW.tobytes()})
    np.testing.assert_array_equal(read_state_dict(path)["a"], np.asarray(wanted, np.float32))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (tensor("0", 6, (2, 3), (3, 2)), "reaches outside"),
        (tensor("0", 6, (6,), (1,), offset=1), "reaches outside"),
        (tensor("0", 6, (6,), (2**70,)), "reaches outside"),
        (tensor("0", 6, (7,), (0,)), "reaches outside"),
        (tensor("0", 6, (2**40,), (0,)), "more values than the file has bytes"),
        (tensor("0", 2**40, (2**40,), (1,)), "more (values|bytes)"),
        (tensor("0", 2**40, (1,), (1,)), "more bytes than the file"),
        (tensor("0", 5, (5,), (1,)), "24 bytes, not 5"),
        (tensor("0", 3, (3,), (1,), storage="HalfStorage"), "24 bytes, not 3"),
        (tensor("1", 6, (6,), (1,)), "net/data/1 is missing"),
        (tensor("../x", 6, (6,), (1,)), "no name of a storage"),
        (tensor("0", 6, (-1,), (1,)), "negative"),
        (tensor("0", 6, (1,), (-1,)), "negative"),
        (tensor("0", 6, (1, 1), (1,)), "2 axes and 1 strides"),
        (tensor("0", 6, (1,) * 9, (1,) * 9), "9 axes"),
        (text("text"), "no tensors: 'a'"),
    ],
)
def test_sizes_are_checked(tmp_path, body, message):
    path = write(
        tmp_path / "net.pt", b"\x80\x02" + dictionary({"a": body}) + b".", {"0": ROW.tobytes()}
    )
    with pytest.raises(ValueError, match=message):
        read_state_dict(path)


SHELL = b"ctorch.nn.modules.container\nSequential\n)\x81"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            SHELL + b"q\x00" + dictionary({"_modules": dictionary({"a": b"h\x00"})}) + b"b.",
            "holds itself",
        ),
        (SHELL + dictionary({"_modules": text("none")}) + b"b.", "no dictionary"),
        (
            SHELL + dictionary({"_parameters": dictionary({"a": text("b")})}) + b"b.",
            "neither tensor nor module",
        ),
        (SHELL + text("state") + b"b.", "damaged pickle"),
        (b"]" + text("a") + b"a.", "neither a network nor a state dict"),
        (b"}" + numbers([1]) + text("a") + b"s.", "neither text nor number"),
        (b"h\x07.", "damaged pickle"),
        (b"0.", "instruction POP|damaged"),
        (b"}", "damaged pickle"),
    ],
)
def test_damaged_pickles(tmp_path, body, message):
    with pytest.raises(ValueError, match=message):
        from_file(write(tmp_path / "net.pt", b"\x80\x02" + body))


def test_files_of_another_kind(tmp_path):
    old = tmp_path / "old.pt"
    old.write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    )  # how torch.save wrote before 1.6
    with pytest.raises(ValueError, match=r"old\.pt: not a zip archive.*1\.6"):
        from_file(old)
    with pytest.raises(FileNotFoundError):
        from_file(tmp_path / "nowhere.pt")
    body = b"\x80\x02" + dictionary({"a": tensor("0", 6000, (6000,), (1,))}) + b"."
    packed = write(tmp_path / "packed.pt", body, {"0": bytes(24000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read_state_dict(packed)
    empty = tmp_path / "empty.pt"
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("net/other", b"")
    with pytest.raises(ValueError, match=r"0 files data\.pkl"):
        from_file(empty)

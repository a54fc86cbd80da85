"""Weights of the authors' PyTorch networks as parameters of ours, by name and by the order of axes.

Ours are channels last, and the arrays of all blocks are stacked. `_names` says which array of
theirs each of ours is, and in which layout.
"""

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxsep.errors import ModelError
from jaxsep.models import FAMILIES, create
from jaxsep.models.torch_import.archive import read_state_dict
from jaxsep.models.torch_import.unpickle import UnsafePickleError

# In the authors' original network, but not in its forward pass.
UNUSED = ("ln_mask_in.weight", "ln_mask_in.bias")
PREFIX = "module."  # written by torch.nn.DataParallel
# A name that only this family's state dict has.
TELLING = {"original": "m.weight", "improved": "mask_net.1.weight"}

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """torch_shape: ours -> PyTorch's; to_ours: PyTorch's array, our shape -> our array."""

    torch_shape: Callable[[Shape], Shape]
    to_ours: Callable[[np.ndarray, Shape], np.ndarray] = lambda array, shape: array.reshape(shape)


SAME = Layout(lambda shape: shape)
POINTWISE = Layout(lambda shape: (shape[1], shape[0], 1), lambda array, _: array[:, :, 0].T)
PER_CHANNEL = Layout(lambda shape: (shape[1], 1, shape[0]), lambda array, _: array[:, 0].T)
MASK = Layout(lambda shape: (shape[0], 1, shape[1], 1))
DECODER = Layout(lambda shape: (shape[0] * shape[1], 1, shape[2]))


def from_file(path: str | PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Module and parameters from a published .pt file; runs no code from it.

    The file holds a whole pickled network of the authors, {"state_dict": …}, or a state dict. The
    names in it tell the family.

    Raises:
      ModelError: no such file, damaged, or another network; UnsafePickleError, a ModelError, where
        it asks for anything but tensors, containers and known layers. Names the path.
      OSError: it cannot be opened.
    """
    try:
        state_dict = _without_prefix(read_state_dict(path))
        for family, name in TELLING.items():
            if name in state_dict:
                return from_state_dict(state_dict, family)
        expected = " nor ".join(f"{name} ({family})" for family, name in TELLING.items())
        raise ModelError(f"neither {expected} among {sorted(state_dict)[:50]}")
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from error
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def from_state_dict(
    state_dict: Mapping[str, Any], family: str, **fields: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Module and float32 parameters from a PyTorch state dict, name -> array.

    Args:
      state_dict: the names may all carry the prefix `module.`; the original's `ln_mask_in.*`, which
        its forward pass never uses, is dropped.
      family: 'original' or 'improved'.
      fields: of the network; those that are not given are read off the shapes of the arrays.

    Raises:
      ValueError: lists every name that is missing, unexpected or of another shape than it must be.
    """
    if family not in FAMILIES:
        families = ", ".join(map(repr, FAMILIES))
        raise ValueError(f"family is {family!r}; weights can be imported for {families}")
    arrays = {name: np.asarray(value) for name, value in _without_prefix(state_dict).items()}
    if family == "original":
        arrays = {name: array for name, array in arrays.items() if name not in UNUSED}
    # Without values a shape may be any, and a network of that size would be traced.
    if empty := [name for name, array in arrays.items() if not array.size]:
        raise ValueError(f"{empty[0]} has shape {arrays[empty[0]].shape}, no values")
    module: Any = create(family, **{**_fields_of(arrays, family, fields), **fields})
    mixture = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    tree = jax.eval_shape(module.init, jax.random.key(0), mixture)["params"]
    expected = {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}
    names = {
        path: entry
        for path, entry in _names(family, module.upsampling_depth).items()
        if path in expected  # mask/input is there only where out_channels ≠ enc_num_basis
    }
    if problems := list(_misfits(arrays, expected, names)):
        raise ValueError(f"these weights do not fit {module}: " + "; ".join(problems))
    params = {}
    for path, (name, layout) in names.items():
        shape = expected[path]
        if path.startswith("blocks/"):
            blocks = [arrays[name.format(block)] for block in range(shape[0])]
            array = np.stack([layout.to_ours(block, shape[1:]) for block in blocks])
        else:
            array = layout.to_ours(arrays[name], shape)
        params[path] = jnp.asarray(array, jnp.float32)
    return module, unflatten_dict(params, sep="/")


def _without_prefix(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    if state_dict and all(name.startswith(PREFIX) for name in state_dict):
        return {name.removeprefix(PREFIX): value for name, value in state_dict.items()}
    return dict(state_dict)


def _fields_of(
    arrays: Mapping[str, np.ndarray], family: str, given: Mapping[str, int]
) -> dict[str, int]:
    """The fields that are not given, counted in the names or read off the shapes."""
    bottleneck = "l1.weight" if family == "original" else "bottleneck.weight"
    sources = ("m.weight", 0) if family == "original" else ("decoder.weight", 1)
    axes = {
        "out_channels": (bottleneck, 0),
        "in_channels": ("sm.0.proj_1x1.conv.weight", 0),
        "enc_kernel_size": ("decoder.weight", 2),
        "enc_num_basis": (bottleneck, 1),
        "num_sources": sources,
    }
    blocks = {name.split(".")[1] for name in arrays if name.startswith("sm.")}
    levels = {name.split(".")[3] for name in arrays if name.startswith("sm.0.spp_dw.")}
    fields = {"num_blocks": len(blocks), "upsampling_depth": len(levels)}
    for field, (name, axis) in axes.items():
        if field in given:
            continue
        if name not in arrays or arrays[name].ndim <= axis:
            fault = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
            raise ValueError(
                f"{name} {fault}: {field} of an {family!r} network cannot be read off it"
            )
        fields[field] = arrays[name].shape[axis]
    return fields


def _misfits(
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, Shape],
    names: Mapping[str, tuple[str, Layout]],
) -> Iterable[str]:
    """What is missing, unexpected and of another shape, a text each."""
    right: dict[str, Shape] = {}
    for path, (name, layout) in names.items():
        stacked = path.startswith("blocks/")
        shape = layout.torch_shape(expected[path][1:] if stacked else expected[path])
        count = expected[path][0] if stacked else 1
        right |= {name.format(block): shape for block in range(count)}
    yield from (f"missing {name}" for name in right if name not in arrays)
    yield from (f"unexpected {name}" for name in sorted(arrays.keys() - right.keys()))
    for name, shape in right.items():
        if name in arrays and arrays[name].shape != shape:
            yield f"{name} has shape {arrays[name].shape}, not {shape}"


def _names(family: str, depth: int) -> dict[str, tuple[str, Layout]]:
    """Our path -> (PyTorch's name, layout). In the names of blocks, {} is the block's number."""
    original = family == "original"
    names: dict[str, tuple[str, Layout]] = {}

    def conv(ours: str, theirs: str, layout: Layout) -> None:
        names[f"{ours}/kernel"] = (f"{theirs}.weight", layout)
        names[f"{ours}/bias"] = (f"{theirs}.bias", SAME)

    def norm(ours: str, theirs: str) -> None:
        names[f"{ours}/scale"] = (f"{theirs}.{'weight' if original else 'gamma'}", SAME)
        names[f"{ours}/bias"] = (f"{theirs}.{'bias' if original else 'beta'}", SAME)

    def norm_prelu(ours: str, theirs: str) -> None:
        norm(ours, f"{theirs}.norm")
        names[f"{ours}/slope"] = (f"{theirs}.act.weight", SAME)

    norm("encoder_norm", "ln")
    conv("blocks/expand", "sm.{}.proj_1x1.conv", POINTWISE)
    norm_prelu("blocks/expand_norm", "sm.{}.proj_1x1")
    for level in range(depth):
        conv(f"blocks/depthwise_{level}", f"sm.{{}}.spp_dw.{level}.conv", PER_CHANNEL)
        norm(f"blocks/depthwise_norm_{level}", f"sm.{{}}.spp_dw.{level}.norm")
    norm_prelu("blocks/merge_norm", "sm.{}.final_norm")
    if original:
        conv("encoder", "encoder.0", PER_CHANNEL)
        conv("bottleneck", "l1", POINTWISE)
        conv("blocks/project", "sm.{}.conv_1x1_exp.conv", POINTWISE)
        norm("blocks/project_norm", "sm.{}.conv_1x1_exp.norm")
        norm_prelu("blocks/output_norm", "sm.{}.module_act")
        conv("mask/input", "reshape_before_masks", POINTWISE)
        conv("mask", "m", MASK)
        conv("decoder", "decoder", DECODER)
    else:
        names["encoder/kernel"] = ("encoder.weight", PER_CHANNEL)
        conv("bottleneck", "bottleneck", POINTWISE)
        conv("blocks/project", "sm.{}.res_conv", POINTWISE)
        names["mask_prelu/slope"] = ("mask_net.0.weight", SAME)
        conv("mask", "mask_net.1", POINTWISE)
        names["decoder/kernel"] = ("decoder.weight", SAME)
    return names

"""Weights of the authors' PyTorch networks as parameters of ours, by name and by the order of axes.

Ours are channels last, and the arrays of all blocks are stacked. `_names` says which array of
theirs each of ours is, and in which layout.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxsep.errors import ModelError
from jaxsep.models import FAMILIES, create
from jaxsep.models.torch_import.archive import read_state_dict

# In the authors' original network, but not in its forward pass.
UNUSED = ("ln_mask_in.weight", "ln_mask_in.bias")
PREFIX = "module."  # written by torch.nn.DataParallel
# A name that only this family's state dict has.
TELLING = {"original": "m.weight", "improved": "mask_net.1.weight"}
# PyTorch's shape of an array that has the shape s with us, and whether its axes are reversed.
LAYOUTS: dict[str, tuple[Any, bool]] = {
    "same": (lambda s: s, False),
    "pointwise": (lambda s: (s[1], s[0], 1), True),
    "per channel": (lambda s: (s[1], 1, s[0]), True),
    "mask": (lambda s: (s[0], 1, s[1], 1), False),
    "decoder": (lambda s: (s[0] * s[1], 1, s[2]), False),
}


def from_file(path: str | PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Module and parameters from a published .pt file; runs no code from it.

    The file holds a whole pickled network of the authors, {"state_dict": …}, or a state dict. The
    names in it tell the family.

    Raises:
      ModelError: damaged, or another network; UnsafePickleError, a ModelError, where it asks for
        anything but tensors, containers and known layers. Names the path.
      OSError: it cannot be opened.
    """
    try:
        state_dict = _without_prefix(read_state_dict(path))
        for family, name in TELLING.items():
            if name in state_dict:
                return from_state_dict(state_dict, family)
        expected = " nor ".join(f"{name} ({family})" for family, name in TELLING.items())
        raise ModelError(f"neither {expected} among {sorted(state_dict)[:50]}")
    except ValueError as error:
        kind = type(error) if isinstance(error, ModelError) else ModelError
        raise kind(f"{path}: {error}") from error


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
    module: Any = create(family, **{**_fields_of(arrays, family), **fields})
    mixture = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    tree = jax.eval_shape(module.init, jax.random.key(0), mixture)["params"]
    ours = {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}
    params: dict[str, list[np.ndarray]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for path, (name, layout) in _names(family, module.upsampling_depth).items():
        torch_shape, reverse = LAYOUTS[layout]
        stacked = path.startswith("blocks/")
        for block in range(module.num_blocks if stacked else path in ours):
            theirs, shape = name.format(block), ours[path][stacked:]
            expected[theirs] = torch_shape(shape)
            if theirs in arrays and arrays[theirs].shape == expected[theirs]:
                array = arrays[theirs].T if reverse else arrays[theirs]
                params.setdefault(path, []).append(array.reshape(shape))
    given = {name: array.shape for name, array in arrays.items()}
    if misfits := [
        f"{name} has {given.get(name)}, not {expected.get(name)}"
        for name in {**expected, **given}
        if given.get(name) != expected.get(name)
    ]:
        raise ValueError(
            f"shapes that do not fit this {family!r} network (None: not there): "
            f"{'; '.join(misfits)}"
        )
    tree = {path: np.reshape(parts, ours[path]) for path, parts in params.items()}
    return module, unflatten_dict(jax.tree.map(jnp.float32, tree), sep="/")


def _without_prefix(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    if state_dict and all(name.startswith(PREFIX) for name in state_dict):
        return {name.removeprefix(PREFIX): value for name, value in state_dict.items()}
    return dict(state_dict)


def _fields_of(arrays: Mapping[str, np.ndarray], family: str) -> dict[str, int]:
    """The fields of the network, counted in the names or read off the shapes."""
    bottleneck = "l1.weight" if family == "original" else "bottleneck.weight"
    axes = {
        "out_channels": (bottleneck, 0),
        "in_channels": ("sm.0.proj_1x1.conv.weight", 0),
        "enc_kernel_size": ("decoder.weight", 2),
        "enc_num_basis": (bottleneck, 1),
        "num_sources": ("m.weight", 0) if family == "original" else ("decoder.weight", 1),
    }
    blocks = {name.split(".")[1] for name in arrays if name.startswith("sm.")}
    levels = {name.split(".")[3] for name in arrays if name.startswith("sm.0.spp_dw.")}
    fields = {"num_blocks": len(blocks), "upsampling_depth": len(levels)}
    for field, (name, axis) in axes.items():
        if name not in arrays or arrays[name].ndim <= axis:
            raise ValueError(
                f"{name} is missing or has too few axes: {field} cannot be read off it"
            )
        fields[field] = arrays[name].shape[axis]
    return fields


def _names(family: str, depth: int) -> dict[str, tuple[str, str]]:
    """Our path -> (PyTorch's name, layout). In the names of blocks, {} is the block's number.

    Some of these arrays are in certain networks alone.
    """
    original = family == "original"
    names: dict[str, tuple[str, str]] = {}

    def conv(ours: str, theirs: str, layout: str) -> None:
        names[f"{ours}/kernel"] = (f"{theirs}.weight", layout)
        names[f"{ours}/bias"] = (f"{theirs}.bias", "same")

    def norm(ours: str, theirs: str) -> None:
        names[f"{ours}/scale"] = (f"{theirs}.{'weight' if original else 'gamma'}", "same")
        names[f"{ours}/bias"] = (f"{theirs}.{'bias' if original else 'beta'}", "same")

    def norm_prelu(ours: str, theirs: str) -> None:
        norm(ours, f"{theirs}.norm")
        names[f"{ours}/slope"] = (f"{theirs}.act.weight", "same")

    norm("encoder_norm", "ln")
    conv("blocks/expand", "sm.{}.proj_1x1.conv", "pointwise")
    norm_prelu("blocks/expand_norm", "sm.{}.proj_1x1")
    for level in range(depth):
        conv(f"blocks/depthwise_{level}", f"sm.{{}}.spp_dw.{level}.conv", "per channel")
        norm(f"blocks/depthwise_norm_{level}", f"sm.{{}}.spp_dw.{level}.norm")
    norm_prelu("blocks/merge_norm", "sm.{}.final_norm")
    if original:
        conv("encoder", "encoder.0", "per channel")
        conv("bottleneck", "l1", "pointwise")
        conv("blocks/project", "sm.{}.conv_1x1_exp.conv", "pointwise")
        norm("blocks/project_norm", "sm.{}.conv_1x1_exp.norm")
        norm_prelu("blocks/output_norm", "sm.{}.module_act")
        conv("mask/input", "reshape_before_masks", "pointwise")
        conv("mask", "m", "mask")
        conv("decoder", "decoder", "decoder")
    else:
        conv("encoder", "encoder", "per channel")
        conv("bottleneck", "bottleneck", "pointwise")
        conv("blocks/project", "sm.{}.res_conv", "pointwise")
        names["mask_prelu/slope"] = ("mask_net.0.weight", "same")
        conv("mask", "mask_net.1", "pointwise")
        conv("decoder", "decoder", "same")
    return names

"""Weights of the authors' PyTorch networks as parameters of ours. Needs no torch.

`from_state_dict` takes arrays by their PyTorch names, `from_file` a file as the authors publish it. The layouts
differ only in the order of axes: ours are channels last.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields as dataclass_fields
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxsep.models import FAMILIES, create
from jaxsep.models.torch_import.archive import UnsafePickleError, read_state_dict

__all__ = ["UnsafePickleError", "from_file", "from_state_dict"]

# In the authors' original network, but not in its forward pass.
UNUSED = ("ln_mask_in.weight", "ln_mask_in.bias")
PREFIX = "module."  # written by torch.nn.DataParallel

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """to_ours turns PyTorch's array into ours, given our shape; torch_shape is PyTorch's shape, given ours."""

    to_ours: Callable[[np.ndarray, Shape], np.ndarray]
    torch_shape: Callable[[Shape], Shape]


SAME = Layout(lambda array, shape: array, lambda shape: shape)
POINTWISE = Layout(lambda array, shape: array[:, :, 0].T, lambda shape: (shape[1], shape[0], 1))
PER_CHANNEL = Layout(lambda array, shape: array[:, 0].T, lambda shape: (shape[1], 1, shape[0]))
MASK = Layout(lambda array, shape: array[:, 0, :, 0], lambda shape: (shape[0], 1, shape[1], 1))
DECODER = Layout(
    lambda array, shape: array.reshape(shape), lambda shape: (shape[0] * shape[1], 1, shape[2])
)

Row = tuple[
    str, str, Layout
]  # PyTorch's name, our path with slashes (of a block: blocks/NUMBER/…), layout


def from_state_dict(
    state_dict: Mapping[str, Any], family: str, **fields: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Module and parameters (float32) from a PyTorch state dict: name → array.

    family: 'original' or 'improved'. Names may all carry the prefix `module.`; the original's `ln_mask_in.*`, which
    its forward pass never uses, is dropped. Fields that are not given are read off the shapes of the arrays. Raises
    ValueError that lists every name which is missing, unexpected or of another shape than the fields ask for.
    """
    if family not in FAMILIES:
        raise ValueError(
            f"family is {family!r}; weights can be imported for {', '.join(map(repr, FAMILIES))}"
        )
    arrays = {name: np.asarray(value) for name, value in _without_prefix(state_dict).items()}
    # Without values a shape may be any, and a network of that size would be traced.
    if empty := [name for name, array in arrays.items() if not array.size]:
        raise ValueError(f"{empty[0]} has shape {arrays[empty[0]].shape}, no values")
    if family == "original":
        arrays = {name: array for name, array in arrays.items() if name not in UNUSED}
    module = create(family, **{**_derive_fields(arrays, family, set(fields)), **fields})
    rows = _rows(module, family)
    shapes = _shapes(module)
    problems = [f"missing {name}" for name, _, _ in rows if name not in arrays]
    problems += [
        f"unexpected {name}" for name in sorted(arrays.keys() - {name for name, _, _ in rows})
    ]
    for name, path, layout in rows:
        if name in arrays and arrays[name].shape != layout.torch_shape(shapes[path]):
            problems.append(
                f"{name} has shape {arrays[name].shape}, not {layout.torch_shape(shapes[path])}"
            )
    if problems:
        raise ValueError(f"these weights do not fit {module}: " + "; ".join(problems))
    params: dict[str, Any] = {}
    for name, path, layout in rows:
        *parents, leaf = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(layout.to_ours(arrays[name], shapes[path]), jnp.float32)
    blocks = params["blocks"]
    params["blocks"] = jax.tree.map(
        lambda *each: jnp.stack(each), *(blocks[str(i)] for i in range(len(blocks)))
    )
    return module, params


def from_file(path: str | PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Module and parameters from a published .pt file; runs no code from it.

    The file holds a whole pickled network of the authors, {"state_dict": …}, or a state dict; the family is told by
    its names. Raises UnsafePickleError (a ValueError) where the file asks for anything but tensors, containers and
    known layers, ValueError where it is no such file, damaged, or holds another network.
    """
    state_dict = read_state_dict(path)
    names = _without_prefix(state_dict).keys()
    for family, telling in (("original", "m.weight"), ("improved", "mask_net.1.weight")):
        if telling in names:
            try:
                return from_state_dict(state_dict, family)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
    raise ValueError(
        f"{path}: neither m.weight (original) nor mask_net.1.weight (improved) among {sorted(names)[:50]}"
    )


def _without_prefix(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    if state_dict and all(name.startswith(PREFIX) for name in state_dict):
        return {name.removeprefix(PREFIX): value for name, value in state_dict.items()}
    return dict(state_dict)


def _derive_fields(
    arrays: Mapping[str, np.ndarray], family: str, given: set[str]
) -> dict[str, int]:
    """The fields not given. Where a telling array is missing, they cannot be known."""
    first, depthwise = "sm.0.proj_1x1.conv.weight", "sm.0.spp_dw."
    bottleneck = "l1.weight" if family == "original" else "bottleneck.weight"
    sources, axis = ("m.weight", 0) if family == "original" else ("decoder.weight", 1)
    telling = {
        "out_channels": (bottleneck, 0),
        "in_channels": (first, 0),
        "enc_kernel_size": ("decoder.weight", 2),
        "enc_num_basis": (bottleneck, 1),
        "num_sources": (sources, axis),
    }
    counted = {
        "num_blocks": {name.split(".")[1] for name in arrays if name.startswith("sm.")},
        "upsampling_depth": {name.split(".")[3] for name in arrays if name.startswith(depthwise)},
    }
    known = {field: len(indices) for field, indices in counted.items()}
    for field, (name, at) in telling.items():
        if field not in given and (name not in arrays or arrays[name].ndim <= at):
            shape = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
            raise ValueError(
                f"{name} {shape}: {field} of an {family!r} network cannot be read off it"
            )
        if field not in given:
            known[field] = arrays[name].shape[at]
    return {field: value for field, value in known.items() if field not in given}


def _shapes(module: nn.Module) -> dict[str, Shape]:
    """Our parameters: path with slashes → shape, each block's apart. Nothing is computed or allocated."""
    tree = jax.eval_shape(
        module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.float32)
    )["params"]
    shapes = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        first, *rest = (key.key for key in keys)
        if first == "blocks":
            for block in range(leaf.shape[0]):
                shapes["/".join([first, str(block), *rest])] = leaf.shape[1:]
        else:
            shapes["/".join([first, *rest])] = leaf.shape
    return shapes


def _rows(module: nn.Module, family: str) -> list[Row]:
    """One row for each parameter, in the order of PyTorch's names."""
    values = {field.name: getattr(module, field.name) for field in dataclass_fields(module)}
    original = family == "original"
    rows: list[Row] = [
        ("encoder.0.weight" if original else "encoder.weight", "encoder/kernel", PER_CHANNEL)
    ]
    if original:
        rows.append(("encoder.0.bias", "encoder/bias", SAME))
    rows += _norm("ln", "encoder_norm", original) + _conv(
        "l1" if original else "bottleneck", "bottleneck", POINTWISE
    )
    for block in range(values["num_blocks"]):
        rows += _block_rows(
            f"sm.{block}.", f"blocks/{block}/", values["upsampling_depth"], original
        )
    if not original:
        rows.append(("mask_net.0.weight", "mask_prelu/slope", SAME))
        return [
            *rows,
            *_conv("mask_net.1", "mask", POINTWISE),
            ("decoder.weight", "decoder/kernel", SAME),
        ]
    if values["out_channels"] != values["enc_num_basis"]:
        rows += _conv("reshape_before_masks", "mask/input", POINTWISE)
    return rows + _conv("m", "mask", MASK) + _conv("decoder", "decoder", DECODER)


def _block_rows(theirs: str, ours: str, depth: int, original: bool) -> list[Row]:
    rows = _conv(theirs + "proj_1x1.conv", ours + "expand", POINTWISE)
    rows += _norm(theirs + "proj_1x1.norm", ours + "expand_norm", original)
    rows.append((theirs + "proj_1x1.act.weight", ours + "expand_norm/slope", SAME))
    for level in range(depth):
        rows += _conv(f"{theirs}spp_dw.{level}.conv", f"{ours}depthwise_{level}", PER_CHANNEL)
        rows += _norm(f"{theirs}spp_dw.{level}.norm", f"{ours}depthwise_norm_{level}", original)
    rows += _norm(theirs + "final_norm.norm", ours + "merge_norm", original)
    rows.append((theirs + "final_norm.act.weight", ours + "merge_norm/slope", SAME))
    if not original:
        return rows + _conv(theirs + "res_conv", ours + "project", POINTWISE)
    rows += _conv(theirs + "conv_1x1_exp.conv", ours + "project", POINTWISE)
    rows += _norm(theirs + "conv_1x1_exp.norm", ours + "project_norm", original)
    rows += _norm(theirs + "module_act.norm", ours + "output_norm", original)
    return [*rows, (theirs + "module_act.act.weight", ours + "output_norm/slope", SAME)]


def _conv(theirs: str, ours: str, layout: Layout) -> list[Row]:
    return [
        (theirs + ".weight", ours + "/kernel", layout),
        (theirs + ".bias", ours + "/bias", SAME),
    ]


def _norm(theirs: str, ours: str, original: bool) -> list[Row]:
    scale, bias = ("weight", "bias") if original else ("gamma", "beta")
    return [
        (f"{theirs}.{scale}", ours + "/scale", SAME),
        (f"{theirs}.{bias}", ours + "/bias", SAME),
    ]

"""Separation networks: Flax modules that map a mixture [B,T] to estimates [B,N,T]."""

import dataclasses
import importlib
from typing import Any

import jax
from flax import linen as nn

from jaxsep.models.improved import ImprovedSudoRmRf
from jaxsep.models.sudormrf import SudoRmRf

__all__ = ["FAMILIES", "ImprovedSudoRmRf", "SudoRmRf", "count_params", "create"]

FAMILIES: dict[str, type[nn.Module]] = {"original": SudoRmRf, "improved": ImprovedSudoRmRf}
DTYPES = ("float32", "bfloat16")
# Least and most of each integer field. A number out of a damaged or malicious file is refused
# before a network of its size is traced.
BOUNDS = {
    "out_channels": (1, 4096),
    "in_channels": (1, 4096),
    "num_blocks": (1, 128),
    "upsampling_depth": (1, 12),
    "enc_kernel_size": (2, 4096),
    "enc_num_basis": (1, 4096),
    "num_sources": (1, 64),
}


def create(family: str, **fields: Any) -> nn.Module:
    """The network of a family with the given fields; fields left out keep the authors' values.

    Args:
      family: 'original', 'improved', or 'package.module:Class', any Flax module that can be
        imported and maps [B,T] to [B,N,T].
      fields: see `layers.Network` and BOUNDS; 'original' needs an even enc_num_basis, because its
        mask layer gives K + 1 bases for an odd K. A class of the user's gets those of the fields
        that it has, so that one configuration serves every family.

    Raises:
      ValueError: names the field (`model.…`), its value and the legal values.
    """
    if family not in FAMILIES:
        module = _import_class(family)
        known = field_names(module)
        return module(**{name: value for name, value in fields.items() if name in known})
    legal = field_names(FAMILIES[family])
    for name, value in fields.items():
        if name not in legal:
            raise ValueError(
                f"model.{name} is not a field of family {family!r}; "
                f"its fields are {', '.join(legal)}"
            )
        if name in BOUNDS:
            least, most = BOUNDS[name]
            right = type(value) is int and least <= value <= most
            expected = f"an integer of at least {least}, at most {most}"
        else:
            choices = DTYPES if name == "dtype" else (True, False)
            right, expected = value in choices, " or ".join(map(repr, choices))
        if not right:
            raise ValueError(f"model.{name} is {value!r:.80}; it must be {expected}")
    if family == "original" and fields.get("enc_num_basis", 0) % 2:
        raise ValueError(
            f"model.enc_num_basis is {fields['enc_num_basis']}; "
            "family 'original' needs an even number"
        )
    return FAMILIES[family](**fields)


def field_names(module: nn.Module | type[nn.Module]) -> list[str]:
    """The fields of a network, without those that every Flax module has."""
    fields = [field for field in dataclasses.fields(module) if field.init]
    return [field.name for field in fields if field.name not in ("parent", "name")]


def _import_class(family: str) -> type[nn.Module]:
    legal = f"it must be {', '.join(map(repr, FAMILIES))} or 'package.module:Class'"
    module_name, _, class_name = str(family).partition(":")
    if not module_name or not class_name:
        raise ValueError(f"model.family is {family!r}; {legal}")
    try:
        network = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"model.family is {family!r}, which cannot be imported ({error}); {legal}"
        ) from error
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise ValueError(f"model.family is {family!r}, which is no flax.linen.Module; {legal}")
    return network


def count_params(params: Any) -> int:
    """Number of values in a tree of parameters."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))

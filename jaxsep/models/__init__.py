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
# Bounds of the fields, so that a number out of a damaged or hostile file is refused before a network of its size is traced.
LARGEST = {"num_blocks": 128, "upsampling_depth": 12, "num_sources": 64}
LARGEST_SIZE = 4096  # of the other fields


def create(family: str, **fields: Any) -> nn.Module:
    """The network of a family, with the given fields; those left out keep the authors' values.

    family: 'original' (Tzinis, Wang, Smaragdis, "Sudo rm -rf", MLSP 2020), 'improved' (the authors' later version),
    or 'package.module:Class', any Flax module that can be imported and maps [B,T] to [B,N,T]. Such a class gets those
    of the fields that it has as dataclass fields; the others are left out without a word, so that one configuration
    serves every family.

    fields of the first two: out_channels, in_channels, num_blocks, upsampling_depth, enc_num_basis, num_sources,
    integers ≥ 1; enc_kernel_size (samples), an integer ≥ 2; all at most LARGEST or LARGEST_SIZE; dtype, 'float32' or
    'bfloat16', of what lies between the layers and of the matrix products' operands (parameters, norms, sums and estimates
    are float32 either way); remat, a bool, whether the gradient makes what lies inside a block again instead of keeping it.
    'original' needs an even enc_num_basis (the mask layer gives K + 1 bases for an odd K).

    Raises ValueError naming the field (`model.…`), its value and the legal values.
    """
    if family not in FAMILIES:
        module = _import_class(family)
        return module(
            **{name: value for name, value in fields.items() if name in _field_names(module)}
        )
    legal = _field_names(FAMILIES[family])
    for name, value in fields.items():
        if name not in legal:
            raise ValueError(
                f"model.{name} is not a field of family {family!r}; its fields are {', '.join(legal)}"
            )
        least, most = 2 if name == "enc_kernel_size" else 1, LARGEST.get(name, LARGEST_SIZE)
        if name == "dtype":
            if value not in DTYPES:
                raise ValueError(
                    f"model.dtype is {value!r}; it must be {' or '.join(map(repr, DTYPES))}"
                )
        elif name == "remat":
            if not isinstance(value, bool):
                raise ValueError(f"model.remat is {value!r}; it must be True or False")
        elif isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"model.{name} is {value!r:.80}; it must be an integer of at least {least}, at most {most}"
            )
    if family == "original" and fields.get("enc_num_basis", 0) % 2:
        raise ValueError(
            f"model.enc_num_basis is {fields['enc_num_basis']}; family 'original' needs an even number"
        )
    return FAMILIES[family](**fields)


def _field_names(module: type[nn.Module]) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(module)
        if field.init and field.name not in ("parent", "name")
    ]


def _import_class(family: str) -> type[nn.Module]:
    legal = f"it must be {', '.join(map(repr, FAMILIES))} or 'package.module:Class'"
    module_name, _, class_name = str(family).partition(":")
    if not module_name or not class_name:
        raise ValueError(f"model.family is {family!r}; {legal}")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"model.family is {family!r}, which cannot be imported ({error}); {legal}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"model.family is {family!r}, which is no flax.linen.Module; {legal}")
    return found


def count_params(params: Any) -> int:
    """Number of values in a tree of parameters."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))

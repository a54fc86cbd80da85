"""The one place where a primitive's formulation is chosen per backend.

XLA's CPU code is fast for element-wise loops, matrix products and plain column sums. It is slow, by factors of 3 to
10, where an array that several loops read is made again inside each of them, and for sums over time of fused
products. The CPU formulations here end both; any other backend gets the plain formulation, as no other was measured
there.
"""

from collections.abc import Callable
from functools import partial, reduce, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.xla_metadata import set_xla_metadata

Products = Callable[..., tuple[Array, ...]]
TILE = 4  # frames that one step of a loop adds up


def on_cpu() -> bool:
    """Whether what is traced now is meant for a CPU."""
    return jax.default_backend() == "cpu"


def apart(function: Callable[..., Any], static: tuple[str, ...] = ()) -> Callable[..., Any]:
    """function, compiled on its own where the backend is a CPU.

    XLA's CPU code otherwise repeats the loops that make an array inside every loop that reads it, through whole
    chains of layers. A call that must not be inlined ends that. Where XLA no longer knows the attribute, results stay
    the same. function may call no jitted function that JAX does not inline (`jnp.where`, `jnp.pad`): under automatic
    differentiation the attribute passes on to such a call.
    """

    @partial(jax.jit, static_argnames=static)
    @wraps(function)
    def compiled(*arrays: Any, **options: int) -> Any:
        with set_xla_metadata(
            inlineable=None
        ):  # the attribute is for this call, not for the calls inside it
            return function(*arrays, **options)

    @wraps(function)
    def call(*arrays: Any, **options: int) -> Any:
        if not on_cpu():
            return function(*arrays, **options)
        with set_xla_metadata(inlineable="false"):
            return compiled(*arrays, **options)

    return call


def wide(x: Array) -> Array:
    """x in float32, or as it is where it is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sums_plain(products: Products, *arrays: Array) -> tuple[Array, ...]:
    return tuple(product.sum(1) for product in products(*map(wide, arrays)))


def _sums_tiled(products: Products, *arrays: Array) -> tuple[Array, ...]:
    """As `_sums_plain`: a loop without accumulators adds up each tile of neighbouring frames, a plain sum the tiles.

    The stack keeps XLA from making the tiles again inside that sum.
    """
    frames = arrays[0].shape[1]
    whole = frames - frames % TILE
    rows = [products(*(wide(array[:, row:whole:TILE]) for array in arrays)) for row in range(TILE)]
    tiles = jnp.stack([reduce(jnp.add, column) for column in zip(*rows, strict=True)], axis=2)
    totals = tiles.sum(1)
    if whole < frames:
        totals += jnp.stack(_sums_plain(products, *(array[:, whole:] for array in arrays)), axis=1)
    return tuple(totals[:, number] for number in range(totals.shape[1]))


def sums_over_time(products: Products, *arrays: Array) -> tuple[Array, ...]:
    """Sums over frames, each [B,C], of the arrays [B,F,C] that products makes of arrays [B,F,C], frame by frame, in
    float32 or wider."""
    return (_sums_tiled if on_cpu() else _sums_plain)(products, *arrays)

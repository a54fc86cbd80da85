"""The one place that chooses how a kernel is computed on which backend.

XLA's CPU code is fast for element-wise loops, matrix products and plain column sums. It is slow, by
factors of 3 to 10, in two cases: where several loops read one array, it computes the array again
inside each of them; and where it sums products over time. The formulations for the CPU avoid both
(`uninlined`, `sums_over_time`). Other backends get the plain formulation; nothing was measured on
them.
"""

from collections.abc import Callable
from functools import partial, reduce, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.xla_metadata import set_xla_metadata

TILE = 4  # neighbouring frames that one step of a loop adds up


def on_cpu() -> bool:
    """Whether the program that is being traced is meant for a CPU."""
    return jax.default_backend() == "cpu"


def uninlined(function: Callable[..., Any], static: tuple[int, ...] = ()) -> Callable[..., Any]:
    """The same function, as a call that XLA's CPU compiler does not inline into its surroundings.

    Without this, XLA repeats the loops that make an array inside every loop that reads it, through
    whole chains of layers. A version of XLA that ignores the attribute gives the same results.

    Args:
      function: of arrays. It must not call jitted functions that JAX does not inline, such as
        `jnp.where` and `jnp.pad`: automatic differentiation would pass the attribute on to them.
      static: places of its arguments that are no arrays.
    """

    @partial(jax.jit, static_argnums=static)
    @wraps(function)
    def compiled(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable=None):  # the attribute is for this call alone
            return function(*arguments)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        if not on_cpu():
            return function(*arguments)
        with set_xla_metadata(inlineable="false"):
            return compiled(*arguments)

    return call


def at_least_float32(x: Array) -> Array:
    """x in float32, or unchanged where its type is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def sums_over_time(products: Callable[..., tuple[Array, ...]], *arrays: Array) -> tuple[Array, ...]:
    """Sums over frames, Σ_f products(arrays)[b, f, c], in float32 or wider.

    Args:
      products: makes a tuple of arrays [B,F,C] of the given arrays, each frame by itself.
      arrays: [B,F,C] each.

    Returns:
      An array [B,C] for each product.
    """

    def plain(*arrays: Array) -> list[Array]:
        return [product.sum(1) for product in products(*map(at_least_float32, arrays))]

    if not on_cpu():
        return tuple(plain(*arrays))
    # A loop without accumulators adds up tiles of neighbouring frames, a plain sum the tiles.
    frames = arrays[0].shape[1]
    whole = frames - frames % TILE
    rows = [
        products(*(at_least_float32(array[:, row:whole:TILE]) for array in arrays))
        for row in range(TILE)
    ]
    # The stack keeps XLA from computing the tiles again inside that sum.
    tiles = jnp.stack([reduce(jnp.add, column) for column in zip(*rows, strict=True)], axis=2)
    totals = tiles.sum(1)
    if whole < frames:
        totals += jnp.stack(plain(*(array[:, whole:] for array in arrays)), axis=1)
    return tuple(totals[:, number] for number in range(totals.shape[1]))

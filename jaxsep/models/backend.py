"""The one place where a primitive's formulation is chosen per backend.

XLA's CPU code is fast for element-wise loops, matrix products and plain column sums. It is slow, by factors of 3 to
10, where an array that several loops read is made again inside each of them, and for sums over time of fused
products. The CPU formulations here end both; any other backend gets the plain formulation, as no other was measured
there.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata

Products = Callable[..., tuple[Array, ...]]


def apart(function: Callable[..., Any], static: tuple[str, ...] = ()) -> Callable[..., Any]:
    """function, compiled on its own where the backend is a CPU.

    XLA's CPU code otherwise repeats the loops that make an array inside every loop that reads it, through whole
    chains of layers. A call that must not be inlined ends that. Where XLA no longer knows the attribute, results stay
    the same.
    """

    @partial(jax.jit, static_argnames=static)
    @wraps(function)
    def compiled(*arrays: Array, **options: int) -> Any:
        with set_xla_metadata(inlineable=None):  # the attribute is for this call, not for the calls inside it
            return function(*arrays, **options)

    @wraps(function)
    def call(*arrays: Array, **options: int) -> Any:
        def on_cpu(*arrays: Array) -> Any:
            with set_xla_metadata(inlineable="false"):
                return compiled(*arrays, **options)

        return lax.platform_dependent(*arrays, cpu=on_cpu, default=partial(function, **options))

    return call


def chunk_length(batch: int, frames: int) -> int:
    """Frames per step of the loops below: few enough for the accumulators to stay in the cache."""
    return min(frames, max(8, 64 // batch))


def _sums_plain(products: Products, *arrays: Array) -> tuple[Array, ...]:
    return tuple(product.sum(1) for product in products(*arrays))


def _sums_chunked(products: Products, *arrays: Array) -> tuple[Array, ...]:
    """As `_sums_plain`; accumulators carried over chunks of time make each step an element-wise loop in the cache."""
    batch, frames = arrays[0].shape[:2]
    chunk = chunk_length(batch, frames)

    def add_chunk(step: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
        parts = products(*(lax.dynamic_slice_in_dim(array, step * chunk, chunk, 1) for array in arrays))
        return tuple(map(jnp.add, totals, parts))

    steps = frames // chunk
    first = products(*(array[:, :chunk] for array in arrays))
    totals = [total.sum(1) for total in lax.fori_loop(1, steps, add_chunk, first)]
    if frames % chunk:
        rest = _sums_plain(products, *(array[:, steps * chunk :] for array in arrays))
        totals = [total + part for total, part in zip(totals, rest, strict=True)]
    return tuple(totals)


def sums_over_time(products: Products, *arrays: Array) -> tuple[Array, ...]:
    """Sums over frames, each [B,C], of the arrays [B,F,C] that products makes of arrays [B,F,C], frame by frame."""
    return lax.platform_dependent(*arrays, cpu=partial(_sums_chunked, products), default=partial(_sums_plain, products))

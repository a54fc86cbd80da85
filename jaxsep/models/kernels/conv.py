"""The convolutions of the networks' blocks, and the step between their resolutions, channels last.

Shapes: B batch, F frames, C channels. Results have the type of x. Where that is narrower than
float32, parameters stay float32, and loops, sums and matrix products add up in float32.

The gradients are written by hand (`jax.custom_vjp`), because those of automatic differentiation are
slow on a CPU; both are equal up to rounding. Second derivatives and `jax.jvp` are not supported.
"""

from collections.abc import Iterable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsep.models.kernels.backend import at_least_float32, on_cpu, uninlined

KERNEL = 5  # taps of every depthwise convolution of the family
PADDING = 2
TILE = 8  # neighbouring frames that one step of the kernel gradient's loop adds up


@partial(jax.custom_vjp, nondiff_argnums=(2,))
@partial(uninlined, static=(2,))
def product(x: Array, kernel: Array, dtype: Any = None) -> Array:
    """1×1 convolution without its bias: y[b, f] = x[b, f] · kernel.

    x: [B,F,Ci]; kernel: [Ci,Co]; dtype: of the result, that of x where None. Returns [B,F,Co].
    """
    return _dot(x, kernel.astype(x.dtype), (2, 0)).astype(dtype or x.dtype)


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """Matrix product over one axis of each, added up in float32 or wider."""
    contracted = ((axes[:1], axes[1:]), ((), ()))
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, contracted, preferred_element_type=wide)


@uninlined
def _product_gradients(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
    """dx = g · kernelᵀ and dkernel = Σ_{b,f} x[b, f] ⊗ g[b, f]."""
    g = g.astype(x.dtype)
    x_rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    # A product over rows transposes a copy of its left operand on a CPU: the smaller goes left.
    smaller_first = x_rows.shape[1] <= g_rows.shape[1]
    dkernel = _dot(x_rows, g_rows, (0, 0)) if smaller_first else _dot(g_rows, x_rows, (0, 0)).T
    return _dot(g, kernel.astype(x.dtype), (2, 1)).astype(x.dtype), dkernel


product.defvjp(
    lambda x, kernel, dtype: (product(x, kernel, dtype), (x, kernel)),
    lambda dtype, saved, g: _product_gradients(*saved, g),
)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(x: Array, kernel: Array, stride: int) -> Array:
    """One filter for each channel, without a bias, zeros outside of x.

        y[b, f, c] = Σ_j kernel[j, c] · x[b, f·stride + j − 2, c]

    x: [B,F,C], F ≥ 1; kernel: [5,C]; stride: 1 or 2. Returns [B,⌈F/stride⌉,C].
    """
    return _depthwise(x, *kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_branch(x: Array, kernel: Array, stride: int) -> tuple[Array, Array]:
    """`depthwise_conv(x, kernel, stride)`, and x for its next reader.

    The gradient of that reader then comes in here, and is added in the loop that makes the
    gradient of the convolution, which spares a loop over x.
    """
    return _depthwise(x, *kernel, stride), x


def _padded(x: Array, before: int, after: int) -> Array:
    """Zeros before and after in time; negative numbers cut. (`jnp.pad` is a call of its own.)"""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (before, after, 0), (0, 0, 0)))


def _windows(x: Array, first: int, frames: int, stride: int) -> list[Array]:
    """For each tap j the frames x[:, f·stride + first + j], f < frames; zeros outside of x."""
    span = (frames - 1) * stride + 1
    starts = range(first, first + KERNEL)
    return [_padded(x, -start, start + span - x.shape[1])[:, ::stride] for start in starts]


@partial(uninlined, static=(1 + KERNEL,))
def _depthwise(x: Array, *taps_and_stride: Any) -> Array:
    *taps, stride = taps_and_stride
    # The taps come one by one: a loop over rows of one small array is slower by a factor of 4.
    windows = _windows(x, -PADDING, -(-x.shape[1] // stride), stride)
    terms = [window * tap[None, None] for window, tap in zip(windows, taps, strict=True)]
    return reduce(jnp.add, terms).astype(x.dtype)


@partial(uninlined, static=(3, 4))
def _depthwise_input_gradient(
    g: Array, taps: tuple[Array, ...], others: tuple[Array, ...], stride: int, frames: int
) -> Array:
    """Gradient of x [B,frames,C]; others: the gradients of other readers of x, added."""
    beyond, zero = frames - (g.shape[1] - 1) * stride - 1, jnp.zeros((), g.dtype)

    def moved(number: int) -> Array:
        """Frame f of g at f·stride + number − 2, zeros between."""
        shift = number - PADDING
        return lax.pad(g, zero, ((0, 0, 0), (shift, beyond - shift, stride - 1), (0, 0, 0)))

    terms = [*others, *(moved(number) * tap[None, None] for number, tap in enumerate(taps))]
    return reduce(jnp.add, terms).astype(g.dtype)


@partial(uninlined, static=(2,))
def _depthwise_kernel_gradient(x: Array, g: Array, stride: int) -> Array:
    """Σ_{b,f} g[b, f] · x[b, f·stride + j − 2] for the five taps j, [5,C].

    On a CPU tiles of neighbouring frames are added up first (see `backend`). Those between the
    first and the last tile read x inside its bounds, without padding.
    """
    tiles = g.shape[1] // TILE

    def products(g: Array, start: int) -> list[Array]:
        windows = _windows(x, start * stride - PADDING, g.shape[1], stride)
        return [at_least_float32(g) * window for window in windows]

    if tiles < 3 or not on_cpu():
        return jnp.stack([product.sum((0, 1)) for product in products(g, 0)])
    first, last = TILE, (tiles - 1) * TILE
    inner_g = [at_least_float32(g[:, first + row : last : TILE]) for row in range(TILE)]

    def inner(tap: int) -> Array:
        stop = (last - 1) * stride + KERNEL
        starts = [(first + row) * stride + tap - PADDING for row in range(TILE)]
        windows = [x[:, start : stop : TILE * stride][:, : tiles - 2] for start in starts]
        return reduce(jnp.add, [g * window for g, window in zip(inner_g, windows, strict=True)])

    def total(terms: Iterable[Array]) -> Array:
        return jnp.stack(list(terms), axis=2).sum((0, 1))

    edges = total(products(g[:, :first], 0)), total(products(g[:, last:], last))
    return total(map(inner, range(KERNEL))) + edges[0] + edges[1]


def _depthwise_gradients(
    stride: int, saved: tuple[Array, Array], g: Array, *others: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    dx = _depthwise_input_gradient(g, tuple(kernel), others, stride, x.shape[1])
    return dx, _depthwise_kernel_gradient(x, g, stride)


depthwise_conv.defvjp(
    lambda x, kernel, stride: (depthwise_conv(x, kernel, stride), (x, kernel)),
    _depthwise_gradients,
)
depthwise_branch.defvjp(
    lambda x, kernel, stride: (depthwise_branch(x, kernel, stride), (x, kernel)),
    lambda stride, saved, gs: _depthwise_gradients(stride, saved, *gs),
)


@jax.custom_vjp
@uninlined
def add_upsampled(fine: Array, coarse: Array) -> Array:
    """y[b, f] = fine[b, f] + coarse[b, f // 2]: each coarse frame is repeated once.

    fine: [B,2F,C]; coarse: [B,F,C]. Returns [B,2F,C].
    """
    batch, frames, channels = coarse.shape
    return (fine.reshape(batch, frames, 2, channels) + coarse[:, :, None]).reshape(fine.shape)


# Automatic differentiation sums over an axis of length two; adding two slices is one plain loop.
add_upsampled.defvjp(
    lambda fine, coarse: (add_upsampled(fine, coarse), None),
    lambda _, g: (g, g[:, 0::2] + g[:, 1::2]),
)

"""Primitives of the separation networks' blocks, channels last, as pure functions of arrays.

Shapes: B batch, F frames, C channels. All functions take the batch axis first; further axes come from `jax.vmap`.
Results have the dtype of x. Where that is narrower than float32, loops and sums compute in float32 (parameters are
float32 and stay so), and matrix products add up in float32.

All carry hand-written gradients (`jax.custom_vjp`), equal to those of automatic differentiation up to rounding: what
that writes here is slow on a CPU (see `backend`, where formulations are chosen, and what its functions ask of them).
Second derivatives and forward mode (`jax.jvp`) are not supported.

Source: Tzinis, Wang, Smaragdis, "Sudo rm -rf: efficient networks for universal audio source separation", MLSP 2020.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsep.models.backend import apart, sums_over_time, wide

NORM_EPSILON = 1e-8
KERNEL = 5  # taps of every depthwise convolution of the family
PADDING = 2
TILE = 8  # frames that one step of the parameter gradients' loop adds up


# --- 1×1 convolution ---------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def pointwise(x: Array, kernel: Array, bias: Array, dtype: Any = None) -> Array:
    """1×1 convolution: y[b, f] = x[b, f] · kernel + bias.

    x: [B,F,Ci]; kernel: [Ci,Co]; bias: [Co]; dtype: of the result, x's where None. Returns [B,F,Co].
    """
    return _pointwise(x, kernel, bias, dtype=dtype)


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """Product over one axis of each, added up in float32 or wider."""
    contracted = ((axes[:1], axes[1:]), ((), ()))
    return lax.dot_general(a, b, contracted, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


@partial(apart, static=("dtype",))
def _pointwise(x: Array, kernel: Array, bias: Array, *, dtype: Any) -> Array:
    return (_dot(x, kernel.astype(x.dtype), (2, 0)) + bias[None, None]).astype(dtype or x.dtype)


@apart
def _pointwise_gradients(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    narrow = g.astype(x.dtype)
    x_rows, g_rows = x.reshape(-1, x.shape[-1]), narrow.reshape(-1, g.shape[-1])
    # A product over rows costs a transposed copy of its left operand on a CPU: let that be the smaller one.
    smaller_first = x_rows.shape[1] <= g_rows.shape[1]
    dkernel = _dot(x_rows, g_rows, (0, 0)) if smaller_first else _dot(g_rows, x_rows, (0, 0)).T
    return _dot(narrow, kernel.astype(x.dtype), (2, 1)).astype(x.dtype), dkernel, wide(g).sum((0, 1))


pointwise.defvjp(
    lambda x, kernel, bias, dtype: (_pointwise(x, kernel, bias, dtype=dtype), (x, kernel)),
    lambda dtype, saved, g: _pointwise_gradients(*saved, g),
)


def product(x: Array, kernel: Array, dtype: Any = None) -> Array:
    """`pointwise` without a bias."""
    return pointwise(x, kernel, jnp.zeros(kernel.shape[1], kernel.dtype), dtype)


# --- depthwise convolution ---------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def depthwise_conv(x: Array, kernel: Array, bias: Array, stride: int) -> Array:
    """One filter per channel: y[b, f, c] = bias[c] + Σ_j kernel[j, c] · x[b, f·stride + j − 2, c], zeros outside.

    x: [B,F,C], F ≥ 1; kernel: [5,C]; bias: [C]; stride: 1 or 2. Returns [B,⌈F/stride⌉,C].
    """
    return _depthwise(x, bias, *kernel, stride=stride)


def _padded(x: Array, before: int, after: int) -> Array:
    """Zeros before and after in time; what is negative is cut. (`jnp.pad` would be a call inside a call.)"""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (before, after, 0), (0, 0, 0)))


def _windows(x: Array, first: int, frames: int, stride: int) -> list[Array]:
    """For each tap j the frames x[:, f·stride + first + j], f < frames; zeros outside x."""
    span = (frames - 1) * stride + 1
    starts = range(first, first + KERNEL)
    return [_padded(x, -start, start + span - x.shape[1])[:, ::stride] for start in starts]


@partial(apart, static=("stride",))
def _depthwise(x: Array, bias: Array, *taps: Array, stride: int) -> Array:
    # The taps come one by one: XLA's loops over several rows of one small array are slower by a factor of 4.
    windows = _windows(x, -PADDING, -(-x.shape[1] // stride), stride)
    terms = [window * tap[None, None] for window, tap in zip(windows, taps, strict=True)]
    return (reduce(jnp.add, terms) + bias[None, None]).astype(x.dtype)


@partial(apart, static=("stride",))
def _depthwise_input_gradient(x: Array, g: Array, *taps: Array, stride: int) -> Array:
    frames, zero = x.shape[1], jnp.zeros((), g.dtype)
    beyond = frames - (g.shape[1] - 1) * stride - 1

    def moved(number: int) -> Array:
        """Frame f of g at f·stride + number − 2, zeros between."""
        shift = number - PADDING
        return lax.pad(g, zero, ((0, 0, 0), (shift, beyond - shift, stride - 1), (0, 0, 0)))

    return reduce(jnp.add, [moved(number) * tap[None, None] for number, tap in enumerate(taps)]).astype(x.dtype)


def _parameter_gradients_plain(x: Array, g: Array, stride: int) -> tuple[Array, Array]:
    """Σ_{b,f} g[b, f] · x[b, f·stride + j − 2] for the five taps j, as [5,C], and Σ_{b,f} g[b, f]."""
    products = [(wide(g) * window).sum((0, 1)) for window in _windows(x, -PADDING, g.shape[1], stride)]
    return jnp.stack(products), wide(g).sum((0, 1))


def _parameter_gradients_tiled(x: Array, g: Array, stride: int) -> tuple[Array, Array]:
    """The same, tiles of frames added up first (see `backend`). The first and the last tile are apart from the others, which
    read x inside its bounds."""
    tiles = g.shape[1] // TILE
    if tiles < 3:
        return _parameter_gradients_plain(x, g, stride)
    first, last = TILE, (tiles - 1) * TILE

    def inner(tap: int) -> Array:
        stop = (last - 1) * stride + KERNEL
        windows = (x[:, (first + row) * stride + tap - PADDING : stop : TILE * stride] for row in range(TILE))
        return reduce(jnp.add, [rows * window[:, : tiles - 2] for rows, window in zip(inner_g, windows, strict=True)])

    def edge(edge_g: Array, start: int) -> Array:
        windows = _windows(x, start * stride - PADDING, edge_g.shape[1], stride)
        return jnp.stack([*(wide(edge_g) * window for window in windows), wide(edge_g)], axis=2).sum((0, 1))

    inner_g = [wide(g[:, first + row : last : TILE]) for row in range(TILE)]
    totals = jnp.stack([*map(inner, range(KERNEL)), reduce(jnp.add, inner_g)], axis=2).sum((0, 1))
    totals += edge(g[:, :first], 0) + edge(g[:, last:], last)
    return totals[:KERNEL], totals[KERNEL]


@partial(apart, static=("stride",))
def _depthwise_parameter_gradients(x: Array, g: Array, *, stride: int) -> tuple[Array, Array]:
    return lax.platform_dependent(
        x,
        g,
        cpu=partial(_parameter_gradients_tiled, stride=stride),
        default=partial(_parameter_gradients_plain, stride=stride),
    )


def _depthwise_fwd(x: Array, kernel: Array, bias: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, bias, *kernel, stride=stride), (x, kernel)


def _depthwise_bwd(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, kernel = saved
    dx = _depthwise_input_gradient(x, g, *kernel, stride=stride)
    return dx, *_depthwise_parameter_gradients(x, g, stride=stride)


depthwise_conv.defvjp(_depthwise_fwd, _depthwise_bwd)


# --- norm and PReLU ----------------------------------------------------------------------------------------------------


@jax.custom_vjp
def global_norm(x: Array, scale: Array, bias: Array) -> Array:
    """Group norm with a single group: y = (x − μ_b) / √(σ²_b + 1e-8) · scale[c] + bias[c].

    μ_b and σ²_b are the mean and the population variance of example b over time and channels, zero padding included;
    the variance is taken about the mean, in a second pass. x: [B,F,C]; scale, bias: [C]. Returns [B,F,C]. A constant
    example gives bias, with finite gradients.
    """
    return _global_norm_fwd(x, scale, bias)[0]


@jax.custom_vjp
def prelu(x: Array, slope: Array) -> Array:
    """y = x where x > 0, slope · x elsewhere (at 0 the gradient is the slope's, as PyTorch's).

    x: [B,F,C]; slope: [C], one per channel, or [1], one for all. Returns [B,F,C].
    """
    return _prelu(x, slope)


@jax.custom_vjp
def norm_prelu(x: Array, scale: Array, bias: Array, slope: Array) -> Array:
    """`prelu(global_norm(x, scale, bias), slope)` in one; what lies between is not kept but made again for the gradient.

    x: [B,F,C]; scale, bias: [C]; slope: [C] or [1]. Returns [B,F,C].
    """
    return _norm_prelu_fwd(x, scale, bias, slope)[0]


def _statistics(x: Array) -> tuple[Array, Array]:
    """Mean and 1/√(variance + ε) of each example, [B,1,1]."""
    mean = wide(x).mean((1, 2), keepdims=True)
    variance = jnp.square(wide(x) - mean).mean((1, 2), keepdims=True)
    return mean, lax.rsqrt(variance + NORM_EPSILON)


def _normalised(x: Array, mean: Array, rstd: Array, scale: Array, bias: Array) -> Array:
    return (x - mean) * (rstd * scale[None, None]) + bias[None, None]


def _norm_gradients(
    x: Array, mean: Array, rstd: Array, scale: Array, g: Array, sums: Array, products: Array
) -> tuple[Array, Array, Array]:
    """Gradients of x, scale and bias, given g, that of the normalised output.

    sums, products: the sums over time of g and of g · (x − mean), [B,C].
    """
    size = x.shape[1] * x.shape[2]
    mean_g = (sums * scale[None]).sum(1)[:, None, None] / size
    mean_gx = (products * scale[None]).sum(1)[:, None, None] / size
    dx = (g * scale[None, None] - mean_g - (x - mean) * (mean_gx * rstd * rstd)) * rstd
    return dx.astype(x.dtype), (products * rstd[:, 0]).sum(0), sums.sum(0)


def _bend(x: Array, slope: Array) -> Array:
    return lax.select(x > 0, x, x * slope[None, None])


def _prelu_input_gradient(x: Array, slope: Array, g: Array) -> Array:
    g = wide(g)
    return lax.select(x > 0, g, g * slope[None, None])


def _slope_gradient(slope: Array, per_channel: Array) -> Array:
    return per_channel if slope.shape == per_channel.shape else per_channel.sum(keepdims=True)


@apart
def _global_norm_fwd(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    mean, rstd = _statistics(x)
    return _normalised(x, mean, rstd, scale, bias).astype(x.dtype), (mean, rstd)


@apart
def _global_norm_gradients(x: Array, mean: Array, rstd: Array, scale: Array, g: Array) -> tuple[Array, Array, Array]:
    sums, products = sums_over_time(lambda x, g: (g, g * (x - mean)), x, g)
    return _norm_gradients(x, mean, rstd, scale, g, sums, products)


@apart
def _prelu(x: Array, slope: Array) -> Array:
    return _bend(wide(x), slope).astype(x.dtype)


@apart
def _prelu_gradients(x: Array, slope: Array, g: Array) -> tuple[Array, Array]:
    (sums,) = sums_over_time(lambda x, g: (g * jnp.minimum(x, 0),), x, g)
    return _prelu_input_gradient(x, slope, g).astype(x.dtype), _slope_gradient(slope, sums.sum(0))


@apart
def _norm_prelu_fwd(x: Array, scale: Array, bias: Array, slope: Array) -> tuple[Array, tuple[Array, Array]]:
    mean, rstd = _statistics(x)
    y = _normalised(x, mean, rstd, scale, bias)
    return _bend(y, slope).astype(x.dtype), (mean, rstd)


@apart
def _norm_prelu_gradients(
    x: Array, mean: Array, rstd: Array, scale: Array, bias: Array, slope: Array, g: Array
) -> tuple[Array, Array, Array, Array]:
    def products(x: Array, g: Array) -> tuple[Array, Array, Array]:
        y = _normalised(x, mean, rstd, scale, bias)
        dy = _prelu_input_gradient(y, slope, g)
        return dy, dy * (x - mean), g * jnp.minimum(y, 0)

    sums, centred, slopes = sums_over_time(products, x, g)
    dy = _prelu_input_gradient(_normalised(x, mean, rstd, scale, bias), slope, g)
    return *_norm_gradients(x, mean, rstd, scale, dy, sums, centred), _slope_gradient(slope, slopes.sum(0))


def _global_norm_keep(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    y, (mean, rstd) = _global_norm_fwd(x, scale, bias)
    return y, (x, mean, rstd, scale)


def _norm_prelu_keep(x: Array, scale: Array, bias: Array, slope: Array) -> tuple[Array, tuple[Array, ...]]:
    y, (mean, rstd) = _norm_prelu_fwd(x, scale, bias, slope)
    return y, (x, mean, rstd, scale, bias, slope)


global_norm.defvjp(_global_norm_keep, lambda saved, g: _global_norm_gradients(*saved, g))
prelu.defvjp(lambda x, slope: (_prelu(x, slope), (x, slope)), lambda saved, g: _prelu_gradients(*saved, g))
norm_prelu.defvjp(_norm_prelu_keep, lambda saved, g: _norm_prelu_gradients(*saved, g))


# --- resolution --------------------------------------------------------------------------------------------------------


@jax.custom_vjp
def upsample(x: Array) -> Array:
    """Nearest neighbour, twice as many frames: y[b, f] = x[b, f // 2]. x: [B,F,C]. Returns [B,2F,C]."""
    batch, frames, channels = x.shape
    return jnp.broadcast_to(x[:, :, None], (batch, frames, 2, channels)).reshape(batch, 2 * frames, channels)


# Automatic differentiation sums over an axis of length two; the two strided slices are an element-wise loop.
upsample.defvjp(lambda x: (upsample(x), None), lambda _, g: (g[:, 0::2] + g[:, 1::2],))

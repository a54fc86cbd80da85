"""Primitives of the separation networks' blocks, channels last, as pure functions of arrays.

Shapes: B batch, F frames, C channels. All functions take the batch axis first; further axes come from `jax.vmap`.
Statistics of the norms are taken in float32 or wider; everything else keeps the dtype of the input.

All carry hand-written gradients (`jax.custom_vjp`), equal to those of automatic differentiation up to rounding: what
that writes here is slow on a CPU (see `backend`, where formulations are chosen).
Second derivatives and forward mode (`jax.jvp`) are not supported.

Source: Tzinis, Wang, Smaragdis, "Sudo rm -rf: efficient networks for universal audio source separation", MLSP 2020.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsep.models.backend import apart, chunk_length, sums_over_time

NORM_EPSILON = 1e-8
KERNEL = 5  # taps of every depthwise convolution of the family
PADDING = 2


# --- 1×1 convolution ---------------------------------------------------------------------------------------------------


@jax.custom_vjp
def pointwise(x: Array, kernel: Array, bias: Array) -> Array:
    """1×1 convolution: y[b, f] = x[b, f] · kernel + bias.

    x: [B,F,Ci]; kernel: [Ci,Co]; bias: [Co]. Returns [B,F,Co].
    """
    return _pointwise(x, kernel, bias)


@apart
def _pointwise(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel + bias[None, None]


@apart
def _pointwise_gradients(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    x_rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    # A product over rows costs a transposed copy of its left operand on a CPU: let that be the smaller one.
    over_rows = (((0,), (0,)), ((), ()))
    if x_rows.shape[1] <= g_rows.shape[1]:
        dkernel = lax.dot_general(x_rows, g_rows, over_rows)
    else:
        dkernel = lax.dot_general(g_rows, x_rows, over_rows).T
    return g @ kernel.T, dkernel, g.sum((0, 1))


pointwise.defvjp(
    lambda x, kernel, bias: (_pointwise(x, kernel, bias), (x, kernel)),
    lambda saved, g: _pointwise_gradients(*saved, g),
)


def product(x: Array, kernel: Array) -> Array:
    """`pointwise` without a bias."""
    return pointwise(x, kernel, jnp.zeros(kernel.shape[1], kernel.dtype))


# --- depthwise convolution ---------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def depthwise_conv(x: Array, kernel: Array, bias: Array, stride: int) -> Array:
    """One filter per channel: y[b, f, c] = bias[c] + Σ_j kernel[j, c] · x[b, f·stride + j − 2, c], zeros outside.

    x: [B,F,C], F ≥ 1; kernel: [5,C]; bias: [C]; stride: 1 or 2. Returns [B,⌈F/stride⌉,C].
    """
    return _depthwise(x, kernel, bias, stride=stride)


def _shifted_sum(x: Array, taps: list[Array], first: int, frames: int, stride: int = 1) -> Array:
    """Σ_j taps[j] · x[:, f·stride + first + j] for f < frames, zeros outside x."""
    span = (frames - 1) * stride + 1
    beyond = max(0, first + span + len(taps) - 1 - x.shape[1])
    padded = jnp.pad(x, ((0, 0), (-first, beyond), (0, 0)))
    terms = [padded[:, j : j + span : stride] * tap[None, None] for j, tap in enumerate(taps)]
    return sum(terms[1:], start=terms[0])


@partial(apart, static=("stride",))
def _depthwise(x: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
    return _shifted_sum(x, list(kernel), -PADDING, -(-x.shape[1] // stride), stride) + bias[None, None]


@partial(apart, static=("stride",))
def _depthwise_input_gradient(x: Array, kernel: Array, g: Array, *, stride: int) -> Array:
    batch, frames, channels = x.shape
    if stride == 1:
        return _shifted_sum(g, list(kernel[::-1]), -PADDING, frames)
    # Frame 2f of x meets the even taps of outputs f − 1, f, f + 1; frame 2f + 1 the odd taps of f and f + 1.
    even = _shifted_sum(g, [kernel[4], kernel[2], kernel[0]], -1, g.shape[1])
    odd = _shifted_sum(g, [kernel[3], kernel[1]], 0, g.shape[1])
    return jnp.stack([even, odd], axis=2).reshape(batch, -1, channels)[:, :frames]


def _tap_products(part: Array, window: Array, stride: int) -> tuple[Array, ...]:
    span = (part.shape[1] - 1) * stride + 1
    return tuple(part * window[:, j : j + span : stride] for j in range(KERNEL))


def _kernel_gradient_plain(x: Array, g: Array, stride: int) -> Array:
    """Σ_{b,f} g[b, f] · x[b, f·stride + j − 2] for the five taps j, as [5,C]."""
    beyond = (g.shape[1] - 1) * stride + KERNEL - PADDING - x.shape[1]
    window = jnp.pad(x, ((0, 0), (PADDING, beyond), (0, 0)))
    return jnp.stack([product.sum((0, 1)) for product in _tap_products(g, window, stride)])


def _kernel_gradient_chunked(x: Array, g: Array, stride: int) -> Array:
    """The same, five accumulators carried over the chunks of time that read x inside its bounds; the ends are padded."""
    batch, frames, channels = g.shape
    chunk = chunk_length(batch, frames)
    last = frames // chunk - 1
    if last < 2:
        return _kernel_gradient_plain(x, g, stride)
    reach = (chunk - 1) * stride + KERNEL

    def add_chunk(step: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
        part = lax.dynamic_slice_in_dim(g, step * chunk, chunk, 1)
        window = lax.dynamic_slice_in_dim(x, step * chunk * stride - PADDING, reach, 1)
        return tuple(map(jnp.add, totals, _tap_products(part, window, stride)))

    zeros = (jnp.zeros((batch, chunk, channels), g.dtype),) * KERNEL
    totals = lax.fori_loop(1, last, add_chunk, zeros)
    head = jnp.pad(x[:, : reach - PADDING], ((0, 0), (PADDING, 0), (0, 0)))
    tail = x[:, last * chunk * stride - PADDING :]
    tail_g = g[:, last * chunk :]
    beyond = (tail_g.shape[1] - 1) * stride + KERNEL - tail.shape[1]
    tail = jnp.pad(tail, ((0, 0), (0, beyond), (0, 0)))
    pieces = zip(totals, _tap_products(g[:, :chunk], head, stride), _tap_products(tail_g, tail, stride), strict=True)
    return jnp.stack([a.sum((0, 1)) + b.sum((0, 1)) + c.sum((0, 1)) for a, b, c in pieces])


@partial(apart, static=("stride",))
def _depthwise_parameter_gradients(x: Array, g: Array, *, stride: int) -> tuple[Array, Array]:
    dkernel = lax.platform_dependent(
        x,
        g,
        cpu=partial(_kernel_gradient_chunked, stride=stride),
        default=partial(_kernel_gradient_plain, stride=stride),
    )
    return dkernel, g.sum((0, 1))


def _depthwise_fwd(x: Array, kernel: Array, bias: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel, bias, stride=stride), (x, kernel)


def _depthwise_bwd(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, kernel = saved
    dx = _depthwise_input_gradient(x, kernel, g, stride=stride)
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
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean((1, 2), keepdims=True)
    variance = jnp.square(wide - mean).mean((1, 2), keepdims=True)
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


def _prelu_input_gradient(x: Array, slope: Array, g: Array) -> Array:
    return g * jnp.where(x > 0, 1, slope[None, None])


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
    return x * jnp.where(x > 0, 1, slope[None, None])


@apart
def _prelu_gradients(x: Array, slope: Array, g: Array) -> tuple[Array, Array]:
    (sums,) = sums_over_time(lambda x, g: (g * jnp.minimum(x, 0),), x, g)
    return _prelu_input_gradient(x, slope, g), _slope_gradient(slope, sums.sum(0))


@apart
def _norm_prelu_fwd(x: Array, scale: Array, bias: Array, slope: Array) -> tuple[Array, tuple[Array, Array]]:
    mean, rstd = _statistics(x)
    y = _normalised(x, mean, rstd, scale, bias)
    return (y * jnp.where(y > 0, 1, slope[None, None])).astype(x.dtype), (mean, rstd)


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

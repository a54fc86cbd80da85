"""Norm and PReLU of the networks' blocks, channels last.

Shapes, types and gradients as in `conv`: x [B,F,C], gradients by hand, sums in float32. A norm is
bound by memory, so the passes over x are counted: one for both sums of the statistics, one to apply
them; backward, one for all sums that the gradients need and one for that of x.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsep.models.kernels.backend import at_least_float32, sums_over_time, uninlined

NORM_EPSILON = 1e-8


@jax.custom_vjp
def global_norm(x: Array, offset: Array, scale: Array, bias: Array, *slope: Array) -> Array:
    """Group norm with a single group, and `prelu` of it where there is a slope.

        y = (x + offset[c] − μ_b) / √(σ²_b + 1e-8) · scale[c] + bias[c]

    μ_b and σ²_b are the mean and the population variance of example b of x + offset over time and
    channels, zero padding included. offset is the bias of the convolution that made x: adding it
    here spares a loop over x. A constant example gives bias, with finite gradients.

    What lies between norm and PReLU is not kept for the gradient but computed again from x.

    x: [B,F,C]; offset, scale, bias: [C]; slope: see `prelu`. Returns [B,F,C].
    """
    return _norm(x, offset, scale, bias, *slope)[0]


@jax.custom_vjp
@uninlined
def prelu(x: Array, slope: Array) -> Array:
    """y = x where x > 0, slope · x elsewhere; at 0 the gradient is slope, as PyTorch's.

    x: [B,F,C]; slope: [C], one for each channel, or [1], one for all. Returns [B,F,C].
    """
    return _bend(at_least_float32(x), slope).astype(x.dtype)


class _Statistics(NamedTuple):
    """Of x + offset, for each example.

    shift: [B,1,C], offset less the mean: x + shift is centred.
    rstd: [B,1,1], 1/√(variance + ε).
    centred: [B,C], the sum over time of x + shift.
    """

    shift: Array
    rstd: Array
    centred: Array


def _statistics(x: Array, offset: Array) -> _Statistics:
    """Both sums in one pass over x, about the mean a of each example's first frame.

    The first frame alone makes the variance at least (μ − a)²/F. Subtracting (μ − a)² from the mean
    square therefore costs at most F roundings, however far from zero x is.
    """
    frames, size = x.shape[1], x.shape[1] * x.shape[2]
    about = offset[None, None] - (at_least_float32(x[:, :1]) + offset[None, None]).mean(
        2, keepdims=True
    )

    def powers(x: Array) -> tuple[Array, Array]:
        near = x + about
        return near, near * near

    sums, squares = sums_over_time(powers, x)
    mean = (sums.sum(1) / size)[:, None, None]
    variance = jnp.maximum((squares.sum(1) / size)[:, None, None] - mean * mean, 0)
    return _Statistics(about - mean, lax.rsqrt(variance + NORM_EPSILON), sums - frames * mean[:, 0])


def _normalised(x: Array, kept: _Statistics, scale: Array, bias: Array) -> Array:
    return (x + kept.shift) * (kept.rstd * scale[None, None]) + bias[None, None]


@uninlined
def _norm(
    x: Array, offset: Array, scale: Array, bias: Array, *slope: Array
) -> tuple[Array, _Statistics]:
    """Norm, then PReLU where there is a slope."""
    kept = _statistics(x, offset)
    y = _normalised(x, kept, scale, bias)
    return (_bend(y, *slope) if slope else y).astype(x.dtype), kept


@uninlined
def _norm_gradients(
    x: Array, kept: _Statistics, scale: Array, bend: tuple[Array, ...], g: Array
) -> tuple[Array, ...]:
    """Gradients of x, offset, scale and bias, and of the slope where a PReLU follows.

    With x̂ = (x + shift)·rstd, dy the gradient of the normalised output, and means over time and
    channels of an example:

        dx = (dy·scale − mean(dy·scale) − x̂ · mean(dy·scale·x̂)) · rstd

    bend: bias and slope, where a PReLU follows the norm.
    """

    def bent(x: Array, g: Array) -> tuple[Array, Array]:
        """The normalised output, and the gradient that reaches it."""
        bias, slope = bend
        y = _normalised(x, kept, scale, bias)
        return y, _bend_gradient(y, slope, g)

    def terms(x: Array, g: Array) -> tuple[Array, ...]:
        if not bend:
            return g, g * (x + kept.shift)
        y, dy = bent(x, g)
        return dy, dy * (x + kept.shift), g * jnp.minimum(y, 0)

    sums, products, *slopes = sums_over_time(terms, x, g)
    dy = bent(x, g)[1] if bend else g
    frames, size, rstd = x.shape[1], x.shape[1] * x.shape[2], kept.rstd
    mean = (sums * scale[None]).sum(1)[:, None, None] / size
    tilt = (products * scale[None]).sum(1)[:, None, None] / size * rstd * rstd
    dx = (dy * scale[None, None] - mean - (x + kept.shift) * tilt) * rstd
    doffset = (sums * scale[None] - frames * mean[:, 0] - kept.centred * tilt[:, 0]) * rstd[:, 0]
    return (
        *(dx.astype(x.dtype), doffset.sum(0), (products * rstd[:, 0]).sum(0), sums.sum(0)),
        *(_slope_gradient(bend[1], each.sum(0)) for each in slopes),
    )


def _bend(x: Array, slope: Array) -> Array:
    return lax.select(x > 0, x, x * slope[None, None])


def _bend_gradient(x: Array, slope: Array, g: Array) -> Array:
    g = at_least_float32(g)
    return lax.select(x > 0, g, g * slope[None, None])


def _slope_gradient(slope: Array, per_channel: Array) -> Array:
    return per_channel if slope.shape == per_channel.shape else per_channel.sum(keepdims=True)


@uninlined
def _prelu_gradients(x: Array, slope: Array, g: Array) -> tuple[Array, Array]:
    (sums,) = sums_over_time(lambda x, g: (g * jnp.minimum(x, 0),), x, g)
    return _bend_gradient(x, slope, g).astype(x.dtype), _slope_gradient(slope, sums.sum(0))


def _norm_and_residuals(
    x: Array, offset: Array, scale: Array, bias: Array, *slope: Array
) -> tuple[Array, Any]:
    y, kept = _norm(x, offset, scale, bias, *slope)
    return y, (x, kept, scale, (bias, *slope) if slope else ())


global_norm.defvjp(_norm_and_residuals, lambda saved, g: _norm_gradients(*saved, g))
prelu.defvjp(
    lambda x, slope: (prelu(x, slope), (x, slope)),
    lambda saved, g: _prelu_gradients(*saved, g),
)

"""Layers and the block shared by the two networks of the family, as Flax modules over `ops` and `norms`.

Initial values are those of the authors' PyTorch code: uniform in ±1/√(fan in) for kernels and biases of convolutions
(PyTorch's default, Kaiming uniform with a = √5), PReLU slopes 0.25, norm scales 1 and biases 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxsep.models.kernels import conv as ops
from jaxsep.models.kernels import norm as norms

Initializer = Callable[..., Array]


def uniform(bound: float) -> Initializer:
    """Initial values uniform in [−bound, bound)."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    return init


def fan_in_uniform(fan_in: int) -> Initializer:
    """Uniform in ±1/√fan_in: what PyTorch draws for the kernel and the bias of a convolution."""
    return uniform(1 / math.sqrt(fan_in))


class Affine(nn.Module):
    """The parameters of a 1×1 convolution from inputs channels, not applied: (kernel [inputs,features], bias
    [features])."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array]:
        init = fan_in_uniform(inputs)
        return self.param("kernel", init, (inputs, self.features)), self.param(
            "bias", init, (self.features,)
        )


class Pointwise(nn.Module):
    """1×1 convolution, [B,F,Ci] → [B,F,features]. Parameters: kernel [Ci,features], bias [features].

    What it returns lacks the bias, which comes beside it: a norm that follows adds it in the loop that it has anyway.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        init = fan_in_uniform(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        return ops.product(x, kernel), self.param("bias", init, (self.features,))


class Depthwise(nn.Module):
    """Depthwise convolution, five taps, [B,F,C] → [B,⌈F/stride⌉,C]. Parameters: kernel [5,C], bias [C].

    Returns the result without its bias, the bias (see `Pointwise`), and the input, to be read from here on where it is
    needed again (see `ops.depthwise_branch`).
    """

    stride: int
    branch: bool

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        init = fan_in_uniform(ops.KERNEL)
        kernel = self.param("kernel", init, (ops.KERNEL, x.shape[-1]))
        bias = self.param("bias", init, (x.shape[-1],))
        if self.branch:
            y, x = ops.depthwise_branch(x, kernel, self.stride)
        else:
            y = ops.depthwise_conv(x, kernel, self.stride)
        return y, bias, x


def with_bias(x: Array, bias: Array) -> Array:
    """x [B,F,C] + bias [C], in x's dtype: what `Pointwise` returns, put together where no norm follows."""
    return (x + bias[None, None]).astype(x.dtype)


class GlobalNorm(nn.Module):
    """Norm over time and channels of each example of x + offset, [B,F,C] → [B,F,C]; offset: [C], None for 0.

    Parameters: scale [C], bias [C].
    """

    @nn.compact
    def __call__(self, x: Array, offset: Array | None = None) -> Array:
        return norms.global_norm(x, _or_zeros(offset, x), *_scale_and_bias(self, x))


class PReLU(nn.Module):
    """PReLU, [B,F,C] → [B,F,C]. Parameter: slope, [C] where per_channel, else [1]."""

    per_channel: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return norms.prelu(x, _slope(self, x, self.per_channel))


class NormPReLU(nn.Module):
    """GlobalNorm, then PReLU. Parameters: scale [C], bias [C], slope [C] where per_channel, else [1]."""

    per_channel: bool

    @nn.compact
    def __call__(self, x: Array, offset: Array | None = None) -> Array:
        scale, bias = _scale_and_bias(self, x)
        return norms.norm_prelu(
            x, _or_zeros(offset, x), scale, bias, _slope(self, x, self.per_channel)
        )


def _or_zeros(offset: Array | None, x: Array) -> Array:
    return jnp.zeros(x.shape[-1]) if offset is None else offset


def _scale_and_bias(module: nn.Module, x: Array) -> tuple[Array, Array]:
    channels = x.shape[-1:]
    return module.param("scale", nn.initializers.ones, channels), module.param(
        "bias", nn.initializers.zeros, channels
    )


def _slope(module: nn.Module, x: Array, per_channel: bool) -> Array:
    return module.param(
        "slope", nn.initializers.constant(0.25), x.shape[-1:] if per_channel else (1,)
    )


class UBlock(nn.Module):
    """U-shaped block of Sudo rm -rf, [B,F,out_channels] → [B,F,out_channels]; F a multiple of 2^(upsampling_depth −
    1).

    Expansion to in_channels by a 1×1 convolution, norm and PReLU; upsampling_depth depthwise convolutions, each
    followed by a norm, the first at full resolution and each other one at half of the last; the results are added up
    from the coarsest to the finest, doubled in length by repetition; norm, PReLU and a 1×1 convolution back to
    out_channels.

    original: PReLU slopes per channel; the last convolution is normed, the input added, and norm and PReLU close the
    block. Otherwise (the improved network): one slope per PReLU; the input is added, and nothing follows.
    """

    out_channels: int
    in_channels: int
    upsampling_depth: int
    original: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        expanded = Pointwise(self.in_channels, name="expand")(x)
        level = NormPReLU(self.original, name="expand_norm")(*expanded)
        levels = []
        for depth in range(self.upsampling_depth):
            convolve = Depthwise(2 if depth else 1, branch=depth > 0, name=f"depthwise_{depth}")
            convolved, bias, again = convolve(level)
            if depth:
                levels.append(again)
            level = GlobalNorm(name=f"depthwise_norm_{depth}")(convolved, bias)
        while levels:
            level = ops.add_upsampled(levels.pop(), level)
        merged = NormPReLU(self.original, name="merge_norm")(level)
        projected = Pointwise(self.out_channels, name="project")(merged)
        if not self.original:
            return with_bias(*projected) + x
        normed = GlobalNorm(name="project_norm")(*projected)
        return NormPReLU(self.original, name="output_norm")(normed + x)


def ublocks(x: Array, count: int, *, remat: bool, **fields: Any) -> Array:
    """count blocks of UBlock(**fields), one after another; to be called inside a compact module.

    Their parameters lie in one tree, `blocks`, each array with a leading axis of count: the optimiser has few arrays to
    go through, and the block is traced once. Without remat the loop over the blocks is unrolled: XLA copies what a real
    loop keeps for the gradient. With remat only the input of each block is kept, and the rest made again.
    """
    block = nn.remat(UBlock, prevent_cse=False) if remat else UBlock
    repeat = nn.scan(
        lambda module, x, _: (module(x), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=count,
        unroll=1 if remat else count,
    )
    return repeat(block(**fields, name="blocks"), x, None)[0]


def padded_length(samples: int, quantum: int, enc_kernel_size: int, upsampling_depth: int) -> int:
    """Samples after zero padding: the next multiple of quantum (itself one of S = enc_kernel_size // 2), then on to
    the next multiple of S at which the frames are a multiple of 2^(upsampling_depth − 1), so that every halving in a
    block is exact.
    """
    hop = enc_kernel_size // 2
    step = 2 ** (upsampling_depth - 1)
    extra = 1 - enc_kernel_size % 2  # an even kernel gives one frame more than there are hops
    hops = -(-samples // quantum) * quantum // hop
    frames = -(-(hops + extra) // step) * step
    return (frames - extra) * hop

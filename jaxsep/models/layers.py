"""What the two networks of the family share: their fields, layers and block, as Flax modules.

The arithmetic is in `kernels`. A convolution's bias is not added by the layer that holds it: the
norm that nearly always follows adds it in a loop that it has anyway.

Initial values are those of the authors' PyTorch code: kernels and biases of convolutions uniform in
±1/√(fan in), which is PyTorch's default, PReLU slopes 0.25, norm scales 1 and biases 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxsep.models.kernels import conv, norm

Initializer = Callable[..., Array]


def uniform(bound: float) -> Initializer:
    """Initial values uniform in [−bound, bound)."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    return init


def fan_in_uniform(fan_in: int) -> Initializer:
    """Uniform in ±1/√fan_in: what PyTorch draws for the kernel and the bias of a convolution."""
    return uniform(1 / math.sqrt(fan_in))


class Network(nn.Module):
    """The fields of both networks, with the authors' values as defaults.

    Attributes:
      out_channels: C, of the features between the blocks.
      in_channels: H, inside a block.
      num_blocks: U-shaped blocks, one after another.
      upsampling_depth: resolutions of a block, each half of the one before.
      enc_kernel_size: L, taps of the encoder and the decoder, in samples.
      enc_num_basis: K, channels of the encoder.
      num_sources: N.
      dtype: 'float32' or 'bfloat16', of everything from the encoder's output to the masked bases;
        parameters, norms, sums and estimates are float32.
      remat: keep only the input of each block for the gradient, and compute the rest again.
      FROZEN: the parameters that training must leave alone.
    """

    out_channels: int = 128
    in_channels: int = 512
    num_blocks: int = 16
    upsampling_depth: int = 4
    enc_kernel_size: int = 21
    enc_num_basis: int = 512
    num_sources: int = 2
    dtype: str = "float32"
    remat: bool = False

    FROZEN: ClassVar[tuple[tuple[str, ...], ...]] = ()


class Affine(nn.Module):
    """The parameters of a 1×1 convolution, not applied: kernel [Ci,features], bias [features]."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array]:
        init = fan_in_uniform(inputs)
        kernel = self.param("kernel", init, (inputs, self.features))
        return kernel, self.param("bias", init, (self.features,))


class Pointwise(nn.Module):
    """1×1 convolution, [B,F,Ci] → [B,F,features]; returns (result without bias, bias).

    Parameters: kernel [Ci,features], bias [features].
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        init = fan_in_uniform(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        return conv.product(x, kernel), self.param("bias", init, (self.features,))


class Depthwise(nn.Module):
    """Depthwise convolution, five taps, [B,F,C] → [B,⌈F/stride⌉,C].

    Returns the result without its bias, the bias, and x for a second reader, which must take it
    from here where branch is set (see `conv.depthwise_branch`). Parameters: kernel [5,C], bias [C].
    """

    stride: int
    branch: bool

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        init = fan_in_uniform(conv.KERNEL)
        kernel = self.param("kernel", init, (conv.KERNEL, x.shape[-1]))
        bias = self.param("bias", init, (x.shape[-1],))
        if self.branch:
            y, x = conv.depthwise_branch(x, kernel, self.stride)
        else:
            y = conv.depthwise_conv(x, kernel, self.stride)
        return y, bias, x


def with_bias(x: Array, bias: Array) -> Array:
    """x [B,F,C] + bias [C] in the type of x, where no norm follows that would add it."""
    return (x + bias[None, None]).astype(x.dtype)


class GlobalNorm(nn.Module):
    """Norm of x + offset over time and channels of each example, [B,F,C] → [B,F,C].

    offset: [C], None for 0. Parameters: scale [C], bias [C].
    """

    @nn.compact
    def __call__(self, x: Array, offset: Array | None = None) -> Array:
        return norm.global_norm(x, _or_zeros(offset, x), *_scale_and_bias(self, x))


class PReLU(nn.Module):
    """PReLU, [B,F,C] → [B,F,C]. Parameter: slope, [C] where per_channel, else [1]."""

    per_channel: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return norm.prelu(x, _slope(self, x, self.per_channel))


class NormPReLU(nn.Module):
    """`GlobalNorm`, then `PReLU`. Parameters: scale, bias, slope."""

    per_channel: bool

    @nn.compact
    def __call__(self, x: Array, offset: Array | None = None) -> Array:
        scale, bias = _scale_and_bias(self, x)
        slope = _slope(self, x, self.per_channel)
        return norm.norm_prelu(x, _or_zeros(offset, x), scale, bias, slope)


def _or_zeros(offset: Array | None, x: Array) -> Array:
    return jnp.zeros(x.shape[-1]) if offset is None else offset


def _scale_and_bias(module: nn.Module, x: Array) -> tuple[Array, Array]:
    channels = x.shape[-1:]
    scale = module.param("scale", nn.initializers.ones, channels)
    return scale, module.param("bias", nn.initializers.zeros, channels)


def _slope(module: nn.Module, x: Array, per_channel: bool) -> Array:
    shape = x.shape[-1:] if per_channel else (1,)
    return module.param("slope", nn.initializers.constant(0.25), shape)


class UBlock(nn.Module):
    """U-shaped block, [B,F,C] → [B,F,C]; F must be a multiple of 2^(upsampling_depth − 1).

        x ─ 1×1 to H, norm, PReLU ─ depthwise ─ norm ───────────────── + ─ norm, PReLU, 1×1 to C ─
                                                 └ depthwise /2 ─ norm ┘↑2

    Each of the upsampling_depth depthwise convolutions but the first halves the resolution of the
    one before. From the coarsest up, each result is repeated to twice its length and added to the
    one above.

    original: the PReLUs have a slope for each channel; the last 1×1 convolution is followed by a
    norm, x is added, and norm and PReLU close the block. Otherwise, in the improved network, a
    PReLU has one slope; x is added, and nothing follows.
    """

    out_channels: int
    in_channels: int
    upsampling_depth: int
    original: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        expanded = Pointwise(self.in_channels, name="expand")(x)
        level = NormPReLU(self.original, name="expand_norm")(*expanded)
        finer = []
        for depth in range(self.upsampling_depth):
            convolve = Depthwise(2 if depth else 1, branch=depth > 0, name=f"depthwise_{depth}")
            convolved, bias, again = convolve(level)
            if depth:
                finer.append(again)
            level = GlobalNorm(name=f"depthwise_norm_{depth}")(convolved, bias)
        while finer:
            level = conv.add_upsampled(finer.pop(), level)
        merged = NormPReLU(self.original, name="merge_norm")(level)
        projected = Pointwise(self.out_channels, name="project")(merged)
        if not self.original:
            return with_bias(*projected) + x
        normed = GlobalNorm(name="project_norm")(*projected)
        return NormPReLU(self.original, name="output_norm")(normed + x)


def features(network: Network, encoded: Array, *, original: bool) -> Array:
    """Norm, 1×1 bottleneck and the blocks, [B,F,K] → [B,F,C]; called in a network's compact method.

    The parameters of the blocks lie in one tree, `blocks`, each array with a leading axis of
    num_blocks: the optimiser has few arrays to go through, and a block is traced once. Without
    remat the loop over the blocks is unrolled, because XLA copies what a real loop keeps for the
    gradient.
    """
    x = GlobalNorm(name="encoder_norm")(encoded)
    x = with_bias(*Pointwise(network.out_channels, name="bottleneck")(x))
    block = nn.remat(UBlock, prevent_cse=False) if network.remat else UBlock
    repeat = nn.scan(
        lambda module, x, _: (module(x), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=network.num_blocks,
        unroll=1 if network.remat else network.num_blocks,
    )
    blocks = block(
        out_channels=network.out_channels,
        in_channels=network.in_channels,
        upsampling_depth=network.upsampling_depth,
        original=original,
        name="blocks",
    )
    return repeat(blocks, x, None)[0]


def padded_length(samples: int, quantum: int, enc_kernel_size: int, upsampling_depth: int) -> int:
    """Samples after zero padding at the end.

    The next multiple of quantum, which is one of S = enc_kernel_size // 2, and from there on to the
    next multiple of S whose frames are a multiple of 2^(upsampling_depth − 1), so that every
    halving in a block is exact.
    """
    hop = enc_kernel_size // 2
    step = 2 ** (upsampling_depth - 1)
    extra = 1 - enc_kernel_size % 2  # an even kernel gives one frame more than there are hops
    hops = -(-samples // quantum) * quantum // hop
    frames = -(-(hops + extra) // step) * step
    return (frames - extra) * hop

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

    def quantum(self) -> int:
        """A multiple of S = enc_kernel_size // 2; mixtures are padded to a multiple of it."""
        raise NotImplementedError

    def padded(self, samples: int) -> int:
        """Samples of a mixture of so many, with the zeros at its end, which the norms see.

        The next multiple of the quantum, and from there on to the next multiple of S whose frames
        are a multiple of 2^(upsampling_depth − 1), so that every halving in a block is exact; the
        authors' code fails where it is not.
        """
        hop, step = self.enc_kernel_size // 2, 2 ** (self.upsampling_depth - 1)
        extra = 1 - self.enc_kernel_size % 2  # an even kernel gives one frame more than hops
        hops = -(-samples // self.quantum()) * self.quantum() // hop
        frames = -(-(hops + extra) // step) * step
        return (frames - extra) * hop


class Affine(nn.Module):
    """The parameters of a 1×1 convolution, not applied: kernel [Ci,features], bias [features]."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array]:
        init = fan_in_uniform(inputs)
        kernel = self.param("kernel", init, (inputs, self.features))
        return kernel, self.param("bias", init, (self.features,))


def pointwise(name: str, features: int, x: Array) -> tuple[Array, Array]:
    """1×1 convolution by a layer of this name: (result without bias [B,F,features], bias)."""
    kernel, bias = Affine(features, name=name)(x.shape[-1])
    return conv.product(x, kernel), bias


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


class Norm(nn.Module):
    """Norm of x + offset over time and channels of each example, [B,F,C] → [B,F,C]; then PReLU.

    slopes: of the PReLU, 'one', or 'each' for one for each channel; without a PReLU ''. offset:
    [C], None for 0. Parameters: scale [C], bias [C], slope [1] or [C].
    """

    slopes: str = ""

    @nn.compact
    def __call__(self, x: Array, offset: Array | None = None) -> Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        count = {"": (), "one": (1,), "each": channels}[self.slopes]
        slope = [self.param("slope", nn.initializers.constant(0.25), count)] if count else []
        offset = jnp.zeros(channels) if offset is None else offset
        return norm.global_norm(x, offset, scale, bias, *slope)


class PReLU(nn.Module):
    """PReLU of one slope, [B,F,C] → [B,F,C]. Parameter: slope [1]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return norm.prelu(x, self.param("slope", nn.initializers.constant(0.25), (1,)))


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
        slopes = "each" if self.original else "one"
        level = Norm(slopes, name="expand_norm")(*pointwise("expand", self.in_channels, x))
        finer = []
        for depth in range(self.upsampling_depth):
            convolve = Depthwise(2 if depth else 1, branch=depth > 0, name=f"depthwise_{depth}")
            convolved, bias, again = convolve(level)
            if depth:
                finer.append(again)
            level = Norm(name=f"depthwise_norm_{depth}")(convolved, bias)
        while finer:
            level = conv.add_upsampled(finer.pop(), level)
        level = Norm(slopes, name="merge_norm")(level)
        projected = pointwise("project", self.out_channels, level)
        if not self.original:
            return with_bias(*projected) + x
        normed = Norm(name="project_norm")(*projected)
        return Norm(slopes, name="output_norm")(normed + x)


def features(network: Network, encoded: Array, *, original: bool) -> Array:
    """Norm, 1×1 bottleneck and the blocks, [B,F,K] → [B,F,C]; called in a network's compact method.

    The parameters of the blocks lie in one tree, `blocks`, each array with a leading axis of
    num_blocks: the optimiser has few arrays to go through, and a block is traced once. Without
    remat the loop over the blocks is unrolled, because XLA copies what a real loop keeps for the
    gradient.
    """
    x = Norm(name="encoder_norm")(encoded)
    x = with_bias(*pointwise("bottleneck", network.out_channels, x))
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

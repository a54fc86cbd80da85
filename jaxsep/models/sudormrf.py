"""The original Sudo rm -rf network.

Source: Tzinis, Wang, Smaragdis, "Sudo rm -rf: efficient networks for universal audio source separation", MLSP 2020;
where the paper is silent or differs, the authors' released code decides.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxsep.models import layers
from jaxsep.models.kernels import conv as ops
from jaxsep.models.kernels import framing


class Encoder(nn.Module):
    """Strided convolution with bias and ReLU, [B,T] → [B,F,enc_num_basis]. Parameters: kernel [L,K], bias [K]."""

    enc_kernel_size: int
    enc_num_basis: int

    @nn.compact
    def __call__(self, waveform: Array) -> Array:
        init = layers.fan_in_uniform(self.enc_kernel_size)
        kernel = self.param("kernel", init, (self.enc_kernel_size, self.enc_num_basis))
        return nn.relu(
            framing.encode(waveform, kernel, self.param("bias", init, (self.enc_num_basis,)))
        )


class Mask(nn.Module):
    """Masks from features [B,F,C], applied to the encoder's output [B,F,K]: [B,F,N,K].

    A 1×1 layer to the K bases where C ≠ K, N filters of K + 1 taps along the basis axis, softmax over the sources (a
    sigmoid where there is one). Parameters: kernel [N,K+1], bias [N], and input/kernel [C,K], input/bias [K] where C ≠ K.
    Both layers are linear with nothing between them: where C < K their matrices are multiplied first, which is cheaper
    by about K/C for every frame.
    """

    enc_num_basis: int
    num_sources: int

    @nn.compact
    def __call__(self, x: Array, encoded: Array) -> Array:
        basis, sources = self.enc_num_basis, self.num_sources
        init = layers.fan_in_uniform(basis + 1)
        kernel = self.param("kernel", init, (sources, basis + 1))
        matrix = framing.basis_toeplitz(kernel).reshape(basis, sources * basis)
        bias = jnp.repeat(self.param("bias", init, (sources,)), basis)
        if x.shape[-1] != basis:
            input_kernel, input_bias = layers.Affine(basis, name="input")(x.shape[-1])
            if x.shape[-1] < basis:
                matrix, bias = input_kernel @ matrix, bias + input_bias @ matrix
            else:
                x = layers.with_bias(ops.product(x, input_kernel), input_bias)
        logits = layers.with_bias(ops.product(x, matrix), bias).reshape(
            *x.shape[:2], sources, basis
        )
        if sources == 1:
            return jax.nn.sigmoid(logits) * encoded[:, :, None]
        return framing.softmax_masked(logits, encoded)


class Decoder(nn.Module):
    """Transposed convolution of its own for each source, [B,F,N,K] → [B,N,T]. Parameters: kernel [N,K,L], bias
    [N]."""

    enc_kernel_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, count, sources, basis = x.shape
        init = layers.fan_in_uniform(self.enc_kernel_size)
        kernel = self.param("kernel", init, (sources, basis, self.enc_kernel_size))
        # One product with a block diagonal matrix: its zeros cost less than bringing the source axis to the front.
        matrix = kernel[:, :, None] * jnp.eye(sources, dtype=kernel.dtype)[:, None, :, None]
        frames = ops.product(
            x.reshape(batch, count, -1), matrix.reshape(sources * basis, -1), jnp.float32
        )
        frames = (
            frames.reshape(batch, count, sources, -1)
            .swapaxes(1, 2)
            .reshape(batch * sources, count, -1)
        )
        estimates = framing.overlap_add(frames).reshape(batch, sources, -1)
        return estimates + self.param("bias", nn.initializers.zeros, (sources,))[None, :, None]


class SudoRmRf(nn.Module):
    """Original network: mixture [B,T] → estimates [B,N,T] for any T ≥ 1.

    Encoder and ReLU, norm, 1×1 bottleneck, num_blocks U-shaped blocks, masks on the encoder's output, decoder. Zeros
    are added at the end, seen by the norms, and cut again: to the next multiple of lcm(L // 2, 2^upsampling_depth),
    and on from there to the next one whose frames every block can halve (the authors' code fails there).

    dtype, 'float32' or 'bfloat16': of everything from the encoder's output to the masked bases; parameters, norms and
    estimates are float32. remat: keep only the input of each block for the gradient, and make the rest again.

    FROZEN: parameters to be kept from training. The decoder's bias only shifts an estimate, which a loss free of the
    mean does not see; its gradient is rounding noise, along which Adam would walk at random. The authors'
    `ln_mask_in` (2·enc_num_basis parameters), which their forward pass never uses, is left out.
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

    FROZEN: ClassVar[tuple[tuple[str, ...], ...]] = (("decoder", "bias"),)

    def padded(self, samples: int) -> int:
        """Samples that the network works on for a mixture of so many samples: zeros are added at the end."""
        quantum = math.lcm(self.enc_kernel_size // 2, 2**self.upsampling_depth)
        return layers.padded_length(samples, quantum, self.enc_kernel_size, self.upsampling_depth)

    @nn.compact
    def __call__(self, mixture: Array) -> Array:
        samples = mixture.shape[1]
        padded = jnp.pad(mixture, ((0, 0), (0, self.padded(samples) - samples)))
        encoded = Encoder(self.enc_kernel_size, self.enc_num_basis, name="encoder")(padded).astype(
            self.dtype
        )
        x = layers.GlobalNorm(name="encoder_norm")(encoded)
        x = layers.with_bias(*layers.Pointwise(self.out_channels, name="bottleneck")(x))
        x = layers.ublocks(
            x,
            self.num_blocks,
            remat=self.remat,
            out_channels=self.out_channels,
            in_channels=self.in_channels,
            upsampling_depth=self.upsampling_depth,
            original=True,
        )
        masked = Mask(self.enc_num_basis, self.num_sources, name="mask")(x, encoded)
        return Decoder(self.enc_kernel_size, name="decoder")(masked)[:, :, :samples]

"""The original Sudo rm -rf network.

Source: Tzinis, Wang, Smaragdis, "Sudo rm -rf: efficient networks for universal audio source
separation", MLSP 2020; where the paper is silent or differs, the authors' released code decides.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxsep.models import layers
from jaxsep.models.kernels import conv, framing, masks


class Encoder(nn.Module):
    """Strided convolution and ReLU, [B,T] → [B,F,K]. Parameters: kernel [L,K], bias [K]."""

    enc_kernel_size: int
    enc_num_basis: int

    @nn.compact
    def __call__(self, waveform: Array) -> Array:
        init = layers.fan_in_uniform(self.enc_kernel_size)
        kernel = self.param("kernel", init, (self.enc_kernel_size, self.enc_num_basis))
        bias = self.param("bias", init, (self.enc_num_basis,))
        return nn.relu(framing.encode(waveform, kernel) + bias[None, None])


class Mask(nn.Module):
    """Masks of the features [B,F,C], applied to the encoder's output [B,F,K]: [B,F,N,K].

    A 1×1 layer to the K bases where C ≠ K; N filters of K + 1 taps along the basis axis; softmax
    over the sources, or a sigmoid where there is one. Nothing stands between the two linear layers:
    where C < K their matrices are multiplied first, which saves about K/C for every frame.

    Parameters: kernel [N,K+1], bias [N]; where C ≠ K input/kernel [C,K], input/bias [K].
    """

    enc_num_basis: int
    num_sources: int

    @nn.compact
    def __call__(self, x: Array, encoded: Array) -> Array:
        basis, sources = self.enc_num_basis, self.num_sources
        init = layers.fan_in_uniform(basis + 1)
        kernel = self.param("kernel", init, (sources, basis + 1))
        matrix = masks.basis_toeplitz(kernel).reshape(basis, sources * basis)
        bias = jnp.repeat(self.param("bias", init, (sources,)), basis)
        if x.shape[-1] != basis:
            input_kernel, input_bias = layers.Affine(basis, name="input")(x.shape[-1])
            if x.shape[-1] < basis:
                matrix, bias = input_kernel @ matrix, bias + input_bias @ matrix
            else:
                x = layers.with_bias(conv.product(x, input_kernel), input_bias)
        logits = layers.with_bias(conv.product(x, matrix), bias)
        logits = logits.reshape(*x.shape[:2], sources, basis)
        if sources == 1:
            return jax.nn.sigmoid(logits) * encoded[:, :, None]
        return masks.softmax_masked(logits, encoded)


class Decoder(nn.Module):
    """A transposed convolution for each source, [B,F,N,K] → [B,N,T].

    Parameters: kernel [N,K,L], bias [N]. The bias starts at 0, not at PyTorch's random value:
    frozen, it would stay in every estimate.
    """

    enc_kernel_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, count, sources, basis = x.shape
        init = layers.fan_in_uniform(self.enc_kernel_size)
        kernel = self.param("kernel", init, (sources, basis, self.enc_kernel_size))
        # One product with a block diagonal matrix: its zeros cost less than a transposed copy of x.
        matrix = kernel[:, :, None] * jnp.eye(sources, dtype=kernel.dtype)[:, None, :, None]
        matrix = matrix.reshape(sources * basis, sources, -1)
        bias = self.param("bias", nn.initializers.zeros, (sources,))
        return framing.decode(x.reshape(batch, count, -1), matrix) + bias[None, :, None]


class SudoRmRf(layers.Network):
    """Original network: mixture [B,T] → estimates [B,N,T] for any T ≥ 1.

    Encoder and ReLU, norm, 1×1 bottleneck, blocks, masks on the encoder's output, decoder.

    FROZEN: the decoder's bias shifts an estimate as a whole, which a zero-mean loss does not see.
    Its gradient is rounding noise, along which Adam would walk at random.
    """

    FROZEN: ClassVar[tuple[tuple[str, ...], ...]] = (("decoder", "bias"),)

    def quantum(self) -> int:
        return math.lcm(self.enc_kernel_size // 2, 2**self.upsampling_depth)

    @nn.compact
    def __call__(self, mixture: Array) -> Array:
        samples = mixture.shape[1]
        waveform = jnp.pad(mixture, ((0, 0), (0, self.padded(samples) - samples)))
        encoded = Encoder(self.enc_kernel_size, self.enc_num_basis, name="encoder")(waveform)
        encoded = encoded.astype(self.dtype)
        x = layers.features(self, encoded, original=True)
        masked = Mask(self.enc_num_basis, self.num_sources, name="mask")(x, encoded)
        return Decoder(self.enc_kernel_size, name="decoder")(masked)[:, :, :samples]

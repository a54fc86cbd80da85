"""The improved Sudo rm -rf network, as in the authors' released code.

Source: Tzinis, Wang, Jiang, Smaragdis, "Compute and memory efficient universal sound source
separation", JSPS 2022, which follows "Sudo rm -rf" (see `sudormrf`).
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxsep.models import layers
from jaxsep.models.kernels import framing


def _glorot_bound(fan_in: int, fan_out: int) -> float:
    return math.sqrt(6 / (fan_in + fan_out))


class Encoder(nn.Module):
    """Strided convolution, [B,T] → [B,F,K]. Parameter: kernel [L,K], at first Glorot uniform."""

    enc_kernel_size: int
    enc_num_basis: int

    @nn.compact
    def __call__(self, waveform: Array) -> Array:
        bound = _glorot_bound(self.enc_kernel_size, self.enc_num_basis * self.enc_kernel_size)
        shape = (self.enc_kernel_size, self.enc_num_basis)
        return framing.encode(waveform, self.param("kernel", layers.uniform(bound), shape))


class Decoder(nn.Module):
    """Transposed convolution from all masked bases to all sources, [B,F,N·K] → [B,N,T].

    Parameter: kernel [N·K,N,L], at first Glorot uniform.
    """

    enc_kernel_size: int
    num_sources: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs, sources, taps = x.shape[-1], self.num_sources, self.enc_kernel_size
        init = layers.uniform(_glorot_bound(sources * taps, inputs * taps))
        return framing.decode(x, self.param("kernel", init, (inputs, sources, taps)))


class ImprovedSudoRmRf(layers.Network):
    """Improved network: mixture [B,T] → estimates [B,N,T] for any T ≥ 1.

    Encoder, norm, 1×1 bottleneck, blocks with plain residuals, PReLU and a 1×1 layer to a mask for
    each source, frame and basis, ReLU, masks on the encoder's output, one decoder for all sources.
    """

    def quantum(self) -> int:
        return self.enc_kernel_size // 2 * 2**self.upsampling_depth

    @nn.compact
    def __call__(self, mixture: Array) -> Array:
        samples = mixture.shape[1]
        waveform = jnp.pad(mixture, ((0, 0), (0, self.padded(samples) - samples)))
        encoded = Encoder(self.enc_kernel_size, self.enc_num_basis, name="encoder")(waveform)
        encoded = encoded.astype(self.dtype)
        x = layers.features(self, encoded, original=False)
        x = layers.PReLU(name="mask_prelu")(x)
        logits = layers.pointwise("mask", self.num_sources * self.enc_num_basis, x)
        masked = nn.relu(layers.with_bias(*logits)) * jnp.tile(encoded, (1, 1, self.num_sources))
        estimates = Decoder(self.enc_kernel_size, self.num_sources, name="decoder")(masked)
        return estimates[:, :, :samples]

"""The improved Sudo rm -rf network, as in the authors' released code.

Source: Tzinis, Wang, Jiang, Smaragdis, "Compute and memory efficient universal sound source separation", JSPS 2022,
which follows Tzinis, Wang, Smaragdis, "Sudo rm -rf: efficient networks for universal audio source separation", MLSP
2020.
"""

import math
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxsep.models import layers
from jaxsep.models.kernels import conv as ops
from jaxsep.models.kernels import framing


def _glorot_bound(fan_in: int, fan_out: int) -> float:
    return math.sqrt(6 / (fan_in + fan_out))


class Encoder(nn.Module):
    """Strided convolution without bias, [B,T] → [B,F,enc_num_basis]. Parameter: kernel [L,K], Glorot uniform at the
    start."""

    enc_kernel_size: int
    enc_num_basis: int

    @nn.compact
    def __call__(self, waveform: Array) -> Array:
        bound = _glorot_bound(self.enc_kernel_size, self.enc_num_basis * self.enc_kernel_size)
        shape = (self.enc_kernel_size, self.enc_num_basis)
        return framing.encode(waveform, self.param("kernel", layers.uniform(bound), shape))


class Decoder(nn.Module):
    """Transposed convolution from all masked bases to all sources, [B,F,N·K] → [B,N,T], without bias.

    Parameter: kernel [N·K,N,L], Glorot uniform at the start.
    """

    enc_kernel_size: int
    num_sources: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, count, inputs = x.shape
        taps, sources = self.enc_kernel_size, self.num_sources
        init = layers.uniform(_glorot_bound(sources * taps, inputs * taps))
        kernel = self.param("kernel", init, (inputs, sources, taps))
        frames = ops.product(x, kernel.reshape(inputs, sources * taps), jnp.float32).reshape(
            batch, count, sources, taps
        )
        frames = frames.swapaxes(1, 2).reshape(batch * sources, count, taps)
        return framing.overlap_add(frames).reshape(batch, sources, -1)


class ImprovedSudoRmRf(nn.Module):
    """Improved network: mixture [B,T] → estimates [B,N,T] for any T ≥ 1.

    Encoder, norm, 1×1 bottleneck, num_blocks U-shaped blocks with plain residuals, PReLU and a 1×1 layer to N masks
    per frame and basis,
    ReLU, masks on the encoder's output, one decoder for all sources. Zeros are added at the end, seen by the norms,
    and cut again: to the next multiple of (L // 2)·2^upsampling_depth (for an even enc_kernel_size, at which the
    authors' code fails for most depths, on from there to the next length whose frames every block can halve).

    dtype, 'float32' or 'bfloat16': of everything from the encoder's output to the masked bases; parameters, norms and
    estimates are float32. remat: keep only the input of each block for the gradient, and make the rest again.

    FROZEN: parameters to be kept from training; none here.
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

    def padded(self, samples: int) -> int:
        """Samples that the network works on for a mixture of so many samples: zeros are added at the end."""
        quantum = self.enc_kernel_size // 2 * 2**self.upsampling_depth
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
            original=False,
        )
        x = layers.PReLU(per_channel=False, name="mask_prelu")(x)
        logits = layers.Pointwise(self.num_sources * self.enc_num_basis, name="mask")(x)
        masks = nn.relu(layers.with_bias(*logits))
        masked = masks * jnp.tile(encoded, (1, 1, self.num_sources))
        return Decoder(self.enc_kernel_size, self.num_sources, name="decoder")(masked)[
            :, :, :samples
        ]

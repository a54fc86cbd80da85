"""Float operations that the networks ask for, counted from their definition."""

from collections.abc import Mapping
from typing import Any

from jaxsep import models
from jaxsep.models.kernels.conv import KERNEL


def network_flops(
    network: Mapping[str, Any], *, batch: int, num_samples: int, train: bool = False
) -> int:
    """Float operations of the products and convolutions of a forward pass or a training step of
    `models.create(**network)`.

    Two per multiply-add. With F frames (zero padding included), K bases (enc_num_basis), L taps, C
    out_channels, H in_channels and N sources, an example has these multiply-adds:

        encoder     F·L·K
        bottleneck  F·K·C
        each block  F·C·H + 5·H·(F + F/2 + … + F/2^(depth−1)) + F·H·C
        masks       improved: F·C·N·K. original: F·C·N·K, the two linear maps of the mask layer as
                    one product; or, where that is less, F·C·K (none where C = K) + F·N·M with the
                    M = K² − K/2·(K/2 − 1) taps that fall on a basis
        decoder     original: F·N·K·L, each source from its own masked bases.
                    improved: F·(N·K)·(N·L)

    A training step is taken as three forward passes (outputs, gradients of the inputs, gradients of
    the parameters) less one encoder, whose input needs no gradient. Not counted: biases, norms,
    activations, the application of masks, overlap-add, merging the maps of the mask layer, the
    loss, the optimiser, and zeros that an implementation multiplies with.
    """
    module: Any = models.create(**network)
    taps, basis, sources = module.enc_kernel_size, module.enc_num_basis, module.num_sources
    channels, wide = module.out_channels, module.in_channels
    encoder = taps * basis
    depthwise = sum(KERNEL * wide / 2**level for level in range(module.upsampling_depth))
    blocks = module.num_blocks * (2 * channels * wide + depthwise)
    masks = channels * sources * basis
    decoder = sources * basis * sources * taps
    if network["family"] == "original":
        on_bases = basis**2 - basis // 2 * (basis // 2 - 1)
        separate = (channels * basis if channels != basis else 0) + sources * on_bases
        masks, decoder = min(masks, separate), sources * basis * taps
    forward = encoder + basis * channels + blocks + masks + decoder
    passes = 3 * forward - encoder if train else forward
    frames = module.padded(num_samples) // (taps // 2) + 1 - taps % 2
    return round(2 * batch * frames * passes)

"""Each kernel in plain jax.numpy: the definition to which the tests hold the fast formulations."""

import jax
import jax.numpy as jnp
from jax import Array, lax


def product(x: Array, kernel: Array) -> Array:
    return jnp.einsum("bfi,io->bfo", x, kernel)


def depthwise_conv(x: Array, kernel: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel[:, None],
        (stride,),
        [(2, 2)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[-1],
    )


def depthwise_branch(x: Array, kernel: Array, stride: int) -> tuple[Array, Array]:
    return depthwise_conv(x, kernel, stride), x


def add_upsampled(fine: Array, coarse: Array) -> Array:
    return fine + jnp.repeat(coarse, 2, axis=1)


def global_norm(x: Array, offset: Array, scale: Array, bias: Array, *slope: Array) -> Array:
    x = x + offset[None, None]
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    y = (x - mean) / jnp.sqrt(variance + 1e-8) * scale[None, None] + bias[None, None]
    return prelu(y, *slope) if slope else y


def prelu(x: Array, slope: Array) -> Array:
    return jnp.where(x > 0, x, x * slope[None, None])


def encode(waveform: Array, kernel: Array) -> Array:
    hop = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        waveform[:, :, None],
        kernel[:, None],
        (hop,),
        [(hop, hop)],
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def softmax_masked(logits: Array, encoded: Array) -> Array:
    return jax.nn.softmax(logits, axis=2) * encoded[:, :, None]

"""The original network's masks: a convolution along the bases, and a softmax over the sources.

Shapes: B batch, F frames, N sources, K bases (enc_num_basis).
"""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

from jaxsep.models.kernels.backend import at_least_float32, uninlined


def basis_toeplitz(kernel: Array) -> Array:
    """M[k, n, i] = kernel[n, k − i + K/2], 0 outside of the kernel: the matrix of a convolution.

    Σ_k x[k] · M[k, n, i] is the cross-correlation of x with kernel n, K + 1 taps, at padding K/2.

    kernel: [N,K+1], K even. Returns [K,N,K].
    """
    num_sources, taps = kernel.shape
    basis = taps - 1
    half = basis // 2
    # One period of 2K entries: entry d (mod 2K) is the value where i − k = d.
    gap = jnp.zeros((num_sources, basis - 1), kernel.dtype)
    period = jnp.concatenate([kernel[:, half::-1], gap, kernel[:, :half:-1]], axis=1)
    # Repeated and cut into rows one shorter than the period, each row starts one entry earlier than
    # the one above. The gradient of these reshapes is a sum; that of indexing would be a scatter.
    repeated = jnp.broadcast_to(period[:, None], (num_sources, basis, 2 * basis))
    rows = repeated.reshape(num_sources, -1)[:, : basis * (2 * basis - 1)]
    return rows.reshape(num_sources, basis, 2 * basis - 1)[:, :, :basis].swapaxes(0, 1)


@jax.custom_vjp
@uninlined
def softmax_masked(logits: Array, encoded: Array) -> Array:
    """Softmax over the sources, times the encoder's output.

        y[b, f, n, k] = softmax_n(logits[b, f, n, k]) · encoded[b, f, k]

    A CPU is slow at sums over a short axis, so the sums over the few sources are written out, in
    the gradient too: with masks m and g the gradient of y, that of encoded is e = Σ_n g_n·m_n, and
    that of the logits m_n · encoded · (g_n − e).

    logits: [B,F,N,K]; encoded: [B,F,K]. Returns [B,F,N,K].
    """
    return (_softmax(logits) * encoded[:, :, None]).astype(encoded.dtype)


def _softmax(logits: Array) -> Array:
    sources, logits = range(logits.shape[2]), at_least_float32(logits)
    powers = jnp.exp(logits - reduce(jnp.maximum, (logits[:, :, n] for n in sources))[:, :, None])
    return powers / reduce(jnp.add, (powers[:, :, n] for n in sources))[:, :, None]


@uninlined
def _softmax_masked_gradients(logits: Array, encoded: Array, g: Array) -> tuple[Array, Array]:
    masks = _softmax(logits)
    dencoded = reduce(jnp.add, (g[:, :, n] * masks[:, :, n] for n in range(g.shape[2])))
    dlogits = masks * encoded[:, :, None] * (g - dencoded[:, :, None])
    return dlogits.astype(logits.dtype), dencoded.astype(encoded.dtype)


softmax_masked.defvjp(
    lambda logits, encoded: (softmax_masked(logits, encoded), (logits, encoded)),
    lambda saved, g: _softmax_masked_gradients(*saved, g),
)

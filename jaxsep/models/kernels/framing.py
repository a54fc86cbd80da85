"""Both ends of the networks: waveform to frames and back as matrix products, and the original network's masks.

Shapes: B batch, F frames, T samples, N sources, K bases (enc_num_basis), L taps of a basis (enc_kernel_size),
S = L // 2 samples from one frame to the next. Gradients are those of automatic differentiation but for `softmax_masked`
and the matrix products.

Source: Tzinis, Wang, Smaragdis, "Sudo rm -rf: efficient networks for universal audio source separation", MLSP 2020,
and for padding and lengths the authors' released code.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

from jaxsep.models.kernels import conv as ops
from jaxsep.models.kernels.backend import apart, wide


def encode(waveform: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Strided convolution as framing and a matrix product.

    y[b, f] = Σ_l kernel[l] · waveform[b, f·S + l − S] + bias.
    waveform: [B,T], T a positive multiple of S, zeros outside; kernel: [L,K], L ≥ 2; bias: [K] or None.
    Returns [B,F,K], F = T/S for odd L, T/S + 1 for even L: a convolution with stride and padding S = L // 2.
    """
    taps = kernel.shape[0]
    hop = taps // 2
    batch, samples = waveform.shape
    frames = samples // hop + 1 - taps % 2
    hops = -(-taps // hop)
    padded = jnp.pad(waveform, ((0, 0), (hop, (frames + hops - 2) * hop - samples)))
    chunks = padded.reshape(batch, frames + hops - 1, hop)
    framed = jnp.concatenate([chunks[:, i : i + frames] for i in range(hops)], axis=2)[:, :, :taps]
    encoded = ops.product(framed, kernel)
    return encoded if bias is None else encoded + bias[None, None]


def overlap_add(frames: Array) -> Array:
    """y[b, t] = Σ_f frames[b, f, t + S − f·S]: frames of L samples, S = L // 2 apart, added up, the first S samples
    cut.

    frames: [B,F,L], L ≥ 2. Returns [B,F·S] for odd L, [B,F·S − 1] for even L: what a transposed convolution with
    stride and padding S and output padding S − 1 gives.
    """
    batch, count, taps = frames.shape
    hop = taps // 2
    hops = -(-taps // hop)
    chunks = jnp.pad(frames, ((0, 0), (0, 0), (0, hops * hop - taps))).reshape(
        batch, count, hops, hop
    )
    added = sum(
        (jnp.pad(chunks[:, :, i], ((0, 0), (i, hops - 1 - i), (0, 0))) for i in range(1, hops)),
        start=jnp.pad(chunks[:, :, 0], ((0, 0), (0, hops - 1), (0, 0))),
    )
    samples = count * hop - 1 + taps % 2
    return added.reshape(batch, (count + hops - 1) * hop)[:, hop : hop + samples]


def basis_toeplitz(kernel: Array) -> Array:
    """Matrix M[k, n, i] = kernel[n, k − i + K/2] (0 outside the kernel) of a convolution along the basis axis.

    Σ_k x[k] · M[k, n, i] is the cross-correlation of x with kernel n of length K + 1 at padding K/2.
    kernel: [N,K+1], K even. Returns [K,N,K].
    """
    num_sources, taps = kernel.shape
    basis = taps - 1
    half = basis // 2
    # One period of 2K entries: entry d (mod 2K) is the value where i − k = d.
    gap = jnp.zeros((num_sources, basis - 1), kernel.dtype)
    period = jnp.concatenate([kernel[:, half::-1], gap, kernel[:, :half:-1]], axis=1)
    # Repeated and cut into rows one shorter than the period, each row starts one entry earlier than the row above; the
    # gradient of these reshapes is a sum over rows, that of an indexed gather would be a scatter.
    rows = jnp.broadcast_to(period[:, None], (num_sources, basis, 2 * basis)).reshape(
        num_sources, -1
    )
    rows = rows[:, : basis * (2 * basis - 1)].reshape(num_sources, basis, 2 * basis - 1)
    return rows[:, :, :basis].swapaxes(0, 1)


@jax.custom_vjp
def softmax_masked(logits: Array, encoded: Array) -> Array:
    """Masks over the sources, applied: y[b, f, n, k] = softmax_n(logits[b, f, n, k]) · encoded[b, f, k].

    logits: [B,F,N,K]; encoded: [B,F,K]. Returns [B,F,N,K]. Sums over the few sources are written out, because a CPU is slow at
    sums over a short axis; the gradient is written by hand for the same reason: with masks m and g the gradient of y,
    that of encoded is e = Σ_n g_n·m_n and that of the logits m_n·encoded·(g_n − e).
    """
    return _softmax_masked(logits, encoded)


def _softmax(logits: Array) -> Array:
    sources, logits = range(logits.shape[2]), wide(logits)
    powers = jnp.exp(logits - reduce(jnp.maximum, (logits[:, :, n] for n in sources))[:, :, None])
    return powers / reduce(jnp.add, (powers[:, :, n] for n in sources))[:, :, None]


@apart
def _softmax_masked(logits: Array, encoded: Array) -> Array:
    return (_softmax(logits) * encoded[:, :, None]).astype(encoded.dtype)


@apart
def _softmax_masked_gradients(logits: Array, encoded: Array, g: Array) -> tuple[Array, Array]:
    masks = _softmax(logits)
    dencoded = reduce(jnp.add, (g[:, :, n] * masks[:, :, n] for n in range(g.shape[2])))
    dlogits = masks * encoded[:, :, None] * (g - dencoded[:, :, None])
    return dlogits.astype(logits.dtype), dencoded.astype(encoded.dtype)


softmax_masked.defvjp(
    lambda logits, encoded: (_softmax_masked(logits, encoded), (logits, encoded)),
    lambda saved, g: _softmax_masked_gradients(*saved, g),
)

"""Both ends of the networks: waveform to frames and back, as matrix products.

Shapes: B batch, T samples, F frames, K bases (enc_num_basis), L taps of a basis (enc_kernel_size),
S = L // 2 samples from one frame to the next. Padding and lengths are those of the authors' code.
"""

import jax.numpy as jnp
from jax import Array

from jaxsep.models.kernels import conv


def encode(waveform: Array, kernel: Array) -> Array:
    """Strided convolution as framing and one matrix product, zeros outside of the waveform.

        y[b, f] = Σ_l kernel[l] · waveform[b, f·S + l − S]

    waveform: [B,T], T a positive multiple of S; kernel: [L,K], L ≥ 2.
    Returns [B,F,K], F = T/S for odd L, T/S + 1 for even L: a convolution with stride and padding S.
    """
    taps = kernel.shape[0]
    hop = taps // 2
    batch, samples = waveform.shape
    frames = samples // hop + 1 - taps % 2
    hops = -(-taps // hop)
    padded = jnp.pad(waveform, ((0, 0), (hop, (frames + hops - 2) * hop - samples)))
    chunks = padded.reshape(batch, frames + hops - 1, hop)
    framed = jnp.concatenate([chunks[:, i : i + frames] for i in range(hops)], axis=2)[:, :, :taps]
    return conv.product(framed, kernel)


def decode(x: Array, kernel: Array) -> Array:
    """Transposed convolution from all channels to N sources, [B,F,C] → [B,N,T]; T: `overlap_add`.

    kernel: [C,N,L].
    """
    batch, frames, channels = x.shape
    sources, taps = kernel.shape[1:]
    y = conv.product(x, kernel.reshape(channels, sources * taps), jnp.float32)
    y = y.reshape(batch, frames, sources, taps).swapaxes(1, 2)
    return overlap_add(y.reshape(batch * sources, frames, taps)).reshape(batch, sources, -1)


def overlap_add(frames: Array) -> Array:
    """Frames of L samples, S apart, added up; the first S samples are cut.

        y[b, t] = Σ_f frames[b, f, t + S − f·S]

    frames: [B,F,L], L ≥ 2. Returns [B,F·S] for odd L, [B,F·S − 1] for even L: what a transposed
    convolution with stride and padding S and output padding S − 1 gives.
    """
    batch, count, taps = frames.shape
    hop = taps // 2
    hops = -(-taps // hop)
    padded = jnp.pad(frames, ((0, 0), (0, 0), (0, hops * hop - taps)))
    chunks = padded.reshape(batch, count, hops, hop)
    added = sum(
        (jnp.pad(chunks[:, :, i], ((0, 0), (i, hops - 1 - i), (0, 0))) for i in range(1, hops)),
        start=jnp.pad(chunks[:, :, 0], ((0, 0), (0, hops - 1), (0, 0))),
    )
    samples = count * hop - 1 + taps % 2
    return added.reshape(batch, (count + hops - 1) * hop)[:, hop : hop + samples]

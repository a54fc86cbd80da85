"""A recording of any length through a network that sees chunks of one length, in constant memory.

A chunk has C samples and shares V with the next one: chunks start C − V samples apart. Each is
normalised as in training, and its estimates are scaled back,

    estimates = g · σ · network((chunk − μ) / σ)        μ, σ: mean and standard deviation of chunk

with a gain g for each source (`MixtureFit`), because the loss of training knows neither level nor
sign of an estimate. The sources are put into the order of the chunk before (`ordered`). Of the V
shared samples, D at each side lack context on that side and are dropped; on the V − 2D between them
the chunks are joined by a linear cross-fade, whose two weights add up to 1.

The last chunk starts earlier instead of being padded: the networks' norms are over all time and
would see the zeros. A recording no longer than a chunk is taken as it is.

Shapes: K channels, N sources, T samples. `blocks` are pieces of a signal one after another, of any
lengths.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsep.objective.permutation import best_permutation

CHUNK_SECONDS = 30.0
OVERLAP_SECONDS = 1.0
# Of the overlap, at each side: 250 ms of 1 s. What a chunk lacks at its edge shows in 100 ms of it.
DROPPED = 0.25
# A change of order must raise the correlation, at most 1, by this. At the seams of recordings of
# real sounds the right order is at least 0.2 above the wrong one; over silence nothing is.
CLEAR = 0.1
RIDGE = 0.001
ENVELOPE = 160  # samples to a value of an envelope: 20 ms at 8 kHz
ROUNDING = 1e-10  # of its squared mean: the power that rounding leaves of a constant

Network = Callable[[np.ndarray], np.ndarray]  # [T] -> [N,T]


class Plan(NamedTuple):
    """Samples of a chunk (0: the recording as a whole), shared by two, dropped at each side."""

    length: int
    overlap: int
    dropped: int


def make_plan(sample_rate: int, chunk: float, overlap: float) -> Plan:
    """The plan for chunks and overlaps of so many seconds; chunk=inf is one chunk for all.

    Raises:
      ValueError: the overlap is not above 0 and at most half a chunk, or less than 4 samples.
    """
    if not 0 < overlap <= chunk / 2:
        raise ValueError(
            f"overlap is {overlap:g} s; it must be above 0 and at most half of chunk, "
            f"which is {chunk:g} s"
        )
    if chunk == np.inf:
        return Plan(0, 0, 0)
    shared = round(overlap * sample_rate)
    if shared < 4:
        raise ValueError(
            f"overlap is {overlap:g} s; it must be at least {4 / sample_rate:g} s, 4 samples"
        )
    return Plan(max(round(chunk * sample_rate), 2 * shared), shared, int(DROPPED * shared))


def separate_blocks(
    blocks: Iterable[np.ndarray], network: Network, plan: Plan
) -> Iterator[np.ndarray]:
    """The estimates of a signal, block by block, in memory that does not grow with the signal.

    Args:
      blocks: [K,T_i] float32, finite.
      network: normalised mixture [T] -> estimates [N,T]; called for each channel of each chunk.
      plan: from `make_plan`.

    Yields:
      [K,N,T_j] float32, as many samples in all as the blocks have; nothing for no samples. The
      estimates of a constant chunk are zero. All channels have the sources in one order, as far as
      `ordered` can tell.

    Raises:
      ValueError: the network gave NaN or infinite values.
    """
    fit = MixtureFit()
    before: np.ndarray | None = None  # estimates of the chunk before, in their final order
    orders: np.ndarray | None = None
    first = end = given = 0  # where it starts and ends; samples yielded so far
    for start, chunk in chunked(blocks, plan):
        estimates = np.stack([estimate(channel, network) for channel in chunk])
        estimates *= fit.gains(estimates, chunk)[:, None]
        past = None if before is None else before[..., start - first :]
        estimates, orders = ordered(estimates, past, orders)
        if before is not None:
            fade_from, fade_to = end - plan.overlap + plan.dropped, end - plan.dropped
            yield before[..., given - first : fade_from - first]
            count = fade_to - fade_from
            weight = (np.arange(count, dtype=np.float32) + 0.5) / count
            faded_out = before[..., fade_from - first : fade_to - first] * (1 - weight)
            yield faded_out + estimates[..., fade_from - start : fade_to - start] * weight
            given = fade_to
        before, first, end = estimates, start, start + chunk.shape[1]
    if before is not None:
        yield before[..., given - first :]


def chunked(blocks: Iterable[np.ndarray], plan: Plan) -> Iterator[tuple[int, np.ndarray]]:
    """(its first sample, chunk [K,C]) of every chunk of blocks [K,T_i].

    Every chunk starts C − V after the one before; the last one where it ends with the signal. One
    chunk [K,T] where T ≤ C, or where the plan is for the recording as a whole.
    """
    held: list[np.ndarray] = []  # the signal from `start` on
    start, count, hop = 0, 0, 0  # hop: from `start` to the next chunk, 0 before the first
    for block in blocks:
        held.append(block)
        count += block.shape[1]
        # Only with more than a chunk at hand: the last chunk is made at the end.
        while plan.length and count > hop + plan.length:
            signal = np.concatenate(held, axis=1)[:, hop:]
            start, count, held = start + hop, signal.shape[1], [signal]
            hop = plan.length - plan.overlap
            yield start, signal[:, : plan.length]
    if count:
        signal = np.concatenate(held, axis=1)
        first = max(0, count - plan.length) if plan.length else 0
        yield start + first, signal[:, first:]


def estimate(chunk: np.ndarray, network: Network) -> np.ndarray:
    """Estimates [N,T] of a chunk [T], normalised for the network and scaled back; 0 if constant."""
    mean = chunk.mean(dtype=np.float64)
    centred = chunk - mean
    power = float(np.mean(np.square(centred)))
    silent = power <= ROUNDING * mean**2
    scale = 1.0 if silent else np.sqrt(power)
    estimates = np.asarray(network((centred / scale).astype(np.float32)))
    if silent:
        return np.zeros_like(estimates)
    if not np.isfinite(estimates).all():
        raise ValueError(
            "the network gave NaN or infinite values: "
            "its parameters are damaged, or its training diverged"
        )
    return estimates * np.float32(scale)


class MixtureFit:
    """The gains that bring estimates ŝ to the level and sign of the sources in the mixture o.

    SI-SDR does not change when an estimate is multiplied by any number, negative ones too, so what
    training leaves there is chance. It differs little over time: the gains are fitted to all chunks
    so far,

        g = argmin ‖o − Σ_n g_n·ŝ_n‖² + RIDGE·‖o‖²·Σ_n (g_n − sign_n)²,    sign_n = sign <o, ŝ_n>

    by least squares, which shares out sound that several estimates hold. The second term, and the
    limits |g_n| in [0.1, 10], matter for estimates so faint, or so alike, that the first does not
    tell their gains.
    """

    def __init__(self) -> None:
        self._gram: Any = 0.0
        self._cross: Any = 0.0
        self._power = 0.0

    def gains(self, estimates: np.ndarray, mixture: np.ndarray) -> np.ndarray:
        """[N] float32, after one more chunk: estimates [K,N,C], mixture [K,C].

        One gain for all channels, which keep their balance.
        """
        estimates, mixture = estimates.astype(np.float64), mixture.astype(np.float64)
        for signals, target in zip(estimates, mixture, strict=True):
            signals = signals - signals.mean(axis=1, keepdims=True)
            target = target - target.mean()
            self._gram = self._gram + signals @ signals.T
            self._cross = self._cross + signals @ target
            self._power += float(target @ target)
        sign = np.where(self._cross < 0, -1.0, 1.0)
        if not self._power > 0:
            return sign.astype(np.float32)
        ridge = RIDGE * self._power
        solved = np.linalg.solve(self._gram + ridge * np.eye(len(sign)), self._cross + ridge * sign)
        return (sign * np.clip(sign * solved, 0.1, 10.0)).astype(np.float32)


def ordered(
    estimates: np.ndarray, past: np.ndarray | None, orders: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Put the sources of each channel of a chunk into order.

    A channel follows its own past, since the same samples of the mixture are in both chunks. It
    also follows channel 0 by the sources' envelopes, which agree between microphones that stand
    apart, unlike waveforms. With r of `correlations`, the order π has the largest

        Σ_n r(past_n, estimates_π(n)) + Σ_n r(envelope of channel 0's n, envelope of estimates_π(n))

    where that is clearly more than in the order of the chunk before; else, as over silence, that
    order stays.

    Args:
      estimates: [K,N,C] as the network gave them.
      past: [K,N,W], the end of the chunk before, in order, on the first W samples of this one; None
        for the first chunk.
      orders: [K,N] int, of the chunk before; None for the first chunk.

    Returns:
      estimates [K,N,C] in order; orders [K,N].
    """
    if orders is None:
        orders = np.tile(np.arange(estimates.shape[1]), (len(estimates), 1))
    result, chosen = np.empty_like(estimates), np.empty_like(orders)
    for k, channel in enumerate(estimates):
        scores = np.zeros(2 * channel.shape[:1])
        if past is not None:
            scores += correlations(past[k], channel[:, : past.shape[-1]])
        if k:
            scores += correlations(envelopes(result[0]), envelopes(channel))
        best = np.asarray(best_permutation(jnp.asarray(scores, jnp.float32))[0])
        gain = sum(scores[n, best[n]] - scores[n, orders[k, n]] for n in range(len(channel)))
        chosen[k] = best if gain > CLEAR else orders[k]
        result[k] = channel[chosen[k]]
    return result, chosen


def correlations(reference: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """[N,N]: entry [n, m] = <reference_n, estimates_m> / (‖reference‖·‖estimates‖).

    The norms are over all N sources. The sum along an order is 1 for a perfect fit, and largest for
    the order with the least ‖reference − estimates_π‖: loud sources count most, a silent one not at
    all. Zero where all is silent.

    reference, estimates: [N,T].
    """
    reference, estimates = reference.astype(np.float64), estimates.astype(np.float64)
    norms = np.linalg.norm(reference) * np.linalg.norm(estimates)
    return reference @ estimates.T / (norms if norms > 0 else 1.0)


def envelopes(signals: np.ndarray) -> np.ndarray:
    """[N, T // ENVELOPE]: root mean square of every ENVELOPE samples of [N,T], less its mean."""
    count = signals.shape[1] // ENVELOPE
    frames = signals[:, : count * ENVELOPE].reshape(len(signals), count, ENVELOPE)
    levels = np.sqrt(np.mean(np.square(frames.astype(np.float64)), axis=2))
    return levels - levels.sum(axis=1, keepdims=True) / max(count, 1)


def mixture_consistent(
    estimates: Iterable[np.ndarray], mixture: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """Estimates that add up to the mixture: each gets an equal share of what they lack of it.

        ŝ_n + (o − Σ_m ŝ_m) / N

    Source: Wisdom, Hershey, Wilson, Thorpe, Chinen, Patton, Saurous, "Differentiable consistency
    constraints for improved deep speech enhancement", ICASSP 2019, with uniform weights: of all
    estimates that add up, the nearest by squared error.

    Args:
      estimates: blocks [K,N,T_i].
      mixture: blocks [K,T_j], at least as many samples in all.
    """
    pieces = iter(mixture)
    held = next(pieces)  # what the estimates have not reached
    for block in estimates:
        _, sources, samples = block.shape
        while held.shape[1] < samples:
            held = np.concatenate([held, next(pieces)], axis=1)
        yield block + ((held[:, :samples] - block.sum(axis=1)) / sources)[:, None]
        held = held[:, samples:]

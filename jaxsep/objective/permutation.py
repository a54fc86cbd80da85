"""Which estimate is which source: best permutation, SI-SDR improvement and the loss made of them. Pure JAX.

    π* = argmax_π Σ_n A[n, π(n)]          A[n, m]: SI-SDR of estimate m against source n, dB
    SI-SDRi[n] = A[n, π*(n)] − SI-SDR(o, s_n)
    L[n] = −SI-SDRi[n]                    dB, lower is better

Sources: Yu, Kolbæk, Tan, Jensen, "Permutation invariant training of deep models for speaker-independent multi-talker speech
separation", ICASSP 2017; the loss is L of Tzinis, Bralios, Smaragdis, "Unified gradient reweighting for model biasing with
applications to source separation", equation 8; the terms for slots without sound follow Wisdom et al., "What's all the FUSS
about free universal sound separation data?", ICASSP 2021.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.objective.si_sdr import LARGEST_SCALE, pairwise_si_sdr, si_sdr

MAX_SOURCES = 8
_ENUMERATED = (
    4  # up to 4! = 24 permutations are listed; beyond, subsets (N·2^(N−1) instead of N! terms)
)


def best_permutation(
    pairwise: jax.Array, *, active: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The permutation with the largest sum of scores over the active sources.

    All N! permutations for N ≤ 4; for 5 ≤ N ≤ 8 dynamic programming over subsets: f(S) = max over m in S of
    f(S without m) + A[|S|−1, m], the best that the first |S| sources make of the estimates S.

    Args:
      pairwise: [..., N, N] dB, entry [n, m] is estimate m against source n (see `pairwise_si_sdr`).
      active: [..., N] bool; an inactive source adds nothing to any sum and takes an estimate that is left. None: all active.

    Returns:
      permutation [..., N] int32: the estimate given to source n; among equals the first in the search's order.
      scores [..., N] dB: pairwise at the permutation, 0 where inactive. Gradients flow through the scores alone.

    Raises:
      ValueError: pairwise is not square, or N > 8.

    >>> import jax.numpy as jnp
    >>> permutation, scores = best_permutation(jnp.array([[1.0, 9.0], [8.0, 9.5]]))
    >>> print(permutation, scores)
    [1 0] [9. 8.]
    """
    num_sources = pairwise.shape[-1]
    if pairwise.ndim < 2 or pairwise.shape[-2] != num_sources:
        raise ValueError(
            f"pairwise must be [..., N, N], one estimate per source, got shape {pairwise.shape}"
        )
    if not 1 <= num_sources <= MAX_SOURCES:
        raise ValueError(
            f"the permutation search takes 1 to {MAX_SOURCES} sources, got {num_sources}"
        )
    if active is not None:
        pairwise = jnp.where(active[..., None], pairwise, 0.0)
    search = _search_all if num_sources <= _ENUMERATED else _search_subsets
    permutation = search(jax.lax.stop_gradient(pairwise))
    scores = jnp.take_along_axis(pairwise, permutation[..., None], axis=-1)[..., 0]
    return permutation, scores


def _search_all(pairwise: jax.Array) -> jax.Array:
    num_sources = pairwise.shape[-1]
    table = np.array(list(itertools.permutations(range(num_sources))), dtype=np.int32)
    totals = jnp.sum(pairwise[..., np.arange(num_sources), table], axis=-1)
    return jnp.asarray(table)[jnp.argmax(totals, axis=-1)]


@functools.cache
def _subset_levels(num_sources: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per level k: the members [S, k+1] of every subset of k+1 estimates, and the place in the level below of the subset
    without each of them [S, k+1]."""
    levels = []
    place = {0: 0}
    for size in range(1, num_sources + 1):
        subsets = list(itertools.combinations(range(num_sources), size))
        masks = [sum(1 << member for member in subset) for subset in subsets]
        rests = [
            [place[mask - (1 << m)] for m in subset]
            for mask, subset in zip(masks, subsets, strict=True)
        ]
        levels.append((np.array(subsets, np.int32), np.array(rests, np.int32)))
        place = {mask: index for index, mask in enumerate(masks)}
    return levels


def _search_subsets(pairwise: jax.Array) -> jax.Array:
    levels = _subset_levels(pairwise.shape[-1])
    best = jnp.zeros((*pairwise.shape[:-2], 1), pairwise.dtype)
    choices = []
    for source, (members, rests) in enumerate(levels):
        totals = best[..., rests] + pairwise[..., source, :][..., members]
        choices.append(jnp.argmax(totals, axis=-1))
        best = jnp.max(totals, axis=-1)
    subset = jnp.zeros(
        pairwise.shape[:-2], jnp.int32
    )  # the last level has one subset: all estimates
    permutation = []
    for (members, rests), choice in zip(reversed(levels), reversed(choices), strict=True):
        member = jnp.take_along_axis(choice, subset[..., None], axis=-1)[..., 0]
        permutation.append(jnp.asarray(members)[subset, member])
        subset = jnp.asarray(rests)[subset, member]
    return jnp.stack(permutation[::-1], axis=-1)


def si_sdr_improvement(
    estimates: jax.Array,
    sources: jax.Array,
    mixture: jax.Array,
    *,
    active: jax.Array | None = None,
    zero_mean: bool = True,
) -> jax.Array:
    """SI-SDR after the best permutation minus the mixture's own, per source.

    Args:
      estimates: [..., N, T] in any order.
      sources: [..., N, T].
      mixture: [..., T].
      active: [..., N] bool, False where a slot holds no sound. None: all active.
      zero_mean: remove each signal's mean over T first.

    Returns:
      [..., N] dB in the order of the sources; 0 where inactive. A silent source marked active scores 0: −100 dB before and
      after. Edge behaviour otherwise as `jaxsep.si_sdr`.

    Raises:
      ValueError: lengths differ, as many estimates as sources are not given, or N > 8.
    """
    _, scores = best_permutation(
        pairwise_si_sdr(estimates, sources, zero_mean=zero_mean), active=active
    )
    return scores - _mixture_scores(sources, mixture, active, zero_mean)


def _mixture_scores(
    sources: jax.Array, mixture: jax.Array, active: jax.Array | None, zero_mean: bool
) -> jax.Array:
    own = jax.lax.stop_gradient(si_sdr(mixture[..., None, :], sources, zero_mean=zero_mean))
    return own if active is None else jnp.where(active, own, 0.0)


def separation_losses(
    estimates: jax.Array,
    sources: jax.Array,
    mixture: jax.Array,
    *,
    active: jax.Array | None = None,
    improvement: bool = True,
    zero_mean: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Loss of every source, what training minimises, and the SI-SDR improvement behind it.

    With A = SI-SDR after the best permutation over the active sources, per source n:

        active, among others:   L[n] = −A[n] + SI-SDR(o, s_n)             without `improvement`: −A[n]
        active, alone:          L[n] = 10·log10(10^(−A[n]/10) + 1e-3)      o is the source: no improvement; bounded at −30 dB
        inactive:               L[n] = 10·log10(‖ŝ‖²/‖o‖² + 1e-3)          energy of the estimate it is given; at least −30 dB

    A silent mixture counts as ‖o‖² = 1. Losses and gradients are finite for estimates and mixtures of 1e-30 … 1e30, and 0.

    Args:
      estimates, sources, mixture, active, zero_mean: as `si_sdr_improvement`. Any leading axes, so it may be vmapped.
      improvement: subtract the mixture's own SI-SDR. It is constant in the estimates, but weights read the losses.

    Returns:
      losses [..., N] dB, never reduced; si_sdri [..., N] dB, NaN-free, 0 where inactive or alone.
    """
    permutation, scores = best_permutation(
        pairwise_si_sdr(estimates, sources, zero_mean=zero_mean), active=active
    )
    own = _mixture_scores(sources, mixture, active, zero_mean)
    losses = own - scores if improvement else -scores
    if active is None:
        return losses, scores - own
    alone = jnp.sum(active, axis=-1, keepdims=True) == 1
    bounded = 10.0 * jnp.log10(10.0 ** (-scores / 10.0) + 1e-3)
    energy = jnp.take_along_axis(_energy_losses(estimates, mixture), permutation, axis=-1)
    losses = jnp.where(active, jnp.where(alone, bounded, losses), energy)
    return losses, jnp.where(active & ~alone, scores - own, 0.0)


def _energy_losses(estimates: jax.Array, mixture: jax.Array) -> jax.Array:
    """10·log10(‖ŝ‖²/‖o‖² + 1e-3) of every estimate, [..., N] dB; signals are scaled first, squares of 1e±30 would leave
    float32."""
    estimates, mixture = (
        jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32)) for x in (estimates, mixture)
    )
    level = _peak(mixture)[..., None]
    level = jnp.where(level > 0, level, 1.0)
    scale = jax.lax.stop_gradient(jnp.maximum(_peak(estimates), level))
    power = jnp.sum(jnp.square(estimates / scale[..., None]), axis=-1)
    mixture_power = jnp.sum(jnp.square(mixture / level), axis=-1, keepdims=True)
    mixture_power = jnp.where(mixture_power > 0, mixture_power, 1.0)
    ratio = power / mixture_power + 1e-3 * jnp.square(level / scale)
    return 10.0 * jnp.log10(ratio) + 20.0 * (jnp.log10(scale) - jnp.log10(level))


def _peak(signals: jax.Array) -> jax.Array:
    return jnp.minimum(jnp.max(jnp.abs(signals), axis=-1), LARGEST_SCALE)

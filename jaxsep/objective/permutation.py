"""Which estimate is which source: best permutation, SI-SDR improvement, and the loss. Pure JAX.

    π* = argmax_π Σ_n A[n, π(n)]               A[n, m]: SI-SDR of estimate m against source n, dB
    SI-SDRi[n] = A[n, π*(n)] − SI-SDR(o, s_n)  o: the mixture
    L[n] = −SI-SDRi[n]                         dB, lower is better

Sources: Yu, Kolbæk, Tan, Jensen, "Permutation invariant training of deep models for
speaker-independent multi-talker speech separation", ICASSP 2017. The loss is L of Tzinis, Bralios,
Smaragdis, "Unified gradient reweighting for model biasing with applications to source separation",
equation 8. The terms for slots without sound follow Wisdom et al., "What's all the FUSS about free
universal sound separation data?", ICASSP 2021.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsep.objective.si_sdr import LARGEST_SCALE, pairwise_si_sdr, si_sdr

MAX_SOURCES = 8
_ENUMERATED = 4  # the 24 permutations of 4 are compared faster than the Hungarian algorithm runs
_LARGEST_SCORE = 1e6  # dB; the algorithm does not end on NaN or infinity


def best_permutation(
    pairwise: jax.Array, *, active: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The permutation with the largest sum of scores over the active sources.

    Compares all N! permutations for N ≤ 4, and uses the Hungarian algorithm for 5 ≤ N ≤ 8.

    Args:
      pairwise: [..., N, N] dB, entry [n, m] is estimate m against source n (`pairwise_si_sdr`).
      active: [..., N] bool; an inactive source adds nothing to any sum and is given an estimate
        that is left over. None: all are active.

    Returns:
      permutation, [..., N] int32: the estimate given to source n; one of the best among equals.
      scores, [..., N] dB: pairwise at the permutation, 0 where inactive. Gradients flow through
      the scores alone.

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
    search = _enumerate if num_sources <= _ENUMERATED else _assign
    permutation = search(jax.lax.stop_gradient(pairwise))
    scores = jnp.take_along_axis(pairwise, permutation[..., None], axis=-1)[..., 0]
    return permutation, scores


def _enumerate(pairwise: jax.Array) -> jax.Array:
    num_sources = pairwise.shape[-1]
    table = np.array(list(itertools.permutations(range(num_sources))), dtype=np.int32)
    totals = jnp.sum(pairwise[..., np.arange(num_sources), table], axis=-1)
    return jnp.asarray(table)[jnp.argmax(totals, axis=-1)]


def _assign(pairwise: jax.Array) -> jax.Array:
    scores = jnp.nan_to_num(jnp.clip(pairwise, -_LARGEST_SCORE, _LARGEST_SCORE))
    costs = -scores.reshape(-1, *pairwise.shape[-2:])
    sources, estimates = jax.vmap(optax.assignment.hungarian_algorithm)(costs)
    in_order = jnp.take_along_axis(estimates, jnp.argsort(sources, axis=-1), axis=-1)
    return in_order.astype(jnp.int32).reshape(pairwise.shape[:-1])


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
      active: [..., N] bool, False where a slot holds no sound. None: all are active.
      zero_mean: remove each signal's mean over T first.

    Returns:
      [..., N] dB in the order of the sources; 0 where inactive. A silent source that is marked
      active scores 0: −100 dB before and after. Other edges: the table of `si_sdr`'s module.

    Raises:
      ValueError: lengths or the numbers of estimates and sources differ, or N > 8.
    """
    pairwise = pairwise_si_sdr(estimates, sources, zero_mean=zero_mean)
    _, scores = best_permutation(pairwise, active=active)
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
    """The loss of every source, which training minimises, and its SI-SDR improvement.

    With A the SI-SDR after the best permutation over the active sources, a source n that is

        active, among others:  L[n] = −A[n] + SI-SDR(o, s_n)          without `improvement`: −A[n]
        active, alone:         L[n] = 10·log10(10^(−A[n]/10) + 1e-3)  at least −30 dB
        inactive:              L[n] = 10·log10(‖ŝ‖²/‖o‖² + 1e-3)      at least −30 dB

    Of a source alone in its mixture there is no improvement: the mixture is the source. Where a
    slot is inactive, the estimate that it is given is charged its energy; a silent mixture counts
    as ‖o‖² = 1. Losses and gradients are finite for signals of 1e-30 … 1e30, and of 0.

    Args:
      estimates, sources, mixture, active, zero_mean: as `si_sdr_improvement`.
      improvement: subtract the mixture's own SI-SDR. It is constant in the estimates, but the
        weights depend on the losses.

    Returns:
      losses, [..., N] dB, never reduced;
      si_sdri, [..., N] dB, 0 where inactive or alone.
    """
    pairwise = pairwise_si_sdr(estimates, sources, zero_mean=zero_mean)
    permutation, scores = best_permutation(pairwise, active=active)
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
    """10·log10(‖ŝ‖²/‖o‖² + 1e-3) of every estimate, [..., N] dB.

    Signals are scaled before they are squared: the square of 1e30 would leave float32.
    """
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

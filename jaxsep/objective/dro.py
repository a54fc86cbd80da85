"""Weightings for the worst: of a batch, of what is not good enough yet, of groups. Pure JAX.

Public under `jaxsep.weighting`; what a weighting is stands in `pmf`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.objective.pmf import Weighting, from_logits


def cvar(fraction: float) -> Weighting:
    """The conditional value at risk: p = 1/(q·n) on the worst q·n of n losses, 0 elsewhere.

    Where q·n is not whole, the loss at the boundary has what is left: with r = 0, 1, … the rank of
    a loss from the worst on, F = log clip(q·n − r, 0, 1). Of equal losses the first counts as
    worse.

    Args:
      fraction: q, above 0 and at most 1, where it is uniform.

    Raises:
      ValueError: fraction is out of its range.

    Source: Rockafellar, Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2,
    2000.

    >>> import jax.numpy as jnp
    >>> print(cvar(0.5)(jnp.array([1.0, -3.0, 4.0, 2.0]), None, 0))
    [0.  0.  0.5 0.5]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")

    def logits(
        losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        worst_first = jnp.argsort(-jnp.ravel(losses), stable=True)
        share = jnp.clip(fraction * losses.size - jnp.arange(losses.size), 0.0, 1.0)
        return jnp.zeros(losses.size).at[worst_first].set(jnp.log(share)).reshape(losses.shape)

    return from_logits(logits)


def threshold(threshold_db: float) -> Weighting:
    """Equal weights where the SI-SDR improvement −L is below a threshold, none where it is not.

    Where every example is good enough no mass is left, and the weights are uniform (see `pmf`).

    Args:
      threshold_db: dB.

    Source: the separation recipes of SpeechBrain (Ravanelli et al., "SpeechBrain: a
    general-purpose speech toolkit", arXiv:2106.04624), which drop the losses below a threshold
    (there of −SI-SNR, −30 dB).
    """
    return from_logits(
        lambda losses, class_ids, epoch, *, batch=None: jnp.where(
            -losses < threshold_db, 0.0, -jnp.inf
        ),
        elementwise=True,
    )


def group_dro(groups: jax.typing.ArrayLike, *, step_size: float = 0.01) -> Weighting:
    """Weight on the groups of classes that have been worst so far (has memory).

    Distributionally robust optimisation over groups. In every step the q_g of each group g of the
    batch is multiplied by exp(η·(L_g − L̄)), where L_g is the mean loss (dB) of its sources and L̄
    the mean of L_g over the groups of the batch; then q is normalised. A source has
    F = log(q_g/n_g), where n_g is the number of the group's sources in the batch; with losses [B] a
    mixture has the logarithm of the sum of q_g/n_g over its sources. Slots without sound are a
    group of their own.

    The source draws one group a step and multiplies by exp(η·L_g), with losses of at least 0.
    Losses in dB are mostly negative: without L̄ the groups that a batch lacks, or that training
    never has, would gather all of q.

    Args:
      groups: [classes] int from 0, the group of each class id.
      step_size: η, 1/dB.

    Returns:
      A weighting with log q, [groups + 1], as its state.

    Raises:
      ValueError: step_size is not above 0.

    Source: Sagawa, Koh, Hashimoto, Liang, "Distributionally robust neural networks for group
    shifts", ICLR 2020, algorithm 1.
    """
    if step_size <= 0:
        raise ValueError(f"step_size must be above 0, got {step_size}")
    group_of_class = np.asarray(groups, np.int32)
    silent = int(group_of_class.max()) + 1  # the group of slots without sound
    count = silent + 1

    def init() -> jax.Array:
        return jnp.full(count, -jnp.log(count))

    def update(
        losses: jax.Array,
        log_q: jax.Array,
        *,
        epoch: Any,
        class_ids: jax.Array,
        batch: Any = None,
    ) -> tuple[jax.Array, jax.Array]:
        by_class = jnp.asarray(group_of_class)[jnp.maximum(class_ids, 0)]
        group = jnp.where(class_ids >= 0, by_class, silent)  # [B, N]
        belongs = jax.nn.one_hot(group, count)  # [B, N, groups + 1]
        per_source = losses.reshape(*losses.shape, *[1] * (group.ndim + 1 - losses.ndim))
        sizes = jnp.sum(belongs, axis=(0, 1))
        means = jnp.sum(belongs * per_source, axis=(0, 1)) / jnp.maximum(sizes, 1)
        present = sizes > 0
        mean_of_means = jnp.sum(means) / jnp.sum(present)  # the mean of an absent group is 0
        ahead = jnp.where(present, means - mean_of_means, 0.0)
        log_q = jax.nn.log_softmax(log_q + step_size * ahead)
        logits = (log_q - jnp.log(jnp.maximum(sizes, 1)))[group]
        if losses.ndim < logits.ndim:
            logits = jax.nn.logsumexp(logits, axis=-1)
        return logits, log_q

    return Weighting(init, update)

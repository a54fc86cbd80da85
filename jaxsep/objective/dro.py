"""Weightings that are no softmax of the losses: the worst of a batch, what is not yet good enough, the worst group.

Pure JAX. How a weighting is called: see `weighting`, which also names these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.objective.pmf import Weighting, pmf


def cvar(fraction: float) -> Callable[..., jax.Array]:
    """The conditional value at risk: p = 1/(q·n) on the worst q·n of n losses, 0 elsewhere.

    Where q·n is not whole, the loss at the boundary has what is left: with losses from the worst on,
    p_r = clip(q·n − r, 0, 1)/(q·n), r = 0, 1, …. Of equal losses the first counts as worse. fraction 1 is uniform.

    Source: Rockafellar, Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2, 2000.

    Raises:
      ValueError: fraction is not in (0, 1].

    >>> import jax.numpy as jnp
    >>> print(cvar(0.5)(jnp.array([1.0, -3.0, 4.0, 2.0]), None, 0))
    [0.  0.  0.5 0.5]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")

    def weigh(
        losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        worst_first = jnp.argsort(-jnp.ravel(losses), stable=True)
        share = jnp.clip(fraction * losses.size - jnp.arange(losses.size), 0.0, 1.0)
        return pmf(jnp.zeros(losses.size).at[worst_first].set(share).reshape(losses.shape))[0]

    return weigh


def threshold(threshold_db: float) -> Callable[..., jax.Array]:
    """Equal weights where the SI-SDR improvement −L is below threshold_db, none where it is not.

    Where every example is good enough no mass is left: uniform, and counted.

    Source: the separation recipes of SpeechBrain (Ravanelli et al., "SpeechBrain: a general-purpose speech toolkit",
    arXiv:2106.04624), which drop the losses below a threshold (there of −SI-SNR, −30 dB).
    """

    @dataclass(frozen=True)
    class Threshold(Weighting):
        def mass(
            self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
        ) -> jax.Array:
            return (-losses < threshold_db).astype(losses.dtype)

    return Threshold()


@dataclass(frozen=True)
class GroupDRO:
    """What `group_dro` returns: init() -> log q [groups + 1]; update(log q, …) -> (mass, log q)."""

    groups: np.ndarray
    step_size: float

    @property
    def _count(self) -> int:
        return int(self.groups.max()) + 2

    def init(self) -> jax.Array:
        return jnp.full(self._count, -jnp.log(self._count))

    def update(
        self,
        log_q: jax.Array,
        losses: jax.Array,
        class_ids: jax.Array,
        epoch: Any,
        *,
        batch: Any = None,
    ) -> tuple[jax.Array, jax.Array]:
        of_source = jnp.where(
            class_ids >= 0, jnp.asarray(self.groups)[jnp.maximum(class_ids, 0)], self._count - 1
        )
        belongs = jax.nn.one_hot(of_source, self._count)  # [B, N, groups + 1]
        per_source = jnp.broadcast_to(
            losses.reshape(*losses.shape, *[1] * (2 - losses.ndim)), class_ids.shape
        )
        sizes = jnp.sum(belongs, axis=(0, 1))
        present, counts = sizes > 0, jnp.maximum(sizes, 1)
        means = jnp.sum(belongs * per_source[..., None], axis=(0, 1)) / counts
        ahead = jnp.where(
            present, means - jnp.sum(means) / jnp.sum(present), 0.0
        )  # means of the absent are 0
        log_q = jax.nn.log_softmax(log_q + self.step_size * ahead)
        mass = belongs @ (jax.nn.softmax(jnp.where(present, log_q, -jnp.inf)) / counts)
        return (mass if losses.ndim == class_ids.ndim else jnp.sum(mass, axis=-1)), log_q


def group_dro(groups: jax.typing.ArrayLike, *, step_size: float = 0.01) -> GroupDRO:
    """Weight on the groups of classes that have been worst: distributionally robust optimisation over groups, with memory.

    In every step the q_g of each group in the batch is multiplied by exp(η·(L_g − L̄)), L_g being the mean loss (dB) of its
    sources and L̄ the mean of L_g over these groups; then q is normalised. A source has p = q_g/n_g over the groups of the
    batch, n_g being the number of the group's sources in it; with losses [B] a mixture has the sum over its sources. Slots
    without sound are a group of their own.

    The source draws one group a step and multiplies by exp(η·L_g), with losses of at least 0. Losses in dB are mostly negative:
    without L̄ the groups that a batch lacks, or that training never has, would gather all of q.

    Args:
      groups: [classes] int from 0, the group of each class id.
      step_size: η, 1/dB.

    Source: Sagawa, Koh, Hashimoto, Liang, "Distributionally robust neural networks for group shifts", ICLR 2020, algorithm 1.

    Raises:
      ValueError: step_size is not above 0.
    """
    if step_size <= 0:
        raise ValueError(f"step_size must be above 0, got {step_size}")
    return GroupDRO(np.asarray(groups, np.int32), step_size)

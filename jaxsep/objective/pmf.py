"""Probability mass functions over the losses of a batch: from any mass, and what one did. Pure JAX; see `weighting`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def pmf(mass: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Any nonnegative mass to weights with sum 1 and no gradient, and whether there was no mass left.

    Where the mass sums to 0, or holds a negative or non-finite value, the weights are uniform and the second result is True:
    training counts and logs these steps.

    >>> import jax.numpy as jnp
    >>> weights, no_mass = pmf(jnp.array([1.0, 3.0]))
    >>> print(weights, no_mass)
    [0.25 0.75] False
    """
    mass = jax.lax.stop_gradient(jnp.asarray(mass, jnp.float32))
    total = jnp.sum(mass)
    usable = jnp.isfinite(total) & (total > 0) & jnp.all(mass >= 0)
    return jnp.where(usable, mass / jnp.where(usable, total, 1.0), 1.0 / mass.size), ~usable


class Weighting:
    """What weightings without memory may share: `mass` before normalisation (training counts the steps where none is left),
    and the call that makes it a pmf."""

    def mass(
        self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        raise TypeError(f"{type(self).__name__} defines no mass")

    def __call__(
        self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        return pmf(self.mass(losses, class_ids, epoch, batch=batch))[0]


def apply(
    weighting: Callable[..., Any],
    state: Any,
    losses: jax.Array,
    class_ids: jax.Array | None,
    epoch: Any,
    *,
    batch: Any = None,
) -> tuple[jax.Array, Any]:
    """Mass of any weighting, before `pmf`, and its next state; a weighting without memory keeps the one it is given."""
    if hasattr(weighting, "update"):
        return weighting.update(state, losses, class_ids, epoch, batch=batch)
    return getattr(weighting, "mass", weighting)(losses, class_ids, epoch, batch=batch), state


def effective_sample_size(weights: jax.Array) -> jax.Array:
    """1 / Σ p², between 1 (one example has all the weight) and the number of weights (uniform). Scalar.

    Source: Kish, "Survey Sampling", Wiley 1965.
    """
    return 1.0 / jnp.sum(jnp.square(weights))


def weight_statistics(weights: jax.Array) -> dict[str, jax.Array]:
    """What a pmf did, as scalars: ess, see `effective_sample_size`; weight_entropy, −Σ p·ln p in nats, between 0 and ln n;
    weight_max, the largest weight.

    >>> import jax.numpy as jnp
    >>> {name: round(float(value), 3) for name, value in weight_statistics(jnp.array([0.5, 0.5, 0.0])).items()}
    {'ess': 2.0, 'weight_entropy': 0.693, 'weight_max': 0.5}
    """
    entropy = -jnp.sum(weights * jnp.log(jnp.where(weights > 0, weights, 1.0)))
    return {
        "ess": effective_sample_size(weights),
        "weight_entropy": entropy,
        "weight_max": jnp.max(weights),
    }


def mean_weight(
    weights: jax.Array, class_ids: jax.Array, members: jax.typing.ArrayLike
) -> jax.Array:
    """Mean weight of the sources of some classes, times the number of weights: 1 as in ordinary training. Scalar.

    Args:
      weights: [B] (a source has its mixture's) or [B, N].
      class_ids: [B, N], −1 for a slot without sound.
      members: [classes] bool, the classes that count. A batch without any of them gives 0.
    """
    counted = (class_ids >= 0) & jnp.asarray(members)[jnp.maximum(class_ids, 0)]
    of_source = weights.reshape(*weights.shape, *[1] * (2 - weights.ndim))
    return (
        weights.size
        * jnp.sum(jnp.where(counted, of_source, 0.0))
        / jnp.maximum(jnp.sum(counted), 1)
    )

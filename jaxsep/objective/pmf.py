"""What a weighting is, how its logits become the weights of a batch, and what the weights did.

    losses  --Weighting.update-->  logits F  --pmf-->  p = softmax(F),  Σ p = 1,  no gradient

The weightings themselves are in `weighting` and `dro`. Pure JAX.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

# The entries of a batch of mixtures that a plain function may read, see `from_mass`.
SIGNALS = ("mixture", "sources", "active", "snr")


@dataclass(frozen=True)
class Weighting:
    """Says where a network shall be good: turns the losses of a batch into logits.

    The form is that of optax's transformations, two pure functions and the state between them. The
    weights of the batch are the softmax of the logits, see `pmf`. A logit of −inf is no weight.

    Attributes:
      init: () -> state: what the weighting remembers before the first step, a pytree of arrays;
        () where it has no memory.
      update: (losses, state, *, epoch, class_ids=None, batch=None) -> (logits, state) with
          losses     [B] or [B, N] float32, dB; the logits have the same shape
          epoch      the index of the epoch, from 0
          class_ids  [B, N] int, −1 for a slot without sound; None where there are no classes
          batch      a mapping with the entries of the batch that are named in `needs`
      needs: the entries of the batch, such as "mixture", that `update` reads. Several devices
        exchange these and no others, so that each sees the whole batch.
      elementwise: a logit depends on nothing but its own loss and class (and its own example's
        part of what is in `needs`). Gradient accumulation then takes one pass instead of two.
    """

    init: Callable[[], Any]
    update: Callable[..., tuple[jax.Array, Any]]
    needs: tuple[str, ...] = ()
    elementwise: bool = False

    def __call__(
        self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        """The weights, of the shape of losses, of a weighting without memory.

        Raises:
          TypeError: the weighting has memory.
        """
        state = self.init()
        if jax.tree.leaves(state):
            raise TypeError("this weighting has memory: call its `logits` with a state, then `pmf`")
        logits, _ = self.logits(losses, state, epoch=epoch, class_ids=class_ids, batch=batch)
        return pmf(logits)[0]

    def logits(
        self,
        losses: jax.Array,
        state: Any,
        *,
        epoch: Any,
        class_ids: jax.Array | None = None,
        batch: Mapping[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Any]:
        """`update` on losses of any float type, showing it no more of the batch than it needs.

        Raises:
          LookupError: `update` reads an entry of the batch that `needs` does not name.
          ValueError: the logits have another shape than the losses.
        """
        losses = jnp.asarray(losses, jnp.float32)
        needed = NeededEntries(batch or {}, self.needs)
        logits, state = self.update(losses, state, epoch=epoch, class_ids=class_ids, batch=needed)
        if jnp.shape(logits) != losses.shape:
            raise ValueError(
                f"the weighting returned shape {jnp.shape(logits)}, it must be that of the losses, "
                f"{losses.shape}"
            )
        return logits, state


class NeededEntries(Mapping[str, jax.Array]):
    """The entries of a batch that a weighting names in `needs`. To ask for another is an error."""

    def __init__(self, batch: Mapping[str, jax.Array], needs: tuple[str, ...]) -> None:
        self._needs = needs
        self._entries = {name: batch[name] for name in needs if name in batch}

    def __getitem__(self, name: str) -> jax.Array:
        if name not in self._needs:  # no KeyError, which `get` and `in` would take for an answer
            raise LookupError(
                f"the weighting reads batch[{name!r}] but needs only {self._needs}: add {name!r} "
                f"to its needs, as in weighting.from_mass(function, needs=({name!r},))"
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def from_logits(
    function: Callable[..., jax.Array], *, needs: tuple[str, ...] = (), elementwise: bool = False
) -> Weighting:
    """The weighting whose logits are function(losses, class_ids, epoch, *, batch=None).

    Args:
      function, needs, elementwise: see `Weighting`.

    >>> import jax.numpy as jnp
    >>> hard_first = from_logits(lambda losses, class_ids, epoch, *, batch=None: 10.0 * losses)
    >>> print(hard_first(jnp.array([-5.0, 3.0]), None, 0).round(3))
    [0. 1.]
    """

    def update(
        losses: jax.Array, state: Any, *, epoch: Any, class_ids: Any = None, batch: Any = None
    ) -> tuple[jax.Array, Any]:
        return function(losses, class_ids, epoch, batch=batch), state

    return Weighting(lambda: (), update, needs, elementwise)


def from_mass(function: Callable[..., jax.Array], *, needs: tuple[str, ...] = SIGNALS) -> Weighting:
    """The weighting p ∝ function(losses, class_ids, epoch, *, batch=None), any nonnegative mass.

    Wherever a weighting is expected, a plain function stands for from_mass(function).

    Args:
      function: its mass has the shape of losses and may be boolean. Negative or non-finite mass
        makes the weights of the batch uniform, as does mass that is 0 everywhere.
      needs: the entries of the batch that function reads, by default all of SIGNALS. Several
        devices send each other what is named here: a function that looks at the losses alone
        trains faster there with needs=().

    >>> import jax.numpy as jnp
    >>> worse = from_mass(lambda losses, class_ids, epoch, *, batch=None: losses > 0)
    >>> print(worse(jnp.array([-5.0, 3.0, 1.0]), None, 0))
    [0.  0.5 0.5]
    """

    def logits(losses: Any, class_ids: Any, epoch: Any, *, batch: Any = None) -> jax.Array:
        return jnp.log(jnp.asarray(function(losses, class_ids, epoch, batch=batch), jnp.float32))

    return from_logits(logits, needs=needs)


def as_weighting(weighting: Weighting | Callable[..., jax.Array]) -> Weighting:
    """The weighting itself, or that of a plain function of nonnegative mass."""
    return weighting if isinstance(weighting, Weighting) else from_mass(weighting)


def pmf(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The probability mass function p = softmax(logits) over all logits of a batch.

    Args:
      logits: [B] or [B, N]; −inf gives no weight.

    Returns:
      weights, float32 of the shape of logits, with sum 1 and no gradient;
      no_mass, a bool: the logits were all −inf, or one was NaN or +inf. Then the weights are
      uniform. Training counts the steps where this happens.

    >>> import jax.numpy as jnp
    >>> weights, no_mass = pmf(jnp.array([2.0, -jnp.inf, 2.0]))
    >>> print(weights, no_mass)
    [0.5 0.  0.5] False
    """
    # Here the gradient of the weights is stopped, of every weighting.
    logits = jax.lax.stop_gradient(jnp.asarray(logits, jnp.float32))
    no_mass = ~jnp.isfinite(jnp.max(logits))
    weights = jax.nn.softmax(jnp.ravel(logits)).reshape(logits.shape)
    weights = weights / jnp.sum(weights)  # a softmax is off 1 by some units in the last place
    return jnp.where(no_mass, 1.0 / logits.size, weights), no_mass


def weight_statistics(weights: jax.Array) -> dict[str, jax.Array]:
    """What a pmf did, as scalars.

    Returns:
      ess: effective sample size 1 / Σ p², from 1 (one example has all the weight) to the number
        of weights (uniform). Source: Kish, "Survey Sampling", Wiley 1965.
      weight_entropy: −Σ p·ln p in nats, from 0 to the logarithm of their number.
      weight_max: the largest weight.

    >>> import jax.numpy as jnp
    >>> statistics = weight_statistics(jnp.array([0.5, 0.5, 0.0]))
    >>> print({name: round(float(value), 3) for name, value in statistics.items()})
    {'ess': 2.0, 'weight_entropy': 0.693, 'weight_max': 0.5}
    """
    return {
        "ess": 1.0 / jnp.sum(jnp.square(weights)),
        "weight_entropy": -jnp.sum(weights * jnp.log(jnp.where(weights > 0, weights, 1.0))),
        "weight_max": jnp.max(weights),
    }


def mean_weight(
    weights: jax.Array, class_ids: jax.Array, members: jax.typing.ArrayLike
) -> jax.Array:
    """Mean weight of the sources of some classes, relative to ordinary training, where it is 1.

    Args:
      weights: [B], where a source has the weight of its mixture, or [B, N].
      class_ids: [B, N], −1 for a slot without sound.
      members: [classes] bool, the classes that count.

    Returns:
      A scalar: the mean, times the number of weights; 0 where the batch has no such source.
    """
    counted = (class_ids >= 0) & jnp.asarray(members)[jnp.maximum(class_ids, 0)]
    of_source = weights.reshape(*weights.shape, *[1] * (2 - weights.ndim))
    total = jnp.sum(jnp.where(counted, of_source, 0.0))
    return weights.size * total / jnp.maximum(jnp.sum(counted), 1)

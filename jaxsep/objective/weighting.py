"""Where the network shall be good: probability mass functions (pmfs) over the losses of a batch. Pure JAX.

    update = Σ_i p_i · ∇L_i,    Σ_i p_i = 1,    p carries no gradient

Source: Tzinis, Bralios, Smaragdis, "Unified gradient reweighting for model biasing with applications to source separation".
p = softmax(F), over the B losses of a batch, or over all B·N where there is one per source:

| weighting        | F                         | meaning                                                       |
| ---------------- | ------------------------- | ------------------------------------------------------------- |
| uniform()        | 0                         | ordinary training, 1/B each                                   |
| robust(α)        | α·L, α > 0                | weight on hard examples                                       |
| curriculum(β)    | β(epoch)·L, β < 0 rising  | easy examples first                                           |
| class_bias(γ)    | γ[class]                  | towards classes of sound                                      |
| softmax(f)       | f(losses, …)              | your own logits                                               |
| product(a, b, …) | ΣF where all have logits  | p ∝ p_a · p_b · …                                             |

A weighting is called as w(losses, class_ids, epoch, *, batch=None) and returns weights of the shape of losses with sum 1:

    losses     [B] or [B, N] dB
    class_ids  [B, N] int, −1 for a slot without sound (None where there are no classes)
    epoch      int, the epoch's index from 0
    batch      dict of arrays (mixture, sources, active, snr, …) for pmfs that look at the signals, or None

Any function of that form is a weighting: nothing else is needed to train with it. What it returns is made a pmf by `pmf`,
where the gradient is stopped, on one line. A weighting with memory carries init() -> state and
update(state, losses, class_ids, epoch, *, batch=None) -> (weights, state) instead, as optax's transformations do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Logits = Callable[..., jax.Array]


class _Weighting:
    """What the weightings of this file share: `mass` before normalisation (training counts the steps where none is left),
    and the call that makes it a pmf."""

    def mass(self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None) -> jax.Array:
        raise TypeError(f"{type(self).__name__} defines no mass")

    def __call__(self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None) -> jax.Array:
        return pmf(self.mass(losses, class_ids, epoch, batch=batch))[0]


@dataclass(frozen=True)
class Softmax(_Weighting):
    """p = softmax(logits(losses, class_ids, epoch, batch=batch)) over all losses of the batch; what `softmax` returns."""

    logits: Logits

    def mass(self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None) -> jax.Array:
        logits = self.logits(losses, class_ids, epoch, batch=batch)
        return jax.nn.softmax(jnp.ravel(logits)).reshape(losses.shape)


@dataclass(frozen=True)
class Product(_Weighting):
    """p ∝ p_a · p_b · …; what `product` returns where not all have logits."""

    factors: tuple[Callable[..., jax.Array], ...]

    def mass(self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None) -> jax.Array:
        mass = jnp.ones_like(losses)
        for factor in self.factors:
            mass = mass * factor(losses, class_ids, epoch, batch=batch)
        return mass


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


def effective_sample_size(weights: jax.Array) -> jax.Array:
    """1 / Σ p², between 1 (one example has all the weight) and the number of weights (uniform). Scalar.

    Source: Kish, "Survey Sampling", Wiley 1965.
    """
    return 1.0 / jnp.sum(jnp.square(weights))


def softmax(logit_fn: Logits) -> Softmax:
    """A weighting from logits: logit_fn(losses, class_ids, epoch, *, batch=None) -> array of the shape of losses.

    >>> import jax.numpy as jnp
    >>> hardest_first = softmax(lambda losses, class_ids, epoch, *, batch=None: 10.0 * losses)
    >>> print(hardest_first(jnp.array([-5.0, 3.0]), None, 0).round(3))
    [0. 1.]
    """
    return Softmax(logit_fn)


def uniform() -> Softmax:
    """Ordinary training: every loss counts the same.

    >>> import jax.numpy as jnp
    >>> print(uniform()(jnp.array([1.0, -3.0]), None, 0))
    [0.5 0.5]
    """
    return softmax(lambda losses, class_ids, epoch, *, batch=None: jnp.zeros_like(losses))


def robust(alpha: float) -> Softmax:
    """Weight on hard examples: F = α·L. α in 1/dB; the paper tries 1/15, 1/10 and 1/5. α = 0 is uniform, exactly.

    Raises:
      ValueError: alpha is negative; that is a curriculum.
    """
    if alpha < 0:
        raise ValueError(f"alpha must be 0 or more, got {alpha}; a negative factor is a curriculum")
    return softmax(lambda losses, class_ids, epoch, *, batch=None: alpha * losses)


def curriculum(beta: Callable[[Any], Any]) -> Softmax:
    """Easy examples first: F = β(epoch)·L with β negative and rising towards 0. β = 0 is uniform, exactly.

    Args:
      beta: epoch -> 1/dB, in functions that JAX can trace. The paper's: `paper_beta(num_epochs)`.
    """
    return softmax(lambda losses, class_ids, epoch, *, batch=None: beta(epoch) * losses)


def paper_beta(num_epochs: int, *, start: float = 10.0, slope: float = 0.5) -> Callable[[Any], Any]:
    """The paper's β(κ) = −1/(10 + 0.5·κ), κ = floor(100·epoch/num_epochs): κ runs over the paper's 100 epochs at any scale.

    >>> beta = paper_beta(100)
    >>> print(beta(0), beta(20))
    -0.1 -0.05
    """
    return lambda epoch: -1.0 / (start + slope * ((100 * epoch) // num_epochs))


def class_bias(gamma: jax.typing.ArrayLike) -> Softmax:
    """Towards classes: F = γ[class].

    Args:
      gamma: [classes] logits indexed by class id. A slot without sound (class −1) has logit 0.

    With losses [B] a mixture's logit is the mean of γ over its active sources; with losses [B, N] each source has its own.
    """
    by_class = jnp.asarray(gamma, jnp.float32)

    def logits(losses: jax.Array, class_ids: jax.Array, epoch: Any, *, batch: Any = None) -> jax.Array:
        active = class_ids >= 0
        per_source = jnp.where(active, by_class[jnp.where(active, class_ids, 0)], 0.0)
        if losses.ndim == class_ids.ndim:
            return per_source
        return jnp.sum(per_source, axis=-1) / jnp.maximum(jnp.sum(active, axis=-1), 1)

    return softmax(logits)


def product(*weightings: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """p ∝ p_a · p_b · …: where all have logits a softmax of their sum, else the product, renormalised by `pmf`.

    Raises:
      ValueError: no weighting given, or one has memory (its state could not be carried).
    """
    if not weightings:
        raise ValueError("product needs at least one weighting")
    with_memory = [w for w in weightings if hasattr(w, "update")]
    if with_memory:
        raise ValueError(f"product takes weightings without memory, got {with_memory[0]!r}")
    softmaxes = [w for w in weightings if isinstance(w, Softmax)]
    if len(softmaxes) < len(weightings):
        return Product(weightings)

    def logits(losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None) -> jax.Array:
        return sum((w.logits(losses, class_ids, epoch, batch=batch) for w in softmaxes), start=jnp.zeros_like(losses))

    return softmax(logits)

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

and pmfs that are no softmax of logits:

| weighting        | p                         | meaning                                                       |
| ---------------- | ------------------------- | ------------------------------------------------------------- |
| cvar(q)          | 1/(q·n) on the worst q·n  | the mean loss of the worst share of a batch                   |
| threshold(x)     | equal where SI-SDRi < x   | nothing more is learned from what is good enough              |
| group_dro(g, η)  | q_g / n_g; q *= e^(η·ΔL)  | the group that is worst over the steps; has memory            |

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

from jaxsep.objective.dro import GroupDRO, cvar, group_dro, threshold
from jaxsep.objective.pmf import (
    Weighting,
    apply,
    effective_sample_size,
    mean_weight,
    pmf,
    weight_statistics,
)

__all__ = [
    "GroupDRO",
    "Product",
    "ProductWithMemory",
    "Softmax",
    "apply",
    "class_bias",
    "curriculum",
    "cvar",
    "effective_sample_size",
    "group_dro",
    "mean_weight",
    "paper_beta",
    "pmf",
    "product",
    "robust",
    "softmax",
    "threshold",
    "uniform",
    "weight_statistics",
]

Logits = Callable[..., jax.Array]


@dataclass(frozen=True)
class Softmax(Weighting):
    """p = softmax(logits(losses, class_ids, epoch, batch=batch)) over all losses of the batch; what `softmax` returns.

    per_loss: each logit depends on its own loss and classes alone, so that the batch may be taken in parts in a single pass.
    """

    logits: Logits
    per_loss: bool = False

    def mass(
        self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        logits = self.logits(losses, class_ids, epoch, batch=batch)
        return jax.nn.softmax(jnp.ravel(logits)).reshape(losses.shape)


@dataclass(frozen=True)
class Product(Weighting):
    """p ∝ p_a · p_b · …; what `product` returns where not all have logits."""

    factors: tuple[Callable[..., jax.Array], ...]

    def mass(
        self, losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        mass = jnp.ones_like(losses)
        for factor in self.factors:
            mass = mass * factor(losses, class_ids, epoch, batch=batch)
        return mass


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
    return Softmax(
        lambda losses, class_ids, epoch, *, batch=None: jnp.zeros_like(losses), per_loss=True
    )


def robust(alpha: float) -> Softmax:
    """Weight on hard examples: F = α·L. α in 1/dB; the paper tries 1/15, 1/10 and 1/5. α = 0 is uniform, exactly.

    Its gradient Σ softmax(α·L)_i · ∇L_i is that of the tilted risk (1/α)·log(mean_i exp(α·L_i)) over the batch (Li, Beirami,
    Sanjabi, Smith, "Tilted empirical risk minimization", ICLR 2021): the two train alike.

    Raises:
      ValueError: alpha is negative; that is a curriculum.
    """
    if alpha < 0:
        raise ValueError(f"alpha must be 0 or more, got {alpha}; a negative factor is a curriculum")
    return Softmax(lambda losses, class_ids, epoch, *, batch=None: alpha * losses, per_loss=True)


def curriculum(beta: Callable[[Any], Any]) -> Softmax:
    """Easy examples first: F = β(epoch)·L with β negative and rising towards 0. β = 0 is uniform, exactly.

    Args:
      beta: epoch -> 1/dB, in functions that JAX can trace. The paper's: `paper_beta(num_epochs)`.
    """
    return Softmax(
        lambda losses, class_ids, epoch, *, batch=None: beta(epoch) * losses, per_loss=True
    )


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

    def logits(
        losses: jax.Array, class_ids: jax.Array, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        active = class_ids >= 0
        per_source = jnp.where(active, by_class[jnp.where(active, class_ids, 0)], 0.0)
        if losses.ndim == class_ids.ndim:
            return per_source
        return jnp.sum(per_source, axis=-1) / jnp.maximum(jnp.sum(active, axis=-1), 1)

    return Softmax(logits, per_loss=True)


@dataclass(frozen=True)
class ProductWithMemory:
    """What `product` returns where a factor has memory: init() -> the factors' states; update(states, …) -> (mass, states)."""

    factors: tuple[Any, ...]

    def init(self) -> tuple[Any, ...]:
        return tuple(factor.init() if hasattr(factor, "init") else () for factor in self.factors)

    def update(
        self,
        states: tuple[Any, ...],
        losses: jax.Array,
        class_ids: jax.Array | None,
        epoch: Any,
        *,
        batch: Any = None,
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        mass, after = jnp.ones_like(losses), []
        for factor, state in zip(self.factors, states, strict=True):
            weights, state = apply(factor, state, losses, class_ids, epoch, batch=batch)
            mass = mass * weights
            after.append(state)
        return mass, tuple(after)


def product(*weightings: Any) -> Any:
    """p ∝ p_a · p_b · …: where all have logits a softmax of their sum, else the product, renormalised by `pmf`.

    Raises:
      ValueError: no weighting given.
    """
    if not weightings:
        raise ValueError("product needs at least one weighting")
    if any(hasattr(w, "update") for w in weightings):
        return ProductWithMemory(weightings)
    softmaxes = [w for w in weightings if isinstance(w, Softmax)]
    if len(softmaxes) < len(weightings):
        return Product(weightings)

    def logits(
        losses: jax.Array, class_ids: jax.Array | None, epoch: Any, *, batch: Any = None
    ) -> jax.Array:
        return sum(
            (w.logits(losses, class_ids, epoch, batch=batch) for w in softmaxes),
            start=jnp.zeros_like(losses),
        )

    return Softmax(logits, per_loss=all(w.per_loss for w in softmaxes))

"""Where the network shall be good: a weighting turns the losses of a batch into its weights p.

    update = Σ_i p_i · ∇L_i,    p = softmax(F),    Σ_i p_i = 1,    p carries no gradient

The softmax is over the B losses of a batch, or over all B·N where there is one for each source.

| weighting        | logits F                     | meaning                                        |
| ---------------- | ---------------------------- | ---------------------------------------------- |
| uniform()        | 0                            | ordinary training, 1/B each                    |
| robust(α)        | α·L, α > 0                   | weight on hard examples                        |
| curriculum(β)    | β(epoch)·L, β < 0 and rising | easy examples first                            |
| class_bias(γ)    | γ[class]                     | towards classes of sound                       |
| cvar(q)          | 0 on the worst q·n, else −∞  | the mean loss of the worst share of a batch    |
| threshold(x)     | 0 where SI-SDRi < x, else −∞ | nothing more is learned from what is good      |
| group_dro(g, η)  | log(q_g / n_g)               | the group that is worst over the steps; memory |
| product(a, b, …) | F_a + F_b + …                | p ∝ p_a · p_b · …                              |
| from_logits(f)   | f(losses, class_ids, epoch)  | your own logits                                |
| from_mass(f)     | log f(…), f ≥ 0              | your own mass; so is a plain function          |

Source of the method, of robust, curriculum and class_bias: Tzinis, Bralios, Smaragdis, "Unified
gradient reweighting for model biasing with applications to source separation".
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsep.objective.dro import cvar, group_dro, threshold
from jaxsep.objective.pmf import Weighting, as_weighting, from_logits, from_mass, pmf

__all__ = [
    "Weighting",
    "class_bias",
    "curriculum",
    "cvar",
    "from_logits",
    "from_mass",
    "group_dro",
    "paper_beta",
    "pmf",
    "product",
    "robust",
    "threshold",
    "uniform",
]


def uniform() -> Weighting:
    """Ordinary training: every loss counts the same.

    >>> import jax.numpy as jnp
    >>> print(uniform()(jnp.array([1.0, -3.0]), None, 0))
    [0.5 0.5]
    """
    return from_logits(
        lambda losses, class_ids, epoch, *, batch=None: jnp.zeros_like(losses), elementwise=True
    )


def robust(alpha: float) -> Weighting:
    """Weight on hard examples: F = α·L.

    The gradient Σ softmax(α·L)_i · ∇L_i is that of the tilted risk (1/α)·log(mean_i exp(α·L_i))
    over the batch (Li, Beirami, Sanjabi, Smith, "Tilted empirical risk minimization", ICLR 2021):
    the two train alike.

    Args:
      alpha: 1/dB, at least 0, where it is uniform. The paper tries 1/15, 1/10 and 1/5.

    Raises:
      ValueError: alpha is negative.
    """
    if alpha < 0:
        raise ValueError(f"alpha must be 0 or more, got {alpha}; a negative factor is a curriculum")
    return from_logits(
        lambda losses, class_ids, epoch, *, batch=None: alpha * losses, elementwise=True
    )


def curriculum(beta: Callable[[Any], Any]) -> Weighting:
    """Easy examples first: F = β(epoch)·L, with β negative and rising towards 0.

    Args:
      beta: epoch -> 1/dB, in operations that JAX can trace; the paper's is `paper_beta`.
    """
    return from_logits(
        lambda losses, class_ids, epoch, *, batch=None: beta(epoch) * losses, elementwise=True
    )


def paper_beta(num_epochs: int, *, start: float = 10.0, slope: float = 0.5) -> Callable[[Any], Any]:
    """The paper's β(κ) = −1/(start + slope·κ), for training of any length.

    κ = floor(100·epoch/num_epochs) runs over the paper's 100 epochs, however many there are: with
    the epoch itself, β would barely move in a short training.

    >>> beta = paper_beta(100)
    >>> print(beta(0), beta(20))
    -0.1 -0.05
    """
    return lambda epoch: -1.0 / (start + slope * ((100 * epoch) // num_epochs))


def class_bias(gamma: jax.typing.ArrayLike) -> Weighting:
    """Towards classes of sound: F = γ[class].

    With losses [B, N] each source has its own logit, 0 for a slot without sound (class −1). With
    losses [B] a mixture's logit is the mean of γ over its active sources.

    Args:
      gamma: [classes], by class id.
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

    return from_logits(logits, elementwise=True)


def product(*weightings: Weighting | Callable[..., jax.Array]) -> Weighting:
    """p ∝ p_a · p_b · …: the logits are the sum of those of the factors, F_a + F_b + …

    The state is the tuple of the factors' states. A factor may be a plain function.

    Raises:
      ValueError: no weighting is given.
    """
    if not weightings:
        raise ValueError("product needs at least one weighting")
    factors = [as_weighting(weighting) for weighting in weightings]

    def init() -> tuple[Any, ...]:
        return tuple(factor.init() for factor in factors)

    def update(
        losses: jax.Array, state: tuple[Any, ...], **context: Any
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        logits, states = zip(
            *(
                factor.logits(losses, of_factor, **context)
                for factor, of_factor in zip(factors, state, strict=True)
            ),
            strict=True,
        )
        return sum(logits, start=jnp.zeros_like(losses)), states

    needs = dict.fromkeys(name for factor in factors for name in factor.needs)
    return Weighting(init, update, tuple(needs), all(factor.elementwise for factor in factors))

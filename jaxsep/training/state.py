"""The training state as plain data, the optimiser and the learning-rate schedules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsep.objective.pmf import Weighting, as_weighting


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a training step changes, as a pytree.

    Attributes:
      step: int32 scalar, the number of steps taken.
      params: the network's parameters.
      opt_state: optax's.
      ema: exponential moving average of params, None where there is none.
      weighting: the state of the weighting, without leaves where it has no memory.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    weighting: Any

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate and export: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def create_state(
    params: Any,
    tx: optax.GradientTransformation,
    *,
    weighting: Weighting | Callable[..., jax.Array] | None = None,
    ema: bool = False,
) -> TrainState:
    """A fresh state at step 0; a weighting with memory has to be named, others may be."""
    # Copies: the step donates them, and the moving average must not share them.
    params = jax.tree.map(jnp.array, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.array, params) if ema else None,
        weighting=() if weighting is None else as_weighting(weighting).init(),
    )


def make_schedule(
    name: str,
    learning_rate: float,
    *,
    steps_per_epoch: int,
    num_epochs: int,
    every: int,
    divisor: float,
    warmup: int,
) -> optax.Schedule:
    """Learning rate over steps.

    Args:
      name: 'constant'; 'step': divided by `divisor` after every `every` epochs, as the authors'
        code does; 'cosine': linear warm-up from 0 over `warmup` epochs, then a cosine that ends at
        0 after `num_epochs`.

    Raises:
      ValueError: another name.
    """
    if name == "constant":
        return optax.constant_schedule(learning_rate)
    if name == "step":
        return lambda step: learning_rate / divisor ** (step // (every * steps_per_epoch))
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else learning_rate,
            learning_rate,
            warmup_steps=warmup * steps_per_epoch,
            decay_steps=max(num_epochs, warmup + 1) * steps_per_epoch,
        )
    raise ValueError(f"train.schedule is {name!r}, it must be 'constant', 'step' or 'cosine'")


def make_optimizer(
    schedule: optax.Schedule | float, *, clip_norm: float, frozen: Sequence[tuple[str, ...]] = ()
) -> optax.GradientTransformation:
    """Adam (β₁ 0.9, β₂ 0.999, ε 1e-8) after clipping the gradient's global norm.

    Both see all parameters as one flat vector, which saves time on a CPU: there is one loop to
    compile and to run, instead of one for each array.

    Args:
      schedule: learning rate, or step -> learning rate.
      clip_norm: largest global norm of the gradient that Adam sees; 0: no clipping.
      frozen: paths of parameters that are not trained, such as (('decoder', 'bias'),). Their
        gradient does not count in the norm.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity()
    return optax.chain(_zero_frozen(frozen), optax.flatten(optax.chain(clip, optax.adam(schedule))))


def _zero_frozen(frozen: Sequence[tuple[str, ...]]) -> optax.GradientTransformation:
    if not frozen:
        return optax.identity()

    def mask(params: Any) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: tuple(key.key for key in path) in frozen, params
        )

    return optax.masked(optax.set_to_zero(), mask)


def init_params(module: Any, num_samples: int, seed: int) -> Any:
    """Fresh parameters of a module that maps [B, T] to [B, N, T]."""
    init: Callable[..., Any] = jax.jit(module.init)
    return init(jax.random.key(seed), jnp.zeros((1, num_samples), jnp.float32))["params"]

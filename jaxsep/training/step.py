"""One update: per-example losses → weights → weighted gradient → optax. Knows nothing of audio, except `separation_loss_fn`.

update = Σ_i p_i · ∇L_i
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsep.objective.permutation import separation_losses
from jaxsep.objective.pmf import apply, mean_weight, pmf, weight_statistics
from jaxsep.training.gradients import (
    LossFn,
    Weighted,
    accumulated_gradients,
    streamed_gradients,
    whole_gradients,
)
from jaxsep.training.state import TrainState


def make_train_step(
    loss_fn: LossFn,
    weighting: Callable[..., Any],
    tx: optax.GradientTransformation,
    *,
    has_aux: bool = False,
    ema_decay: float = 0.0,
    micro_batch: int = 0,
    axis: str | None = None,
    members: Mapping[str, jax.typing.ArrayLike] | None = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The training step as a pure function, to be jitted by the caller (with the state donated).

    Args:
      loss_fn: loss_fn(params, batch) -> losses [B] or [B, N], one per example or source and reduced over neither.
      weighting: any callable of (losses, class_ids, epoch, *, batch) -> nonnegative mass of the same shape; see
        `jaxsep.objective.weighting`. class_ids is batch["class_ids"] where the batch is a dict that has it.
      tx: optax transformation.
      has_aux: loss_fn returns (losses, metrics), metrics a dict of [B] arrays; the mean of each over the examples where it is
        a number is reported, 0 where it is none in all.
      ema_decay: of the moving average of the parameters; needs a state created with ema=True. 0: none.
      micro_batch: examples per pass; 0 takes the batch whole. See `jaxsep.training.gradients`.
      axis: the mesh axis over which the batch is divided, for a step inside `jax.shard_map`; micro_batch is then a device's.
      members: name -> [classes] bool, sets of classes whose mean weight is reported as weight_NAME; see `mean_weight`.

    Returns:
      step(state, batch, epoch) -> (state, metrics): loss (Σ p·L), grad_norm (global norm before clipping), no_mass (1.0 where
      the weighting left no mass, so that the weights were uniform), skipped, what the weights were (`weight_statistics`, and
      weight_NAME of members), and loss_fn's own. skipped is 1.0 where loss or grad_norm is not finite: of such a step nothing
      stays in the state but that it was one.
    """
    streamed = micro_batch > 0 and getattr(weighting, "per_loss", False)

    def step(state: TrainState, batch: Any, epoch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        def weigh(losses: jax.Array, batch: Any) -> tuple[jax.Array, Any, jax.Array]:
            return _weigh(weighting, state.weighting, losses, batch, epoch)

        def logits(losses: jax.Array, batch: Any) -> jax.Array:
            return weighting.logits(losses, _class_ids(batch), epoch, batch=batch)  # type: ignore[attr-defined]

        gradients: Callable[..., Weighted] = whole_gradients
        if micro_batch:
            gradients = functools.partial(
                streamed_gradients if streamed else accumulated_gradients, micro_batch=micro_batch
            )
        weights_of = logits if streamed else weigh
        found = gradients(loss_fn, weights_of, state.params, batch, has_aux=has_aux, axis=axis)
        updates, opt_state = tx.update(found.grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay:
            ema = optax.incremental_update(params, ema, 1.0 - ema_decay)
        grad_norm = optax.tree.norm(found.grads)
        finite = jnp.isfinite(found.loss) & jnp.isfinite(grad_norm)
        metrics = {
            "loss": found.loss,
            "grad_norm": grad_norm,
            "no_mass": found.no_mass.astype(jnp.float32),
            "skipped": 1.0 - finite.astype(jnp.float32),
            **weight_statistics(found.weights),
            **{
                f"weight_{name}": mean_weight(found.weights, found.batch["class_ids"], chosen)
                for name, chosen in (members or {}).items()
            },
            **{name: _mean(value) for name, value in found.aux.items()},
        }
        after = TrainState(state.step + 1, params, opt_state, ema, found.memory)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        return dataclasses.replace(kept, step=after.step), metrics

    return step


def _mean(values: jax.Array) -> jax.Array:
    return jnp.nansum(values) / jnp.maximum(jnp.sum(~jnp.isnan(values)), 1)


def _class_ids(batch: Any) -> Any:
    return batch.get("class_ids") if isinstance(batch, dict) else None


def _weigh(
    weighting: Callable[..., Any], memory: Any, losses: jax.Array, batch: Any, epoch: Any
) -> tuple[jax.Array, Any, jax.Array]:
    """Weights of the shape of losses, the weighting's next state, and whether no mass was left."""
    losses = jax.lax.stop_gradient(losses)
    mass, memory = apply(weighting, memory, losses, _class_ids(batch), epoch, batch=batch)
    if jnp.shape(mass) != jnp.shape(losses):
        raise ValueError(
            f"the weighting returned shape {jnp.shape(mass)}, it must be that of losses, {losses.shape}"
        )
    weights, no_mass = pmf(mass)
    return weights, memory, no_mass


def separation_loss_fn(
    apply_fn: Callable[..., jax.Array],
    *,
    granularity: str,
    improvement: bool = True,
    zero_mean: bool = True,
) -> LossFn:
    """loss_fn(params, batch) -> (losses, {'si_sdri'}) of a separation network, for `make_train_step(..., has_aux=True)`.

    si_sdri [B] dB is the mean over a mixture's sources, and no number where a single one sounds.

    Args:
      apply_fn: module.apply, mapping ({'params': params}, mixture [B, T]) to estimates [B, N, T].
      granularity: 'source': losses [B, N]; 'example': losses [B], the mean over a mixture's slots.
      improvement, zero_mean: as `separation_losses`.

    Raises:
      ValueError: another granularity.
    """
    if granularity not in ("source", "example"):
        raise ValueError(
            f"weighting.granularity is {granularity!r}, it must be 'example' or 'source'"
        )

    def example_loss(
        estimates: jax.Array, sources: jax.Array, mixture: jax.Array, active: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        losses, si_sdri = separation_losses(
            estimates, sources, mixture, active=active, improvement=improvement, zero_mean=zero_mean
        )
        return (losses if granularity == "source" else jnp.mean(losses)), jnp.sum(
            si_sdri
        ) / jnp.sum(active)

    def loss_fn(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        estimates = apply_fn({"params": params}, batch["mixture"])
        losses, si_sdri = jax.vmap(example_loss)(
            estimates, batch["sources"], batch["mixture"], batch["active"]
        )
        several = jnp.sum(batch["active"], axis=-1) > 1
        return losses, {"si_sdri": jnp.where(several, si_sdri, jnp.nan)}

    return loss_fn

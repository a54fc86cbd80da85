"""One training step: losses → weights → weighted gradient → optax.

    update = Σ_i p_i · ∇L_i

It knows nothing of audio, but for `separation_loss_fn`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsep.objective.permutation import separation_losses
from jaxsep.objective.pmf import Weighting, as_weighting, mean_weight, weight_statistics
from jaxsep.training.gradients import LossFn, weighted_gradients
from jaxsep.training.state import TrainState


def make_train_step(
    loss_fn: Callable[[Any, Any], Any],
    weighting: Weighting | Callable[..., jax.Array],
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
      loss_fn: (params, batch) -> losses [B] or [B, N] of any float type, one per example or source
        and reduced over neither.
      weighting: one of `jaxsep.weighting`, or a plain function (losses, class_ids, epoch, *,
        batch=None) -> nonnegative mass of the shape of losses. class_ids is batch["class_ids"]
        where the batch is a dict that has it, else None.
      tx: optax transformation.
      has_aux: loss_fn returns (losses, metrics), metrics a dict of [B] arrays. The mean of each
        over the examples where it is not NaN is reported, 0 where it is NaN in all.
      ema_decay: of the moving average of the parameters, which the state must have; 0: none.
      micro_batch: examples per pass; 0 takes the batch whole. See `jaxsep.training.gradients`.
      axis: the mesh axis over which the batch is sharded, for a step inside `jax.shard_map`;
        micro_batch is then a device's.
      members: name -> [classes] bool, sets of classes of which the mean weight is reported as
        weight_NAME; see `mean_weight`.

    Returns:
      step(state, batch, epoch) -> (state, metrics). The state comes from `create_state` with the
      same weighting. The metrics are loss (Σ p·L), grad_norm (global norm before clipping), skipped
      (1.0 where loss or grad_norm is not finite: then the state changes in nothing but its count),
      no_mass (1.0 where the weighting left no mass, so that the weights were uniform), those of
      `weight_statistics`, weight_NAME of members, and those of loss_fn.
    """
    weighting = as_weighting(weighting)

    def losses_and_metrics(params: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        losses, metrics = loss_fn(params, batch) if has_aux else (loss_fn(params, batch), {})
        return losses.astype(jnp.float32), metrics

    def step(state: TrainState, batch: Any, epoch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        grads, weighed = weighted_gradients(
            losses_and_metrics,
            weighting,
            state.params,
            batch,
            memory=state.weighting,
            epoch=epoch,
            micro_batch=micro_batch,
            axis=axis,
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay:
            ema = optax.incremental_update(params, ema, 1.0 - ema_decay)
        after = TrainState(state.step + 1, params, opt_state, ema, weighed.memory)

        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(weighed.loss) & jnp.isfinite(grad_norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        metrics = {
            "loss": weighed.loss,
            "grad_norm": grad_norm,
            "no_mass": weighed.no_mass.astype(jnp.float32),
            "skipped": 1.0 - finite.astype(jnp.float32),
            **weight_statistics(weighed.weights),
            **{
                f"weight_{name}": mean_weight(weighed.weights, weighed.class_ids, classes)
                for name, classes in (members or {}).items()
            },
            **{name: _mean(values) for name, values in weighed.metrics.items()},
        }
        return dataclasses.replace(kept, step=after.step), metrics

    return step


def _mean(values: jax.Array) -> jax.Array:
    return jnp.nansum(values) / jnp.maximum(jnp.sum(~jnp.isnan(values)), 1)


def separation_loss_fn(
    apply_fn: Callable[..., jax.Array],
    *,
    granularity: str,
    improvement: bool = True,
    zero_mean: bool = True,
) -> LossFn:
    """loss_fn(params, batch) -> (losses, {'si_sdri'}), for `make_train_step(..., has_aux=True)`.

    si_sdri [B] dB is the mean over the active sources of a mixture, and NaN where there is only
    one, of which there is no improvement.

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
        mean_si_sdri = jnp.sum(si_sdri) / jnp.sum(active)
        return (losses if granularity == "source" else jnp.mean(losses)), mean_si_sdri

    def loss_fn(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        estimates = apply_fn({"params": params}, batch["mixture"])
        losses, si_sdri = jax.vmap(example_loss)(
            estimates, batch["sources"], batch["mixture"], batch["active"]
        )
        several = jnp.sum(batch["active"], axis=-1) > 1
        return losses, {"si_sdri": jnp.where(several, si_sdri, jnp.nan)}

    return loss_fn

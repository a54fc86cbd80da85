"""The weighted gradient of a batch, taken whole or in parts. The weights always see the losses of the whole batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _with_aux(loss_fn: Callable[[Any, Any], Any], has_aux: bool) -> Callable[[Any, Any], tuple[jax.Array, dict]]:
    return loss_fn if has_aux else lambda params, batch: (loss_fn(params, batch), {})


def whole_gradients(
    loss_fn: Callable[[Any, Any], Any],
    weigh: Callable[[jax.Array, Any], tuple[jax.Array, Any, jax.Array]],
    params: Any,
    batch: Any,
    *,
    has_aux: bool = False,
) -> tuple[jax.Array, Any, tuple[jax.Array, Any, jax.Array, dict]]:
    """Σ p·L, its gradient with respect to params (p held constant), and (weights, memory, no_mass, metrics).

    Args:
      loss_fn: (params, batch) -> losses, or (losses, metrics) with has_aux.
      weigh: (losses, batch) -> (weights, memory, no_mass); the weights carry no gradient.
      params, batch: pytrees.
      has_aux: see loss_fn.
    """
    with_aux = _with_aux(loss_fn, has_aux)

    def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any, jax.Array, dict]]:
        losses, aux = with_aux(params, batch)
        weights, memory, no_mass = weigh(losses, batch)
        return jnp.sum(weights * losses), (weights, memory, no_mass, aux)

    (loss, result), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return loss, grads, result


def accumulated_gradients(
    loss_fn: Callable[[Any, Any], Any],
    weigh: Callable[[jax.Array, Any], tuple[jax.Array, Any, jax.Array]],
    params: Any,
    batch: Any,
    *,
    has_aux: bool = False,
    micro_batch: int,
) -> tuple[jax.Array, Any, tuple[jax.Array, Any, jax.Array, dict]]:
    """The same as `whole_gradients`, in parts of micro_batch examples, for batches that do not fit the memory.

    A first pass without gradients gives all losses, `weigh` sees them together, and a second pass sums each part's weighted
    gradient: exact for every weighting, at the cost of one more forward pass. Memory grows with the part.

    Raises:
      ValueError: the batch is no multiple of micro_batch.
    """
    with_aux = _with_aux(loss_fn, has_aux)
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % micro_batch:
        raise ValueError(f"train.micro_batch is {micro_batch}, it must divide the batch of {size}")
    parts = jax.tree.map(lambda x: x.reshape(size // micro_batch, micro_batch, *x.shape[1:]), batch)
    losses, aux = jax.lax.map(lambda part: with_aux(params, part), parts)

    def merge(x: jax.Array) -> jax.Array:
        return x.reshape(size, *x.shape[2:])

    weights, memory, no_mass = weigh(merge(losses), batch)

    def add_part(total: tuple[jax.Array, Any], part: tuple[Any, jax.Array]) -> tuple[tuple[jax.Array, Any], None]:
        part_batch, part_weights = part
        value = jax.value_and_grad(lambda p: jnp.sum(part_weights * with_aux(p, part_batch)[0]))(params)
        return jax.tree.map(jnp.add, total, value), None

    start = (jnp.zeros((), losses.dtype), jax.tree.map(jnp.zeros_like, params))
    (loss, grads), _ = jax.lax.scan(add_part, start, (parts, weights.reshape(losses.shape)))
    return loss, grads, (weights, memory, no_mass, jax.tree.map(merge, aux))

"""The weighted gradient of a batch: Σ p·∇L, where the weights p depend on all losses of the batch.

The batch is taken whole, or in micro-batches (gradient accumulation), on one device or on many. The
result is the same for every weighting: a softmax over each micro-batch or each device by itself
would be another method. There are three ways to it:

- whole: one forward and one backward pass over the batch;
- streamed, for an elementwise weighting: one forward and one backward pass over each micro-batch,
  with a running maximum and sum as in the online softmax;
- accumulated, for any other: a forward pass over all micro-batches gives the losses, then a second
  forward and a backward pass over each gives its weighted gradient.

Where a mesh axis is named, all this runs inside `jax.shard_map`, on each device's own examples.
Devices exchange two messages a step, however many micro-batches there are: the losses, metrics,
classes and what the weighting needs of the batch, in one message, then the gradient in another. The
second depends on the first, so the two are never under way together (see `devices`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsep.objective.pmf import Weighting, pmf
from jaxsep.training.devices import gather_examples, own_examples, sum_over_devices

# (params, batch) -> (losses [B] or [B, N] float32, {metric: [B]})
LossFn = Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]


class Weighed(NamedTuple):
    """The losses of a whole batch and their weights, the same on every device.

    Attributes:
      loss: Σ p·L.
      logits, weights: F and p, of the shape of the losses.
      no_mass: whether the weights are uniform because the logits left no mass, see `pmf`.
      memory: the weighting's next state.
      metrics: those of the loss function, [B].
      class_ids: [B, N], None where the batch has none.
    """

    loss: jax.Array
    logits: jax.Array
    weights: jax.Array
    no_mass: jax.Array
    memory: Any
    metrics: dict[str, jax.Array]
    class_ids: Any


def weighted_gradients(
    loss_fn: LossFn,
    weighting: Weighting,
    params: Any,
    batch: Any,
    *,
    memory: Any = (),
    epoch: Any = 0,
    micro_batch: int = 0,
    axis: str | None = None,
) -> tuple[Any, Weighed]:
    """The gradient Σ p·∇L with respect to params, p held constant, and what it was made of.

    Args:
      loss_fn: see `LossFn`.
      weighting: gives p from all losses of the batch.
      params: a pytree of arrays.
      batch: a pytree of arrays [B, …]; where it is a dict, the weighting may look at its entries.
      memory: the weighting's state.
      epoch: the epoch's index from 0.
      micro_batch: examples per pass, on each device; 0 takes all of them in one.
      axis: the mesh axis over which the batch is sharded, None for one device.
    """
    entries = {
        name: batch[name]
        for name in ("class_ids", *weighting.needs)
        if isinstance(batch, dict) and name in batch
    }

    def logits_of(losses: jax.Array, entries: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        class_ids = entries.get("class_ids")
        return weighting.logits(losses, memory, epoch=epoch, class_ids=class_ids, batch=entries)

    def weigh(own_losses: jax.Array, own_metrics: dict[str, jax.Array]) -> Weighed:
        own = (own_losses, own_metrics, entries)
        losses, metrics, whole = gather_examples(own, axis)
        logits, after = logits_of(losses, whole)
        weights, no_mass = pmf(logits)
        loss = jnp.sum(weights * losses)
        return Weighed(loss, logits, weights, no_mass, after, metrics, whole.get("class_ids"))

    if not micro_batch:
        grads, weighed = _whole(loss_fn, weigh, params, batch, axis)
    elif weighting.elementwise:
        examples = (batch, entries)
        grads, weighed = _streamed(loss_fn, logits_of, weigh, params, examples, micro_batch)
    else:
        grads, weighed = _accumulated(loss_fn, weigh, params, batch, micro_batch, axis)
    return sum_over_devices(grads, axis), weighed


def _whole(
    loss_fn: LossFn, weigh: Callable[..., Weighed], params: Any, batch: Any, axis: str | None
) -> tuple[Any, Weighed]:
    losses, pull_back, metrics = jax.vjp(lambda p: loss_fn(p, batch), params, has_aux=True)
    weighed = weigh(losses, metrics)
    (grads,) = pull_back(own_examples(weighed.weights, axis))
    return grads, weighed


def _accumulated(
    loss_fn: LossFn,
    weigh: Callable[..., Weighed],
    params: Any,
    batch: Any,
    micro_batch: int,
    axis: str | None,
) -> tuple[Any, Weighed]:
    parts, real, join = _split(batch, micro_batch)
    weighed = weigh(*join(jax.lax.map(lambda part: loss_fn(params, part), parts)))
    weights, _, _ = _split(own_examples(weighed.weights, axis), micro_batch)

    def add_part(grads: Any, part: Any) -> tuple[Any, None]:
        examples, weights, real = part
        _, pull_back, _ = jax.vjp(lambda p: loss_fn(p, examples), params, has_aux=True)
        (part_grads,) = pull_back(_where(real, weights, 0.0))
        return jax.tree.map(jnp.add, grads, part_grads), None

    start = jax.tree.map(jnp.zeros_like, params)
    grads, _ = jax.lax.scan(add_part, start, (parts, weights, real))
    return grads, weighed


def _streamed(
    loss_fn: LossFn,
    logits_of: Callable[..., tuple[jax.Array, Any]],
    weigh: Callable[..., Weighed],
    params: Any,
    examples: tuple[Any, dict[str, jax.Array]],
    micro_batch: int,
) -> tuple[Any, Weighed]:
    """With F_j the logits of micro-batch j, m the largest so far and g the sum of gradients,

        m' = max(m, max F_j),    g' = exp(m − m')·g + Σ exp(F_j − m')·∇L_j,

    and in the end Σ p·∇L = g / Σ exp(F − m). Each device has its own m and g, so at the end g is
    also rescaled to the largest m of all.

    Source: Milakov, Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867.
    """
    parts, real, join = _split(examples, micro_batch)

    def finite(logits: jax.Array) -> jax.Array:
        """Finite also where all are −inf, so that the weights become uniform there as in `pmf`."""
        return jnp.maximum(logits, jnp.finfo(jnp.float32).min)

    def add_part(total: tuple[jax.Array, Any], part: Any) -> tuple[tuple[jax.Array, Any], Any]:
        before, grads = total
        (batch, entries), real = part
        losses, pull_back, metrics = jax.vjp(lambda p: loss_fn(p, batch), params, has_aux=True)
        logits = _where(real, finite(logits_of(losses, entries)[0]), -jnp.inf)
        largest = jnp.maximum(before, jnp.max(logits))
        (part_grads,) = pull_back(jnp.exp(logits - largest))
        grads = jax.tree.map(lambda a, b: jnp.exp(before - largest) * a + b, grads, part_grads)
        return (largest, grads), (losses, metrics)

    start = (jnp.full((), -jnp.inf), jax.tree.map(jnp.zeros_like, params))
    (largest, grads), results = jax.lax.scan(add_part, start, (parts, real))
    weighed = weigh(*join(results))
    logits = finite(weighed.logits)
    largest_of_all = jnp.max(logits)
    scale = jnp.exp(largest - largest_of_all) / jnp.sum(jnp.exp(logits - largest_of_all))
    return jax.tree.map(lambda g: scale * g, grads), weighed


def _split(batch: Any, micro_batch: int) -> tuple[Any, jax.Array, Callable[[Any], Any]]:
    """A pytree of [B, …] in micro-batches, of which the last is filled up with the last example.

    Returns:
      the pytree of [parts, size, …];
      [parts, size] bool, False where an example is padding;
      join: a pytree of [parts, size, …] -> one of [B, …], without the padding.
    """
    total = jax.tree.leaves(batch)[0].shape[0]
    size = min(micro_batch, total)
    count = -(-total // size)

    def cut(x: jax.Array) -> jax.Array:
        filled = jnp.concatenate([x, jnp.repeat(x[-1:], count * size - total, axis=0)])
        return filled.reshape(count, size, *x.shape[1:])

    def join(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:total], tree)

    real = jnp.arange(count * size).reshape(count, size) < total
    return jax.tree.map(cut, batch), real, join


def _where(real: jax.Array, values: jax.Array, otherwise: float) -> jax.Array:
    """The values [size, …] of real examples, and another number for padding."""
    return jnp.where(real.reshape(-1, *[1] * (values.ndim - 1)), values, otherwise)

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
        parts = _split((batch, entries), micro_batch)
        grads, weighed = _streamed(loss_fn, logits_of, weigh, params, parts)
    else:
        parts = _split(batch, micro_batch)
        grads, weighed = _accumulated(loss_fn, weigh, params, parts, axis)
    return sum_over_devices(grads, axis), weighed


def _whole(
    loss_fn: LossFn, weigh: Callable[..., Weighed], params: Any, batch: Any, axis: str | None
) -> tuple[Any, Weighed]:
    losses, pull_back, metrics = jax.vjp(lambda p: loss_fn(p, batch), params, has_aux=True)
    weighed = weigh(losses, metrics)
    (grads,) = pull_back(own_examples(weighed.weights, axis))
    return grads, weighed


def _accumulated(
    loss_fn: LossFn, weigh: Callable[..., Weighed], params: Any, parts: "Parts", axis: str | None
) -> tuple[Any, Weighed]:
    results = jax.lax.map(lambda part: loss_fn(params, part), parts.examples)
    weighed = weigh(*parts.join(results))
    weights = _split(own_examples(weighed.weights, axis), parts.size).examples

    def add_part(grads: Any, part: Any) -> tuple[Any, None]:
        examples, weights, real = part
        _, pull_back, _ = jax.vjp(lambda p: loss_fn(p, examples), params, has_aux=True)
        (part_grads,) = pull_back(_where(real, weights, 0.0))
        return jax.tree.map(jnp.add, grads, part_grads), None

    start = jax.tree.map(jnp.zeros_like, params)
    grads, _ = jax.lax.scan(add_part, start, (parts.examples, weights, parts.real))
    return grads, weighed


def _streamed(
    loss_fn: LossFn,
    logits_of: Callable[..., tuple[jax.Array, Any]],
    weigh: Callable[..., Weighed],
    params: Any,
    parts: "Parts",
) -> tuple[Any, Weighed]:
    """With F_j the logits of micro-batch j, m the largest so far and g the sum of gradients,

        m' = max(m, max F_j),    g' = exp(m − m')·g + Σ exp(F_j − m')·∇L_j,

    and in the end Σ p·∇L = g / Σ exp(F − m). Each device has its own m and g, so at the end g is
    also rescaled to the largest m of all.

    Source: Milakov, Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867.
    """

    def finite(logits: jax.Array) -> jax.Array:
        """Without any mass, where all logits are −inf, the weights have to be uniform."""
        return jnp.maximum(logits, jnp.finfo(jnp.float32).min)

    def add_part(total: tuple[jax.Array, Any], part: Any) -> tuple[tuple[jax.Array, Any], Any]:
        before, grads = total
        (examples, entries), real = part
        losses, pull_back, metrics = jax.vjp(lambda p: loss_fn(p, examples), params, has_aux=True)
        logits = _where(real, finite(logits_of(losses, entries)[0]), -jnp.inf)
        largest = jnp.maximum(before, jnp.max(logits))
        (part_grads,) = pull_back(jnp.exp(logits - largest))
        grads = jax.tree.map(lambda a, b: jnp.exp(before - largest) * a + b, grads, part_grads)
        return (largest, grads), (losses, metrics)

    start = (jnp.full((), -jnp.inf), jax.tree.map(jnp.zeros_like, params))
    (largest, grads), results = jax.lax.scan(add_part, start, (parts.examples, parts.real))
    weighed = weigh(*parts.join(results))
    logits = finite(weighed.logits)
    largest_of_all = jnp.max(logits)
    scale = jnp.exp(largest - largest_of_all) / jnp.sum(jnp.exp(logits - largest_of_all))
    return jax.tree.map(lambda g: scale * g, grads), weighed


class Parts(NamedTuple):
    """A batch in micro-batches: a pytree of [parts, size, …], of which the last may be padded.

    Attributes:
      examples: the pytree.
      real: [parts, size] bool, False where an example is padding.
      size: examples in a micro-batch.
      join: a pytree of [parts, size, …] -> the same of [B, …], without the padding.
    """

    examples: Any
    real: jax.Array
    size: int
    join: Callable[[Any], Any]


def _split(batch: Any, micro_batch: int) -> Parts:
    """The batch in micro-batches; the last is filled up with the last example."""
    total = jax.tree.leaves(batch)[0].shape[0]
    size = min(micro_batch, total)
    count = -(-total // size)

    def cut(x: jax.Array) -> jax.Array:
        filled = jnp.concatenate([x, jnp.repeat(x[-1:], count * size - total, axis=0)])
        return filled.reshape(count, size, *x.shape[1:])

    def join(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:total], tree)

    real = jnp.arange(count * size).reshape(count, size) < total
    return Parts(jax.tree.map(cut, batch), real, size, join)


def _where(real: jax.Array, values: jax.Array, otherwise: float) -> jax.Array:
    """The values [size, …] of real examples, and another number for padding."""
    return jnp.where(real.reshape(-1, *[1] * (values.ndim - 1)), values, otherwise)

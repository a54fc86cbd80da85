"""The weighted gradient of a batch, taken whole or in parts. The weights always see the losses of the whole batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsep.objective.pmf import pmf


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


def streamed_gradients(
    loss_fn: Callable[[Any, Any], Any],
    logits: Callable[[jax.Array, Any], jax.Array],
    params: Any,
    batch: Any,
    *,
    has_aux: bool = False,
    micro_batch: int,
) -> tuple[jax.Array, Any, tuple[jax.Array, Any, jax.Array, dict]]:
    """The same as `whole_gradients` for p = softmax(F), in parts of micro_batch examples and one pass over each.

    Holds where F of a loss depends on nothing else of the batch. As in the online softmax (Milakov, Gimelshein,
    arXiv:1805.02867), with F_j the logits of part j, m the largest so far and every sum rescaled by exp(m_before − m):

        m = max(m, max F_j),   s += Σ exp(F_j − m),   g += Σ exp(F_j − m)·∇L_j,   Σ p·∇L = g/s

    Args:
      logits: (losses, batch) -> F, of the shape of losses.
      loss_fn, params, batch, has_aux: as `whole_gradients`. Of a last, smaller part the missing examples are masked.

    Returns:
      As `whole_gradients`; the memory is (), a softmax has none.
    """
    with_aux, parts, valid, merge = _with_aux(loss_fn, has_aux), *_parts(batch, micro_batch)
    example = jax.tree.map(lambda x: x[0], parts)
    losses = jax.eval_shape(with_aux, params, example)[0]

    def add_part(total: tuple[Any, ...], part: tuple[Any, jax.Array]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        before, summed, loss, grads = total
        part_batch, mask = part
        part_losses, pull, aux = jax.vjp(lambda p: with_aux(p, part_batch), params, has_aux=True)
        found = logits(jax.lax.stop_gradient(part_losses), part_batch)
        masked = jnp.where(mask.reshape(-1, *[1] * (found.ndim - 1)), found, -jnp.inf)
        largest = jnp.maximum(before, jnp.max(masked))
        powers, rescale = jnp.exp(masked - largest), jnp.exp(before - largest)
        (part_grads,) = pull(powers.astype(part_losses.dtype))
        grads = jax.tree.map(lambda a, b: rescale * a + b, grads, part_grads)
        total = (largest, rescale * summed + jnp.sum(powers), rescale * loss + jnp.sum(powers * part_losses), grads)
        return total, (masked, aux)

    zero = jnp.zeros((), losses.dtype)
    start = (jnp.full((), -jnp.inf, losses.dtype), zero, zero, jax.tree.map(jnp.zeros_like, params))
    (largest, summed, loss, grads), (found, aux) = jax.lax.scan(add_part, start, (parts, valid))
    weights, no_mass = pmf(jnp.exp(merge(found) - largest))
    grads = jax.tree.map(lambda g: g / summed, grads)
    return loss / summed, grads, (weights, (), no_mass, jax.tree.map(merge, aux))


def accumulated_gradients(
    loss_fn: Callable[[Any, Any], Any],
    weigh: Callable[[jax.Array, Any], tuple[jax.Array, Any, jax.Array]],
    params: Any,
    batch: Any,
    *,
    has_aux: bool = False,
    micro_batch: int,
) -> tuple[jax.Array, Any, tuple[jax.Array, Any, jax.Array, dict]]:
    """The same as `whole_gradients` for any weighting, in parts of micro_batch examples, at the cost of one more forward pass.

    A first pass without gradients gives all losses, `weigh` sees them together, once, and a second pass sums each part's
    weighted gradient. Memory grows with the part. Of a last, smaller part the missing examples have no weight.
    """
    with_aux, parts, valid, merge = _with_aux(loss_fn, has_aux), *_parts(batch, micro_batch)
    losses, aux = jax.tree.map(merge, jax.lax.map(lambda part: with_aux(params, part), parts))
    weights, memory, no_mass = weigh(losses, batch)
    missing = valid.size - losses.shape[0]
    padded = jnp.pad(weights, [(0, missing)] + [(0, 0)] * (weights.ndim - 1))

    def add_part(total: tuple[jax.Array, Any], part: tuple[Any, jax.Array]) -> tuple[tuple[jax.Array, Any], None]:
        part_batch, part_weights = part
        value = jax.value_and_grad(lambda p: jnp.sum(part_weights * with_aux(p, part_batch)[0]))(params)
        return jax.tree.map(jnp.add, total, value), None

    start = (jnp.zeros((), losses.dtype), jax.tree.map(jnp.zeros_like, params))
    by_part = padded.reshape(*valid.T.shape, *weights.shape[1:]).swapaxes(0, 1)
    (loss, grads), _ = jax.lax.scan(add_part, start, (parts, by_part))
    return loss, grads, (weights, memory, no_mass, aux)


def _parts(batch: Any, micro_batch: int) -> tuple[Any, jax.Array, Callable[[jax.Array], jax.Array]]:
    """The batch in parts [parts, micro_batch, …], filled up with its last example; which examples are its own; and what puts
    results of the parts together again.

    A part takes every n-th example of n parts: where the batch lies on several devices in order, each has its share of every
    part, and nothing moves.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    part = min(micro_batch, size)
    count = -(-size // part)

    def cut(x: jax.Array) -> jax.Array:
        filled = jnp.concatenate([x, jnp.repeat(x[-1:], count * part - size, axis=0)])
        return filled.reshape(part, count, *x.shape[1:]).swapaxes(0, 1)

    def merge(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(count * part, *x.shape[2:])[:size]

    return jax.tree.map(cut, batch), (jnp.arange(count * part) < size).reshape(part, count).T, merge

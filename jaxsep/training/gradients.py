"""The weighted gradient of a batch, taken whole or in parts, on one device or many. The weights always see all its losses.

Where a mesh axis is named, the functions run inside `jax.shard_map`, on each device's own examples of the batch. Devices
exchange two messages a step, whatever the number of parts: the losses, with what else there is for each example, and, when the
weights are known, the sum of the gradient as one vector. The second waits for the first, so that the two are never under way
together, which CPU collectives (gloo) could confuse. A weighting that looks at other entries of the batch than class_ids adds a
message for each, which does not wait.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxsep.objective.pmf import pmf

LossFn = Callable[[Any, Any], Any]


class Weighted(NamedTuple):
    """What a step learns from a batch. loss: Σ p·L; grads: its gradient, p held constant; weights: p, of the whole batch, as
    are the metrics aux; memory: the weighting's next state; no_mass: whether its mass was 0; batch: the whole batch."""

    loss: jax.Array
    grads: Any
    weights: jax.Array
    memory: Any
    no_mass: jax.Array
    aux: dict[str, jax.Array]
    batch: Any


def whole_gradients(
    loss_fn: LossFn,
    weigh: Callable[[jax.Array, Any], tuple[jax.Array, Any, jax.Array]],
    params: Any,
    batch: Any,
    *,
    has_aux: bool = False,
    axis: str | None = None,
) -> Weighted:
    """Σ p·L and its gradient with respect to params in one pass.

    Args:
      loss_fn: (params, batch) -> losses, or (losses, metrics) with has_aux.
      weigh: (losses, batch) -> (weights, memory, no_mass); the weights carry no gradient.
      params, batch: pytrees.
      has_aux: see loss_fn.
      axis: the mesh axis over whose devices the batch lies, None for one device.
    """
    with_aux = _with_aux(loss_fn, has_aux)
    losses, pull, aux = jax.vjp(lambda params: with_aux(params, batch), params, has_aux=True)
    all_losses, aux, everything = _exchange(losses, aux, batch, axis)
    weights, memory, no_mass = weigh(all_losses, everything)
    (grads,) = pull(_own(weights, losses.shape[0], axis))
    return Weighted(
        jnp.sum(weights * all_losses),
        _total(grads, axis),
        weights,
        memory,
        no_mass,
        aux,
        everything,
    )


def streamed_gradients(
    loss_fn: LossFn,
    logits: Callable[[jax.Array, Any], jax.Array],
    params: Any,
    batch: Any,
    *,
    has_aux: bool = False,
    axis: str | None = None,
    micro_batch: int,
) -> Weighted:
    """The same as `whole_gradients` for p = softmax(F), in parts of micro_batch examples and one pass over each.

    Holds where F of a loss depends on nothing else of the batch. As in the online softmax (Milakov, Gimelshein,
    arXiv:1805.02867), with F_j the logits of part j, m the largest so far and every sum rescaled by exp(m_before − m):

        m = max(m, max F_j),   g += Σ exp(F_j − m)·∇L_j,   Σ p·∇L = g / Σ exp(F − m)

    Each device has a sum and an m of its own, and the last rescaling is to the largest m of all.

    Args:
      logits: (losses, batch) -> F, of the shape of losses.
      loss_fn, params, batch, has_aux, axis: as `whole_gradients`. Of a last, smaller part the missing examples are masked.

    Returns:
      As `whole_gradients`; the memory is (), a softmax has none.
    """
    with_aux, parts, valid, merge = _with_aux(loss_fn, has_aux), *_parts(batch, micro_batch)

    def add_part(
        total: tuple[jax.Array, Any], part: tuple[Any, jax.Array]
    ) -> tuple[tuple[jax.Array, Any], Any]:
        before, grads = total
        part_batch, mask = part
        losses, pull, aux = jax.vjp(
            lambda params: with_aux(params, part_batch), params, has_aux=True
        )
        found = logits(jax.lax.stop_gradient(losses), part_batch)
        masked = jnp.where(mask.reshape(-1, *[1] * (found.ndim - 1)), found, -jnp.inf)
        largest = jnp.maximum(before, jnp.max(masked))
        (part_grads,) = pull(jnp.exp(masked - largest).astype(losses.dtype))
        grads = jax.tree.map(lambda a, b: jnp.exp(before - largest) * a + b, grads, part_grads)
        return (largest, grads), (losses, found, aux)

    dtype = jax.eval_shape(with_aux, params, jax.tree.map(lambda x: x[0], parts))[0].dtype
    start = (jnp.full((), -jnp.inf, dtype), jax.tree.map(jnp.zeros_like, params))
    (largest, grads), results = jax.lax.scan(add_part, start, (parts, valid))
    losses, found, aux = jax.tree.map(merge, results)
    (losses, found), aux, everything = _exchange((losses, found), aux, batch, axis)
    largest_of_all = jnp.max(found)
    powers = jnp.exp(found - largest_of_all)
    weights, no_mass = pmf(powers)
    rescale = jnp.exp(largest - largest_of_all) / jnp.sum(powers)
    grads = _total(jax.tree.map(lambda g: rescale * g, grads), axis)
    return Weighted(jnp.sum(weights * losses), grads, weights, (), no_mass, aux, everything)


def accumulated_gradients(
    loss_fn: LossFn,
    weigh: Callable[[jax.Array, Any], tuple[jax.Array, Any, jax.Array]],
    params: Any,
    batch: Any,
    *,
    has_aux: bool = False,
    axis: str | None = None,
    micro_batch: int,
) -> Weighted:
    """The same as `whole_gradients` for any weighting, in parts of micro_batch examples, at the cost of one more forward pass.

    A first pass without gradients gives all losses, `weigh` sees them together, once, and a second pass sums each part's
    weighted gradient. Memory grows with the part. Of a last, smaller part the missing examples have no weight.
    """
    with_aux, parts, valid, merge = _with_aux(loss_fn, has_aux), *_parts(batch, micro_batch)
    losses, aux = jax.tree.map(merge, jax.lax.map(lambda part: with_aux(params, part), parts))
    size = losses.shape[0]
    losses, aux, everything = _exchange(losses, aux, batch, axis)
    weights, memory, no_mass = weigh(losses, everything)
    padded = jnp.pad(
        _own(weights, size, axis), [(0, valid.size - size)] + [(0, 0)] * (weights.ndim - 1)
    )

    def add_part(grads: Any, part: tuple[Any, jax.Array]) -> tuple[Any, None]:
        part_batch, part_weights = part
        part_grads = jax.grad(lambda p: jnp.sum(part_weights * with_aux(p, part_batch)[0]))(params)
        return jax.tree.map(jnp.add, grads, part_grads), None

    by_part = padded.reshape(*valid.shape, *weights.shape[1:])
    grads, _ = jax.lax.scan(add_part, jax.tree.map(jnp.zeros_like, params), (parts, by_part))
    return Weighted(
        jnp.sum(weights * losses), _total(grads, axis), weights, memory, no_mass, aux, everything
    )


def _with_aux(loss_fn: LossFn, has_aux: bool) -> Callable[[Any, Any], tuple[jax.Array, dict]]:
    return loss_fn if has_aux else lambda params, batch: (loss_fn(params, batch), {})


def _parts(batch: Any, micro_batch: int) -> tuple[Any, jax.Array, Callable[[jax.Array], jax.Array]]:
    """The batch in parts [parts, micro_batch, …], filled up with its last example; which examples are its own; and what puts
    results of the parts together again."""
    size = jax.tree.leaves(batch)[0].shape[0]
    part = min(micro_batch, size)
    count = -(-size // part)

    def cut(x: jax.Array) -> jax.Array:
        filled = jnp.concatenate([x, jnp.repeat(x[-1:], count * part - size, axis=0)])
        return filled.reshape(count, part, *x.shape[1:])

    def merge(x: jax.Array) -> jax.Array:
        return x.reshape(count * part, *x.shape[2:])[:size]

    return jax.tree.map(cut, batch), (jnp.arange(count * part) < size).reshape(count, part), merge


def _exchange(losses: Any, aux: Any, batch: Any, axis: str | None) -> tuple[Any, Any, Any]:
    """Losses and metrics of the whole batch, and the batch, which every device now can see."""
    losses = jax.lax.stop_gradient(losses)
    if axis is None:
        return losses, aux, batch
    if not isinstance(batch, dict):
        return _gather((losses, aux, batch), axis)
    known = {name: batch[name] for name in ("class_ids",) if name in batch}
    losses, aux, known = _gather((losses, aux, known), axis)
    return losses, aux, _WholeBatch(batch, known, axis)


class _WholeBatch(dict):
    """A batch that lies on several devices: its entries come from all of them when they are asked for."""

    def __init__(self, batch: dict, known: dict, axis: str) -> None:
        super().__init__(batch)
        self._known, self._axis = known, axis

    def __getitem__(self, name: Any) -> Any:
        if name not in self._known:
            self._known[name] = _gather(super().__getitem__(name), self._axis)
        return self._known[name]

    def get(self, name: Any, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


def _gather(tree: Any, axis: str) -> Any:
    """The arrays [examples, …] of all devices, one after the other, as one message of bytes."""
    leaves, structure = jax.tree.flatten(tree)
    size = leaves[0].shape[0]
    words = [
        jax.lax.bitcast_convert_type(jnp.asarray(x, _plain(x)), jnp.uint8).reshape(size, -1)
        for x in leaves
    ]
    message = jax.lax.all_gather(jnp.concatenate(words, axis=1), axis, tiled=True)
    found, start = [], 0
    for x, word in zip(leaves, words, strict=True):
        piece = message[:, start : start + word.shape[1]].reshape(
            -1, *x.shape[1:], _plain(x).itemsize
        )
        whole = jax.lax.bitcast_convert_type(
            piece if _plain(x).itemsize > 1 else piece[..., 0], _plain(x)
        )
        found.append(whole.astype(x.dtype))
        start += word.shape[1]
    return jax.tree.unflatten(structure, found)


def _plain(x: jax.Array) -> Any:
    """The type as which x is sent; bool has no bits of its own."""
    return jnp.dtype(jnp.uint8) if x.dtype == jnp.bool_ else x.dtype


def _own(weights: jax.Array, size: int, axis: str | None) -> jax.Array:
    """This device's part of the weights of the whole batch."""
    return (
        weights
        if axis is None
        else jax.lax.dynamic_slice_in_dim(weights, jax.lax.axis_index(axis) * size, size)
    )


def _total(grads: Any, axis: str | None) -> Any:
    """The sum over devices, as one vector."""
    if axis is None:
        return grads
    vector, unravel = ravel_pytree(grads)
    return unravel(jax.lax.psum(vector, axis))

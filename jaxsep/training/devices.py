"""The devices, of one process or of many, that share every batch (data parallelism).

A batch [B, …] is sharded over all devices in order, B/devices examples on each, and every process
renders the examples of its own devices. Parameters, and all that a training step returns, are
replicated. The weights are still over the whole batch.

Files belong to the main process: the others learn from it what it has read, and write nothing.

A step exchanges two messages between devices: what there is for each example (`gather_examples`)
and the gradient as one vector (`sum_over_devices`). Left to XLA's partitioner there was one message
for nearly every parameter, and the collectives of CPUs (gloo) confused those that were under way
together. For the same reason several arrays always travel as one array of bytes.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsep.errors import OtherProcessError

Result = TypeVar("Result")
_REPLICATED, _SHARDED = PartitionSpec(), PartitionSpec("data")


class Devices:
    """All devices of all processes.

    Attributes:
      count: how many devices there are.
      axis: the name of the mesh axis that they form, None for a single device.
      is_main: whether this is the main process, which reads, writes, and speaks to the user.
    """

    def __init__(self) -> None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        self.count, self.is_main = len(devices), jax.process_index() == 0
        self.axis = "data" if self.count > 1 else None
        self._mesh = Mesh(np.array(devices), ("data",))
        self._own = [n for n, d in enumerate(devices) if d.process_index == jax.process_index()]
        # Processes have half a minute to connect: they do it now, when all of them get here.
        self.broadcast(None)

    def round_up(self, batch_size: int) -> int:
        """The smallest batch of at least batch_size examples that the devices can share."""
        return -(-batch_size // self.count) * self.count

    def rows(self, batch_size: int) -> slice:
        """The examples of a batch that this process renders."""
        each = batch_size // self.count
        return slice(self._own[0] * each, (self._own[-1] + 1) * each)

    def shard(self, rows: Any) -> Any:
        """A batch sharded over the devices, to which every process gives its `rows`."""
        return self._put(rows, _SHARDED)

    def replicate(self, tree: Any) -> Any:
        """The main process's arrays, replicated; the others give a pytree of the same shapes."""
        leaves, structure = jax.tree.flatten(jax.device_get(tree))
        if jax.process_count() > 1:
            rows = [np.asarray(leaf)[None] for leaf in leaves]
            message = _from_main(_pack(rows, np.concatenate))
            leaves = [row[0] for row in _unpack(message, rows)]
        return self._put(jax.tree.unflatten(structure, leaves), _REPLICATED)

    def broadcast(self, value: Any) -> Any:
        """The main process's JSON data, in every process; the value of the others is ignored."""
        if jax.process_count() == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        size = int(_from_main(np.int32(text.size)))
        return json.loads(_from_main(np.resize(text, size)).tobytes())

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """work() in every process, in the main one first: the others use the files that it made.

        Raises:
          OtherProcessError: work failed in another process only. An error in this one is raised
            as it is.
        """
        error: Exception | None = None
        result: Any = None
        for my_turn in (self.is_main, not self.is_main):
            if my_turn:
                try:
                    result = work()
                except Exception as raised:
                    error = raised
            if np.any(multihost_utils.process_allgather(np.array(error is not None))):
                raise error or OtherProcessError("stopped: another process could not go on")
        return result

    def train_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """step(state, batch, epoch), made with `axis`, jitted for all devices; donates state."""
        if self.axis is not None:
            step = jax.shard_map(
                step,
                mesh=self._mesh,
                in_specs=(_REPLICATED, _SHARDED, _REPLICATED),
                out_specs=_REPLICATED,
                check_vma=False,
            )
        return jax.jit(step, donate_argnums=0)

    def eval_step(self, step: Callable[..., Any]) -> Callable[..., dict[str, np.ndarray]]:
        """step(params, batch) -> {name: [B, …]}, jitted for all devices.

        Every process gets the results of the whole batch, in the order of its examples.
        """
        if self.axis is not None:
            step = jax.shard_map(
                step,
                mesh=self._mesh,
                in_specs=(_REPLICATED, _SHARDED),
                out_specs=_SHARDED,
                check_vma=False,
            )
        jitted = jax.jit(step)
        return lambda params, batch: _from_all(jitted(params, batch))

    def largest(self, number: int) -> jax.Array:
        """The largest number that any process gives, as a value that the devices still compute."""
        numbers = self.shard(np.full(len(self._own), number, np.int32))
        return _maximum(numbers, NamedSharding(self._mesh, _REPLICATED))

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(self._mesh, spec)
        return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), tree)


def gather_examples(tree: Any, axis: str | None) -> Any:
    """Arrays [examples, …] of all devices, one device after the other, sent as one message."""
    if axis is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    message = jax.lax.all_gather(_pack(leaves, jnp.concatenate), axis, tiled=True)
    return jax.tree.unflatten(structure, _unpack(message, leaves))


def own_examples(array: jax.Array, axis: str | None) -> jax.Array:
    """This device's examples of an array [B, …] of the whole batch."""
    if axis is None:
        return array
    size = array.shape[0] // jax.lax.axis_size(axis)
    return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(axis) * size, size)


def sum_over_devices(tree: Any, axis: str | None) -> Any:
    """The sum of a pytree over all devices, sent as one vector."""
    if axis is None:
        return tree
    vector, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(vector, axis))


def _pack(arrays: list[Any], concatenate: Callable[..., Any]) -> Any:
    """Arrays of any types [rows, …], side by side as bytes [rows, bytes]."""
    rows = arrays[0].shape[0]
    return concatenate([x.reshape(rows, -1).view(np.uint8) for x in arrays], axis=1)


def _unpack(message: Any, like: list[Any]) -> list[Any]:
    """What `_pack` has packed, of the types and shapes of `like` but for the number of rows."""
    sizes = [x.size // x.shape[0] * x.dtype.itemsize for x in like]
    ends = np.cumsum(sizes)
    return [
        message[:, end - size : end].view(x.dtype).reshape(-1, *x.shape[1:])
        for x, size, end in zip(like, sizes, ends, strict=True)
    ]


@partial(jax.jit, static_argnums=1)
def _maximum(numbers: jax.Array, replicated: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(numbers.max(), replicated)


def _from_main(array: np.ndarray | np.integer) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def _from_all(results: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The rows of every process, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(results)
    own = {name: _own_rows(array) for name, array in results.items()}
    rows = list(own.values())
    message = multihost_utils.process_allgather(_pack(rows, np.concatenate), tiled=True)
    return dict(zip(own, _unpack(np.asarray(message), rows), strict=True))


def _own_rows(array: jax.Array) -> np.ndarray:
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])

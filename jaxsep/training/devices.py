"""The devices that share every batch, of one process or of many: data parallel, with weights over the whole batch.

A batch [B, …] lies on all devices in order, B/devices examples on each, and every process renders those of its own devices;
parameters and whatever a training step returns are whole on every device.

Files are the first process's: the others learn from it what it read, and write nothing. Messages between processes are single
arrays of bytes.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsep.errors import OtherProcessError

Result = TypeVar("Result")
_WHOLE, _DIVIDED = PartitionSpec(), PartitionSpec("data")


class Devices:
    """All devices of all processes. count: how many; axis: the name of the mesh axis that they are, None for a single one;
    first: whether this process is the one that reads, writes and speaks."""

    def __init__(self) -> None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        self.count, self.first = len(devices), jax.process_index() == 0
        self.axis = "data" if self.count > 1 else None
        self._mesh = Mesh(np.array(devices), ("data",))
        self._mine = [
            n for n, device in enumerate(devices) if device.process_index == jax.process_index()
        ]
        self.tell(
            None
        )  # processes find one another now, when all have just come here: that alone has half a minute

    def round_up(self, batch_size: int) -> int:
        """The smallest batch of at least batch_size examples that the devices can share."""
        return -(-batch_size // self.count) * self.count

    def rows(self, batch_size: int) -> slice:
        """Those of a batch's examples that this process renders."""
        each = batch_size // self.count
        return slice(self._mine[0] * each, (self._mine[-1] + 1) * each)

    def divide(self, rows: Any) -> Any:
        """A batch on the devices, of which every process gives its `rows`."""
        return self._put(rows, _DIVIDED)

    def copy(self, tree: Any) -> Any:
        """The first process's arrays, whole on every device; the others give a tree of the same shapes."""
        tree = jax.device_get(tree)
        leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
        if jax.process_count() > 1:
            words = np.split(
                _from_first(_bytes(leaves, 1))[0], np.cumsum([x.nbytes for x in leaves])[:-1]
            )
            leaves = [
                word.view(x.dtype).reshape(x.shape) for word, x in zip(words, leaves, strict=True)
            ]
        return self._put(jax.tree.unflatten(structure, leaves), _WHOLE)

    def tell(self, value: Any) -> Any:
        """The first process's JSON data, in every process; what the others give is not looked at."""
        if jax.process_count() == 1:
            return value
        word = np.frombuffer(json.dumps(value).encode(), np.uint8)
        size = int(_from_first(np.int32(word.size)))
        return json.loads(_from_first(np.resize(word, size)).tobytes())

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """work() of this process; the first process goes before the others, which find the files that it made.

        Raises:
          OtherProcessError: work failed in another process. What it raised in this one is raised here.
        """
        error: Exception | None = None
        result: Any = None
        for mine in (self.first, not self.first):
            if mine:
                try:
                    result = work()
                except Exception as raised:
                    error = raised
            if np.any(multihost_utils.process_allgather(np.array(error is not None))):
                raise error or OtherProcessError("stopped: another process could not go on")
        return result

    def train_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """step(state, batch, epoch), made with `axis`, over all devices, jitted, the state donated."""
        if self.axis is not None:
            given = (_WHOLE, _DIVIDED, _WHOLE)
            step = jax.shard_map(
                step, mesh=self._mesh, in_specs=given, out_specs=_WHOLE, check_vma=False
            )
        return jax.jit(step, donate_argnums=0)

    def eval_step(self, step: Callable[..., Any]) -> Callable[..., dict[str, np.ndarray]]:
        """step(params, batch) -> {name: [B, …]}, over all devices, jitted; its results reach every process, in the batch's
        order."""
        if self.axis is not None:
            step = jax.shard_map(
                step,
                mesh=self._mesh,
                in_specs=(_WHOLE, _DIVIDED),
                out_specs=_DIVIDED,
                check_vma=False,
            )
        jitted = jax.jit(step)
        return lambda params, batch: _from_all(jitted(params, batch))

    def largest(self, number: int) -> jax.Array:
        """The largest number that any process gives, once the devices get to it."""
        return _maximum(
            self.divide(np.full(len(self._mine), number, np.int32)),
            NamedSharding(self._mesh, _WHOLE),
        )

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        return jax.tree.map(
            partial(jax.make_array_from_process_local_data, NamedSharding(self._mesh, spec)), tree
        )


@partial(jax.jit, static_argnums=1)
def _maximum(numbers: jax.Array, whole: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(numbers.max(), whole)


def _from_first(array: np.ndarray | np.integer) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def _from_all(results: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The rows of every process, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(results)
    mine = {name: _own_rows(array) for name, array in results.items()}
    rows = len(next(iter(mine.values())))
    everyone = multihost_utils.process_allgather(_bytes(list(mine.values()), rows), tiled=True)
    words = np.split(everyone, np.cumsum([x.nbytes // rows for x in mine.values()])[:-1], axis=1)
    return {
        name: np.ascontiguousarray(word).view(x.dtype).reshape(-1, *x.shape[1:])
        for (name, x), word in zip(mine.items(), words, strict=True)
    }


def _own_rows(array: jax.Array) -> np.ndarray:
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def _bytes(arrays: list[np.ndarray], rows: int) -> np.ndarray:
    """[rows, bytes]: the arrays side by side."""
    return np.concatenate(
        [np.frombuffer(x.tobytes(), np.uint8).reshape(rows, -1) for x in arrays], axis=1
    )

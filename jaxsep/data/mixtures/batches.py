"""Batches for training and evaluation, rendered ahead in background threads and given in order.

The whole state of `batches` is (epoch, step): a run that starts again at that place is given the
same batches, whatever the number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

import numpy as np

Batch = dict[str, Any]
# (epoch, indices int64) -> arrays, always the same for the same arguments.
Load = Callable[[int, np.ndarray], Batch]
ALL = slice(None)
Result = TypeVar("Result")


def batches(
    load: Load,
    *,
    batch_size: int,
    mixtures_per_epoch: int,
    epoch: int = 0,
    step: int = 0,
    workers: int = 1,
    rows: slice = ALL,
    put: Callable[[Batch], Batch] = dict,
) -> Iterator[tuple[int, int, Batch]]:
    """Yields (epoch, step, batch) without end, from (epoch, step) on.

    An epoch has floor(mixtures_per_epoch / batch_size) steps; step s holds the mixtures
    s * batch_size and the batch_size - 1 that follow. A `step` past the end of its epoch counts on
    in the next.

    Args:
      load: makes a batch; called in background threads.
      batch_size, mixtures_per_epoch: at least one whole batch an epoch.
      epoch, step: where to begin.
      workers: threads; one batch more than there are threads is made ahead of the consumer.
      rows: the part of each batch to load, where several processes share it.
      put: applied to each batch in the background thread, such as jax.device_put.

    Close the iterator to stop the threads; each ends after the batch it is at. What `load` or `put`
    raises is raised to the consumer in place of that batch, and ends the iterator.
    """
    steps = mixtures_per_epoch // batch_size

    def work(number: int) -> tuple[int, int, Batch]:
        its_epoch, its_step = divmod(number, steps)
        indices = np.arange(its_step * batch_size, (its_step + 1) * batch_size)[rows]
        return its_epoch, its_step, put(load(its_epoch, indices))

    return _ahead(work, count(epoch * steps + step), workers)


def eval_batches(
    load: Load,
    total: int,
    batch_size: int,
    *,
    rows: slice = ALL,
    put: Callable[[Batch], Batch] = dict,
) -> Iterator[Batch]:
    """Yields batches that cover the mixtures 0...total-1 exactly once, in order.

    All have `batch_size` examples: the last one is filled up with copies of its last example. Each
    carries `valid` [batch_size] bool, False for the copies. `load` is called with epoch 0; the
    other arguments are those of `batches`.
    """

    def work(start: int) -> Batch:
        indices = np.arange(start, start + batch_size)[rows]
        return put({**load(0, np.minimum(indices, total - 1)), "valid": indices < total})

    return _ahead(work, range(0, total, batch_size), workers=1)


def _ahead(work: Callable[[int], Result], jobs: Iterable[int], workers: int) -> Iterator[Result]:
    """Results of `work` in the order of the jobs, at most workers + 1 ahead of the consumer."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="jaxsep-batches")
    pending: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            pending.append(executor.submit(work, job))
            if len(pending) > workers + 1:  # the first of them is the consumer's
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)

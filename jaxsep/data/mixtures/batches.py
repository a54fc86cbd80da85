"""Batches for the training and evaluation loops, rendered ahead in background threads, in order.

The whole state of `batches` is (epoch, step): a run that starts again there sees the same batches, whatever the number of
threads. `load` does the work: it is given (epoch, indices) and returns a dict of arrays, the same for the same arguments.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

import numpy as np

from jaxsep.errors import DataError

Load = Callable[[int, np.ndarray], dict[str, Any]]
Put = Callable[[dict[str, Any]], dict[str, Any]]
_ALL = slice(None)
Job = TypeVar("Job")
Done = TypeVar("Done")


def steps_per_epoch(mixtures_per_epoch: int, batch_size: int) -> int:
    """floor(mixtures_per_epoch / batch_size); DataError where that is no whole batch."""
    if batch_size < 1 or batch_size > mixtures_per_epoch:
        raise DataError(
            f"train.batch_size: is {batch_size}; must be between 1 and train.mixtures_per_epoch ({mixtures_per_epoch})"
        )
    return mixtures_per_epoch // batch_size


def batches(
    load: Load,
    *,
    batch_size: int,
    mixtures_per_epoch: int,
    epoch: int = 0,
    step: int = 0,
    prefetch: int = 2,
    workers: int = 1,
    rows: slice = _ALL,
    put: Put | None = None,
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yields (epoch, step, batch) without end, from (epoch, step) on.

    An epoch has floor(mixtures_per_epoch / batch_size) steps; step s holds the indices s * batch_size and the
    batch_size - 1 that follow. A `step` past the end of its epoch counts on in the next.

    Args:
        load: (epoch, indices int64 [batch_size], or as many as `rows` leaves) -> dict of arrays; called in background threads.
        batch_size, mixtures_per_epoch: at least one whole batch an epoch.
        epoch, step: where to begin.
        prefetch: batches rendered or being rendered ahead of the consumer, at least 1.
        workers: threads, at least 1.
        rows: the part of each batch to load, where several processes share it.
        put: applied to each batch in the background thread, such as jax.device_put.

    Close the iterator to stop the threads; each ends after the batch it is at.

    Raises:
        DataError: on the call, a batch larger than an epoch, or a count out of range. What `load` or `put` raises is
            raised to the consumer in place of that batch, and ends the iterator.
    """
    steps = steps_per_epoch(mixtures_per_epoch, batch_size)
    _check_counts(epoch=(epoch, 0), step=(step, 0), prefetch=(prefetch, 1), workers=(workers, 1))

    def work(number: int) -> tuple[int, int, dict[str, Any]]:
        this_epoch, this_step = divmod(number, steps)
        batch = load(
            this_epoch, np.arange(this_step * batch_size, (this_step + 1) * batch_size)[rows]
        )
        return this_epoch, this_step, put(batch) if put else batch

    return _ahead(work, count(epoch * steps + step), prefetch, workers)


def eval_batches(
    load: Load,
    total: int,
    batch_size: int,
    *,
    epoch: int = 0,
    prefetch: int = 2,
    workers: int = 1,
    rows: slice = _ALL,
    put: Put | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields batches that cover the indices 0...total-1 exactly once, in order.

    All have `batch_size` examples: the last one is filled up with copies of its last example. Each carries `valid`
    [batch_size] bool, False for the copies. Threads, `rows`, `put` and errors are as in `batches`.

    Args:
        load: (epoch, indices int64 [batch_size]) -> dict of arrays, called with the `epoch` given here.
        total: number of examples, at least 1.

    Raises:
        DataError: on the call, a count out of range.
    """
    _check_counts(
        total=(total, 1), batch_size=(batch_size, 1), prefetch=(prefetch, 1), workers=(workers, 1)
    )

    def work(start: int) -> dict[str, Any]:
        indices = np.arange(start, start + batch_size)[rows]
        batch = {**load(epoch, np.minimum(indices, total - 1)), "valid": indices < total}
        return put(batch) if put else batch

    return _ahead(work, range(0, total, batch_size), prefetch, workers)


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if value < least:
            raise DataError(f"{name}: is {value}; must be at least {least}")


def _ahead(
    work: Callable[[Job], Done], jobs: Iterable[Job], prefetch: int, workers: int
) -> Iterator[Done]:
    """Results of `work` in the order of the jobs, at most `prefetch` of them ahead of the consumer."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="jaxsep-batches")
    pending: deque[Future[Done]] = deque()
    remaining = iter(jobs)
    try:
        while True:
            while len(pending) <= prefetch:  # the first of them is the consumer's
                job = next(remaining, None)
                if job is None:
                    break
                pending.append(executor.submit(work, job))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)

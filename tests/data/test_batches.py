"""The iterator: in order, ahead of the consumer, and gone when it is closed."""

import itertools
import threading
import time

import numpy as np
import pytest
from trees import RATE, write_tree

from jaxsep.data.mixtures.batches import batches, eval_batches
from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.data.mixtures.sampler import make_pool
from jaxsep.data.packs.format import class_table
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError


def numbered(epoch, indices):
    return {"epoch": np.full(indices.shape, epoch), "index": indices}


def take(iterator, count):
    taken = list(itertools.islice(iterator, count))
    iterator.close()
    return taken


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("jaxsep-batches")]


@pytest.fixture(autouse=True)
def no_thread_outlives_its_iterator():
    assert not threads()
    yield
    assert not threads()


def test_an_epoch_is_the_whole_batches_that_fit():
    seen = take(batches(numbered, batch_size=3, mixtures_per_epoch=11), 7)
    assert [3 * epoch + step for epoch, step, _ in seen] == list(range(7))
    for epoch, step, batch in seen:
        assert batch["index"].tolist() == [3 * step, 3 * step + 1, 3 * step + 2]
        assert (batch["epoch"] == epoch).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_real_batches_are_the_same_from_any_start_and_with_any_threads(tmp_path, workers):
    root = write_tree(tmp_path / "speech", seconds=0.5)
    corpus = prepare(root, "speech", RATE, tmp_path / "cache")
    settings = {"split": "train", "segment_seconds": 0.25, "max_snr_db": 5.0}
    pool = make_pool({"speech": corpus}, class_table([corpus]), slots=("speech",) * 2, **settings)

    def load(epoch, indices):
        return render(pool, draw(pool, 0, epoch, indices))

    size = {"batch_size": 4, "mixtures_per_epoch": 20}
    reference = take(batches(load, **size), 12)
    for start in (0, 3, 5, 7):
        epoch, step = reference[start][:2]
        place = {"epoch": epoch, "step": step}
        resumed = take(batches(load, **size, **place, workers=workers), 12 - start)
        for (epoch1, step1, batch1), (epoch2, step2, batch2) in zip(
            reference[start:], resumed, strict=True
        ):
            assert (epoch1, step1) == (epoch2, step2)
            assert all(np.array_equal(batch1[key], batch2[key]) for key in batch1)
    assert not np.array_equal(reference[0][2]["mixture"], reference[5][2]["mixture"])


def test_a_step_past_its_epoch_counts_on():
    place = {"epoch": 1, "step": 3}
    (seen,) = take(batches(numbered, batch_size=2, mixtures_per_epoch=6, **place), 1)
    assert seen[:2] == (2, 0)


def test_order_is_kept_where_later_batches_are_sooner_ready():
    def slow_first(epoch, indices):
        time.sleep(0.03 if indices[0] % 4 == 0 else 0.0)
        return {"index": indices}

    seen = take(batches(slow_first, batch_size=2, mixtures_per_epoch=100, workers=4), 20)
    assert [step for _, step, _ in seen] == list(range(20))
    assert [batch["index"][0] for _, _, batch in seen] == list(range(0, 40, 2))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_work_done_ahead_is_bounded(workers):
    loaded = []

    def load(epoch, indices):
        loaded.append(int(indices[0]))
        return {}

    iterator = batches(load, batch_size=1, mixtures_per_epoch=1000, workers=workers)
    for number in range(1, 6):
        next(iterator)
        deadline = time.monotonic() + 10
        while len(loaded) < number + workers + 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(loaded) == number + workers + 1
    iterator.close()


def test_work_and_put_are_done_in_the_background_while_the_consumer_works():
    names = []

    def put(batch):
        names.append(threading.current_thread().name)
        return batch | {"put": True}

    seen = take(batches(numbered, batch_size=2, mixtures_per_epoch=10, put=put), 3)
    assert all(batch["put"] for _, _, batch in seen)
    assert all(name.startswith("jaxsep-batches") for name in names)


@pytest.mark.parametrize("where", ["load", "put"])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_exception_reaches_the_consumer_in_its_place(where, workers):
    def fail_at_8(batch):
        if batch["index"][0] == 8:
            raise DataError("the disk is gone")
        return batch

    def load(epoch, indices):
        batch = {"index": indices}
        return fail_at_8(batch) if where == "load" else batch

    put = fail_at_8 if where == "put" else dict
    iterator = batches(load, batch_size=2, mixtures_per_epoch=20, workers=workers, put=put)
    assert [next(iterator)[1] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(DataError, match="the disk is gone"):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)
    assert not threads()


def test_closing_stops_the_threads_promptly():
    started = []

    def load(epoch, indices):
        started.append(indices)
        time.sleep(0.2)
        return {}

    iterator = batches(load, batch_size=1, mixtures_per_epoch=1000, workers=2)
    next(iterator)
    assert len(threads()) == 2
    before = time.monotonic()
    iterator.close()
    assert time.monotonic() - before < 2
    assert not threads()
    count = len(started)
    time.sleep(0.3)
    assert len(started) == count


@pytest.mark.parametrize(("total", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1), (9, 2)])
def test_evaluation_covers_everything_exactly_once(total, batch_size):
    seen = list(eval_batches(numbered, total, batch_size))
    assert len(seen) == -(-total // batch_size)
    assert all(batch["index"].shape == batch["valid"].shape == (batch_size,) for batch in seen)
    assert all(batch["valid"].dtype == bool for batch in seen)
    covered = np.concatenate([batch["index"][batch["valid"]] for batch in seen])
    assert covered.tolist() == list(range(total))
    assert (seen[-1]["index"][~seen[-1]["valid"]] == total - 1).all()


def test_evaluation_puts_and_fails_like_training():
    seen = list(eval_batches(numbered, 3, 2, put=lambda batch: {"keys": sorted(batch)}))
    assert seen == [{"keys": ["epoch", "index", "valid"]}] * 2

    def load(epoch, indices):
        raise DataError("no such mixture")

    with pytest.raises(DataError, match="no such mixture"):
        next(eval_batches(load, 3, 2))

"""The worker of jaxsep, started by `measure` as python -m jaxsep.benchmark.worker.

Each kind of case has a function here that builds it and gives (repeat, facts): repeat() does the
work once and returns its times in seconds; facts are numbers about the case and its compilation.
"""

import os
import platform
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep import __version__, models, runtime
from jaxsep.benchmark.protocol import Case, Repeat, resident_bytes, serve
from jaxsep.data.mixtures.batches import batches
from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.data.mixtures.sampler import make_pool
from jaxsep.data.packs.format import class_table, open_packed
from jaxsep.data.packs.packing import prepare
from jaxsep.data.synthetic import make_demo
from jaxsep.objective import weighting
from jaxsep.training.devices import Devices
from jaxsep.training.state import create_state, init_params, make_optimizer
from jaxsep.training.step import make_train_step, separation_loss_fn

Built = tuple[Repeat, dict[str, Any]]
# Applications of a weighting in one timed call.
APPLICATIONS = 1000
# Products of each shape in one timed repetition.
PRODUCTS = 10


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(case: Case) -> Built:
    """Versions, device and threads of this environment; nothing to repeat."""
    versions = {"python": platform.python_version(), "jaxsep": __version__}
    versions |= {name: version(name) for name in ("jax", "jaxlib", "flax")}
    return dict, {**versions, "device": jax.devices()[0].device_kind, "threads": cores()}


def train(case: Case) -> Built:
    """One training step on a batch that stays the same.

    Raises:
      FloatingPointError: the loss is not finite; the time of such a step says nothing.
    """
    batch = _signals(case)
    step, state, facts = _train_program(case, batch)

    def once() -> dict[str, float]:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, batch, np.int32(0)))
        return metrics

    for _ in range(2):
        if not np.isfinite(loss := once()["loss"]):
            raise FloatingPointError(f"the loss of a training step is {loss}")
    return _timed(once), facts


def compilation(case: Case) -> Built:
    """The training step compiled; nothing to repeat."""
    return dict, _train_program(case, _signals(case))[2]


def forward(case: Case) -> Built:
    """The estimates of a batch of mixtures."""
    module: Any = models.create(case["family"], **case["network"])
    params, mixture = init_params(module, case["sample_rate"], 0), _signals(case)["mixture"]
    apply_fn, facts = _compiled(jax.jit(module.apply), {"params": params}, mixture)

    def once() -> None:
        jax.block_until_ready(apply_fn({"params": params}, mixture))

    for _ in range(2):
        once()
    return _timed(once), facts


def products(case: Case) -> Built:
    """Float32 matrix products [R,C]·[C,H], [R,H]·[H,C] and [C,R]·[R,H], `PRODUCTS` of each.

    facts: flops of a repetition, two per multiply-add.
    """
    rows, narrow, wide = case["rows"], case["narrow"], case["wide"]
    rng = np.random.default_rng(0)
    pairs = [
        tuple(jax.device_put(rng.standard_normal(shape, np.float32)) for shape in pair)
        for pair in (
            ((rows, narrow), (narrow, wide)),
            ((rows, wide), (wide, narrow)),
            ((narrow, rows), (rows, wide)),
        )
    ]
    multiply = jax.jit(jnp.matmul)

    def once() -> None:
        for left, right in pairs:
            for _ in range(PRODUCTS):
                jax.block_until_ready(multiply(left, right))

    once()
    return _timed(once), {"flops": PRODUCTS * len(pairs) * 2 * rows * narrow * wide}


def weightings(case: Case) -> Built:
    """Each of the paper's weightings, from losses to weights: times as '<name> <granularity>'.

    One application takes microseconds, most of them to start it, so `APPLICATIONS` are timed within
    one compiled loop. Each adds its weights to the losses of the next one and moves every class on
    by one, so that none can be left out or moved out of the loop, whose own cost is in the time.
    """
    rng = np.random.default_rng(0)
    batch, sources, classes = case["batch"], case["sources"], case["classes"]
    chosen = {
        "robust": weighting.robust(0.1),
        "curriculum": weighting.curriculum(weighting.paper_beta(100)),
        "class_bias": weighting.class_bias(rng.standard_normal(classes)),
    }
    class_ids = jnp.asarray(rng.integers(classes, size=(batch, sources)), jnp.int32)
    losses = {
        "example": jnp.asarray(5 * rng.standard_normal(batch), jnp.float32),
        "source": jnp.asarray(5 * rng.standard_normal((batch, sources)), jnp.float32),
    }

    def many(weigh: Any) -> Any:
        def apply_once(epoch: Any, carried: Any) -> Any:
            values, ids = carried
            return values + weigh(values, ids, epoch), (ids + 1) % classes

        return jax.jit(
            lambda values, ids: jax.lax.fori_loop(0, APPLICATIONS, apply_once, (values, ids))
        )

    loops = {
        f"{name} {granularity}": (many(weigh), values)
        for name, weigh in chosen.items()
        for granularity, values in losses.items()
    }

    def repeat() -> dict[str, float]:
        seconds = {}
        for name, (loop, values) in loops.items():
            start = time.perf_counter()
            jax.block_until_ready(loop(values, class_ids))
            seconds[name] = (time.perf_counter() - start) / APPLICATIONS
        return seconds

    repeat()
    return repeat, {}


def mixtures(case: Case) -> Built:
    """An epoch of case['mixtures'] mixtures drawn and rendered in batches, in this one thread."""
    pool = _synthetic_pool(case)
    epochs = count()

    def once() -> None:
        epoch, indices = next(epochs), np.arange(case["mixtures"])
        for start in range(0, indices.size, case["batch"]):
            render(pool, draw(pool, 0, epoch, indices[start : start + case["batch"]]))

    once()
    return _timed(once), {}


def loop(case: Case) -> Built:
    """case['steps'] steps of a loop fed by the batches of training; waited: seconds without one.

    The loop waits for every step to end before it asks for the next batch, so the device idles
    while it waits for that.
    """
    pool, size, devices, epochs = _synthetic_pool(case), case["batch"], Devices(), count(0, 1000)

    def load(epoch: int, indices: np.ndarray) -> dict[str, Any]:
        return render(pool, draw(pool, 0, epoch, indices))

    def fresh_batches() -> Any:
        options = {"batch_size": size, "mixtures_per_epoch": size, "epoch": next(epochs)}
        return closing(batches(load, rows=devices.rows(size), put=devices.divide, **options))

    with fresh_batches() as fed:
        step, state, facts = _train_program(case, next(fed)[2])

    def repeat() -> dict[str, float]:
        nonlocal state
        waited = 0.0
        with fresh_batches() as fed:
            for _, _, batch in islice(fed, 3):  # those rendered ahead are no measure of the rest
                state, _ = jax.block_until_ready(step(state, batch, np.int32(0)))
            start = time.perf_counter()
            for _ in range(case["steps"]):
                asked = time.perf_counter()
                _, _, batch = next(fed)
                waited += time.perf_counter() - asked
                state, _ = jax.block_until_ready(step(state, batch, np.int32(0)))
            return {"seconds": time.perf_counter() - start, "waited": waited}

    return repeat, facts


def open_corpus(case: Case) -> Built:
    """The packed corpus case['path'] opened; grown_bytes: of resident memory. Not repeated."""
    before, start = resident_bytes(), time.perf_counter()
    opened = open_packed(case["path"])
    facts = {"seconds": time.perf_counter() - start, "grown_bytes": resident_bytes() - before}
    return dict, {**facts, "recordings": opened.lengths.size}


KINDS: dict[str, Callable[[Case], Built]] = {
    "describe": describe,
    "train": train,
    "compile": compilation,
    "forward": forward,
    "products": products,
    "weightings": weightings,
    "mixtures": mixtures,
    "loop": loop,
    "open": open_corpus,
}


def _signals(case: Case) -> dict[str, Any]:
    """A batch of noise: sources drawn from seed 0, the mixture their sum."""
    sources = case["network"]["num_sources"]
    shape = (case["batch"], sources, round(case["seconds"] * case["sample_rate"]))
    drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
    active = np.ones(shape[:2], bool)
    return jax.device_put({"mixture": drawn.sum(1), "sources": drawn, "active": active})


def _compiled(function: Any, *arguments: Any) -> tuple[Callable[..., Any], dict[str, float]]:
    """A jitted function compiled for its arguments, and the times of tracing and compiling."""
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    seconds = {"trace_seconds": traced - start, "compile_seconds": time.perf_counter() - traced}
    return program, seconds


def _train_program(case: Case, batch: Any) -> tuple[Callable[..., Any], Any, dict[str, float]]:
    """The compiled training step of a network, robust weights per example, and a fresh state."""
    module: Any = models.create(case["family"], **case["network"])
    tx = make_optimizer(1e-3, clip_norm=5.0, frozen=module.FROZEN)
    loss_fn = separation_loss_fn(module.apply, granularity="example")
    step = make_train_step(
        loss_fn, weighting.robust(0.1), tx, has_aux=True, micro_batch=case.get("micro_batch", 0)
    )
    state = create_state(init_params(module, case["sample_rate"], 0), tx)
    program, facts = _compiled(jax.jit(step, donate_argnums=0), state, batch, np.int32(0))
    return program, state, {**facts, "parameters": models.count_params(state.params)}


def _synthetic_pool(case: Case) -> Any:
    """Training mixtures of generated speech and environmental sound, packed in case['folder']."""
    folder, rate, names = Path(case["folder"]), case["sample_rate"], ("speech", "environment")
    make_demo(folder / "sound", sample_rate=rate)
    corpora = {name: prepare(folder / "sound" / name, name, rate, folder) for name in names}
    return make_pool(
        corpora,
        class_table(list(corpora.values())),
        split="train",
        slots=names,
        segment_seconds=case["seconds"],
        max_snr_db=30.0,
    )


def _timed(once: Callable[[], Any]) -> Repeat:
    """A repetition that calls once(); device_bytes: largest memory of a device that tells it."""

    def repeat() -> dict[str, float]:
        start = time.perf_counter()
        once()
        times = {"seconds": time.perf_counter() - start}
        statistics = jax.local_devices()[0].memory_stats()  # None on a CPU
        return {**times, "device_bytes": statistics["peak_bytes_in_use"]} if statistics else times

    return repeat


if __name__ == "__main__":
    runtime.configure()
    serve(lambda case: KINDS[case["kind"]](case))

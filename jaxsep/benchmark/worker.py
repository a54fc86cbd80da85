"""Worker for jaxsep: python -m jaxsep.benchmark.worker, driven by `processes` through the lines of `protocol`."""

import platform
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep import __version__, models, runtime
from jaxsep.benchmark.machine import cores
from jaxsep.benchmark.protocol import Repeat, resident_bytes, serve
from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.data.packs.corpus import open_packed
from jaxsep.objective import weighting
from jaxsep.training.devices import Devices
from jaxsep.training.input_pipeline import InputPipeline, open_pipeline
from jaxsep.training.state import create_state, init_params, make_optimizer
from jaxsep.training.step import make_train_step, separation_loss_fn

Case = dict[str, Any]
# Applications of a weighting in one timed call.
APPLICATIONS = 1000
# Products of each shape in one timed repetition.
PRODUCTS = 10


def build(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """What `protocol.serve` needs: one repetition of case['kind'], compiled and warmed up, and facts about it."""
    return _KINDS[case["kind"]](case)


def describe(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """Versions, device and threads of this environment; nothing to repeat."""
    names = ("jax", "jaxlib", "flax")
    versions = {
        "python": platform.python_version(),
        "jaxsep": __version__,
        **{name: version(name) for name in names},
    }
    return dict, {"versions": versions, "device": jax.devices()[0].device_kind, "threads": cores()}


def signals(case: Case) -> dict[str, Any]:
    """A batch of noise: sources drawn from seed 0, the mixture their sum."""
    sources = case["network"]["num_sources"]
    shape = (case["batch"], sources, round(case["seconds"] * case["sample_rate"]))
    drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
    everywhere = np.ones(shape[:2], bool)
    return jax.device_put({"mixture": drawn.sum(1), "sources": drawn, "active": everywhere})


def compiled(function: Any, *arguments: Any) -> tuple[Callable[..., Any], dict[str, float]]:
    """A jitted function compiled for its arguments, and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    ready = lowered.compile()
    return ready, {"trace_seconds": traced - start, "compile_seconds": time.perf_counter() - traced}


def train_program(case: Case, batch: Any) -> tuple[Callable[..., Any], Any, dict[str, float]]:
    """The compiled training step of a network, robust weighting per example, and a fresh state."""
    module: Any = models.create(case["family"], **case["network"])
    tx = make_optimizer(1e-3, clip_norm=5.0, frozen=module.FROZEN)
    loss_fn = separation_loss_fn(module.apply, granularity="example")
    step = make_train_step(
        loss_fn, weighting.robust(0.1), tx, has_aux=True, micro_batch=case.get("micro_batch", 0)
    )
    state = create_state(init_params(module, case["sample_rate"], 0), tx)
    program, facts = compiled(jax.jit(step, donate_argnums=0), state, batch, np.int32(0))
    return program, state, {**facts, "parameters": models.count_params(state.params)}


def compile_step(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """The training step compiled, and nothing else."""
    return dict, train_program(case, signals(case))[2]


def train(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """One training step on a batch that stays the same.

    Raises:
      FloatingPointError: the loss is not finite; the time of such a step says nothing.
    """
    batch = signals(case)
    step, state, facts = train_program(case, batch)

    def once() -> dict[str, float]:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, batch, np.int32(0)))
        return metrics

    for _ in range(2):
        if not np.isfinite(loss := once()["loss"]):
            raise FloatingPointError(f"the loss of a training step is {loss}")
    return _timed(once), facts


def forward(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """The estimates of a batch of mixtures."""
    module: Any = models.create(case["family"], **case["network"])
    params, mixture = init_params(module, case["sample_rate"], 0), signals(case)["mixture"]
    apply_fn, facts = compiled(jax.jit(module.apply), {"params": params}, mixture)

    def once() -> None:
        jax.block_until_ready(apply_fn({"params": params}, mixture))

    for _ in range(2):
        once()
    return _timed(once), facts


def products(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """Float32 matrix products [R,C]·[C,H], [R,H]·[H,C] and [C,R]·[R,H], `PRODUCTS` of each, one after another.

    facts: flops of a repetition, two per multiply-add.
    """
    rows, narrow, wide = case["rows"], case["narrow"], case["wide"]
    rng = np.random.default_rng(0)
    shapes = [
        ((rows, narrow), (narrow, wide)),
        ((rows, wide), (wide, narrow)),
        ((narrow, rows), (rows, wide)),
    ]
    pairs = [
        tuple(jax.device_put(rng.standard_normal(shape, np.float32)) for shape in pair)
        for pair in shapes
    ]
    multiply = jax.jit(jnp.matmul)

    def once() -> None:
        for left, right in pairs:
            for _ in range(PRODUCTS):
                jax.block_until_ready(multiply(left, right))

    once()
    return _timed(once), {"flops": PRODUCTS * len(shapes) * 2 * rows * narrow * wide}


def weightings(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """Seconds of one application of each of the paper's weightings, from losses to weights, as '<name> <granularity>'.

    One call takes microseconds, mostly to start it: `APPLICATIONS` of them are timed within one compiled loop. Each adds
    its weights to the losses that the next one is given and moves every class on by one, so that none can be left out or
    moved out of the loop; what the loop itself costs is in the figure.
    """
    rng = np.random.default_rng(0)
    batch, sources, classes = case["batch"], case["sources"], case["classes"]
    chosen = {
        "robust": weighting.robust(0.1),
        "curriculum": weighting.curriculum(weighting.paper_beta(100)),
        "class_bias": weighting.class_bias(rng.standard_normal(classes)),
    }
    shapes = {"example": (batch,), "source": (batch, sources)}
    ids = jnp.asarray(rng.integers(classes, size=(batch, sources)), jnp.int32)
    losses = {
        name: jnp.asarray(5 * rng.standard_normal(shape), jnp.float32)
        for name, shape in shapes.items()
    }

    def many(weigh: Any) -> Any:
        def apply_once(epoch: Any, carried: Any) -> Any:
            values, ids = carried
            return values + weigh(values, ids, epoch), (ids + 1) % classes

        return jax.jit(
            lambda values, ids: jax.lax.fori_loop(0, APPLICATIONS, apply_once, (values, ids))
        )

    loops = {
        f"{name} {grain}": (many(chosen[name]), losses[grain])
        for name in chosen
        for grain in shapes
    }

    def repeat() -> dict[str, float]:
        seconds = {}
        for name, (loop, values) in loops.items():
            start = time.perf_counter()
            jax.block_until_ready(loop(values, ids))
            seconds[name] = (time.perf_counter() - start) / APPLICATIONS
        return seconds

    repeat()
    return repeat, {}


def demo_sets(case: Case) -> InputPipeline:
    """Training mixtures of generated speech and environmental sound, packed under case['folder']."""
    return open_pipeline(
        SimpleNamespace(
            speech_root="",
            environment_root="",
            premixed_root="",
            premixed_roles=(),
            synthetic=True,
            cache_dir=case["folder"],
            sample_rate=case["sample_rate"],
            segment_seconds=case["seconds"],
            slots=("speech", "environment"),
            active_counts=(),
            max_snr_db=30.0,
            short_clips="pad",
            mixtures_val=1,
            mixtures_test=1,
            eval_seed=1,
        ),
        pad_seconds=0.25,
        splits=("train",),
    )


def mixtures(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """case['mixtures'] mixtures drawn and rendered in batches, in this one thread; each repetition is an epoch of its own."""
    pool = demo_sets(case).pools["train"]
    size, epochs = case["batch"], count()

    def once() -> None:
        epoch = next(epochs)
        for start in range(0, case["mixtures"], size):
            render(
                pool, draw(pool, 0, epoch, np.arange(start, min(start + size, case["mixtures"])))
            )

    once()
    return _timed(once), {}


def loop(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """case['steps'] steps of a training loop fed by the batches of training; waited: seconds without a batch.

    The loop waits for every step to end before it asks for the next batch: while it waits for that, the device idles.
    """
    sets, size = demo_sets(case), case["batch"]
    with closing(
        sets.train_batches(Devices(), seed=0, batch_size=size, mixtures_per_epoch=size)
    ) as batches:  # type: ignore[type-var]
        step, state, facts = train_program(case, next(batches)[2])
    epochs = count(1, 1000)

    def repeat() -> dict[str, float]:
        nonlocal state
        waited = 0.0
        where = {"epoch": next(epochs), "batch_size": size, "mixtures_per_epoch": size}
        with closing(sets.train_batches(Devices(), seed=0, **where)) as batches:  # type: ignore[type-var]
            for _, _, batch in islice(
                batches, 3
            ):  # those rendered ahead are no measure of the rest
                state, _ = jax.block_until_ready(step(state, batch, np.int32(0)))
            start = time.perf_counter()
            for _ in range(case["steps"]):
                asked = time.perf_counter()
                upcoming = next(batches)
                waited += time.perf_counter() - asked
                _, _, batch = upcoming
                state, _ = jax.block_until_ready(step(state, batch, np.int32(0)))
            return {"seconds": time.perf_counter() - start, "waited": waited}

    return repeat, facts


def open_corpus(case: Case) -> tuple[Repeat, dict[str, Any]]:
    """The packed corpus case['path'] opened; nothing to repeat. grown_bytes: of resident memory."""
    before, start = resident_bytes(), time.perf_counter()
    opened = open_packed(case["path"])
    seconds = time.perf_counter() - start
    grown = resident_bytes() - before
    return lambda: {"recordings": opened.lengths.size}, {"seconds": seconds, "grown_bytes": grown}


def _timed(once: Callable[[], Any]) -> Repeat:
    def repeat() -> dict[str, float]:
        start = time.perf_counter()
        once()
        seconds = time.perf_counter() - start
        memory = jax.local_devices()[0].memory_stats()  # None on a CPU
        return {
            "seconds": seconds,
            **({"device_bytes": memory["peak_bytes_in_use"]} if memory else {}),
        }

    return repeat


_KINDS: dict[str, Callable[[Case], tuple[Repeat, dict[str, Any]]]] = {
    "describe": describe,
    "compile": compile_step,
    "train": train,
    "forward": forward,
    "products": products,
    "weightings": weightings,
    "mixtures": mixtures,
    "loop": loop,
    "open": open_corpus,
}


if __name__ == "__main__":
    runtime.configure()
    serve(build)

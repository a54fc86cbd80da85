"""The process that measures one case of jaxsep: python -m jaxsep.benchmark.worker CASE.

CASE is a JSON object: `kind` names a function of KINDS, the rest are its arguments. The last line
of standard output is what the function returns: a number for each quantity, named by its unit.
`network` is always the arguments of `models.create`, `seconds` the length of a mixture.
"""

import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep import __version__, models, runtime
from jaxsep.benchmark.flops import network_flops
from jaxsep.benchmark.timing import seconds_each
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

SAMPLE_RATE = 8000
Network = dict[str, Any]
Numbers = dict[str, float]


def describe() -> dict[str, Any]:
    """The machine, versions and device."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "memory": f"{1e-9 * os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'):.1f} GB",
        "python": platform.python_version(),
        "jaxsep": __version__,
        **{name: version(name) for name in ("jax", "jaxlib", "flax")},
        "device": jax.devices()[0].device_kind,
        "threads": len(os.sched_getaffinity(0)),
    }


def train(network: Network, batch: int, seconds: float, micro_batch: int = 0) -> Numbers:
    """Training steps on a batch of noise; the memory is the largest, the compiler included."""
    step, state = _train_step(network, micro_batch)
    parameters = models.count_params(state.params)  # before a step donates them
    signals, num_samples = _noise(network, batch, seconds), round(seconds * SAMPLE_RATE)

    def once() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, signals, np.int32(0)))

    each = seconds_each(once)
    flops = network_flops(network, batch=batch, num_samples=num_samples, train=True)
    on_device = jax.local_devices()[0].memory_stats() or {}  # None on a CPU
    return {
        "ms": 1e3 * each,
        "ms/example": 1e3 * each / batch,
        "ms/(example·s)": 1e3 * each / (batch * seconds),
        "GFLOP/s": 1e-9 * flops / each,
        "GB": 1e-9 * on_device.get("peak_bytes_in_use", _resident_bytes("VmHWM")),
        "MB of gradient": 4e-6 * parameters,
    }


def forward(network: Network, batch: int, seconds: float) -> Numbers:
    """The estimates of a batch of noise."""
    module = models.create(**network)
    variables = {"params": init_params(module, SAMPLE_RATE, 0)}
    apply, mixture = jax.jit(module.apply), _noise(network, batch, seconds)["mixture"]
    each = seconds_each(lambda: jax.block_until_ready(apply(variables, mixture)))
    return {"ms": 1e3 * each}


def compilation(network: Network, batch: int, seconds: float, cold: bool) -> Numbers:
    """The training step traced and compiled; cold: with no programs kept from before."""
    if cold:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    step, state = _train_step(network)
    signals = _noise(network, batch, seconds)
    start = time.perf_counter()
    lowered = step.lower(state, signals, np.int32(0))
    traced = time.perf_counter()
    lowered.compile()
    return {"s to trace": traced - start, "s to compile": time.perf_counter() - traced}


def products(network: Network, batch: int, seconds: float) -> Numbers:
    """Float32 products [R,C]·[C,H], [R,H]·[H,C] and [C,R]·[R,H] of the shapes of a block's 1×1
    convolution and its gradients, R the frames of the batch."""
    rows = batch * round(seconds * SAMPLE_RATE) // (network["enc_kernel_size"] // 2)
    narrow, wide = network["out_channels"], network["in_channels"]
    shapes = ((rows, narrow, wide), (rows, wide, narrow), (narrow, rows, wide))
    noise = partial(jax.random.normal, jax.random.key(0))
    pairs = [(noise((m, k)), noise((k, n))) for m, k, n in shapes]
    multiply = jax.jit(jnp.matmul)
    each = seconds_each(lambda: jax.block_until_ready([multiply(*pair) for pair in pairs]))
    return {"GFLOP/s": 1e-9 * len(pairs) * 2 * rows * narrow * wide / each}


def weigh(name: str, batch: int, classes: int) -> Numbers:
    """One of the paper's weightings, from losses [batch,2] to weights.

    One application takes microseconds, most of them to start it, so 1000 are timed in one compiled
    loop. Each depends on the one before, so that none is left out or moved out of the loop.
    """
    rng = np.random.default_rng(0)
    weights = {
        "robust": weighting.robust(0.1),
        "curriculum": weighting.curriculum(weighting.paper_beta(100)),
        "class_bias": weighting.class_bias(rng.standard_normal(classes)),
    }[name]
    class_ids = jnp.asarray(rng.integers(classes, size=(batch, 2)), jnp.int32)
    losses = jnp.asarray(5 * rng.standard_normal((batch, 2)), jnp.float32)

    def apply_once(epoch: Any, carried: Any) -> Any:
        values, ids = carried
        return values + weights(values, ids, epoch), (ids + 1) % classes

    many = jax.jit(lambda *start: jax.lax.fori_loop(0, 1000, apply_once, start))
    each = seconds_each(lambda: jax.block_until_ready(many(losses, class_ids)))
    return {"ms": 1e3 * each / 1000}


def mixtures(folder: str, number: int, batch: int, seconds: float) -> Numbers:
    """Epochs of so many mixtures drawn and rendered in batches, in this one thread."""
    pool, epochs = _pool(folder, seconds), count()

    def once() -> None:
        epoch, indices = next(epochs), np.arange(number)
        for start in range(0, number, batch):
            render(pool, draw(pool, 0, epoch, indices[start : start + batch]))

    return {"mixtures/s": number / seconds_each(once)}


def demand(network: Network, seconds: float, flops: float) -> Numbers:
    """The mixtures that devices take which make so many float operations of a training step."""
    num_samples = round(seconds * SAMPLE_RATE)
    each = network_flops(network, batch=1, num_samples=num_samples, train=True)
    return {"mixtures/s": flops / each}


def loop(folder: str, network: Network, batch: int, seconds: float, steps: int) -> Numbers:
    """Steps of a loop fed by the batches of training.

    The loop waits for every step to end before it asks for the next batch, so the device idles
    while it waits for that.
    """
    pool, devices = _pool(folder, seconds), Devices()
    step, state = _train_step(network)
    fed: Any = batches(
        lambda epoch, indices: render(pool, draw(pool, 0, epoch, indices)),
        batch_size=batch,
        mixtures_per_epoch=batch,
        rows=devices.rows(batch),
        put=devices.shard,
    )
    waited: list[float] = []
    with closing(fed):
        for number in range(
            -4, steps
        ):  # the first four compile, or use what was rendered meanwhile
            if number == 0:
                waited, start = [], time.perf_counter()
            asked = time.perf_counter()
            signals = next(fed)[2]
            waited.append(time.perf_counter() - asked)
            state, _ = jax.block_until_ready(step(state, signals, np.int32(0)))
        passed = time.perf_counter() - start
    return {"ms": 1e3 * passed / steps, "% waiting": 100 * sum(waited) / passed}


def open_corpus(path: str) -> Numbers:
    """A packed corpus opened, and how much resident memory it takes."""
    before, start = _resident_bytes("VmRSS"), time.perf_counter()
    corpus = open_packed(path)
    passed = time.perf_counter() - start
    grown = _resident_bytes("VmRSS") - before
    return {"s to open": passed, "GB": 1e-9 * grown, "recordings": corpus.lengths.size}


FUNCTIONS: tuple[Callable[..., Numbers], ...] = (
    *(describe, train, forward, compilation, products, weigh),
    *(mixtures, demand, loop, open_corpus),
)
KINDS = {function.__name__: function for function in FUNCTIONS}


def _noise(network: Network, batch: int, seconds: float) -> dict[str, Any]:
    """A batch of noise: sources drawn from seed 0, the mixture their sum."""
    shape = (batch, network["num_sources"], round(seconds * SAMPLE_RATE))
    sources = np.random.default_rng(0).standard_normal(shape, np.float32)
    active = np.ones(shape[:2], bool)
    return jax.device_put({"mixture": sources.sum(1), "sources": sources, "active": active})


def _train_step(network: Network, micro_batch: int = 0) -> tuple[Any, Any]:
    """The jitted training step of a network, robust weights per example, and a fresh state."""
    module: Any = models.create(**network)
    tx = make_optimizer(1e-3, clip_norm=5.0, frozen=module.FROZEN)
    loss_fn = separation_loss_fn(module.apply, granularity="example")
    robust = weighting.robust(0.1)
    step = make_train_step(loss_fn, robust, tx, has_aux=True, micro_batch=micro_batch)
    state = create_state(init_params(module, SAMPLE_RATE, 0), tx)
    return jax.jit(step, donate_argnums=0), state


def _pool(folder: str, seconds: float) -> Any:
    """Training mixtures of generated speech and environmental sound, packed in a folder once."""
    sound, names = Path(folder) / "sound", ("speech", "environment")
    make_demo(sound, sample_rate=SAMPLE_RATE)
    corpora = {name: prepare(sound / name, name, SAMPLE_RATE, folder) for name in names}
    return make_pool(
        corpora,
        class_table(list(corpora.values())),
        split="train",
        slots=names,
        segment_seconds=seconds,
        max_snr_db=30.0,
    )


def _resident_bytes(name: str) -> int:
    """Resident memory of this process: now (VmRSS), or at its largest so far (VmHWM)."""
    line = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert line
    return 1024 * int(line[1])


if __name__ == "__main__":
    runtime.configure()
    case = json.loads(sys.argv[1])
    print(json.dumps(KINDS[case.pop("kind")](**case)))

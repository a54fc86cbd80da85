"""What is measured: one function for each suite, which lists its cases; `worker` measures them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxsep.benchmark.measure import Case
from jaxsep.benchmark.sparse_corpus import make_corpus
from jaxsep.config.schema import Model

PAPER = Model().model_dump()
IMPROVED = PAPER | {"family": "improved", "enc_kernel_size": 21}
# The network of configs/*.py:cpu.
CPU = PAPER | {"out_channels": 64, "in_channels": 128, "enc_num_basis": 128}
CPU |= {"num_blocks": 4, "upsampling_depth": 4}
BATCH, LARGE, HUGE = 4, 28, 256
# As many as WSJ0-2mix has training speakers and ESC-50 classes.
CLASSES = 151
HOURS = (10, 100, 1000)
EACH_SECOND = "ms/(example·s)"


def train(folder: Path) -> list[Case]:
    """Training steps: beside the peer, in bfloat16, as arithmetic, by length and batch; and the
    weightings, which are a part of a step."""
    step = _case("train", "paper's network", PAPER, units=("ms", "GFLOP/s", EACH_SECOND))
    large = _case("train", "paper's network", PAPER, LARGE, units=("ms", EACH_SECOND), to=step.name)
    products = {**step.arguments, "kind": "products"}
    losses = {"kind": "weigh", "batch": LARGE, "classes": CLASSES}
    return [
        step,
        _asteroid(step),
        _case("train", "paper's network, bfloat16", PAPER | {"dtype": "bfloat16"}, to=step.name),
        Case("float32 products of its shapes", products, ("GFLOP/s",), to=step.name),
        improved := _case("train", "improved network", IMPROVED),
        _asteroid(improved),
        _case("train", "paper's network", PAPER, seconds=16, units=(EACH_SECOND,), to=step.name),
        large,
        *(
            Case(f"weighting {name}, losses [{LARGE},2]", losses | {"name": name}, to=large.name)
            for name in ("robust", "curriculum", "class_bias")
        ),
    ]


def forward(folder: Path) -> list[Case]:
    """Estimates of a batch of mixtures, beside the peer."""
    cases = [
        _case("forward", "paper's network", PAPER, batch=1),
        _case("forward", "paper's network", PAPER),
        _case("forward", "improved network", IMPROVED),
    ]
    return [side for case in cases for side in (case, _asteroid(case))]


def data(folder: Path) -> list[Case]:
    """Mixtures drawn and rendered in a second, and the time for which training waits for them."""
    title, units, place = "training at :cpu scale", ("ms", "% waiting"), str(folder)
    loop = _case("loop", title, CPU, 16, 1.0, units=units, folder=place, steps=20)
    return [_mixtures(folder), loop]


def compilation(folder: Path) -> list[Case]:
    """Tracing and compiling the training step in a new process, without and with kept programs."""
    units = ("s to trace", "s to compile")
    cold = _case("compilation", "cold, paper's network", PAPER, units=units, cold=True)
    title = "from kept programs, paper's network"
    return [cold, _case("compilation", title, PAPER, units=units, to=cold.name, cold=False)]


def memory(folder: Path) -> list[Case]:
    """Largest memory and time per example, with and without remat."""
    units = ("GB", "ms/example")
    plain = _case("train", "paper's network", PAPER, LARGE, units=units)
    network = PAPER | {"remat": True}
    remat = _case("train", "paper's network, remat", network, LARGE, units=units, to=plain.name)
    return [plain, remat]


def reach(folder: Path) -> list[Case]:
    """Gradient accumulation over large batches; what several devices exchange and need to be fed;
    corpora of many hours."""
    cases = []
    title, units = f"micro-batches of {BATCH}, paper's network", ("GB", "ms/example")
    for batch in (LARGE, HUGE):
        cases.append(_case("train", title, PAPER, batch, seconds=1, units=units, micro_batch=BATCH))
    cases.append(_case("train", "summed over devices", PAPER, units=("MB of gradient",)))
    # What a GPU is taken to make of its float32 arithmetic. The ratio is the cores that render.
    needed = {"kind": "demand", "network": PAPER, "seconds": 4.0, "flops": 8 * 20e12}
    rendered = _mixtures(folder)
    title = "needed by 8 GPUs of 20 TFLOP/s (assumed)"
    cases += [rendered, Case(title, needed, ("mixtures/s",), to=rendered.name)]
    for hours in HOURS:
        path = folder / f"{hours}-hours"
        make_corpus(path, hours, 8000)
        arguments = {"kind": "open_corpus", "path": str(path)}
        cases.append(Case(f"packed corpus of {hours:,} h", arguments, ("s to open", "GB")))
    return cases


SUITES: dict[str, Callable[[Path], list[Case]]] = {
    "train": train,
    "forward": forward,
    "data": data,
    "compile": compilation,
    "memory": memory,
    "reach": reach,
}


def _case(
    kind: str,
    title: str,
    network: dict[str, Any],
    batch: int = BATCH,
    seconds: float = 4.0,
    *,
    units: tuple[str, ...] = ("ms",),
    to: str = "",
    **more: Any,
) -> Case:
    """A case about a network, named by its title, batch and length."""
    size = {"network": network, "batch": batch, "seconds": seconds}
    return Case(f"{title}, {batch} × {seconds:g} s", {"kind": kind, **size, **more}, units, to)


def _asteroid(case: Case) -> Case:
    """The same case for the peer."""
    return replace(
        case, name=f"{case.name}, asteroid", units=("ms",), to=case.name, side="asteroid"
    )


def _mixtures(folder: Path) -> Case:
    arguments = {"kind": "mixtures", "number": 200, "batch": BATCH, "seconds": 4.0}
    title = "drawn and rendered in one thread, 2 × 4 s"
    return Case(title, arguments | {"folder": str(folder)}, ("mixtures/s",))

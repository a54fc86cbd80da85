"""What is measured: one function for each suite, listed in SUITES at the end.

A suite describes its cases as plain data, has them measured in worker processes (`measure.Bench`),
and adds rows to the table. `worker` says what each kind of case repeats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.benchmark.flops import frames, network_flops
from jaxsep.benchmark.measure import Bench, Results
from jaxsep.benchmark.protocol import Case
from jaxsep.benchmark.sparse_corpus import make_corpus
from jaxsep.benchmark.table import Ratio

SAMPLE_RATE = 8000
# As many as WSJ0-2mix has training speakers and ESC-50 classes.
CLASSES = 151
# What a GPU is taken to make of its float32 arithmetic, for an estimate of what a node needs.
GPUS, GPU_FLOPS = 8, 20e12
MS, GB = 1e3, 1e-9

PAPER = {
    "out_channels": 128,
    "in_channels": 512,
    "num_blocks": 8,
    "upsampling_depth": 5,
    "enc_kernel_size": 41,
    "enc_num_basis": 512,
    "num_sources": 2,
}
# The network of configs/*.py:cpu.
CPU = PAPER | {
    "out_channels": 64,
    "in_channels": 128,
    "num_blocks": 4,
    "upsampling_depth": 4,
    "enc_num_basis": 128,
}


@dataclass(frozen=True)
class Sizes:
    """Networks, batches and lengths (s). loop: a training fed with batches; hours: of corpora."""

    network: dict[str, Any]
    loop_network: dict[str, Any]
    batch: int = 4
    large_batch: int = 28
    huge_batch: int = 256
    seconds: float = 4.0
    long_seconds: float = 16.0
    mixtures: int = 200
    loop_batch: int = 16
    loop_seconds: float = 1.0
    loop_steps: int = 60
    hours: tuple[int, ...] = (10, 100, 1000)


FULL = Sizes(PAPER, CPU)


def train(bench: Bench, sizes: Sizes) -> None:
    """Training steps: beside the peer, in bfloat16, as arithmetic, by length and batch, and the
    weightings' share."""
    step, improved = _case("train", sizes), _case("train", sizes, "improved")
    where = _setting(step)
    with bench.measuring("paper's network"):
        half = step | {"network": sizes.network | {"dtype": "bfloat16"}}
        narrow, wide = sizes.network["out_channels"], sizes.network["in_channels"]
        rows = sizes.batch * frames("original", sizes.network, round(sizes.seconds * SAMPLE_RATE))
        products = {"kind": "products", "rows": rows, "narrow": narrow, "wide": wide}
        cases = {**_sides(bench, step), "bfloat16": half, "products": products}
        results = bench.in_turn(cases)
        _add_sides(bench, "step, paper's network", step, results)
        seconds, half_seconds = results["ours"]["seconds"], results["bfloat16"]["seconds"]
        ratio = Ratio("float32 / bfloat16", seconds, half_seconds)
        bench.add("step, paper's network, bfloat16", where, "ms", MS * half_seconds, ratio=ratio)
        flops = _step_flops(step)
        rate = 1e-9 * flops / seconds
        bare = 1e-9 * results["products"]["flops"] / results["products"]["seconds"]
        note = f"{flops * 1e-9:.4g} GFLOP"
        bench.add("arithmetic of the step", where, "GFLOP/s", rate, note=note)
        shapes = f"[{rows},{narrow}]·[{narrow},{wide}] and its gradients"
        bench.add("arithmetic of float32 products", shapes, "GFLOP/s", bare)
        bench.add("step's share of the products'", where, "%", 100 * rate / bare)

    with bench.measuring("improved network"):
        results = bench.in_turn(_sides(bench, improved))
        _add_sides(bench, "step, improved network", improved, results)

    with bench.measuring("lengths and batches"):
        longer, larger = {"seconds": sizes.long_seconds}, {"batch": sizes.large_batch}
        batches = {"ours": step, "longer": step | longer, "larger": step | larger}
        batch, sources = sizes.large_batch, sizes.network["num_sources"]
        weightings = {"kind": "weightings", "batch": batch, "sources": sources, "classes": CLASSES}
        results = bench.in_turn({**batches, "weightings": weightings})
        times = {
            name: MS * results[name]["seconds"] / (case["batch"] * case["seconds"])
            for name, case in batches.items()
        }
        for name, case in batches.items():
            ratio = Ratio(f"to {where}", times[name], times["ours"])
            title = "step per example and second"
            bench.add(title, _setting(case), "ms/(example·s)", times[name], ratio=ratio)
        for name, seconds in results["weightings"].items():
            if name != "peak_bytes":
                weighting, granularity = name.split()
                title = f"weighting {weighting}, share of the step"
                shape = f"[{batch}]" if granularity == "example" else f"[{batch},{sources}]"
                share = 100 * seconds / results["larger"]["seconds"]
                of_step = f"of a step with {_setting(batches['larger'])}"
                note = f"{np.median(1e6 * seconds):.3g} µs {of_step}"
                bench.add(title, f"losses {shape}", "%", share, note=note)


def forward(bench: Bench, sizes: Sizes) -> None:
    """Estimates of a batch of mixtures, beside the peer."""
    paper, improved = _case("forward", sizes), _case("forward", sizes, "improved")
    single = paper | {"batch": 1}
    names = ("paper's network", "paper's network", "improved network")
    for name, case in zip(names, (single, paper, improved), strict=True):
        with bench.measuring(f"{name}, {_setting(case)}"):
            _add_sides(bench, name, case, bench.in_turn(_sides(bench, case)))


def data(bench: Bench, sizes: Sizes) -> None:
    """Mixtures drawn and rendered in a second, and the time for which training waits for them."""
    with bench.measuring("mixtures"):
        seconds = bench.in_turn({"ours": _mixtures(bench, sizes)})["ours"]["seconds"]
        where = f"2 × {sizes.seconds:g} s, {SAMPLE_RATE} Hz"
        note = "one thread, packed corpora of generated sound"
        bench.add("mixtures drawn and rendered", where, "1/s", sizes.mixtures / seconds, note=note)

    with bench.measuring("training loop"):
        steps = max(1, sizes.loop_steps // bench.repeats)
        network = {"network": sizes.loop_network, "batch": sizes.loop_batch}
        length = {"seconds": sizes.loop_seconds, "steps": steps, "folder": bench.folder}
        case = _case("loop", sizes) | network | length
        ours = bench.in_turn({"ours": case})["ours"]
        share = 100 * ours["waited"] / ours["seconds"]
        milliseconds = np.median(MS * ours["seconds"] / steps)
        note = f"{bench.repeats} × {steps} steps of {milliseconds:.4g} ms"
        bench.add("training at :cpu scale waits for data", _setting(case), "%", share, note=note)


def compilation(bench: Bench, sizes: Sizes) -> None:
    """Tracing and compiling the training step in a new process, with an empty cache and a full."""
    case = _case("compile", sizes)
    with bench.measuring("training step"):
        results = bench.afresh({"cold": case, "cached": case})
        for name, title in (("cold", "cold"), ("cached", "from the persistent cache")):
            for part in ("trace", "compile"):
                cold, seconds = (results[of][f"{part}_seconds"] for of in ("cold", name))
                ratio = None if name == "cold" else Ratio("cold / cached", cold, seconds)
                bench.add(f"{part}, {title}", _setting(case), "s", seconds, ratio=ratio)


def memory(bench: Bench, sizes: Sizes) -> None:
    """Largest memory and time per example, with and without remat."""
    plain = _case("train", sizes) | {"batch": sizes.large_batch}
    remat = plain | {"network": sizes.network | {"remat": True}}
    titles = {"remat": "step, paper's network, remat", "plain": "step, paper's network"}
    with bench.measuring("remat"):
        results = bench.in_turn({"remat": remat, "plain": plain})
        for name, title in titles.items():
            _add_memory(bench, title, _setting(plain), results[name])
            each = MS * results[name]["seconds"] / plain["batch"]
            ratio = Ratio("to no remat", results[name]["seconds"], results["plain"]["seconds"])
            bench.add(title, _setting(plain), "ms/example", each, ratio=ratio)


def reach(bench: Bench, sizes: Sizes) -> None:
    """How far it reaches: gradient accumulation over large batches, what several devices exchange
    and need to be fed, corpora of many hours."""
    step = _case("train", sizes)
    with bench.measuring("gradient accumulation"):
        accumulated = step | {"seconds": sizes.loop_seconds, "micro_batch": sizes.batch}
        batches = (sizes.large_batch, sizes.huge_batch)
        cases = {str(batch): accumulated | {"batch": batch} for batch in batches}
        for name, values in bench.in_turn(cases).items():
            title = "accumulated step, paper's network"
            where = f"{_setting(cases[name])}, micro-batch {sizes.batch}"
            each = MS * values["seconds"] / cases[name]["batch"]
            _add_memory(bench, title, where, values)
            bench.add(title, where, "ms/example", each)

    with bench.measuring("a node"):
        results = bench.in_turn({"ours": step, "drawn": _mixtures(bench, sizes)})
        where, gradient = _setting(step), 4e-6 * results["ours"]["parameters"]
        note = f"beside a step of {np.median(MS * results['ours']['seconds']):.4g} ms"
        bench.add("gradient summed over devices", where, "MB/step", gradient, note=note)
        flops = _step_flops(step | {"batch": 1})
        needed, rendered = GPUS * GPU_FLOPS / flops, sizes.mixtures / results["drawn"]["seconds"]
        each = f"{flops * 1e-9:.4g} GFLOP a mixture"
        note = f"{GPUS} GPUs at an assumed {GPU_FLOPS * 1e-12:.0f} TFLOP/s, {each}"
        bench.add("mixtures that a node needs", where, "1/s", needed, note=note)
        bench.add("mixtures rendered by one core", where, "1/s", rendered)
        cores, note = needed / np.median(rendered), "needed / rendered"
        bench.add("cores that render for a node", where, "cores", cores, note=note)

    with bench.measuring("corpora"):
        paths = {hours: Path(bench.folder) / f"{hours}-hours" for hours in sizes.hours}
        for hours, path in paths.items():
            make_corpus(path, hours, SAMPLE_RATE)
        cases = {f"{n:,} h": {"kind": "open", "path": str(path)} for n, path in paths.items()}
        for where, values in bench.afresh(cases).items():
            note = f"{values['recordings'][0]:,} recordings"
            bench.add("packed corpus opened", where, "s", values["seconds"], note=note)
            size, note = GB * np.max(values["grown_bytes"]), "its index; audio stays on disk"
            bench.add("packed corpus in memory", where, "GB", size, note=note)


SUITES: dict[str, Callable[[Bench, Sizes], None]] = {
    "train": train,
    "forward": forward,
    "data": data,
    "compile": compilation,
    "memory": memory,
    "reach": reach,
}


def _case(kind: str, sizes: Sizes, family: str = "original") -> Case:
    """A case about a network of the paper's size; improved ones have filters of 21 samples."""
    filters = {"enc_kernel_size": 21} if family == "improved" else {}
    return {
        "kind": kind,
        "family": family,
        "network": sizes.network | filters,
        "batch": sizes.batch,
        "seconds": sizes.seconds,
        "sample_rate": SAMPLE_RATE,
    }


def _mixtures(bench: Bench, sizes: Sizes) -> Case:
    return _case("mixtures", sizes) | {"mixtures": sizes.mixtures, "folder": bench.folder}


def _step_flops(case: Case) -> int:
    size = {"batch": case["batch"], "num_samples": round(case["seconds"] * case["sample_rate"])}
    return network_flops(case["family"], case["network"], **size, train=True)


def _setting(case: Case) -> str:
    """Batch and length as the table shows them."""
    return f"B={case['batch']}, {case['seconds']:g} s"


def _sides(bench: Bench, case: Case) -> dict[str, Case]:
    """The same case for us and, where it is measured, for the peer."""
    return {"ours": case, "peer": case} if bench.peer else {"ours": case}


def _add_sides(bench: Bench, name: str, case: Case, results: Results) -> None:
    """The row of a case that the peer may have been given too, in milliseconds."""
    ours = results["ours"]
    peer = MS * results["peer"]["seconds"] if bench.peer else None
    traced, compiled = ours["trace_seconds"][0], ours["compile_seconds"][0]
    note = f"traced in {traced:.1f} s, compiled in {compiled:.1f} s"
    bench.add(name, _setting(case), "ms", MS * ours["seconds"], peer, note=note)


def _add_memory(bench: Bench, name: str, where: str, values: dict[str, np.ndarray]) -> None:
    """The row of the largest memory: the device's where it has its own, else the process's."""
    on_device = "device_bytes" in values
    largest = GB * np.max(values["device_bytes" if on_device else "peak_bytes"])
    note = "of the device, largest" if on_device else "resident, largest, compiler included"
    bench.add(name, where, "GB", largest, note=note)

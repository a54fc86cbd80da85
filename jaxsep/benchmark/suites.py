"""What is measured: groups of cases as plain data, each with the function of `rows` for its results.

A group's cases are measured in turn, a process for each, so that what slows the machine down for a while slows all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jaxsep.benchmark import scaling as reach
from jaxsep.benchmark.flops import frames, network_flops
from jaxsep.benchmark.processes import Results
from jaxsep.benchmark.rows import (
    compile_rows,
    loop_rows,
    memory_rows,
    mixture_rows,
    paper_rows,
    peer_rows,
    scale_rows,
    setting,
)
from jaxsep.benchmark.table import Row

SAMPLE_RATE = 8000
# As many as WSJ0-2mix has training speakers and ESC-50 classes.
CLASSES = 151

PAPER = {
    "out_channels": 128,
    "in_channels": 512,
    "num_blocks": 8,
    "upsampling_depth": 5,
    "enc_kernel_size": 41,
    "enc_num_basis": 512,
    "num_sources": 2,
}
IMPROVED = {**PAPER, "enc_kernel_size": 21}
# The network of configs/*.py:cpu.
CPU = {
    "out_channels": 64,
    "in_channels": 128,
    "num_blocks": 4,
    "upsampling_depth": 4,
    "enc_kernel_size": 41,
    "enc_num_basis": 128,
    "num_sources": 2,
}
SMALL = {
    "out_channels": 8,
    "in_channels": 16,
    "num_blocks": 1,
    "upsampling_depth": 1,
    "enc_kernel_size": 41,
    "enc_num_basis": 16,
    "num_sources": 2,
}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured. seconds, long_seconds: of a mixture; loop_*: the training loop fed by batches;
    hours: of packed corpora."""

    original: dict[str, Any] = field(default_factory=PAPER.copy)
    improved: dict[str, Any] = field(default_factory=IMPROVED.copy)
    batch: int = 4
    large_batch: int = 28
    huge_batch: int = 256
    seconds: float = 4.0
    long_seconds: float = 16.0
    mixtures: int = 200
    loop_network: dict[str, Any] = field(default_factory=CPU.copy)
    loop_batch: int = 16
    loop_seconds: float = 1.0
    loop_steps: int = 60
    hours: tuple[int, ...] = (10, 100, 1000)


FULL = Scale()
TINY = Scale(
    original=SMALL,
    improved={**SMALL, "enc_kernel_size": 21},
    batch=2,
    large_batch=3,
    huge_batch=5,
    seconds=0.25,
    long_seconds=0.5,
    mixtures=8,
    loop_network=SMALL,
    loop_batch=2,
    loop_seconds=0.25,
    loop_steps=6,
    hours=(1, 2),
)


@dataclass(frozen=True)
class Group:
    """members: name -> case, measured in turn, or with afresh each in a new process per repetition (see `processes`).
    rows: what becomes of the results."""

    title: str
    members: dict[str, dict[str, Any]]
    rows: Callable[[Results], list[Row]]
    afresh: bool = False


def suite(name: str, scale: Scale = FULL, *, repeats: int, peer: bool, folder: str) -> list[Group]:
    """The groups of a suite. peer: measure the peer beside us; folder: for packed sound, shared by the groups."""
    return SUITES[name](scale, repeats, peer, folder)


def case(
    kind: str, family: str, network: dict[str, Any], batch: int, seconds: float, **more: Any
) -> dict[str, Any]:
    """What a worker of ours is asked."""
    shape = {
        "family": family,
        "network": network,
        "batch": batch,
        "seconds": seconds,
        "sample_rate": SAMPLE_RATE,
    }
    return {"side": "ours", "kind": kind, **shape, **more}


def sides(ours: dict[str, Any], peer: bool) -> dict[str, dict[str, Any]]:
    """A case of ours, and the same for the peer where it is measured."""
    return {"ours": ours, **({"peer": {**ours, "side": "peer"}} if peer else {})}


def _train(scale: Scale, repeats: int, peer: bool, folder: str) -> list[Group]:
    ours = case("train", "original", scale.original, scale.batch, scale.seconds)
    improved = case("train", "improved", scale.improved, scale.batch, scale.seconds)
    small = {**ours, "network": {**scale.original, "dtype": "bfloat16"}}
    samples = round(scale.seconds * SAMPLE_RATE)
    rows = scale.batch * frames("original", scale.original, samples)
    shapes = {
        "rows": rows,
        "narrow": scale.original["out_channels"],
        "wide": scale.original["in_channels"],
    }
    flops = network_flops(
        "original", scale.original, batch=scale.batch, num_samples=samples, train=True
    )
    batches = {
        "ours": ours,
        "longer": {**ours, "seconds": scale.long_seconds},
        "larger": {**ours, "batch": scale.large_batch},
    }
    weigh = {"side": "ours", "kind": "weightings", "batch": scale.large_batch, "classes": CLASSES}
    weigh["sources"] = scale.original["num_sources"]
    return [
        Group(
            "train: paper's network",
            {
                **sides(ours, peer),
                "bfloat16": small,
                "products": {"side": "ours", "kind": "products", **shapes},
            },
            partial(paper_rows, ours, shapes, flops),
        ),
        Group(
            "train: improved network",
            sides(improved, peer),
            partial(peer_rows, "train", "step, improved network", improved),
        ),
        Group(
            "train: lengths and batches",
            {**batches, "weightings": weigh},
            partial(scale_rows, batches),
        ),
    ]


def _forward(scale: Scale, repeats: int, peer: bool, folder: str) -> list[Group]:
    chosen = [
        ("paper's network", case("forward", "original", scale.original, 1, scale.seconds)),
        (
            "paper's network",
            case("forward", "original", scale.original, scale.batch, scale.seconds),
        ),
        (
            "improved network",
            case("forward", "improved", scale.improved, scale.batch, scale.seconds),
        ),
    ]
    return [
        Group(
            f"forward: {name}, {setting(ours)}",
            sides(ours, peer),
            partial(peer_rows, "forward", name, ours),
        )
        for name, ours in chosen
    ]


def _drawn(scale: Scale, folder: str) -> dict[str, Any]:
    shape = {
        "batch": scale.batch,
        "seconds": scale.seconds,
        "sample_rate": SAMPLE_RATE,
        "mixtures": scale.mixtures,
    }
    return {"side": "ours", "kind": "mixtures", **shape, "folder": folder}


def _data(scale: Scale, repeats: int, peer: bool, folder: str) -> list[Group]:
    drawn = _drawn(scale, folder)
    steps = max(1, scale.loop_steps // repeats)
    fed = case(
        "loop",
        "original",
        scale.loop_network,
        scale.loop_batch,
        scale.loop_seconds,
        folder=folder,
        steps=steps,
    )
    return [
        Group("data: mixtures", {"ours": drawn}, partial(mixture_rows, drawn)),
        Group("data: training loop", {"ours": fed}, partial(loop_rows, fed)),
    ]


def _compile(scale: Scale, repeats: int, peer: bool, folder: str) -> list[Group]:
    ours = case("compile", "original", scale.original, scale.batch, scale.seconds)
    rows = partial(compile_rows, setting(ours))
    return [Group("compile: training step", {"cold": ours, "cached": ours}, rows, afresh=True)]


def _memory(scale: Scale, repeats: int, peer: bool, folder: str) -> list[Group]:
    plain = case("train", "original", scale.original, scale.large_batch, scale.seconds)
    remat = {**plain, "network": {**scale.original, "remat": True}}
    return [Group("memory: remat", {"remat": remat, "plain": plain}, partial(memory_rows, plain))]


def _reach(scale: Scale, repeats: int, peer: bool, folder: str) -> list[Group]:
    ours = case("train", "original", scale.original, scale.batch, scale.seconds)
    parts = {
        str(size): {
            **ours,
            "batch": size,
            "seconds": scale.loop_seconds,
            "micro_batch": scale.batch,
        }
        for size in (scale.large_batch, scale.huge_batch)
    }
    drawn = _drawn(scale, folder)
    opened = reach.corpora(scale.hours, SAMPLE_RATE, folder)
    return [
        Group("reach: batches in parts", parts, partial(reach.part_rows, parts)),
        Group(
            "reach: a node", {"ours": ours, "drawn": drawn}, partial(reach.node_rows, ours, drawn)
        ),
        Group("reach: corpora", opened, partial(reach.corpus_rows, opened), afresh=True),
    ]


SUITES: dict[str, Callable[[Scale, int, bool, str], list[Group]]] = {
    "train": _train,
    "forward": _forward,
    "data": _data,
    "compile": _compile,
    "memory": _memory,
    "reach": _reach,
}

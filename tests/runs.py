"""Small real runs for the tests: the command's arguments, processes, and what a run left behind;
and a small network."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxsep import models
from jaxsep.training.build import build
from jaxsep.training.devices import Devices
from jaxsep.training.loop import Trainer
from jaxsep.training.workdir import read_config

ROOT = Path(__file__).resolve().parents[1]
# A network and mixtures so small that a run is mostly compilation: 5 steps in each of 2 epochs.
SMALL = {
    "data.segment_seconds": 0.25,
    "data.mixtures_val": 10,
    "data.mixtures_test": 30,
    "train.batch_size": 4,
    "train.mixtures_per_epoch": 22,
    "train.num_epochs": 2,
    "train.log_every": 2,
    "train.ema_decay": 0.9,
    "model.out_channels": 8,
    "model.in_channels": 12,
    "model.num_blocks": 1,
    "model.upsampling_depth": 2,
    "model.enc_num_basis": 16,
    "evaluation.last_epochs": 1,
    "evaluation.batch_size": 8,
}
# With a memory, which must be saved and restored.
FACTORS = {"weighting.factors": "('class_bias','group_dro')"}

# Of a network that is quick to compile.
FIELDS = {
    "out_channels": 8,
    "in_channels": 12,
    "num_blocks": 1,
    "upsampling_depth": 2,
    "enc_kernel_size": 21,
    "enc_num_basis": 16,
    "num_sources": 2,
}


def network(family: str, **changes):
    """(module, random parameters) of a small network; nothing is compiled."""
    module = models.create(family, **FIELDS | changes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 256), np.float32))
    rng = np.random.default_rng(0)
    return module, jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes["params"]
    )


def arguments(workdir: Path, **fields) -> list[str]:
    """Arguments of jaxsep.main for a small run; fields as section__field=value."""
    values = SMALL | FACTORS | {name.replace("__", "."): value for name, value in fields.items()}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    return ["--config", str(ROOT / "configs/product.py"), "--workdir", str(workdir), *flags]


def start(workdir: Path, **fields) -> subprocess.Popen:
    """A small run in a process of its own."""
    command = [sys.executable, "-m", "jaxsep.main", *arguments(workdir, **fields)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def wait_for(path: Path, text: str, process: subprocess.Popen) -> None:
    """Wait until a file holds a text that a process writes."""
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, f"no {text} in {path}"
        time.sleep(0.01)


def records(workdir: Path, kind: str) -> list[dict]:
    """The records of metrics.jsonl of one kind."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def summary(workdir: Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


def assert_same(state, other):
    """Equal bit for bit, leaf by leaf."""
    for (path, leaf), twin in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(other), strict=True
    ):
        np.testing.assert_array_equal(leaf, twin, err_msg=jax.tree_util.keystr(path))


def assert_same_run(workdir: Path, other: Path) -> None:
    """The same state, records and results, bit for bit; only timings may differ."""
    assert_same(last_state(workdir), last_state(other))
    for kind in ("train", "val", "test"):
        ours, theirs = (
            [
                {k: v for k, v in record.items() if k not in ("step_seconds", "wait_seconds")}
                for record in records(folder, kind)
            ]
            for folder in (workdir, other)
        )
        assert ours == theirs
    for name in ("test", "test_last", "test_last_epochs", "val", "best"):
        assert summary(workdir)[name] == summary(other)[name]


def last_state(workdir: Path):
    """The state in checkpoints/last of a run."""
    trainer = Trainer(build(read_config(workdir)), workdir, Devices())
    trainer.close()
    return trainer.state

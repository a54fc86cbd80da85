"""Small real runs for the tests: the command's arguments, and what a run left behind; and a small network."""

import json
from pathlib import Path

import jax
import numpy as np

from jaxsep import models
from jaxsep.training.build import build
from jaxsep.training.devices import Devices
from jaxsep.training.loop import Trainer
from jaxsep.training.workdir import read_config

ROOT = Path(__file__).resolve().parents[1]
# A network and mixtures small enough that a run is mostly compilation.
SMALL = {
    "data.segment_seconds": 0.25,
    "data.mixtures_val": 10,
    "data.mixtures_test": 30,
    "train.batch_size": 4,
    "train.mixtures_per_epoch": 22,
    "train.num_epochs": 2,
    "train.log_every": 2,
    "model.out_channels": 8,
    "model.in_channels": 12,
    "model.num_blocks": 1,
    "model.upsampling_depth": 2,
    "model.enc_num_basis": 16,
    "evaluation.last_epochs": 1,
    "evaluation.batch_size": 8,
}

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
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 256), np.float32))[
        "params"
    ]
    rng = np.random.default_rng(0)
    return module, jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
    )


def arguments(workdir: Path, config: str = "class_bias.py", **fields) -> list[str]:
    """Arguments of jaxsep.main for a small run; fields as section__field=value."""
    values = SMALL | {name.replace("__", "."): value for name, value in fields.items()}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    return ["--config", str(ROOT / "configs" / config), "--workdir", str(workdir), *flags]


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


def last_state(workdir: Path):
    """The state in checkpoints/last of a run."""
    trainer = Trainer(build(read_config(workdir)), workdir, Devices())
    trainer.close()
    return trainer.state

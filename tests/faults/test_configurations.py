"""Random configurations with odd values in up to three fields: each is built, and trains a step, or
is refused by name.

The fields are those of the schema, so that a new one is tried without a change here.
"""

import contextlib
import io
import math
import re
import tempfile
from datetime import timedelta
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import event, given, note
from hypothesis import settings as runs
from hypothesis import strategies as st
from runs import SMALL
from trees import write_tree, write_wsj0

from configs import default
from jaxsep.config.load import load
from jaxsep.config.schema import FIELDS, flatten
from jaxsep.errors import ConfigError, DataError
from jaxsep.main import main
from jaxsep.training.build import Components, build, build_step, fresh_state
from jaxsep.training.devices import Devices

GAMMA = "weighting.gamma"
# Legal values that change what is compiled or computed; every network is small.
SANE = {
    "data.slots": [
        ("speech", "environment"),
        ("speech", "speech"),
        ("speech:0.5,environment:0.5", "environment"),
    ],
    "data.active_counts": [(), (0.5, 0.5)],
    "data.short_clips": ["pad", "skip"],
    "data.premixed_root": ["", "", "", "wsj0"],
    "train.batch_size": [1, 3, 4],
    "train.micro_batch": [0, 0, 1, 3],
    "train.schedule": ["constant", "step", "cosine"],
    "train.ema_decay": [0.0, 0.9],
    "train.clip_norm": [0.0, 5.0],
    "weighting.name": [
        *("uniform", "robust", "curriculum", "class_bias", "cvar", "threshold", "group_dro"),
        *("product", "product"),
    ],
    "weighting.granularity": ["example", "source"],
    "weighting.factors": [("robust", "class_bias"), ("cvar", "group_dro"), ("threshold",)],
    GAMMA: [{"speech": 3.0}, {"speech": 1.0, "c0": -2.0}],
    "loss.improvement": [True, False],
    "loss.zero_mean": [True, False],
    "model.family": ["original", "improved"],
    "model.out_channels": [1, 8],
    "model.enc_kernel_size": [2, 21, 40],
    "model.upsampling_depth": [1, 3],
    "model.dtype": ["float32", "bfloat16"],
    "model.remat": [False, True],
}
# None of them legal and large: whatever is accepted stays small.
# fmt: off
ODD = [
    0, 1, -1, 2, 3, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**400),
    0.0, -0.0, 0.5, -0.5, 1.0, 1e-3, 1e-30, 5e-324, 1e30, 1e39, 1e308, math.nan, math.inf,
    -math.inf, True, False, None, 1j, b"speech",
    "", " ", "x", "mean", "q05", "q5", "c1", "speech", "step", "cosine",
    "a:b", "os:path", "flax.linen:Dense", "/proc/nowhere",
    "\0", "two\nlines", "é\udcff", "%s{}", "x" * 5000,
    (), (0,), (1.0,), (0.5, 0.5), (0.2, 0.2), (math.nan, 1.0), (1, 0), (1e-30, 1e30),
    ("speech",), ("speech",) * 9, ("speech:2", "environment"), ("music", "speech"),
    ("speech:nan", "speech"), ("speech", ""), (("speech",), "x"), ["speech", "environment"],
    {}, {"speech": 1.0}, {"nobody": 1.0}, {"speech": math.nan}, {"speech": 1e39}, {"a": {"b": 1}},
]
# fmt: on
NAMED = re.compile(r"\b(seed|scale|(data|train|weighting|loss|model|evaluation)\.\w+)")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("recordings")
    write_tree(root / "speech")
    write_tree(root / "environment")
    write_wsj0(root / "wsj0")
    return root


def fields_of(recordings: Path, changed: dict[str, object]) -> dict[str, object]:
    """{'section.field': value} of a small configuration with recordings, and what is changed."""
    flat = flatten(default.get_config("demo").to_dict()) | SMALL | {GAMMA: {"speech": 3.0}}
    flat |= {f"data.{name}_root": str(recordings / name) for name in ("speech", "environment")}
    flat |= {"data.cache_dir": str(recordings / "cache")} | changed
    if flat["data.premixed_root"] == "wsj0":
        flat["data.premixed_root"] = str(recordings / "wsj0")
    return flat


@st.composite
def changes(draw, most: int) -> dict[str, object]:
    """Values of some fields: sane ones of several, odd ones of up to `most`.

    A field may be unknown, or missing: its value is then `...`.
    """
    chosen = {
        name: draw(st.sampled_from(SANE[name]))
        for name in draw(st.sets(st.sampled_from(sorted(SANE)), max_size=5))
    }
    for name in draw(
        st.lists(st.sampled_from([*sorted(FIELDS), "train.batchsize"]), max_size=most, unique=True)
    ):
        chosen[name] = draw(st.sampled_from([*ODD, ...]))
    return chosen


def write_config(folder: Path, flat: dict[str, object]) -> Path:
    """A config file of these fields, those that are ... left out."""
    nested: dict[str, dict] = {}
    for name, value in flat.items():
        *section, field = name.split(".")
        if value is not ...:
            (nested.setdefault(section[0], {}) if section else nested)[field] = value
    path = folder / "mine.py"
    header = "from ml_collections import ConfigDict\n\nnan, inf = float('nan'), float('inf')\n"
    text = f"{header}\n\ndef get_config():\n    return ConfigDict({nested!r})\n"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def refused(config: Path, workdir: Path, message: str) -> None:
    """The command says the same, with status 2, before it writes anything."""
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(io.StringIO()):
        status = main(["--config", str(config), "--workdir", str(workdir)])
    assert status == 2
    assert shown.getvalue() == f"error: {message}\n"
    assert NAMED.search(message), message
    assert len(message) < 20000
    assert not workdir.exists()


def one_step(parts: Components) -> None:
    """A real step on a real batch, whose results are all finite."""
    devices, train = Devices(), parts.config.train
    batches = parts.pipeline.train_batches(
        devices,
        seed=parts.config.seed,
        batch_size=train.batch_size,
        mixtures_per_epoch=train.mixtures_per_epoch,
        workers=train.workers,
    )
    with contextlib.closing(batches):
        _, _, batch = next(batches)
        before = devices.replicate(fresh_state(parts))
        step = devices.train_step(build_step(parts, devices))
        state, metrics = step(before, batch, np.int32(train.num_epochs - 1))
    assert all(np.isfinite(value) for value in jax.device_get(metrics).values()), metrics
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jax.device_get(state.params)))


def check(recordings: Path, changed: dict[str, object], *, train: bool) -> None:
    note(repr(changed))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # data.cache_dir="x"
        config = write_config(Path(folder), fields_of(recordings, changed))
        try:
            parts = build(load(str(config)))
        except (ConfigError, DataError) as error:
            event("refused")
            refused(config, Path(folder) / "run", str(error))
            return
        event("accepted")
        if train:
            one_step(parts)


@runs(max_examples=40, deadline=timedelta(seconds=120))
@given(changed=changes(most=3))
def test_odd_configurations_are_built_or_refused_by_name(recordings, changed):
    check(recordings, changed, train=False)


@pytest.mark.slow
@runs(max_examples=50, deadline=timedelta(seconds=300))
@given(changed=changes(most=2))
def test_many_configurations_train_a_step_or_are_refused_by_name(recordings, changed):
    check(recordings, changed, train=True)

"""What a training run survives: non-finite losses, a full disk, a second run in its folder."""

import csv
import hashlib
import json
import signal

import jax
import numpy as np
import pytest
from limits import fill, small_disk
from runs import arguments, assert_same, last_state, records, start, summary, wait_for

from jaxsep.config import load as settings
from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.main import main
from jaxsep.training import checkpoint
from jaxsep.training.build import build, fresh_state
from jaxsep.training.workdir import read_config

pytestmark = pytest.mark.usefixtures("pack_cache")
# A network that divides by zero for some mixtures, by their largest sample.
FRAGILE = """
import jax.numpy as jnp
from flax import linen as nn


class Fragile(nn.Module):
    num_sources: int

    @nn.compact
    def __call__(self, mixture):
        masks = nn.sigmoid(nn.Conv(self.num_sources, (9,))(mixture[..., None]))
        peak = jnp.max(jnp.abs(mixture), axis=-1)
        divisor = jnp.where(WHERE, 0.0, 1.0)[:, None, None]
        return jnp.swapaxes(masks * mixture[..., None], -1, -2) / divisor
"""


def strictly(text):
    """JSON without the NaN and Infinity that Python would let pass."""

    def refuse(constant):
        raise AssertionError(f"{constant} in {text:.200}")

    return json.loads(text, parse_constant=refuse)


def fragile(folder, monkeypatch, name, where):
    """The family of a network in folder/NAME.py that fails where an expression of `peak` holds."""
    (folder / f"{name}.py").write_text(FRAGILE.replace("WHERE", where))
    monkeypatch.syspath_prepend(folder)
    return f"{name}:Fragile"


def peaks_of_training(workdir):
    """[epochs, mixtures] largest sample of each training mixture, by the data pipeline itself."""
    words = arguments(workdir)
    config = settings.load(words[1], [word for word in words if word.startswith("--config.")])
    pool = build(config).pipeline.pools["train"]
    used = config.train.mixtures_per_epoch // config.train.batch_size * config.train.batch_size
    epochs = [
        render(pool, draw(pool, config.seed, epoch, np.arange(used)))["mixture"]
        for epoch in range(config.train.num_epochs)
    ]
    return np.abs(epochs).max(axis=-1)


def test_a_run_survives_steps_with_a_non_finite_loss_and_replays_them(
    tmp_path, monkeypatch, capsys
):
    """The second step of the first epoch, and the last of all: behind it none is dispatched."""
    workdir, peaks = tmp_path / "run", peaks_of_training(tmp_path / "run")
    bad = np.zeros(peaks.shape, bool)
    bad[0, 6] = bad[1, 17] = bad[1, 19] = True
    where = " | ".join(f"(jnp.abs(peak - {peak}) < 1e-5)" for peak in peaks[bad])
    family = fragile(tmp_path, monkeypatch, "sometimes", where)
    assert main(arguments(workdir, model__family=family)) == 0
    said = capsys.readouterr().err
    assert said.count("skipped: non-finite loss or gradient") == 2
    places = [(0, 1), (1, 4)]
    logged = records(workdir, "skipped")
    assert [(record["epoch"], record["first_mixture"] // 4) for record in logged] == places
    assert [record["step"] for record in logged] == [5 * epoch + step + 1 for epoch, step in places]
    assert summary(workdir)["training"]["skipped"] == len(places)
    assert [line["skipped"] for line in records(workdir, "train")] == [1, 0, 0, 0, 0, 1]
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        strictly(line)
    strictly((workdir / "summary.json").read_text())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last_state(workdir)))

    # What is kept of a step is the state when it was looked at: after the step that followed, or
    # after itself where it was the last of an epoch.
    kept = sorted(path.name for path in (workdir / "skipped").iterdir() if path.is_dir())
    assert kept == ["epoch1-step2", "epoch2-step5"]
    end = last_state(workdir)
    state, place = checkpoint.read(workdir / "skipped" / "epoch2-step5", end)
    assert place == {"epoch": 1, "step": 4}
    assert_same(state, end)
    state, _ = checkpoint.read(workdir / "skipped" / "epoch1-step2", end)
    assert int(state.step) == 3
    counts = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == np.int32]
    assert [int(count) for count in counts] == [2] * len(counts), "without the skipped step"

    replay = ["--mode", "replay", "--workdir", str(workdir), f"--config.model.family={family}"]
    assert main([*replay, "--config.data.max_snr_db=1.0"]) == 2
    assert "--mode replay takes only" in capsys.readouterr().err
    assert main(replay) == 0
    shown = capsys.readouterr().out
    assert "not finite: mixture 6\n" in shown
    assert "not finite: mixture 17, 19\n" in shown


def test_a_run_ends_when_too_many_steps_in_a_row_are_skipped(tmp_path, monkeypatch, capsys):
    """After the step that was dispatched when the third was found to be skipped."""
    family, workdir = fragile(tmp_path, monkeypatch, "always", "peak > 0"), tmp_path / "run"
    options = {"model__family": family, "train__max_skipped": 3, "train__mixtures_per_epoch": 40}
    for times in (1, 2):
        assert main(arguments(workdir, **options)) == 1
        error = capsys.readouterr().err
        assert "error: 3 steps in a row had a non-finite loss or gradient" in error
        assert len(records(workdir, "skipped")) == 4 * times
        assert records(workdir, "train") == []
        state, components = last_state(workdir), build(read_config(workdir))
        assert int(state.step) == 4 * times
        assert_same(state.params, fresh_state(components).params)


def test_a_second_run_in_the_folder_is_refused(tmp_path, capsys):
    workdir = tmp_path / "run"
    first = start(workdir)
    wait_for(workdir / "metrics.jsonl", '"step": 2,', first)
    first.send_signal(signal.SIGSTOP)
    before = {path.name: path.stat().st_mtime_ns for path in workdir.iterdir() if path.is_file()}
    assert main(arguments(workdir)) == 2
    error = capsys.readouterr().err
    assert f"another run is at work there (process {first.pid} on " in error
    after = {path.name: path.stat().st_mtime_ns for path in workdir.iterdir() if path.is_file()}
    assert after == before
    first.kill()
    first.communicate(timeout=60)


def contents(folder):
    """File -> SHA-256 of all files below a folder but the lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.slow
def test_a_disk_that_fills_up_while_training_costs_the_steps_since_the_checkpoint(tmp_path):
    fields = {"train__mixtures_per_epoch": 200}
    assert main(arguments(tmp_path / "undisturbed", **fields)) == 0
    with small_disk(tmp_path / "disk", 20_000) as disk:
        workdir = disk / "run"
        process = start(workdir, **fields)
        wait_for(workdir / "metrics.jsonl", '"step": 54,', process)
        process.send_signal(signal.SIGSTOP)  # in the second epoch: the next checkpoint is far
        fill(disk)
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1, output
        assert "error: " in output
        assert "Traceback" not in output, output
        (disk / "filler").unlink()
        assert int(last_state(workdir).step) == 50
        assert main(arguments(workdir, **fields)) == 0
        assert_same(last_state(workdir), last_state(tmp_path / "undisturbed"))
        assert summary(workdir)["test"] == summary(tmp_path / "undisturbed")["test"]


def test_a_disk_that_is_full_at_the_start_or_the_end_costs_nothing(tmp_path, capsys):
    with small_disk(tmp_path / "disk", 20_000) as disk:
        workdir = disk / "run"
        fill(disk)
        assert main(arguments(workdir)) == 2
        message = f"error: --workdir {workdir} cannot be written: No space left on device"
        assert message in capsys.readouterr().err
        (disk / "filler").unlink()
        assert main(arguments(workdir)) == 0

        results = summary(workdir)
        (workdir / "summary.json").unlink()
        before = contents(workdir)
        fill(disk)
        assert main(arguments(workdir)) == 2  # config.json, which is written first, says what fails
        error = capsys.readouterr().err
        assert "error: " in error
        assert str(workdir) in error
        assert contents(workdir) == before
        assert main(["--mode", "evaluate", "--workdir", str(workdir)]) == 1
        assert "error: " in capsys.readouterr().err
        (disk / "filler").unlink()
        assert main(arguments(workdir)) == 0
        assert all(summary(workdir)[name] == results[name] for name in ("val", "test", "best"))
        with open(workdir / "evaluation" / "test.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 60

"""What a training run survives: losses that are no numbers, a full disk, a second run in its folder."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from limits import fill, small_disk
from runs import ROOT, arguments, assert_same, last_state, records, summary

from jaxsep.config import load as settings
from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.main import main
from jaxsep.training.build import build, fresh_params
from jaxsep.training.workdir import read_config

pytestmark = pytest.mark.usefixtures("pack_cache")
# A network that divides by nothing for some mixtures, by their largest sample.
FRAGILE = """
import jax.numpy as jnp
from flax import linen as nn


class Fragile(nn.Module):
    num_sources: int

    @nn.compact
    def __call__(self, mixture):
        masks = nn.sigmoid(nn.Conv(self.num_sources, (9,))(mixture[..., None]))
        peak = jnp.max(jnp.abs(mixture), axis=-1)
        return jnp.swapaxes(masks * mixture[..., None], -1, -2) / jnp.where(WHERE, 0.0, 1.0)[:, None, None]
"""


def start(workdir, **fields) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxsep.main", *arguments(workdir, **fields)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path, text, process):
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


def peaks_of_training(workdir, **fields):
    """[epochs, mixtures] largest sample of each training mixture, by the data pipeline itself."""
    words = arguments(workdir, **fields)
    config = settings.load(words[1], [word for word in words if word.startswith("--config.")])
    pool = build(config).sets.pools["train"]
    used = config.train.mixtures_per_epoch // config.train.batch_size * config.train.batch_size
    return np.array(
        [
            np.abs(render(pool, draw(pool, config.seed, epoch, np.arange(used)))["mixture"]).max(
                axis=1
            )
            for epoch in range(config.train.num_epochs)
        ]
    )


def test_a_run_survives_steps_whose_loss_is_no_number_and_replays_them(
    tmp_path, monkeypatch, capsys
):
    peaks = peaks_of_training(tmp_path / "run")
    odd = np.zeros(peaks.shape, bool)
    odd[0, 6] = odd[1, 17] = odd[1, 19] = True
    where = " | ".join(f"(jnp.abs(peak - {peak}) < 1e-5)" for peak in peaks[odd])
    family, workdir = fragile(tmp_path, monkeypatch, "sometimes", where), tmp_path / "run"
    assert main(arguments(workdir, model__family=family)) == 0
    places = [(0, 1), (1, 4)]
    logged = records(workdir, "skipped")
    assert [(record["epoch"], record["first_mixture"] // 4) for record in logged] == places
    assert [record["step"] for record in logged] == [5 * epoch + step + 1 for epoch, step in places]
    assert summary(workdir)["training"]["skipped"] == len(places)
    assert sum(record["skipped"] for record in records(workdir, "train")) == len(places)
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        strictly(line)
    strictly((workdir / "summary.json").read_text())
    for leaf in jax.tree.leaves(last_state(workdir)):
        assert np.isfinite(leaf).all()
    kept = sorted(path.name for path in (workdir / "skipped").iterdir() if path.is_dir())
    assert kept == sorted(f"epoch{epoch + 1}-step{step + 1}" for epoch, step in places)
    capsys.readouterr()
    assert (
        main(["--mode", "replay", "--workdir", str(workdir), f"--config.model.family={family}"])
        == 0
    )
    shown = capsys.readouterr().out
    assert shown.count("loss nan dB, gradient norm nan: skipped again") == len(places)
    assert "no numbers from mixture 6\n" in shown
    assert "no numbers from mixture 17, 19\n" in shown
    assert shown.count("not finite") == 3


def test_a_run_ends_when_too_many_steps_in_a_row_have_no_numbers(tmp_path, monkeypatch, capsys):
    family, workdir = fragile(tmp_path, monkeypatch, "always", "peak > 0"), tmp_path / "run"
    options = {"model__family": family, "train__max_skipped": 3, "train__mixtures_per_epoch": 40}
    for times in (1, 2):
        assert main(arguments(workdir, **options)) == 1
        assert (
            "error: 3 steps in a row had a loss or gradient that is no number"
            in capsys.readouterr().err
        )
        assert len(records(workdir, "skipped")) == 3 * times
        assert records(workdir, "train") == []
        state = last_state(workdir)
        assert int(state.step) == 3 * times
        assert_same(state.params, fresh_params(build(read_config(workdir))))


def test_a_second_run_in_the_folder_is_refused_and_a_killed_one_leaves_no_lock(tmp_path, capsys):
    workdir = tmp_path / "run"
    first = start(workdir)
    wait_for(workdir / "metrics.jsonl", '"step": 2,', first)
    before = {path.name: path.stat().st_mtime_ns for path in workdir.iterdir() if path.is_file()}
    first.send_signal(signal.SIGSTOP)
    assert main(arguments(workdir)) == 2
    error = capsys.readouterr().err
    assert f"another run is at work there (process {first.pid} on " in error
    assert {
        path.name: path.stat().st_mtime_ns for path in workdir.iterdir() if path.is_file()
    }.items() >= before.items()
    first.kill()
    first.communicate(timeout=60)
    assert main(arguments(workdir)) == 0
    assert summary(workdir)["training"]["steps"] == 10


def contents(folder):
    """File -> SHA-256 of everything below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_a_disk_that_fills_up_while_training_costs_no_more_than_the_steps_since_the_checkpoint(
    tmp_path, capsys
):
    assert main(arguments(tmp_path / "undisturbed", train__mixtures_per_epoch=200)) == 0
    with small_disk(tmp_path / "disk", 20_000) as disk:
        workdir = disk / "run"
        process = start(workdir, train__mixtures_per_epoch=200)
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
        assert main(arguments(workdir, train__mixtures_per_epoch=200)) == 0
        assert_same(last_state(workdir), last_state(tmp_path / "undisturbed"))
        assert summary(workdir)["test"] == summary(tmp_path / "undisturbed")["test"]


def test_a_run_whose_disk_is_full_from_the_start_begins_when_there_is_room(tmp_path, capsys):
    with small_disk(tmp_path / "disk", 20_000) as disk:
        fill(disk)
        assert main(arguments(disk / "run", train__num_epochs=1)) == 2
        assert (
            f"error: --workdir {disk / 'run'} cannot be written: No space left on device"
            in capsys.readouterr().err
        )
        (disk / "filler").unlink()
        assert main(arguments(disk / "run", train__num_epochs=1)) == 0


def test_a_disk_that_is_full_when_results_are_written_leaves_the_earlier_ones(tmp_path, capsys):
    with small_disk(tmp_path / "disk", 20_000) as disk:
        workdir = disk / "run"
        assert main(arguments(workdir)) == 0
        results = summary(workdir)
        (workdir / "summary.json").unlink()
        before = contents(workdir)
        fill(disk)
        capsys.readouterr()
        assert (
            main(arguments(workdir)) == 2
        )  # config.json, written first, names what may change in a run
        error = capsys.readouterr().err
        assert "error: " in error
        assert str(workdir) in error
        after = contents(workdir)
        assert {name: after.get(name) for name in before if name != "lock"} == {
            name: digest for name, digest in before.items() if name != "lock"
        }
        assert main(["--mode", "evaluate", "--workdir", str(workdir)]) == 1
        assert "error: " in capsys.readouterr().err
        (disk / "filler").unlink()
        assert main(arguments(workdir)) == 0
        assert {name: summary(workdir)[name] for name in ("val", "test", "best")} == {
            name: results[name] for name in ("val", "test", "best")
        }
        with open(workdir / "evaluation" / "test.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 60


def test_the_number_of_workers_and_a_process_of_its_own_change_no_bit(tmp_path):
    assert main(arguments(tmp_path / "one")) == 0
    process = start(tmp_path / "three", train__workers=3)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_same(last_state(tmp_path / "one"), last_state(tmp_path / "three"))
    assert summary(tmp_path / "one")["test"] == summary(tmp_path / "three")["test"]

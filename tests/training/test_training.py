"""Whole runs on real files in real processes: interrupted, killed, extended, started from models, on premixed sets."""

import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soundfile
from runs import ROOT, arguments, assert_same, last_state, records, summary

import jaxsep
from jaxsep.main import main
from jaxsep.training.build import build, fresh_params
from jaxsep.training.checkpoint import has_checkpoint
from jaxsep.training.workdir import read_config

pytestmark = pytest.mark.usefixtures("pack_cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pack_cache):
    """An undisturbed run of two epochs, with a moving average."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    assert main(arguments(workdir, train__ema_decay=0.9)) == 0
    return workdir


def test_a_run_leaves_what_the_design_says(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "recipes",
        "evaluation",
        "summary.json",
        "model",
    } <= names
    found = summary(finished)
    assert found["data"]["kind"] == "synthetic"
    assert set(found) >= {"test", "test_last", "test_last_epochs", "val", "best"}
    assert {"combined", "speech", "environment"} < set(found["test"]["si_sdri"])
    assert found["test"]["si_sdri"]["combined"]["n"] == 60
    assert found["training"]["steps"] == 10  # floor(22 / 4) steps in each of two epochs
    with open(finished / "evaluation" / "test.csv") as file:
        assert len(file.readlines()) == 61
    excerpts = sorted((finished / "evaluation" / "audio").iterdir())
    assert len(excerpts) == 25
    audio, rate = soundfile.read(excerpts[0] / "mixture.wav")
    assert (rate, audio.shape) == (8000, (2000,))
    assert (
        len(list(excerpts[0].glob("source*.wav")))
        == len(list(excerpts[0].glob("estimate*.wav")))
        == 2
    )
    assert {
        record["data"] for kind in ("train", "val", "test") for record in records(finished, kind)
    } == {"synthetic"}
    steps = [record["step"] for record in records(finished, "train")]
    assert steps == [2, 4, 5, 6, 8, 10]  # every second step, and the last of an epoch
    assert {"loss", "si_sdri", "grad_norm", "ess", "no_mass", "learning_rate"} < set(
        records(finished, "train")[0]
    )


def test_scores_in_the_table_are_those_of_the_saved_audio(finished):
    """test.csv against SI-SDRi measured from the files in evaluation/audio."""
    import csv

    with open(finished / "evaluation" / "test.csv", newline="") as file:
        rows = {
            (int(row["mixture"]), int(row["slot"])): float(row["si_sdri_db"])
            for row in csv.DictReader(file)
        }
    folder = next((finished / "evaluation" / "audio").glob("median-1-*"))
    index = int(folder.name.split("mixture")[1])
    mixture = soundfile.read(folder / "mixture.wav", dtype="float32")[0]
    for slot in range(2):
        source = soundfile.read(next(folder.glob(f"source{slot + 1}-*.wav")), dtype="float32")[0]
        estimate = soundfile.read(folder / f"estimate{slot + 1}.wav", dtype="float32")[0]
        improvement = jaxsep.si_sdr(estimate, source) - jaxsep.si_sdr(mixture, source)
        assert improvement == pytest.approx(rows[index, slot], abs=0.05)


def test_bundle_separates_as_the_evaluation_did(finished):
    folder = next((finished / "evaluation" / "audio").glob("best-5-*"))
    mixture = soundfile.read(folder / "mixture.wav", dtype="float32")[0]
    estimates = jaxsep.load(finished)(mixture, 8000)
    saved = np.stack(
        [soundfile.read(folder / f"estimate{n}.wav", dtype="float32")[0] for n in (1, 2)]
    )
    pairwise = jaxsep.pairwise_si_sdr(estimates, saved)
    assert np.max(pairwise, axis=1).min() > 60


def test_bundle_says_what_it_is(finished):
    description = json.loads((finished / "model" / "model.json").read_text())
    assert description["family"] == "original"
    assert (
        description["fields"].items()
        >= {"num_sources": 2, "num_blocks": 1, "enc_num_basis": 16}.items()
    )
    assert (description["sample_rate"], description["num_sources"]) == (8000, 2)
    assert description["normalisation"] == "mixture: zero mean, unit standard deviation"
    assert {"rain", "test00"} <= set(description["classes"])
    assert description["training"] == summary(finished)["training"]
    assert description["jaxsep"] == jaxsep.__version__


def start(workdir, **fields) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxsep.main", *arguments(workdir, **fields)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    ("number", "status", "step", "minutes"),
    [
        (signal.SIGTERM, 143, 2, 10),
        (signal.SIGINT, 130, 6, 10),
        (signal.SIGKILL, -9, 6, 10),
        (signal.SIGKILL, -9, 8, 1e-9),
    ],
)
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    finished, tmp_path, number, status, step, minutes
):
    """Stopped after a step of the first or second epoch; with a checkpoint after every epoch, and after every step."""
    workdir = tmp_path / "run"
    process = start(workdir, train__ema_decay=0.9, train__checkpoint_minutes=minutes)
    deadline = time.monotonic() + 120
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    if number != signal.SIGKILL:
        assert "saved at step" in output
    assert not (workdir / "summary.json").exists()
    assert main(arguments(workdir, train__ema_decay=0.9)) == 0
    assert_same(last_state(workdir), last_state(finished))
    for kind in ("train", "val", "test"):
        ours, theirs = records(workdir, kind), records(finished, kind)
        timing = {"examples_per_s", "wait_share"}
        assert [{k: v for k, v in r.items() if k not in timing} for r in ours] == [
            {k: v for k, v in r.items() if k not in timing} for r in theirs
        ]
    same = {
        name: summary(workdir)[name]
        for name in ("test", "test_last", "test_last_epochs", "val", "best")
    }
    assert same == {name: summary(finished)[name] for name in same}


def test_epochs_may_be_added_and_nothing_is_done_twice(finished, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main(arguments(workdir, train__ema_decay=0.9, train__num_epochs=1)) == 0
    assert summary(workdir)["training"]["steps"] == 5
    assert main(arguments(workdir, train__ema_decay=0.9)) == 0
    assert len(list((workdir / "evaluation" / "audio").iterdir())) == 25
    assert_same(last_state(workdir), last_state(finished))
    capsys.readouterr()
    before = (workdir / "summary.json").stat().st_mtime_ns
    assert main(arguments(workdir, train__ema_decay=0.9)) == 0
    assert (workdir / "summary.json").stat().st_mtime_ns == before
    assert "combined" in capsys.readouterr().out


def test_the_memory_of_a_weighting_is_in_the_checkpoint(tmp_path):
    """A run of two epochs, and one that got its second epoch later, end alike."""
    factors = {"weighting__factors": "('robust','group_dro')"}
    assert main(arguments(tmp_path / "whole", "product.py", **factors)) == 0
    assert main(arguments(tmp_path / "later", "product.py", train__num_epochs=1, **factors)) == 0
    after_one = last_state(tmp_path / "later").weighting[1]
    assert main(arguments(tmp_path / "later", "product.py", **factors)) == 0
    whole, later = last_state(tmp_path / "whole"), last_state(tmp_path / "later")
    assert_same(whole, later)
    assert np.ptp(after_one) > 0
    assert np.any(np.asarray(whole.weighting[1]) != after_one)
    line = records(tmp_path / "whole", "train")[-1]
    assert 1 <= line["ess"] <= 8
    assert line["weight_speech"] + line["weight_environment"] == pytest.approx(2, rel=1e-4)


def test_another_configuration_in_the_folder_is_refused(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert main(arguments(finished, train__ema_decay=0.9, train__learning_rate=0.5)) == 2
    assert "train.learning_rate: 0.5 now, 0.001 there" in capsys.readouterr().err
    assert {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()
    } == before


def test_micro_batches_change_nothing_but_rounding(tmp_path):
    for name, micro_batch in (("whole", 0), ("parts", 2)):
        assert (
            main(
                arguments(
                    tmp_path / name,
                    "robust.py",
                    train__micro_batch=micro_batch,
                    train__num_epochs=1,
                )
            )
            == 0
        )
    whole, parts = last_state(tmp_path / "whole").params, last_state(tmp_path / "parts").params
    start_params = jax.tree.map(np.asarray, jax.device_get(_initial(tmp_path / "whole")))
    moved = np.sqrt(
        sum(
            np.sum((a - b) ** 2)
            for a, b in zip(*map(jax.tree.leaves, (whole, start_params)), strict=True)
        )
    )
    apart = np.sqrt(
        sum(
            np.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (whole, parts)), strict=True)
        )
    )
    assert moved > 0.05
    assert apart < 0.01 * moved


def _initial(workdir):
    return fresh_params(build(read_config(workdir)))


def test_starts_from_a_trained_run_and_from_published_weights(
    finished, tmp_path, reference_dir, capsys
):
    workdir = tmp_path / "from-run"
    assert main(arguments(workdir, train__init_from=finished, train__learning_rate=1e-12)) == 0
    near, origin = last_state(workdir).params, jaxsep.inference.bundle.load_bundle(finished)[1]
    # Killed before its first checkpoint was complete, it still starts from there.
    assert has_checkpoint(workdir / "checkpoints", "last")
    early = tmp_path / "checkpoints"
    (early / "last" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not has_checkpoint(early, "last")
    for path, leaf in jax.tree.leaves_with_path(near):
        twin = origin
        for key in path:
            twin = twin[key.key]
        np.testing.assert_allclose(leaf, twin, atol=1e-6)
    fields = {
        "family": "improved",
        "out_channels": 16,
        "in_channels": 24,
        "num_blocks": 2,
        "upsampling_depth": 3,
        "enc_kernel_size": 21,
        "enc_num_basis": 32,
    }
    published = reference_dir / "improved_sudormrf_module.pt"
    options = {f"model__{name}": value for name, value in fields.items()}
    assert (
        main(
            arguments(
                tmp_path / "from-pt", train__init_from=published, train__num_epochs=1, **options
            )
        )
        == 0
    )
    for origin in (published, tmp_path / "nothing", tmp_path / "nothing.pt"):
        assert main(arguments(tmp_path / "wrong", train__init_from=origin)) == 2
        assert "error: train.init_from: " in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()


FAMILY = '''
import jax.numpy as jnp
from flax import linen as nn


class Masks(nn.Module):
    """A mask per source and sample from a short convolution."""

    num_sources: int
    width: int = 9

    @nn.compact
    def __call__(self, mixture):
        masks = nn.Conv(self.num_sources, (self.width,))(mixture[..., None])
        return jnp.swapaxes(nn.sigmoid(masks) * mixture[..., None], -1, -2)
'''


def test_trains_any_flax_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "somewhere.py").write_text(FAMILY)
    monkeypatch.syspath_prepend(tmp_path)
    workdir = tmp_path / "run"
    assert main(arguments(workdir, model__family="somewhere:Masks", train__num_epochs=1)) == 0
    assert summary(workdir)["training"]["parameters"] == 2 * 9 + 2
    command = ["--mode", "evaluate", "--workdir", str(workdir)]
    assert main(command) == 2, "its files alone are no reason to run its code"
    assert "--config.model.family=somewhere:Masks allows it" in capsys.readouterr().err
    assert main([*command, "--config.model.family=somewhere:Masks"]) == 0


def test_evaluates_a_finished_run_on_other_data(finished, capsys):
    arguments_ = [
        "--mode",
        "evaluate",
        "--workdir",
        str(finished),
        "--config.data.mixtures_test=12",
    ]
    before = summary(finished)
    assert main(arguments_) == 0
    assert "combined" in capsys.readouterr().out
    (folder,) = (finished / "evaluation").glob("on-*")
    assert (folder / "recipes" / "test.npz").exists()
    assert summary(folder)["test"]["si_sdri"]["combined"]["n"] == 24
    assert summary(finished) == before
    # The same mixtures are the first 12 of the run's own test set: the same rows come out.
    ours = (folder / "test.csv").read_text().splitlines()
    assert ours == (finished / "evaluation" / "test.csv").read_text().splitlines()[:25]


def test_evaluates_on_a_set_that_has_only_a_test_split(finished, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for corpus in ("speech", "environment"):
        for name in ("one", "two"):
            (tmp_path / corpus / "test" / name).mkdir(parents=True)
            soundfile.write(
                tmp_path / corpus / "test" / name / "a.flac", 0.1 * rng.standard_normal(9000), 8000
            )
    roots = [f"--config.data.{name}_root={tmp_path / name}" for name in ("speech", "environment")]
    assert main(["--mode", "evaluate", "--workdir", str(finished), *roots]) == 0
    assert "Test set of recordings" in capsys.readouterr().out
    assert (
        main(["--mode", "evaluate", "--workdir", str(finished), "--config.data.sample_rate=16000"])
        == 2
    )
    assert "data.sample_rate is 16000, the model's is 8000" in capsys.readouterr().err
    assert main(["--mode", "evaluate", "--workdir", str(finished), "--config.seed=4"]) == 2
    assert "seed" in capsys.readouterr().err


def test_sources_that_are_alone_are_reported_apart(tmp_path):
    workdir = tmp_path / "run"
    assert main(arguments(workdir, train__num_epochs=1, data__active_counts="(0.4,0.6)")) == 0
    found = summary(workdir)["test"]
    assert 0 < found["si_sdr_alone"]["n"] < 30
    assert found["si_sdr_alone"]["n"] + found["si_sdri"]["combined"]["n"] // 2 == 30


def test_stops_early_when_patience_ends(tmp_path):
    workdir = tmp_path / "run"
    # A learning rate at which no parameter changes in float32: the first validation stays the best.
    options = {"train__patience": 2, "train__num_epochs": 9, "train__learning_rate": 1e-30}
    assert main(arguments(workdir, **options)) == 0
    assert [record["epoch"] for record in records(workdir, "val")] == [0, 1, 2]
    assert summary(workdir)["training"]["epochs"] == 3


def test_premixed_mixtures_are_all_scored_at_full_length(tmp_path):
    rng = np.random.default_rng(0)
    lengths = {}
    for split, count in (("tr", 6), ("cv", 3), ("tt", 4)):
        for role in ("mix", "s1", "s2"):
            (tmp_path / "set" / split / role).mkdir(parents=True)
        for index in range(count):
            length = int(rng.integers(2100, 6000))
            lengths[split, index] = length
            sources = 0.1 * rng.standard_normal((2, length))
            name = f"{index:03d}a01_1.0_{index + 20:03d}b02_-1.0.wav"
            for role, audio in (("mix", sources.sum(0)), ("s1", sources[0]), ("s2", sources[1])):
                soundfile.write(
                    tmp_path / "set" / split / role / name, audio, 8000, subtype="FLOAT"
                )
    workdir = tmp_path / "run"
    options = {
        "data__premixed_root": tmp_path / "set",
        "weighting__name": "robust",
        "train__num_epochs": 1,
    }
    assert main(arguments(workdir, **options)) == 0
    assert summary(workdir)["test"]["si_sdri"]["combined"]["n"] == 8
    assert summary(workdir)["data"]["kind"] == "recordings"
    excerpts = {
        int(p.name.split("mixture")[1]): soundfile.info(p / "mixture.wav").frames
        for p in (workdir / "evaluation" / "audio").iterdir()
    }
    assert excerpts == {index: lengths["tt", index] for index in range(4)}

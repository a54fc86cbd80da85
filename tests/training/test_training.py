"""Whole runs on real files in real processes: interrupted, killed, extended, started from models,
on premixed sets."""

import csv
import json
import shutil
import signal

import jax
import numpy as np
import pytest
import soundfile
from runs import (
    arguments,
    assert_same,
    assert_same_run,
    last_state,
    records,
    start,
    summary,
    wait_for,
)

import jaxsep
from jaxsep.config import load as settings
from jaxsep.inference.bundle import load_bundle
from jaxsep.main import main
from jaxsep.training.build import build, params_to_start_from

pytestmark = pytest.mark.usefixtures("pack_cache")


def read_signal(folder, name):
    (path,) = folder.glob(f"{name}.wav")
    return soundfile.read(path, dtype="float32")[0]


def test_a_run_leaves_what_the_design_says(finished_run):
    names = {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "recipes"}
    names |= {"evaluation", "summary.json", "model"}
    assert names <= {path.name for path in finished_run.iterdir()}
    results = summary(finished_run)
    assert results["data"]["kind"] == "synthetic"
    assert set(results) >= {"test", "test_last", "test_last_epochs", "val", "best"}
    assert {"combined", "speech", "environment"} < set(results["test"]["si_sdri"])
    assert results["test"]["si_sdri"]["combined"]["n"] == 60
    assert results["training"]["steps"] == 10  # floor(22 / 4) steps in each of two epochs
    assert len((finished_run / "evaluation" / "test.csv").read_text().splitlines()) == 61
    excerpts = sorted((finished_run / "evaluation" / "audio").iterdir())
    assert len(excerpts) == 25
    assert len(list(excerpts[0].iterdir())) == 5
    audio, rate = soundfile.read(excerpts[0] / "mixture.wav")
    assert (rate, audio.shape) == (8000, (2000,))
    for kind in ("train", "val", "test"):
        assert {record["data"] for record in records(finished_run, kind)} == {"synthetic"}
    lines = records(finished_run, "train")
    # Every second step, and the last of an epoch.
    assert [line["step"] for line in lines] == [2, 4, 5, 6, 8, 10]
    assert {"loss", "si_sdri", "grad_norm", "no_mass", "learning_rate"} < set(lines[0])
    assert 1 <= lines[0]["ess"] <= 8
    assert lines[0]["weight_speech"] + lines[0]["weight_environment"] == pytest.approx(2, rel=1e-4)
    (memory,) = jax.tree.leaves(last_state(finished_run).weighting)
    assert np.ptp(memory) > 0


def test_scores_in_the_table_are_those_of_the_saved_audio(finished_run):
    """test.csv against SI-SDRi measured from the files in evaluation/audio."""
    with open(finished_run / "evaluation" / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {(int(row["mixture"]), int(row["slot"])): float(row["si_sdri_db"]) for row in rows}
    folder = next((finished_run / "evaluation" / "audio").glob("median-1-*"))
    index = int(folder.name.split("mixture")[1])
    mixture = read_signal(folder, "mixture")
    for slot in range(2):
        source = read_signal(folder, f"source{slot + 1}-*")
        estimate = read_signal(folder, f"estimate{slot + 1}")
        improvement = jaxsep.si_sdr(estimate, source) - jaxsep.si_sdr(mixture, source)
        assert improvement == pytest.approx(scores[index, slot], abs=0.05)


def test_the_bundle_separates_as_the_evaluation_did_and_says_what_it_is(finished_run):
    folder = next((finished_run / "evaluation" / "audio").glob("best-5-*"))
    estimates = jaxsep.load(finished_run)(read_signal(folder, "mixture"), 8000)
    saved = np.stack([read_signal(folder, f"estimate{n}") for n in (1, 2)])
    assert np.max(jaxsep.pairwise_si_sdr(estimates, saved), axis=1).min() > 60
    description = json.loads((finished_run / "model" / "model.json").read_text())
    assert (description["family"], description["sample_rate"]) == ("original", 8000)
    assert description["fields"]["enc_num_basis"] == 16
    assert {"rain", "test00"} <= set(description["classes"])
    assert description["training"] == summary(finished_run)["training"]


def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(finished_run, tmp_path):
    """Stopped in the first epoch; killed in the second, and sent back to the checkpoint between."""
    workdir = tmp_path / "run"
    for number, status, step, workers in ((signal.SIGINT, 130, 2, 3), (signal.SIGKILL, -9, 6, 1)):
        process = start(workdir, train__workers=workers)
        wait_for(workdir / "metrics.jsonl", f'"step": {step},', process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == status, output
        assert ("saved at step" in output) == (number != signal.SIGKILL)
        assert not (workdir / "summary.json").exists()
    assert main(arguments(workdir)) == 0
    assert_same_run(workdir, finished_run)


def test_epochs_may_be_added_and_nothing_is_done_twice(finished_run, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main(arguments(workdir, train__num_epochs=1)) == 0
    assert summary(workdir)["training"]["steps"] == 5
    assert main(arguments(workdir)) == 0
    assert len(list((workdir / "evaluation" / "audio").iterdir())) == 25
    assert_same(last_state(workdir), last_state(finished_run))
    capsys.readouterr()
    before = (workdir / "summary.json").stat().st_mtime_ns
    assert main(arguments(workdir)) == 0
    assert (workdir / "summary.json").stat().st_mtime_ns == before
    assert "combined" in capsys.readouterr().out


def test_another_configuration_in_the_folder_is_refused(finished_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    assert main(arguments(finished_run, train__learning_rate=0.5)) == 2
    assert "train.learning_rate: 0.5 now, 0.001 there" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def test_starts_from_a_trained_run_and_from_published_weights(
    finished_run, tmp_path, reference_dir, capsys
):
    workdir = tmp_path / "from-run"
    fields = {"train__init_from": finished_run, "train__learning_rate": 1e-12}
    assert main(arguments(workdir, train__num_epochs=1, **fields)) == 0
    origin = load_bundle(finished_run)[1]
    jax.tree.map(
        lambda leaf, twin: np.testing.assert_allclose(leaf, twin, atol=1e-6),
        last_state(workdir).params,
        origin,
    )
    published = reference_dir / "improved_sudormrf_module.pt"
    fields = {"family": "improved", "out_channels": 16, "in_channels": 24, "num_blocks": 2}
    fields |= {"upsampling_depth": 3, "enc_kernel_size": 21, "enc_num_basis": 32}
    options = {f"model__{name}": value for name, value in fields.items()}
    words = arguments(workdir, train__init_from=published, **options)
    assert jax.tree.leaves(params_to_start_from(build(settings.load(words[1], words[4:]))))
    for wrong in (published, tmp_path / "nothing", tmp_path / "nothing.pt"):
        assert main(arguments(tmp_path / "wrong", train__init_from=wrong)) == 2
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


def test_evaluates_a_finished_run_on_other_data(finished_run, tmp_path, capsys):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    command = ["--mode", "evaluate", "--workdir", str(workdir)]
    assert main([*command, "--config.data.mixtures_test=12"]) == 0
    assert "combined" in capsys.readouterr().out
    (folder,) = (workdir / "evaluation").glob("on-*")
    assert (folder / "recipes" / "test.npz").exists()
    assert summary(folder)["test"]["si_sdri"]["combined"]["n"] == 24
    assert summary(workdir) == summary(finished_run)
    # The same mixtures are the first 12 of the run's own test set: the same rows come out.
    rows = (folder / "test.csv").read_text().splitlines()
    assert rows == (workdir / "evaluation" / "test.csv").read_text().splitlines()[:25]

    # A set of recordings that has only a test split.
    rng = np.random.default_rng(0)
    for corpus in ("speech", "environment"):
        for name in ("one", "two"):
            path = tmp_path / corpus / "test" / name / "a.flac"
            path.parent.mkdir(parents=True)
            soundfile.write(path, 0.1 * rng.standard_normal(9000), 8000)
    roots = [f"--config.data.{name}_root={tmp_path / name}" for name in ("speech", "environment")]
    assert main([*command, *roots]) == 0
    assert "Test set of recordings" in capsys.readouterr().out
    for override, message in (
        ("data.sample_rate=16000", "data.sample_rate is 16000, the model's is 8000"),
        ("seed=4", "seed"),
    ):
        assert main([*command, f"--config.{override}"]) == 2
        assert message in capsys.readouterr().err


def test_stops_when_patience_ends_and_reports_sources_that_are_alone_apart(tmp_path):
    workdir = tmp_path / "run"
    # A learning rate at which no parameter changes in float32: the first validation stays the best.
    fields = {"patience": 2, "num_epochs": 9, "learning_rate": 1e-30}
    options = {f"train__{name}": value for name, value in fields.items()}
    assert main(arguments(workdir, data__active_counts="(0.4,0.6)", **options)) == 0
    assert [record["epoch"] for record in records(workdir, "val")] == [0, 1, 2]
    assert summary(workdir)["training"]["epochs"] == 3
    results = summary(workdir)["test"]
    assert 0 < results["si_sdr_alone"]["n"] < 30
    assert results["si_sdr_alone"]["n"] + results["si_sdri"]["combined"]["n"] // 2 == 30


def test_premixed_mixtures_are_all_scored_at_full_length(tmp_path):
    rng = np.random.default_rng(0)
    lengths = {"tr": (2500,) * 6, "cv": (2500,) * 3, "tt": (2100, 3300, 3500, 2300)}
    for split, of_split in lengths.items():
        for index, length in enumerate(of_split):
            sources = 0.1 * rng.standard_normal((2, length))
            name = f"{index:03d}a01_1.0_{index + 20:03d}b02_-1.0.wav"
            for role, audio in (("mix", sources.sum(0)), ("s1", sources[0]), ("s2", sources[1])):
                path = tmp_path / "set" / split / role / name
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, audio, 8000, subtype="FLOAT")
    workdir = tmp_path / "run"
    options = {"weighting__name": "robust", "train__num_epochs": 1}
    assert main(arguments(workdir, data__premixed_root=tmp_path / "set", **options)) == 0
    assert summary(workdir)["test"]["si_sdri"]["combined"]["n"] == 8
    assert summary(workdir)["data"]["kind"] == "recordings"
    excerpts = {
        int(folder.name.split("mixture")[1]): soundfile.info(folder / "mixture.wav").frames
        for folder in (workdir / "evaluation" / "audio").iterdir()
    }
    assert excerpts == dict(enumerate(lengths["tt"]))

"""The user's mistakes: one line that names the field or file, exit status 2, nothing written and
nothing compiled."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from runs import ROOT, arguments

from jaxsep.config.load import load, to_json
from jaxsep.config.schema import FIELDS
from jaxsep.main import main


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A speech tree and an environment tree with two classes a split."""
    root = tmp_path_factory.mktemp("tree")
    for corpus, classes in (("speech", ("anna", "bert")), ("environment", ("dog", "rain"))):
        for split in ("train", "val", "test"):
            for name in classes:
                folder = root / corpus / split / name
                folder.mkdir(parents=True)
                noise = np.random.default_rng(len(str(folder))).standard_normal(8000)
                soundfile.write(folder / "a.wav", 0.1 * noise, 8000)
    return root


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch, tree):
    """Run the command with mistakes, which give status 2 and no folder; the lines of the error."""
    monkeypatch.setenv("JAXSEP_CACHE", str(tree / "cache"))

    def compiled(*_, **__):
        pytest.fail("a training step was made before the mistake was found")

    monkeypatch.setattr("jaxsep.training.build.make_train_step", compiled)

    def run(**fields) -> list[str]:
        roots = {f"data__{name}_root": tree / name for name in ("speech", "environment")}
        assert main(arguments(tmp_path / "run", **(roots | fields))) == 2
        assert not (tmp_path / "run").exists()
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        return error.splitlines()

    return run


MISTAKES = [
    ({"train__epochs": 3}, "train.epochs: no such field; did you mean"),
    ({"weighting__alpha": -1.0}, "weighting.alpha is -1.0"),
    ({"train__batch_size": 23}, "train.batch_size is 23, it must be at most train.mixtures_per"),
    ({"data__speech_root": "/nowhere/at/all"}, "data.speech_root"),
    ({"data__speech_root": "", "data__synthetic": False}, "data.speech_root is empty"),
    ({"weighting__granularity": "example"}, "weighting.granularity is 'example'"),
    ({"weighting__gamma__cat": 2.0}, "weighting.gamma.cat: no class, group or corpus"),
    ({"train__best_metric": "cat"}, "train.best_metric is 'cat'"),
    (
        {"data__slots": "('environment','environment','environment')", "model__num_sources": 3},
        "data.slots",
    ),
    ({"model__family": "no.such.place:Net"}, "model.family"),
    ({"model__family": "flax.linen:Dense"}, "model.family flax.linen:Dense"),
    (
        {"data__slots": "('speech',)", "model__num_sources": 1},
        "no mixture of val has two sources that sound",
    ),
    ({"data__active_counts": "(1.0,0.0)"}, "no mixture of val has two sources that sound"),
    ({"data__short_clips": "skip", "data__segment_seconds": 2.0}, "data.short_clips"),
    ({"train__init_from": "/nowhere/at/all"}, "train.init_from"),
]


@pytest.mark.parametrize(("fields", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_get_one_line_and_status_two(refused, fields, message):
    (line,) = refused(**fields)
    assert message in line


SEVERAL = [
    (
        {"data__speech_root": "/nowhere", "data__environment_root": "", "data__synthetic": False},
        ["data.environment_root is empty", "data.speech_root: /nowhere is no readable folder"],
    ),
    (
        {"weighting__gamma__cat": 2.0, "weighting__gamma__cow": 1.0, "train__best_metric": "cat"},
        [
            "train.best_metric is 'cat'",
            "weighting.gamma.cat: no class",
            "weighting.gamma.cow: no class",
        ],
    ),
    (
        {"data__segment_seconds": 1.5},
        [
            f"data.segment_seconds is 1.5, but no {split} recording is that long, so that every "
            "mixture would be padded; it must be at most 1"
            for split in ("train", "val", "test")
        ],
    ),
]


@pytest.mark.parametrize(("fields", "messages"), SEVERAL, ids=["roots", "names", "lengths"])
def test_problems_with_the_data_are_listed_together(refused, fields, messages):
    first, *problems = refused(**fields)
    assert first == f"error: {len(messages)} problems in the configuration:"
    for problem, message in zip(problems, messages, strict=True):
        assert problem.startswith(f"  {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["train"].pop("num_epochs"), "train.num_epochs is missing from the config"),
        (lambda c: c["train"].update(batchsize=3), "train.batchsize: no such field; did you mean"),
        (lambda c: c["model"].update(num_blocks=1.5), "model.num_blocks is 1.5, it must be a wh"),
        (lambda c: c.update(weighting=3), "weighting is 3, it must be a section"),
        (
            lambda c: c["weighting"].update(gamma={"dog": float("nan")}),
            "weighting.gamma is {'dog': nan}",
        ),
        (lambda c: c["loss"].update({"a.b": 1}), "loss.a.b: no such field"),
        (lambda c: c["loss"].update({"__class__": 1}), "loss.__class__: no such field"),
        (lambda c: c.clear(), "seed is missing from the configuration"),
    ],
)
def test_a_config_json_that_is_wrong_is_named_with_its_fields(tmp_path, capsys, change, message):
    config = json.loads(to_json(load(str(ROOT / "configs" / "class_bias.py"))))
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["--mode", "evaluate", "--workdir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --workdir {tmp_path}: config.json: ")
    assert message in error


def test_bad_folders_are_named(refused, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refused(data__speech_root=empty)[0]
    (empty / "notes.txt").write_text("no audio")
    assert "data.speech_root" in refused(data__speech_root=empty)[0]
    bad = tmp_path / "bad" / "train" / "anna"
    bad.mkdir(parents=True)
    for split in ("val", "test"):
        (tmp_path / "bad" / split / "anna").mkdir(parents=True)
    (bad / "broken.wav").write_bytes(b"RIFF but nothing more")
    assert "broken.wav" in refused(data__speech_root=tmp_path / "bad")[1]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, capsys, monkeypatch, tree):
    monkeypatch.setenv("JAXSEP_CACHE", str(tree / "cache"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious.bin").write_bytes(b"1")
    roots = {"data__speech_root": tree / "speech", "data__environment_root": tree / "environment"}
    assert main(arguments(tmp_path, **roots)) == 2
    assert "is neither empty nor a run's folder" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[1, 2]")
    assert main(arguments(tmp_path, **roots)) == 2
    assert "config.json cannot be read" in capsys.readouterr().err
    files = sorted(path.name for path in tmp_path.rglob("*"))
    assert files == ["config.json", "model", "precious.bin"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing"),
        (["--mode", "evaluate"], "--mode evaluate takes --workdir"),
        (
            ["--mode", "replay", "--workdir", ".", "--config", "x.py"],
            "--mode replay takes --workdir",
        ),
    ],
)
def test_arguments_that_do_not_fit_end_with_the_usage(capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "configs/none.py"], "configs/none.py is no file"),
        (
            ["--config", str(ROOT / "configs" / "robust.py"), "--workers=3"],
            "--workers=3: not known",
        ),
        (["--mode", "evaluate", "--workdir", "/nowhere"], "config.json cannot be read"),
    ],
)
def test_arguments_that_are_wrong_get_one_line(capsys, words, message):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_help_fields_prints_every_field_as_the_config_sets_it(capsys):
    config = str(ROOT / "configs" / "robust.py")
    assert main(["--config", config, "--config.seed=7", "--help-fields"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(FIELDS)
    assert lines[0].split()[:2] == ["seed", "7"]
    assert main(["--help-fields"]) == 0
    values = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["data.segment_seconds", "4.0"] in values


def test_a_mistake_in_a_real_process_has_no_traceback(tmp_path):
    command = [sys.executable, "-m", "jaxsep.main", "--config", "configs/robust.py:huge"]
    environment = os.environ | {"JAXSEP_CACHE": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config: configs/robust.py:huge: ValueError: the scale")
    assert len(done.stderr.splitlines()) == 1

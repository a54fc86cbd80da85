"""Damaged checkpoints: a run says so and goes on from the one before, or ends with a message."""

import json
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from limits import fill, small_disk
from runs import arguments, assert_same, assert_same_run, last_state, summary

from jaxsep.errors import RunError
from jaxsep.main import main
from jaxsep.training.checkpoint import MANIFEST, PROGRESS, numbers, restore, save
from jaxsep.training.state import create_state, make_optimizer

pytestmark = pytest.mark.usefixtures("pack_cache")
TX = make_optimizer(1e-3, clip_norm=5.0)


def state_of(seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((30, 7)).astype(np.float32)
    bias = {"c": np.float32(rng.standard_normal(5))}
    return create_state({"w": weights, "b": bias}, TX, ema=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder with two checkpoints `last`, 1 and 2, of the seeds 1 and 2."""
    folder = tmp_path_factory.mktemp("pair")
    for seed in (1, 2):
        save(folder / "last", state_of(seed), {"epoch": seed})
    return folder


@pytest.fixture
def folder(pair, tmp_path):
    """A copy of the pair."""
    return shutil.copytree(pair, tmp_path / "copy")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def names(folder):
    return sorted(path.name for path in (folder / "last").iterdir())


def epoch_of(folder):
    """Which of the checkpoints is restored, intact."""
    state, progress = restore(folder / "last", state_of(0))
    assert_same(state, state_of(progress["epoch"]))
    return progress["epoch"]


DAMAGES = {
    "one bit of each file flipped": ("*", flip),
    "each file emptied": ("*", lambda path: path.write_text("")),
    "a file deleted": (PROGRESS, Path.unlink),
    "a file more": ("", lambda newest: (newest / "state" / "more").write_text("x")),
    "the state deleted": ("", lambda newest: shutil.rmtree(newest / "state")),
    "the manifest deleted": (MANIFEST, Path.unlink),
    "a file in its place": ("", lambda newest: [shutil.rmtree(newest), newest.write_text("x")]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_one_before_a_damaged_checkpoint_is_taken(pair, tmp_path, capsys, name):
    where, damage = DAMAGES[name]
    newest = pair / "last" / "2"
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(files) >= 10
    for number, file in enumerate(files if where == "*" else [where]):
        folder = shutil.copytree(pair, tmp_path / str(number))
        damage(folder / "last" / "2" / file)
        assert epoch_of(folder) == 1
        said = capsys.readouterr().err
        assert f"warning: {folder}/last/2 cannot be used (" in said
        assert f"going on from the one before, {folder}/last/1" in said
    # The run goes on: what it saves next is taken, and the damaged one stays to be looked at.
    save(folder / "last", state_of(3), {"epoch": 3})
    assert epoch_of(folder) == 3
    assert names(folder) == ["1", "2", "2.damaged"]
    assert capsys.readouterr().err == ""


def test_a_checkpoint_that_a_kill_cut_short_is_no_checkpoint(folder, tmp_path):
    (tmp_path / "early" / "last" / ".1.tmp-1-a").mkdir(parents=True)
    assert not numbers(tmp_path / "early" / "last")
    shutil.copytree(folder / "last" / "2", folder / "last" / ".3.tmp-1-a")
    assert epoch_of(folder) == 2
    save(folder / "last", state_of(3), {"epoch": 3})
    assert names(folder) == ["2", "3"]


def test_a_checkpoint_of_another_network_is_not_used(folder):
    other = create_state({"w": np.zeros((3, 7), np.float32)}, TX, ema=True)
    with pytest.raises(RunError, match="cannot be used"):
        restore(folder / "last", other)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_non_finite_numbers_are_not_saved(folder, number):
    broken = state_of(3)
    broken.params["b"]["c"] = broken.params["b"]["c"].at[2].set(number)
    message = r"last/3: cannot be written \(\['params'\]\['b'\]\['c'\] holds a non-finite number"
    with pytest.raises(RunError, match=message):
        save(folder / "last", broken, {})
    with pytest.raises(RunError, match="last/3: cannot be written"):
        save(folder / "last", state_of(3), {"best": number})
    assert names(folder) == ["1", "2"]


def test_a_full_disk_costs_no_checkpoint_but_the_new_one(pair, tmp_path):
    with small_disk(tmp_path / "disk", 4_000) as disk:
        folder = shutil.copytree(pair, disk / "copy")
        fill(disk)
        message = r"last/3: cannot be written \(0\.0 MB are free, 1\.0 MB needed\)"
        with pytest.raises(RunError, match=message):
            save(folder / "last", state_of(3), {"epoch": 3})
        assert epoch_of(folder) == 2
        (disk / "filler").unlink()
        save(folder / "last", state_of(3), {"epoch": 3})
        assert epoch_of(folder) == 3


@pytest.mark.parametrize("size", [0, 2000])
def test_a_write_that_fails_in_the_middle_costs_no_checkpoint_but_the_new_one(folder, size):
    """No file may grow beyond so many bytes, which only writing finds out."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(RunError, match="last/3: cannot be written"):
            save(folder / "last", state_of(3), {"epoch": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(folder) == ["1", "2"]
    assert epoch_of(folder) == 2


@pytest.fixture
def unconcluded(finished_run, tmp_path):
    """A copy of a run of two epochs that has yet to write its results."""
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "summary.json").unlink()
    return workdir


def newest(folder):
    return folder / str(max(int(path.name) for path in folder.iterdir() if path.name.isdigit()))


def test_a_run_with_a_damaged_checkpoint_ends_as_one_that_was_not(
    unconcluded, finished_run, capsys
):
    """Back to the checkpoint before, from which the last epoch is validated again."""
    damaged = newest(unconcluded / "checkpoints" / "last")
    flip(max(damaged.rglob("d/*"), key=lambda path: path.stat().st_size))
    assert main(arguments(unconcluded)) == 0
    shown = capsys.readouterr().err
    assert f"warning: {damaged} cannot be used (state/" in shown
    assert "going on from step 10, epoch 2\n" in shown
    assert_same_run(unconcluded, finished_run)


def test_results_are_of_the_checkpoint_that_was_read_where_the_best_is_damaged(
    unconcluded, finished_run, capsys
):
    best = unconcluded / "checkpoints" / "best"
    assert summary(finished_run)["best"]["epoch"] == 2
    first = json.loads((best / "1" / PROGRESS).read_text())
    flip(newest(best) / PROGRESS)
    assert main(arguments(unconcluded)) == 0
    assert "best/2 cannot be used" in capsys.readouterr().err
    assert summary(unconcluded)["best"] == {"epoch": 1, "metric": "mean", "value": first["best"]}
    (unconcluded / "summary.json").unlink()
    for checkpoint in best.glob("[0-9]"):
        flip(checkpoint / PROGRESS)
    assert main(arguments(unconcluded)) == 0
    assert "the results are of the last epoch" in capsys.readouterr().err
    results = summary(unconcluded)
    value = results["val"]["si_sdri"]["combined"]["mean"]
    assert results["best"] == {"epoch": 2, "metric": "mean", "value": value}
    means = [results[split]["si_sdri"]["combined"]["mean"] for split in ("test", "test_last")]
    assert means[0] == pytest.approx(means[1], abs=1e-3)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew_by_itself(unconcluded, capsys):
    for checkpoint in (unconcluded / "checkpoints" / "last").iterdir():
        flip(checkpoint / PROGRESS)
    rewritten = {"lock", "config.json"}
    paths = [path for path in unconcluded.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in paths if path.name not in rewritten}
    assert main(arguments(unconcluded)) == 1
    error = capsys.readouterr().err
    assert error.count("cannot be used") == 2
    assert "None is left: a run without" in error
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(unconcluded / "checkpoints")
    assert main(arguments(unconcluded, train__num_epochs=1)) == 0
    assert jax.tree.leaves(last_state(unconcluded))

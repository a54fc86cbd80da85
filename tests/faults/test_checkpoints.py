"""Damaged checkpoints: a run says so and goes on from the one before, or ends with a message."""

import json
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import fill, small_disk
from runs import arguments, assert_same, last_state, summary

from jaxsep.errors import RunError
from jaxsep.main import main
from jaxsep.training.checkpoint import MANIFEST, PROGRESS, Checkpoints
from jaxsep.training.state import create_state, make_optimizer

pytestmark = pytest.mark.usefixtures("pack_cache")
TX = make_optimizer(1e-3, clip_norm=5.0)


def state_of(seed):
    rng = np.random.default_rng(seed)
    params = {
        "w": rng.standard_normal((30, 7)).astype(np.float32),
        "b": {"c": np.float32(rng.standard_normal(5))},
    }
    return create_state(params, TX, ema=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder with two checkpoints `last`, 1 and 2, of the seeds 1 and 2."""
    folder = tmp_path_factory.mktemp("pair")
    checkpoints = Checkpoints(folder)
    for seed in (1, 2):
        checkpoints.save("last", state_of(seed), {"epoch": seed})
    return folder


def copy_of(pair, folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pair, folder)
    return folder


def files_of(pair):
    newest = pair / "last" / "2"
    return sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def write(text):
    return lambda path: path.write_text(text)


DAMAGES = {
    "one bit of each file flipped": ("*", flip),
    "the last byte of each file cut off": ("*", cut),
    "each file emptied": ("*", write("")),
    "each file deleted": ("*", Path.unlink),
    "a file more": ("", lambda newest: (newest / "state" / "more").write_text("x")),
    "the state deleted": ("", lambda newest: shutil.rmtree(newest / "state")),
    "everything deleted but the folder": (
        "",
        lambda newest: [shutil.rmtree(newest), newest.mkdir()],
    ),
    "a file in its place": ("", lambda newest: [shutil.rmtree(newest), newest.write_text("x")]),
    "a manifest that is no JSON": (MANIFEST, write("{")),
    "a manifest that is a list": (MANIFEST, write("[]")),
    "a manifest without end": (MANIFEST, write("[" * 100_000)),
    "a manifest that lists other folders": (
        MANIFEST,
        write('{"../1/progress.json": {"bytes": 0}}'),
    ),
    "a manifest with other checksums": (
        MANIFEST,
        lambda p: p.write_text(p.read_text().replace('"sha256": "', '"sha256": "0')),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_one_before_a_damaged_checkpoint_is_taken(pair, tmp_path, capsys, name):
    where, damage = DAMAGES[name]
    places = files_of(pair) if where == "*" else [Path(where)]
    assert len(places) >= (10 if where == "*" else 1)
    for place in places:
        folder = copy_of(pair, tmp_path / "copy")
        damage(folder / "last" / "2" / place)
        state, progress = Checkpoints(folder).restore("last", state_of(0))
        assert progress == {"epoch": 1}
        assert_same(state, state_of(1))
        said = capsys.readouterr().out
        assert f"warning: {folder}/last/2 is damaged (" in said
        assert f"going on from the one before, {folder}/last/1" in said
    # The run goes on: what it saves next is found, and the damaged one stays to be looked at, no more.
    Checkpoints(folder).save("last", state_of(3), {"epoch": 3})
    state, progress = Checkpoints(folder).restore("last", state_of(0))
    assert progress == {"epoch": 3}
    assert_same(state, state_of(3))
    assert sorted(path.name for path in (folder / "last").iterdir()) == ["1", "2", "2.damaged"]
    assert capsys.readouterr().out == ""


def test_where_all_are_damaged_nothing_is_made_up(pair, tmp_path):
    folder = copy_of(pair, tmp_path / "copy")
    for number in (1, 2):
        flip(folder / "last" / str(number) / PROGRESS)
    with pytest.raises(RunError, match=r"last/2 is damaged.*last/1 is damaged.*None is left"):
        Checkpoints(folder).restore("last", state_of(0))
    assert sorted(path.name for path in (folder / "last").iterdir()) == ["1", "2"]


def test_a_checkpoint_that_a_kill_cut_short_is_no_checkpoint(pair, tmp_path):
    folder = copy_of(pair, tmp_path / "copy")
    shutil.copytree(folder / "last" / "2", folder / "last" / "3.partial")
    assert Checkpoints(folder).restore("last", state_of(0))[1] == {"epoch": 2}
    Checkpoints(folder).save("last", state_of(3), {"epoch": 3})
    assert sorted(path.name for path in (folder / "last").iterdir()) == ["2", "3"]


def test_a_sound_checkpoint_of_another_network_is_told_apart_from_a_damaged_one(pair, tmp_path):
    folder = copy_of(pair, tmp_path / "copy")
    other = create_state({"w": np.zeros((3, 7), np.float32)}, TX, ema=True)
    with pytest.raises(RunError, match="does not fit this run"):
        Checkpoints(folder).restore("last", other)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_no_number_is_not_saved(pair, tmp_path, number):
    folder = copy_of(pair, tmp_path / "copy")
    broken = state_of(3)
    broken.params["b"]["c"] = broken.params["b"]["c"].at[2].set(number)
    with pytest.raises(
        RunError,
        match=r"last/3: not written, \['params'\]\['b'\]\['c'\] holds what is no finite number",
    ):
        Checkpoints(folder).save("last", broken, {})
    with pytest.raises(RunError, match="last/3: cannot be written"):
        Checkpoints(folder).save("last", state_of(3), {"best": number})
    assert sorted(path.name for path in (folder / "last").iterdir()) == ["1", "2"]


def test_a_full_disk_costs_no_checkpoint_but_the_new_one(pair, tmp_path):
    with small_disk(tmp_path / "disk", 4_000) as disk:
        folder = copy_of(pair, disk / "copy")
        fill(disk)
        with pytest.raises(
            RunError,
            match=r"last/3: cannot be written \(it takes up to 1\.0 MB, and 0\.0 MB are free\)",
        ):
            Checkpoints(folder).save("last", state_of(3), {"epoch": 3})
        assert Checkpoints(folder).restore("last", state_of(0))[1] == {"epoch": 2}
        (disk / "filler").unlink()
        Checkpoints(folder).save("last", state_of(3), {"epoch": 3})
        assert Checkpoints(folder).restore("last", state_of(0))[1] == {"epoch": 3}


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_write_that_fails_in_the_middle_costs_no_checkpoint_but_the_new_one(pair, tmp_path, size):
    """No file may grow beyond so many bytes, which only writing finds out."""
    folder = copy_of(pair, tmp_path / "copy")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(RunError, match="last/3: cannot be written"):
            Checkpoints(folder).save("last", state_of(3), {"epoch": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in (folder / "last").iterdir()) == ["1", "2"]
    assert Checkpoints(folder).restore("last", state_of(0))[1] == {"epoch": 2}


def check_mutation(pair, folder, place, changes):
    """Any change of any file: the newest is found damaged, or is what it was."""
    copy_of(pair, folder)
    path = folder / "last" / "2" / files_of(pair)[place % len(files_of(pair))]
    before = path.read_bytes()
    content = bytearray(before)
    for position, byte in changes:
        content[position % len(content)] = byte
    path.write_bytes(content)
    state, progress = Checkpoints(folder).restore("last", state_of(0))
    expected = 2 if bytes(content) == before else 1
    if expected == 1 and progress == {"epoch": 2}:
        assert path.name == MANIFEST, "only the manifest has bytes without meaning, its white space"
        expected = 2
    assert progress == {"epoch": expected}
    assert_same(state, state_of(expected))


changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=20)


@given(place=st.integers(0, 100), changes=changes)
@settings(max_examples=60)
def test_no_change_of_bytes_gives_another_state(pair, tmp_path_factory, place, changes):
    check_mutation(pair, tmp_path_factory.getbasetemp() / "mutated", place, changes)


@pytest.mark.slow
@given(place=st.integers(0, 100), changes=changes)
@settings(max_examples=3000)
def test_no_change_of_bytes_gives_another_state_in_thousands(
    pair, tmp_path_factory, place, changes
):
    check_mutation(pair, tmp_path_factory.getbasetemp() / "mutated", place, changes)


def newest(folder):
    return folder / str(max(int(path.name) for path in folder.iterdir() if path.name.isdigit()))


def test_a_run_with_a_damaged_checkpoint_ends_as_one_that_was_not(tmp_path, capsys):
    assert main(arguments(tmp_path / "undisturbed")) == 0
    workdir = tmp_path / "run"
    assert main(arguments(workdir, train__num_epochs=1)) == 0
    capsys.readouterr()
    damaged = newest(workdir / "checkpoints" / "last")
    flip(max(damaged.rglob("d/*"), key=lambda path: path.stat().st_size))
    assert main(arguments(workdir)) == 0
    shown = capsys.readouterr().out
    assert f"warning: {damaged} is damaged (state/" in shown
    assert "going on from step 5, epoch 1\n" in shown
    assert_same(last_state(workdir), last_state(tmp_path / "undisturbed"))
    assert summary(workdir)["test"] == summary(tmp_path / "undisturbed")["test"]


def test_results_are_of_the_checkpoint_that_was_read_where_the_best_is_damaged(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main(arguments(workdir)) == 0
    assert summary(workdir)["best"]["epoch"] == 2
    first = json.loads((workdir / "checkpoints" / "best" / "1" / PROGRESS).read_text())
    (workdir / "summary.json").unlink()
    flip(newest(workdir / "checkpoints" / "best") / PROGRESS)
    assert main(arguments(workdir)) == 0
    assert "best/2 is damaged" in capsys.readouterr().out
    assert summary(workdir)["best"] == {"epoch": 1, "metric": "mean", "value": first["best"]}
    (workdir / "summary.json").unlink()
    for checkpoint in (workdir / "checkpoints" / "best").glob("[0-9]"):
        flip(checkpoint / PROGRESS)
    assert main(arguments(workdir)) == 0
    assert "the results are of the last epoch" in capsys.readouterr().out
    found = summary(workdir)
    assert found["best"] == {
        "epoch": 2,
        "metric": "mean",
        "value": found["val"]["si_sdri"]["combined"]["mean"],
    }
    means = [found[split]["si_sdri"]["combined"]["mean"] for split in ("test", "test_last")]
    assert means[0] == pytest.approx(means[1], abs=1e-3)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew_by_itself(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main(arguments(workdir, train__num_epochs=1)) == 0
    for checkpoint in (workdir / "checkpoints" / "last").iterdir():
        flip(checkpoint / PROGRESS)
    before = {
        path: path.read_bytes()
        for path in workdir.rglob("*")
        if path.is_file() and path.name != "lock"
    }
    assert main(arguments(workdir)) == 1
    assert "None is left: a run without" in capsys.readouterr().err
    changed = [
        path
        for path, content in before.items()
        if path.read_bytes() != content and path.name != "config.json"
    ]
    assert changed == []
    shutil.rmtree(workdir / "checkpoints")
    assert main(arguments(workdir)) == 0
    assert jax.tree.leaves(last_state(workdir))

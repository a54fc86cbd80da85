"""Packing: what is in a pack, when it is made again, what is said, and how a damaged one ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from trees import RATE, noise, write, write_esc50, write_tree

from jaxsep.data.audio import read_audio
from jaxsep.data.layouts import SPLITS
from jaxsep.data.levels import frame_energies
from jaxsep.data.packs.format import class_table, open_packed, write_index
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError


@pytest.fixture(scope="module")
def packed(tmp_path_factory, recordings_dir):
    """The real recordings, packed: (environment, speech)."""
    cache = tmp_path_factory.mktemp("packed")
    return (
        prepare(recordings_dir / "ESC-50", "environment", RATE, cache),
        prepare(recordings_dir / "speech", "speech", RATE, cache),
    )


def recording(corpus, index: int) -> np.ndarray:
    return corpus.audio[corpus.offsets[index] : corpus.offsets[index] + corpus.lengths[index]]


def test_real_recordings_are_in_the_pack_as_they_are(packed, recordings_dir):
    environment, speech = packed
    for corpus, folder, rows in ((environment, "ESC-50", 654), (speech, "speech", 357)):
        assert len(corpus.paths) == rows
        assert not corpus.synthetic
        for index in (0, rows // 2, rows - 1):
            expected, _ = read_audio(recordings_dir / folder / corpus.paths[index], RATE)
            np.testing.assert_array_equal(recording(corpus, index), expected)
    # From the README of the recordings.
    assert len(environment.class_names) == 50
    assert len(speech.class_names) == 261
    assert np.bincount(speech.splits).tolist() == [249, 58, 50]
    assert set(speech.class_groups) == {"speech"}
    path, class_name = environment.paths[0], environment.class_names[environment.classes[0]]
    assert (path, class_name) == ("audio/2-100648-A-43.wav", "car_horn")
    # As in the results that are published with this package: they are compared by it.
    assert environment.fingerprint.startswith("cead0dd0b1d85d65")
    assert speech.fingerprint.startswith("6522a201f00ab1db")
    splits = [SPLITS[index] for index in speech.splits]
    assert splits == [path.split("/")[0] for path in speech.paths]


def test_energies_are_the_power_of_each_tenth_of_a_second(packed):
    corpus = packed[0]
    for index in (3, 100):
        samples = recording(corpus, index).astype(np.float64)
        pieces = np.split(samples, range(800, samples.size, 800))
        expected = [((piece - piece.mean()) ** 2).sum() for piece in pieces]
        stored = corpus.energies[corpus.energy_offsets[index] : corpus.energy_offsets[index + 1]]
        np.testing.assert_allclose(stored, expected, rtol=1e-5, atol=1e-12)
    assert (frame_energies(np.full(2000, 0.7, np.float32), RATE) == 0).all(), "an offset has none"
    assert frame_energies(noise(0, 801).astype(np.float32), RATE).shape == (2,)


def test_the_class_table_covers_all_splits_of_all_corpora(packed):
    environment, speech = packed
    table = class_table([speech, environment])
    assert table == class_table([environment, speech]), "the order of the corpora must not matter"
    assert len(table.names) == len(table.groups) == 311
    assert table.corpora == ("environment",) * 50 + ("speech",) * 261
    assert table.names[:50] == environment.class_names
    assert table.groups[table.names.index("rain")] == "natural_soundscapes"


def test_a_packed_folder_is_a_root_too(packed):
    folder = packed[0].folder
    again = prepare(folder, "environment", RATE, "/nonexistent")
    assert again.fingerprint == packed[0].fingerprint
    with pytest.raises(DataError, match=r"data.speech_root: .* name 'environment'; must be 'spee"):
        prepare(folder, "speech", RATE, "/nonexistent")
    with pytest.raises(DataError, match=r"packed with the sample_rate 8000; must be 16000"):
        prepare(folder, "environment", 16000, "/nonexistent")


MEMORY = """
import sys
from pathlib import Path
from jaxsep.data.packs.format import open_packed
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
import numpy.lib.format, zipfile
before = resident()
corpus = open_packed(sys.argv[1])
print(resident() - before, corpus.audio.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_opening_reads_no_audio(packed):
    command = [sys.executable, "-c", MEMORY, str(packed[1].folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, size = map(int, done.stdout.split())
    assert size > 100e6
    assert grown < 20e6


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_pack_is_made_once_and_known_by_its_contents(tmp_path):
    """A copy has the fingerprint, though its files are younger and lie elsewhere."""
    root, cache = write_tree(tmp_path / "root"), tmp_path / "cache"
    first = prepare(root, "environment", RATE, cache)
    before = state(first.folder)
    assert prepare(root, "environment", RATE, cache).fingerprint == first.fingerprint
    assert state(first.folder) == before
    assert [path.name for path in cache.iterdir()] == [first.folder.name]
    assert first.folder.name.startswith("environment-8000-")
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert prepare(tmp_path / "copy", "environment", RATE, cache).fingerprint == first.fingerprint
    os.utime(root / "train/c0/0.wav", ns=(1, 1))
    again = prepare(root, "environment", RATE, cache)
    assert again.fingerprint == first.fingerprint
    assert again.folder != first.folder


CHANGES = {
    "content": lambda root: write(root / "train/c0/0.wav", noise(99, 5000)),
    "add": lambda root: write(root / "train/c0/new.wav", noise(99, 5000)),
    "delete": lambda root: (root / "train/c0/0.wav").unlink(),
    "rename": lambda root: (root / "train/c0/0.wav").rename(root / "train/c0/9.wav"),
    "mark": lambda root: (root / "SYNTHETIC.json").write_text("{}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_dataset_is_packed_again(tmp_path, change):
    root, cache = write_tree(tmp_path / "root", seconds=0.5), tmp_path / "cache"
    first = prepare(root, "environment", RATE, cache)
    CHANGES[change](root)
    second = prepare(root, "environment", RATE, cache)
    assert second.fingerprint != first.fingerprint
    assert second.folder != first.folder
    if change == "content":
        index = second.paths.index("train/c0/0.wav")
        np.testing.assert_allclose(recording(second, index), noise(99, 5000), atol=1e-7)
    assert (first.synthetic, second.synthetic) == (False, change == "mark")


def test_a_changed_esc50_table_is_packed_again(tmp_path):
    root = write_esc50(tmp_path / "root", [(4, 0, "dog", "1", "A"), (4, 10, "rain", "2", "A")])
    first = prepare(root, "environment", RATE, tmp_path / "cache")
    table = root / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("rain", "hail"))
    second = prepare(root, "environment", RATE, tmp_path / "cache")
    assert second.class_names == ("dog", "hail") != first.class_names
    # A column that decides nothing: another table all the same.
    table.write_text(table.read_text().replace("False", "True"))
    assert prepare(root, "environment", RATE, tmp_path / "cache").fingerprint != second.fingerprint


def test_rate_and_name_have_packs_of_their_own(tmp_path):
    root, cache = write_tree(tmp_path / "root", seconds=0.5), tmp_path / "cache"
    named = (("speech", 8000), ("speech", 4000), ("environment", 8000))
    packs = [prepare(root, name, rate, cache) for name, rate in named]
    assert len({pack.folder for pack in packs}) == 3
    assert [int(pack.lengths[0]) for pack in packs] == [4000, 2000, 4000]
    assert [pack.class_groups[0] for pack in packs] == ["speech", "speech", "environment"]


def test_silence_is_left_out_and_stereo_averaged_in_one_line_each(tmp_path, capsys):
    root = write_tree(tmp_path / "root", classes=2, clips=1)
    stereo = np.stack([noise(1, 4000), noise(2, 4000)], axis=1)
    for name in ("a", "b"):
        write(root / "train" / "c0" / f"silent_{name}.wav", np.zeros(4000))
        write(root / "train" / "c0" / f"stereo_{name}.wav", stereo)
    write(root / "train" / "c1" / "constant.wav", np.full(4000, 0.25))
    corpus = prepare(root, "environment", RATE, tmp_path / "cache")
    assert len(corpus.paths) == 6 + 2
    assert not [path for path in corpus.paths if "silent" in path or "constant" in path]
    mono = recording(corpus, corpus.paths.index("train/c0/stereo_a.wav"))
    np.testing.assert_allclose(mono, stereo.mean(axis=1), atol=1e-7)
    averaged, silent = capsys.readouterr().err.splitlines()
    assert "2 files have several channels, averaged (as train/c0/stereo_a.wav: 2)" in averaged
    assert "3 of 11 recordings are digital silence" in silent
    assert corpus.left_out["train/c0/silent_a.wav"] == "digital silence"


def test_a_dataset_of_silence_leaves_nothing(tmp_path):
    write(tmp_path / "silence" / "train" / "c0" / "0.wav", np.zeros(800))
    with pytest.raises(DataError, match=r"data.environment_root: .* no sound that can be used"):
        prepare(tmp_path / "silence", "environment", RATE, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


# Stalls at the 100th of 200 recordings, so that the pack is not over before it is killed.
KILLED = """
import sys, time
from jaxsep.data.packs import packing
read, count = packing.read_audio, 0
def stalling(*arguments):
    global count
    count += 1
    if count == 100:
        print("stalled", flush=True)
        time.sleep(600)
    return read(*arguments)
packing.read_audio = stalling
packing.prepare(sys.argv[1], "speech", 8000, sys.argv[2])
"""


def test_a_killed_pack_leaves_nothing_usable(tmp_path):
    root, cache = tmp_path / "root", tmp_path / "cache"
    write_tree(root, classes=20, clips=10, seconds=0.1, splits=("train",))
    command = [sys.executable, "-c", KILLED, str(root), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"stalled\n"
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert left.name.startswith(".speech-8000-")
    assert (left / "audio.f32").stat().st_size > 1e5, "it was in the middle of it"
    with pytest.raises(DataError, match="cannot be read as a pack"):
        open_packed(left)
    # The next pack is whole. What the killed one left is removed after an hour.
    for path in (*left.iterdir(), left):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    corpus = prepare(root, "speech", RATE, cache)
    assert len(corpus.paths) == 200
    assert list(cache.iterdir()) == [corpus.folder]


def test_the_folder_of_a_pack_still_being_written_is_left_alone(tmp_path):
    root, cache = write_tree(tmp_path / "root", clips=1), tmp_path / "cache"
    name = prepare(root, "speech", RATE, cache).folder.name
    shutil.rmtree(cache / name)
    write(cache / f".{name}.tmp-1-a" / "audio.f32.wav", noise(0, 100))
    prepare(root, "speech", RATE, cache)
    assert sorted(path.name for path in cache.iterdir()) == [f".{name}.tmp-1-a", name]


DAMAGES = {
    "no index": (lambda folder: (folder / "index.npz").unlink(), "No such file"),
    "short index": (lambda folder: os.truncate(folder / "index.npz", 900), "not a zip file"),
    "version": (lambda folder: write_index(folder, version=0), "format version 0; must be 4"),
    "entry": (lambda folder: write_index(folder, name="speech"), "missing .* required"),
    "short audio": (lambda folder: os.truncate(folder / "audio.f32", 4000), "has 1,000 samples"),
    "odd audio": (lambda folder: os.truncate(folder / "audio.f32", 3), "multiple"),
    "no audio": (lambda folder: (folder / "audio.f32").unlink(), "No such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pack_is_told_and_made_again(tmp_path, capsys, damage):
    root, cache = write_tree(tmp_path / "root", seconds=0.5), tmp_path / "cache"
    corpus = prepare(root, "speech", RATE, cache)
    audio = np.array(corpus.audio)
    act, said = DAMAGES[damage]
    act(corpus.folder)
    with pytest.raises(DataError, match=said) as caught:
        open_packed(corpus.folder)
    assert str(corpus.folder) in str(caught.value)
    again = prepare(root, "speech", RATE, cache)
    np.testing.assert_array_equal(again.audio, audio)
    assert "packing again" in capsys.readouterr().err


def test_caches_and_rates_that_cannot_be(tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    root = write_tree(tmp_path / "root", clips=1)
    with pytest.raises(DataError, match=r"cache.*cannot be written"):
        prepare(root, "speech", RATE, tmp_path / "cache")
    for rate in (0, -8000):
        with pytest.raises(DataError, match=r"data.sample_rate: is .* must be 1 to 1,000,000"):
            prepare(root, "speech", rate, tmp_path / "cache")

"""Packing: once, whole or not at all, and found again; opening without reading."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from trees import RATE, noise, sign_pack, write, write_esc50, write_tree, write_wsj0

from jaxsep.data.audio import read_audio
from jaxsep.data.layouts import SPLITS
from jaxsep.data.packs.corpus import ClassTable, class_table, frame_energies, open_packed, prepare
from jaxsep.data.packs.format import pack_paths, unpack_paths
from jaxsep.errors import DataError
from jaxsep.files import atomic_file


@pytest.fixture(scope="module")
def packed(tmp_path_factory, recordings_dir):
    """The real recordings, packed: (environment, speech, cache folder)."""
    cache = tmp_path_factory.mktemp("packed")
    return (
        prepare(recordings_dir / "ESC-50", "environment", RATE, cache, progress=False),
        prepare(recordings_dir / "speech", "speech", RATE, cache, progress=False),
        cache,
    )


def folder_of(corpus) -> Path:
    return Path(corpus.audio.filename).parent


def recording(corpus, index: int) -> np.ndarray:
    return corpus.audio[corpus.offsets[index] : corpus.offsets[index] + corpus.lengths[index]]


def test_real_recordings_are_in_the_pack_as_they_are(packed, recordings_dir):
    for corpus, folder, rows in ((packed[0], "ESC-50", 654), (packed[1], "speech", 357)):
        assert len(corpus.paths) == rows
        assert not corpus.synthetic
        for index in (0, rows // 2, rows - 1):
            expected, _ = read_audio(recordings_dir / folder / corpus.paths[index], RATE)
            np.testing.assert_array_equal(recording(corpus, index), expected)
    environment, speech = packed[:2]
    # From the README of the recordings.
    assert len(environment.class_names) == 50
    assert len(speech.class_names) == 261
    assert [int((speech.splits == k).sum()) for k in range(3)] == [249, 58, 50]
    assert set(speech.class_groups) == {"speech"}
    path, class_name = environment.paths[0], environment.class_names[environment.classes[0]]
    assert (path, class_name) == ("audio/2-100648-A-43.wav", "car_horn")
    for split, k in zip(SPLITS, range(3), strict=True):
        assert all(
            p.startswith(split) for p, s in zip(speech.paths, speech.splits, strict=True) if s == k
        )


def test_energies_are_the_power_of_each_tenth_of_a_second(packed):
    corpus = packed[0]
    for index in (3, 100):
        samples = recording(corpus, index).astype(np.float64)
        expected = [
            ((piece - piece.mean()) ** 2).sum()
            for piece in np.split(samples, range(800, samples.size, 800))
        ]
        stored = corpus.energies[corpus.energy_offsets[index] : corpus.energy_offsets[index + 1]]
        np.testing.assert_allclose(stored, expected, rtol=1e-5, atol=1e-12)


def test_a_constant_offset_has_no_energy():
    assert (frame_energies(np.full(2000, 0.7, np.float32), RATE) == 0).all()
    assert frame_energies(noise(0, 801).astype(np.float32), RATE).shape == (2,)


def test_a_pack_is_made_once(tmp_path):
    root, cache = write_tree(tmp_path / "root"), tmp_path / "cache"
    first = prepare(root, "environment", RATE, cache)
    before = {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder_of(first).iterdir()
    }
    second = prepare(root, "environment", RATE, cache)
    assert before == {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder_of(second).iterdir()
    }
    assert second.fingerprint == first.fingerprint
    assert sorted(path.name for path in cache.iterdir()) == [folder_of(first).name]
    assert folder_of(first).name.startswith("environment-8000-")


def test_a_copy_of_the_recordings_has_their_fingerprint(tmp_path):
    """Though its files are younger, and lie elsewhere."""
    root, cache = write_tree(tmp_path / "root"), tmp_path / "cache"
    first = prepare(root, "environment", RATE, cache)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert prepare(tmp_path / "copy", "environment", RATE, cache).fingerprint == first.fingerprint
    os.utime(root / "train/c0/0.wav", ns=(1, 1))
    again = prepare(root, "environment", RATE, cache)
    assert again.fingerprint == first.fingerprint
    assert folder_of(again) != folder_of(first)


def changes():
    def content(root):
        write(root / "train/c0/0.wav", noise(99, 5000))

    def add(root):
        write(root / "train/c0/new.wav", noise(99, 5000))

    def delete(root):
        (root / "train/c0/0.wav").unlink()

    def rename(root):
        (root / "train/c0/0.wav").rename(root / "train/c0/9.wav")

    def mark(root):
        (root / "SYNTHETIC.json").write_text("{}")

    return [content, add, delete, rename, mark]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_a_changed_dataset_is_packed_again(tmp_path, change):
    root, cache = write_tree(tmp_path / "root"), tmp_path / "cache"
    first = prepare(root, "environment", RATE, cache)
    change(root)
    second = prepare(root, "environment", RATE, cache)
    assert second.fingerprint != first.fingerprint
    assert folder_of(second) != folder_of(first)
    if change.__name__ == "content":
        index = second.paths.index("train/c0/0.wav")
        np.testing.assert_allclose(recording(second, index), noise(99, 5000), atol=1e-7)
    if change.__name__ == "mark":
        assert (first.synthetic, second.synthetic) == (False, True)


def test_a_changed_esc50_table_is_packed_again(tmp_path):
    root = write_esc50(tmp_path / "root", [(4, 0, "dog", "1", "A"), (4, 10, "rain", "2", "A")])
    first = prepare(root, "environment", RATE, tmp_path / "cache")
    table = root / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("rain", "hail"))
    second = prepare(root, "environment", RATE, tmp_path / "cache")
    assert second.class_names == ("dog", "hail") != first.class_names
    table.write_text(
        table.read_text().replace("False", "True")
    )  # a column that decides nothing: still another table
    assert prepare(root, "environment", RATE, tmp_path / "cache").fingerprint != second.fingerprint


def test_rate_and_name_have_packs_of_their_own(tmp_path):
    root, cache = write_tree(tmp_path / "root", seconds=0.5), tmp_path / "cache"
    packs = [
        prepare(root, name, rate, cache)
        for name, rate in (("speech", 8000), ("speech", 4000), ("environment", 8000))
    ]
    assert len({folder_of(pack) for pack in packs}) == 3
    assert [int(pack.lengths[0]) for pack in packs] == [4000, 2000, 4000]
    assert [pack.class_groups[0] for pack in packs] == ["speech", "speech", "environment"]


def test_silence_is_left_out_and_stereo_averaged_in_one_line_each(tmp_path, capsys):
    root = write_tree(tmp_path / "root", classes=2, clips=1)
    for name in ("a", "b"):
        write(root / "train" / "c0" / f"silent_{name}.wav", np.zeros(4000))
        write(
            root / "train" / "c0" / f"stereo_{name}.wav",
            np.stack([noise(1, 4000), noise(2, 4000)], axis=1),
        )
    write(root / "train" / "c1" / "constant.wav", np.full(4000, 0.25))
    corpus = prepare(root, "environment", RATE, tmp_path / "cache", progress=False)
    said = capsys.readouterr().err.splitlines()
    assert len(corpus.paths) == 6 + 2
    assert not [path for path in corpus.paths if "silent" in path or "constant" in path]
    stereo = recording(corpus, corpus.paths.index("train/c0/stereo_a.wav"))
    np.testing.assert_allclose(stereo, (noise(1, 4000) + noise(2, 4000)) / 2, atol=1e-7)
    assert (
        len(
            [
                line
                for line in said
                if "several channels" in line and "2 files" in line and "stereo_a.wav" in line
            ]
        )
        == 1
    )
    assert len([line for line in said if "3 of 11 recordings are digital silence" in line]) == 1
    assert len(said) == 2


def test_a_dataset_of_silence_is_refused(tmp_path):
    write(tmp_path / "root" / "train" / "c0" / "0.wav", np.zeros(800))
    with pytest.raises(DataError, match=r"data.environment_root: .* nothing but silence"):
        prepare(tmp_path / "root", "environment", RATE, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_all_unreadable_files_are_listed_at_once(tmp_path):
    root = write_tree(tmp_path / "root", classes=1, clips=1)
    for number in range(12):
        (root / "train" / "c0" / f"bad{number:02d}.wav").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="12 of 15 recordings cannot be used; --skip-bad") as caught:
        prepare(root, "environment", RATE, tmp_path / "cache")
    lines = str(caught.value).splitlines()[1:]
    assert [f"bad{n:02d}.wav: cannot be read as sound" in line for n, line in enumerate(lines)] == [
        True
    ] * 12
    assert not list((tmp_path / "cache").iterdir()), "a failed pack must leave nothing"


def test_wsj0_count_is_printed_beside_the_papers(tmp_path, capsys):
    root = write_wsj0(tmp_path / "root")
    corpus = prepare(root, "speech", RATE, tmp_path / "cache", progress=False)
    assert "4 training utterances in WSJ0-2mix (the paper: 14,823)" in capsys.readouterr().err
    assert corpus.class_names == ("011", "050", "051", "20a", "22g", "440", "441", "442", "443")


# Stalls at the 100th of 357 recordings, so that the pack is not over before it is killed, however busy the machine is.
KILLED = """
import sys, time
from jaxsep.data.packs import corpus
whole = corpus.decode
def stalling(*arguments, **options):
    for number, item in enumerate(whole(*arguments, **options)):
        if number == 100:
            print("stalled", flush=True)
            time.sleep(600)
        yield item
corpus.decode = stalling
corpus.prepare(sys.argv[1], "speech", 8000, sys.argv[2], progress=False)
"""


def test_a_killed_pack_leaves_nothing_usable(tmp_path, recordings_dir):
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, str(recordings_dir / "speech"), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"stalled\n"
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [path.stat().st_size > 1e6 for path in cache.glob(".speech*/audio.f32")] == [True], (
        "it was in the middle of it"
    )
    left = list(cache.iterdir())
    assert [path.name.startswith(".speech-8000-") for path in left] == [True]
    with pytest.raises(DataError, match="corpus"):
        open_packed(left[0])
    # The next pack is whole; what the killed one left is removed when it has not been written for an hour.
    for path in (*left[0].iterdir(), left[0]):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    corpus = prepare(recordings_dir / "speech", "speech", RATE, cache, progress=False)
    assert len(corpus.paths) == 357
    assert [path.name for path in cache.iterdir()] == [folder_of(corpus).name]


def test_the_folder_of_a_pack_still_being_written_is_left_alone(tmp_path):
    root, cache = write_tree(tmp_path / "root", clips=1), tmp_path / "cache"
    name = folder_of(prepare(root, "speech", RATE, cache)).name
    shutil.rmtree(cache / name)
    write(cache / f".{name}.tmp-1-a" / "audio.f32.wav", noise(0, 100))
    prepare(root, "speech", RATE, cache)
    assert sorted(path.name for path in cache.iterdir()) == [f".{name}.tmp-1-a", name]


MEMORY = """
import sys
from pathlib import Path
from jaxsep.data.packs.corpus import open_packed
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
import numpy.lib.format, zipfile
before = resident()
corpus = open_packed(sys.argv[1])
print(resident() - before, corpus.audio.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_opening_reads_no_audio(packed):
    command = [sys.executable, "-c", MEMORY, str(folder_of(packed[1]))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, size = map(int, done.stdout.split())
    assert size > 100e6
    assert grown < 20e6


def test_a_packed_folder_is_a_root_too(packed):
    environment = packed[0]
    again = prepare(folder_of(environment), "environment", RATE, "/nonexistent")
    assert again.fingerprint == environment.fingerprint
    with pytest.raises(DataError, match=r"data.speech_root: .* is packed as 'environment'"):
        prepare(folder_of(environment), "speech", RATE, "/nonexistent")
    with pytest.raises(DataError, match=r"packed at 8000 Hz; data.sample_rate is 16000"):
        prepare(folder_of(environment), "environment", 16000, "/nonexistent")


def edit_header(folder: Path, **changes) -> None:
    header = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps(header | changes))


def edit_index(folder: Path, **changes) -> None:
    with np.load(folder / "index.npz") as file:
        arrays = dict(file) | changes
    np.savez(folder / "index.npz", **arrays)
    sign_pack(folder)


DAMAGES = [
    ("version", lambda folder: edit_header(folder, version=0), "format version 0; must be"),
    ("kind", lambda folder: edit_header(folder, kind="premixed"), "must be 'corpus'"),
    ("no names", lambda folder: edit_header(folder, class_names=[]), "does not fit"),
    (
        "header",
        lambda folder: (folder / "corpus.json").write_text("{"),
        "corpus.json: cannot be read",
    ),
    ("list", lambda folder: (folder / "corpus.json").write_text("[]"), "no JSON object"),
    (
        "short audio",
        lambda folder: os.truncate(folder / "audio.f32", 4000),
        "has 4000 bytes; must be",
    ),
    ("no audio", lambda folder: (folder / "audio.f32").unlink(), "has 0 bytes"),
    ("short index", lambda folder: os.truncate(folder / "index.npz", 900), "index.npz: is damaged"),
    (
        "checksum",
        lambda folder: edit_header(folder, index_sha256="0" * 64),
        "index.npz: is damaged .its SHA-256",
    ),
    (
        "pickle",
        lambda folder: edit_index(folder, lengths=np.array([{}], object)),
        "index.npz: is damaged",
    ),
    ("lengths", lambda folder: edit_index(folder, lengths=np.array([1, 2])), "does not fit"),
    (
        "classes",
        lambda folder: edit_index(folder, classes=np.full(18, 7, np.int32)),
        "does not fit",
    ),
    ("splits", lambda folder: edit_index(folder, splits=np.full(18, 3, np.int8)), "does not fit"),
    (
        "types",
        lambda folder: edit_index(folder, offsets=np.arange(18.0)),
        "offsets is float64, not int64",
    ),
    (
        "contents",
        lambda folder: edit_index(folder, contents=np.zeros((18, 31), np.uint8)),
        "does not fit",
    ),
    ("left out", lambda folder: edit_header(folder, left_out=["x"]), "its index is damaged"),
    ("offsets", lambda folder: edit_index(folder, offsets=np.arange(18)), "does not fit"),
]


@pytest.mark.parametrize(
    ("damage", "said"), [pytest.param(d, s, id=name) for name, d, s in DAMAGES]
)
def test_a_damaged_pack_is_told_and_made_again(tmp_path, capsys, damage, said):
    root, cache = write_tree(tmp_path / "root", seconds=0.5), tmp_path / "cache"
    corpus = prepare(root, "speech", RATE, cache)
    folder, audio = folder_of(corpus), np.array(corpus.audio)
    damage(folder)
    with pytest.raises(DataError, match=said) as caught:
        open_packed(folder)
    assert str(folder) in str(caught.value)
    again = prepare(root, "speech", RATE, cache, progress=False)
    np.testing.assert_array_equal(again.audio, audio)
    assert "packing again" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(DataError, match=r"cache.*cannot be written"):
        prepare(write_tree(tmp_path / "root", clips=1), "speech", RATE, tmp_path / "cache")


@pytest.mark.parametrize("rate", [0, -8000, 8000.5])
def test_sample_rates_that_are_none(tmp_path, rate):
    with pytest.raises(DataError, match=r"data.sample_rate: is .* positive integer"):
        prepare(write_tree(tmp_path / "root", clips=1), "speech", rate, tmp_path / "cache")


def test_the_class_table_covers_all_splits_of_all_corpora(packed):
    environment, speech = packed[:2]
    table = class_table([speech, environment])
    assert table == class_table([environment, speech]), "the order of the corpora must not matter"
    assert len(table.names) == len(table.groups) == len(table.corpora) == 311
    assert table.corpora == ("environment",) * 50 + ("speech",) * 261
    assert table.names[:50] == environment.class_names
    rain = table.names.index("rain")
    assert (table.groups[rain], table.corpora[rain]) == ("natural_soundscapes", "environment")
    assert isinstance(table, ClassTable)
    with pytest.raises(DataError, match="must differ"):
        class_table([speech, speech])


def test_names_of_any_bytes_survive():
    names = ["a.wav", "über/x y.wav", os.fsdecode(b"caf\xe9\n.wav")]
    assert unpack_paths(pack_paths(names)) == tuple(names)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    (tmp_path / "x").write_text("old")

    def fail(stream):
        stream.write("new")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), atomic_file(tmp_path / "x", "w") as stream:
        fail(stream)
    assert (tmp_path / "x").read_text() == "old"
    with atomic_file(tmp_path / "x", "w") as stream:
        stream.write("new")
    assert (tmp_path / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]

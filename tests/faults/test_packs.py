"""Packs: nothing half-written is taken for finished, no change goes unseen, on full disks, after kills, with many files."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import command, small_disk
from runs import ROOT
from trees import RATE, noise, write, write_tree, write_wsj0

from jaxsep.data.packs.corpus import open_packed, prepare
from jaxsep.data.packs.premixed import prepare_premixed
from jaxsep.errors import DataError
from jaxsep.prepare import main


def folder_of(packed) -> Path:
    return Path(packed.audio.filename).parent


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def same_size_and_time(path: Path, content: bytes) -> None:
    """Other content that a look at the folder cannot tell from the old."""
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_full_disk_at_any_moment_leaves_earlier_packs_and_nothing_else(tmp_path):
    first, second = (write_tree(tmp_path / name, classes=1, clips=1, seconds=1) for name in "ab")
    write(second / "train/c0/0.wav", noise(9, RATE))
    needed = sum(
        -(-path.stat().st_size // 4096)
        for path in folder_of(prepare(second, "speech", RATE, tmp_path)).iterdir()
    )
    with small_disk(tmp_path / "disk", 1024) as disk:
        prepare(first, "speech", RATE, disk)
        earlier, names = contents(disk), os.listdir(disk)
        filler = disk / "filler"
        for pages in range(
            needed
        ):  # every page that audio, index and header take is the first that cannot be written
            space = os.statvfs(disk)
            filler.write_bytes(bytes((space.f_bavail - pages) * space.f_bsize))
            with pytest.raises(
                DataError,
                match=r"disk/speech-8000-.*: cannot be written \(No space left on device\)",
            ):
                prepare(second, "speech", RATE, disk, progress=False)
            filler.unlink()
            assert os.listdir(disk) == names, "no temporary folder is left"
        assert contents(disk) == earlier
        open_packed(disk / names[0])
        filler.write_bytes(bytes((os.statvfs(disk).f_bavail - needed) * 4096))
        assert len(prepare(second, "speech", RATE, disk, progress=False).paths) == 3


@pytest.mark.parametrize("name", ["speech", "premixed"])
def test_a_full_disk_is_one_line_and_status_2(tmp_path, name):
    write_wsj0(tmp_path / "wsj0")
    with small_disk(tmp_path / "disk", 64) as disk:
        done = command("jaxsep.prepare", tmp_path / "wsj0", "--name", name, "-o", disk)
        assert not os.listdir(disk)
    assert done.returncode == 2
    assert done.stdout == ""
    *_, line = said = [line for line in done.stderr.splitlines() if "the paper" not in line]
    assert len(said) == 1
    assert line.startswith(f"error: {disk / name}-8000-")
    assert line.endswith(": cannot be written (No space left on device)")


def test_files_that_may_not_grow_are_one_line_and_status_2(tmp_path):
    root, packs = write_tree(tmp_path / "root"), tmp_path / "packs"
    done = command("jaxsep.prepare", root, "--name", "speech", "-o", packs, largest_file=100_000)
    assert done.returncode == 2
    assert done.stderr.endswith(": cannot be written (File too large)\n")
    assert done.stderr.count("\n") == 1
    assert not os.listdir(packs)


# One process packs again and again, each time in a child that dies at a later step of publishing.
KILLS = """
import os, signal, sys
from jaxsep.data.packs.corpus import prepare
def dying(function, calls, last):
    def call(*arguments):
        calls.append(function.__name__)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call
for last in range(1, 99):
    child = os.fork()
    if not child:
        calls = []
        for name in ("fsync", "replace", "rename"):
            setattr(os, name, dying(getattr(os, name), calls, last))
        prepare(sys.argv[1], "speech", 8000, f"{sys.argv[2]}/{last}", progress=False)
        print(*calls, flush=True)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        break
"""


def test_a_pack_killed_at_any_step_is_whole_or_not_there(tmp_path):
    root = write_tree(tmp_path / "root", classes=1, clips=1)
    done = subprocess.run(
        [sys.executable, "-c", KILLS, root, tmp_path / "packs"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # Flushed to disk: audio, index, header and the folder that holds them; after the rename the folder around it.
    steps = ["fsync", "fsync", "fsync", "fsync", "rename", "fsync"]
    assert done.stdout.split() == steps
    whole = contents(folder_of(prepare(root, "speech", RATE, tmp_path / "whole")))
    for number in range(1, len(steps) + 1):
        cache = tmp_path / "packs" / str(number)
        finished = [path for path in cache.iterdir() if not path.name.startswith(".")]
        assert len(finished) == (number > steps.index("rename") + 1)
        assert all(contents(path) == whole for path in finished)
        assert contents(folder_of(prepare(root, "speech", RATE, cache, progress=False))) == whole


def test_an_interrupted_pack_leaves_nothing(tmp_path):
    root, packs = write_tree(tmp_path / "root"), tmp_path / "packs"
    for number in range(10_000):  # packing them takes seconds
        os.link(root / "train/c0/0.wav", root / f"train/c0/{number:05d}.wav")
    words = [sys.executable, "-m", "jaxsep.prepare", root, "--name", "speech", "-o", packs]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not list(packs.glob(".speech*/audio.f32")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said == "SIGINT: stopped; what was packed before is untouched\n"
    assert not os.listdir(packs)


def test_processes_that_pack_the_same_at_once_agree(tmp_path):
    root, packs = write_tree(tmp_path / "root"), tmp_path / "packs"
    words = [sys.executable, "-m", "jaxsep.prepare", root, "--name", "speech", "-o", packs]
    running = [
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    printed = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(printed) == 1
    assert [path.name.startswith("speech-8000-") for path in packs.iterdir()] == [True]


def test_a_recording_changed_without_a_trace_is_noticed_by_verify(tmp_path, capsys):
    root = write_tree(tmp_path / "root")
    arguments = [str(root), "--name", "environment", "-o", str(tmp_path / "packs"), "--verify"]
    assert main(arguments) == 0
    changed = root / "val/c1/0.wav"
    content = bytearray(changed.read_bytes())
    content[-2] ^= 1
    same_size_and_time(changed, bytes(content))
    assert main(arguments) == 2
    said = capsys.readouterr()
    (pack,) = (tmp_path / "packs").iterdir()
    wrong = f"  {changed}: has changed since it was packed; remove {pack} and pack again"
    assert said.err.splitlines() == [f"error: {root}: is not sound (1):", wrong]
    assert "WRONG: 17 of 18 as they were packed" in said.out
    shutil.rmtree(pack)
    assert main(arguments) == 0


def add(base: Path) -> None:
    for role in ("mix", "s1", "s2"):
        write(base / "tr" / role / "022a0101_1.0_40na010b_-1.0.wav", noise(5, 4000))


def delete(base: Path) -> None:
    for role in ("mix", "s1", "s2"):
        (base / "cv" / role / "050a0501_0.3_051a0502_-0.3.wav").unlink()


def change(base: Path) -> None:
    write(base / "tt/s2/442c0203_0.1_443c0204_-0.1.wav", noise(6, 9500))


@pytest.mark.parametrize("act", [add, delete, change])
def test_a_changed_premixed_set_is_packed_again(tmp_path, act):
    base = write_wsj0(tmp_path / "wsj0") / "2speakers/wav8k/min"
    first = prepare_premixed(tmp_path / "wsj0", RATE, tmp_path / "packs")
    act(base)
    second = prepare_premixed(tmp_path / "wsj0", RATE, tmp_path / "packs")
    assert second.fingerprint != first.fingerprint
    assert folder_of(second) != folder_of(first)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return folder_of(
        prepare(
            write_tree(tmp_path_factory.mktemp("root")),
            "speech",
            RATE,
            tmp_path_factory.mktemp("packs"),
        )
    )


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(part=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_no_byte_of_an_index_changes_unseen(pack, part, change):
    index = pack / "index.npz"
    content = index.read_bytes()
    damaged = bytearray(content)
    damaged[int(part * len(content))] ^= change
    try:
        index.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"index.npz: is damaged \(its SHA-256 .* pack the corpus again"
        ):
            open_packed(pack)
    finally:
        index.write_bytes(content)
    open_packed(pack)


@pytest.mark.parametrize("part", [0, 0.3, 0.999999])
def test_a_changed_byte_of_the_audio_is_noticed_by_verify(tmp_path, capsys, part):
    root, packs = write_tree(tmp_path / "root", clips=1), tmp_path / "packs"
    audio = folder_of(prepare(root, "environment", RATE, packs)) / "audio.f32"
    content = bytearray(audio.read_bytes())
    content[int(part * len(content))] ^= 1
    audio.write_bytes(content)
    assert main([str(root), "--name", "environment", "-o", str(packs), "--verify"]) == 2
    said = capsys.readouterr()
    assert (
        f"  {audio}: is damaged (SHA-256 {hashlib.sha256(content).hexdigest()[:12]}, written was "
        in said.err
    )
    assert len(said.err.splitlines()) == 2


def test_the_checksums_are_of_what_lies_there(pack):
    header = json.loads((pack / "corpus.json").read_text())
    for key, name in (("audio_sha256", "audio.f32"), ("index_sha256", "index.npz")):
        assert header[key] == hashlib.sha256((pack / name).read_bytes()).hexdigest()


MANY = """
import resource, sys, time
from jaxsep.data.packs.corpus import prepare
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, began = peak(), time.perf_counter()
prepare(sys.argv[1], "speech", 8000, sys.argv[2], progress=False)
packed, grown = time.perf_counter() - began, peak() - before
began = time.perf_counter()
corpus = prepare(sys.argv[1], "speech", 8000, sys.argv[2], progress=False)
print(len(corpus.paths), packed, time.perf_counter() - began, grown)
"""


@pytest.mark.slow
def test_a_tree_of_200_000_files_is_packed_and_found_again(tmp_path):
    files = 200_000
    write(tmp_path / "one.wav", noise(0, 80), subtype="PCM_16")
    content = bytearray((tmp_path / "one.wav").read_bytes())
    for number in range(files):
        folder = tmp_path / "root" / ("train", "val", "test")[number % 3] / f"c{number % 200}"
        if number < 600:
            folder.mkdir(parents=True)
        content[-4:] = number.to_bytes(4, "little")
        (folder / f"{number}.wav").write_bytes(content)
    words = [sys.executable, "-c", MANY, tmp_path / "root", tmp_path / "packs"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200, check=True)
    found, packed, again, grown = map(float, done.stdout.split())
    print(f"packed in {packed:.0f} s, found again in {again:.1f} s, {grown:.0f} MB")
    assert found == files
    # Measured: 45 to 100 s, 2 to 4 s, 175 MB on two busy cores.
    assert packed < 600
    assert again < 20
    assert grown < 300

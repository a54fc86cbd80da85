"""bash launch/open_data.sh: small archives of the published form from a local web server, with real faults and kills."""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import archives
import pytest

from jaxsep import open_data
from jaxsep.data.fetch import ATTEMPTS
from jaxsep.data.layouts import read_layout
from jaxsep.data.open_sets import SOURCES, byte_steps
from jaxsep.data.packs.corpus import open_packed

ROOT = Path(__file__).resolve().parents[1]
TRAIN, ESC = "train-clean-100.tar.gz", "ESC-50-master.zip"
PLACES = ("speech/train", "speech/val", "speech/test", "ESC-50")
# A shell starts what it runs in the background with SIGINT ignored, and the tests may be that.
DRIVER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxsep import open_data
from jaxsep.data.open_sets import Source
table = [Source(**row) for row in json.loads(sys.argv[1])]
sys.exit(open_data.main(sys.argv[2:], sources=table, pause=0.01))
"""


@pytest.fixture(scope="module")
def files():
    return archives.published()


@pytest.fixture
def server(files, monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "cache"))
    with archives.Server(files) as served:
        yield served


def changed(table, name, **fields):
    return [dataclasses.replace(row, **fields) if row.name == name else row for row in table]


def call(server, root, table=None):
    """The command in this process; its exit status."""
    table = archives.sources(server.files, server.url) if table is None else table
    return open_data.main([str(root)], sources=table, pause=0.001)


def start(server, root, table=None, prefix=()):
    """The command as a process of its own."""
    table = archives.sources(server.files, server.url) if table is None else table
    rows = json.dumps([dataclasses.asdict(row) for row in table])
    command = [*prefix, sys.executable, "-c", DRIVER, rows, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def errors(text):
    return [line for line in text.splitlines() if line.startswith("error: ")]


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def listing(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def assert_complete(root, cache, files):
    """Every published recording is where jaxsep looks for it, bit for bit, and packed; no archive is left."""
    _, rows = read_layout(root / "speech", "speech")
    assert {(row.split, row.class_name) for row in rows} == {
        ("train", "19"),
        ("train", "26"),
        ("val", "84"),
        ("test", "61"),
    }
    assert len(rows) == 8
    assert (root / "speech/train/19/19-198-0000.flac").read_bytes() == archives.flac(19_198)
    layout, clips = read_layout(root / "ESC-50", "environment")
    assert layout == "esc50"
    assert sorted(row.split for row in clips) == ["test", "train", "train", "val"]
    assert (root / "ESC-50" / clips[0].path).read_bytes() == archives.clip(0)
    assert not (root / "speech/train/evil").exists()
    assert sorted(path.name for path in (root / "downloads").iterdir()) == ["lock", "packs.json"]
    packs = {name.split("-")[0]: open_packed(cache / name) for name in os.listdir(cache)}
    assert {name: (pack.sample_rate, len(pack.paths)) for name, pack in packs.items()} == {
        "speech": (8000, 8),
        "environment": (8000, 4),
    }


def test_fetched_laid_out_packed_and_then_left_alone(server, tmp_path, files, capsys):
    # As GitHub does: redirected to a server that gives no length and knows no ranges.
    server.redirects["archive/master.zip"] = ESC
    server.chunked.add(ESC)
    table = changed(
        archives.sources(files, server.url), ESC, url=f"{server.url}/archive/master.zip"
    )
    root = tmp_path / "open data"
    assert call(server, root, table) == 0
    first = capsys.readouterr()
    assert_complete(root, tmp_path / "cache", files)
    assert re.search(
        r"open data and .*cache \(packed\): 0\.1 GB needed, [\d,.]+ GB free", first.err
    )
    assert ["train", "4", "2", "0.002"] in [line.split() for line in first.out.splitlines()]
    command = first.out.splitlines()[-1].strip()
    assert command == (
        "bash launch/run.sh --config configs/class_bias.py:open "
        f"--config.data.speech_root='{root}/speech' --config.data.environment_root='{root}/ESC-50'"
    )
    assert json.loads((root / "ESC-50/SOURCE.json").read_text())["licence"] == "CC BY"
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}

    server.requests.clear()
    assert call(server, root, table) == 0
    second = capsys.readouterr()
    assert not server.requests
    assert second.err.splitlines() == [f"{root}: complete and packed already; nothing to do"]
    assert second.out.splitlines()[-1].strip() == command
    assert {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"
    } == times

    shutil.rmtree(tmp_path / "cache")
    assert call(server, root, table) == 0
    assert not server.requests, "packed again from what is there"
    assert_complete(root, tmp_path / "cache", files)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_always_cuts_is_given_up_and_what_came_is_kept(
    server, tmp_path, files, capsys, ranges
):
    server.ranges, server.faults = ranges, {TRAIN: [("cut", 1000)] * 50}
    assert call(server, tmp_path / "open") == 1
    said = capsys.readouterr().err
    assert len(server.requests) == ATTEMPTS
    assert len(errors(said)) == 1
    arrived = 1000 * (ATTEMPTS if ranges else 1)
    assert (
        f"/{TRAIN}: cut after {arrived:,} of {len(files[TRAIN]):,} bytes, {ATTEMPTS} times in a row"
        in errors(said)[0]
    )
    assert listing(tmp_path / "open") == ["downloads/lock", f"downloads/{TRAIN}.part"]
    server.faults, server.ranges = {}, True
    server.requests.clear()
    assert call(server, tmp_path / "open") == 0
    assert server.requests[0] == (TRAIN, f"bytes={arrived}-")
    assert_complete(tmp_path / "open", tmp_path / "cache", files)


def test_no_server_and_no_such_file(server, tmp_path, capsys):
    table = archives.sources(server.files, server.url)
    assert call(server, tmp_path / "a", changed(table, TRAIN, url=f"{server.url}/gone.tar.gz")) == 1
    assert (
        f"{server.url}/gone.tar.gz: the server answers 404 (Not Found)"
        in errors(capsys.readouterr().err)[0]
    )
    assert len(server.requests) == 1, "404 does not pass"
    server.shutdown()
    server.server_close()
    assert call(server, tmp_path / "b") == 1
    assert f"Connection refused), {ATTEMPTS} times in a row; 0 of" in errors(
        capsys.readouterr().err
    )[0].replace("]", "")


def test_a_file_of_another_size_is_not_begun(server, tmp_path, files, capsys):
    server.files[TRAIN] = b"<html>please log in</html>"
    assert call(server, tmp_path / "open", archives.sources(files, server.url)) == 1
    line = f"error: {server.url}/{TRAIN}: has 26 bytes; must have {len(files[TRAIN]):,}"
    assert errors(capsys.readouterr().err) == [line]
    assert listing(tmp_path / "open") == ["downloads/lock"]


@pytest.mark.parametrize("where", ["fetched", "at hand"])
def test_a_wrong_checksum_names_both_and_fetches_anew(server, tmp_path, files, capsys, where):
    wrong = files[TRAIN][:-100] + bytes(100)
    root = tmp_path / "open"
    if where == "fetched":
        server.files[TRAIN] = wrong
    else:
        (root / "downloads").mkdir(parents=True)
        (root / "downloads" / TRAIN).write_bytes(wrong)
    table = archives.sources(files, server.url)
    assert call(server, root, table) == 1
    found, wanted = (hashlib.md5(contents).hexdigest() for contents in (wrong, files[TRAIN]))
    line = f"error: {TRAIN}: MD5 is {found}; must be {wanted}; it is removed, the next run fetches it anew"
    assert errors(capsys.readouterr().err) == [line]
    assert listing(root) == ["downloads/lock"]
    server.files[TRAIN] = files[TRAIN]
    server.requests.clear()
    assert call(server, root, table) == 0
    assert server.requests[0] == (TRAIN, "")
    assert_complete(root, tmp_path / "cache", files)


def test_an_archive_at_hand_is_not_fetched(server, tmp_path, files):
    (tmp_path / "open/downloads").mkdir(parents=True)
    (tmp_path / "open/downloads" / TRAIN).write_bytes(files[TRAIN])
    assert call(server, tmp_path / "open") == 0
    assert TRAIN not in {name for name, _ in server.requests}
    assert_complete(tmp_path / "open", tmp_path / "cache", files)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_fetching(server, tmp_path, files, number):
    root, part = tmp_path / "open", tmp_path / "open/downloads" / f"{TRAIN}.part"
    server.faults[TRAIN] = [("hang", 100_000)]
    process = start(server, root)
    wait_for(lambda: part.exists() and part.stat().st_size > 50_000)
    process.send_signal(number)
    status, _, err = finish(process)
    assert status == (-9 if number == signal.SIGKILL else 130), err
    if number == signal.SIGINT:
        assert err.splitlines()[-1] == "SIGINT: stopped; the same command goes on from here"
    arrived = part.stat().st_size
    assert files[TRAIN][:arrived] == part.read_bytes()
    assert call(server, root) == 0
    assert server.requests[1] == (TRAIN, f"bytes={arrived}-")
    assert_complete(root, tmp_path / "cache", files)


def test_killed_while_unpacking(server, tmp_path, files):
    members = list(archives.speech_members("train-clean-100", (19, 26)).items())
    # A large file that is left out keeps it busy after the first speaker.
    large = [("LibriSpeech/train-clean-100/19/198/large.txt", bytes(200_000_000))]
    server.files[TRAIN] = archives.tar(dict(members[:3] + large + members[3:]))
    root = tmp_path / "open"
    staging = root / "downloads" / f"{TRAIN}.unpacked"
    process = start(server, root)
    wait_for(lambda: (staging / "19/19-198-0000.flac").exists())
    process.kill()
    assert finish(process)[0] == -9
    assert listing(staging) == ["19/19-198-0000.flac"]
    assert not (root / "speech").exists()
    server.requests.clear()
    assert call(server, root) == 0
    assert TRAIN not in {name for name, _ in server.requests}
    assert_complete(root, tmp_path / "cache", files)


@pytest.mark.parametrize(("limit", "left"), [(100, f"{TRAIN}.part"), (300, ESC)])
def test_a_disk_that_takes_no_more(server, tmp_path, files, limit, left):
    """A limit on the size of files (KiB), met while fetching and while unpacking: archives are smaller than clips."""
    assert len(files[ESC]) < 300 * 1024 > len(files[TRAIN]) > 100 * 1024
    root = tmp_path / "open"
    process = start(server, root, prefix=("bash", "-c", f'ulimit -f {limit} && exec "$@"', "bash"))
    status, _, err = finish(process)
    assert status == 1
    assert len(errors(err)) == 1
    assert "cannot be written (File too large); the same command goes on" in errors(err)[0]
    assert sorted(os.listdir(root / "downloads")) == sorted([left, "lock"])
    assert not (root / "ESC-50").exists()
    server.requests.clear()
    assert call(server, root) == 0
    assert server.requests[:1] == ([(TRAIN, f"bytes={limit * 1024}-")] if limit == 100 else [])
    assert_complete(root, tmp_path / "cache", files)


def test_a_disk_that_is_full(server, tmp_path):
    """A file system of 300 kB, mounted in a name space of its own."""
    namespace = ("unshare", "--map-root-user", "--mount")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], capture_output=True).returncode
    ):
        pytest.skip("unshare gives no name space to mount in")
    root = tmp_path / "open"
    root.mkdir()
    script = f'mount -t tmpfs -o size=300k tmpfs "{root}" && "$@"; status=$?; find "{root}" -type f; exit $status'
    table = [
        dataclasses.replace(row, unpacked_bytes=0)
        for row in archives.sources(server.files, server.url)
    ]
    table = changed(
        table[1:2] + table[:1], TRAIN, md5=None, archive_bytes=1000
    )  # 130 kB, then more than is left
    process = start(server, root, table, prefix=(*namespace, "sh", "-c", script, "sh"))
    status, out, err = finish(process)
    assert status == 1, err
    assert len(errors(err)) == 1
    assert "No space left on device); the same command goes on" in errors(err)[0]
    assert f"{root}/speech/val/84/84-198-0000.flac" in out
    assert f"{root}/downloads/{TRAIN}.part" in out
    assert f"{root}/speech/train" not in out


def test_too_little_space_is_said_before_anything_is_fetched(server, tmp_path, capsys):
    table = changed(archives.sources(server.files, server.url), TRAIN, unpacked_bytes=10**18)
    assert call(server, tmp_path / "open", table) == 2
    said = capsys.readouterr().err
    assert re.search(
        r"^error: .*open and .*: 1,000,000,000\.\d GB needed, [\d,.]+ GB free; make room",
        said,
        re.MULTILINE,
    )
    assert not server.requests
    assert listing(tmp_path / "open") == ["downloads/lock"]


def test_space_counts_what_is_here_and_the_archive_until_it_is_unpacked(tmp_path):
    source = dataclasses.replace(SOURCES[0], archive_bytes=1000, unpacked_bytes=1100)
    assert byte_steps(tmp_path, source) == (1000, 1100, -1000)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{TRAIN}.part").write_bytes(bytes(300))
    assert byte_steps(tmp_path, source) == (700, 1100, -1000)
    assert open_data.peak_bytes([1000, 1100, -1000, 100, 110, -100]) == 2100
    assert open_data.peak_bytes([10, 11, -10, 100, 110, -100]) == 221
    assert open_data.peak_bytes([]) == 0


def link(name, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LibriSpeech/train-clean-100/19/../../../../evil", "names must be relative"),
        ("/evil", "names must be relative"),
        ("../evil", "names must be relative"),
        ("LibriSpeech/train-clean-100/19/198/19-evil.flac", "a link or device"),
    ],
)
def test_nothing_of_a_tar_leaves_its_folder(server, tmp_path, capsys, name, reason):
    members = archives.speech_members("train-clean-100", (19, 26))
    server.files[TRAIN] = archives.tar(
        members | {name: link(name) if "link" in reason else b"evil"}
    )
    assert call(server, tmp_path / "open") == 1
    line = errors(capsys.readouterr().err)[0]
    assert f"holds {name!r}" in line
    assert reason in line
    assert line.endswith("the archive is removed, the next run fetches it anew")
    assert listing(tmp_path) == ["open/downloads/lock"]
    assert not Path("/evil").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ESC-50-master/../../../../evil", "names must be relative"),
        ("ESC-50-master/evil", "a link"),
    ],
)
def test_nothing_of_a_zip_leaves_its_folder(server, tmp_path, files, capsys, name, reason):
    server.files[ESC] = archives.archive(
        archives.esc50_members() | {name: b"/etc"}, link=name if "link" in reason else ""
    )
    assert call(server, tmp_path / "open") == 1
    line = errors(capsys.readouterr().err)[0]
    assert f"holds {name!r}" in line
    assert reason in line
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "open/ESC-50").exists()
    assert not (tmp_path / "open/downloads" / ESC).exists()
    server.files[ESC] = files[ESC]
    assert call(server, tmp_path / "open") == 0
    assert_complete(tmp_path / "open", tmp_path / "cache", files)


CLIP = "ESC-50-master/audio/1-100032-A-0.wav"


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ({CLIP: None}, "audio/1-100032-A-0.wav is missing"),
        (
            {CLIP: archives.clip(0, samples=220_499)},
            "audio/1-100032-A-0.wav has 220,499 samples at 44,100 Hz; must have",
        ),
        (
            {CLIP: archives.clip(0, rate=48_000)},
            "has 220,500 samples at 48,000 Hz; must have 220,500 at 44,100 Hz",
        ),
        ({CLIP: b"no sound"}, "audio/1-100032-A-0.wav is cannot be read as sound"),
        ({"ESC-50-master/meta/esc50.csv": None}, "has no known layout"),
        (
            {
                "ESC-50-master/meta/esc50.csv": archives.esc50_members(archives.CLIPS[:3])[
                    "ESC-50-master/meta/esc50.csv"
                ]
            },
            "holds 3 recordings in ESC-50-master; must hold 4",
        ),
    ],
)
def test_esc50_is_checked_clip_by_clip(server, tmp_path, files, capsys, fault, line):
    members = {
        name: contents
        for name, contents in (archives.esc50_members() | fault).items()
        if contents is not None
    }
    server.files[ESC] = archives.archive(members)
    assert call(server, tmp_path / "open") == 1
    said = errors(capsys.readouterr().err)
    assert len(said) == 1
    assert said[0].startswith(f"error: {ESC}: ")
    assert line in said[0]
    assert not (tmp_path / "open/ESC-50").exists()
    server.files[ESC] = files[ESC]
    assert call(server, tmp_path / "open") == 0
    assert_complete(tmp_path / "open", tmp_path / "cache", files)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_zip_is_found_without_a_checksum(server, tmp_path, files, capsys, damage):
    whole = files[ESC]
    middle = len(whole) // 2
    server.files[ESC] = (
        whole[:middle] if damage == "cut" else whole[:middle] + b"damage" + whole[middle + 6 :]
    )
    assert call(server, tmp_path / "open") == 1
    assert f"{ESC}: is no sound archive (" in errors(capsys.readouterr().err)[0]
    assert not (tmp_path / "open/downloads" / ESC).exists()


def test_an_utterance_less_is_found(server, tmp_path, capsys):
    table = changed(archives.sources(server.files, server.url), TRAIN, recordings=5)
    assert call(server, tmp_path / "open", table) == 1
    assert (
        "holds 4 recordings in LibriSpeech/train-clean-100; must hold 5"
        in errors(capsys.readouterr().err)[0]
    )


def test_no_speaker_in_two_splits(server, tmp_path, capsys):
    server.files["dev-clean.tar.gz"] = archives.tar(archives.speech_members("dev-clean", (26,)))
    for _ in range(2):
        assert call(server, tmp_path / "open") == 1
        assert (
            "speaker 26 is in speech/train and speech/val; must be in one"
            in errors(capsys.readouterr().err)[0]
        )
    assert not (tmp_path / "cache").exists(), "nothing is packed"


def test_what_is_in_the_way_is_left_alone(server, tmp_path, capsys):
    own = tmp_path / "open/speech/train/me/mine.flac"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    assert call(server, tmp_path / "open") == 2
    assert (
        "open/speech/train: is something else than train-clean-100.tar.gz"
        in errors(capsys.readouterr().err)[0]
    )
    assert not server.requests
    assert own.read_bytes() == b"mine"


def test_one_run_at_a_time(server, tmp_path, capsys):
    (tmp_path / "open/downloads").mkdir(parents=True)
    with open(tmp_path / "open/downloads/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call(server, tmp_path / "open") == 2
        assert "another run is at work in" in errors(capsys.readouterr().err)[0]
    assert call(server, tmp_path / "open") == 0


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be(server, tmp_path, capsys, place):
    (tmp_path / "file").write_text("mine")
    assert call(server, tmp_path / place) == 2
    assert errors(capsys.readouterr().err)[0].startswith(
        f"error: DIR: {tmp_path / place} is no folder that can be made"
    )
    assert not server.requests
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("arguments", [[], [""], ["a", "b"], ["--fast", "a"]])
def test_arguments_that_make_no_sense(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        open_data.main(arguments)
    assert "error: " in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_the_script_passes_arguments_and_status_on(tmp_path):
    """launch/open_data.sh itself, with an environment that is installed already."""
    copy = tmp_path / "jaxsep"
    (copy / ".venv/bin").mkdir(parents=True)
    (copy / "launch").mkdir()
    shutil.copy(ROOT / "launch/open_data.sh", copy / "launch")
    (copy / "launch/install.sh").write_text('test "$*" = report')
    python = copy / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def script(*arguments):
        command = ["bash", str(copy / "launch/open_data.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    (tmp_path / "file").write_text("mine")
    nothing, file, help_ = script(), script("file"), script("--help")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr == "error: DIR is missing: bash launch/open_data.sh DIR\n"
    assert (file.returncode, file.stdout) == (2, "")
    assert file.stderr.startswith(f"error: DIR: {tmp_path}/file is no folder")
    assert (help_.returncode, help_.stderr) == (0, "")
    assert "DIR/speech/{train,val,test}/SPEAKER/*.flac" in help_.stdout


def test_readme_gives_the_sizes_of_the_table():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    peak = open_data.peak_bytes(
        [step for source in SOURCES for step in byte_steps(Path("nowhere"), source)]
    )
    sizes = {
        "fetched": sum(source.archive_bytes for source in SOURCES),
        "peak": peak,
        "kept": sum(source.unpacked_bytes for source in SOURCES),
        "packed": sum(source.seconds for source in SOURCES) * 8000 * 4,
    }
    up = {name: f"{math.ceil(size / 1e8) / 10:.1f} GB" for name, size in sizes.items()}
    assert f"{up['fetched']} are fetched; it takes up to {up['peak']} of DIR" in readme
    assert f"keeps {up['kept']} there and {up['packed']} packed" in readme
    # As published: https://www.openslr.org/resources/12/md5sum.txt
    assert [source.md5[:8] for source in SOURCES[:3]] == ["2a93770f", "42e2234b", "32fa31d2"]
    assert {source.place for source in SOURCES} == set(PLACES)

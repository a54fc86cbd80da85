"""bash launch/open_data.sh: small archives of the published form from a local web server, with real
faults and kills."""

import fcntl
import json
import os
import re
import resource
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
from jaxsep.data.layouts import read_layout
from jaxsep.data.packs.format import open_packed
from jaxsep.open_data import RECORD, SOURCES, space

ROOT = Path(__file__).resolve().parents[1]
TRAIN, ESC = "train-clean-100.tar.gz", "ESC-50-master.zip"
# A shell starts what it runs in the background with SIGINT ignored, and the tests may be that.
DRIVER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxsep import open_data
table = [open_data.Source(*row) for row in json.loads(sys.argv[1])]
sys.exit(open_data.main(sys.argv[2:], sources=table, retries=0))
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


@pytest.fixture
def root(tmp_path):
    return tmp_path / "open data"


def changed(table, name, **fields):
    return [row._replace(**fields) if row.name == name else row for row in table]


def call(server, root, table=None, retries=0):
    """The command in this process; its exit status."""
    table = archives.sources(server.files, server.url) if table is None else table
    return open_data.main([str(root)], sources=table, retries=retries)


def start(server, root):
    """The command as a process of its own."""
    table = archives.sources(server.files, server.url)
    command = [sys.executable, "-c", DRIVER, json.dumps(table), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def error(text):
    """The one line of an error."""
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_complete(root):
    """Every recording is where jaxsep looks for it, bit for bit, and packed; no archive is left."""
    rows = read_layout(root / "speech", "speech").rows
    speakers = [(row.split, row.classes[0][0]) for row in rows]
    expected = [("train", "19"), ("train", "26"), ("val", "84"), ("test", "61")]
    assert sorted(speakers) == sorted(2 * expected)
    assert (root / "speech/train/19/19-198-0000.flac").read_bytes() == archives.flac(19_198)
    layout, clips, *_ = read_layout(root / "ESC-50", "environment")
    assert layout == "esc50"
    assert sorted(row.split for row in clips) == ["test", "train", "train", "val"]
    assert (root / "ESC-50" / clips[0].paths[0]).read_bytes() == archives.clip(0)
    assert os.listdir(root / "downloads") == ["lock"]
    assert sorted(os.listdir(root / "speech")) == ["test", "train", "val"]
    cache = root.parent / "cache"
    packs = {name.split("-")[0]: open_packed(cache / name) for name in os.listdir(cache)}
    assert {name: (pack.sample_rate, len(pack.paths)) for name, pack in packs.items()} == {
        "speech": (8000, 8),
        "environment": (8000, 4),
    }


def test_fetched_laid_out_packed_and_then_left_alone(server, root, files, capsys):
    # As GitHub does: redirected to a server that gives no length.
    server.redirects["archive/master.zip"] = ESC
    server.chunked.add(ESC)
    table = archives.sources(files, server.url)
    table = changed(table, ESC, url=f"{server.url}/archive/master.zip")
    assert call(server, root, table) == 0
    first = capsys.readouterr()
    assert_complete(root)
    assert re.search(
        r"open data and .*cache \(packed\): 0\.0 GB needed, [\d,.]+ GB free", first.err
    )
    assert ["train", "4", "2", "0.001"] in [line.split() for line in first.out.splitlines()]
    command = first.out.splitlines()[-1].strip()
    assert command == (
        "bash launch/run.sh --config configs/class_bias.py:open "
        f"--config.data.speech_root='{root}/speech' --config.data.environment_root='{root}/ESC-50'"
    )
    assert json.loads((root / "ESC-50" / RECORD).read_text())["licence"] == "CC BY"
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != "lock"}

    server.requests.clear()
    assert call(server, root, table) == 0
    second = capsys.readouterr()
    assert f"{root}: complete already" in second.err.splitlines()
    assert second.out.splitlines()[-1].strip() == command
    shutil.rmtree(root.parent / "cache")
    assert call(server, root, table) == 0
    assert_complete(root)
    assert not server.requests, "packed again from what is there"
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != "lock"}
    assert after == times


@pytest.mark.parametrize("retries", [0, 1])
def test_a_cut_transfer_begins_again(server, root, capsys, retries):
    """By itself where it may try again, else by the next run; finished archives are kept."""
    server.faults = {"dev-clean.tar.gz": [("cut", 20_000)]}
    if not retries:
        assert call(server, root) == 1
        line = error(capsys.readouterr().err)
        assert line.startswith(f"error: {server.url}/dev-clean.tar.gz: ")
        assert line.endswith("the same command goes on from here")
        assert os.listdir(root / "downloads") == ["lock"]
    assert call(server, root, retries=retries) == 0
    assert server.requests == [TRAIN, *2 * ["dev-clean.tar.gz"], "test-clean.tar.gz", ESC]
    assert_complete(root)


@pytest.mark.parametrize("what", ["gone", "busy", "no server"])
def test_a_file_that_cannot_be_had(server, root, capsys, what):
    table = archives.sources(server.files, server.url)
    if what == "gone":
        table = changed(table, TRAIN, url=f"{server.url}/gone.tar.gz")
    elif what == "busy":
        server.faults[TRAIN] = [("status", 503)]
    else:
        server.shutdown()
        server.server_close()
    assert call(server, root, table) == 1
    said = {"gone": "404 Client Error", "busy": "503 Server Error", "no server": "refused"}[what]
    assert said in error(capsys.readouterr().err)
    assert "downloads/lock" in listing(root)


def test_a_wrong_checksum(server, root, files, capsys):
    wrong = files[TRAIN][:-100] + bytes(100)
    server.files[TRAIN] = wrong
    assert call(server, root, archives.sources(files, server.url)) == 1
    assert "hash of downloaded file" in error(capsys.readouterr().err)
    assert listing(root) == ["downloads/lock"]
    (root / "downloads" / TRAIN).write_bytes(wrong)
    server.files[TRAIN] = files[TRAIN]
    assert call(server, root) == 0
    assert server.requests[:2] == [TRAIN, TRAIN], "what lay there is fetched anew"
    assert_complete(root)


def test_an_archive_at_hand_is_not_fetched(server, root, files):
    (root / "downloads").mkdir(parents=True)
    (root / "downloads" / TRAIN).write_bytes(files[TRAIN])
    assert call(server, root) == 0
    assert TRAIN not in server.requests
    assert_complete(root)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_fetching(server, root, number):
    server.faults[TRAIN] = [("hang", 100_000)]
    process = start(server, root)
    wait_for(lambda: server.requests and any(root.glob("downloads/tmp*")))
    process.send_signal(number)
    status, err = finish(process)
    assert status == (-9 if number == signal.SIGKILL else 130), err
    if number == signal.SIGINT:
        assert err.splitlines()[-1] == "SIGINT: stopped; the same command goes on from here"
    assert call(server, root) == 0
    assert_complete(root)


def test_killed_while_unpacking(server, root):
    members = list(archives.speech_members("train-clean-100", (19, 26)).items())
    # A large file that is left out keeps it busy after the first speaker.
    large = [("LibriSpeech/train-clean-100/19/198/large.txt", bytes(60_000_000))]
    server.files[TRAIN] = archives.tar(dict(members[:3] + large + members[3:]))
    process = start(server, root)
    wait_for(lambda: list(root.glob("speech/.train*/19/19-198-0000.flac")))
    process.kill()
    assert finish(process)[0] == -9
    assert not (root / "speech/train").exists()
    server.requests.clear()
    assert call(server, root) == 0
    assert TRAIN not in server.requests
    assert_complete(root)


@pytest.mark.parametrize(("limit", "left"), [(60 * 1024, []), (150 * 1024, [ESC])])
def test_a_disk_that_takes_no_more(server, root, files, capsys, limit, left):
    """A limit on the size of files, met while fetching and, by a clip, while unpacking."""
    assert 60 * 1024 < len(files[TRAIN]) < 150 * 1024 < len(archives.clip(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        assert call(server, root) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search("File too large.*; the same command goes on", error(capsys.readouterr().err))
    assert sorted(os.listdir(root / "downloads")) == sorted([*left, "lock"])
    assert not (root / "ESC-50").exists()
    server.requests.clear()
    assert call(server, root) == 0
    assert (ESC in server.requests) == (not left)
    assert_complete(root)


def test_too_little_space_is_said_before_anything_is_fetched(server, root, capsys):
    table = archives.sources(server.files, server.url)
    assert call(server, root, changed(table, TRAIN, unpacked_bytes=10**18)) == 2
    line = error(capsys.readouterr().err)
    assert re.search(
        r"open.* and .*: 1,000,000,000\.\d GB needed, [\d,.]+ GB free; make room", line
    )
    assert not server.requests
    assert listing(root) == ["downloads/lock"]


def test_space_counts_an_archive_until_it_is_unpacked():
    first = SOURCES[0]._replace(archive_bytes=1000, unpacked_bytes=1100, seconds=1)
    second = first._replace(archive_bytes=100, unpacked_bytes=110)
    assert space([first, second]) == (2100, 1210, 64_000)


def link(name):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


SPEAKER = "LibriSpeech/train-clean-100/19"
SPEECH_MEMBERS = archives.speech_members("train-clean-100", (19, 26))
ESC_MEMBERS = archives.esc50_members()
ARCHIVE = archives.archive(ESC_MEMBERS)
HALF = len(ARCHIVE) // 2
EVIL = f"{SPEAKER}/../../../../evil"


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        (TRAIN, archives.tar(SPEECH_MEMBERS | {EVIL: b"evil"}), f"holds {EVIL!r}; must hold"),
        (TRAIN, archives.tar(SPEECH_MEMBERS | {"x": link("x")}), "holds 'x'; must hold regular"),
        (TRAIN, archives.tar(dict(list(SPEECH_MEMBERS.items())[:-1])), "must hold 4"),
        (ESC, archives.archive(ESC_MEMBERS | {"/evil": b"evil"}), "holds '/evil'; must hold"),
        (
            ESC,
            archives.archive(ESC_MEMBERS | {"ESC-50-master/x": bytes(3 * 10**6)}),
            "holds more than",
        ),
        (ESC, ARCHIVE[:HALF], "is damaged ("),
        (ESC, ARCHIVE[:HALF] + b"damage" + ARCHIVE[HALF + 6 :], "is damaged ("),
    ],
    ids=["out", "link", "one less", "absolute", "bomb", "cut", "changed"],
)
def test_a_damaged_or_malicious_archive_is_removed(
    server, root, files, capsys, name, contents, said
):
    """One line, nothing outside of the folder or in its place; the next run fetches it anew."""
    server.files[name] = contents
    assert call(server, root) == 2
    line = error(capsys.readouterr().err)
    assert name in line
    assert said in line
    assert line.endswith("the archive is removed, the next run fetches it anew")
    assert not list(root.parent.rglob("evil"))
    assert not (root / ("speech/train" if name == TRAIN else "ESC-50")).exists()
    assert os.listdir(root / "downloads") == ["lock"]
    if name == ESC:
        server.files[name] = files[name]
        assert call(server, root) == 0
        assert_complete(root)


def test_what_is_in_the_way_is_left_alone(server, root, capsys):
    own = root / "speech/train/me/mine.flac"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    assert call(server, root) == 2
    assert f"speech/train: is something else than {TRAIN}" in error(capsys.readouterr().err)
    assert not server.requests
    assert own.read_bytes() == b"mine"


def test_one_run_at_a_time(server, root, capsys):
    (root / "downloads").mkdir(parents=True)
    with open(root / "downloads/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call(server, root) == 2
    assert "another run is at work in" in error(capsys.readouterr().err)
    assert not server.requests


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be(server, tmp_path, capsys, place):
    (tmp_path / "file").write_text("mine")
    assert call(server, tmp_path / place) == 1
    assert error(capsys.readouterr().err).startswith("error: /")
    assert not server.requests
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--fast", "a"]])
def test_arguments_that_make_no_sense(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        open_data.main(arguments)
    assert "error: " in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_the_script_passes_arguments_and_status_on(tmp_path):
    """launch/open_data.sh itself; what it installs and starts only say that they were called."""
    copy = tmp_path / "jaxsep"
    (copy / ".venv/bin").mkdir(parents=True)
    (copy / "launch").mkdir()
    shutil.copy(ROOT / "launch/open_data.sh", copy / "launch")
    (copy / "launch/install.sh").write_text('test "$*" = report')
    python = copy / ".venv/bin/python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7')
    python.chmod(0o755)

    def script(*arguments):
        command = ["bash", str(copy / "launch/open_data.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    for nothing in (script(), script("")):
        assert (nothing.returncode, nothing.stdout) == (2, "")
        assert nothing.stderr == "error: DIR is missing: bash launch/open_data.sh DIR\n"
    folder = script("my folder")
    assert (folder.returncode, folder.stderr) == (7, "")
    assert folder.stdout.splitlines() == ["-m", "jaxsep.open_data", "my folder"]


def test_the_readme_gives_the_sizes_of_the_table():
    text = " ".join((ROOT / "launch/README.md").read_text(encoding="utf-8").split())
    sizes = (sum(source.archive_bytes for source in SOURCES), *space(SOURCES))
    fetched, peak, kept, packed = (f"{-(-size // 10**8) / 10:.1f} GB" for size in sizes)
    assert f"fetches {fetched}; DIR grows to {peak} at most and keeps {kept}" in text
    assert f"the packs take {packed}" in text
    # As published: https://www.openslr.org/resources/12/md5sum.txt
    assert [source.md5[:8] for source in SOURCES[:3]] == ["2a93770f", "42e2234b", "32fa31d2"]

"""The command `python -m jaxsep.prepare`, as a process of its own and as a function."""

import subprocess
import sys

import numpy as np
import pytest
from trees import write, write_tree, write_wsj0

from jaxsep.prepare import main


def run(*arguments, cwd):
    command = [sys.executable, "-m", "jaxsep.prepare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_real_recordings_in_a_real_process(tmp_path, recordings_dir):
    done = run(
        recordings_dir / "ESC-50-44k",
        "--name",
        "environment",
        "-o",
        tmp_path / "packs",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "split     recordings   classes     hours",
        "train              8         4     0.011",
        "val                0         0     0.000",
        "test               0         0     0.000",
        "all                8         4     0.011",
    ]
    assert "layout esc50, 8000 Hz" in done.stdout
    assert [path.name.split("-")[:2] for path in (tmp_path / "packs").iterdir()] == [
        ["environment", "8000"]
    ]


def test_bad_data_in_a_real_process(tmp_path):
    done = run(tmp_path / "nowhere", "--name", "speech", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(
        f"error: data.speech_root: {tmp_path / 'nowhere'} is no readable folder"
    )
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_rate_and_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "packed"))
    write_tree(tmp_path / "root", classes=2, clips=3, seconds=1.0)
    assert main(["root", "--name", "speech", "--sample-rate", "4000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "layout tree, 4000 Hz" in lines[0]
    assert lines[2].split() == ["train", "6", "2", f"{6 / 3600:.3f}"]
    assert len({len(line) for line in lines[1:]}) == 1, "the columns are aligned"
    assert [path.name.rsplit("-", 1)[0] for path in (tmp_path / "packed").iterdir()] == [
        "speech-4000"
    ]


def test_synthetic_is_said(tmp_path, capsys):
    write_tree(tmp_path / "root", clips=1)
    (tmp_path / "root" / "SYNTHETIC.json").write_text("{}")
    assert main([str(tmp_path / "root"), "--name", "speech", "-o", str(tmp_path / "packs")]) == 0
    assert capsys.readouterr().out.startswith("speech (synthetic): ")


def test_wsj0_both_ways(tmp_path, capsys):
    write_wsj0(tmp_path / "wsj0")
    arguments = [str(tmp_path / "wsj0"), "-o", str(tmp_path / "packs"), "--name"]
    assert main([*arguments, "speech"]) == 0
    said = capsys.readouterr()
    assert "(the paper: 14,823)" in said.err
    assert said.out.splitlines()[2].split()[:3] == ["train", "4", "3"]
    assert main([*arguments, "premixed", "--roles", "mix,s2"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["train", "3", "3"]


@pytest.mark.parametrize("name", ["speech", "premixed"])
def test_unreadable_files_give_one_list_and_status_2(tmp_path, capsys, name):
    root = write_wsj0(tmp_path / "wsj0") / "2speakers/wav8k/min"
    for path in (root / "tr" / "s1").iterdir():
        path.write_bytes(b"nonsense")
    assert main([str(root), "--name", name, "-o", str(tmp_path / "packs")]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    first, *listed = said[said.index("error: ") :].splitlines()
    assert "recordings cannot be used; --skip-bad" in first
    assert listed
    assert all("tr/s1/" in line for line in listed)


def test_roles_are_for_premixed_sets(tmp_path, capsys):
    write(tmp_path / "root" / "train" / "c0" / "0.wav", np.ones(100))
    assert main([str(tmp_path / "root"), "--name", "speech", "--roles", "mix,s1"]) == 2
    assert "--roles: is 'mix,s1'; must be used with --name premixed only" in capsys.readouterr().err

"""The command `python -m jaxsep.prepare`, as a process of its own and as a function."""

import subprocess
import sys

import numpy as np
from trees import write, write_tree, write_wsj0

from jaxsep.prepare import main


def test_real_recordings_in_a_real_process(tmp_path, recordings_dir):
    words = [recordings_dir / "ESC-50-44k", "--name", "environment", "-o", tmp_path / "packs"]
    command = [sys.executable, "-m", "jaxsep.prepare", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *table = done.stdout.splitlines()
    assert "layout esc50, 8000 Hz" in first
    assert table == [
        "split     recordings   classes     hours",
        "train              8         4     0.011",
        "val                0         0     0.000",
        "test               0         0     0.000",
        "all                8         4     0.011",
    ]
    (pack,) = (tmp_path / "packs").iterdir()
    assert pack.name.startswith("environment-8000-")


def test_a_missing_dataset_is_one_line_and_nothing_is_written(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--name", "speech", "-o", str(tmp_path / "packs")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: data.speech_root: {tmp_path / 'none'} is no readable folder")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_rate_cache_and_synthetic_sound(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "packed"))
    write_tree(tmp_path / "root", classes=2, clips=3, seconds=1.0)
    (tmp_path / "root" / "SYNTHETIC.json").write_text("{}")
    assert main(["root", "--name", "speech", "--sample-rate", "4000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("speech (synthetic): layout tree, 4000 Hz")
    assert lines[2].split() == ["train", "6", "2", f"{6 / 3600:.3f}"]
    assert len({len(line) for line in lines[1:]}) == 1, "the columns are aligned"
    (pack,) = (tmp_path / "packed").iterdir()
    assert pack.name.startswith("speech-4000-")


def test_wsj0_both_ways(tmp_path, capsys):
    write_wsj0(tmp_path / "wsj0")
    arguments = [str(tmp_path / "wsj0"), "-o", str(tmp_path / "packs"), "--name"]
    assert main([*arguments, "speech"]) == 0
    out, err = capsys.readouterr()
    assert "4 training utterances in WSJ0-2mix (the paper: 14,823)" in err
    assert out.splitlines()[2].split()[:3] == ["train", "4", "3"]
    assert main([*arguments, "premixed", "--roles", "mix,s2"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["train", "3", "3"]


def test_roles_are_for_premixed_sets(tmp_path, capsys):
    write(tmp_path / "root" / "train" / "c0" / "0.wav", np.ones(100))
    assert main([str(tmp_path / "root"), "--name", "speech", "--roles", "mix,s1"]) == 2
    assert "--roles: is 'mix,s1'; it is for --name premixed only" in capsys.readouterr().err

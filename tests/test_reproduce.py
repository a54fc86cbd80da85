"""launch/reproduce.sh as a user runs it: real runs, killed and gone on with."""

import os
import signal
import subprocess
import time

import pytest
import runs

ROOT = runs.ROOT
SCRIPTS = ROOT / "launch"
SCRIPT = ["bash", str(SCRIPTS / "reproduce.sh")]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_with_a_report(tmp_path):
    if not (ROOT / ".venv").exists():
        pytest.skip("no .venv: the script would install one, which is for launch/test.sh to do")
    fields = runs.SMALL | {"train.num_epochs": 1}
    options = ["--only", "curriculum", "--seeds", "1", "--workdir", str(tmp_path / "sweep")]
    command = [*SCRIPT, *options, *(f"--config.{name}={value}" for name, value in fields.items())]
    names = ("uniform", "easy-first")
    first, second = (tmp_path / "sweep" / f"curriculum-{name}-seed0" for name in names)

    with open(tmp_path / "log", "w") as log:
        sweep = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (second / "config.json").exists():
        assert sweep.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    assert not (second / "summary.json").exists()
    finished_at = (first / "summary.json").stat().st_mtime_ns

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"run 1 of 2: {first} is finished" in again.stdout
    assert (first / "summary.json").stat().st_mtime_ns == finished_at
    assert (second / "summary.json").exists()
    report = (tmp_path / "sweep" / "report" / "report.md").read_text()
    assert "curriculum" in report
    assert "uniform" in report

    changed = [*command, "--config.train.learning_rate=0.1"]
    other = subprocess.run(changed, capture_output=True, text=True)
    assert other.returncode == 2
    assert "train.learning_rate" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--scale big --workdir x", "--scale is big, it must be demo, cpu, open or paper"),
        ("--only all --workdir x", "--only is all, it must be robust, curriculum or class_bias"),
        ("--seeds 0 --workdir x", "--seeds is 0, it must be a whole number of at least 1"),
        ("--scale cpu", "--workdir is missing"),
        ("--sacle cpu", "--sacle: not known"),
        ("--workdir", "--workdir needs a value"),
    ],
)
def test_mistakes_are_told_in_a_line_before_anything_is_done(arguments, message, tmp_path):
    command = [*SCRIPT, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.sh")))
def test_every_script_says_what_it_does(name, tmp_path):
    done = subprocess.run(
        ["bash", str(SCRIPTS / name), "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"bash launch/{name}" in done.stdout

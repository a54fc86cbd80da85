"""One device, several devices and several processes: the same step, scores and run."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import runs

from jaxsep.main import main

# How often the run that is killed again and again is killed; 8 times take four minutes.
KILLS = int(os.environ.get("JAXSEP_KILLS", "8"))


@pytest.fixture(scope="module", autouse=True)
def cache(pack_cache):
    """One cache of packed corpora for all runs."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def launch(*command, devices=1, processes=1, flags=("", "", "")) -> list[subprocess.Popen]:
    """The command in as many processes, each with as many CPU devices.

    flags: what to put before the coordinator, the number of processes and the process.
    """
    coordinator = f"localhost:{free_port()}"
    xla = f"--xla_cpu_prefer_vector_width=512 --xla_force_host_platform_device_count={devices}"
    started = []
    for process in range(processes):
        values = (coordinator, str(processes), str(process))
        place = [word for pair in zip(flags, values, strict=True) for word in pair if word]
        started.append(
            subprocess.Popen(
                [sys.executable, *command, *(place if processes > 1 else [])],
                cwd=runs.ROOT,
                env={**os.environ, "XLA_FLAGS": xla, "PYTHONPATH": str(runs.ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(started, status=0) -> str:
    outputs = [process.communicate(timeout=240)[0] for process in started]
    statuses = [process.returncode for process in started]
    assert statuses == [status] * len(started), "\n".join(outputs)
    return outputs[0]


def train(workdir, *, devices=1, processes=1, **fields) -> list[subprocess.Popen]:
    command = ["-m", "jaxsep.main", *runs.arguments(workdir, train__batch_size=8, **fields)]
    flags = ("--coordinator", "--processes", "--process")
    return launch(*command, devices=devices, processes=processes, flags=flags)


PLACES = {"1 device": (1, 1), "2 devices": (2, 1), "8 devices": (8, 1), "2 processes": (1, 2)}


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Place -> the folder of what on_devices.py made there; all places at once."""
    folders = {place: tmp_path_factory.mktemp("steps") for place in PLACES}
    started = [
        launch("tests/training/on_devices.py", str(folder), devices=devices, processes=processes)
        for folder, (devices, processes) in zip(folders.values(), PLACES.values(), strict=True)
    ]
    for processes in started:
        finish(processes)
    return folders


@pytest.mark.parametrize("place", list(PLACES)[1:])
def test_losses_weights_and_gradients_are_those_of_one_device_step_after_step(steps, place):
    with (
        np.load(steps["1 device"] / "steps.npz") as alone,
        np.load(steps[place] / "steps.npz") as shared,
    ):
        assert set(alone) == set(shared)
        assert len(alone) == 5 * 3 * 4  # cases, steps, and loss, losses, weights and gradient
        for name, expected in alone.items():
            distance = np.linalg.norm(shared[name] - expected) / np.linalg.norm(expected)
            assert distance < 1e-5, (name, distance)


def test_a_softmax_on_every_device_would_be_seen(steps):
    with np.load(steps["1 device"] / "steps.npz") as stored:
        losses, weights = stored["network/0 losses"], stored["network/0 weights"]
    powers = np.exp(0.3 * losses.reshape(2, -1))
    apart = powers / powers.sum(axis=1, keepdims=True) / 2
    assert np.linalg.norm(apart.ravel() - weights.ravel()) > 1e-3 * np.linalg.norm(weights)


def test_every_process_renders_its_own_mixtures_and_none_is_used_twice(steps):
    shares = [np.load(steps["2 processes"] / f"{process}.npy") for process in (0, 1)]
    assert [share.size for share in shares] == [64, 64]
    assert sorted(np.concatenate(shares)) == list(range(128))
    assert sorted(np.load(steps["8 devices"] / "0.npy")) == list(range(128))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run on one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert main(runs.arguments(workdir, train__batch_size=8)) == 0
    return workdir


NAMES = {"train": ("loss", "grad_norm", "ess"), "val": ("combined",), "test": ("combined",)}


def assert_same_run(workdir, expected, kinds=("train", "val")):
    """The same parameters, records and scores, but for rounding; each test source once."""
    states = (runs.last_state(folder).params for folder in (workdir, expected))
    for x, y in zip(*map(jax.tree.leaves, states), strict=True):
        # Four steps of at most the learning rate, 1e-3.
        np.testing.assert_allclose(x, y, atol=1e-4 * 1e-3 * 4)
    for kind in kinds:
        ours, theirs = runs.records(workdir, kind), runs.records(expected, kind)
        assert [record["step"] for record in ours] == [record["step"] for record in theirs]
        for name in NAMES[kind]:
            values = ([record[name] for record in records] for records in (ours, theirs))
            np.testing.assert_allclose(*values, rtol=1e-4)
    assert_same_scores(workdir, expected)


def assert_same_scores(workdir, expected):
    ours, theirs = (scores(folder / "evaluation" / "test.csv") for folder in (workdir, expected))
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    np.testing.assert_allclose([row[3] for row in ours], [row[3] for row in theirs], atol=1e-2)


def scores(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [
            (row["mixture"], row["slot"], row["class"], float(row["si_sdri_db"]))
            for row in csv.DictReader(file)
        ]


def test_two_processes_train_and_score_as_one(alone, tmp_path):
    output = finish(train(tmp_path / "run", processes=2))
    assert "Test set, best epoch" in output
    assert_same_run(tmp_path / "run", alone, kinds=NAMES)


@pytest.mark.slow
def test_one_device_goes_on_from_the_checkpoint_of_eight(alone, tmp_path):
    finish(train(tmp_path / "run", devices=8, train__num_epochs=1))
    assert main(runs.arguments(tmp_path / "run", train__batch_size=8)) == 0
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_eight_devices_go_on_from_the_checkpoint_of_one(alone, tmp_path):
    workdir, longer = tmp_path / "run", tmp_path / "alone"
    for folder in (workdir, longer):
        shutil.copytree(alone, folder)
    assert main(runs.arguments(longer, train__batch_size=8, train__num_epochs=3)) == 0
    output = finish(train(workdir, devices=8, train__num_epochs=3))
    assert "going on from step 4, epoch 3" in output
    assert_same_run(workdir, longer)


def wait_for(path: Path, text: str, started) -> None:
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text()):
        assert all(process.poll() is None for process in started), finish(started)
        assert time.monotonic() < deadline, f"no {text} in {path}"
        time.sleep(0.01)


@pytest.mark.slow
def test_sigterm_stops_every_process_after_the_same_step(tmp_path):
    """The signal reaches only one of them, and not the main process."""
    workdir = tmp_path / "run"
    started = train(workdir, processes=2, train__num_epochs=50, train__log_every=1)
    wait_for(workdir / "metrics.jsonl", '"step": 3,', started)
    started[1].send_signal(signal.SIGTERM)
    output = finish(started, status=143)
    saved = re.search(r"SIGTERM: saved at step (\d+); the same command goes on from here", output)
    assert int(runs.last_state(workdir).step) == int(saved[1])
    assert not (workdir / "summary.json").exists()


@pytest.mark.slow
def test_killed_at_any_time_a_run_ends_as_one_that_was_not(tmp_path):
    fields = {"train__num_epochs": 15 * KILLS, "train__checkpoint_minutes": 1e-9}
    finish(train(tmp_path / "undisturbed", processes=2, **fields))
    workdir, rng, reached = tmp_path / "run", np.random.default_rng(0), [0]
    for number in range(KILLS):
        started = train(workdir, processes=2, **fields)
        if number % 2 == 0:  # among steps and saves; the others while it starts
            wait_for(workdir / "metrics.jsonl", f'"step": {reached[-1] // 2 * 2 + 4},', started)
        time.sleep(rng.uniform(0, 2 if number % 2 == 0 else 10))
        for process in started:
            process.kill()
        for process in started:
            process.communicate()
        assert not (workdir / "summary.json").exists()
        reached.append(int(runs.last_state(workdir).step))
    print("saved steps found after each kill:", reached[1:])
    assert reached[0] < reached[1]
    assert sorted(reached) == reached
    finish(train(workdir, processes=2, **fields))
    runs.assert_same(runs.last_state(workdir), runs.last_state(tmp_path / "undisturbed"))


def test_a_batch_that_the_devices_cannot_share_is_refused(tmp_path):
    output = finish(train(tmp_path / "run", devices=3), status=2)
    assert "error: train.batch_size is 8, it must be a multiple of the 3 devices" in output
    assert not (tmp_path / "run").exists()


def test_a_mistake_stops_every_process(tmp_path):
    started = train(tmp_path / "run", processes=2, train__best_metric="loudness")
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [2, 2], outputs
    assert "error: train.best_metric is 'loudness'" in outputs[0]
    assert "stopped: another process could not go on" in outputs[1]


@pytest.mark.parametrize(
    "flags",
    [
        ["--processes", "2"],
        ["--coordinator", "localhost:1", "--processes", "2", "--process", "2"],
    ],
)
def test_half_said_flags_are_refused(tmp_path, capsys, flags):
    assert main([*runs.arguments(tmp_path / "run"), *flags]) == 2
    assert "--process I, from 0 to N - 1, go together" in capsys.readouterr().err


SRUN = """#!/usr/bin/env bash
# Two tasks on this machine, as SLURM would start them.
shift
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
trap 'kill -TERM $first $second' TERM
wait $first; status=$?
while kill -0 $first 2>/dev/null; do wait $first; status=$?; done
wait $second
exit $status
"""


@pytest.mark.slow
def test_the_slurm_script_starts_a_process_for_every_task_and_queues_again(alone, tmp_path):
    if not (runs.ROOT / ".venv").exists():
        pytest.skip("no .venv: launch/slurm.sbatch would install one")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text(SRUN)
    (tools / "scontrol").write_text(f'#!/usr/bin/env bash\necho "$@" >>{tmp_path}/scontrol.log\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    workdir = tmp_path / "run"
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(free_port()),  # JAX makes the coordinator's port of it
        "SLURM_SUBMIT_DIR": str(runs.ROOT),
    }

    def submit(**fields):
        command = ["bash", str(runs.ROOT / "launch" / "slurm.sbatch")]
        command += runs.arguments(workdir, train__batch_size=8, **fields)
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    job = submit(train__log_every=1)
    wait_for(workdir / "metrics.jsonl", '"step": 1,', [job])
    children = subprocess.run(
        ["pgrep", "-P", str(job.pid), "-f", "srun"], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert "SIGTERM: saved at step" in finish([job], status=143)
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {environment['SLURM_JOB_ID']}\n"
    assert "going on from step" in finish([submit()])
    assert_same_scores(workdir, alone)

"""A training of many epochs in one process: memory, open files and threads do not grow.

JAXSEP_SOAK_MINUTES=15 bash launch/test.sh -m slow -n 0 -s tests/faults/test_soak.py
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import ROOT, arguments, records

MINUTES = float(os.environ.get("JAXSEP_SOAK_MINUTES", "15"))
FIRST_MINUTES = min(2.0, MINUTES / 4)  # of compiling, and of caches that fill


def measure(process) -> dict[str, float]:
    place = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    return {
        "memory (MB)": int(status["VmRSS"].split()[0]) / 1e3,
        "open files": len(list((place / "fd").iterdir())),
        "threads": int(status["Threads"]),
    }


@pytest.mark.slow
def test_memory_files_and_threads_do_not_grow(tmp_path, pack_cache):
    """Epochs of some seconds with validation, a record of every step, a checkpoint every 6 s."""
    workdir = tmp_path / "run"
    fields = {
        "num_epochs": 10**6,
        "mixtures_per_epoch": 2000,
        "log_every": 1,
        "checkpoint_minutes": 0.1,
        "workers": 2,
    }
    words = arguments(workdir, **{f"train__{name}": value for name, value in fields.items()})
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "jaxsep.main", *words], cwd=ROOT, **silent)
    seen = []
    try:
        begun = time.monotonic()
        while (now := (time.monotonic() - begun) / 60) < MINUTES:
            time.sleep(5)
            assert process.poll() is None
            if now > FIRST_MINUTES:
                seen.append(measure(process.pid))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
        process.wait()
    validations = len(records(workdir, "val"))
    print(f"\n{MINUTES:g} minutes, {validations} epochs")
    for name in seen[0]:
        values = [one[name] for one in seen]
        tenth = max(1, len(values) // 10)
        # What a thread or file of the moment adds is in both; growth is in the last tenth alone.
        start, end = max(values[:tenth]), max(values[-tenth:])
        print(f"{name:12} {start:8.1f} at the start {end:8.1f} at the end")
        assert end <= start * 1.05, name
    assert validations > MINUTES

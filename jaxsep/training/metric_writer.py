"""What can be read of a run while it goes on: metrics.jsonl and TensorBoard curves."""

import importlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsep.console import say
from jaxsep.files import atomic_file


class MetricWriter:
    """Appends records to workdir/metrics.jsonl, and their numbers to workdir/tensorboard.

    A record is one line of JSON: {"kind": "train" | "val" | "test" | "skipped", "data": …,
    "step": …, "epoch": …, NAME: number, …}. When a run goes on from a checkpoint, records of what
    came after the checkpoint are removed first.

    Args:
      workdir: the run's folder.
      step, epoch: of the checkpoint, 0 for a new run; `epoch` is the first that is not finished.
      data: 'recordings' or 'synthetic', a label in every record.
    """

    def __init__(self, workdir: Path, *, step: int, epoch: int, data: str) -> None:
        path = workdir / "metrics.jsonl"
        _cut(path, step, epoch)
        self._data = data
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed in close()
        self._curves: _Curves | None = None
        try:
            self._curves = _Curves(workdir / "tensorboard", step)
        except ImportError:
            say(
                "no TensorBoard curves: pip install 'jaxsep[report]' brings them; "
                "metrics.jsonl has all numbers"
            )

    def record(self, kind: str, *, step: int, epoch: int, **values: Any) -> None:
        """Write one record."""
        line = {"kind": kind, "data": self._data, "step": step, "epoch": epoch, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._curves is not None and kind != "skipped":
            self._curves.add({f"{kind}/{name}": number for name, number in values.items()}, step)

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        if self._curves is not None:
            self._curves.close()


def _cut(path: Path, step: int, epoch: int) -> None:
    """Remove the records of what came after a checkpoint, and a line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            within_epoch = record["kind"] in ("train", "skipped")
            if record["step"] <= step and (within_epoch or record["epoch"] < epoch):
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    with atomic_file(path) as stream:
        stream.write(b"".join(kept))


class _Curves:
    """TensorBoard's event file, written by the thread that calls.

    tensorboardX's SummaryWriter has a thread of its own. A full disk ends that thread, and then the
    run would wait for it forever.
    """

    def __init__(self, folder: Path, step: int) -> None:
        files, self._summary, self._protocol = (
            importlib.import_module(f"tensorboardX.{name}")
            for name in ("event_file_writer", "summary", "proto.event_pb2")
        )
        folder.mkdir(exist_ok=True)
        # The suffix gives two runs within one second two files.
        self._file = files.EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        # Tells TensorBoard to drop what an earlier process wrote from this step on.
        start = self._protocol.SessionLog(status=self._protocol.SessionLog.START)
        self._write(step + 1, session_log=start)

    def add(self, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._write(step, summary=self._summary.scalar(name, number))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._protocol.Event(wall_time=time.time(), step=step, **content))


class Window:
    """The metrics of the steps since the last record.

    They stay on the device until `means` or `pending` fetches all of them at once. The metrics of a
    skipped step are not finite: of it, only that it was skipped counts.
    """

    def __init__(self, pending: list[dict[str, float]] | None = None) -> None:
        self._steps: list[dict[str, Any]] = list(pending or [])
        self._start = time.monotonic()
        self._waited = 0.0
        self._examples = 0

    def add(self, metrics: dict[str, jax.Array], *, examples: int, waited: float) -> None:
        """Add a step: its metrics, its examples, and the seconds that the host waited for them."""
        self._steps.append(metrics)
        self._examples += examples
        self._waited += waited

    def pending(self) -> list[dict[str, float]]:
        """JSON data for a checkpoint, which `Window(pending)` takes back."""
        steps = [
            {name: float(value) for name, value in metrics.items()}
            for metrics in jax.device_get(self._steps)
        ]
        return [{"skipped": 1.0} if step["skipped"] else step for step in steps]

    def means(self) -> dict[str, float]:
        """The means over the steps that were not skipped; {} if all were.

        skipped is the number of skipped steps, examples_per_s their rate, and wait_share the share
        of the time in which the host waited for data.
        """
        steps = self.pending()
        taken = [step for step in steps if not step["skipped"]]
        if not taken:
            return {}
        seconds = max(time.monotonic() - self._start, 1e-9)
        means = {name: float(np.mean([step[name] for step in taken])) for name in taken[0]}
        return means | {
            "skipped": len(steps) - len(taken),
            "examples_per_s": self._examples / seconds,
            "wait_share": self._waited / seconds,
        }

"""What a run leaves to be read while it goes on: metrics.jsonl and, where tensorboardX is installed, TensorBoard curves."""

import importlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsep.files import atomic_file


class Journal:
    """Appends records to workdir/metrics.jsonl and the numbers in them to workdir/tensorboard.

    A record is one line of JSON: {"kind": "train" | "val" | "test" | "skipped", "data": …, "step": …, NAME: number, …}. On
    opening, what was written after the checkpoint that the run goes on from is cut off.

    Args:
      workdir: the run's folder.
      step: of the checkpoint; 0 for a new run.
      epoch: of the checkpoint: records of a finished epoch lie before it.
      data: 'recordings' or 'synthetic', a label in every record.
      say: where one line goes when curves cannot be written.
    """

    def __init__(
        self, workdir: Path, *, step: int, epoch: int, data: str, say: Any = print
    ) -> None:
        path = workdir / "metrics.jsonl"
        _cut(path, step, epoch)
        self._data = data
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed in close()
        self._curves = _curves(workdir / "tensorboard", step, say)

    def record(self, kind: str, *, step: int, epoch: int, **values: Any) -> None:
        """Write one record; nested values go to metrics.jsonl alone."""
        line = {"kind": kind, "data": self._data, "step": step, "epoch": epoch, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._curves is not None and kind != "skipped":
            self._curves.add(
                {f"{kind}/{name}": x for name, x in values.items() if isinstance(x, int | float)},
                step,
            )

    def close(self) -> None:
        self._file.close()
        if self._curves is not None:
            self._curves.close()


def _cut(path: Path, step: int, epoch: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            among_steps = record["kind"] in ("train", "skipped")
            before = record["step"] <= step and (among_steps or record["epoch"] < epoch)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a kill in the middle of a write leaves half a line
        if before:
            kept.append(line + b"\n")
    with atomic_file(path) as stream:
        stream.write(b"".join(kept))


class _Curves:
    """TensorBoard's event file, written where it is called: tensorboardX's SummaryWriter has a thread for that, which a full
    disk ends, and then the run waits for it without end."""

    def __init__(self, folder: Path, step: int) -> None:
        files, self._summary, self._protocol = (
            importlib.import_module(f"tensorboardX.{name}")
            for name in ("event_file_writer", "summary", "proto.event_pb2")
        )
        folder.mkdir(exist_ok=True)
        self._file = files.EventsWriter(
            str(folder / "events"), f".{time.time_ns()}"
        )  # two runs within a second, two files
        start = self._protocol.SessionLog(status=self._protocol.SessionLog.START)
        self._write(
            step + 1, session_log=start
        )  # what an earlier process wrote from this step on is void

    def add(self, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._write(step, summary=self._summary.scalar(name, number))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._protocol.Event(wall_time=time.time(), step=step, **content))


def _curves(folder: Path, step: int, say: Any) -> _Curves | None:
    try:
        return _Curves(folder, step)
    except ImportError:
        say(
            "no TensorBoard curves: pip install 'jaxsep[report]' brings them; metrics.jsonl has all numbers"
        )
        return None


class Window:
    """Metrics of the steps since the last record, kept on the device until they are asked for. Those of a skipped step are no
    numbers: of it, only that it was skipped counts."""

    def __init__(self, pending: list[dict[str, float]] | None = None) -> None:
        self._pending: list[dict[str, Any]] = list(pending or [])
        self._start = time.monotonic()
        self._waited = 0.0
        self._examples = 0

    def add(self, metrics: dict[str, jax.Array], *, examples: int, waited: float) -> None:
        """One step: its metrics, its number of examples and the seconds it waited for them."""
        self._pending.append(metrics)
        self._examples += examples
        self._waited += waited

    def pending(self) -> list[dict[str, float]]:
        """JSON data to go on from after a restart."""
        steps = [
            {name: float(value) for name, value in metrics.items()}
            for metrics in jax.device_get(self._pending)
        ]
        return [{"skipped": 1.0} if step["skipped"] else step for step in steps]

    def means(self) -> dict[str, float]:
        """Means over the window, the number of steps skipped, examples per second and the share of time spent waiting for
        data; {} where all steps were skipped."""
        steps = self.pending()
        taken = [step for step in steps if not step["skipped"]]
        if not taken:
            return {}
        seconds = max(time.monotonic() - self._start, 1e-9)
        means = {name: float(np.mean([step[name] for step in taken])) for name in taken[0]}
        means |= {"skipped": len(steps) - len(taken), "examples_per_s": self._examples / seconds}
        return {**means, "wait_share": self._waited / seconds}

"""What a run leaves to be read while it goes on: metrics.jsonl and, where tensorboardX is installed, TensorBoard curves."""

import importlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsep.data.packing import atomic_file


class Journal:
    """Appends records to workdir/metrics.jsonl and the numbers in them to workdir/tensorboard.

    A record is one line of JSON: {"kind": "train" | "val" | "test", "data": …, "step": …, NAME: number, …}. On opening, what
    was written after the checkpoint that the run goes on from is cut off.

    Args:
      workdir: the run's folder.
      step: of the checkpoint; 0 for a new run.
      epoch: of the checkpoint: records of a finished epoch lie before it.
      data: 'recordings' or 'synthetic', a label in every record.
      say: where one line goes when curves cannot be written.
    """

    def __init__(self, workdir: Path, *, step: int, epoch: int, data: str, say: Any = print) -> None:
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
        if self._curves is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._curves.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        if self._curves is not None:
            self._curves.close()


def _cut(path: Path, step: int, epoch: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            before = record["step"] <= step and (record["kind"] == "train" or record["epoch"] < epoch)
        except (ValueError, KeyError, TypeError):
            continue  # a kill in the middle of a write leaves half a line
        if before:
            kept.append(line + "\n")
    with atomic_file(path) as stream:
        stream.write("".join(kept).encode())


def _curves(folder: Path, step: int, say: Any) -> Any:
    try:
        writer = importlib.import_module("tensorboardX").SummaryWriter
    except ImportError:
        say("no TensorBoard curves: pip install 'jaxsep[report]' brings them; metrics.jsonl has all numbers")
        return None
    return writer(str(folder), purge_step=step + 1)


class Window:
    """Metrics of the steps since the last record, kept on the device until they are asked for."""

    def __init__(self, pending: list[dict[str, float]] | None = None) -> None:
        self._pending: list[dict[str, Any]] = list(pending or [])
        self._start = time.monotonic()
        self._waited = 0.0
        self._examples = 0

    def add(self, metrics: dict[str, jax.Array], *, examples: int, waited: float) -> None:
        """One step: its metrics, its number of examples and the seconds it waited for them."""
        if self._pending:
            jax.block_until_ready(self._pending[-1])  # the queue of steps stays one deep, and the clock honest
        self._pending.append(metrics)
        self._examples += examples
        self._waited += waited

    def pending(self) -> list[dict[str, float]]:
        """JSON data to go on from after a restart."""
        return [{name: float(value) for name, value in metrics.items()} for metrics in jax.device_get(self._pending)]

    def means(self) -> dict[str, float]:
        """Means over the window, examples per second and the share of time spent waiting for data."""
        steps = self.pending()
        seconds = max(time.monotonic() - self._start, 1e-9)
        means = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        return {**means, "examples_per_s": self._examples / seconds, "wait_share": self._waited / seconds}

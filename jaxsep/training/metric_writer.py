"""What can be read of a run while it goes on: metrics.jsonl and TensorBoard curves."""

import json
import time
from pathlib import Path
from typing import Any

from jaxsep.console import say
from jaxsep.files import atomic_file

try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2
    from tensorboardX.summary import scalar
except ImportError:  # of the extra `report`
    EventsWriter = None


class MetricWriter:
    """Appends records to workdir/metrics.jsonl, and their numbers to workdir/tensorboard.

    A record is one line of JSON: {"kind": "train" | "val" | "test" | "skipped", "data": …,
    "step": …, "epoch": …, NAME: number, …}. When a run goes on from a checkpoint, records of what
    came after the checkpoint are removed first.

    The event file of TensorBoard is written directly: tensorboardX's SummaryWriter has a thread
    that a full disk ends, and then the run would wait for it forever.

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
        self._events: Any = None
        if EventsWriter is None:
            say(
                "no TensorBoard curves: pip install 'jaxsep[report]' brings them; "
                "metrics.jsonl has all numbers"
            )
            return
        (workdir / "tensorboard").mkdir(exist_ok=True)
        # The suffix gives two runs within one second two files.
        self._events = EventsWriter(str(workdir / "tensorboard/events"), f".{time.time_ns()}")
        # Tells TensorBoard to drop what an earlier process wrote from this step on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write_event(step + 1, session_log=start)

    def record(self, kind: str, *, step: int, epoch: int, **values: Any) -> None:
        """Write one record."""
        line = {"kind": kind, "data": self._data, "step": step, "epoch": epoch, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._events is not None and kind != "skipped":
            for name, number in values.items():
                self._write_event(step, summary=scalar(f"{kind}/{name}", number))
            self._events.flush()

    def _write_event(self, step: int, **content: Any) -> None:
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _cut(path: Path, step: int, epoch: int) -> None:
    """Remove the records of what came after a checkpoint, and a line that a kill cut short."""
    kept = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            within_epoch = record["kind"] in ("train", "skipped")
            if record["step"] <= step and (within_epoch or record["epoch"] < epoch):
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            continue
    with atomic_file(path) as stream:
        stream.write(b"".join(kept))

"""The parent's side of the line protocol (see `protocol`): workers started, measured in turn, ended."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tqdm import tqdm

# member of a group -> quantity -> its values in the order in which they were measured
Results = dict[str, dict[str, list[float]]]

OURS = (sys.executable, "-m", "jaxsep.benchmark.worker")
# For both sides what `runtime.configure` asks of glibc: memory that is freed stays with the process.
KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
# What the threads of the worker that was last busy need to come to rest.
REST_SECONDS = 0.1
TAIL_LINES = 8
# Several of our workers share a GPU, and none shall find what another has compiled.
ENVIRONMENT = {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_BAR: dict[str, Any] = {
    "leave": False,
    "dynamic_ncols": True,
    "mininterval": 0.1 if sys.stderr.isatty() else 20.0,
}


class WorkerError(RuntimeError):
    """A worker reported an error or died; the message has its words and the end of its standard error."""


class Worker:
    """A worker process that has built its case; `ready` is its first answer. A context manager that ends the process."""

    def __init__(
        self, command: Sequence[str], case: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**KEPT_MEMORY, **environment, **os.environ, **case.get("environment", {})},
        )
        try:
            self.ready = self._ask(json.dumps(case))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def go(self) -> dict[str, float]:
        """One timed repetition, after one that is not."""
        return self._ask("go")

    def stop(self) -> dict[str, float]:
        """What it says at the end: peak_bytes."""
        return self._ask("stop")

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(line, file=self._process.stdin, flush=True)
            answered = self._process.stdout.readline()
        except BrokenPipeError:
            answered = ""
        if not answered:
            raise WorkerError(
                f"a worker died with exit status {self._process.wait()}{self._tail()}"
            )
        answer = json.loads(answered)
        if "error" in answer:
            raise WorkerError(f"{answer['error']}{self._tail()}")
        return answer

    def _tail(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        return "".join(f"\n    {line}" for line in lines)


def start(case: Mapping[str, Any], peer: Sequence[str]) -> Worker:
    """The worker of a case: ours, or with case['side'] == 'peer' the one that the command `peer` starts."""
    return Worker(peer, case, {}) if case["side"] == "peer" else Worker(OURS, case, ENVIRONMENT)


def measure_in_turn(
    title: str, members: Mapping[str, Mapping[str, Any]], repeats: int, *, peer: Sequence[str] = ()
) -> Results:
    """Start a worker for each case, then take `repeats` rounds of one repetition each.

    Raises:
      WorkerError: naming the member.
    """
    results: Results = {name: {} for name in members}
    with ExitStack() as stack, _bar(title, len(members) * (1 + repeats)) as bar:
        workers = {}
        for name, case in members.items():
            with _named(name):
                _show(bar, f"{name}: starting and compiling")
                workers[name] = stack.enter_context(start(case, peer))
                _collect(results[name], workers[name].ready)
                bar.update()
        for repeat in range(repeats):
            for name, worker in workers.items():
                with _named(name):
                    _show(bar, f"{name}: repetition {repeat + 1} of {repeats}")
                    time.sleep(REST_SECONDS)
                    _collect(results[name], worker.go())
                    bar.update()
        for name, worker in workers.items():
            with _named(name):
                _collect(results[name], worker.stop())
    return results


def measure_afresh(title: str, members: Mapping[str, Mapping[str, Any]], repeats: int) -> Results:
    """`repeats` rounds in which each case gets a new process, one after another, of which only the first answer counts.

    The workers of a round, and of it alone, share a compilation cache, empty at first.
    """
    results: Results = {name: {} for name in members}
    with _bar(title, len(members) * repeats) as bar:
        for repeat in range(repeats):
            with tempfile.TemporaryDirectory(prefix="jaxsep-compiled-") as cache:
                shared = {
                    "JAX_ENABLE_COMPILATION_CACHE": "true",
                    "JAX_COMPILATION_CACHE_DIR": cache,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                }
                for name, case in members.items():
                    with _named(name):
                        _show(bar, f"{name}: round {repeat + 1} of {repeats}")
                        with start({**case, "environment": shared}, ()) as worker:
                            _collect(results[name], worker.ready)
                        bar.update()
    return results


def _collect(values: dict[str, list[float]], answer: Mapping[str, Any]) -> None:
    for quantity, value in answer.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            values.setdefault(quantity, []).append(value)


def _bar(title: str, total: int) -> tqdm:
    return tqdm(total=total, desc=title, unit="it", **_BAR)


def _show(bar: tqdm, doing: str) -> None:
    bar.set_postfix_str(doing, refresh=sys.stderr.isatty())


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts a member's name before what a worker says went wrong."""
    try:
        yield
    except WorkerError as error:
        raise WorkerError(f"{name}: {error}") from error

"""The parent's side of the benchmark: worker processes that are started, asked in turn, and ended.

The lines between parent and worker are described in `protocol`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxsep.benchmark.protocol import Case
from jaxsep.benchmark.table import Ratio, Row, summary
from jaxsep.console import progress
from jaxsep.errors import RunError

# name of a case -> quantity -> its values by round; a fact about a case has one value
Results = dict[str, dict[str, np.ndarray]]

OURS = (sys.executable, "-m", "jaxsep.benchmark.worker")
# Of every worker, where the user's environment does not say otherwise.
ENVIRONMENT = {
    # What `runtime.configure` asks of glibc, for both sides: freed memory stays with the process.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    # Several of our workers share a GPU, and none shall use what another has compiled.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
# What the threads of the worker that was last busy need to come to rest.
REST_SECONDS = 0.1
TAIL_LINES = 8


@contextmanager
def worker(
    name: str, case: Case, peer: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, float]]]]:
    """Start a process for a case, which ends with the block; yields (facts, go).

    Args:
      name: of the case. The command `peer` starts the worker of 'peer', any other is ours.
      environment: variables that even the user's own do not override.

    Raises:
      RunError: the worker reported an error or died; with the end of its standard error.
    """
    command = peer if name == "peer" else OURS
    variables = {**ENVIRONMENT, **os.environ, **(environment or {})}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with tempfile.TemporaryFile() as errors:
        process: Any = subprocess.Popen(command, stderr=errors, env=variables, **pipes)

        def ask(line: str) -> dict[str, Any]:
            try:
                print(line, file=process.stdin, flush=True)
                answered = process.stdout.readline()
            except BrokenPipeError:
                answered = ""
            answer = json.loads(answered) if answered else {}
            if answered and "error" not in answer:
                return answer
            problem = answer.get("error") or f"a worker died with exit status {process.wait()}"
            errors.seek(0)
            tail = errors.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
            raise RunError("\n    ".join([f"{name}: {problem}", *tail]))

        try:
            yield ask(json.dumps(case)), lambda: ask("go")
        finally:
            process.kill()
            process.communicate()


@dataclass
class Bench:
    """One run of the benchmark: what it was asked, and the rows and failures so far.

    peer: the command of the peer's worker, empty where no peer is measured. folder: for packed
    sound, shared by the suites. suite, part: those at work now.
    """

    repeats: int
    peer: Sequence[str]
    folder: str
    suite: str = ""
    part: str = ""
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """A part of a suite. Where one of its workers fails, that is noted, and the block ends."""
        self.part = f"{self.suite}: {part}"
        try:
            yield
        except RunError as error:
            self.failures.append(f"{self.part}: {error}")

    def in_turn(self, cases: Mapping[str, Case]) -> Results:
        """Start a worker for each case, then let them repeat theirs in turn, round by round.

        What slows the machine down for a while thus slows all of them.
        """
        answers = []
        with ExitStack() as stack, self._progress(len(cases) * (1 + self.repeats)) as bar:
            workers = {}
            for name, case in cases.items():
                _show(bar, f"{name}: starting and compiling")
                facts, workers[name] = stack.enter_context(worker(name, case, self.peer))
                answers.append((name, facts))
                bar.update()
            for number in range(1, self.repeats + 1):
                for name, go in workers.items():
                    _show(bar, f"{name}: round {number} of {self.repeats}")
                    time.sleep(REST_SECONDS)
                    answers.append((name, go()))
                    bar.update()
        return _gather(answers)

    def afresh(self, cases: Mapping[str, Case]) -> Results:
        """Start each case's worker anew in every round, one after another; only its facts count.

        The workers of a round, and of it alone, share a compilation cache, empty at first.
        """
        answers = []
        with self._progress(len(cases) * self.repeats) as bar:
            for number in range(1, self.repeats + 1):
                with tempfile.TemporaryDirectory(prefix="jaxsep-compiled-") as cache:
                    environment = {
                        "JAX_ENABLE_COMPILATION_CACHE": "true",
                        "JAX_COMPILATION_CACHE_DIR": cache,
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    }
                    for name, case in cases.items():
                        _show(bar, f"{name}: round {number} of {self.repeats}")
                        with worker(name, case, environment=environment) as (facts, _):
                            answers.append((name, facts))
                        bar.update()
        return _gather(answers)

    def add(
        self,
        name: str,
        setting: str,
        unit: str,
        ours: np.ndarray | float,
        peer: np.ndarray | None = None,
        *,
        ratio: Ratio | None = None,
        note: str = "",
    ) -> None:
        """Add a row, named as in `Row`. ours, peer: values by round."""
        if ratio:
            note = f"ratio: {ratio.name}"
        elif peer is not None:
            ratio = Ratio("peer / ours", peer, np.asarray(ours))
        sides = summary(ours), None if peer is None else summary(peer)
        quotient = ratio.quotient() if ratio else None
        self.rows.append(Row(self.suite, name, setting, unit, *sides, quotient, note))

    def _progress(self, total: int) -> tqdm:
        return progress(total=total, desc=self.part, unit="it", leave=False)


def _show(bar: tqdm, doing: str) -> None:
    """What is at work now, shown at once on a terminal, and with the bar's next line in a log."""
    bar.set_postfix_str(doing, refresh=sys.stderr.isatty())


def _gather(answers: Sequence[tuple[str, Mapping[str, float]]]) -> Results:
    values: dict[str, Any] = defaultdict(lambda: defaultdict(list))
    for name, answer in answers:
        for quantity, value in answer.items():
            values[name][quantity].append(value)
    return {
        name: {quantity: np.array(by_round) for quantity, by_round in of_case.items()}
        for name, of_case in values.items()
    }

"""Speed and memory of jaxsep on this machine, side by side with asteroid (PyTorch) if --peer asks.

    python -m jaxsep.benchmark [--suite train,forward,…] [--peer asteroid] [-o FILE.json]

Suites: train (steps, bfloat16, arithmetic, lengths, weightings), forward, data (mixtures, waiting
for them), compile (cold and from the cache), memory (remat), reach (gradient accumulation, what
several devices need, corpora of many hours). All of them with --peer asteroid --repeats 3 take
about 25 minutes on 2 CPU cores and, in memory, 11 GB.

Both sides run in processes of their own, one repetition in turn; compilation is never in a time.
The table goes to standard output, one part per suite as it is done; progress to standard error.
Exit status: 0 done, 1 something could not be measured, 2 a mistake in the command or a peer that
cannot be installed, 130 interrupted.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxsep.benchmark import peer
from jaxsep.benchmark.measure import Bench, worker
from jaxsep.benchmark.suites import FULL, SUITES
from jaxsep.benchmark.table import table
from jaxsep.console import say
from jaxsep.errors import JaxsepError
from jaxsep.files import atomic_file


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, print; returns the exit status."""
    options = parse(argv)
    try:
        if options.peer:
            peer.prepare()
        failures = run(options)
    except JaxsepError as error:
        say(f"error: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        say("SIGINT: stopped")
        return 130
    for failure in failures:
        say(f"error: {failure}")
    return 1 if failures else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; a mistake ends the process with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--suite",
        type=_suites,
        default=list(SUITES),
        metavar="NAME,…",
        help=f"{', '.join(SUITES)}, several with commas, or all (default)",
    )
    parser.add_argument("--peer", choices=["asteroid"], help="measured too; installed on first use")
    parser.add_argument(
        "--repeats",
        type=_positive,
        default=7,
        metavar="N",
        help="timed repetitions (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=_output, metavar="FILE.json", help="where the numbers go as JSON"
    )
    return parser.parse_args(argv)


def _suites(text: str) -> list[str]:
    names = list(SUITES) if text == "all" else text.split(",")
    for name in names:
        if name not in SUITES:
            legal = ", ".join(SUITES)
            raise argparse.ArgumentTypeError(f"{name!r} is no suite; it must be {legal} or all")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text}; it must be a whole number of at least 1")
    return int(text)


def _output(text: str) -> Path:
    """A path that can be written; checked first, since measuring takes long."""
    path = Path(text)
    if path.suffix != ".json" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} must be a file that ends in .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from error
    return path


def run(options: argparse.Namespace) -> list[str]:
    """Measure and print; returns what could not be measured, a line each."""
    command = peer.command() if options.peer else []
    described = describe(options.peer, command)
    for name, facts in described.items():
        print(
            f"{name}: {', '.join(f'{fact} {value}' for fact, value in facts.items())}", flush=True
        )
    with tempfile.TemporaryDirectory(prefix="jaxsep-benchmark-") as folder:
        bench = Bench(options.repeats, command, folder)
        for name in options.suite:
            bench.suite, before = name, len(bench.rows)
            SUITES[name](bench, FULL)
            if rows := bench.rows[before:]:
                print(f"\n{name}\n{table(rows, options.peer)}", flush=True)
    if options.output:
        measured = [asdict(row) for row in bench.rows]
        content = {"rows": measured, "failures": bench.failures, "repeats": options.repeats}
        with atomic_file(options.output, "w") as stream:
            stream.write(json.dumps(described | content, indent=2, ensure_ascii=False) + "\n")
    return bench.failures


def describe(peer_name: str | None, command: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The machine, and for each side its versions, device and threads.

    Raises:
      RunError: a side does not start.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpus = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    machine = {
        "cpu": cpus[0] if cpus else platform.processor() or platform.machine(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": platform.platform(),
    }
    described = {"machine": machine}
    for side, name in (("ours", "jaxsep"), ("peer", peer_name)):
        if name:
            with worker(side, {"kind": "describe"}, command) as (described[name], _):
                pass
    return described


if __name__ == "__main__":
    sys.exit(main())

"""Speed and memory of jaxsep on this machine, side by side with asteroid (PyTorch) where --peer asks for it.

    python -m jaxsep.benchmark [--suite train,forward,…] [--peer asteroid] [--repeats 7] [-o FILE.json]

Suites: train (steps, bfloat16, arithmetic, lengths, weightings), forward, data (mixtures, waiting for them), compile (cold
and from the cache), memory (remat), reach (batches in parts, what several devices need, corpora of many hours). All of them
with --peer asteroid --repeats 3 take about 25 minutes on 2 CPU cores and, in memory, 11 GB.

Both sides run in processes of their own, one repetition in turn; compilation is never in a time. The table goes to
standard output, one part per suite as it is done; progress to standard error. Exit status: 0 done, 1 something could not
be measured, 2 a mistake in the command or a peer that cannot be installed, 130 interrupted.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxsep.benchmark import peer
from jaxsep.benchmark import suites as cases
from jaxsep.benchmark.machine import machine
from jaxsep.benchmark.peer import PeerError
from jaxsep.benchmark.processes import WorkerError, measure_afresh, measure_in_turn, start
from jaxsep.benchmark.table import Row, table
from jaxsep.console import say
from jaxsep.files import atomic_file


class UsageError(Exception):
    """A mistake in the command; the message names the option, its value and what would be right."""


@dataclass(frozen=True)
class Options:
    """The command, checked."""

    suites: tuple[str, ...]
    peer: str
    repeats: int
    output: Path | None
    tiny: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Check, measure, print; returns the exit status."""
    try:
        options = parse(argv)
        if options.peer:
            peer.prepare(options.peer)
        failures = run(options)
    except (UsageError, PeerError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, WorkerError) else 2
    except KeyboardInterrupt:
        say("SIGINT: stopped")
        return 130
    for failure in failures:
        say(f"error: {failure}")
    return 1 if failures else 0


def parse(argv: Sequence[str] | None) -> Options:
    """The options; UsageError where one cannot work."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    legal = ", ".join(cases.SUITES)
    parser.add_argument(
        "--suite", default="all", metavar="NAME,…", help=f"{legal}, all (default: %(default)s)"
    )
    parser.add_argument(
        "--peer", default="", metavar="NAME", help="asteroid: measured too; installed on first use"
    )
    parser.add_argument(
        "--repeats", default="7", metavar="N", help="timed repetitions (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", metavar="FILE.json", help="where the numbers go as JSON")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="networks and batches just large enough to try the command; says nothing of speed",
    )
    given = parser.parse_args(argv)
    suites = tuple(cases.SUITES) if given.suite == "all" else tuple(given.suite.split(","))
    for name in suites:
        if name not in cases.SUITES:
            raise UsageError(
                f"--suite: {name!r} is no suite; it must be {legal}, several with commas, or all"
            )
    if given.peer and given.peer not in peer.INSTALLS:
        raise UsageError(
            f"--peer: {given.peer!r} is not known; it must be {' or '.join(peer.INSTALLS)}"
        )
    if not given.repeats.isdecimal() or int(given.repeats) < 1:
        raise UsageError(f"--repeats: is {given.repeats}; it must be a whole number of at least 1")
    output = _writable(given.output) if given.output is not None else None
    return Options(suites, given.peer, int(given.repeats), output, given.tiny)


def _writable(name: str) -> Path:
    """The path of the output; UsageError where no file can be made there."""
    path = Path(name)
    if path.suffix != ".json":
        raise UsageError(f"-o: {name} must end in .json")
    if path.is_dir():
        raise UsageError(f"-o: {name} is a folder; it must be a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UsageError(f"-o: {name} cannot be written: {error.strerror}") from error
    return path


def run(options: Options) -> list[str]:
    """Measure and print everything; returns what could not be measured, a line each."""
    command = peer.command(options.peer) if options.peer else []
    scale = cases.TINY if options.tiny else cases.FULL
    described = {
        **describe(options.peer, command),
        "tiny": options.tiny,
        "repeats": options.repeats,
    }
    print(heading(described), flush=True)
    rows: list[Row] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="jaxsep-benchmark-") as folder:
        for name in options.suites:
            done = []
            for group in cases.suite(
                name, scale, repeats=options.repeats, peer=bool(options.peer), folder=folder
            ):
                try:
                    done += group.rows(measure(group, options.repeats, command))
                except WorkerError as error:
                    failures.append(f"{group.title}: {error}")
            rows += done
            if done:
                print(f"\n{name}\n{table(done, options.peer)}", flush=True)
    if options.output:
        content = {**described, "rows": [asdict(row) for row in rows], "failures": failures}
        with atomic_file(options.output) as stream:
            stream.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return failures


def measure(
    group: cases.Group, repeats: int, command: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """The results of a group."""
    if group.afresh:
        return measure_afresh(group.title, group.members, repeats)
    return measure_in_turn(group.title, group.members, repeats, peer=command)


def describe(peer_name: str, command: Sequence[str]) -> dict[str, Any]:
    """Machine, and for each side its versions, device and threads. Raises WorkerError where a side does not start."""
    with start({"side": "ours", "kind": "describe"}, ()) as worker:
        sides = {"jaxsep": _facts(worker.ready)}
    if peer_name:
        with start({"side": "peer", "kind": "describe"}, command) as worker:
            sides[peer_name] = _facts(worker.ready)
    return {"machine": machine(), "sides": sides}


def _facts(ready: dict[str, Any]) -> dict[str, Any]:
    return {name: ready[name] for name in ("versions", "device", "threads")}


def heading(described: dict[str, Any]) -> str:
    """Machine, versions, devices and threads."""
    where = described["machine"]
    lines = ["--tiny: these numbers say nothing of speed"] if described["tiny"] else []
    lines.append(
        f"machine: {where['cpu']}, {where['cores']} cores, {where['memory_gb']} GB RAM, {where['system']}"
    )
    for side, facts in described["sides"].items():
        versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        lines.append(f"{side}: {versions}; device {facts['device']}, {facts['threads']} threads")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

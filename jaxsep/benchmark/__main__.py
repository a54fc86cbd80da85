"""Speed and memory of jaxsep on this machine, side by side with asteroid (PyTorch) if --peer asks.

    python -m jaxsep.benchmark [--suite train,forward,…] [--peer asteroid] [-o FILE.json]

All suites with --peer asteroid --repeats 3 take about 25 minutes on 2 CPU cores and, in memory,
11 GB. Every case is measured in a process of its own, as often as --repeats says, in turn with the
others. The table goes to standard output, one part per suite as it is done. Exit status: 0 done,
1 a case failed, 2 a mistake in the command or a peer that cannot be installed, 130 interrupted.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsep.benchmark import peer
from jaxsep.benchmark.measure import OURS, Case, run, summarise, table
from jaxsep.benchmark.suites import SUITES
from jaxsep.console import progress, say
from jaxsep.errors import JaxsepError
from jaxsep.files import atomic_file


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, print; returns the exit status."""
    options = parse(argv)
    try:
        benchmark(options)
    except (JaxsepError, OSError) as error:  # OSError: -o cannot be written
        say(f"error: {error}")
        return getattr(error, "exit_status", 2)
    except KeyboardInterrupt:
        say("SIGINT: stopped")
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; a mistake ends the process with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    names = ", ".join(SUITES)
    add("--suite", default="all", metavar="NAME,…", help=f"{names}, several with commas, or all")
    add("--peer", choices=["asteroid"], help="measured too; installed on first use")
    add("--repeats", type=int, default=7, metavar="N", help="processes a case (%(default)s)")
    add("-o", "--output", type=Path, metavar="FILE.json", help="where the numbers go as JSON")
    options = parser.parse_args(argv)
    options.suite = dict.fromkeys(SUITES if options.suite == "all" else options.suite.split(","))
    for name in options.suite:
        if name not in SUITES:
            parser.error(f"--suite: {name!r} is no suite; it must be {names} or all")
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}, it must be at least 1")
    return options


def benchmark(options: argparse.Namespace) -> None:
    """Measure the suites and print what they gave, each as it is done."""
    commands: dict[str, Sequence[str]] = {"jaxsep": OURS}
    if options.peer:
        commands[options.peer] = peer.command()
    content: dict[str, Any] = {"repeats": options.repeats, "rows": []}
    with tempfile.TemporaryDirectory(prefix="jaxsep-benchmark-") as folder:
        for side, command in commands.items():
            facts = content[side] = run(Case(side, {"kind": "describe"}), command, folder)
            print(f"{side}: {', '.join(f'{fact} {value}' for fact, value in facts.items())}")
        _write(options.output, content)
        suites = {
            name: [case for case in SUITES[name](Path(folder)) if case.side in commands]
            for name in options.suite
        }
        total = options.repeats * sum(map(len, suites.values()))
        with progress(total=total, unit="case", leave=False) as bar:
            for name, cases in suites.items():
                rounds: list[dict[str, Any]] = [{} for _ in range(options.repeats)]
                for numbers in rounds:
                    for case in cases:
                        bar.set_description_str(f"{name}: {case.name}")
                        numbers[case.name] = run(case, commands[case.side], folder)
                        bar.update()
                rows = summarise(cases, rounds)
                bar.clear()
                print(f"\n{name}\n{table(rows)}", flush=True)
                content["rows"] += [{"suite": name, **row} for row in rows]
                _write(options.output, content)


def _write(path: Path | None, content: dict[str, Any]) -> None:
    """Write what is measured so far."""
    if path:
        with atomic_file(path, "w") as stream:
            stream.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())

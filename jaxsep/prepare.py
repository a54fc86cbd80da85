"""python -m jaxsep.prepare ROOT --name speech|environment|premixed: packs a dataset once and says what is in it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsep.data.checks.verify import Check, verify
from jaxsep.data.layouts import SPLITS
from jaxsep.data.packs.corpus import Corpus, prepare
from jaxsep.data.packs.premixed import Premixed, prepare_premixed
from jaxsep.errors import DataError
from jaxsep.files import default_cache, display


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, or 2 with what is wrong on standard error if the data cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.prepare", description=__doc__.split(": ", 1)[1]
    )
    parser.add_argument(
        "root",
        help="a dataset: ESC-50, WSJ0-2mix, WHAM!, Libri2Mix, or {train,val,test}/CLASS/*.wav",
    )
    parser.add_argument(
        "--name",
        required=True,
        choices=("speech", "environment", "premixed"),
        help="what it serves as",
    )
    parser.add_argument(
        "--sample-rate",
        type=int,
        default=8000,
        metavar="HZ",
        help="rate to pack at (default: 8000)",
    )
    parser.add_argument(
        "-o",
        "--output",
        default=default_cache(),
        metavar="DIR",
        help="folder of packs (default: %(default)s)",
    )
    parser.add_argument(
        "--roles",
        default="",
        metavar="MIX,S1,...",
        help="premixed: the roles (default: mix, s1, s2, ...)",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out recordings that cannot be used, and list them",
    )
    parser.add_argument(
        "--verify", action="store_true", help="check the dataset and the pack made of it"
    )
    options = parser.parse_args(argv)
    try:
        packed = _prepare(options)
        print(describe(packed), flush=True)
        checks = verify(packed, options.root) if options.verify else []
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("SIGINT: stopped; what was packed before is untouched", file=sys.stderr)
        return 130
    if checks:
        width = max(len(check.name) for check in checks) + 2
        print(
            "\n"
            + "\n".join(
                f"{name:<{width}}{result}"
                for name, result in [("check", "result"), *_results(checks)]
            )
        )
    wrong = [line for check in checks for line in check.wrong]
    if wrong:
        print(
            "\n  ".join(
                [f"error: {display(options.root)}: is not sound ({len(wrong):,}):", *wrong]
            ),
            file=sys.stderr,
        )
    return 2 if wrong else 0


def _prepare(options: argparse.Namespace) -> Corpus | Premixed:
    if options.name == "premixed":
        roles = tuple(role.strip() for role in options.roles.split(",") if role.strip())
        return prepare_premixed(
            options.root,
            options.sample_rate,
            options.output,
            roles=roles,
            skip_bad=options.skip_bad,
        )
    if options.roles:
        raise DataError(f"--roles: is {options.roles!r}; must be used with --name premixed only")
    return prepare(
        options.root, options.name, options.sample_rate, options.output, skip_bad=options.skip_bad
    )


def _results(checks: Sequence[Check]) -> list[tuple[str, str]]:
    return [
        (check.name, f"WRONG: {check.result}" if check.wrong else check.result) for check in checks
    ]


def describe(packed: Corpus | Premixed) -> str:
    """An aligned table: what the pack is, then recordings, classes and hours of each split, and how many are left out."""
    lines = [
        f"{packed.name}{' (synthetic)' if packed.synthetic else ''}: layout {packed.layout}, {packed.sample_rate} Hz, "
        f"fingerprint {packed.fingerprint[:12]}, packed in {display(Path(str(packed.audio.filename)).parent)}",
        f"{'split':<8}{'recordings':>12}{'classes':>10}{'hours':>10}",
    ]
    everything = np.ones(packed.splits.shape, bool)
    for name, chosen in [
        *((split, packed.splits == index) for index, split in enumerate(SPLITS)),
        ("all", everything),
    ]:
        hours = packed.lengths[chosen].sum() / packed.sample_rate / 3600
        classes = np.unique(packed.classes[chosen]).size
        lines.append(f"{name:<8}{chosen.sum():>12,}{classes:>10,}{hours:>10.3f}")
    if packed.left_out:
        lines.append(f"{'left out':<8}{len(packed.left_out):>12,}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

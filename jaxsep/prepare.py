"""python -m jaxsep.prepare ROOT --name speech|environment|premixed: packs a dataset once and says what is in it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsep.data.audio import DataError
from jaxsep.data.corpus import Corpus, prepare
from jaxsep.data.layouts import SPLITS
from jaxsep.data.packing import default_cache
from jaxsep.data.premixed import Premixed, prepare_premixed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, or 2 with one line on standard error if the data cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m jaxsep.prepare", description=__doc__.split(": ", 1)[1])
    parser.add_argument("root", help="a dataset: ESC-50, WSJ0-2mix, WHAM!, Libri2Mix, or {train,val,test}/CLASS/*.wav")
    parser.add_argument(
        "--name", required=True, choices=("speech", "environment", "premixed"), help="what it serves as"
    )
    parser.add_argument("--sample-rate", type=int, default=8000, metavar="HZ", help="rate to pack at (default: 8000)")
    parser.add_argument(
        "-o", "--output", default=default_cache(), metavar="DIR", help="folder of packs (default: %(default)s)"
    )
    parser.add_argument(
        "--roles", default="", metavar="MIX,S1,...", help="premixed: the roles (default: mix, s1, s2, ...)"
    )
    options = parser.parse_args(argv)
    try:
        if options.name == "premixed":
            roles = tuple(role.strip() for role in options.roles.split(",") if role.strip())
            packed: Corpus | Premixed = prepare_premixed(options.root, options.sample_rate, options.output, roles=roles)
        elif options.roles:
            raise DataError(f"--roles: is {options.roles!r}; must be used with --name premixed only")
        else:
            packed = prepare(options.root, options.name, options.sample_rate, options.output)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(packed))
    return 0


def describe(packed: Corpus | Premixed) -> str:
    """An aligned table: what the pack is, then recordings, classes and hours of each split."""
    lines = [
        f"{packed.name}{' (synthetic)' if packed.synthetic else ''}: layout {packed.layout}, {packed.sample_rate} Hz, "
        f"fingerprint {packed.fingerprint[:12]}, packed in {Path(str(packed.audio.filename)).parent}",
        f"{'split':<8}{'recordings':>12}{'classes':>10}{'hours':>10}",
    ]
    everything = np.ones(packed.splits.shape, bool)
    for name, chosen in [*((split, packed.splits == index) for index, split in enumerate(SPLITS)), ("all", everything)]:
        hours = packed.lengths[chosen].sum() / packed.sample_rate / 3600
        classes = np.unique(packed.classes[chosen]).size
        lines.append(f"{name:<8}{chosen.sum():>12,}{classes:>10,}{hours:>10.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

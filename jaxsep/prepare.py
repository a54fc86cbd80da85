"""python -m jaxsep.prepare ROOT --name speech|environment|premixed: packs a dataset once and says
what is in it."""

import argparse
import sys
from collections.abc import Sequence

from jaxsep.data.checks.verify import report, verify
from jaxsep.data.packs.format import describe
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError
from jaxsep.files import default_cache


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 2 where the data cannot be used, else 0."""
    options = _parse(argv)
    try:
        if options.roles and options.name != "premixed":
            raise DataError(f"--roles: is {options.roles!r}; it is for --name premixed only")
        pack = prepare(
            options.root,
            options.name,
            options.sample_rate,
            options.output,
            roles=tuple(role.strip() for role in options.roles.split(",") if role.strip()),
            skip_bad=options.skip_bad,
        )
        print(describe(pack), flush=True)
        if options.verify:
            table, problems = report(verify(pack, options.root), options.root)
            print(f"\n{table}", flush=True)
            if problems:
                raise DataError(problems)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("SIGINT: stopped; what was packed before is untouched", file=sys.stderr)
        return 130
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.prepare",
        description="Packs a dataset once and says what is in it. Defaults are in brackets.",
    )
    add, names = parser.add_argument, ("speech", "environment", "premixed")
    add("root", help="ESC-50, WSJ0-2mix, WHAM!, Libri2Mix, or {train,val,test}/CLASS/*.wav")
    add("--name", required=True, choices=names, help="what it serves as")
    add("--sample-rate", type=int, default=8000, metavar="HZ", help="rate of the pack (8000)")
    add("-o", "--output", default=default_cache(), metavar="DIR", help="of packs (%(default)s)")
    add("--roles", default="", metavar="MIX,S1,...", help="of a premixed set (mix, s1, s2, ...)")
    add("--skip-bad", action="store_true", help="leave out and list what cannot be used")
    add("--verify", action="store_true", help="check the dataset and the pack made of it")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

"""Tables, figures and a page to listen to, from any finished runs.

    python -m jaxsep.report RUN… -o DIR

writes DIR/report.md, DIR/report.html, DIR/figures/ (PNG and SVG) and DIR/tables/ (every number as
CSV). Runs with the same test mixtures and the same training but for weighting and seed are
compared.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxsep.console import say
from jaxsep.errors import JaxsepError, ReportError
from jaxsep.files import display, write_files

try:
    from jaxsep.report import render
    from jaxsep.report.build import build
    from jaxsep.report.grouping import group
    from jaxsep.report.runs import read_runs
except ModuleNotFoundError as error:  # said by `main`, not by a traceback
    if error.name not in ("jinja2", "matplotlib", "pandas", "scipy"):
        raise
    MISSING = error.name
else:
    MISSING = ""

TITLE = "jaxsep report"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 written, 2 a mistake in one line, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    add(
        *("-o", "--output"),
        required=True,
        type=Path,
        metavar="DIR",
        help="new, empty or an earlier report's folder",
    )
    add(
        "--audio",
        choices=("first", "all", "none"),
        default="first",
        help="excerpts on the page: of the first seed of every weighting, of all runs, or none "
        "(default: %(default)s)",
    )
    options = parser.parse_args(argv)
    try:
        if MISSING:
            raise ReportError(f"{MISSING} is missing: pip install 'jaxsep[report]' brings it")
        check_output(options.output)
        experiments = group(read_runs(options.runs))
        for experiment in experiments:
            labels = [f"{c.label} ({len(c.runs)})" for c in experiment.conditions]
            print(f"{experiment.title}{experiment.flag}: {'; '.join(labels)}", flush=True)
        sections, excerpts = build(experiments, options.audio)
        files = render.files(TITLE, sections, excerpts)
        write(options.output, files)
    except JaxsepError as error:
        say(f"error: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        say("SIGINT: stopped, nothing written")
        return 130
    suffixes = [Path(name).suffix for name in files]
    print(
        f"{display(options.output)}: report.md, report.html, {suffixes.count('.png')} figures, "
        f"{suffixes.count('.csv')} tables as CSV, {len(excerpts)} excerpts to listen to"
    )
    return 0


def check_output(folder: Path) -> None:
    """Raises: ReportError where the folder is none, or holds something that is no report."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if existing.is_dir():
        names = os.listdir(folder) if folder.exists() else []
        names = [name for name in names if not name.startswith(".report.tmp-")]
        earlier, first_line = folder / "report.md", f"# {TITLE}\n".encode()
        if not names or (earlier.is_file() and earlier.read_bytes().startswith(first_line)):
            return
        problem = f"holds {min(names)} and no earlier report"
    else:
        problem = f"{existing.name} is no folder"
    raise ReportError(
        f"--output {folder}: {problem}; it must be a new or empty folder, or a report's"
    )


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write a report's files, all or none, and remove what an earlier report left beyond them.

    Raises:
      ReportError: the folder cannot be written.
    """
    try:
        write_files(folder, "report", files)
        for kind in ("figures", "tables"):
            for path in (folder / kind).glob("*"):
                ours = path.suffix in (".png", ".svg", ".csv")
                if ours and f"{kind}/{path.name}" not in files:
                    path.unlink()
    except OSError as error:
        raise ReportError(
            f"--output {folder}: cannot be written ({error.strerror or error})"
        ) from error


if __name__ == "__main__":
    sys.exit(main())

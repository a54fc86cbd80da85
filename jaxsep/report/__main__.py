"""Tables, figures and a page to listen to, from any finished runs.

    python -m jaxsep.report RUN… -o DIR

writes DIR/report.md, DIR/report.html, DIR/figures/ (PNG and SVG) and DIR/tables/ (every number as CSV). Runs with the same test
mixtures and the same training but for weighting and seed are compared. Of a run config.json, summary.json, metrics.jsonl and
evaluation/test.csv are enough; evaluation/audio gives the players of the page.
"""

import argparse
import csv
import io
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxsep.errors import ReportError
from jaxsep.files import display
from jaxsep.report import grouping as experiments
from jaxsep.report import page
from jaxsep.report.figures import require_matplotlib
from jaxsep.report.markdown import markdown
from jaxsep.report.report_sections import Report, build
from jaxsep.report.runs import read_runs

TITLE = "jaxsep report"
_PARTIAL = ".report.partial"  # files on their way into the output folder


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Exit status: 0 written, 2 a mistake, with one line on standard error, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="new, empty or an earlier report's folder",
    )
    parser.add_argument(
        "--audio",
        choices=("first", "all", "none"),
        default="first",
        help="excerpts on the page: of the first seed of every weighting, of all runs, or none (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    try:
        check_output(options.output)
        require_matplotlib()
        found = experiments.group(read_runs(options.runs))
        for experiment in found:
            labels = [
                f"{condition.label} ({len(condition.runs)})" for condition in experiment.conditions
            ]
            print(f"{experiment.title}{experiment.flag}: {'; '.join(labels)}", flush=True)
        report = build(found, options.audio)
        write(options.output, contents(report))
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("SIGINT: stopped, nothing written", file=sys.stderr)
        return 130
    print(
        f"{display(options.output)}: report.md, report.html, {len(report.drawings)} figures, {len(report.csvs)} tables as CSV, "
        f"{len(report.excerpts)} excerpts to listen to"
    )
    return 0


def contents(report: Report) -> dict[str, bytes]:
    """File name in the output folder -> content."""
    files = {f"tables/{table.name}.csv": _csv(table.header, table.rows) for table in report.csvs}
    for drawing in report.drawings:
        files[f"figures/{drawing.figure.name}.png"] = drawing.png
        files[f"figures/{drawing.figure.name}.svg"] = drawing.figure.svg.encode()
    files["report.html"] = page.page(TITLE, report.sections, report.excerpts).encode()
    files["report.md"] = markdown(TITLE, report.sections).encode()
    return files


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([header, *rows])
    return stream.getvalue().encode()


def check_output(folder: Path) -> None:
    """Raises: ReportError where the folder is none, or holds something that is no report."""
    if folder.is_dir():
        names = set(os.listdir(folder)) - {_PARTIAL}
        if names and not _is_report(folder / "report.md"):
            raise ReportError(
                f"--output {folder}: holds {min(names)} and no earlier report; it must be a new or empty folder, or a report's"
            )
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ReportError(
            f"--output {folder}: {existing.name} is no folder; it must be a new or empty one, or a report's"
        )


def _is_report(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8").startswith(f"# {TITLE}\n")
    except (OSError, ValueError):
        return False


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files under temporary names, then rename them; what an earlier report left beyond them is removed.

    Raises:
      ReportError: the folder cannot be written.
    """
    partial = folder / _PARTIAL
    try:
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        for name in files:  # report.md, by which the folder is known, comes last
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(partial / name, folder / name)
        for old in (path for kind in ("figures", "tables") for path in (folder / kind).iterdir()):
            if f"{old.parent.name}/{old.name}" not in files and old.suffix in (
                ".png",
                ".svg",
                ".csv",
            ):
                old.unlink()
    except OSError as error:
        raise ReportError(
            f"--output {folder}: cannot be written ({error.strerror or error})"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

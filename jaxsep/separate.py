"""Separate recordings with a trained model; export a run's model, or import a published one.

    python -m jaxsep.separate INPUT… --model DIR -o OUT [--chunk SECONDS] [--overlap SECONDS]
        [--channels mix|each] [--format wav|flac] [--consistent] [--keep-silent] [--force] [--json]
        [--trust package.module:Class]
    python -m jaxsep.separate --export RUN -o DIR [--force] [--trust package.module:Class]
    python -m jaxsep.separate --import FILE.pt -o DIR [--sample-rate HZ] [--force]

INPUT are files, folders, taken with what is below them, and patterns such as 'rec/*.wav'. NAME.wav
becomes OUT/NAME/source1.wav, OUT/NAME/source2.wav, …; below a folder, NAME is the path from there.
Exit status: 0 done, 1 some recordings could not be separated, 2 a mistake in the command, 130 and
143 interrupted by Ctrl-C and SIGTERM.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import jax

from jaxsep import console, runtime
from jaxsep.errors import ConfigError, DataError, JaxsepError, ModelError
from jaxsep.files import display
from jaxsep.inference.audio_files import Options, separate_file
from jaxsep.inference.bundle import check_replaceable, export_bundle, import_published
from jaxsep.inference.chunks import CHUNK_SECONDS, OVERLAP_SECONDS
from jaxsep.inference.inputs import find_recordings, seconds_by_header
from jaxsep.inference.separator import Separator, load

PROGRESS_AFTER = 5.0  # seconds
BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s [{elapsed}, {remaining} left]"


SWITCHES = {
    "--consistent": "sources that add up to the recording; keeps silent ones",
    "--keep-silent": "also write sources that are nearly silent throughout",
    "--force": "replace results of an earlier time",
    "--json": "one JSON object for each recording on standard output",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help explains the command\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, dispatch, and turn what went wrong into one line and an exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except JaxsepError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        message = "interrupted: finished recordings are kept, of the one at hand nothing"
        print(message, file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m jaxsep.separate",
        description=__doc__,
        usage=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT")
    add("-o", "--output", type=Path, metavar="DIR", required=True, help="folder of the results")
    add("--model", type=Path, metavar="DIR", help="a run's folder or a model bundle")
    text = "seconds taken at a time (default: %(default)g); inf: all"
    add("--chunk", type=float, default=CHUNK_SECONDS, help=text)
    text = "seconds shared by two chunks (default: %(default)g)"
    add("--overlap", type=float, default=OVERLAP_SECONDS, help=text)
    text = "average several channels, or separate each"
    add("--channels", choices=("mix", "each"), default="mix", help=text)
    text = "32-bit float WAV, or 16-bit FLAC (default: %(default)s)"
    add("--format", choices=("wav", "flac"), default="wav", help=text)
    for name, text in SWITCHES.items():
        add(name, action="store_true", help=text)
    text = "a network outside jaxsep that the model may name and run"
    add("--trust", default="", metavar="MODULE:CLASS", help=text)
    add("--export", type=Path, metavar="RUN", help="copy the model of a run's folder to -o DIR")
    text = "make a model of a published one in -o DIR"
    add("--import", type=Path, metavar="FILE.pt", dest="published", help=text)
    text = "with --import: the rate it was trained at (8000)"
    add("--sample-rate", type=int, default=8000, metavar="HZ", help=text)
    return parser


def _dispatch(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    modes = [bool(arguments.inputs), arguments.export is not None, arguments.published is not None]
    if sum(modes) != 1:
        raise ConfigError(
            "one of INPUT, --export RUN and --import FILE.pt must be given; "
            "--help explains the command"
        )
    if not arguments.inputs:
        check_replaceable(output, force=arguments.force)
        if arguments.export is not None:
            export_bundle(arguments.export, output, trust=arguments.trust)
        else:
            import_published(arguments.published, output, sample_rate=arguments.sample_rate)
        print(f"{display(output)}: params.safetensors, model.json")
        return 0
    if arguments.model is None:
        raise ConfigError("--model DIR is missing: a run's folder or a model bundle")
    recordings = find_recordings(arguments.inputs, output)
    chunks = {"chunk": arguments.chunk, "overlap": arguments.overlap}
    try:
        separator = load(arguments.model, **chunks, trust=arguments.trust)
    except ModelError:
        raise
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    options = Options(**{name: getattr(arguments, name) for name in Options._fields})
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"-o {display(output)} cannot be made: {error.strerror}") from error
    return _separate_all(separator, recordings, output, options, as_json=arguments.json)


def _separate_all(
    separator: Separator,
    recordings: dict[Path, Path],
    output: Path,
    options: Options,
    *,
    as_json: bool,
) -> int:
    """Separate recordings one after another, a line for each; 1 if any could not be, else 0."""
    began, failed, seconds = time.perf_counter(), [], 0.0
    total = sum(map(seconds_by_header, recordings.values()))
    style: dict[str, Any] = {"delay": PROGRESS_AFTER, "leave": False, "bar_format": BAR}

    def advance(done: float) -> None:
        bar.update(min(done, total - bar.n))  # a header may promise less than there is

    def show(line: str, file: TextIO) -> None:
        write = bar.write if time.perf_counter() - began > PROGRESS_AFTER else print
        write(line, file=file)
        file.flush()

    with console.progress(total=total, unit="s", **style) as bar:
        for name, path in recordings.items():
            bar.set_description(path.name, refresh=False)
            try:
                report = separate_file(separator, path, output / name, output, options, advance)
                seconds += report["seconds"]
                show(json.dumps(report) if as_json else _describe(report), sys.stdout)
            except (DataError, MemoryError, jax.errors.JaxRuntimeError) as error:
                failed.append(display(path))
                text = str(error) if isinstance(error, DataError) else f"{failed[-1]}: {error!r}"
                show(text, sys.stderr)
                if as_json:
                    show(json.dumps({"input": failed[-1], "error": text}), sys.stdout)
    if not as_json and len(recordings) > 1:
        count, took = len(recordings), time.perf_counter() - began
        line = f"{count - len(failed)} of {count} recordings separated"
        line += f", {seconds:.0f} s of sound in {took:.0f} s"
        print(f"{line}; failed: {', '.join(failed)}" if failed else line)
    return 1 if failed else 0


def _describe(report: dict[str, Any]) -> str:
    """A line for a recording that was separated."""
    count, silent, gain = len(report["sources"]), len(report["silent"]), report["gain_db"]
    parts = [
        f"{report['input']} -> {report['output']}: {report['seconds']:.2f} s",
        f"{count} source{'s' * (count != 1)}" + f" ({silent} silent, left out)" * (silent > 0),
        *([f"gain {gain:g} dB"] if gain else []),
        f"real-time factor {report['real_time_factor']:.4f}",
    ]
    return ", ".join(parts)


def _exit_on_sigterm(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)  # so that nothing half-written stays


if __name__ == "__main__":
    runtime.configure()
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    sys.exit(main())

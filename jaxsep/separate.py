"""Separate recordings with a trained model; take a model out of a run, or over from the authors' published ones.

    python -m jaxsep.separate INPUT… --model DIR -o OUT [--chunk SECONDS] [--overlap SECONDS] [--channels mix|each]
        [--format wav|flac] [--consistent] [--keep-silent] [--force] [--json] [--trust package.module:Class]
    python -m jaxsep.separate --export RUN -o DIR [--force] [--trust package.module:Class]
    python -m jaxsep.separate --import FILE.pt -o DIR [--sample-rate HZ] [--force]

INPUT are files, folders, taken with what is below them, and patterns such as 'rec/*.wav'. NAME.wav becomes
OUT/NAME/source1.wav, OUT/NAME/source2.wav, …; below a folder, NAME is the path from there. Exit status: 0 done, 1 some
recordings could not be separated, 2 a mistake in the command, 130 and 143 interrupted by Ctrl-C and SIGTERM.
"""

import argparse
import glob
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import jax
from tqdm import tqdm

from jaxsep import runtime
from jaxsep.data.audio import audio_info
from jaxsep.errors import DataError, ModelError
from jaxsep.files import display
from jaxsep.inference.audio_files import Options, separate_file
from jaxsep.inference.bundle import export_bundle, import_published
from jaxsep.inference.chunks import CHUNK_SECONDS, OVERLAP_SECONDS
from jaxsep.inference.separator import Separator, load

# What libsndfile reads and a folder of recordings may hold.
SUFFIXES = {
    ".aif",
    ".aifc",
    ".aiff",
    ".au",
    ".caf",
    ".flac",
    ".mp3",
    ".oga",
    ".ogg",
    ".opus",
    ".rf64",
    ".snd",
    ".wav",
}
SUFFIXES |= {".sph", ".w64", ".wave"}
PROGRESS_AFTER = 5.0  # seconds


class CommandError(ValueError):
    """A mistake in the command; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help explains the command\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, dispatch, and turn what went wrong into one line and an exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except (CommandError, ModelError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: finished recordings are kept, of the one at hand nothing", file=sys.stderr
        )
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
    add(
        "--chunk",
        type=float,
        default=CHUNK_SECONDS,
        help="seconds taken at a time (default: %(default)g); inf: all",
    )
    add(
        "--overlap",
        type=float,
        default=OVERLAP_SECONDS,
        help="seconds shared by two chunks (default: %(default)g)",
    )
    add(
        "--channels",
        choices=("mix", "each"),
        default="mix",
        help="average several channels, or separate each",
    )
    add(
        "--format",
        choices=("wav", "flac"),
        default="wav",
        help="32-bit float WAV, or 16-bit FLAC (default: %(default)s)",
    )
    add(
        "--consistent",
        action="store_true",
        help="sources that add up to the recording; keeps silent ones",
    )
    add(
        "--keep-silent",
        action="store_true",
        help="also write sources that are nearly silent throughout",
    )
    add("--force", action="store_true", help="replace results of an earlier time")
    add("--json", action="store_true", help="one JSON object for each recording on standard output")
    add(
        "--trust",
        default="",
        metavar="MODULE:CLASS",
        help="a network outside jaxsep that the model may name and run",
    )
    add("--export", type=Path, metavar="RUN", help="copy the model of a run's folder to -o DIR")
    add(
        "--import",
        type=Path,
        metavar="FILE.pt",
        dest="published",
        help="make a model of a published one in -o DIR",
    )
    add(
        "--sample-rate",
        type=int,
        default=8000,
        metavar="HZ",
        help="with --import: the rate it was trained at (8000)",
    )
    return parser


def _dispatch(arguments: argparse.Namespace) -> int:
    modes = [bool(arguments.inputs), arguments.export is not None, arguments.published is not None]
    if sum(modes) != 1:
        raise CommandError(
            "one of INPUT, --export RUN and --import FILE.pt must be given; --help explains the command"
        )
    output: Path = arguments.output
    if not arguments.inputs:
        _check_model_folder(output, arguments.force)
        if arguments.export is not None:
            export_bundle(arguments.export, output, trust=arguments.trust)
        else:
            import_published(arguments.published, output, sample_rate=arguments.sample_rate)
        print(f"{display(output)}: params.safetensors, model.json")
        return 0
    if arguments.model is None:
        raise CommandError("--model DIR is missing: a run's folder or a model bundle")
    recordings = find_recordings(arguments.inputs, output)
    try:
        separator = load(
            arguments.model, chunk=arguments.chunk, overlap=arguments.overlap, trust=arguments.trust
        )
    except ModelError:
        raise
    except ValueError as error:
        raise CommandError(f"--{error}") from error
    options = Options(
        arguments.channels,
        arguments.format,
        arguments.consistent,
        arguments.keep_silent,
        arguments.force,
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"-o {display(output)} cannot be made: {error.strerror}") from error
    return separate_all(separator, recordings, output, options, as_json=arguments.json)


def _check_model_folder(folder: Path, force: bool) -> None:
    """Raise CommandError where a model shall not take the folder's place."""
    if not folder.exists():
        return
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if held - {"model.json", "params.safetensors"}:
        raise CommandError(
            f"-o {display(folder)} holds other things than a model; use another folder"
        )
    if held and not force:
        raise CommandError(f"-o {display(folder)} holds a model; --force replaces it")


def find_recordings(inputs: Sequence[str], output: Path) -> dict[Path, Path]:
    """Path below the output -> recording, in the order given; folders by name.

    Raises:
      CommandError: a folder or a pattern without recordings, the output as INPUT, or two recordings with one name.
    """
    found: dict[Path, Path] = {}
    names: dict[Path, Path] = {}  # real path -> the first of its names
    for text in inputs:
        for path, name in _expand(text, output):
            if ".." in name.parts or not name.parts:
                raise CommandError(
                    f"{display(path)}: its results would not lie below {display(output)}; rename it"
                )
            if names.setdefault(path.resolve(), name) != name:
                continue
            other = found.setdefault(name, path)
            if other.resolve() != path.resolve():
                raise CommandError(
                    f"{display(other)} and {display(path)} would both become {display(output / name)}; "
                    f"give the folder that holds both, or one at a time"
                )
    return found


def _expand(text: str, output: Path) -> Iterator[tuple[Path, Path]]:
    """(recording, name below the output) of one INPUT."""
    path = Path(text)
    if path.is_dir():
        if path.resolve() == output.resolve():
            raise CommandError(
                f"-o {display(output)} is an INPUT too: the results would be taken for recordings"
            )
        empty = True
        for folder, folders, files in os.walk(path):
            # Results of an earlier time are no recordings, and what begins with a dot is not the user's.
            folders[:] = sorted(
                f for f in folders if f[0] != "." and Path(folder, f).resolve() != output.resolve()
            )
            for file in sorted(files):
                if file[0] != "." and Path(file).suffix.lower() in SUFFIXES:
                    empty = False
                    yield Path(folder, file), Path(folder, file).relative_to(path).with_suffix("")
        if empty:
            raise CommandError(
                f"{display(path)}: no recording in this folder ({' '.join(sorted(SUFFIXES))})"
            )
    elif not path.exists() and glob.has_magic(text):
        matches = sorted(
            match for match in glob.glob(text, recursive=True) if os.path.isfile(match)
        )
        if not matches:
            raise CommandError(f"{display(path)}: no file matches this pattern")
        yield from ((Path(match), Path(Path(match).stem)) for match in matches)
    else:
        yield path, Path(path.stem)


def separate_all(
    separator: Separator,
    recordings: dict[Path, Path],
    output: Path,
    options: Options,
    *,
    as_json: bool,
) -> int:
    """Separate recordings one after another, a line for each; the exit status: 1 if any could not be."""
    began, failed, seconds = time.perf_counter(), [], 0.0
    bar = tqdm(
        total=sum(map(_seconds, recordings.values())),
        delay=PROGRESS_AFTER,
        leave=False,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 20.0,
        bar_format="{desc}{percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s [{elapsed}, {remaining} left]",
    )

    def advance(done: float) -> None:
        bar.update(min(done, bar.total - bar.n))  # a header may promise less than there is

    def say(line: str, file: TextIO = sys.stdout) -> None:
        write = bar.write if time.perf_counter() - began > PROGRESS_AFTER else print
        write(line, file=file)
        file.flush()

    with bar:
        for name, path in recordings.items():
            bar.set_description(path.name, refresh=False)
            expected = bar.n + _seconds(path)
            try:
                report = separate_file(separator, path, output / name, output, options, advance)
                seconds += report["seconds"]
                say(json.dumps(report) if as_json else describe(report))
            except (DataError, MemoryError, jax.errors.JaxRuntimeError) as error:
                message = (
                    str(error) if isinstance(error, DataError) else f"{display(path)}: {error!r}"
                )
                failed.append(display(path))
                say(message, sys.stderr)
                if as_json:
                    say(json.dumps({"input": display(path), "error": message}))
            advance(expected - bar.n)
    if not as_json and len(recordings) > 1:
        print(summary(len(recordings), failed, seconds, time.perf_counter() - began))
    return 1 if failed else 0


def _seconds(path: Path) -> float:
    """Length of a recording by its header, 0 where there is none."""
    try:
        rate, _, frames = audio_info(path)
    except DataError:
        return 0.0
    return frames / rate


def describe(report: dict[str, Any]) -> str:
    """A line for a recording that was separated."""
    count, silent, gain = len(report["sources"]), report["silent"], report["gain_db"]
    return (
        f"{report['input']} -> {report['output']}: {report['seconds']:.2f} s, {count} source{'s' * (count != 1)}"
        + (f" ({len(silent)} silent, left out)" if silent else "")
        + (f", gain {gain:g} dB" if gain else "")
        + f", real-time factor {report['real_time_factor']:.4f}"
    )


def summary(count: int, failed: list[str], seconds: float, took: float) -> str:
    """The last line."""
    line = f"{count - len(failed)} of {count} recordings separated, {seconds:.0f} s of sound in {took:.0f} s"
    return f"{line}; failed: {', '.join(failed)}" if failed else line


if __name__ == "__main__":
    runtime.configure()
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # so that nothing half-written stays
    sys.exit(main())

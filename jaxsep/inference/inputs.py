"""Which recordings the arguments of a command name, and what their results are called."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxsep.data.audio import audio_info
from jaxsep.errors import ConfigError, DataError
from jaxsep.files import display

# What libsndfile reads and a folder of recordings may hold.
SUFFIXES = {
    *(".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus"),
    *(".rf64", ".snd", ".sph", ".w64", ".wav", ".wave"),
}


def find_recordings(inputs: Sequence[str], output: Path) -> dict[Path, Path]:
    """Path of the results below the output -> recording, in the order given; folders by name.

    Args:
      inputs: files, folders, taken with what is below them, and patterns such as 'rec/*.wav'.
        NAME.wav is called NAME; below a folder, NAME is the path from there.
      output: the folder of the results, which are never taken for recordings.

    Raises:
      ConfigError: a folder or a pattern without recordings, the output among the inputs, or two
        recordings with one name.
    """
    recordings: dict[Path, Path] = {}
    names: dict[Path, Path] = {}  # a recording's real path -> the first name that it got
    for path, name in (pair for text in inputs for pair in _expand(text, output)):
        results = display(output / name)
        if ".." in name.parts or not name.parts:
            raise ConfigError(f"{display(path)}: {results} does not lie below -o; rename it")
        if names.setdefault(path.resolve(), name) != name:
            continue
        other = recordings.setdefault(name, path)
        if other.resolve() != path.resolve():
            raise ConfigError(
                f"{display(other)} and {display(path)} would both become {results}; "
                f"give the folder that holds both, or one at a time"
            )
    return recordings


def _expand(text: str, output: Path) -> Iterator[tuple[Path, Path]]:
    """(recording, its name) for all that one argument names."""
    path = Path(text)
    if path.is_dir():
        if path.resolve() == output.resolve():
            raise ConfigError(
                f"-o {display(output)} is an INPUT too: the results would be taken for recordings"
            )
        below = [(file, file.relative_to(path).with_suffix("")) for file in _below(path, output)]
        if not below:
            raise ConfigError(
                f"{display(path)}: no recording in this folder ({' '.join(sorted(SUFFIXES))})"
            )
        yield from below
    elif not path.exists() and glob.has_magic(text):
        matches = [Path(m) for m in sorted(glob.glob(text, recursive=True)) if os.path.isfile(m)]
        if not matches:
            raise ConfigError(f"{display(path)}: no file matches this pattern")
        yield from ((match, Path(match.stem)) for match in matches)
    else:
        yield path, Path(path.stem)


def _below(root: Path, output: Path) -> Iterator[Path]:
    """The sound files below a folder, but for the output and names that begin with a dot."""
    for folder, folders, files in os.walk(root):
        paths = [Path(folder, name) for name in sorted(folders) if name[0] != "."]
        folders[:] = [path.name for path in paths if path.resolve() != output.resolve()]
        for name in sorted(files):
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                yield Path(folder, name)


def seconds_by_header(path: Path) -> float:
    """Length of a recording as its header says, 0 where it cannot be read."""
    try:
        rate, _, frames = audio_info(path)
    except DataError:
        return 0.0
    return frames / rate

"""One sound file in, one mono float32 signal out, and back; or a file of any length, block by block.

Everything that a user's data can get wrong ends in a `DataError` whose message is one line: which file or field, what
was found there, and what would be right.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr


class DataError(ValueError):
    """The data, or a setting about the data, cannot be used as given. The message is one line, made for the user."""


def together(problems: Sequence[str]) -> str:
    """One problem as it is; several as a first line that counts them and one indented line each, none twice.

    >>> print(together(["seed is -1", "data.slots is ()"]))
    2 problems in the configuration:
      seed is -1
      data.slots is ()
    """
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} problems in the configuration:", *problems])


def read_audio(path: str | os.PathLike, sample_rate: int) -> tuple[np.ndarray, int]:
    """Reads a sound file as one signal at a given rate.

    Several channels are averaged. A file at another rate is resampled (soxr, high quality), so its length becomes about
    `frames * sample_rate / rate of the file`.

    Args:
        path: a file that libsndfile can read (WAV of any sample format, FLAC, Ogg, ...).
        sample_rate: Hz, wanted.

    Returns:
        (samples float32 [T] with T >= 1, number of channels the file had: tell the user when it is not 1)

    Raises:
        DataError: missing, unreadable, without a single sample, or holding NaN or infinite samples; names the file.
    """
    shown = display(path)
    with _reading(path):
        # Bytes, because soundfile encodes a str strictly and a file name need not be valid UTF-8.
        frames, rate = soundfile.read(os.fsencode(path), dtype="float32", always_2d=True)
    channels = frames.shape[1]
    samples = frames[:, 0] if channels == 1 else frames.mean(axis=1, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise DataError(f"{shown}: holds NaN or infinite samples; every sample must be finite")
    if rate != sample_rate and samples.size:
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    if not samples.size:
        raise DataError(f"{shown}: holds no samples; at least one is needed")
    return np.ascontiguousarray(samples, dtype=np.float32), channels


def audio_info(path: str | os.PathLike) -> tuple[int, int, int]:
    """(sample rate in Hz, channels, frames as the file's header says) of a sound file.

    Raises:
        DataError: missing, no regular file, unreadable, or of no sample rate; names the file.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for its other end
        raise DataError(f"{display(path)}: is no regular file")
    with _reading(path):
        info = soundfile.info(os.fsencode(path))
    if info.samplerate < 1:
        raise DataError(f"{display(path)}: its sample rate is {info.samplerate} Hz; it must be at least 1 Hz")
    return info.samplerate, info.channels, info.frames


def audio_blocks(path: str | os.PathLike, frames: int = 1 << 16) -> Iterator[np.ndarray]:
    """Reads a sound file piece by piece at its own rate: float32 [channels, at most `frames`].

    Raises:
        DataError: as `read_audio`, when the place in the file is reached.
    """
    with _reading(path):
        file = soundfile.SoundFile(os.fsencode(path))
    count = 0
    with file:
        while True:
            with _reading(path):
                block = file.read(frames, dtype="float32", always_2d=True)
            if not len(block):
                break
            if not np.isfinite(block).all():
                second = (count + int(np.argmin(np.isfinite(block).all(axis=1)))) / file.samplerate
                raise DataError(
                    f"{display(path)}: holds NaN or infinite samples, the first at {second:.3f} s; "
                    f"every sample must be finite"
                )
            count += len(block)
            yield np.ascontiguousarray(block.T)
    if not count:
        raise DataError(f"{display(path)}: holds no samples; at least one is needed")


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns what goes wrong inside into a DataError that names the file."""
    try:
        yield
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        text = getattr(error, "error_string", None) or str(error) or type(error).__name__
        reason = text.splitlines()[-1].strip() if os.path.exists(path) else "no such file"
        raise DataError(f"{display(path)}: cannot be read as sound ({reason})") from error


def write_wav(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Writes `samples` [T] or [T, channels] as a 32-bit float WAV file, unscaled and unclipped; makes parent folders.

    Raises:
        DataError: the file cannot be written; names it.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(os.fsencode(path), np.asarray(samples, np.float32), sample_rate, format="WAV", subtype="FLOAT")
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{display(path)}: cannot be written ({error})") from error


def display(path: str | os.PathLike) -> str:
    """The path as printable text: bytes of a file name that are no valid UTF-8 are shown as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

"""One sound file in, one mono float32 signal out, and back; or a file of any length, block by block.

Everything that a user's data can get wrong ends in a `DataError` whose message is one line: which file or field, what
was found there, and what would be right.
"""

import hashlib
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from jaxsep.data.whole import what_is_missing
from jaxsep.errors import DataError
from jaxsep.files import display

# Hz; of sound files, corpora and models. Beyond what any recorder takes, and low enough that nothing made of it is huge.
MAX_SAMPLE_RATE = 1_000_000
# Hz; of recordings. A damaged header can claim any rate, and resampling from 1 Hz would make 8,000 samples of each.
LOWEST_RATE = 1_000
# A sound is not resampled to more than so many times its own rate, for the same reason.
MAX_UPSAMPLING = 200
# Integers of 32 bits written as floats are sound; what is louder is damaged, and sums of it may be infinite.
LOUDEST = 2.0**32
# Files are read piece by piece, so many values at most: what a header claims is never allocated.
BLOCK_VALUES = 1 << 20
# libsndfile's number of frames for a FLAC file whose header does not say it.
UNKNOWN_FRAMES = 2**63 - 1


def read_audio(path: str | os.PathLike, sample_rate: int) -> tuple[np.ndarray, int]:
    """Reads a sound file as one signal at a given rate.

    Several channels are averaged. A file at another rate is resampled (soxr, high quality), so its length becomes about
    `frames * sample_rate / rate of the file`.

    Args:
        path: a file that libsndfile can read (WAV of any sample format, FLAC, Ogg, ...).
        sample_rate: Hz, wanted.

    Returns:
        (samples float32 [T] with T >= 1, number of channels the file had: tell the user when it is not 1)

    Memory goes with the samples that are there, not with what the file's header claims.

    Raises:
        DataError: missing, no regular file, unreadable, cut short or damaged, of a sample rate that is none, without a single
            sample, or holding samples that are NaN, infinite or beyond ±2^32; names the file.
    """
    with _open(path) as file:
        rate, channels, claimed = file.samplerate, file.channels, file.frames
        if not LOWEST_RATE <= rate <= MAX_SAMPLE_RATE:
            right = f"must be between {LOWEST_RATE:,} and {MAX_SAMPLE_RATE:,} Hz"
            raise DataError(f"{display(path)}: its sample rate is {rate:,} Hz; {right}")
        blocks = [
            block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float32)
            for block in _blocks(path, file, max(1, BLOCK_VALUES // channels))
        ]
    with _reading(path):
        samples = np.concatenate(blocks)
        lost = what_is_missing(path, samples.size)
        if not lost and claimed != UNKNOWN_FRAMES and samples.size < claimed:
            lost = f"{samples.size:,} of {claimed:,} samples are there"
        if lost:
            raise DataError(f"{display(path)}: is cut short or damaged ({lost})")
        if rate != sample_rate:
            samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    if not samples.size:
        raise DataError(
            f"{display(path)}: holds no samples at {sample_rate} Hz; at least one is needed"
        )
    return np.ascontiguousarray(samples, dtype=np.float32), channels


def audio_info(path: str | os.PathLike) -> tuple[int, int, int]:
    """(sample rate in Hz, channels, frames as the file's header says) of a sound file.

    Raises:
        DataError: missing, no regular file, unreadable, or of no sample rate; names the file.
    """
    with _open(path) as file:
        rate, channels, frames = file.samplerate, file.channels, file.frames
    if not 1 <= rate <= MAX_SAMPLE_RATE:
        raise DataError(
            f"{display(path)}: its sample rate is {rate} Hz; it must be at least 1 Hz, at most {MAX_SAMPLE_RATE}"
        )
    return rate, channels, frames


def check_upsampling(rate: float, wanted: float, shown: str) -> None:
    """DataError where a sound at `rate` would be resampled to more than MAX_UPSAMPLING times as many samples."""
    if wanted > rate * MAX_UPSAMPLING:
        least = math.ceil(wanted / MAX_UPSAMPLING)
        raise DataError(
            f"{shown}: its sample rate is {rate:g} Hz; it must be at least {least} to become {wanted:g} Hz"
        )


def audio_blocks(path: str | os.PathLike, frames: int = 1 << 16) -> Iterator[np.ndarray]:
    """Reads a sound file piece by piece at its own rate: float32 [channels, at most `frames`].

    Raises:
        DataError: as `read_audio`, when the place in the file is reached, but for rates and files cut short.
    """
    with _open(path) as file:
        for block in _blocks(path, file, frames):
            yield np.ascontiguousarray(block.T)


def file_sha256(path: str | os.PathLike) -> bytes:
    """The SHA-256 (32 bytes) of a file's content; DataError where it cannot be read."""
    with _reading(path), open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _open(path: str | os.PathLike) -> soundfile.SoundFile:
    with _reading(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its other end
            raise DataError(f"{display(path)}: is no regular file")
        # Bytes, because soundfile encodes a str strictly and a file name need not be valid UTF-8.
        return soundfile.SoundFile(os.fsencode(path))


def _blocks(
    path: str | os.PathLike, file: soundfile.SoundFile, frames: int
) -> Iterator[np.ndarray]:
    """The rest of an open file, float32 [at most `frames`, channels] each."""
    count = 0
    while True:
        with _reading(path):
            block = file.read(frames, dtype="float32", always_2d=True)
        if not len(block):
            break
        usable = (np.abs(block) <= LOUDEST).all(axis=1)
        if not usable.all():
            second = (count + int(np.argmin(usable))) / file.samplerate
            raise DataError(
                f"{display(path)}: holds NaN or infinite samples, the first at {second:.3f} s; "
                f"every sample must be within ±2^32"
            )
        count += len(block)
        yield block
    if not count:
        raise DataError(f"{display(path)}: holds no samples; at least one is needed")


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns what goes wrong inside into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        text = (
            getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
        )
        reason = (
            "no such file"
            if isinstance(error, FileNotFoundError)
            else (text or type(error).__name__)
        )
        reason = reason.splitlines()[-1].strip()
        raise DataError(f"{display(path)}: cannot be read as sound ({reason})") from error


def write_wav(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Writes `samples` [T] or [T, channels] as a 32-bit float WAV file, unscaled and unclipped; makes parent folders.

    Raises:
        DataError: the file cannot be written; names it.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            os.fsencode(path),
            np.asarray(samples, np.float32),
            sample_rate,
            format="WAV",
            subtype="FLOAT",
        )
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{display(path)}: cannot be written ({error})") from error
